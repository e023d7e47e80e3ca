//! Batches as Kafka's clients read them: bodies of Kafka's untouched, columns
//! written anew.

use bytes::Bytes;

use super::{CONTROL, Codec, HEADER_BYTES, MAGIC, PREFIX_BYTES, TRANSACTIONAL, restamp};
use crate::batch::{Batch, BatchError, Compression, RecordRef, Records};

/// A batch in two pieces, to be sent one after the other.
#[derive(Debug, Clone)]
pub struct KafkaBatch {
    /// Where the batch stands: the part that is the broker's to write.
    pub prefix: [u8; PREFIX_BYTES],
    /// Shares the bytes of the batch where its body is Kafka's.
    pub body: Bytes,
}

impl KafkaBatch {
    /// Both pieces in one.
    pub fn to_vec(&self) -> Vec<u8> {
        [&self.prefix[..], &self.body].concat()
    }
}

impl Batch {
    /// The batch as Kafka's clients read it. `leader_epoch` is that of the
    /// partition when the batch was appended, -1 where it is not known.
    /// A body of Kafka's is handed out as it came; what was columns is written
    /// anew, compressed as asked for if that makes it shorter.
    pub fn to_kafka(
        &self,
        leader_epoch: i32,
        compression: Compression,
    ) -> Result<KafkaBatch, BatchError> {
        let end = i64::try_from(self.end_offset());
        if end.is_err() || i32::try_from(self.span()).is_err() {
            return Err(BatchError::Invalid("its offsets are none that Kafka has"));
        }
        let body = if self.header.is_kafka() {
            self.bytes.slice(crate::batch::HEADER_BYTES..)
        } else {
            Bytes::from(write(&self.records()?, Codec::of(compression)))
        };
        let mut prefix = [0; PREFIX_BYTES];
        prefix[0..8].copy_from_slice(&self.base_offset().to_be_bytes());
        // The epoch and the version are counted too.
        prefix[8..12].copy_from_slice(&(body.len() as u32 + 5).to_be_bytes());
        prefix[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
        prefix[16] = MAGIC;
        Ok(KafkaBatch { prefix, body })
    }
}

/// The body of these records.
fn write(records: &Records, codec: Codec) -> Vec<u8> {
    let header = records.header();
    // The oldest, so that no difference is negative.
    let base_timestamp = header.timestamp_min();
    let bytes = records.key_bytes().len() + records.value_bytes().len();
    let mut out = Vec::with_capacity(HEADER_BYTES + bytes + 12 * records.len());
    out.resize(HEADER_BYTES, 0);
    for record in records.iter() {
        let delta = (record.offset - header.base_offset()) as i32;
        write_record(&record, base_timestamp, delta, &mut out);
    }
    let mut bits = 0;
    if let Some(compressed) = codec.compress(&out[HEADER_BYTES..]) {
        out.truncate(HEADER_BYTES);
        out.extend_from_slice(&compressed);
        bits |= codec.number();
    }
    let when = |on: bool, bit: u16| if on { bit } else { 0 };
    bits |= when(header.attributes().transactional, TRANSACTIONAL);
    bits |= when(header.attributes().control, CONTROL);
    out[4..6].copy_from_slice(&bits.to_be_bytes());
    out[6..10].copy_from_slice(&(header.span() - 1).to_be_bytes());
    out[10..18].copy_from_slice(&base_timestamp.to_be_bytes());
    out[18..26].copy_from_slice(&header.timestamp_max().to_be_bytes());
    out[40..44].copy_from_slice(&header.count().to_be_bytes());
    restamp(header, &mut out);
    out
}

fn write_record(record: &RecordRef<'_>, base_timestamp: i64, delta: i32, out: &mut Vec<u8>) {
    let time = zigzag_long(record.timestamp.wrapping_sub(base_timestamp));
    let delta = zigzag(delta);
    let mut length = 1 + varint_len(time) + varint_len(delta) + bytes_len(record.key);
    length += bytes_len(record.value) + varint_len(zigzag(record.headers.len() as i32));
    for (name, value) in record.headers {
        length += bytes_len(Some(name.as_bytes())) + bytes_len(value);
    }
    // A batch has 64 MiB at the most, so no length passes an i32.
    write_varint(zigzag(length as i32), out);
    out.push(0);
    write_varint(time, out);
    write_varint(delta, out);
    write_bytes(record.key, out);
    write_bytes(record.value, out);
    write_varint(zigzag(record.headers.len() as i32), out);
    for (name, value) in record.headers {
        write_bytes(Some(name.as_bytes()), out);
        write_bytes(value, out);
    }
}

fn zigzag(number: i32) -> u64 {
    u64::from((number << 1 ^ number >> 31) as u32)
}

fn zigzag_long(number: i64) -> u64 {
    (number << 1 ^ number >> 63) as u64
}

/// How many bytes a number takes, seven bits in each.
fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

fn bytes_len(bytes: Option<&[u8]>) -> usize {
    match bytes {
        None => 1,
        Some(bytes) => varint_len(zigzag(bytes.len() as i32)) + bytes.len(),
    }
}

#[inline]
fn write_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn write_bytes(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    write_varint(zigzag(bytes.map_or(-1, |bytes| bytes.len() as i32)), out);
    out.extend_from_slice(bytes.unwrap_or_default());
}
