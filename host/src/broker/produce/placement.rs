//! Records gathered into batches: by partition, each batch within the limit.
//!
//! Knows the batch's layout as far as a record's share of it goes, and nothing
//! of keys: who goes where is decided before.

use bytes::Bytes;
use eddy_protocol::batch::{ColumnBuf, HEADER_BYTES, Rows};
use eddy_protocol::{Batch, BatchError, ErrorCode, WireError};

use super::{corrupt, encode};
use crate::store::{Append, Topic};

/// A record for the broker to place.
#[derive(Debug, Clone, Default)]
pub struct PlacedRecord {
    /// Where it must go; absent: by its key, or spread without one.
    pub partition: Option<u32>,
    /// Milliseconds since 1970 UTC.
    pub timestamp_ms: i64,
    /// Absent: none.
    pub key: Option<Bytes>,
    /// Absent: a tombstone.
    pub value: Option<Bytes>,
    /// In order; names may repeat.
    pub headers: Vec<(String, Bytes)>,
}

/// Records gathered by partition, in batches that keep to the limit.
pub(super) struct Placement {
    batch_bytes_max: usize,
    /// What is being filled for each partition, and how large it may get.
    filling: Vec<Filling>,
    full: Vec<(u32, Batch)>,
}

#[derive(Default)]
struct Filling {
    columns: ColumnBuf,
    /// What the batch takes at the most, without its header.
    bytes: usize,
    /// The number of its last record in the request.
    last: usize,
}

impl Placement {
    pub(super) fn new(partitions: u32, batch_bytes_max: usize) -> Placement {
        Placement {
            batch_bytes_max,
            filling: (0..partitions).map(|_| Filling::default()).collect(),
            full: Vec::new(),
        }
    }

    /// Adds the record that is number `index` of its request.
    pub(super) fn push(
        &mut self,
        partition: u32,
        record: &PlacedRecord,
        index: usize,
    ) -> Result<(), WireError> {
        let limit = self.batch_bytes_max;
        let bytes = bytes_in_batch(record);
        let filling = &mut self.filling[partition as usize];
        if !filling.columns.is_empty() && HEADER_BYTES + filling.bytes + bytes > limit {
            let batch = std::mem::take(filling).finish(limit)?;
            self.full.push((partition, batch));
        }
        filling.bytes += bytes;
        filling.last = index;
        filling.push(record).map_err(|error| {
            let code = match error {
                BatchError::TooLarge { .. } => ErrorCode::BatchTooLarge,
                _ => ErrorCode::InvalidArgument,
            };
            code.because(format!("record {index}: {error}"))
        })
    }

    /// By partition; the batches of one in the order of their records.
    pub(super) fn appends(self, topic: &Topic) -> Result<Vec<Append>, WireError> {
        let mut batches = self.full;
        let filled = self.filling.into_iter().zip(0..);
        for (filling, partition) in filled.filter(|(filling, _)| !filling.columns.is_empty()) {
            batches.push((partition, filling.finish(self.batch_bytes_max)?));
        }
        batches.sort_by_key(|(partition, _)| *partition);
        let appends = batches.into_iter().map(|(partition, batch)| Append {
            topic: topic.id(),
            partition,
            batch,
        });
        Ok(appends.collect())
    }
}

impl Filling {
    fn push(&mut self, record: &PlacedRecord) -> Result<(), BatchError> {
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_ref()))
            .collect();
        self.columns.push(
            self.columns.len() as u64,
            record.timestamp_ms,
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        )
    }

    /// The batch. Several records were added only as long as they keep to the
    /// limit; a single one may turn out to be too large.
    fn finish(self, limit: usize) -> Result<Batch, WireError> {
        let batch = encode(&self.columns, Rows::All).map_err(corrupt)?;
        if batch.len() <= limit {
            return Ok(batch);
        }
        Err(ErrorCode::BatchTooLarge.because(format!(
            "record {} (they count from 0) makes a batch of {} bytes alone, the limit is {limit} (`broker.batch_bytes_max`)",
            self.last,
            batch.len()
        )))
    }
}

/// What a record takes in a batch at the most: its bytes, and its place in
/// every column that there may be.
fn bytes_in_batch(record: &PlacedRecord) -> usize {
    // A wide timestamp, the ends of key, value and headers, a byte for the bits of nulls.
    const COLUMNS: usize = 8 + 3 * 4 + 1;
    // The length of a name and of a value; the count of all is in every record.
    const HEADER: usize = 2 + 4;
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter();
    let headers: usize = headers
        .map(|(name, value)| HEADER + name.len() + value.len())
        .sum();
    COLUMNS + 2 + length(&record.key) + length(&record.value) + headers
}
