//! A partition of the engine in memory.

use std::sync::Arc;

use eddy_protocol::batch::{ColumnBuf, OffsetMode, Rows};
use eddy_protocol::{Batch, Compression, TopicName};
use parking_lot::Mutex;

use super::kept::Kept;
use crate::log::{
    Epochs, Partition, Read, ReadError, Resume, TailRead, TopicId, WatchGuard, Watcher, Watchers,
};
use crate::metrics::TopicMeters;

/// A partition's records.
#[derive(Debug, Clone)]
pub(super) struct Records {
    pub(super) epochs: Epochs,
    pub(super) start: u64,
    /// Behind the newest record.
    pub(super) end: u64,
    /// What the next one gets.
    pub(super) next: u64,
    /// Each begins where the one before ended.
    pub(super) batches: Vec<Batch>,
    pub(super) is_deleted: bool,
}

impl Records {
    pub(super) fn new(topic: TopicId) -> Records {
        Records {
            epochs: Epochs::first(topic),
            start: 0,
            end: 0,
            next: 0,
            batches: Vec::new(),
            is_deleted: false,
        }
    }

    /// Adds a batch, which covers what was left out before it; returns its first record's offset.
    pub(super) fn append(&mut self, batch: &Batch, left_out: u32) -> u64 {
        let first = self.next;
        let batch = batch.clone().with_base_offset(first);
        let batch = match first == self.end {
            true => batch,
            false => covering(&batch, self.end),
        };
        self.end = batch.end_offset();
        self.next = self.end + u64::from(left_out);
        self.batches.push(batch);
        first
    }

    pub(super) fn bytes(&self) -> u64 {
        self.batches.iter().map(|batch| batch.len() as u64).sum()
    }

    pub(super) fn retain(&mut self, bytes_max: u64) {
        while self.batches.len() > 1 && self.bytes() > bytes_max {
            self.start = self.batches.remove(0).end_offset();
        }
    }
}

/// The batch, covering the offsets from `from` on, too.
fn covering(batch: &Batch, from: u64) -> Batch {
    let mut columns = ColumnBuf::new();
    columns.extend_from(batch).expect("it was checked");
    let span = u32::try_from(batch.end_offset() - from).expect("few are left out");
    let offsets = OffsetMode::Sparse { base: from, span };
    let covering = columns.encode(Rows::All, offsets, Compression::None, None);
    covering.expect("it is hardly larger")
}

/// A partition.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) topic: TopicId,
    pub(super) name: TopicName,
    pub(super) number: u32,
    pub(super) meters: TopicMeters,
    pub(super) watchers: Arc<Watchers>,
    pub(super) kept: Arc<Mutex<Kept>>,
}

impl Part {
    fn look<T>(&self, look: impl FnOnce(&Records) -> T) -> T {
        let kept = self.kept.lock();
        look(
            kept.records
                .get(&(self.topic, self.number))
                .expect("each partition has some"),
        )
    }

    fn why_stopped(&self) -> Option<Arc<str>> {
        let reason = || format!("topic `{}` was deleted", self.name).into();
        self.is_deleted().then(reason)
    }
}

impl Partition for Part {
    fn topic(&self) -> TopicId {
        self.topic
    }

    fn topic_name(&self) -> &TopicName {
        &self.name
    }

    fn meters(&self) -> &TopicMeters {
        &self.meters
    }

    fn number(&self) -> u32 {
        self.number
    }

    fn epoch(&self) -> u32 {
        self.look(|it| it.epochs.current())
    }

    fn resume(&self, epoch: Option<u32>, offset: u64) -> Resume {
        self.look(|it| it.epochs.resume(epoch, offset))
    }

    fn start(&self) -> u64 {
        self.look(|it| it.start)
    }

    fn end(&self) -> u64 {
        self.look(|it| it.end)
    }

    fn bytes(&self) -> u64 {
        self.look(Records::bytes)
    }

    fn next_from(&self, offset: u64) -> u64 {
        offset.max(self.start())
    }

    fn stopped(&self) -> Option<String> {
        self.why_stopped().map(|reason| reason.to_string())
    }

    fn is_deleted(&self) -> bool {
        self.look(|it| it.is_deleted)
    }

    fn read_tail(&self, offset: u64, bytes_max: u64) -> TailRead {
        if let Some(reason) = self.why_stopped() {
            return TailRead::Stopped(reason);
        }
        self.look(
            |&Records {
                 start,
                 end,
                 ref batches,
                 ..
             }| {
                if offset < start {
                    return TailRead::BelowStart { start };
                }
                if offset > end {
                    return TailRead::BeyondEnd { end };
                }
                let mut bytes = 0;
                let is_wanted = |batch: &&Batch| {
                    let is_wanted = bytes < bytes_max.max(1);
                    bytes += batch.expanded_len() as u64;
                    is_wanted
                };
                let from = batches
                    .iter()
                    .skip_while(|batch| batch.end_offset() <= offset);
                let found: Vec<Batch> = from.take_while(is_wanted).cloned().collect();
                match found.is_empty() {
                    true => TailRead::AtEnd,
                    false => TailRead::Batches(found),
                }
            },
        )
    }

    fn read(&self, offset: u64, bytes_max: u64) -> Result<Read, ReadError> {
        match self.read_tail(offset, bytes_max) {
            TailRead::Batches(batches) => Ok(Read { batches }),
            TailRead::AtEnd | TailRead::OnDisk => Ok(Read::default()),
            TailRead::BelowStart { start } => Err(ReadError::BelowStart { start }),
            TailRead::BeyondEnd { end } => Err(ReadError::BeyondEnd { end }),
            TailRead::Stopped(reason) => Err(ReadError::Stopped(reason)),
        }
    }

    fn offset_at_time(&self, time_ms: i64) -> Result<u64, ReadError> {
        if let Some(reason) = self.why_stopped() {
            return Err(ReadError::Stopped(reason));
        }
        self.look(|it| {
            for batch in &it.batches {
                let records = batch.records().expect("it was checked");
                if let Some(found) = records.iter().find(|record| record.timestamp >= time_ms) {
                    return Ok(found.offset);
                }
            }
            Ok(it.end)
        })
    }

    fn watch(&self, watcher: &Arc<dyn Watcher>) -> WatchGuard {
        WatchGuard::new(&self.watchers, watcher)
    }
}
