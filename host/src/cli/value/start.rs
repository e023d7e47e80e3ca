//! Where to begin: `earliest`, `latest`, an offset, or a point in time.

use std::str::FromStr;

use eddy_protocol::frame::Start;
use jiff::{Span, SpanRelativeTo, Timestamp};

/// A starting point as typed. A bare whole number is an offset; a point in
/// time is RFC 3339, or relative to now as `-15m` or `15m ago`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartPoint(Start);

impl From<StartPoint> for Start {
    fn from(point: StartPoint) -> Start {
        point.0
    }
}

impl FromStr for StartPoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text, Timestamp::now()).map(StartPoint)
    }
}

fn parse(text: &str, now: Timestamp) -> Result<Start, String> {
    match text {
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        _ => {}
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .map(Start::Offset)
            .map_err(|_| format!("`{text}` is larger than any offset"));
    }
    let point = absolute(text).or_else(|| ago(text, now));
    point.map(|point| Start::Time(point.as_millisecond())).ok_or_else(|| {
        format!("`{text}` is none of earliest, latest, an offset such as 1200, or a time such as 2018-02-01T00:00:00Z, -15m or \"2h ago\"")
    })
}

fn absolute(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

fn ago(text: &str, now: Timestamp) -> Option<Timestamp> {
    let span: Span = text.parse().ok()?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    if !duration.is_negative() {
        return None;
    }
    now.checked_add(duration).ok()
}

/// A record's timestamp as RFC 3339 with milliseconds, or the plain number
/// where it is outside the calendar.
pub(crate) fn describe_timestamp(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(point) => format!("{point:.3}"),
        Err(_) => ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_600_000_000_000;

    fn read(text: &str) -> Result<Start, String> {
        parse(
            text,
            Timestamp::from_millisecond(NOW_MS).expect("a point in the calendar"),
        )
    }

    #[test]
    fn a_start_is_a_word_an_offset_or_a_point_in_time() {
        for (text, start) in [
            ("earliest", Start::Earliest),
            ("latest", Start::Latest),
            ("0", Start::Offset(0)),
            ("1517363399650", Start::Offset(1_517_363_399_650)),
            ("1970-01-01T00:00:01Z", Start::Time(1000)),
            ("1970-01-01T01:00:00.5+01:00", Start::Time(500)),
            ("-15m", Start::Time(NOW_MS - 900_000)),
            ("2h ago", Start::Time(NOW_MS - 7_200_000)),
            ("1 day ago", Start::Time(NOW_MS - 86_400_000)),
        ] {
            assert_eq!(read(text), Ok(start), "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            "15m",
            "2018-02-01",
            "2018-02-01T00:00:00",
            "-5",
            "99999999999999999999",
            "yesterday",
            "1 month ago",
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn timestamps_are_shown_with_milliseconds() {
        assert_eq!(
            describe_timestamp(1_517_363_399_650),
            "2018-01-31T01:49:59.650Z"
        );
        assert_eq!(describe_timestamp(i64::MAX), i64::MAX.to_string());
    }
}
