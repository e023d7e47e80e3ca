//! Points in time as people write them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A point in time in RFC 3339: in UTC unless it says its zone; a date alone is its first moment.
/// What is later than a timestamp can be is the last one.
pub fn point_in_time(text: &str) -> Option<Timestamp> {
    if let Ok(point) = text.parse() {
        return Some(point);
    }
    let in_utc: DateTime = text.trim_end_matches('Z').parse().ok()?;
    let zoned = in_utc.to_zoned(TimeZone::UTC);
    Some(zoned.map_or(Timestamp::MAX, |zoned| zoned.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_date_or_a_time_with_or_without_its_zone() {
        for (text, ms) in [
            ("1970-01-01T00:00:01Z", 1_000),
            ("1970-01-01T01:00:00.5+01:00", 500),
            ("2018-02-01", 1_517_443_200_000),
            ("2018-02-01T00:00:01", 1_517_443_201_000),
            ("2018-02-01 00:00:01.5", 1_517_443_201_500),
            ("9999-12-31T23:59:59Z", Timestamp::MAX.as_millisecond()),
            ("9999-12-31", Timestamp::MAX.as_millisecond()),
        ] {
            let point = point_in_time(text).map(Timestamp::as_millisecond);
            assert_eq!(point, Some(ms), "{text}");
        }
        for text in ["", "2018-02", "2018-02-30", "01.02.2018", "10000-01-01"] {
            assert_eq!(point_in_time(text), None, "{text}");
        }
    }
}
