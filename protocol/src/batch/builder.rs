//! Records one after the other into a batch, as a producer makes it.

use super::{
    Batch, BatchError, ColumnBuf, Compression, OffsetMode, ProducerStamp, Rows, Unstamped,
};

/// Collects the records of a batch.
#[derive(Debug, Clone, Default)]
pub struct BatchBuilder {
    columns: ColumnBuf,
}

impl BatchBuilder {
    /// No records yet.
    pub fn new() -> BatchBuilder {
        BatchBuilder::default()
    }

    /// Appends a record. On an error nothing was appended.
    #[inline]
    pub fn push(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<(), BatchError> {
        self.columns
            .push(self.columns.len() as u64, timestamp, key, value, headers)
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// What they take in memory; a batch of them takes less (but for its header).
    pub fn bytes(&self) -> usize {
        self.columns.bytes()
    }

    /// The batch of the records so far. The builder is empty afterwards, and
    /// keeps its memory for the next.
    pub fn finish(
        &mut self,
        compression: Compression,
        producer: Option<ProducerStamp>,
    ) -> Result<Batch, BatchError> {
        let batch = self
            .columns
            .encode(Rows::All, OffsetMode::Dense, compression, producer);
        self.columns.clear();
        batch
    }

    /// As [`finish`](Self::finish), for whoever hands the batch to a
    /// [`Session`](crate::session::Session), which stamps it when it is sent.
    pub fn finish_unstamped(&mut self, compression: Compression) -> Result<Unstamped, BatchError> {
        let batch = self.columns.encode_unstamped(compression);
        self.columns.clear();
        batch
    }
}
