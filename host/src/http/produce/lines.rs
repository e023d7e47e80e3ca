//! A record's value per line (NDJSON). A line is checked to be JSON and kept as
//! it is, byte for byte; empty lines are passed over.

use std::fmt;

use bytes::Bytes;
use eddy_protocol::batch::json::JsonBytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::Each;
use crate::broker::PlacedRecord;
use crate::http::error::{Failure, invalid};

/// Gives the records of a body to `each`. With `key_field` (`a` or `a.b`) each
/// line must be an object that has this field; it becomes the key: a text as it
/// is, anything else as its JSON.
pub(super) fn read(
    body: &Bytes,
    key_field: Option<&str>,
    partition: Option<u32>,
    now_ms: i64,
    each: Each,
) -> Result<(), Failure> {
    let path: Option<Vec<&str>> = key_field.map(|field| field.split('.').collect());
    for (line, number) in body.split(|byte| *byte == b'\n').zip(1..) {
        let value = line.trim_ascii();
        if !value.is_empty() {
            let key = key(value, path.as_deref())
                .map_err(|wrong| invalid(format!("line {number}: {wrong}")))?;
            let value = Some(body.slice_ref(value));
            each(PlacedRecord {
                partition,
                timestamp_ms: now_ms,
                key,
                value,
                headers: Vec::new(),
            })?;
        }
    }
    Ok(())
}

/// Checks that a line is JSON, and finds the key in it.
fn key(line: &[u8], path: Option<&[&str]>) -> Result<Option<Bytes>, String> {
    // The parser looks into no string that it passes over.
    let line = std::str::from_utf8(line).map_err(|error| format!("not UTF-8: {error}"))?;
    let mut json = serde_json::Deserializer::from_str(line);
    let found = match path {
        None => IgnoredAny::deserialize(&mut json).map(|_| None),
        Some(path) => Field(path).deserialize(&mut json),
    };
    let found = found.and_then(|found| json.end().map(|()| found));
    let found = found.map_err(|error| format!("not what is expected: {}", without_line(&error)))?;
    match (path, found) {
        (None, _) => Ok(None),
        (Some(path), None) => Err(format!(
            "there is no field `{}` to take the key from",
            path.join(".")
        )),
        (Some(_), Some(key)) => Ok(Some(Bytes::from(key.0))),
    }
}

/// The message with the column; its line is always 1 and would mislead.
fn without_line(error: &serde_json::Error) -> String {
    error
        .to_string()
        .replace(" at line 1 column ", " at column ")
}

/// The value at a path of fields, the rest only checked to be JSON.
struct Field<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<JsonBytes>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            [] => Option::deserialize(deserializer),
            _ => deserializer.deserialize_map(self),
        }
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<JsonBytes>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the field `{}`", self.0.join("."))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            match self.0.split_first() {
                Some((first, rest)) if *first == name => {
                    found = map.next_value_seed(Field(rest))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        body: &'static str,
        key_field: Option<&str>,
    ) -> Result<Vec<(Option<String>, String)>, String> {
        parse_bytes(body.as_bytes(), key_field)
    }

    fn parse_bytes(
        body: &'static [u8],
        key_field: Option<&str>,
    ) -> Result<Vec<(Option<String>, String)>, String> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let mut records = Vec::new();
        let read = read(
            &Bytes::from_static(body),
            key_field,
            None,
            0,
            &mut |record| {
                records.push(record);
                Ok(())
            },
        );
        read.map_err(|failure| format!("{failure:?}"))?;
        Ok(records
            .iter()
            .map(|r| {
                (
                    r.key.as_ref().map(text),
                    r.value.as_ref().map(text).expect("a value"),
                )
            })
            .collect())
    }

    #[test]
    fn each_line_is_kept_as_it_is() {
        let body = "{\"a\": 1.10}\r\n\n  [1, 2]\n\"x\"\nnull";
        let expected =
            ["{\"a\": 1.10}", "[1, 2]", "\"x\"", "null"].map(|line| (None, line.to_owned()));
        assert_eq!(parse(body, None), Ok(expected.to_vec()));
    }

    #[test]
    fn the_key_comes_from_a_field_at_any_depth() {
        for (line, field, key) in [
            (r#"{"id":"us1","x":2}"#, "id", "us1"),
            (r#"{"x":{"id":3},"id":7}"#, "id", "7"),
            (r#"{"a":{"b":{"c":[1, 2]}}}"#, "a.b.c", "[1,2]"),
            (r#"{"\u0069d":true}"#, "id", "true"),
        ] {
            assert_eq!(
                parse(line, Some(field)),
                Ok(vec![(Some(key.to_owned()), line.to_owned())]),
                "{line}"
            );
        }
    }

    #[test]
    fn what_is_not_utf8_is_not_json_wherever_it_stands() {
        for (body, field) in [
            (&b"1\n\"\xff\"\n"[..], None),
            (b"1\n{\"a\":\"\xc3\"}", None),
            (
                b"{\"id\":1}\n{\"id\":1,\"a\":[\"\xed\xa0\x80\"]}",
                Some("id"),
            ),
        ] {
            let error = parse_bytes(body, field).expect_err("bytes that are no text");
            assert!(error.contains("line 2: not UTF-8"), "{error}");
        }
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        for (body, field, part) in [
            ("{}\n\n{\"a\":}\n", None, "line 3: "),
            ("1\n2 3\n", None, "line 2: "),
            (
                "{\"id\":1}\n{\"x\":1}",
                Some("id"),
                "line 2: there is no field `id`",
            ),
            (
                "{\"id\":null}",
                Some("id"),
                "line 1: there is no field `id`",
            ),
            ("{\"a\":1}", Some("a.b"), "an object with the field `b`"),
            ("[]", Some("id"), "line 1: "),
            ("{\"id\":1,\"x\":}", Some("id"), "at column"),
        ] {
            let error = parse(body, field).expect_err(body);
            assert!(error.contains(part), "{body}: {error} lacks {part}");
        }
    }
}
