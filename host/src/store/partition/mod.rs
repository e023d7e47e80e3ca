//! A partition is three things: where it [stands](extent), whether it
//! [serves](stop), and where its records are.
//!
//! A record is *pending* first (in the journal, not visible yet), then in the
//! [tail] (visible, in memory, shared by all readers), then in [segments]. What is
//! not in a segment yet stays in the tail. The locks here and in a segment are
//! held for moving pointers only, never over a read, a write or a watcher's call.
//!
//! Recovery brings the journal's records to the same partition in the same way
//! (see [`replay`](super::recovery)).

mod extent;
mod read;
pub(crate) mod segments;
pub(crate) mod stop;
mod tail;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use eddy_protocol::{Batch, TopicName};
use parking_lot::Mutex;

use self::extent::Extent;
use self::segments::{Covered, Segments};
use self::stop::{Cause, Service, Stop};
pub(crate) use self::tail::Published;
use self::tail::Tail;
use super::aside::Aside;
use super::producer::PartitionKey;
use super::segment::files::Files;
use super::segment::{Hole, Key, Segment};
use crate::log::{
    self, Epochs, Read, ReadError, Resume, TailRead, TopicId, WatchGuard, Watcher, Watchers,
};
use crate::metrics::TopicMeters;

/// One partition of a topic.
#[derive(Debug)]
pub(crate) struct Partition {
    topic: TopicId,
    name: TopicName,
    number: u32,
    pub(crate) extent: Extent,
    pub(crate) service: Service,
    records: Mutex<Records>,
    watchers: Arc<Watchers>,
    shared: Shared,
    meters: OnceLock<Box<TopicMeters>>,
}

/// What all partitions have together.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) files: Arc<Files>,
    /// What their tails take in memory.
    pub(crate) tails_bytes: Arc<AtomicU64>,
}

/// Where records are.
#[derive(Debug)]
struct Records {
    tail: Tail,
    segments: Segments,
    /// What the last checkpoint has of the segments.
    covered: Covered,
    /// What the last checkpoint has besides, while the segments cannot be written.
    aside: Option<Aside>,
    /// Since when nothing that was tried for its segments has worked.
    failing_since: Option<Instant>,
}

/// How a partition begins.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) epochs: Epochs,
    pub(crate) start: u64,
    pub(crate) segments: Segments,
    pub(crate) covered: Covered,
    pub(crate) stop: Option<Stop>,
    pub(crate) appended_ms: Option<i64>,
}

impl Opened {
    /// A new partition.
    pub(crate) fn fresh(key: PartitionKey) -> Opened {
        Opened {
            epochs: Epochs::first(key.0),
            start: 0,
            segments: Segments::new(key, Vec::new(), Arc::default(), 0),
            covered: Covered::default(),
            stop: None,
            appended_ms: None,
        }
    }
}

impl Partition {
    pub(crate) fn new(
        key: PartitionKey,
        name: TopicName,
        shared: Shared,
        opened: Opened,
    ) -> Partition {
        let end = opened.segments.end();
        let extent = Extent::new(opened.epochs, opened.start, end, opened.appended_ms);
        let partition = Partition {
            topic: key.0,
            name,
            number: key.1,
            extent,
            service: Service::stopped(opened.stop),
            records: Mutex::new(Records {
                tail: Tail::default(),
                segments: opened.segments,
                covered: opened.covered,
                aside: None,
                failing_since: None,
            }),
            watchers: Arc::default(),
            shared,
            meters: OnceLock::new(),
        };
        partition.measure(&partition.records.lock().segments);
        partition
    }

    pub(crate) fn key(&self) -> PartitionKey {
        (self.topic, self.number)
    }

    /// Takes note of what these segments, its own, are.
    fn measure(&self, segments: &Segments) {
        let has_holes = !segments.holes().is_empty();
        self.extent.bytes.store(segments.bytes(), Ordering::Relaxed);
        self.extent.has_holes.store(has_holes, Ordering::Release);
    }

    fn over_holes(&self, offset: u64) -> u64 {
        if !self.extent.has_holes.load(Ordering::Acquire) {
            return offset;
        }
        self.records.lock().segments.over_holes(offset)
    }

    /// Tells who watches the partition that it has changed.
    pub(crate) fn changed(&self) {
        self.watchers.notify(self.topic, self.number);
    }
}

impl log::Partition for Partition {
    fn topic(&self) -> TopicId {
        self.topic
    }

    fn topic_name(&self) -> &TopicName {
        &self.name
    }

    fn meters(&self) -> &TopicMeters {
        self.meters
            .get_or_init(|| Box::new(TopicMeters::of(self.name.as_ref())))
    }

    fn number(&self) -> u32 {
        self.number
    }

    fn epoch(&self) -> u32 {
        self.extent.epoch()
    }

    fn resume(&self, epoch: Option<u32>, offset: u64) -> Resume {
        self.extent.resume(epoch, offset)
    }

    fn start(&self) -> u64 {
        // A repair may have given up the first records.
        self.over_holes(self.extent.start())
    }

    fn end(&self) -> u64 {
        self.extent.end()
    }

    fn bytes(&self) -> u64 {
        self.extent.bytes.load(Ordering::Relaxed)
    }

    fn next_from(&self, offset: u64) -> u64 {
        self.over_holes(offset.max(self.extent.start()))
    }

    fn stopped(&self) -> Option<String> {
        self.stop_reason().map(|reason| reason.to_string())
    }

    fn is_deleted(&self) -> bool {
        self.service.is_stopped_by(Cause::Deleted)
    }

    fn read_tail(&self, offset: u64, bytes_max: u64) -> TailRead {
        self.read_memory(offset, bytes_max)
    }

    fn read(&self, offset: u64, bytes_max: u64) -> Result<Read, ReadError> {
        self.read_on(offset, bytes_max)
    }

    fn offset_at_time(&self, time_ms: i64) -> Result<u64, ReadError> {
        self.find_time(time_ms)
    }

    fn watch(&self, watcher: &Arc<dyn Watcher>) -> WatchGuard {
        WatchGuard::new(&self.watchers, watcher)
    }
}

// Stopping and going on.
impl Partition {
    pub(crate) fn stop_reason(&self) -> Option<Arc<str>> {
        self.service.stop_state().map(|stop| stop.reason)
    }

    /// Stops the partition, unless it is stopped for a graver cause; returns why
    /// it is stopped.
    pub(crate) fn stop(&self, reason: impl Into<Arc<str>>, cause: Cause) -> Arc<str> {
        let reason = match self.service.stop(reason, cause) {
            Ok(reason) => reason,
            Err(graver) => return graver,
        };
        if cause != Cause::Deleted {
            self.report(&reason);
        }
        self.changed();
        reason
    }

    /// Says in the log that it is stopped.
    pub(crate) fn report(&self, reason: &str) {
        tracing::error!(topic = %self.name, partition = self.number, %reason, "the partition is stopped");
    }

    /// Serves again, with these holes; returns the segments that are of no use
    /// any more.
    pub(crate) fn repair(&self, epoch: u32, from: u64, holes: Vec<Hole>) -> Vec<Key> {
        let given_up = self.set_holes(holes);
        self.extent.set_epoch(epoch, from);
        self.service.resume();
        self.changed();
        given_up
    }

    /// Goes on with these holes; returns the segments, also missing ones, of which
    /// nothing is left.
    pub(crate) fn set_holes(&self, holes: Vec<Hole>) -> Vec<Key> {
        let mut records = self.records.lock();
        let records = &mut *records;
        let lost = records.segments.give_up(holes.into());
        self.measure(&records.segments);
        let mut keys: Vec<Key> = lost.iter().map(|segment| segment.key).collect();
        let given_up = records.covered.give_up(&records.segments);
        keys.extend(given_up.map(|base| records.segments.key_of(base)));
        keys
    }
}

// Records on their way to the tail and from there to segments.
impl Partition {
    /// Takes a batch that came to the journal at `now_ms`; it becomes visible once
    /// the group `needs` is synced, and not before those that were pushed earlier.
    pub(crate) fn push(&self, needs: u64, batch: Batch, now_ms: i64) {
        self.extent.set_appended_ms(now_ms);
        self.records.lock().tail.push(needs, batch);
    }

    /// Makes visible what may be.
    pub(crate) fn publish(&self, synced: u64) -> Published {
        let mut records = self.records.lock();
        let published = records.tail.publish(synced, |end| self.extent.set_end(end));
        self.shared
            .tails_bytes
            .fetch_add(published.bytes, Ordering::Relaxed);
        published
    }

    /// The next batches for a segment.
    pub(crate) fn unapplied(&self, bytes_max: u64) -> Vec<Batch> {
        self.records.lock().tail.unapplied(bytes_max)
    }

    /// Takes note that batches are in a segment.
    pub(crate) fn applied(&self, batches: &[Batch], tail_bytes_max: u64) {
        let Some(last) = batches.last() else { return };
        let bytes: u64 = batches.iter().map(|batch| batch.len() as u64).sum();
        self.extent.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut records = self.records.lock();
        records.failing_since = None;
        records.segments.set_end(last.end_offset());
        records.tail.applied(batches.len());
        let freed = records.tail.trim(|_, bytes| bytes > tail_bytes_max);
        self.shared.tails_bytes.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Takes note that something for its segments did not work; returns for how
    /// long nothing has.
    pub(crate) fn failed_again(&self) -> Duration {
        let mut records = self.records.lock();
        let since = records.failing_since.get_or_insert_with(Instant::now);
        since.elapsed()
    }

    /// Frees the memory of what is in no segment; returns how much. Who stops a
    /// partition for good has no reader for it. Not during a turn of the applier.
    pub(crate) fn drop_unapplied(&self) -> u64 {
        let bytes = self.records.lock().tail.drop_unapplied();
        self.shared.tails_bytes.fetch_sub(bytes, Ordering::Relaxed);
        bytes
    }

    /// Whether everything visible is in segments; if so, the applier must be
    /// told of what comes.
    pub(crate) fn leave_queue(&self) -> bool {
        self.records.lock().tail.leave_queue()
    }

    /// Frees the memory of batches below `end` that are in segments.
    pub(crate) fn trim_tail(&self, end: u64) {
        let freed = self
            .records
            .lock()
            .tail
            .trim(|batch, _| batch.end_offset() <= end);
        self.shared.tails_bytes.fetch_sub(freed, Ordering::Relaxed);
    }
}

// Its segments.
impl Partition {
    /// Everything below is in segments.
    pub(crate) fn applied_end(&self) -> u64 {
        self.records.lock().segments.end()
    }

    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.records.lock().segments.list().clone()
    }

    /// The holes that readers still meet.
    pub(crate) fn holes(&self) -> Vec<Hole> {
        let start = self.extent.start();
        let holes = self.records.lock().segments.holes().clone();
        let met = holes.iter().filter(|hole| hole.to > start);
        met.copied().collect()
    }

    /// Its segments as they are now.
    pub(crate) fn segments_state(&self) -> Segments {
        self.records.lock().segments.clone()
    }

    /// Adds the segment that is written from now on.
    pub(crate) fn add_segment(&self, segment: Arc<Segment>) {
        self.extent
            .bytes
            .fetch_add(segment.len(), Ordering::Relaxed);
        self.records.lock().segments.push(segment);
    }

    /// Takes the oldest segment out of the list. Readers get
    /// [`ReadError::BelowStart`] from now on.
    pub(crate) fn remove_first_segment(&self) -> Option<Arc<Segment>> {
        let (removed, start) = self.records.lock().segments.pop_oldest()?;
        self.extent.set_start(start);
        self.extent
            .bytes
            .fetch_sub(removed.len(), Ordering::Relaxed);
        self.changed();
        Some(removed)
    }

    /// Goes on with these segments, in which everything is that was in others or
    /// in memory alone. It is not unwritable any more; only a repair makes it serve.
    pub(crate) fn wrote_again(&self, segments: Segments) {
        self.measure(&segments);
        self.extent.set_end(segments.end());
        let mut records = self.records.lock();
        let freed = records.tail.trim(|_, _| true);
        self.shared.tails_bytes.fetch_sub(freed, Ordering::Relaxed);
        records.segments = segments;
        records.failing_since = None;
        let oldest = records.covered.segment;
        drop(records);
        let now = Cause::Segment(oldest);
        self.service.change_cause(Cause::Unwritable, now);
    }

    /// What the last checkpoint has of the segments, and besides.
    pub(crate) fn covered(&self) -> (Covered, Option<Aside>) {
        let records = self.records.lock();
        (records.covered.clone(), records.aside.clone())
    }

    /// What a checkpoint would have of the segments now, once they are synced.
    pub(crate) fn written(&self) -> Covered {
        let records = self.records.lock();
        let newest = records.segments.newest();
        Covered {
            segment: newest.map_or(0, |segment| segment.key.base),
            length: newest.map_or(0, |segment| segment.len()),
            end: records.segments.end(),
            missing: records.covered.missing.clone(),
        }
    }

    /// Takes note of a checkpoint.
    pub(crate) fn set_covered(&self, covered: Covered, aside: Option<Aside>) {
        let mut records = self.records.lock();
        (records.covered, records.aside) = (covered, aside);
    }
}
