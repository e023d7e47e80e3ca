//! Names of topics, checked once at the border.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bincode::de::{BorrowDecode, BorrowDecoder, Decode, Decoder};
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 249;

/// How the sentence of every [`NameError`] begins, by which the codec tells a
/// wrong name from other wrong bytes.
pub(crate) const NAME_ERROR: &str = "topic name ";

/// The name of a topic: 1 to 249 of `A-Z a-z 0-9 . _ -`, and not `.` or `..`.
/// Cloning shares the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

/// Why a text is not a topic's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It is empty.
    #[error("topic name is empty")]
    Empty,
    /// It is too long.
    #[error("topic name has {0} bytes, at most {NAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// It is `.` or `..`.
    #[error("topic name `{0}` is reserved")]
    Reserved(String),
    /// A character is not allowed.
    #[error(
        "topic name `{name}` has `{character}` in it; only A-Z, a-z, 0-9, `.`, `_` and `-` are allowed"
    )]
    Character {
        /// The whole name.
        name: String,
        /// The first that is not allowed.
        character: char,
    },
}

impl TopicName {
    /// The name, if it keeps the rules.
    pub fn parse(name: &str) -> Result<TopicName, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(name.len()));
        }
        if name == "." || name == ".." {
            return Err(NameError::Reserved(name.to_owned()));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(character) = name.chars().find(|c| !allowed(*c)) {
            return Err(NameError::Character {
                name: name.to_owned(),
                character,
            });
        }
        Ok(TopicName(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&self.0)
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<TopicName, NameError> {
        TopicName::parse(name)
    }
}

impl TryFrom<&str> for TopicName {
    type Error = NameError;

    fn try_from(name: &str) -> Result<TopicName, NameError> {
        TopicName::parse(name)
    }
}

impl Encode for TopicName {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.as_str().encode(encoder)
    }
}

impl<C> Decode<C> for TopicName {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let name = String::decode(decoder)?;
        TopicName::parse(&name).map_err(|error| DecodeError::OtherString(error.to_string()))
    }
}

impl<'de, C> BorrowDecode<'de, C> for TopicName {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        TopicName::decode(decoder)
    }
}

impl Serialize for TopicName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for TopicName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        TopicName::parse(&name).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_the_rules() {
        for good in ["a", "earthquakes.strong", "A_b-9", "...", &"x".repeat(249)] {
            assert_eq!(
                TopicName::parse(good).map(|name| name.to_string()),
                Ok(good.to_owned())
            );
        }
        for bad in ["", ".", "..", "a b", "a/b", "é", "a\0", &"x".repeat(250)] {
            let error = TopicName::parse(bad).expect_err(bad);
            assert!(error.to_string().starts_with(NAME_ERROR), "{error}");
        }
    }
}
