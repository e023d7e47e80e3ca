//! Record batches of Kafka's, version 2, as the bodies of batches: kept as a
//! client sent them, so that other clients of Kafka's get them back untouched,
//! and turned into columns for everybody else.
//!
//! Kafka puts 17 bytes in front that are the broker's to write: they are left
//! out here, and made when a batch is handed to one of its clients.
//!
//! ```text
//! big endian
//!
//!  0               8       12      16  17
//!  +---------------+-------+-------+---+
//!  | base offset   | length| epoch | 2 |  in front: given by the broker
//!  |      i64      |  i32  |  i32  |i8 |
//!  +---------------+-------+-------+---+
//!
//!  0       4   6       10              18              26
//!  +-------+---+-------+---------------+---------------+
//!  | crc   |att| last  | base time     | newest time   |  the body: the checksum
//!  |  u32  |i16|  i32  |      i64      |      i64      |  covers all behind it
//!  +-------+---+-------+---------------+---------------+
//!  26              34  36      40      44
//!  +---------------+---+-------+-------+----------
//!  | producer id   |ep.| seq   | count | records
//!  |      i64      |i16|  i32  |  i32  |
//!  +---------------+---+-------+-------+----------
//!
//!  att: bits 0-2 compression (0 none, 1 gzip, 2 snappy, 3 LZ4 frame, 4 zstd),
//!       bit 3 time of append, bit 4 transactional, bit 5 control
//! ```
//! <https://kafka.apache.org/documentation/#recordbatch>

mod codec;
mod record;
mod write;

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;

use super::encode::Tally;
use super::header::{Attributes, Body, TimestampWidth};
use super::record::headers_len;
use super::{
    Batch, BatchError, ColumnBuf, Compression, Header, OffsetMode, ProducerStamp, RAW_BYTES_MAX,
    Rows, SEQUENCES,
};
use codec::Codec;
use record::{KafkaRecord, each_record};
pub use write::KafkaBatch;

/// The bytes in front of a batch that only the broker writes.
pub const PREFIX_BYTES: usize = 17;
/// The checksum that a body begins with.
pub(super) const CRC_BYTES: usize = 4;
/// What stands in front of the records.
pub(super) const HEADER_BYTES: usize = 44;

/// The version of the format, the only one that clients have written since 2017.
const MAGIC: u8 = 2;
/// In front of a batch: what its length does not count.
const LENGTH_FROM: usize = 12;

const APPEND_TIME: u16 = 1 << 3;
const TRANSACTIONAL: u16 = 1 << 4;
const CONTROL: u16 = 1 << 5;

/// What stands in front of the records, as far as it matters.
struct KafkaHeader {
    codec: Codec,
    attributes: Attributes,
    last_offset_delta: u32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer: Option<ProducerStamp>,
    count: u32,
}

impl KafkaHeader {
    /// The header of a body, and its records as they came.
    fn parse(body: &[u8]) -> Result<(KafkaHeader, &[u8]), BatchError> {
        let Some((bytes, records)) = body.split_first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::TooShort {
                needed: (PREFIX_BYTES + HEADER_BYTES) as u64,
                have: (PREFIX_BYTES + body.len()) as u64,
            });
        };
        let bits = u16::from_be_bytes(field(bytes, 4));
        if bits >> 6 != 0 {
            return Err(BatchError::Invalid("Kafka: an attribute is not known"));
        }
        let not_negative = |number: i32| {
            u32::try_from(number).map_err(|_| BatchError::Invalid("Kafka: a count is negative"))
        };
        let header = KafkaHeader {
            codec: Codec::from_number(bits & 0b111)?,
            attributes: Attributes {
                append_time: bits & APPEND_TIME != 0,
                transactional: bits & TRANSACTIONAL != 0,
                control: bits & CONTROL != 0,
            },
            last_offset_delta: not_negative(i32::from_be_bytes(field(bytes, 6)))?,
            base_timestamp: i64::from_be_bytes(field(bytes, 10)),
            max_timestamp: i64::from_be_bytes(field(bytes, 18)),
            producer: stamp(
                i64::from_be_bytes(field(bytes, 26)),
                i16::from_be_bytes(field(bytes, 34)),
                i32::from_be_bytes(field(bytes, 36)),
            )?,
            count: not_negative(i32::from_be_bytes(field(bytes, 40)))?,
        };
        match header.count {
            0 => Err(BatchError::Empty),
            _ => Ok((header, records)),
        }
    }

    fn timestamp(&self, record: &KafkaRecord<'_>) -> i64 {
        if self.attributes.append_time {
            self.max_timestamp
        } else {
            // As Kafka's own clients add them.
            self.base_timestamp.wrapping_add(record.timestamp_delta)
        }
    }

    /// Goes over all records, everything about them checked, without keeping any.
    fn tally(&self, raw: &[u8]) -> Result<Tally, BatchError> {
        let mut tally = Tally {
            count: self.count as usize,
            timestamp_min: i64::MAX,
            timestamp_max: i64::MIN,
            sparse: self.last_offset_delta != self.count - 1,
            key_nulls: 0,
            key_bytes: 0,
            value_nulls: 0,
            value_bytes: 0,
            header_bytes: 0,
        };
        each_record(raw, self, |record| {
            let timestamp = self.timestamp(&record);
            tally.timestamp_min = tally.timestamp_min.min(timestamp);
            tally.timestamp_max = tally.timestamp_max.max(timestamp);
            tally.key_nulls += usize::from(record.key.is_none());
            tally.key_bytes += record.key.map_or(0, <[u8]>::len);
            tally.value_nulls += usize::from(record.value.is_none());
            tally.value_bytes += record.value.map_or(0, <[u8]>::len);
            tally.header_bytes += record.headers.with(headers_len);
            Ok(())
        })?;
        Ok(tally)
    }

    /// The header of a batch with this as its body.
    fn envelope(&self, raw: &[u8], base_offset: u64) -> Result<Header, BatchError> {
        let span = self.last_offset_delta.saturating_add(1);
        let mut header = self.tally(raw)?.header(Body::Kafka, base_offset, span)?;
        header.attributes = self.attributes;
        header.producer = self.producer;
        Ok(header)
    }
}

fn stamp(id: i64, epoch: i16, sequence: i32) -> Result<Option<ProducerStamp>, BatchError> {
    if id == -1 {
        return Ok(None);
    }
    let numbers = (
        u64::try_from(id),
        u16::try_from(epoch),
        u32::try_from(sequence),
    );
    match numbers {
        (Ok(id), Ok(epoch), Ok(sequence)) if id != 0 => Ok(Some(ProducerStamp {
            id,
            epoch,
            sequence,
        })),
        _ => Err(BatchError::Invalid(
            "Kafka: its producer's id, epoch or sequence is not one that a broker gives",
        )),
    }
}

impl Batch {
    /// A batch of Kafka's, everything about it checked, kept as it is.
    pub fn from_kafka(bytes: &[u8]) -> Result<Batch, BatchError> {
        let Some((prefix, body)) = bytes.split_first_chunk::<PREFIX_BYTES>() else {
            return Err(BatchError::TooShort {
                needed: (PREFIX_BYTES + HEADER_BYTES) as u64,
                have: bytes.len() as u64,
            });
        };
        if prefix[16] != MAGIC {
            return Err(BatchError::Invalid(
                "Kafka: not a record batch of version 2, which clients have written since 0.11",
            ));
        }
        let length = u32::from_be_bytes(field(prefix, 8)) as usize;
        if length != bytes.len() - LENGTH_FROM {
            return Err(BatchError::Length {
                header: length as u64 + LENGTH_FROM as u64,
                have: bytes.len() as u64,
            });
        }
        let base_offset = u64::try_from(i64::from_be_bytes(field(prefix, 0)))
            .map_err(|_| BatchError::Invalid("Kafka: its base offset is negative"))?;
        let (kafka, records) = KafkaHeader::parse(body)?;
        check(body)?;
        let raw = kafka.codec.expand(records, RAW_BYTES_MAX)?;
        let mut header = kafka.envelope(&raw, base_offset)?;
        let mut encoded = Vec::with_capacity(super::HEADER_BYTES + body.len());
        encoded.resize(super::HEADER_BYTES, 0);
        encoded.extend_from_slice(body);
        header.length = encoded.len() as u32;
        header.seal(&mut encoded);
        // What a length or an offset must not be is said in one place.
        Batch::parse_trusted(encoded.into())
    }
}

/// Whether a body's checksum is that of its bytes.
pub(super) fn check(body: &[u8]) -> Result<(), BatchError> {
    let Some((header, covered)) = body.split_first_chunk::<CRC_BYTES>() else {
        return Err(BatchError::Invalid("Kafka: it has no checksum"));
    };
    let (header, found) = (u32::from_be_bytes(*header), crc32c::crc32c(covered));
    if header != found {
        return Err(BatchError::Checksum { header, found });
    }
    Ok(())
}

/// Whether a body keeps every rule, and its batch's header says the same of it.
pub(super) fn verify(header: &Header, body: &[u8]) -> Result<(), BatchError> {
    let (kafka, records) = KafkaHeader::parse(body)?;
    let raw = kafka.codec.expand(records, raw_bytes_max(header))?;
    is_of(header, kafka.envelope(&raw, header.base_offset)?)
}

/// The batch of columns that has the records of a body.
pub(super) fn to_columns(header: &Header, body: &[u8]) -> Result<Vec<u8>, BatchError> {
    let (kafka, records) = KafkaHeader::parse(body)?;
    let raw = kafka.codec.expand(records, raw_bytes_max(header))?;
    let count = (header.count as usize).min(raw.len());
    let mut columns = ColumnBuf::with_capacity(count, raw.len());
    each_record(&raw, &kafka, |record| {
        let offset = header.base_offset + u64::from(record.offset_delta);
        let timestamp = kafka.timestamp(&record);
        record
            .headers
            .with(|headers| columns.push(offset, timestamp, record.key, record.value, headers))
    })?;
    let offsets = OffsetMode::Sparse {
        base: header.base_offset,
        span: kafka.last_offset_delta.saturating_add(1),
    };
    let (mut made, mut encoded) = columns.lay_out(Rows::All, offsets, Compression::None)?;
    (made.attributes, made.producer) = (kafka.attributes, kafka.producer);
    is_of(header, made)?;
    made.seal(&mut encoded);
    Ok(encoded)
}

/// What the records of a body may expand to, by what its batch's header says of
/// their columns: a false header costs no more than a true one.
fn raw_bytes_max(header: &Header) -> usize {
    /// What a record takes beside its bytes at the most.
    const RECORD_BYTES_MAX: usize = 36;
    // A header takes up to 10 bytes beside its own here, and 6 in a column.
    let bytes = header.raw_len().saturating_mul(2);
    let records = (header.count as usize).saturating_mul(RECORD_BYTES_MAX);
    bytes.saturating_add(records).min(RAW_BYTES_MAX)
}

fn is_of(header: &Header, found: Header) -> Result<(), BatchError> {
    let expected = Header {
        base_offset: header.base_offset,
        length: header.length,
        crc: header.crc,
        body: header.body,
        ..found
    };
    if expected == *header {
        Ok(())
    } else {
        Err(BatchError::Invalid(
            "its header does not say the same as Kafka's behind it",
        ))
    }
}

/// Writes into a body what its batch's header says of producer and time, and
/// makes its checksum anew.
pub(super) fn restamp(header: &Header, body: &mut [u8]) {
    let (id, epoch, sequence) = header.producer.map_or((-1, -1, -1), |stamp| {
        let sequence = stamp.sequence % SEQUENCES;
        (stamp.id as i64, stamp.epoch as i16, sequence as i32)
    });
    body[26..34].copy_from_slice(&id.to_be_bytes());
    body[34..36].copy_from_slice(&epoch.to_be_bytes());
    body[36..40].copy_from_slice(&sequence.to_be_bytes());
    if header.attributes.append_time {
        body[5] |= APPEND_TIME as u8;
        body[18..26].copy_from_slice(&header.timestamp_max.to_be_bytes());
    }
    let crc = crc32c::crc32c(&body[CRC_BYTES..]);
    body[..CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
}

/// What a header says of the columns, once all of them have one timestamp.
pub(super) fn without_timestamps(header: &mut Header) {
    let width = match header.columns.timestamps {
        TimestampWidth::Constant => 0,
        TimestampWidth::Delta => 4,
        TimestampWidth::Full => 8,
    };
    header.columns.timestamps = TimestampWidth::Constant;
    header.raw_length -= width * header.count;
}

/// The columns that were made of a body, for as long as somebody reads them:
/// a batch that waits to be read again must not hold its records twice.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Weak<Vec<u8>>>>);

impl Shared {
    /// The columns; made by the first who asks, while the others wait.
    pub(super) fn or_make(
        &self,
        make: impl FnOnce() -> Result<Vec<u8>, BatchError>,
    ) -> Result<Bytes, BatchError> {
        struct Held(Arc<Vec<u8>>);

        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(columns) = made.upgrade() {
            return Ok(Bytes::from_owner(Held(columns)));
        }
        let columns = Arc::new(make()?);
        *made = Arc::downgrade(&columns);
        Ok(Bytes::from_owner(Held(columns)))
    }
}

fn field<const N: usize, const M: usize>(bytes: &[u8; M], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
