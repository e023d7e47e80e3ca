//! The batch that a producer encodes, the broker keeps on disk, a plugin reads
//! and a browser slices: columns behind a header. `header` and `parse` draw it.
//! The body may also be a record batch of Kafka's, as its client sent it
//! (`kafka`); whoever reads records gets columns of it.
//!
//! Promises: a [`Batch`] that was parsed keeps every rule of the layout, so
//! that reading its records can't fail or panic; parsing arbitrary bytes
//! allocates nothing but the expanded body, and that no larger than the bytes
//! can become. Knows nothing of frames, topics or files.

mod batches;
mod builder;
mod column;
mod columns;
mod compression;
mod encode;
mod error;
mod header;
pub mod json;
pub mod kafka;
mod parse;
mod record;
mod view;

use bytes::{Bytes, BytesMut};

pub use batches::Batches;
pub use builder::BatchBuilder;
pub use columns::{ColumnBuf, Columns};
pub use compression::Compression;
pub use encode::{OffsetMode, Rows};
pub use error::BatchError;
pub use header::{Attributes, Header, ProducerStamp, SEQUENCES, sequence_after, sequences_between};
use header::{Body, TimestampWidth};
pub use parse::Records;
pub use record::{Headers, RecordRef};

/// The length of a batch's header.
pub const HEADER_BYTES: usize = 64;

/// No batch's columns are larger than this when expanded.
pub const RAW_BYTES_MAX: usize = 64 << 20;

/// One encoded batch. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Batch {
    header: Header,
    bytes: Bytes,
    /// Of a body of Kafka's the columns, while anybody reads them.
    columns: Option<kafka::Shared>,
}

impl PartialEq for Batch {
    fn eq(&self, other: &Batch) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Batch {}

/// The header that `bytes` begin with, checked for everything that needs no
/// body: how a file of batches is scanned.
pub fn peek(bytes: &[u8]) -> Result<Header, BatchError> {
    Header::parse(bytes)
}

impl Batch {
    /// Exactly one batch, everything about it checked.
    pub fn parse(bytes: Bytes) -> Result<Batch, BatchError> {
        let batch = Batch::parse_trusted(bytes)?;
        batch.check()?;
        match batch.header.body {
            Body::Columns => batch.records().map(drop)?,
            Body::Kafka => kafka::verify(&batch.header, &batch.bytes[HEADER_BYTES..])?,
        }
        Ok(batch)
    }

    /// As [`parse`](Batch::parse), and its records, for those who want both
    /// without expanding twice.
    pub fn open(bytes: Bytes) -> Result<(Batch, Records), BatchError> {
        let batch = Batch::parse_trusted(bytes)?;
        batch.check()?;
        let records = batch.records()?;
        Ok((batch, records))
    }

    /// Exactly one batch, of which only the header is checked: for bytes whose
    /// checksum was checked before.
    pub fn parse_trusted(bytes: Bytes) -> Result<Batch, BatchError> {
        let header = Header::parse(&bytes)?;
        if header.length() != bytes.len() {
            return Err(BatchError::Length {
                header: header.length() as u64,
                have: bytes.len() as u64,
            });
        }
        Ok(Batch::of(header, bytes))
    }

    fn of(header: Header, bytes: Bytes) -> Batch {
        let columns = header.is_kafka().then(kafka::Shared::default);
        Batch {
            header,
            bytes,
            columns,
        }
    }

    fn encoded(header: Header, bytes: Vec<u8>) -> Batch {
        Batch::of(header, Bytes::from(bytes))
    }

    /// Whether the checksum is that of the bytes.
    pub fn check(&self) -> Result<(), BatchError> {
        let found = crc32c::crc32c(self.header.covered(&self.bytes));
        if found != self.header.crc {
            return Err(BatchError::Checksum {
                header: self.header.crc,
                found,
            });
        }
        match self.header.body {
            Body::Columns => Ok(()),
            Body::Kafka => kafka::check(&self.bytes[HEADER_BYTES..]),
        }
    }

    /// The same records as columns: this batch itself, unless its body is
    /// Kafka's. Then they are made here, and shared with all who ask while
    /// anybody still has them.
    pub fn as_columns(&self) -> Result<Batch, BatchError> {
        let Some(shared) = &self.columns else {
            return Ok(self.clone());
        };
        let body = &self.bytes[HEADER_BYTES..];
        let bytes = shared.or_make(|| kafka::to_columns(&self.header, body))?;
        Batch::parse_trusted(bytes)
    }

    /// The records. Columns without compression are borrowed from the batch's
    /// own bytes; compressed ones are expanded here, anew at each call.
    pub fn records(&self) -> Result<Records, BatchError> {
        if self.header.is_kafka() {
            return self.as_columns()?.records();
        }
        let body = self.bytes.slice(HEADER_BYTES..);
        let body = match self.header.compression {
            Compression::None => body,
            compression => Bytes::from(compression.expand(&body, self.header.raw_length)?),
        };
        Records::parse(self.header, body)
    }

    /// The same batch at another place. Only bytes outside the checksum change;
    /// in place where nobody else shares the bytes.
    ///
    /// # Panics
    /// If the batch's offsets would pass `u64::MAX`.
    pub fn with_base_offset(mut self, base_offset: u64) -> Batch {
        assert!(
            base_offset.checked_add(self.header.span.into()).is_some(),
            "offset {base_offset} is out of range"
        );
        self.header.base_offset = base_offset;
        let mut bytes = unique(self.bytes);
        bytes[..8].copy_from_slice(&base_offset.to_le_bytes());
        Batch::of(self.header, bytes.freeze())
    }

    /// The same records by another producer, or by none; the checksum is made anew.
    pub fn with_producer(mut self, producer: Option<ProducerStamp>) -> Batch {
        self.set_producer(producer);
        self
    }

    /// As [`with_producer`](Self::with_producer), in place where nobody else
    /// shares the bytes.
    pub(crate) fn set_producer(&mut self, producer: Option<ProducerStamp>) {
        self.header.producer = producer;
        let bytes = std::mem::take(&mut self.bytes);
        *self = Batch::resealed(self.header, bytes);
    }

    /// The same records, all of this one timestamp, as they have one timestamp
    /// already; in place where nobody else shares the bytes.
    fn with_equal_timestamps(mut self, timestamp: i64) -> Batch {
        debug_assert_eq!(self.header.timestamps(), TimestampWidth::Constant);
        (self.header.timestamp_min, self.header.timestamp_max) = (timestamp, timestamp);
        Batch::resealed(self.header, self.bytes)
    }

    /// The same records, all of the time at which the broker appends them,
    /// whatever their producer claimed; in place where nobody else shares the bytes.
    pub fn with_append_time(mut self, time_ms: i64) -> Batch {
        self.header.attributes.append_time = true;
        if self.header.is_kafka() {
            kafka::without_timestamps(&mut self.header);
        }
        (self.header.timestamp_min, self.header.timestamp_max) = (time_ms, time_ms);
        Batch::resealed(self.header, self.bytes)
    }

    /// The batch with a changed header. A body of Kafka's, which has its own,
    /// says the same afterwards.
    fn resealed(mut header: Header, bytes: Bytes) -> Batch {
        let mut bytes = unique(bytes);
        if header.is_kafka() {
            kafka::restamp(&header, &mut bytes[HEADER_BYTES..]);
        }
        header.seal(&mut bytes);
        Batch::of(header, bytes.freeze())
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The encoded batch.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The length of the encoded batch.
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The length of the body when expanded.
    pub fn raw_len(&self) -> usize {
        self.header.raw_len()
    }

    /// What it takes once its records are read: the larger one of its lengths,
    /// encoded and expanded.
    pub fn expanded_len(&self) -> usize {
        self.header.expanded_len()
    }

    /// The offset of the first record (before the broker gave one: 0).
    pub fn base_offset(&self) -> u64 {
        self.header.base_offset
    }

    /// The offset after the batch: base offset and span.
    pub fn end_offset(&self) -> u64 {
        self.header.end_offset()
    }

    /// How many offsets the batch takes.
    pub fn span(&self) -> u32 {
        self.header.span
    }

    /// How many records there are, at least one.
    pub fn count(&self) -> u32 {
        self.header.count
    }

    /// Whether offsets are left out between its records.
    pub fn is_sparse(&self) -> bool {
        self.header.is_sparse()
    }

    /// The oldest timestamp, milliseconds since 1970 UTC.
    pub fn timestamp_min(&self) -> i64 {
        self.header.timestamp_min
    }

    /// The newest timestamp, milliseconds since 1970 UTC.
    pub fn timestamp_max(&self) -> i64 {
        self.header.timestamp_max
    }

    /// Who produced it.
    pub fn producer(&self) -> Option<ProducerStamp> {
        self.header.producer
    }
}

/// A batch that waits for its producer's stamp. The checksum covers the stamp and
/// is made with it; made before, it would be made in vain. So no bytes are to be
/// had of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unstamped(Batch);

impl Unstamped {
    /// The length of the encoded batch.
    #[expect(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// How many records there are, at least one.
    pub fn count(&self) -> u32 {
        self.0.count()
    }

    /// The batch with this stamp.
    pub fn stamped(self, stamp: ProducerStamp) -> Batch {
        self.0.with_producer(Some(stamp))
    }

    /// The batch to be stamped in place; until then its checksum may be missing.
    pub(crate) fn into_unsealed(self) -> Batch {
        self.0
    }
}

impl From<Batch> for Unstamped {
    fn from(batch: Batch) -> Unstamped {
        Unstamped(batch)
    }
}

/// The bytes, to be written to: themselves if nobody shares them, else a copy.
fn unique(bytes: Bytes) -> BytesMut {
    bytes
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}
