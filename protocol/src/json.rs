//! How JSON is read on every door: one reading of each text, or an error that
//! says where in the text it is and what is wrong.
//!
//! - The text is UTF-8, has no byte order mark, and holds one object.
//! - A name that means something here may stand in its object only once.
//! - A struct is an object, never an array of its fields.
//! - Names that mean nothing here are passed over, unless the type refuses them.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, forward_to_deserialize_any};

pub use crate::flat::Object;

pub(crate) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Why a text is not what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// The field that is wrong, as `outer.inner[2]`; `None` where it is the whole.
    path: Option<String>,
    message: String,
}

impl fmt::Display for JsonError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(out, "`{path}`: ")?;
        }
        out.write_str(&self.message)
    }
}

impl std::error::Error for JsonError {}

impl JsonError {
    /// What is wrong, without where.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    fn of_the_whole(message: impl Into<String>) -> JsonError {
        JsonError {
            path: None,
            message: message.into(),
        }
    }
}

/// Reads a text that holds one object.
pub fn from_slice<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, JsonError> {
    check_beginning(text)?;
    match text.trim_ascii_start() {
        [b'{', ..] => serde_json::from_slice(text).map_err(|_| explain::<T>(text)),
        _ => Err(explain::<T>(text)),
    }
}

/// A whole number, or perhaps none, however JSON writes it: `68`, `68.0` and `6.8e1`
/// are one number to JSON and to its schemas.
pub fn whole<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    T::deserialize(Whole(deserializer))
}

/// Reads a number, or looks for one, that may have a fraction of zero.
struct Whole<T>(T);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Whole<D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(Whole(visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(Whole(visitor))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Whole<V> {
    type Value = V::Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(out)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<V::Value, E> {
        self.0.visit_u64(number)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<V::Value, E> {
        self.0.visit_i64(number)
    }

    /// Where no digit gets lost.
    fn visit_f64<E: Error>(self, number: f64) -> Result<V::Value, E> {
        match (number as u64, number as i64) {
            (whole, _) if whole < u64::MAX && whole as f64 == number => self.0.visit_u64(whole),
            (_, whole) if whole as f64 == number => self.0.visit_i64(whole),
            _ => self.0.visit_f64(number),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Whole(deserializer))
    }
}

/// Refuses what is no JSON before its first character.
pub fn check_beginning(text: &[u8]) -> Result<(), JsonError> {
    match text.trim_ascii_start() {
        [] => Err(JsonError::of_the_whole("the text is empty")),
        text if text.starts_with(BYTE_ORDER_MARK) => Err(JsonError::of_the_whole(
            "the text begins with a byte order mark, which JSON does not have",
        )),
        _ => Ok(()),
    }
}

/// Reads a wrong text once more, and this time keeps where it is.
#[cold]
fn explain<'a, T: Deserialize<'a>>(text: &'a [u8]) -> JsonError {
    let mut parser = serde_json::Deserializer::from_slice(text);
    match serde_path_to_error::deserialize::<_, T>(&mut parser) {
        Err(error) => {
            let path = error.path().to_string();
            JsonError {
                path: (path != ".").then_some(path),
                message: error.into_inner().to_string(),
            }
        }
        Ok(_) => JsonError::of_the_whole(match parser.end() {
            Err(error) => error.to_string(),
            Ok(()) => "an object is expected".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Outer {
        inner: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        size: u32,
        #[serde(default)]
        name: String,
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (text, sentence) in [
            (&b"\xef\xbb\xbf{\"inner\":[]}"[..], "byte order mark"),
            (b"", "the text is empty"),
            (b" \n", "the text is empty"),
            (b"[]", "invalid length 0, expected struct Outer"),
            (b"[[]]", "an object is expected"),
            (b"null", "invalid type: null"),
            (
                b"{\"inner\":[]} x",
                "trailing characters at line 1 column 14",
            ),
            (b"{\"inner\":[]}{\"inner\":[]}", "trailing characters"),
            (b"{\"inner\":[],\"inner\":[]}", "duplicate field `inner`"),
            (
                b"{\"inner\":[{\"size\":1},{\"size\":-1}]}",
                "`inner[1].size`: invalid value",
            ),
            (
                b"{\"inner\":[{\"size\":1e400}]}",
                "`inner[0].size`: number out of range",
            ),
            (
                b"{\"inner\":[{\"size\":1.5}]}",
                "`inner[0].size`: invalid type: floating point",
            ),
            (
                b"{\"inner\":[{\"size\":01}]}",
                "`inner[0].size`: invalid number",
            ),
            (b"{\"inner\":[{\"size\":tru}]}", "expected ident"),
            (
                b"{\"inner\":[{\"size\":1,\"size\":1}]}",
                "`inner[0]`: duplicate field `size`",
            ),
            (
                b"{\"inner\":[{\"size\":1,\"name\":\"\\ud800\"}]}",
                "`inner[0].name`: ",
            ),
            (
                b"{\"inner\":[{\"size\":1,\"name\":\"\xff\"}]}",
                "`inner[0].name`: invalid unicode",
            ),
            (
                b"{\"inner\":[{\"size\":1,\"name\":\"\\x41\"}]}",
                "`inner[0].name`: invalid escape",
            ),
            (b"{\"inner\":[{\"size\":1,}]}", "trailing comma"),
            (b"{\"inner\":[{'size':1}]}", "key must be a string"),
            (b"{\"inner\":[", "EOF while parsing"),
        ] {
            let shown = String::from_utf8_lossy(text);
            let error = from_slice::<Outer>(text).expect_err(&shown).to_string();
            assert!(error.contains(sentence), "{shown}: {error}");
        }
        let right = from_slice::<Outer>(b" \r\n\t{\"new\":[1e400],\"inner\":[]} \n");
        assert_eq!(right, Ok(Outer { inner: Vec::new() }));
    }
}
