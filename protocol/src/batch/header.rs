//! The 64 bytes in front of every batch: reading, checking and writing them.
//! Knows nothing of the body but its length and its kind.
//!
//! ```text
//! little endian; the CRC covers everything from byte 16 to the end, and where
//! the body is Kafka's the header and the body's own CRC, which covers the rest
//!
//!  0       4       8       12      16  17  18      20      22      24
//!  +-------+-------+-------+-------+---+---+-------+-------+-------+
//!  | base_offset   | length| crc   |ver|cmp| epoch |columns| attrs |
//!  |      u64      |  u32  |  u32  |u8 |u8 |  u16  |  u16  |  u16  |
//!  +-------+-------+-------+-------+---+---+-------+-------+-------+
//!
//!  24      28      32              40      44      48      56      64
//!  +-------+-------+---------------+-------+-------+-------+-------+
//!  | count | span  | producer_id   |  seq  |raw_len| ts min| ts max|
//!  |  u32  |  u32  |      u64      |  u32  |  u32  |  i64  |  i64  |
//!  +-------+-------+---------------+-------+-------+-------+-------+
//! ```

use super::{BatchError, Compression, HEADER_BYTES, RAW_BYTES_MAX, kafka};

/// Where the checksum's cover begins: what stands before is given by the broker.
const CRC_FROM: usize = 16;

/// What a batch's body is: the layout's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// 1: columns.
    Columns,
    /// 2: a record batch of Kafka's, from its checksum on.
    Kafka,
}

impl Body {
    fn number(self) -> u8 {
        match self {
            Body::Columns => 1,
            Body::Kafka => 2,
        }
    }

    fn from_number(number: u8) -> Result<Body, BatchError> {
        match number {
            1 => Ok(Body::Columns),
            2 => Ok(Body::Kafka),
            other => Err(BatchError::Version(other)),
        }
    }
}

/// What holds for all records of a batch.
///
/// ```text
/// bit 0  the timestamps are the time of append      bit 2  markers of transactions
/// bit 1  part of a transaction
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes {
    /// All records have one timestamp, the broker's when it appended them; what
    /// the producer claimed counts no more.
    pub append_time: bool,
    /// The records belong to their producer's transaction.
    pub transactional: bool,
    /// The records are markers for the broker and for Kafka's clients, not data.
    pub control: bool,
}

impl Attributes {
    const APPEND_TIME: u16 = 1;
    const TRANSACTIONAL: u16 = 1 << 1;
    const CONTROL: u16 = 1 << 2;

    fn parse(bits: u16) -> Result<Attributes, BatchError> {
        if bits >> 3 != 0 {
            return Err(BatchError::Attributes(bits));
        }
        Ok(Attributes {
            append_time: bits & Self::APPEND_TIME != 0,
            transactional: bits & Self::TRANSACTIONAL != 0,
            control: bits & Self::CONTROL != 0,
        })
    }

    fn bits(self) -> u16 {
        let when = |on: bool, bit: u16| if on { bit } else { 0 };
        when(self.append_time, Self::APPEND_TIME)
            | when(self.transactional, Self::TRANSACTIONAL)
            | when(self.control, Self::CONTROL)
    }
}

/// How many sequences there are: they count from 0 to 2^31 − 1 and go on at 0,
/// as those of Kafka's producers do.
pub const SEQUENCES: u32 = 1 << 31;

/// The sequence of the record that comes `records` after the one of `sequence`.
pub fn sequence_after(sequence: u32, records: u32) -> u32 {
    sequence.wrapping_add(records) % SEQUENCES
}

/// How many records lie between two sequences, counted upwards from `from`.
pub fn sequences_between(from: u32, to: u32) -> u32 {
    to.wrapping_sub(from) % SEQUENCES
}

/// Who produced a batch, and the how-manieth of its records the batch begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerStamp {
    /// The producer's identity, never 0.
    pub id: u64,
    /// Of several holders of one identity, the newest has the highest.
    pub epoch: u16,
    /// Of the batch's first record, counted per partition from 0; wraps at
    /// [`SEQUENCES`]. (Batches of earlier releases count to 2^32; the two agree
    /// modulo [`SEQUENCES`].)
    pub sequence: u32,
}

/// How the timestamps of a batch are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimestampWidth {
    /// All are `timestamp_min`: no column.
    Constant,
    /// `u32` on top of `timestamp_min`.
    Delta,
    /// `i64`, as they are.
    Full,
}

/// Which columns a batch's body has.
///
/// ```text
/// bits 0-1  timestamps: 0 constant, 1 u32 deltas, 2 i64     bit 4  key nulls
/// bit 2     offset deltas (sparse)                          bit 5  value nulls
/// bit 3     keys                                            bit 6  headers
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ColumnFlags {
    pub(super) timestamps: TimestampWidth,
    pub(super) sparse: bool,
    pub(super) keys: bool,
    pub(super) key_nulls: bool,
    pub(super) value_nulls: bool,
    pub(super) headers: bool,
}

impl ColumnFlags {
    const SPARSE: u16 = 1 << 2;
    const KEYS: u16 = 1 << 3;
    const KEY_NULLS: u16 = 1 << 4;
    const VALUE_NULLS: u16 = 1 << 5;
    const HEADERS: u16 = 1 << 6;

    fn parse(bits: u16) -> Result<ColumnFlags, BatchError> {
        let timestamps = match bits & 0b11 {
            0 => TimestampWidth::Constant,
            1 => TimestampWidth::Delta,
            2 => TimestampWidth::Full,
            _ => return Err(BatchError::Columns(bits)),
        };
        let has = |bit: u16| bits & bit != 0;
        if bits >> 7 != 0 || (has(Self::KEY_NULLS) && !has(Self::KEYS)) {
            return Err(BatchError::Columns(bits));
        }
        Ok(ColumnFlags {
            timestamps,
            sparse: has(Self::SPARSE),
            keys: has(Self::KEYS),
            key_nulls: has(Self::KEY_NULLS),
            value_nulls: has(Self::VALUE_NULLS),
            headers: has(Self::HEADERS),
        })
    }

    fn bits(self) -> u16 {
        let width = match self.timestamps {
            TimestampWidth::Constant => 0,
            TimestampWidth::Delta => 1,
            TimestampWidth::Full => 2,
        };
        let when = |on: bool, bit: u16| if on { bit } else { 0 };
        width
            | when(self.sparse, Self::SPARSE)
            | when(self.keys, Self::KEYS)
            | when(self.key_nulls, Self::KEY_NULLS)
            | when(self.value_nulls, Self::VALUE_NULLS)
            | when(self.headers, Self::HEADERS)
    }
}

/// A batch's header, checked for everything that does not need the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub(super) base_offset: u64,
    pub(super) length: u32,
    pub(super) crc: u32,
    pub(super) body: Body,
    pub(super) compression: Compression,
    /// Where the body is Kafka's: of the columns that its records make.
    pub(super) columns: ColumnFlags,
    pub(super) attributes: Attributes,
    pub(super) count: u32,
    pub(super) span: u32,
    pub(super) producer: Option<ProducerStamp>,
    pub(super) raw_length: u32,
    pub(super) timestamp_min: i64,
    pub(super) timestamp_max: i64,
}

impl Header {
    /// Reads a header from the beginning of `bytes`, of which more may follow.
    pub fn parse(bytes: &[u8]) -> Result<Header, BatchError> {
        if bytes.is_empty() {
            // As a producer without records leaves it, for whom lengths are no news.
            return Err(BatchError::Empty);
        }
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::TooShort {
                needed: HEADER_BYTES as u64,
                have: bytes.len() as u64,
            });
        };
        let body = Body::from_number(bytes[16])?;
        let stamp = ProducerStamp {
            id: u64::from_le_bytes(field(bytes, 32)),
            epoch: u16::from_le_bytes(field(bytes, 18)),
            sequence: u32::from_le_bytes(field(bytes, 40)),
        };
        if stamp.id == 0 && (stamp.epoch != 0 || stamp.sequence != 0) {
            return Err(BatchError::Invalid(
                "it has an epoch or a sequence but no producer",
            ));
        }
        let header = Header {
            base_offset: u64::from_le_bytes(field(bytes, 0)),
            length: u32::from_le_bytes(field(bytes, 8)),
            crc: u32::from_le_bytes(field(bytes, 12)),
            body,
            compression: Compression::from_number(bytes[17])?,
            columns: ColumnFlags::parse(u16::from_le_bytes(field(bytes, 20)))?,
            attributes: Attributes::parse(u16::from_le_bytes(field(bytes, 22)))?,
            count: u32::from_le_bytes(field(bytes, 24)),
            span: u32::from_le_bytes(field(bytes, 28)),
            producer: (stamp.id != 0).then_some(stamp),
            raw_length: u32::from_le_bytes(field(bytes, 44)),
            timestamp_min: i64::from_le_bytes(field(bytes, 48)),
            timestamp_max: i64::from_le_bytes(field(bytes, 56)),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), BatchError> {
        if self.count == 0 {
            return Err(BatchError::Empty);
        }
        if (self.length as usize) < HEADER_BYTES {
            return Err(BatchError::Invalid(
                "its length is less than that of a header",
            ));
        }
        if self.raw_length as usize > RAW_BYTES_MAX {
            return Err(BatchError::TooLarge {
                bytes: self.raw_length.into(),
                limit: RAW_BYTES_MAX as u64,
            });
        }
        let body = self.length - HEADER_BYTES as u32;
        match (self.body, self.compression) {
            (Body::Columns, Compression::None) if body != self.raw_length => {
                return Err(BatchError::Invalid(
                    "raw_length is not the length of the uncompressed body",
                ));
            }
            (Body::Kafka, Compression::Lz4 | Compression::Zstd) => {
                return Err(BatchError::Invalid(
                    "its header has a compression, but a body of Kafka's says its own",
                ));
            }
            (Body::Kafka, Compression::None) if (body as usize) < kafka::HEADER_BYTES => {
                return Err(BatchError::Invalid(
                    "its length is less than that of Kafka's header",
                ));
            }
            _ => {}
        }
        if self.span < self.count || (!self.columns.sparse && self.span != self.count) {
            return Err(BatchError::Invalid(
                "span does not fit the count of records",
            ));
        }
        if self.base_offset.checked_add(self.span.into()).is_none() {
            return Err(BatchError::Invalid(
                "its offsets pass the end of their range",
            ));
        }
        if self.timestamp_min > self.timestamp_max {
            return Err(BatchError::Invalid("timestamp_min is after timestamp_max"));
        }
        if self.attributes.append_time && self.timestamp_min != self.timestamp_max {
            return Err(BatchError::Invalid(
                "it has several timestamps, but one time of append",
            ));
        }
        Ok(())
    }

    /// The header's bytes, with the checksum as it stands in `self.crc`.
    pub(super) fn write(&self) -> [u8; HEADER_BYTES] {
        let stamp = self.producer.unwrap_or(ProducerStamp {
            id: 0,
            epoch: 0,
            sequence: 0,
        });
        let mut out = [0; HEADER_BYTES];
        out[0..8].copy_from_slice(&self.base_offset.to_le_bytes());
        out[8..12].copy_from_slice(&self.length.to_le_bytes());
        out[12..16].copy_from_slice(&self.crc.to_le_bytes());
        out[16] = self.body.number();
        out[17] = self.compression.number();
        out[18..20].copy_from_slice(&stamp.epoch.to_le_bytes());
        out[20..22].copy_from_slice(&self.columns.bits().to_le_bytes());
        out[22..24].copy_from_slice(&self.attributes.bits().to_le_bytes());
        out[24..28].copy_from_slice(&self.count.to_le_bytes());
        out[28..32].copy_from_slice(&self.span.to_le_bytes());
        out[32..40].copy_from_slice(&stamp.id.to_le_bytes());
        out[40..44].copy_from_slice(&stamp.sequence.to_le_bytes());
        out[44..48].copy_from_slice(&self.raw_length.to_le_bytes());
        out[48..56].copy_from_slice(&self.timestamp_min.to_le_bytes());
        out[56..64].copy_from_slice(&self.timestamp_max.to_le_bytes());
        out
    }

    /// Puts the header in front of the body that `encoded` holds behind
    /// [`HEADER_BYTES`] free bytes, and its checksum.
    pub(super) fn seal(&mut self, encoded: &mut [u8]) {
        encoded[..HEADER_BYTES].copy_from_slice(&self.write());
        self.crc = crc32c::crc32c(self.covered(encoded));
        encoded[12..16].copy_from_slice(&self.crc.to_le_bytes());
    }

    /// What the checksum is made of, of the whole batch.
    pub(super) fn covered<'a>(&self, batch: &'a [u8]) -> &'a [u8] {
        match self.body {
            Body::Columns => &batch[CRC_FROM..],
            Body::Kafka => &batch[CRC_FROM..HEADER_BYTES + kafka::CRC_BYTES],
        }
    }

    /// How the records' timestamps are kept, if not once for all of them.
    pub(super) fn timestamps(&self) -> TimestampWidth {
        if self.attributes.append_time {
            TimestampWidth::Constant
        } else {
            self.columns.timestamps
        }
    }

    /// The offset of the first record (before the broker gave one: 0).
    pub fn base_offset(&self) -> u64 {
        self.base_offset
    }

    /// The offset after the batch: base offset and span.
    pub fn end_offset(&self) -> u64 {
        self.base_offset + u64::from(self.span)
    }

    /// The length of the whole batch in bytes, header included.
    pub fn length(&self) -> usize {
        self.length as usize
    }

    /// CRC-32C of everything from byte 16 on; where the body is Kafka's, of
    /// bytes 16 to 68, which end with Kafka's own of the rest.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// What holds for all its records.
    pub fn attributes(&self) -> Attributes {
        self.attributes
    }

    /// Whether the body is a record batch of Kafka's, not columns.
    pub fn is_kafka(&self) -> bool {
        self.body == Body::Kafka
    }

    /// How the columns are compressed. (A body of Kafka's says its own.)
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// How many records there are, at least one.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many offsets the batch takes; more than `count` if some are left out.
    pub fn span(&self) -> u32 {
        self.span
    }

    /// Whether offsets are left out.
    pub fn is_sparse(&self) -> bool {
        self.columns.sparse
    }

    /// Who produced it.
    pub fn producer(&self) -> Option<ProducerStamp> {
        self.producer
    }

    /// The length of the columns when expanded.
    pub fn raw_len(&self) -> usize {
        self.raw_length as usize
    }

    /// What the batch takes once its records are read: the larger one of its
    /// lengths, encoded and expanded; both, where the columns are made of a body
    /// of Kafka's.
    pub fn expanded_len(&self) -> usize {
        match self.body {
            Body::Columns => self.length().max(self.raw_len()),
            Body::Kafka => self.length() + HEADER_BYTES + self.raw_len(),
        }
    }

    /// The oldest timestamp, milliseconds since 1970 UTC.
    pub fn timestamp_min(&self) -> i64 {
        self.timestamp_min
    }

    /// The newest timestamp, milliseconds since 1970 UTC.
    pub fn timestamp_max(&self) -> i64 {
        self.timestamp_max
    }
}

fn field<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
