//! Limits that can be lifted: a size or a span of time, or the word `none`.

use std::str::FromStr;

use eddy_protocol::frame::Limit;

use super::{parse_duration, parse_size};

/// A limit in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SizeLimit(Option<u64>);

impl SizeLimit {
    /// For a topic's settings.
    pub(crate) fn bytes(self) -> Option<u64> {
        self.0
    }

    /// For a change of a topic's settings.
    pub(crate) fn to_limit(self) -> Limit {
        self.0.map_or(Limit::None, Limit::AtMost)
    }
}

impl FromStr for SizeLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(SizeLimit(None)),
            _ => parse_size(text)
                .map(|bytes| SizeLimit(Some(bytes)))
                .map_err(|error| error + ", or `none`"),
        }
    }
}

/// A limit in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DurationLimit(Option<u64>);

impl DurationLimit {
    /// For a topic's settings.
    pub(crate) fn ms(self) -> Option<u64> {
        self.0
    }

    /// For a change of a topic's settings.
    pub(crate) fn to_limit(self) -> Limit {
        self.0.map_or(Limit::None, Limit::AtMost)
    }
}

impl FromStr for DurationLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(DurationLimit(None));
        }
        let duration = parse_duration(text).map_err(|error| error + ", or `none`")?;
        let ms = u64::try_from(duration.as_millis())
            .map_err(|_| format!("`{text}` is longer than can be counted"))?;
        Ok(DurationLimit(Some(ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_lifts_a_limit_and_anything_else_is_a_quantity() {
        assert_eq!("none".parse(), Ok(SizeLimit(None)));
        assert_eq!("1KiB".parse(), Ok(SizeLimit(Some(1024))));
        assert_eq!("none".parse(), Ok(DurationLimit(None)));
        assert_eq!("7d".parse(), Ok(DurationLimit(Some(604_800_000))));
        assert!(
            "never"
                .parse::<SizeLimit>()
                .expect_err("no size")
                .contains("`none`")
        );
        assert!(
            "7".parse::<DurationLimit>()
                .expect_err("no unit")
                .contains("`none`")
        );
    }
}
