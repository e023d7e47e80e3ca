//! Spans of time: `500ms`, `30s`, `7d`, `1h30m`, `2 weeks`.

use std::time::Duration;

use crate::config::unit;

/// Reads a span of time, as the configuration does.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    unit::parse_time(text).ok_or_else(|| {
        format!("`{text}` is not a span of time: write for example 500ms, 30s, 1h30m or 7d")
    })
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
    fn what_has_no_fixed_length_or_no_unit_is_refused_by_name() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
        for text in ["1 month", "7"] {
            let error = parse_duration(text).expect_err("no span");
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
