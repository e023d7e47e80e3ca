//! Spans of time: `500ms`, `30s`, `7d`, `1h30m`, `2 weeks`.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Reads a span of time. A day has 24 hours; months and years have no fixed
/// length and are refused, and so is a bare number, whose unit nobody knows.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let refusal =
        || format!("`{text}` is not a span of time: write for example 500ms, 30s, 1h30m or 7d");
    let span: Span = text.parse().map_err(|_| refusal())?;
    let signed = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| refusal())?;
    Duration::try_from(signed).map_err(|_| refusal())
}

/// A span for people: `7d`, `1h 30m`, `500ms`.
pub(crate) fn describe_duration(duration: Duration) -> String {
    let units: [(u128, &str); 5] = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "m"),
        (1000, "s"),
        (1, "ms"),
    ];
    let mut rest = duration.as_millis();
    let mut parts = Vec::new();
    for (unit_ms, name) in units {
        if rest >= unit_ms {
            parts.push(format!("{}{name}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    if parts.is_empty() {
        "0s".into()
    } else {
        parts.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_the_units_that_people_write() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("30 seconds", 30_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("2 weeks", 1_209_600_000),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_millis(ms)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_has_no_fixed_length_or_no_unit_is_refused_by_name() {
        for text in ["", "7", "1 month", "1y", "-5m", "soon", "5 parsecs"] {
            let error = parse_duration(text).expect_err(text);
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn durations_are_described_from_the_largest_unit_down() {
        for (ms, text) in [
            (0, "0s"),
            (500, "500ms"),
            (5_400_000, "1h 30m"),
            (604_800_000, "7d"),
        ] {
            assert_eq!(describe_duration(Duration::from_millis(ms)), text);
        }
    }
}
