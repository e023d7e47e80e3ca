//! Records in JSON: how the JSON form of a frame shows batches, and how it
//! takes them from people and devices that know nothing of columns.
//!
//! ```json
//! {"records": [
//!   {"offset": 7, "timestamp": 1700000000000, "key": "a", "value": "text", "headers": [["h", "x"], ["n", null]]},
//!   {"offset": 8, "timestamp": 1700000000001, "value": null},
//!   {"offset": 9, "timestamp": 1700000000002, "value": {"base64": "/w=="}}
//! ]}
//! ```
//! Bytes that are UTF-8 are a string, others `{"base64": …}`; null is null.
//! On the way in everything but `value` may be left out, and a key, a value or
//! a header's value may also be a number, a boolean, an array or an object: its
//! own text is what is stored, without the white space between its parts.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    Batch, BatchError, Batches, ColumnBuf, Compression, OffsetMode, ProducerStamp, RecordRef,
    Records, Rows,
};
use crate::flat::{Fields, Object, objects, once};
use crate::json::whole;

/// Stands for a timestamp that a JSON record left out, until the receiver fills
/// in its own time; not a time that a record can have in JSON.
pub(crate) const TIMESTAMP_MISSING: i64 = i64::MIN;

/// A record as JSON gives it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(remote = "Self")]
pub struct JsonRecord {
    /// Absent: the one after the record before.
    #[serde(default)]
    pub offset: Option<u64>,
    /// Milliseconds since 1970 UTC; absent: the receiver's time.
    #[serde(default)]
    pub timestamp: Option<i64>,
    /// Absent or null: no key.
    #[serde(default)]
    pub key: Option<JsonBytes>,
    /// Null: a tombstone. Must be there.
    #[serde(deserialize_with = "Option::deserialize")]
    pub value: Option<JsonBytes>,
    /// Pairs of a name and a value, or an object.
    #[serde(default)]
    pub headers: JsonHeaders,
}

impl<'de> Deserialize<'de> for JsonRecord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        JsonRecord::deserialize(Object(deserializer))
    }
}

impl JsonRecord {
    /// Appends the record to columns. On an error nothing was appended.
    pub fn push_to(
        &self,
        columns: &mut ColumnBuf,
        offset: u64,
        timestamp: i64,
    ) -> Result<(), BatchError> {
        let headers: Vec<(&str, Option<&[u8]>)> = self.headers.pairs().collect();
        let key = self.key.as_ref().map(|key| &key.0[..]);
        let value = self.value.as_ref().map(|value| &value.0[..]);
        columns.push(offset, timestamp, key, value, &headers)
    }
}

/// A record as a document of its own: as `eddy sub --json` writes it and HTTP shows it, and
/// as `eddy pub --json` and HTTP take it. A name that is not known is refused: what a record
/// has must not get lost because of a spelling.
#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct RecordDocument {
    /// Where it goes, or else by its key.
    #[serde(default, deserialize_with = "whole")]
    pub partition: Option<u32>,
    /// Milliseconds since 1970 UTC; absent: the time of arrival.
    #[serde(default, deserialize_with = "whole")]
    pub timestamp: Option<i64>,
    /// Absent or null: no key.
    #[serde(default)]
    pub key: Option<JsonBytes>,
    /// Null is a tombstone; leaving it out is a mistake.
    #[cfg_attr(feature = "openapi", schema(required))]
    #[serde(deserialize_with = "Option::deserialize")]
    pub value: Option<JsonBytes>,
    /// Names and values.
    #[serde(default)]
    pub headers: JsonHeaders,
    /// Where the record was read, and passed over: it goes elsewhere.
    #[cfg_attr(feature = "openapi", schema(value_type = Value))]
    #[serde(default, rename = "topic")]
    _topic: Option<IgnoredAny>,
    /// As above.
    #[cfg_attr(feature = "openapi", schema(value_type = Value))]
    #[serde(default, rename = "offset")]
    _offset: Option<IgnoredAny>,
}

impl<'de> Deserialize<'de> for RecordDocument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        RecordDocument::deserialize(Object(deserializer))
    }
}

/// Headers as JSON gives them: `[["name", value], …]` or `{"name": value, …}`;
/// null is none. A value may be null.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JsonHeaders(pub Vec<(String, Option<JsonBytes>)>);

impl JsonHeaders {
    /// Names and values, in order.
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = (&str, Option<&[u8]>)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_ref().map(|value| &value.0[..])))
    }
}

impl<'de> Deserialize<'de> for JsonHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = JsonHeaders;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("headers: an array of pairs, or an object")
            }

            fn visit_unit<E: de::Error>(self) -> Result<JsonHeaders, E> {
                Ok(JsonHeaders::default())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<JsonHeaders, A::Error> {
                let mut headers = Vec::new();
                while let Some(pair) = seq.next_element()? {
                    headers.push(pair);
                }
                Ok(JsonHeaders(headers))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonHeaders, A::Error> {
                let mut headers: Vec<(String, Option<JsonBytes>)> = Vec::new();
                let mut names = BTreeSet::new();
                while let Some((name, value)) = map.next_entry::<String, _>()? {
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom(format_args!(
                            "header `{name}` is there twice, which only an array of pairs can say"
                        )));
                    }
                    headers.push((name, value));
                }
                Ok(JsonHeaders(headers))
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}

/// Bytes in JSON: written as a string if they are UTF-8 and as
/// `{"base64": …}` if not; read from any JSON but null.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JsonBytes(pub Vec<u8>);

impl Serialize for JsonBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Shown(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JsonBytes {
    /// Only from JSON text itself, whole and in memory: what was read into values
    /// before has lost how its numbers were written.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        stored(text).map(JsonBytes).map_err(de::Error::custom)
    }
}

/// The bytes that a JSON value stands for: a string for its own, an object with
/// nothing but `base64` for those it encodes, any other for its text.
fn stored(text: &str) -> Result<Vec<u8>, &'static str> {
    match text.as_bytes().first() {
        Some(b'"') => unquoted(text),
        Some(b'n') => Err("null stands for no bytes"),
        Some(b'{') => {
            let text = compact(text);
            match only_base64(&text)? {
                Some(bytes) => Ok(bytes),
                None => Ok(text),
            }
        }
        _ => Ok(compact(text)),
    }
}

fn unquoted(text: &str) -> Result<Vec<u8>, &'static str> {
    if text.contains('\\') {
        let string: String =
            serde_json::from_str(text).map_err(|_| "an escape in a string is not Unicode")?;
        return Ok(string.into_bytes());
    }
    Ok(text.as_bytes()[1..text.len() - 1].to_vec())
}

/// JSON text without the white space that stands outside of its strings.
fn compact(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    let (mut quoted, mut escaped) = (false, false);
    bytes.retain(|byte| {
        if quoted {
            quoted = *byte != b'"' || escaped;
            escaped = *byte == b'\\' && !escaped;
            return true;
        }
        quoted = *byte == b'"';
        !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
    });
    bytes
}

/// What an object encodes, in compact text, if `base64` is its only field.
fn only_base64(object: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let Some((name, rest)) = split_first::<String>(&object[1..]) else {
        return Ok(None);
    };
    if name != "base64" {
        return Ok(None);
    }
    let Some((value, b"}")) = split_first::<&RawValue>(&rest[1..]) else {
        return Ok(None);
    };
    let encoded: String =
        serde_json::from_str(value.get()).map_err(|_| "`base64` is not a string")?;
    let bytes = BASE64
        .decode(encoded)
        .map_err(|_| "`base64` is not base64")?;
    Ok(Some(bytes))
}

/// The JSON value that text begins with, and what follows it.
fn split_first<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Option<(T, &'a [u8])> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<T>();
    let first = values.next()?.ok()?;
    Some((first, &text[values.byte_offset()..]))
}

/// Bytes as JSON shows them.
struct Shown<'a>(&'a [u8]);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Ok(text) = str::from_utf8(self.0) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &BASE64.encode(self.0))?;
        map.end()
    }
}

impl Serialize for RecordRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let optional = usize::from(self.key.is_some()) + usize::from(!self.headers.is_empty());
        let mut record = serializer.serialize_struct("Record", 3 + optional)?;
        record.serialize_field("offset", &self.offset)?;
        record.serialize_field("timestamp", &self.timestamp)?;
        if let Some(key) = self.key {
            record.serialize_field("key", &Shown(key))?;
        }
        record.serialize_field("value", &self.value.map(Shown))?;
        if !self.headers.is_empty() {
            let pairs: Vec<_> = self
                .headers
                .map(|(name, value)| (name, value.map(Shown)))
                .collect();
            record.serialize_field("headers", &pairs)?;
        }
        record.end()
    }
}

/// A [`ProducerStamp`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Self")]
struct JsonStamp {
    id: u64,
    epoch: u16,
    sequence: u32,
}

objects!(JsonStamp);

/// The fields that [`Batches`] are in JSON, among others.
#[derive(Default)]
pub(crate) struct JsonBatches {
    producer: Option<Option<JsonStamp>>,
    base_offset: Option<Option<u64>>,
    end_offset: Option<Option<u64>>,
    records: Option<Vec<JsonRecord>>,
}

impl<'de> Fields<'de> for JsonBatches {
    fn take<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "producer" => once(&mut self.producer, "producer", map)?,
            "base_offset" => once(&mut self.base_offset, "base_offset", map)?,
            "end_offset" => once(&mut self.end_offset, "end_offset", map)?,
            "records" => once(&mut self.records, "records", map)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl JsonBatches {
    /// The batches, once all fields are there.
    pub(crate) fn finish<E: de::Error>(self) -> Result<Batches, E> {
        let records = self.records.ok_or_else(|| E::missing_field("records"))?;
        into_batches(
            &records,
            self.producer.flatten(),
            self.base_offset.flatten(),
            self.end_offset.flatten(),
        )
        .map_err(E::custom)
    }
}

fn into_batches(
    records: &[JsonRecord],
    stamp: Option<JsonStamp>,
    base_offset: Option<u64>,
    end_offset: Option<u64>,
) -> Result<Batches, BatchError> {
    let Some(first) = records.first() else {
        return Ok(Batches::default());
    };
    let mut columns = ColumnBuf::with_capacity(records.len(), 0);
    let base = base_offset.or(first.offset).unwrap_or(0);
    let mut next = base;
    for record in records {
        let offset = record.offset.unwrap_or(next);
        if record.timestamp == Some(TIMESTAMP_MISSING) {
            return Err(BatchError::Invalid(
                "a record's timestamp is below the least that JSON can give, -9223372036854775807",
            ));
        }
        let timestamp = record.timestamp.unwrap_or(TIMESTAMP_MISSING);
        record.push_to(&mut columns, offset, timestamp)?;
        next = offset.checked_add(1).ok_or(BatchError::Invalid(
            "its offsets pass the end of their range",
        ))?;
    }
    let span = end_offset
        .unwrap_or(next)
        .checked_sub(base)
        .and_then(|span| u32::try_from(span).ok());
    let span = span.ok_or(BatchError::Invalid(
        "its offsets do not lie within its span",
    ))?;
    let producer = stamp.map(|stamp| ProducerStamp {
        id: stamp.id,
        epoch: stamp.epoch,
        sequence: stamp.sequence,
    });
    if producer.is_some_and(|producer| producer.id == 0) {
        return Err(BatchError::Invalid("a producer's id is never 0"));
    }
    let offsets = OffsetMode::Sparse { base, span };
    columns
        .encode(Rows::All, offsets, Compression::None, producer)
        .map(Batches::from)
}

impl Batches {
    /// Gives `now_ms` to the records that came without a timestamp.
    pub(crate) fn fill_timestamps(&mut self, now_ms: i64) -> Result<(), BatchError> {
        let Some(batch) = self.only()? else {
            return Ok(());
        };
        if batch.timestamp_min() != TIMESTAMP_MISSING {
            return Ok(());
        }
        if batch.timestamp_max() == TIMESTAMP_MISSING {
            // Nobody shares its bytes any more, so that they are changed in place.
            *self = Batches::default();
            *self = batch.with_equal_timestamps(now_ms).into();
            return Ok(());
        }
        let mut columns = batch.records()?.to_columns();
        for timestamp in &mut columns.timestamps {
            if *timestamp == TIMESTAMP_MISSING {
                *timestamp = now_ms;
            }
        }
        let offsets = OffsetMode::Sparse {
            base: batch.base_offset(),
            span: batch.span(),
        };
        *self = columns
            .encode(Rows::All, offsets, Compression::None, batch.producer())?
            .into();
        Ok(())
    }

    /// The batch, if there is exactly one.
    fn only(&self) -> Result<Option<Batch>, BatchError> {
        let mut batches = self.iter_trusted();
        match (batches.next().transpose()?, batches.next()) {
            (Some(batch), None) => Ok(Some(batch)),
            _ => Ok(None),
        }
    }
}

impl Serialize for Batches {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let batches: Vec<Records> = self
            .iter_trusted()
            .map(|batch| batch?.records())
            .collect::<Result<_, _>>()
            .map_err(serde::ser::Error::custom)?;
        let mut out = serializer.serialize_struct("Batches", 5)?;
        if let [batch] = &batches[..]
            && let Some(ProducerStamp {
                id,
                epoch,
                sequence,
            }) = batch.header().producer()
        {
            out.serialize_field(
                "producer",
                &JsonStamp {
                    id,
                    epoch,
                    sequence,
                },
            )?;
        }
        if let (Some(first), Some(last)) = (batches.first(), batches.last()) {
            if first.offsets().next() != Some(first.base_offset()) {
                out.serialize_field("base_offset", &first.base_offset())?;
            }
            if last.offsets().last() != last.header().end_offset().checked_sub(1) {
                out.serialize_field("end_offset", &last.header().end_offset())?;
            }
        }
        let is_append = |batch: &Records| batch.header().attributes().append_time;
        if !batches.is_empty() && batches.iter().all(is_append) {
            out.serialize_field("timestamps", "append")?;
        }
        out.serialize_field("records", &Shows(&batches))?;
        out.end()
    }
}

/// The records of several batches as one array.
struct Shows<'a>(&'a [Records]);

impl Serialize for Shows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().flat_map(Records::iter))
    }
}
