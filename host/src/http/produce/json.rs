//! `{"records":[{"key":…,"value":…,"headers":…,"timestamp":…,"partition":…}]}`:
//! a record as on the wire's JSON form, and with its partition.

use bytes::Bytes;
use eddy_protocol::batch::json::{JsonBytes, JsonHeaders};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::broker::PlacedRecord;
use crate::http::error::{Failure, invalid};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Records {
    records: Vec<Record>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    #[serde(default)]
    partition: Option<u32>,
    #[serde(default)]
    timestamp: Option<i64>,
    #[serde(default)]
    key: Option<JsonBytes>,
    /// Null is a tombstone; leaving it out is a mistake.
    #[serde(deserialize_with = "Option::deserialize")]
    value: Option<JsonBytes>,
    #[serde(default)]
    headers: JsonHeaders,
    /// Of a record that was fetched somewhere; it gets a new one.
    #[serde(default, rename = "offset")]
    _offset: Option<IgnoredAny>,
}

/// The records of a body, each with its own partition or else `partition`.
pub(super) fn records(
    body: &[u8],
    partition: Option<u32>,
    now_ms: i64,
) -> Result<Vec<PlacedRecord>, Failure> {
    let body: Records = serde_json::from_slice(body)
        .map_err(|error| invalid(format!("the body is not a list of records: {error}")))?;
    let placed = |record: Record| PlacedRecord {
        partition: record.partition.or(partition),
        timestamp_ms: record.timestamp.unwrap_or(now_ms),
        key: record.key.map(|key| Bytes::from(key.0)),
        value: record.value.map(|value| Bytes::from(value.0)),
        headers: record
            .headers
            .0
            .into_iter()
            .map(|(name, value)| (name, Bytes::from(value.0)))
            .collect(),
    };
    Ok(body.records.into_iter().map(placed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Vec<PlacedRecord>, String> {
        records(body.as_bytes(), Some(3), 1_000).map_err(|failure| format!("{failure:?}"))
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
            [("h".to_owned(), Bytes::from_static(b"x"))]
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (body, part) in [
            ("", "line 1"),
            ("{}", "missing field `records`"),
            (r#"{"records":[{"value":1},{}]}"#, "missing field `value`"),
            (
                "{\"records\":[\n{\"value\":1,\"patition\":1}]}",
                "unknown field `patition`",
            ),
            ("{\"records\":[\n{\"value\":1,\"patition\":1}]}", "line 2"),
            (r#"{"records":[{"value":{"base64":"?"}}]}"#, "base64"),
            (r#"{"records":[{"value":1,"partition":-1}]}"#, "u32"),
        ] {
            let error = parse(body).expect_err(body);
            assert!(error.contains(part), "{body}: {error} lacks {part}");
        }
    }
}
