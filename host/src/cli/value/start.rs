//! Where to begin: `earliest`, `latest`, an offset, or a point in time.

use std::str::FromStr;

use eddy_protocol::frame::{Start, TopicInfo};
use jiff::{Span, SpanRelativeTo, Timestamp};

use crate::io::point_in_time;

/// A starting point as typed. A bare whole number is an offset; a point in
/// time is RFC 3339 (in UTC unless it says its zone, and a date alone is its
/// first moment), or relative to now as `-15m` or `15m ago`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StartPoint(Start);

impl From<StartPoint> for Start {
    fn from(point: StartPoint) -> Start {
        point.0
    }
}

impl StartPoint {
    /// Whether it is an offset, which a topic may not have.
    pub(crate) fn is_offset(self) -> bool {
        matches!(self.0, Start::Offset(_))
    }

    /// Refuses an offset beyond the end of all these partitions (none named: of
    /// the whole topic): nothing could be read from there, and as a rule a time
    /// was meant.
    pub(crate) fn check(self, info: &TopicInfo, partitions: &[u32]) -> Result<(), String> {
        let chosen = info
            .partitions
            .iter()
            .filter(|partition| partitions.is_empty() || partitions.contains(&partition.partition));
        let end = chosen.map(|partition| partition.end).max();
        match (self.0, end) {
            (Start::Offset(offset), Some(end)) if offset > end => {
                let meant = match time_of(offset) {
                    Some(time) => format!("if the time is meant, write {time}"),
                    None => "a time is written as 2018-02-01T00:00:00Z or -15m".into(),
                };
                Err(format!(
                    "offset {offset} lies beyond the end of topic `{}`, which is {end}; {meant}",
                    info.topic
                ))
            }
            _ => Ok(()),
        }
    }
}

/// The time that a number stands for where it is the seconds, milliseconds,
/// microseconds or nanoseconds since 1970 of our days: from 1973 to 5138.
fn time_of(number: u64) -> Option<Timestamp> {
    let number = i64::try_from(number).ok()?;
    let time = match number {
        100_000_000..100_000_000_000 => Timestamp::from_second(number),
        100_000_000_000..100_000_000_000_000 => Timestamp::from_millisecond(number),
        100_000_000_000_000..100_000_000_000_000_000 => Timestamp::from_microsecond(number),
        100_000_000_000_000_000.. => Timestamp::from_nanosecond(number.into()),
        _ => return None,
    };
    time.ok()
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
    let point = point_in_time(text).or_else(|| relative(text, now));
    point.map(|point| Start::Time(point.as_millisecond())).ok_or_else(|| {
        if relative(&format!("-{text}"), now).is_some() {
            return format!("`{text}` is no point in time; write `-{text}` or `{text} ago`");
        }
        format!("`{text}` is none of earliest, latest, an offset such as 1200, or a time such as 2018-02-01, 2018-02-01T00:00:00Z, -15m or \"2h ago\"")
    })
}

fn relative(text: &str, now: Timestamp) -> Option<Timestamp> {
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
    use eddy_protocol::TopicName;
    use eddy_protocol::frame::{PartitionInfo, TopicSettings};

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
            ("2018-02-01", Start::Time(1_517_443_200_000)),
            ("2018-02-01T00:00:01", Start::Time(1_517_443_201_000)),
            ("2018-02-01 00:00:01.5", Start::Time(1_517_443_201_500)),
        ] {
            assert_eq!(read(text), Ok(start), "{text}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            "15m",
            "2018-02",
            "2018-02-30",
            "01.02.2018",
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
    fn a_span_without_its_sign_is_told_how_to_be_written() {
        let error = read("15m").expect_err("no point in time");
        assert!(error.contains("`-15m`"), "{error}");
    }

    #[test]
    fn an_offset_beyond_every_end_is_refused_with_the_time_that_was_meant() {
        let topic = |ends: &[u64]| TopicInfo {
            partitions: (0..)
                .zip(ends)
                .map(|(partition, end)| PartitionInfo {
                    partition,
                    epoch: 1,
                    start: 0,
                    end: *end,
                    bytes: 0,
                    stopped: None,
                })
                .collect(),
            topic: TopicName::parse("t").expect("a name"),
            settings: TopicSettings::default(),
            uuid: String::new(),
        };
        let check = |offset, ends: &[u64], partitions: &[u32]| {
            StartPoint(Start::Offset(offset)).check(&topic(ends), partitions)
        };
        assert_eq!(check(5, &[3, 5], &[]), Ok(()));
        assert_eq!(check(0, &[0], &[]), Ok(()));
        for (offset, part) in [
            (
                6,
                "beyond the end of topic `t`, which is 5; a time is written as",
            ),
            (1_700_000_000, "write 2023-11-14T22:13:20Z"),
            (1_700_000_000_000, "write 2023-11-14T22:13:20Z"),
            (1_700_000_000_500, "write 2023-11-14T22:13:20.5Z"),
            (1_700_000_000_000_000, "write 2023-11-14T22:13:20Z"),
            (1_700_000_000_000_000_000, "write 2023-11-14T22:13:20Z"),
            (u64::MAX, "a time is written as"),
        ] {
            let error = check(offset, &[3, 5], &[]).expect_err("beyond the end");
            assert!(error.contains(part), "{error}");
        }
        assert!(check(5, &[3, 5], &[0]).is_err());
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
