//! Sizes and spans of time as people write them: `64MiB`, `1.5GiB`, `1_000`;
//! `500ms`, `1h30m`. One grammar for the configuration and the command line.
//!
//! What [`show_bytes`] and [`show_time`] print reads back to the same value.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Each unit with its factor, the largest first. Case does not matter: `KB` and
/// `kB` are 1,000, `KiB` (or `Ki`) is 1,024.
const SIZES: [(&str, u64); 13] = [
    ("TiB", 1 << 40),
    ("Ti", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("Gi", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("Mi", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("Ki", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// The units in which a span is shown, in microseconds.
const SPANS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// The number of bytes that `text` names; a bare number counts bytes. None
/// where it is no size, no whole number of bytes or more than can be counted.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '_' && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim() {
        "" => 1,
        unit => {
            let known = SIZES.iter();
            let mut named = known.filter(|(name, _)| name.eq_ignore_ascii_case(unit));
            named.next()?.1
        }
    };
    scale(&number.replace('_', ""), factor)
}

/// A decimal number of so many bytes each, if that is a whole number of bytes.
fn scale(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let divisor = 10_u128.checked_pow(fraction.len().try_into().ok()?)?;
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let bytes = digits.checked_mul(factor.into())?;
    let is_whole = bytes.is_multiple_of(divisor);
    is_whole.then(|| u64::try_from(bytes / divisor).ok())?
}

/// The span that `text` names, to the microsecond. A day has 24 hours; months
/// and years have no fixed length and are refused, and so is a bare number,
/// whose unit nobody knows; except 0, which needs none.
pub(crate) fn parse_time(text: &str) -> Option<Duration> {
    let text = text.trim().replace('_', "");
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let span: Span = text.parse().ok()?;
    let signed = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    let span = Duration::try_from(signed).ok()?;
    span.subsec_nanos().is_multiple_of(1_000).then_some(span)
}

/// The shortest exact form in binary units.
pub(super) fn show_bytes(bytes: u64) -> String {
    show(
        bytes,
        SIZES
            .iter()
            .filter(|(name, _)| name.ends_with("iB") || *name == "B"),
    )
}

/// The shortest exact form, to the microsecond.
pub(super) fn show_time(span: Duration) -> String {
    match u64::try_from(span.as_micros()) {
        Ok(0) => "0s".to_owned(),
        Ok(micros) => show(micros, SPANS.iter()),
        Err(_) => format!("{}s", span.as_secs()),
    }
}

fn show<'a>(number: u64, units: impl Iterator<Item = &'a (&'a str, u64)>) -> String {
    for (name, factor) in units {
        if number >= *factor && number.is_multiple_of(*factor) {
            return format!("{}{name}", number / factor);
        }
    }
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("1048576", Some(1 << 20)),
            ("1_000", Some(1_000)),
            ("64MiB", Some(64 << 20)),
            ("64 MiB", Some(64 << 20)),
            ("64mib", Some(64 << 20)),
            ("64Ki", Some(64 << 10)),
            ("2kB", Some(2_000)),
            ("2GB", Some(2_000_000_000)),
            ("2TB", Some(2_000_000_000_000)),
            ("10b", Some(10)),
            ("1TiB", Some(1 << 40)),
            ("1.5GiB", Some(3 << 29)),
            ("0.1MB", Some(100_000)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("", None),
            (".", None),
            ("MiB", None),
            ("-1", None),
            ("1e9", None),
            ("1..5MB", None),
            ("1.0001KB", None),
            ("12 parsecs", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn spans_need_a_unit_unless_they_are_nothing() {
        for (text, ms) in [
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("30 seconds", Some(30_000)),
            ("1_000ms", Some(1_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5h", Some(5_400_000)),
            ("7d", Some(604_800_000)),
            ("2 weeks", Some(1_209_600_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("5", None),
            ("1 month", None),
            ("1y", None),
            ("-5m", None),
            ("soon", None),
            ("5 parsecs", None),
            ("1ns", None),
            ("99999999999999999d", None),
        ] {
            assert_eq!(parse_time(text), ms.map(Duration::from_millis), "{text:?}");
        }
        assert_eq!(parse_time("250us"), Some(Duration::from_micros(250)));
    }

    #[test]
    fn what_is_shown_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1536, 64 << 20, 3 << 40, u64::MAX] {
            assert_eq!(parse_bytes(&show_bytes(bytes)), Some(bytes), "{bytes}");
        }
        for micros in [
            0,
            1,
            999,
            1_000,
            90_000_000,
            3_600_000_000,
            86_400_000_000 * 7,
        ] {
            let span = Duration::from_micros(micros);
            assert_eq!(parse_time(&show_time(span)), Some(span), "{micros}");
        }
        assert_eq!(
            (show_bytes(64 << 20), show_time(Duration::from_secs(60))),
            ("64MiB".into(), "1m".into())
        );
    }
}
