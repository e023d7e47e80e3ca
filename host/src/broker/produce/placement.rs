//! Records gathered into batches: by partition, each batch within the limit.
//!
//! Knows the batch's layout as far as a record's share of it goes.

use std::sync::Arc;

use bytes::Bytes;
use eddy_protocol::batch::{ColumnBuf, HEADER_BYTES, Rows};
use eddy_protocol::{Batch, BatchError, ErrorCode, WireError, partitioner};

use super::{corrupt, encode};
use crate::broker::refusal;
use crate::log::{Append, Topic};

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
    /// In order; names may repeat, values may be null.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl PlacedRecord {
    /// Appends the record to `columns`; `index` is its number in the request.
    pub fn push_to(&self, columns: &mut ColumnBuf, index: usize) -> Result<(), WireError> {
        let headers: Vec<(&str, Option<&[u8]>)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect();
        let pushed = columns.push(
            columns.len() as u64,
            self.timestamp_ms,
            self.key.as_deref(),
            self.value.as_deref(),
            &headers,
        );
        pushed.map_err(|error| {
            let code = match error {
                BatchError::TooLarge { .. } => ErrorCode::BatchTooLarge,
                _ => ErrorCode::InvalidArgument,
            };
            code.because(format!("record {index}: {error}"))
        })
    }
}

/// Records on their way into one commit, each put into its place as it comes,
/// in batches that keep to the limit. Filling it is work for a thread that may
/// take its time.
pub struct Placement {
    topic: Arc<Topic>,
    /// Where records without a key go.
    keyless: u32,
    batch_bytes_max: usize,
    /// How many records have come.
    count: usize,
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

/// Records in their places, to be appended all or nothing.
pub struct PlacedRecords(pub(super) Vec<Append>);

impl Placement {
    pub(super) fn new(topic: Arc<Topic>, keyless: u32, batch_bytes_max: usize) -> Placement {
        let partitions = topic.partitions().len();
        Placement {
            topic,
            keyless,
            batch_bytes_max,
            count: 0,
            filling: (0..partitions).map(|_| Filling::default()).collect(),
            full: Vec::new(),
        }
    }

    /// Adds a record: where it says, by its key as Kafka's default partitioner
    /// does, or spread without one.
    pub fn push(&mut self, record: &PlacedRecord) -> Result<(), WireError> {
        let partitions = self.filling.len();
        let partition = match (record.partition, &record.key) {
            (Some(number), _) if number as usize >= partitions => {
                let topic = self.topic.name();
                return Err(refusal::unknown_partition(topic, number, partitions));
            }
            (Some(number), _) => number,
            (None, Some(key)) => partitioner::partition_for_key(key, partitions as u32),
            (None, None) => self.keyless,
        };
        self.add(partition, record)
    }

    fn add(&mut self, partition: u32, record: &PlacedRecord) -> Result<(), WireError> {
        let (index, limit) = (self.count, self.batch_bytes_max);
        self.count += 1;
        let bytes = bytes_in_batch(record);
        let filling = &mut self.filling[partition as usize];
        if !filling.columns.is_empty() && HEADER_BYTES + filling.bytes + bytes > limit {
            let batch = std::mem::take(filling).finish(limit)?;
            self.full.push((partition, batch));
        }
        filling.bytes += bytes;
        filling.last = index;
        record.push_to(&mut filling.columns, index)
    }

    /// Whether nothing has come.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Everything that came, by partition; the batches of one in the order of
    /// their records.
    pub fn finish(self) -> Result<PlacedRecords, WireError> {
        let mut batches = self.full;
        let filled = self.filling.into_iter().zip(0..);
        for (filling, partition) in filled.filter(|(filling, _)| !filling.columns.is_empty()) {
            batches.push((partition, filling.finish(self.batch_bytes_max)?));
        }
        batches.sort_by_key(|(partition, _)| *partition);
        let appends = batches.into_iter().map(|(partition, batch)| Append {
            topic: self.topic.id(),
            partition,
            batch,
        });
        Ok(PlacedRecords(appends.collect()))
    }
}

impl Filling {
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
        .map(|(name, value)| HEADER + name.len() + length(value))
        .sum();
    COLUMNS + 2 + length(&record.key) + length(&record.value) + headers
}
