//! Numbers of what comes and goes: those with a topic's or a deployment's name
//! on them. Prometheus's recorder keeps every series for ever, so that topics
//! that are made and deleted would fill its memory and its page; here a series
//! is forgotten when nobody holds its handle and it has not moved for an hour.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::PrometheusRecorder;
use parking_lot::Mutex;

/// The labels whose values come and go.
const LABELS: [&str; 2] = ["topic", "deployment"];
/// After so many looks without a change a series is idle: an hour, at one every five seconds.
const IDLE_LOOKS: u32 = 720;

/// Gives each number its place: those that come and go to [`Passing`].
pub(super) struct Split {
    pub(super) lasting: PrometheusRecorder,
    pub(super) passing: Arc<Passing>,
}

/// The series that come and go.
#[derive(Default)]
pub(super) struct Passing(Mutex<BTreeMap<Name, Series>>);

/// A metric's name, a label and its value: series of a metric are neighbours.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    metric: String,
    label: String,
    value: String,
}

struct Series {
    kind: Kind,
    number: Arc<AtomicU64>,
    /// At the last look.
    seen: u64,
    idle_looks: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    /// The bits of a float.
    Gauge,
}

impl Passing {
    /// The number behind a key, or nothing where the key is no name of something that passes.
    fn number(&self, key: &Key, kind: Kind) -> Option<Arc<AtomicU64>> {
        let mut labels = key.labels();
        let (Some(label), None) = (labels.next(), labels.next()) else {
            return None;
        };
        if !LABELS.contains(&label.key()) {
            return None;
        }
        let name = Name {
            metric: key.name().to_owned(),
            label: label.key().to_owned(),
            value: label.value().to_owned(),
        };
        let mut series = self.0.lock();
        let found = series.entry(name).or_insert_with(|| Series {
            kind,
            number: Arc::default(),
            seen: 0,
            idle_looks: 0,
        });
        found.idle_looks = 0;
        Some(found.number.clone())
    }

    /// Forgets what is idle. To be called every five seconds.
    pub(super) fn look(&self) {
        self.0.lock().retain(|_, series| {
            let now = series.number.load(Ordering::Relaxed);
            let rests = now == series.seen && Arc::strong_count(&series.number) == 1;
            series.seen = now;
            series.idle_looks = if rests { series.idle_looks + 1 } else { 0 };
            series.idle_looks < IDLE_LOOKS
        });
    }

    /// All series as Prometheus's text, `about` telling what a metric means.
    pub(super) fn render(&self, about: impl Fn(&str) -> &'static str) -> String {
        let mut text = String::new();
        let mut metric = "";
        let all = self.0.lock();
        for (name, series) in all.iter() {
            let number = series.number.load(Ordering::Relaxed);
            let (kind, number) = match series.kind {
                Kind::Counter => ("counter", number.to_string()),
                Kind::Gauge => ("gauge", f64::from_bits(number).to_string()),
            };
            // Writing to a String cannot fail.
            if name.metric != metric {
                metric = &name.metric;
                let about = about(metric);
                let _ = write!(text, "# HELP {metric} {about}\n# TYPE {metric} {kind}\n");
            }
            let value = escaped(&name.value);
            let _ = writeln!(text, "{metric}{{{}=\"{value}\"}} {number}", name.label);
        }
        text
    }
}

/// As the text format has it between quotes.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

impl Recorder for Split {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, about: SharedString) {
        self.lasting.describe_counter(name, unit, about);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, about: SharedString) {
        self.lasting.describe_gauge(name, unit, about);
    }

    fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, about: SharedString) {
        self.lasting.describe_histogram(name, unit, about);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        match self.passing.number(key, Kind::Counter) {
            Some(number) => Counter::from_arc(number),
            None => self.lasting.register_counter(key, metadata),
        }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        match self.passing.number(key, Kind::Gauge) {
            Some(number) => Gauge::from_arc(number),
            None => self.lasting.register_gauge(key, metadata),
        }
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        self.lasting.register_histogram(key, metadata)
    }
}

#[cfg(test)]
mod tests {
    use metrics::Label;

    use super::*;

    fn key(label: &str, value: &str) -> Key {
        let label = Label::new(label.to_owned(), value.to_owned());
        Key::from_parts("eddy_of_it_total", vec![label])
    }

    fn look_for_an_hour(passing: &Passing) {
        (0..IDLE_LOOKS).for_each(|_| passing.look());
    }

    #[test]
    fn a_series_is_forgotten_when_nobody_holds_it_and_it_rests() {
        let passing = Passing::default();
        let number = passing
            .number(&key("topic", "held"), Kind::Counter)
            .expect("a topic passes");
        let held = Counter::from_arc(number);
        held.increment(2);
        for gone in ["gone", "gone too"] {
            passing.number(&key("topic", gone), Kind::Counter);
        }
        assert_eq!(passing.render(|_| "").matches("gone").count(), 2);
        look_for_an_hour(&passing);
        assert_eq!(
            passing.render(|_| "What it is."),
            "# HELP eddy_of_it_total What it is.\n# TYPE eddy_of_it_total counter\n\
             eddy_of_it_total{topic=\"held\"} 2\n"
        );
        drop(held);
        passing.look();
        assert!(passing.render(|_| "").contains("held"));
        look_for_an_hour(&passing);
        assert_eq!(passing.render(|_| ""), "");
    }

    #[test]
    fn only_what_comes_and_goes_is_taken_and_a_gauge_shows_its_number() {
        let passing = Passing::default();
        assert!(passing.number(&key("code", "x"), Kind::Counter).is_none());
        let number = passing.number(&key("deployment", "a\"b"), Kind::Gauge);
        Gauge::from_arc(number.expect("a deployment passes")).set(1.5);
        let text = passing.render(|_| "");
        assert!(text.contains("{deployment=\"a\\\"b\"} 1.5"), "{text}");
    }
}
