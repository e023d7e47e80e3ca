//! Records on their way in and out.

use std::ops::Range;

use eddy_protocol::batch::Records;
use eddy_protocol::{RecordRef, TopicName};

/// A record that is to be produced. Borrows everything: nothing is allocated
/// for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct NewRecord<'a> {
    /// Decides the partition, as Kafka's default partitioner does.
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone; empty is a value.
    pub value: Option<&'a [u8]>,
    /// Names and values, in this order; a name may come twice, a value may be null.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
    /// Milliseconds since 1970 UTC. Absent: now.
    pub timestamp: Option<i64>,
    /// Absent: by key, or spread.
    pub partition: Option<u32>,
}

impl<'a> NewRecord<'a> {
    /// A record with this value and nothing else.
    pub fn new(value: &'a [u8]) -> NewRecord<'a> {
        NewRecord {
            value: Some(value),
            ..NewRecord::default()
        }
    }

    /// A record that says that its key has no value any more.
    pub fn tombstone(key: &'a [u8]) -> NewRecord<'a> {
        NewRecord {
            key: Some(key),
            ..NewRecord::default()
        }
    }

    /// With this key.
    pub fn key(self, key: &'a [u8]) -> NewRecord<'a> {
        NewRecord {
            key: Some(key),
            ..self
        }
    }

    /// With these headers.
    pub fn headers(self, headers: &'a [(&'a str, Option<&'a [u8]>)]) -> NewRecord<'a> {
        NewRecord { headers, ..self }
    }

    /// With this timestamp, milliseconds since 1970 UTC.
    pub fn timestamp(self, ms: i64) -> NewRecord<'a> {
        NewRecord {
            timestamp: Some(ms),
            ..self
        }
    }

    /// Into this partition.
    pub fn partition(self, partition: u32) -> NewRecord<'a> {
        NewRecord {
            partition: Some(partition),
            ..self
        }
    }

    /// What it takes in a batch, with the columns' fixed parts; never less.
    pub(crate) fn bytes(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| 8 + name.len() + value.map_or(0, <[u8]>::len))
            .sum();
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + headers + RECORD_BYTES
    }
}

/// What a record takes beside its key, value and headers: a timestamp, two ends,
/// a header's end and count, bits for nulls.
pub(crate) const RECORD_BYTES: usize = 32;

/// Consecutive records of one partition, as they came.
#[derive(Debug, Clone)]
pub struct RecordBatch {
    pub(crate) topic: TopicName,
    pub(crate) partition: u32,
    pub(crate) epoch: u32,
    pub(crate) records: Records,
    /// The rows at and behind the reader's cursor.
    pub(crate) rows: Range<usize>,
}

impl RecordBatch {
    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The partition.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// The partition's epoch.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The records, in order.
    pub fn iter(&self) -> impl Iterator<Item = RecordRef<'_>> {
        self.records.iter_rows(self.rows.clone())
    }

    /// Takes the first record off, as one that owns its bytes.
    pub(crate) fn take_first(&mut self) -> Option<Record> {
        let row = self.rows.next()?;
        let record = self.records.record(row)?;
        Some(Record {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: record
                .headers
                .map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)))
                .collect(),
        })
    }
}

/// One record, with bytes of its own. Where speed counts, read batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it was read.
    pub topic: TopicName,
    /// Where it was read.
    pub partition: u32,
    /// Its place in the partition.
    pub offset: u64,
    /// Milliseconds since 1970 UTC.
    pub timestamp: i64,
    /// Absent and empty differ.
    pub key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Names and values, in the order given; absent and empty values differ.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}
