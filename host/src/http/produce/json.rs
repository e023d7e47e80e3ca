//! `{"records":[{"key":…,"value":…,"headers":…,"timestamp":…,"partition":…}]}`:
//! a record as on the wire's JSON form, and with its partition.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use eddy_protocol::batch::json::RecordDocument;
use eddy_protocol::json::check_beginning;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

use super::Each;
use crate::broker::PlacedRecord;
use crate::http::error::{Failure, invalid};

/// What some editors write before a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// Gives the records of a body to `each`, each with its own partition or else
/// `partition`.
pub(super) fn read(
    body: &[u8],
    partition: Option<u32>,
    now_ms: i64,
    each: Each,
) -> Result<(), Failure> {
    let wrong =
        |error: &dyn fmt::Display| invalid(format!("the body is not a list of records: {error}"));
    check_beginning(body).map_err(|error| wrong(&error))?;
    // The parser looks into no string that it passes over.
    let body = std::str::from_utf8(body).map_err(|error| wrong(&error))?;
    if body.starts_with(BYTE_ORDER_MARK) {
        return Err(wrong(
            &"it begins with a byte order mark, which JSON does not have",
        ));
    }
    let mut refused = None;
    let mut place = |record: RecordDocument| {
        let placed = each(PlacedRecord {
            partition: record.partition.or(partition),
            timestamp_ms: record.timestamp.unwrap_or(now_ms),
            key: record.key.map(|key| Bytes::from(key.0)),
            value: record.value.map(|value| Bytes::from(value.0)),
            headers: record
                .headers
                .0
                .into_iter()
                .map(|(name, value)| (name, value.map(|value| Bytes::from(value.0))))
                .collect(),
        });
        placed.map_err(|failure| refused = Some(failure)).is_ok()
    };
    let mut json = serde_json::Deserializer::from_str(body);
    let read = Whole(&mut place).deserialize(&mut json);
    let read = read.and_then(|()| json.end());
    match refused {
        Some(failure) => Err(failure),
        None => read.map_err(|error| wrong(&error)),
    }
}

/// Takes a record; false ends the reading.
type Take<'a> = &'a mut dyn FnMut(RecordDocument) -> bool;

/// The object with the list in it.
struct Whole<'a>(Take<'a>);

impl<'de> DeserializeSeed<'de> for Whole<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the field `records`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            match &*name {
                "records" if found => return Err(A::Error::duplicate_field("records")),
                "records" => map.next_value_seed(List(self.0))?,
                _ => return Err(A::Error::unknown_field(&name, &["records"])),
            }
            found = true;
        }
        match found {
            true => Ok(()),
            false => Err(A::Error::missing_field("records")),
        }
    }
}

/// The list: records are taken as they are read, so that they are never all in
/// memory as objects.
struct List<'a>(Take<'a>);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(record) = list.next_element()? {
            if !(self.0)(record) {
                return Err(A::Error::custom("a record was refused"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Vec<PlacedRecord>, String> {
        parse_bytes(body.as_bytes())
    }

    fn parse_bytes(body: &[u8]) -> Result<Vec<PlacedRecord>, String> {
        let mut records = Vec::new();
        let read = read(body, Some(3), 1_000, &mut |record| {
            records.push(record);
            Ok(())
        });
        read.map_err(|failure| format!("{failure:?}"))?;
        Ok(records)
    }

    #[test]
    fn a_record_may_have_everything_or_only_a_value() {
        let body = r#"{"records":[
            {"value":"a"},
            {"partition":1,"timestamp":7,"key":"k","value":{"mag":4.5,"b":[1,null]},"headers":{"h":"x"},"offset":9},
            {"key":{"base64":"/w=="},"value":null}
        ]}"#;
        let records = parse(body).expect("three records");
        let shown: Vec<_> = records
            .iter()
            .map(|r| {
                (
                    r.partition,
                    r.timestamp_ms,
                    r.key.as_deref(),
                    r.value.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                (Some(3), 1_000, None, Some(&b"a"[..])),
                (
                    Some(1),
                    7,
                    Some(&b"k"[..]),
                    Some(&br#"{"mag":4.5,"b":[1,null]}"#[..])
                ),
                (Some(3), 1_000, Some(&b"\xff"[..]), None),
            ]
        );
        assert_eq!(
            records[1].headers,
            [("h".to_owned(), Some(Bytes::from_static(b"x")))]
        );
    }

    #[test]
    fn what_is_not_utf8_is_not_json_wherever_it_stands() {
        for body in [
            &b"{\"records\":[{\"value\":\"\xff\"}]}"[..],
            b"{\"records\":[{\"value\":1,\"offset\":\"\xff\"}]}",
        ] {
            let error = parse_bytes(body).expect_err("bytes that are no text");
            assert!(error.contains("utf-8"), "{error}");
        }
    }

    #[test]
    fn a_refusal_ends_the_reading_and_is_what_is_told() {
        let body = br#"{"records":[{"value":1},{"value":2},{"value":?}]}"#;
        let mut taken = 0;
        let refused = read(body, None, 0, &mut |_| {
            taken += 1;
            match taken {
                2 => Err(invalid("enough")),
                _ => Ok(()),
            }
        });
        let error = format!("{:?}", refused.expect_err("the second is refused"));
        assert!(error.contains("enough"), "{error}");
        assert_eq!(taken, 2);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (body, part) in [
            ("", "the text is empty"),
            ("\u{feff}{\"records\":[]}", "byte order mark"),
            (r#"{"records":[[1,2,"k","v"]]}"#, "invalid type: sequence"),
            (r#"{"records":[{"value":1,"value":2}]}"#, "duplicate field"),
            (
                r#"{"records":[{"value":1,"headers":{"a":1,"a":2}}]}"#,
                "`a` is there twice",
            ),
            ("{}", "missing field `records`"),
            (r#"{"records":[{"value":1},{}]}"#, "missing field `value`"),
            (
                "{\"records\":[\n{\"value\":1,\"patition\":1}]}",
                "unknown field `patition`",
            ),
            ("{\"records\":[\n{\"value\":1,\"patition\":1}]}", "line 2"),
            (r#"{"records":[{"value":{"base64":"?"}}]}"#, "base64"),
            (r#"{"records":[{"value":1,"partition":-1}]}"#, "u32"),
            (r#"{"records":[],"record":[]}"#, "unknown field `record`"),
            (r#"{"records":[],"records":[]}"#, "duplicate field"),
            (r#"{"records":{}}"#, "an array of records"),
            (r#"[{"value":1}]"#, "an object with the field `records`"),
            (r#"{"records":[]} {}"#, "trailing"),
        ] {
            let error = parse(body).expect_err(body);
            assert!(error.contains(part), "{body}: {error} lacks {part}");
        }
    }
}
