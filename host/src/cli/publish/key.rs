//! The key of a record that is a line of JSON: the value of one of its fields.

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

/// The way to a field, nested by dots: `device.id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyField {
    text: String,
    steps: Vec<String>,
}

/// Why a line has no key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoKey {
    /// The line is not JSON.
    #[error("is not JSON ({0})")]
    NotJson(String),
    /// The line is no object, lacks the field, or the field is null.
    #[error("has no field `{0}`")]
    Missing(String),
    /// An object or an array is nothing to compare keys by.
    #[error("has a field `{0}` that is neither a string, a number nor a boolean")]
    NotScalar(String),
}

impl std::str::FromStr for KeyField {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let steps: Vec<String> = text.split('.').map(String::from).collect();
        if steps.iter().any(String::is_empty) {
            return Err(format!(
                "`{text}` is not the name of a field: write names joined by dots"
            ));
        }
        Ok(KeyField {
            text: text.into(),
            steps,
        })
    }
}

impl KeyField {
    /// The field's value in this line: a string without its quotes and
    /// escapes, a number or a boolean as it is written.
    pub(crate) fn key_of<'a>(&self, line: &'a [u8]) -> Result<Cow<'a, [u8]>, NoKey> {
        let not_json = |error: serde_json::Error| NoKey::NotJson(error.to_string());
        let mut parser = serde_json::Deserializer::from_slice(line);
        let found = Walk(&self.steps)
            .deserialize(&mut parser)
            .map_err(not_json)?;
        parser.end().map_err(not_json)?;
        let text = found.map_or("null", RawValue::get);
        match text.as_bytes()[0] {
            b'n' => Err(NoKey::Missing(self.text.clone())),
            b'{' | b'[' => Err(NoKey::NotScalar(self.text.clone())),
            b'"' => unquoted(text).map_err(not_json),
            _ => Ok(Cow::Borrowed(text.as_bytes())),
        }
    }
}

/// A string without its quotes and escapes.
fn unquoted(text: &str) -> Result<Cow<'_, [u8]>, serde_json::Error> {
    Ok(match serde_json::from_str(text)? {
        Name(Cow::Borrowed(text)) => Cow::Borrowed(text.as_bytes()),
        Name(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
    })
}

/// Walks down these steps without building what lies beside them. What it
/// finds stays as it is written: a number that is read has lost digits.
struct Walk<'s>(&'s [String]);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        if self.0.is_empty() {
            return <&RawValue>::deserialize(deserializer).map(Some);
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Name(name)) = map.next_key()? {
            match self.0.split_first() {
                Some((wanted, below)) if name == *wanted => {
                    found = map.next_value_seed(Walk(below))?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// A string, such as a field's name, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(text.into())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(field: &str, line: &str) -> Result<String, NoKey> {
        let field: KeyField = field.parse().expect("a field");
        let key = field.key_of(line.as_bytes())?.into_owned();
        Ok(String::from_utf8(key).expect("JSON is text"))
    }

    #[test]
    fn the_key_is_the_value_of_the_field() {
        for (field, line, expected) in [
            ("id", r#"{"id":"uw61345682","mag":0.31}"#, "uw61345682"),
            ("id", r#" { "a" : {"id": 1}, "id" : "x\ny" } "#, "x\ny"),
            ("mag", r#"{"mag":0.31}"#, "0.31"),
            ("n", r#"{"n":-7}"#, "-7"),
            ("n", r#"{"n":18446744073709551615}"#, "18446744073709551615"),
            (
                "n",
                r#"{"n":123456789012345678901}"#,
                "123456789012345678901",
            ),
            (
                "n",
                r#"{"n":123456789012345678902}"#,
                "123456789012345678902",
            ),
            ("n", r#"{"n": 0.10 }"#, "0.10"),
            ("n", r#"{"n":1e3}"#, "1e3"),
            ("n", r#"{"n":1e999}"#, "1e999"),
            ("ok", r#"{"ok":true}"#, "true"),
            (
                "device.id",
                r#"{"id":"no","device":{"at":[1,{"id":2}],"id":"yes"}}"#,
                "yes",
            ),
            ("id", r#"{"id":"first","id":"last"}"#, "last"),
            ("s", r#"{"s":""}"#, ""),
        ] {
            assert_eq!(key(field, line), Ok(expected.into()), "{field} of {line}");
        }
    }

    #[test]
    fn a_line_without_the_field_says_so() {
        for (field, line) in [
            ("id", "{}"),
            ("id", r#"{"id":null}"#),
            ("id", "5"),
            ("id", r#"["id"]"#),
            ("device.id", r#"{"device":"x"}"#),
            ("device.id", r#"{"device":{"name":"x"}}"#),
        ] {
            assert_eq!(
                key(field, line),
                Err(NoKey::Missing(field.into())),
                "{field} of {line}"
            );
        }
    }

    #[test]
    fn an_object_or_an_array_is_no_key() {
        for line in [r#"{"id":{}}"#, r#"{"id":[1]}"#] {
            assert_eq!(
                key("id", line),
                Err(NoKey::NotScalar("id".into())),
                "{line}"
            );
        }
    }

    #[test]
    fn a_line_that_is_not_json_says_so() {
        for line in ["", "hello", r#"{"id":1"#, r#"{"id":1} trailing"#] {
            assert!(matches!(key("id", line), Err(NoKey::NotJson(_))), "{line}");
        }
    }

    #[test]
    fn a_field_has_no_empty_step() {
        for text in ["", ".", "a.", ".a", "a..b"] {
            assert!(text.parse::<KeyField>().is_err(), "{text}");
        }
    }
}
