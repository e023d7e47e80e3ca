//! Where the records of a verdict go: by key as producers do, in batches that
//! keep to the broker's limit.

use std::sync::Arc;

use eddy_protocol::batch::{ColumnBuf, OffsetMode, Rows};
use eddy_protocol::{Batch, BatchError, Compression};

use super::record::Record;
use crate::broker::produce;
use crate::log::{Append, Topic};
use crate::plugin::Verdict;

/// The outputs of a deployment on one partition.
pub(super) struct Outputs {
    /// With their names, in the order of the ports.
    topics: Vec<(String, Arc<Topic>)>,
    /// Which of them gets what is merely kept.
    kept: Option<usize>,
    /// The number of the input's partition, to whose like records without a key go.
    input: u32,
    batch_bytes_max: usize,
}

/// Why records can't be appended, in words for who runs the deployment.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    /// One record alone passes the limit.
    #[error(
        "{record} for output `{port}` takes a batch of {bytes} bytes, the limit is {limit} (`broker.batch_bytes_max`)"
    )]
    TooLarge {
        record: String,
        port: String,
        bytes: usize,
        limit: usize,
    },
    /// The records make no batch.
    #[error("output `{port}`: {error}")]
    Invalid { port: String, error: BatchError },
}

/// What cutting a batch can meet.
enum CutError {
    /// A record that alone makes a batch of so many bytes.
    TooLarge(usize),
    Invalid(BatchError),
}

impl From<BatchError> for CutError {
    fn from(error: BatchError) -> CutError {
        CutError::Invalid(error)
    }
}

impl Outputs {
    pub(super) fn new(
        record: &Record,
        topics: Vec<Arc<Topic>>,
        input: u32,
        batch_bytes_max: usize,
    ) -> Outputs {
        let names = record.outputs().map(|(port, _)| port.clone());
        Outputs {
            topics: names.zip(topics).collect(),
            kept: record.kept_output(),
            input,
            batch_bytes_max,
        }
    }

    /// The appends that the verdict on `columns` comes to.
    pub(super) fn place(
        &self,
        columns: &ColumnBuf,
        verdict: Verdict,
    ) -> Result<Vec<Append>, OutputError> {
        let mut appends = Vec::new();
        match verdict {
            Verdict::All => self.keep(columns, Rows::All, &mut appends)?,
            Verdict::Keep(rows) => self.keep(columns, Rows::Keep(&rows), &mut appends)?,
            Verdict::Emit(outputs) => {
                for output in &outputs {
                    let named = |row: usize| {
                        let first = columns.offsets().first().copied().unwrap_or_default();
                        format!("record {row} of those made from offset {first} on")
                    };
                    let port = output.port as usize;
                    self.put(port, &output.records, Rows::All, named, &mut appends)?;
                }
            }
        }
        Ok(appends)
    }

    /// What is merely kept goes to the port `out`, if that is connected.
    fn keep(
        &self,
        columns: &ColumnBuf,
        rows: Rows<'_>,
        appends: &mut Vec<Append>,
    ) -> Result<(), OutputError> {
        let Some(port) = self.kept else {
            return Ok(());
        };
        let named = |row: usize| {
            let offset = columns.offsets().get(row).copied().unwrap_or_default();
            format!("the record at offset {offset}")
        };
        self.put(port, columns, rows, named, appends)
    }

    /// By key as producers do; without one, to the partition of the input's number.
    fn put(
        &self,
        port: usize,
        columns: &ColumnBuf,
        rows: Rows<'_>,
        named: impl Fn(usize) -> String,
        appends: &mut Vec<Append>,
    ) -> Result<(), OutputError> {
        let Some((port, topic)) = self.topics.get(port) else {
            return Ok(());
        };
        let is_empty = match rows {
            Rows::All => columns.is_empty(),
            Rows::Keep(rows) => rows.is_empty(),
        };
        if is_empty {
            return Ok(());
        }
        let partitions = topic.partitions().len() as u32;
        let limit = self.batch_bytes_max;
        for placed in produce::split(columns, rows, partitions, self.input % partitions) {
            let mut batches = Vec::new();
            let cut = placed
                .map_err(CutError::Invalid)
                .and_then(|(partition, batch)| {
                    cut(batch, limit, &mut batches)?;
                    Ok(partition)
                });
            let partition = cut.map_err(|error| match error {
                CutError::TooLarge(bytes) => OutputError::TooLarge {
                    record: named(largest(columns, rows)),
                    port: port.clone(),
                    bytes,
                    limit,
                },
                CutError::Invalid(error) => OutputError::Invalid {
                    port: port.clone(),
                    error,
                },
            })?;
            appends.extend(batches.into_iter().map(|batch| Append {
                topic: topic.id(),
                partition,
                batch,
            }));
        }
        Ok(())
    }
}

/// The records of a batch in batches of at most `limit` bytes, in their order.
fn cut(batch: Batch, limit: usize, into: &mut Vec<Batch>) -> Result<(), CutError> {
    if batch.len() <= limit {
        into.push(batch);
        return Ok(());
    }
    let count = batch.count();
    if count == 1 {
        return Err(CutError::TooLarge(batch.len()));
    }
    let columns = batch.records()?.to_columns();
    let pieces = batch.len().div_ceil(limit).clamp(2, count as usize);
    let rows: Vec<u32> = (0..count).collect();
    for rows in rows.chunks((count as usize).div_ceil(pieces)) {
        let piece = columns.encode(Rows::Keep(rows), OffsetMode::Dense, Compression::None, None)?;
        cut(piece, limit, into)?;
    }
    Ok(())
}

/// The row of the largest record: if any is too large, that one is.
fn largest(columns: &ColumnBuf, rows: Rows<'_>) -> usize {
    let bytes = |row: &usize| {
        columns.record(*row).map_or(0, |record| {
            let length = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
            let headers = record
                .headers
                .map(|(name, value)| name.len() + length(value));
            length(record.key) + length(record.value) + headers.sum::<usize>()
        })
    };
    let largest = match rows {
        Rows::All => (0..columns.len()).max_by_key(bytes),
        Rows::Keep(rows) => rows.iter().map(|row| *row as usize).max_by_key(bytes),
    };
    largest.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(lengths: &[usize]) -> Batch {
        let mut columns = ColumnBuf::default();
        for (offset, length) in (0..).zip(lengths) {
            let value = vec![b'x'; *length];
            columns
                .push(offset, 1, None, Some(&value), &[])
                .expect("offsets rise");
        }
        columns
            .encode(Rows::All, OffsetMode::Dense, Compression::None, None)
            .expect("a batch")
    }

    #[test]
    fn a_batch_is_cut_to_the_limit_and_keeps_its_order() {
        let lengths: Vec<usize> = (0..500).map(|row| row * 7 % 300).collect();
        let mut cut_up = Vec::new();
        assert!(cut(batch(&lengths), 1024, &mut cut_up).is_ok());
        assert!(cut_up.iter().all(|batch| batch.len() <= 1024));
        let found: Vec<usize> = cut_up
            .iter()
            .flat_map(|batch| {
                let records = batch.records().expect("whole");
                let lengths = records
                    .iter()
                    .map(|record| record.value.map_or(0, <[u8]>::len));
                lengths.collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(found, lengths);
    }

    #[test]
    fn only_a_record_that_is_too_large_alone_is_an_error() {
        let mut into = Vec::new();
        let outcome = cut(batch(&[10, 2000, 10]), 1024, &mut into);
        assert!(matches!(outcome, Err(CutError::TooLarge(bytes)) if bytes > 2000));
    }
}
