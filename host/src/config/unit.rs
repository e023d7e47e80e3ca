//! Sizes and spans of time as people write them: `64MiB`, `500ms`.
//!
//! What [`show_bytes`] and [`show_time`] print reads back to the same value.

use std::time::Duration;

const SIZES: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

const SPANS: [(&str, u64); 6] = [
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// The number of bytes that `text` names; a bare number counts bytes.
pub(super) fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    match unit {
        "" => Some(number),
        _ => scale(number, factor(&SIZES, unit)?),
    }
}

/// The span that `text` names. A bare number is refused, because nobody can
/// tell its unit; except 0, which has none.
pub(super) fn parse_time(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    match unit {
        "" if number == 0 => Some(Duration::ZERO),
        _ => Some(Duration::from_micros(scale(number, factor(&SPANS, unit)?)?)),
    }
}

/// The shortest exact form in binary units.
pub(super) fn show_bytes(bytes: u64) -> String {
    show(
        bytes,
        SIZES
            .iter()
            .filter(|(name, _)| name.ends_with("iB"))
            .chain([&("B", 1)]),
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

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.replace('_', "").parse().ok()?, unit.trim()))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
}

fn scale(number: u64, factor: u64) -> Option<u64> {
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [
            ("64MiB", Some(64 << 20)),
            ("64 MiB", Some(64 << 20)),
            ("1_000", Some(1_000)),
            ("2kB", Some(2_000)),
            ("0", Some(0)),
            ("1TiB", Some(1 << 40)),
            ("", None),
            ("MiB", None),
            ("-1", None),
            ("1.5GiB", None),
            ("64mib", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn spans_need_a_unit_unless_they_are_nothing() {
        for (text, span) in [
            ("500ms", Some(Duration::from_millis(500))),
            ("7d", Some(Duration::from_secs(7 * 86_400))),
            ("250us", Some(Duration::from_micros(250))),
            ("0", Some(Duration::ZERO)),
            ("5", None),
            ("5 weeks", None),
            ("99999999999999999d", None),
        ] {
            assert_eq!(parse_time(text), span, "{text:?}");
        }
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
