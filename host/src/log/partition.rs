//! A partition, as its readers see it.

use std::fmt;
use std::sync::Arc;

use eddy_protocol::{Batch, TopicName};

use super::epoch::Resume;
use super::error::ReadError;
use super::id::TopicId;
use super::watch::{WatchGuard, Watcher};
use crate::metrics::TopicMeters;

/// One partition of a topic. Commits change it; whoever reads it never waits for them.
///
/// **Order.** Records are visible in the order of their offsets, and only once the commit that they
/// are part of is as durable as the topic asks for. [`end`](Partition::end) only rises within an
/// epoch.
///
/// **Offsets** rise and may have holes: an engine may need some for itself, as Kafka's markers of
/// transactions do. No reader has to know: batches that follow one another leave no offset out, so
/// a hole between two records lies within a batch, which covers more offsets than it has records;
/// and the end is behind the newest record, not behind a hole. Only what was lost is left out
/// between two batches, and [`next_from`](Partition::next_from) says so.
pub trait Partition: fmt::Debug + Send + Sync {
    /// The topic that the partition is of.
    fn topic(&self) -> TopicId;

    /// The topic's name.
    fn topic_name(&self) -> &TopicName;

    /// The topic's numbers; a partition that is not used does not look them up.
    fn meters(&self) -> &TopicMeters;

    /// Its number, from 0.
    fn number(&self) -> u32;

    /// Changes when history may have been lost.
    fn epoch(&self) -> u32;

    /// What a position means that a reader stored under `epoch` (`None`: by a
    /// release that stored none): the offset of the next record it wants.
    fn resume(&self, epoch: Option<u32>, offset: u64) -> Resume;

    /// The oldest offset that can be read.
    fn start(&self) -> u64;

    /// Behind the newest visible record: the offset that a reader waits for.
    fn end(&self) -> u64;

    /// What it takes on disk.
    fn bytes(&self) -> u64;

    /// The oldest offset at or behind `offset` that can be read: retention and
    /// repairs of damage leave others out. A reader that this takes further has
    /// lost what is between.
    fn next_from(&self, offset: u64) -> u64;

    /// Why the partition is stopped; `None` while it serves.
    fn stopped(&self) -> Option<String>;

    /// Whether its topic was deleted, which stops it for good.
    fn is_deleted(&self) -> bool;

    /// The batches from `offset` on that are in memory; stops after the one
    /// that passes `bytes_max`, which counts what the batches take expanded.
    /// Never waits.
    fn read_tail(&self, offset: u64, bytes_max: u64) -> TailRead;

    /// The batches from `offset` on; stops after the one that passes
    /// `bytes_max` (which counts what the batches take expanded), where the engine
    /// keeps its records in parts at a part's end, or at the partition's end. May
    /// wait for the engine.
    fn read(&self, offset: u64, bytes_max: u64) -> Result<Read, ReadError>;

    /// The offset of the first record whose timestamp is not older than
    /// `time_ms`; the partition's end if there is none. May wait for the engine.
    fn offset_at_time(&self, time_ms: i64) -> Result<u64, ReadError>;

    /// Calls `watcher` after every change of the end, the start or the state.
    fn watch(&self, watcher: &Arc<dyn Watcher>) -> WatchGuard;
}

/// What the newest batches in memory say about an offset.
#[derive(Debug, Clone)]
pub enum TailRead {
    /// Batches, the first holding the offset or [the next
    /// one](Partition::next_from) that is there, each beginning where the one
    /// before ended.
    Batches(Vec<Batch>),
    /// The offset is the partition's end: nothing yet.
    AtEnd,
    /// The record exists, but not in memory: [`Partition::read`] has it.
    OnDisk,
    /// Retention removed the record.
    BelowStart {
        /// The oldest offset.
        start: u64,
    },
    /// The offset was never given.
    BeyondEnd {
        /// The offset that the next record will get.
        end: u64,
    },
    /// The partition is stopped.
    Stopped(Arc<str>),
}

/// Batches from a partition: the first holds the offset that was asked for (or
/// [the next one](Partition::next_from) that is there), each begins where the
/// one before ended. Empty at the partition's end.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// The batches; those from one read share memory.
    pub batches: Vec<Batch>,
}
