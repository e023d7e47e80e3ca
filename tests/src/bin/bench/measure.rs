//! A measure and the report of all.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

/// One line of the report.
pub(crate) struct Measure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) baseline: Option<f64>,
    /// What the ratio should be, or the value where there is no baseline.
    pub(crate) aim: Aim,
}

/// Which way is good.
#[derive(Clone, Copy)]
pub(crate) enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

/// All measures so far, in a file too.
pub(crate) struct Report {
    rows: Vec<Value>,
    path: PathBuf,
}

impl Measure {
    fn ratio(&self) -> Option<f64> {
        self.baseline.map(|baseline| self.value / baseline)
    }

    fn met(&self) -> bool {
        let judged = self.ratio().unwrap_or(self.value);
        match self.aim {
            Aim::AtLeast(aim) => judged >= aim,
            Aim::AtMost(aim) => judged <= aim,
        }
    }
}

impl Report {
    /// An empty one, to be written to `path`.
    pub(crate) fn new(path: PathBuf) -> Report {
        Report {
            rows: Vec::new(),
            path,
        }
    }

    /// Prints a measure and writes it behind those before it: whatever becomes
    /// of the next ones, these are there.
    pub(crate) fn add(&mut self, measure: Measure) -> Result<()> {
        let (sign, aim) = match measure.aim {
            Aim::AtLeast(aim) => (">=", aim),
            Aim::AtMost(aim) => ("<=", aim),
        };
        let against = match (measure.baseline, measure.ratio()) {
            (Some(baseline), Some(ratio)) => {
                format!("baseline {:>12}  ratio {ratio:.3}", round(baseline))
            }
            _ => String::new(),
        };
        println!(
            "{:34} {:>12} {:10} {against:38} aim {sign} {aim} {}",
            measure.name,
            round(measure.value),
            measure.unit,
            if measure.met() { "met" } else { "MISSED" }
        );
        self.rows.push(json!({
            "name": measure.name, "unit": measure.unit, "value": measure.value,
            "baseline": measure.baseline, "ratio": measure.ratio(), "aim": aim,
        }));
        std::fs::write(&self.path, serde_json::to_string_pretty(&self.rows)? + "\n")?;
        Ok(())
    }
}

/// The middle one; the mean of the middle two hides nothing we want to see, so the lower is taken.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}

fn round(value: f64) -> String {
    if value.abs() >= 1000.0 {
        return format!("{value:.0}");
    }
    format!("{value:.3}")
}
