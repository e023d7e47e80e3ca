//! Records in JSON: how the JSON form of a frame shows batches, and how it
//! takes them from people and devices that know nothing of columns.
//!
//! ```json
//! {"records": [
//!   {"offset": 7, "timestamp": 1700000000000, "key": "a", "value": "text", "headers": [["h", "x"]]},
//!   {"offset": 8, "timestamp": 1700000000001, "value": null},
//!   {"offset": 9, "timestamp": 1700000000002, "value": {"base64": "/w=="}}
//! ]}
//! ```
//! Bytes that are UTF-8 are a string, others `{"base64": …}`; null is null.
//! On the way in everything but `value` may be left out, and a key, a value or
//! a header's value may also be a number, a boolean, an array or an object: its
//! compact JSON text is what is stored.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeMap, SerializeStruct};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{
    BatchError, Batches, ColumnBuf, Compression, OffsetMode, ProducerStamp, RecordRef, Records,
    Rows,
};

/// Stands for a timestamp that a JSON record left out, until the receiver fills
/// in its own time; not a time that a record can have in JSON.
pub(crate) const TIMESTAMP_MISSING: i64 = i64::MIN;

/// A record as JSON gives it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
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

impl JsonRecord {
    /// Appends the record to columns. On an error nothing was appended.
    pub fn push_to(
        &self,
        columns: &mut ColumnBuf,
        offset: u64,
        timestamp: i64,
    ) -> Result<(), BatchError> {
        let headers: Vec<(&str, &[u8])> = self
            .headers
            .0
            .iter()
            .map(|(name, value)| (name.as_str(), &value.0[..]))
            .collect();
        let bytes = |part: &'_ Option<JsonBytes>| part.as_ref().map(|part| part.0.clone());
        let (key, value) = (bytes(&self.key), bytes(&self.value));
        columns.push(
            offset,
            timestamp,
            key.as_deref(),
            value.as_deref(),
            &headers,
        )
    }
}

/// Headers as JSON gives them: `[["name", value], …]` or `{"name": value, …}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JsonHeaders(pub Vec<(String, JsonBytes)>);

impl<'de> Deserialize<'de> for JsonHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = JsonHeaders;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("headers: an array of pairs, or an object")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<JsonHeaders, A::Error> {
                let mut headers = Vec::new();
                while let Some(pair) = seq.next_element()? {
                    headers.push(pair);
                }
                Ok(JsonHeaders(headers))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonHeaders, A::Error> {
                let mut headers = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    headers.push(pair);
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
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Whole)
    }
}

/// The outermost JSON value: a string stands for its own bytes, and an object
/// with nothing but `base64` for those it encodes.
struct Whole;

impl<'de> Visitor<'de> for Whole {
    type Value = JsonBytes;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a string, {\"base64\": …}, or other JSON to be kept as text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<JsonBytes, E> {
        Ok(JsonBytes(text.as_bytes().to_vec()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<JsonBytes, E> {
        Ok(JsonBytes(text.into_bytes()))
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<JsonBytes, E> {
        text(|out| Compact(out).visit_bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<JsonBytes, E> {
        text(|out| Compact(out).visit_u64(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<JsonBytes, E> {
        text(|out| Compact(out).visit_i64(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<JsonBytes, E> {
        text(|out| Compact(out).visit_f64(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<JsonBytes, A::Error> {
        text(|out| Compact(out).visit_seq(seq))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonBytes, A::Error> {
        let mut out = vec![b'{'];
        let mut only_base64 = None;
        let mut entries = 0;
        while let Some(name) = map.next_key::<String>()? {
            entries += 1;
            let begin = write_name(&name, entries, &mut out);
            map.next_value_seed(Compact(&mut out))?;
            only_base64 = (entries == 1 && name == "base64").then_some(begin);
        }
        out.push(b'}');
        let Some(begin) = only_base64 else {
            return Ok(JsonBytes(out));
        };
        let encoded: String = serde_json::from_slice(&out[begin..out.len() - 1])
            .map_err(|_| de::Error::custom("`base64` is not a string"))?;
        let bytes = BASE64
            .decode(encoded)
            .map_err(|_| de::Error::custom("`base64` is not base64"))?;
        Ok(JsonBytes(bytes))
    }
}

fn text<E>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<JsonBytes, E> {
    let mut out = Vec::new();
    write(&mut out)?;
    Ok(JsonBytes(out))
}

/// Writes `,"name":` and says where the value will begin.
fn write_name(name: &str, entry: usize, out: &mut Vec<u8>) -> usize {
    if entry > 1 {
        out.push(b',');
    }
    write_scalar(name, out);
    out.push(b':');
    out.len()
}

fn write_scalar<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a number or a string can be written to memory");
}

/// Writes whatever it is shown as compact JSON: names in their order, nothing
/// lost but white space.
struct Compact<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Compact<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Compact<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.0.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<(), E> {
        write_scalar(&value, self.0);
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<(), E> {
        write_scalar(&value, self.0);
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<(), E> {
        write_scalar(&value, self.0);
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<(), E> {
        write_scalar(&value, self.0);
        Ok(())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<(), E> {
        write_scalar(value, self.0);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.0.push(b'[');
        let begin = self.0.len();
        loop {
            let comma = self.0.len();
            if comma > begin {
                self.0.push(b',');
            }
            if seq.next_element_seed(Compact(self.0))?.is_none() {
                self.0.truncate(comma);
                break;
            }
        }
        self.0.push(b']');
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.push(b'{');
        let mut entries = 0;
        while let Some(name) = map.next_key::<String>()? {
            entries += 1;
            write_name(&name, entries, self.0);
            map.next_value_seed(Compact(self.0))?;
        }
        self.0.push(b'}');
        Ok(())
    }
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
                .map(|(name, value)| (name, Shown(value)))
                .collect();
            record.serialize_field("headers", &pairs)?;
        }
        record.end()
    }
}

/// A [`ProducerStamp`] in JSON.
#[derive(Serialize, Deserialize)]
struct JsonStamp {
    id: u64,
    epoch: u16,
    sequence: u32,
}

/// The fields that [`Batches`] are in JSON.
#[derive(Deserialize)]
struct JsonBatches {
    #[serde(default)]
    producer: Option<JsonStamp>,
    #[serde(default)]
    base_offset: Option<u64>,
    #[serde(default)]
    end_offset: Option<u64>,
    records: Vec<JsonRecord>,
}

impl JsonBatches {
    fn into_batches(self) -> Result<Batches, BatchError> {
        if self.records.is_empty() {
            return Ok(Batches::default());
        }
        let mut columns = ColumnBuf::with_capacity(self.records.len(), 0);
        let mut next = self.base_offset.or(self.records[0].offset).unwrap_or(0);
        let base = next;
        for record in &self.records {
            let offset = record.offset.unwrap_or(next);
            record.push_to(
                &mut columns,
                offset,
                record.timestamp.unwrap_or(TIMESTAMP_MISSING),
            )?;
            next = offset.checked_add(1).ok_or(BatchError::Invalid(
                "its offsets pass the end of their range",
            ))?;
        }
        let span = self
            .end_offset
            .unwrap_or(next)
            .checked_sub(base)
            .and_then(|span| u32::try_from(span).ok());
        let span = span.ok_or(BatchError::Invalid(
            "its offsets do not lie within its span",
        ))?;
        let producer = self.producer.map(
            |JsonStamp {
                 id,
                 epoch,
                 sequence,
             }| ProducerStamp {
                id,
                epoch,
                sequence,
            },
        );
        if producer.is_some_and(|producer| producer.id == 0) {
            return Err(BatchError::Invalid("a producer's id is never 0"));
        }
        columns
            .encode(
                Rows::All,
                OffsetMode::Sparse { base, span },
                Compression::None,
                producer,
            )
            .map(Batches::from)
    }
}

impl<'de> Deserialize<'de> for Batches {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        JsonBatches::deserialize(deserializer)?
            .into_batches()
            .map_err(de::Error::custom)
    }
}

impl Batches {
    /// Gives `now_ms` to the records that came without a timestamp.
    pub(crate) fn fill_timestamps(&mut self, now_ms: i64) -> Result<(), BatchError> {
        let mut batches = self.iter_trusted();
        let (Some(batch), None) = (batches.next().transpose()?, batches.next()) else {
            return Ok(());
        };
        if batch.timestamp_min() != TIMESTAMP_MISSING {
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
}

impl Serialize for Batches {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let batches: Vec<Records> = self
            .iter_trusted()
            .map(|batch| batch?.records())
            .collect::<Result<_, _>>()
            .map_err(serde::ser::Error::custom)?;
        let mut out = serializer.serialize_struct("Batches", 4)?;
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
