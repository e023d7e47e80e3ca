//! Sizes in bytes: `1048576`, `64KiB`, `1.5 GB`.

use crate::config::unit;

/// Reads a size, as the configuration does.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    unit::parse_bytes(text).ok_or_else(|| {
        format!(
            "`{text}` is not a size: write a whole number of bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB"
        )
    })
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
    fn what_is_not_a_size_is_refused_by_name() {
        assert_eq!(parse_size("1.5GiB"), Ok(3 << 29));
        let error = parse_size("12 parsecs").expect_err("no size");
        assert!(error.contains("12 parsecs"), "{error}");
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
