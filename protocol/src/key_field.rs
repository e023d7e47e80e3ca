//! The key of a record whose value is JSON: the value of one of its fields. One reading for every
//! door, and the same that the plugins in `plugins/json-expr` have: what is JSON (RFC 8259, in UTF-8, whatever
//! the size of its numbers), and that of several members of one name the last counts.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The way to a field, nested by dots: `device.id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyField {
    text: String,
    steps: Vec<String>,
}

/// Why a value has no key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// The value is not JSON.
    #[error("is not JSON ({0})")]
    NotJson(String),
    /// The value is no object, or lacks the field.
    #[error("has no field `{0}`")]
    Missing(String),
    /// The field is there, and says that there is nothing.
    #[error("has a field `{0}` that is null, and no key is made of that")]
    Null(String),
    /// An object or an array is nothing to compare keys by.
    #[error("has a field `{0}` that is neither a string, a number nor a boolean")]
    NotScalar(String),
    /// It is JSON, and yet nothing that could be compared.
    #[error("has a field `{0}` that is a number beyond a double or half of a surrogate pair")]
    NoMeaning(String),
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
    /// The field as a key: a string without its quotes, a number or a boolean as it is written.
    pub fn key_of<'a>(&self, value: &'a [u8]) -> Result<Cow<'a, [u8]>, NoKey> {
        let field = || self.text.clone();
        let Some(found) = self.find(value)?.map(RawValue::get) else {
            return Err(NoKey::Missing(field()));
        };
        match found.as_bytes()[0] {
            b'n' => Err(NoKey::Null(field())),
            b'{' | b'[' => Err(NoKey::NotScalar(field())),
            b'"' => match unquoted(found) {
                Some(Cow::Borrowed(text)) => Ok(Cow::Borrowed(text.as_bytes())),
                Some(Cow::Owned(text)) => Ok(Cow::Owned(text.into_bytes())),
                None => Err(NoKey::NoMeaning(field())),
            },
            b'-' | b'0'..=b'9' if !is_finite(found) => Err(NoKey::NoMeaning(field())),
            _ => Ok(Cow::Borrowed(found.as_bytes())),
        }
    }

    /// The field as it is written: a number that is read has lost digits.
    fn find<'a>(&self, value: &'a [u8]) -> Result<Option<&'a RawValue>, NoKey> {
        let mut text = text(value)?;
        let mut found = None;
        for name in &self.steps {
            if !text.trim_start().starts_with('{') {
                return check(text.as_bytes()).map(|()| None);
            }
            found = whole(text, |json| json.deserialize_map(Member(name)))?;
            match found {
                Some(value) => text = value.get(),
                None => return Ok(None),
            }
        }
        Ok(found)
    }
}

/// Checks that a value is JSON.
pub fn check(value: &[u8]) -> Result<(), NoKey> {
    whole(text(value)?, |json| IgnoredAny::deserialize(json)).map(drop)
}

/// The parser looks into no string that it passes over.
fn text(value: &[u8]) -> Result<&str, NoKey> {
    str::from_utf8(value).map_err(|error| NoKey::NotJson(error.to_string()))
}

type Reader<'a> = serde_json::Deserializer<serde_json::de::StrRead<'a>>;

/// Reads a text from its beginning to its end.
fn whole<'a, T>(
    text: &'a str,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, serde_json::Error>,
) -> Result<T, NoKey> {
    let mut json = serde_json::Deserializer::from_str(text);
    let found = read(&mut json).and_then(|found| json.end().map(|()| found));
    found.map_err(|error| {
        // A value is one line as a rule, and that it is the first would mislead.
        let message = error.to_string();
        NoKey::NotJson(message.replace(" at line 1 column ", " at column "))
    })
}

/// A string without its quotes and escapes, if it is Unicode.
fn unquoted(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('\\') {
        return serde_json::from_str(text).ok().map(Cow::Owned);
    }
    text.get(1..text.len() - 1).map(Cow::Borrowed)
}

fn is_finite(number: &str) -> bool {
    number.parse::<f64>().is_ok_and(f64::is_finite)
}

/// The member of this name, the last if there are several.
struct Member<'n>(&'n str);

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        // The name as it is written: it need not be Unicode, and is no field that can be named then.
        while let Some(name) = map.next_key::<&RawValue>()? {
            match unquoted(name.get()) {
                Some(name) if name == self.0 => found = Some(map.next_value()?),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
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
            ("n", r#"{"other":1e999,"\ud800":"\udc00","n":1}"#, "1"),
            ("\u{e9}", r#"{"\u00e9":"\ud83c\udf0b"}"#, "\u{1f30b}"),
            ("ok", r#"{"ok":true}"#, "true"),
            (
                "device.id",
                r#"{"id":"no","device":{"at":[1,{"id":2}],"id":"yes"}}"#,
                "yes",
            ),
            ("id", r#"{"id":"first","id":"last"}"#, "last"),
            ("a.id", r#"{"a":{"id":"first"},"a":{"id":"last"}}"#, "last"),
            ("s", r#"{"s":""}"#, ""),
        ] {
            assert_eq!(key(field, line), Ok(expected.into()), "{field} of {line}");
        }
    }

    #[test]
    fn a_line_without_the_field_says_so() {
        for (field, line) in [
            ("id", "{}"),
            ("id", "5"),
            ("id", r#"["id"]"#),
            ("device.id", r#"{"device":"x"}"#),
            ("device.id", r#"{"device":{"name":"x"}}"#),
            ("device.id", r#"{"device":{"id":"x"},"device":1e999}"#),
            ("device.id", r#"{"device":null}"#),
        ] {
            assert_eq!(
                key(field, line),
                Err(NoKey::Missing(field.into())),
                "{field} of {line}"
            );
        }
    }

    #[test]
    fn a_field_that_is_null_is_not_said_to_be_missing() {
        for (field, line) in [
            ("id", r#"{"id":null}"#),
            ("id", r#"{"id": null }"#),
            ("id", r#"{"id":1,"id":null}"#),
            ("device.id", r#"{"device":{"id":null}}"#),
        ] {
            let expected = Err(NoKey::Null(field.into()));
            assert_eq!(key(field, line), expected, "{field} of {line}");
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
    fn what_is_json_and_can_not_be_compared_is_no_key() {
        for line in [
            r#"{"id":1e999}"#,
            r#"{"id":-1e999}"#,
            r#"{"id":"\ud800"}"#,
            r#"{"id":"\ud800\u0041"}"#,
        ] {
            assert_eq!(
                key("id", line),
                Err(NoKey::NoMeaning("id".into())),
                "{line}"
            );
        }
    }

    #[test]
    fn a_line_that_is_not_json_says_so() {
        for line in [
            "",
            "hello",
            r#"{"id":1"#,
            r#"{"id":1} trailing"#,
            r#"{"id":1,"n":tru}"#,
            r#"{"id":1,"n":05}"#,
            r#"{"id":1,"n":"\x41"}"#,
            r#"{"id":1,}"#,
            "{\"id\":1,\"n\":\"\n\"}",
            "\u{feff}{\"id\":1}",
            "[tru]",
        ] {
            assert!(matches!(key("id", line), Err(NoKey::NotJson(_))), "{line}");
            assert!(
                matches!(check(line.as_bytes()), Err(NoKey::NotJson(_))),
                "{line}"
            );
        }
        let field: KeyField = "id".parse().expect("a field");
        let not_utf8 = b"{\"id\":1,\"n\":[\"\xff\"]}";
        assert!(matches!(field.key_of(not_utf8), Err(NoKey::NotJson(_))));
    }

    #[test]
    fn a_field_has_no_empty_step() {
        for text in ["", ".", "a.", ".a", "a..b"] {
            assert!(text.parse::<KeyField>().is_err(), "{text}");
        }
    }
}
