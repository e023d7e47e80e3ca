//! Sizes in bytes: `1048576`, `64KiB`, `1.5 GB`.

/// What each suffix multiplies with; `KB` is 1,000 and `KiB` (or `Ki`) is 1,024.
const UNITS: [(&str, u64); 13] = [
    ("", 1),
    ("b", 1),
    ("kb", 1000),
    ("mb", 1000 * 1000),
    ("gb", 1000 * 1000 * 1000),
    ("tb", 1000 * 1000 * 1000 * 1000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("ki", 1 << 10),
    ("mi", 1 << 20),
    ("gi", 1 << 30),
];

/// Reads a size; the suffix's case does not matter.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let refusal = || {
        format!(
            "`{text}` is not a size: write bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB"
        )
    };
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let suffix = suffix.trim().to_ascii_lowercase();
    let (_, factor) = UNITS
        .iter()
        .find(|(name, _)| *name == suffix)
        .ok_or_else(refusal)?;
    if let Ok(whole) = number.parse::<u64>() {
        return whole
            .checked_mul(*factor)
            .ok_or_else(|| format!("`{text}` is more than can be counted"));
    }
    let number: f64 = number.parse().map_err(|_| refusal())?;
    let bytes = number * *factor as f64;
    if bytes.fract() != 0.0 {
        return Err(format!("`{text}` is not a whole number of bytes"));
    }
    if bytes >= u64::MAX as f64 {
        return Err(format!("`{text}` is more than can be counted"));
    }
    Ok(bytes as u64)
}

/// A size for people: `1.5 MiB`.
pub(crate) fn describe_size(bytes: u64) -> String {
    let steps = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut step = 0;
    while value >= 1024.0 && step + 1 < steps.len() {
        value /= 1024.0;
        step += 1;
    }
    let text = format!("{value:.1}");
    format!(
        "{} {}",
        text.strip_suffix(".0").unwrap_or(&text),
        steps[step]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_decimal_and_binary_suffixes() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("64KiB", 64 << 10),
            ("64 kib", 64 << 10),
            ("2GB", 2_000_000_000),
            ("1.5GiB", 3 << 29),
            ("10b", 10),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_by_name() {
        for text in [
            "",
            "GiB",
            "-1",
            "1.0001KB",
            "12 parsecs",
            "1e9",
            "99999999TiB",
            "1..5MB",
            "99999999999999999999",
        ] {
            let error = parse_size(text).expect_err(text);
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn sizes_are_described_with_one_decimal_at_most() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (5 << 30, "5 GiB"),
        ] {
            assert_eq!(describe_size(bytes), text);
        }
    }
}
