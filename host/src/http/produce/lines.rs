//! A record's value per line (NDJSON). A line is checked to be JSON and kept as
//! it is, byte for byte; empty lines are passed over.

use bytes::Bytes;
use eddy_protocol::key_field::{self, KeyField, NoKey};

use super::Each;
use crate::broker::PlacedRecord;
use crate::http::error::{Failure, invalid};

/// Gives the records of a body to `each`. With `key_field` each line must have
/// this field, which becomes the key.
pub(super) fn read(
    body: &Bytes,
    key_field: Option<&str>,
    partition: Option<u32>,
    now_ms: i64,
    each: Each,
) -> Result<(), Failure> {
    let key_field: Option<KeyField> = key_field
        .map(str::parse)
        .transpose()
        .map_err(|wrong| invalid(format!("`key_field`: {wrong}")))?;
    for (line, number) in body.split(|byte| *byte == b'\n').zip(1..) {
        let value = line.trim_ascii();
        if !value.is_empty() {
            let key = key(value, key_field.as_ref())
                .map_err(|wrong| invalid(format!("line {number} {wrong}")))?;
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
fn key(line: &[u8], key_field: Option<&KeyField>) -> Result<Option<Bytes>, NoKey> {
    let Some(key_field) = key_field else {
        return key_field::check(line).map(|()| None);
    };
    let key = key_field.key_of(line)?.into_owned();
    Ok(Some(key.into()))
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
            (r#"{"a":{"b":{"c":1.50}}}"#, "a.b.c", "1.50"),
            (r#"{"id":"first","id":"last"}"#, "id", "last"),
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
            assert!(
                error.contains("line 2 is not JSON (invalid utf-8"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        for (body, field, part) in [
            ("{}\n\n{\"a\":}\n", None, "line 3 is not JSON"),
            ("1\n2 3\n", None, "line 2 is not JSON"),
            (
                "{\"id\":1}\n{\"x\":1}",
                Some("id"),
                "line 2 has no field `id`",
            ),
            (
                "{\"id\":null}",
                Some("id"),
                "line 1 has a field `id` that is null",
            ),
            ("{\"a\":1}", Some("a.b"), "line 1 has no field `a.b`"),
            ("[]", Some("id"), "line 1 has no field `id`"),
            ("{\"id\":[1]}", Some("id"), "neither a string, a number"),
            ("{\"id\":1e400}", Some("id"), "beyond a double"),
            ("{}", Some("a..b"), "`a..b` is not the name of a field"),
            ("{\"id\":1,\"x\":}", Some("id"), "at column"),
        ] {
            let error = parse(body, field).expect_err(body);
            assert!(error.contains(part), "{body}: {error} lacks {part}");
        }
    }
}
