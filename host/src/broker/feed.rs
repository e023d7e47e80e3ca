//! What was read and not yet given to an instance, be it a deployment's or a filter's, cut into calls.
//!
//! A call is bounded by what its records take once they are expanded: whole
//! batches are gathered up to the limit, and a batch that passes it alone is
//! given in parts, so that a plugin is never asked for more than one record at
//! a time that is large in itself.

use std::collections::VecDeque;

use eddy_protocol::batch::{ColumnBuf, Records};
use eddy_protocol::{Batch, BatchError};

use crate::plugin::Limits;

/// What a record takes in columns beside its bytes: offset, timestamp, and the
/// ends of key and value.
const RECORD_BYTES: usize = 24;

/// Records on their way to an instance, in the order of their offsets.
pub(super) struct Feed {
    batches: VecDeque<Batch>,
    /// The batch that is being given in parts, before all others.
    opened: Option<Opened>,
    call_bytes_max: usize,
}

struct Opened {
    records: Records,
    row: usize,
    end: u64,
}

/// How many bytes of records an instance is handed at once: `chunk_bytes`, and so little that what it
/// may have is enough to work on them.
pub(super) fn call_bytes_max(chunk_bytes: usize, limits: Limits) -> usize {
    const SHARE_OF_MEMORY: usize = 16;
    const SHARE_OF_OUTPUT: usize = 4;
    chunk_bytes
        .min(limits.memory_bytes_max / SHARE_OF_MEMORY)
        .min(limits.output_bytes_max / SHARE_OF_OUTPUT)
}

/// The records of one call.
pub(super) struct PluginCall {
    /// Empty where a batch has nothing behind the position that was asked for.
    pub(super) columns: ColumnBuf,
    /// The position after them.
    pub(super) next: u64,
}

impl Feed {
    /// Nothing yet. A call has `call_bytes_max` of expanded records, give or take
    /// the last one, which may be larger.
    pub(super) fn new(call_bytes_max: usize) -> Feed {
        Feed {
            batches: VecDeque::new(),
            opened: None,
            call_bytes_max,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.opened.is_none()
    }

    /// Adds what follows.
    pub(super) fn extend(&mut self, batches: Vec<Batch>) {
        self.batches.extend(batches);
    }

    /// The records of the next call, from `position` on; `None` if there are none.
    pub(super) fn next(&mut self, position: u64) -> Result<Option<PluginCall>, BatchError> {
        if self.opened.is_none() {
            let whole = self.whole(position)?;
            if whole.is_some() {
                return Ok(whole);
            }
            let Some(batch) = self.batches.pop_front() else {
                return Ok(None);
            };
            self.opened = Some(Opened::at(&batch, position)?);
        }
        let Some(opened) = &mut self.opened else {
            return Ok(None);
        };
        let call = opened.take(self.call_bytes_max)?;
        if call.next == opened.end {
            self.opened = None;
        }
        Ok(Some(call))
    }

    /// As many whole batches as keep to the limit; `None` if not even the first does.
    fn whole(&mut self, position: u64) -> Result<Option<PluginCall>, BatchError> {
        let (mut columns, mut next, mut bytes) = (ColumnBuf::default(), position, 0);
        while let Some(batch) = self.batches.front() {
            bytes += expanded_bytes(batch);
            if batch.base_offset() < position || bytes > self.call_bytes_max {
                break;
            }
            match columns.extend_from(batch) {
                // What comes before the damage is whole.
                Err(_) if !columns.is_empty() => break,
                extended => extended?,
            }
            next = batch.end_offset();
            self.batches.pop_front();
        }
        Ok((!columns.is_empty()).then_some(PluginCall { columns, next }))
    }
}

impl Opened {
    fn at(batch: &Batch, position: u64) -> Result<Opened, BatchError> {
        let records = batch.records()?;
        let row = records.offsets().take_while(|offset| *offset < position);
        Ok(Opened {
            row: row.count(),
            records,
            end: batch.end_offset(),
        })
    }

    fn take(&mut self, bytes_max: usize) -> Result<PluginCall, BatchError> {
        let mut columns = ColumnBuf::default();
        while let Some(record) = self.records.record(self.row) {
            columns.push_record(&record)?;
            self.row += 1;
            if columns.bytes() >= bytes_max {
                break;
            }
        }
        let following = self.records.record(self.row);
        Ok(PluginCall {
            columns,
            next: following.map_or(self.end, |record| record.offset),
        })
    }
}

/// What a batch's records take in columns, give or take a factor of two.
fn expanded_bytes(batch: &Batch) -> usize {
    batch.raw_len().max(batch.count() as usize * RECORD_BYTES)
}

#[cfg(test)]
mod tests {
    use eddy_protocol::Compression;
    use eddy_protocol::batch::BatchBuilder;

    use super::*;

    fn batch(base: u64, values: &[&[u8]], compression: Compression) -> Batch {
        let mut batch = BatchBuilder::default();
        for value in values {
            batch.push(1, None, Some(value), &[]).expect("small");
        }
        let batch = batch.finish(compression, None).expect("a batch");
        batch.with_base_offset(base)
    }

    /// How many records each call has, and the position after it.
    fn calls(feed: &mut Feed, mut position: u64) -> Vec<(usize, u64)> {
        let mut calls = Vec::new();
        while let Some(call) = feed.next(position).expect("whole batches") {
            position = call.next;
            calls.push((call.columns.len(), position));
        }
        assert!(feed.is_empty());
        calls
    }

    #[test]
    fn batches_are_gathered_up_to_the_limit_and_not_past_it() {
        let mut feed = Feed::new(1000);
        let value = [7_u8; 400];
        for base in 0..5 {
            feed.extend(vec![batch(base, &[&value], Compression::None)]);
        }
        assert_eq!(calls(&mut feed, 0), [(2, 2), (2, 4), (1, 5)]);
    }

    #[test]
    fn a_batch_counts_as_what_it_expands_to_and_is_given_in_parts() {
        let value = vec![0_u8; 5_000];
        let bomb = batch(10, &[&value[..]; 8], Compression::Zstd);
        assert!(bomb.len() < 1_000);
        let mut feed = Feed::new(9_000);
        feed.extend(vec![bomb, batch(18, &[b"x"], Compression::None)]);
        assert_eq!(
            calls(&mut feed, 10),
            [(2, 12), (2, 14), (2, 16), (2, 18), (1, 19)]
        );
    }

    #[test]
    fn records_before_the_position_are_left_out() {
        let mut feed = Feed::new(1 << 20);
        let values: [&[u8]; 3] = [b"a", b"b", b"c"];
        feed.extend(vec![batch(5, &values, Compression::Lz4)]);
        let call = feed.next(7).expect("whole").expect("a record");
        assert_eq!((call.columns.offsets(), call.next), (&[7][..], 8));
    }

    #[test]
    fn a_record_larger_than_the_limit_comes_alone() {
        let large = [1_u8; 300];
        let mut feed = Feed::new(100);
        feed.extend(vec![batch(0, &[&large, &large], Compression::None)]);
        assert_eq!(calls(&mut feed, 0), [(1, 1), (1, 2)]);
    }
}
