//! A byte filter in WebAssembly against the same in Rust: the plugin engine's
//! own benchmark, run here for its two figures.

use std::process::Command;

use anyhow::{Context, Result};
use eddy_tests::artefact;

use crate::measure::{Aim, Measure, Report};

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["bench", "--package", "eddy", "--bench", "plugin"])
        .current_dir(artefact::root())
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    anyhow::ensure!(
        output.status.success(),
        "cargo bench: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let figure = |label: &str| -> Result<f64> {
        let line = text.lines().find(|line| line.starts_with(label));
        let line = line.with_context(|| format!("no line `{label}` in:\n{text}"))?;
        let number = line.split_whitespace().nth(1).context("a figure")?;
        Ok(number.parse()?)
    };
    let (wasm, native) = (figure("wasm")?, figure("native")?);
    report.add(Measure {
        name: "plugin-byte-filter".into(),
        unit: "ns/record",
        value: wasm,
        baseline: Some(native),
        aim: Aim::AtMost((native + 10.0) / native),
    })
}
