//! A partition: what of it is visible, in memory and in segments, and whether it
//! serves.
//!
//! Records go through three places: *pending* (in the journal, not visible
//! yet), the [tail] (visible, in memory, shared by all readers) and
//! [segments]. What is not in a segment yet stays in the tail. The locks here
//! and in a segment are held for moving pointers only, never over a read, a
//! write or a watcher's call.

mod read;
pub(crate) mod segments;
pub(crate) mod stop;
mod tail;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use eddy_protocol::{Batch, TopicName};
use parking_lot::{Mutex, RwLock};

use self::segments::{Covered, Segments};
use self::stop::{Cause, Repair, Stop};
pub(crate) use self::tail::Published;
use self::tail::Tail;
use super::aside::Aside;
use super::producer::PartitionKey;
use super::segment::files::Files;
use super::segment::{Hole, Key, Segment};
use crate::log::{
    self, Epochs, Partition as _, Read, ReadError, Resume, TailRead, TopicId, WatchGuard, Watcher,
    Watchers,
};
use crate::metrics::TopicMeters;

/// One partition of a topic.
#[derive(Debug)]
pub(crate) struct Partition {
    topic: TopicId,
    name: TopicName,
    number: u32,
    epoch: AtomicU32,
    epochs: Mutex<Epochs>,
    start: AtomicU64,
    end: AtomicU64,
    /// What its segments take on disk.
    bytes: AtomicU64,
    /// When a record was appended last; the least there is: not known.
    appended_ms: AtomicI64,
    /// Whether `stop` has something, for readers to see without a lock.
    is_stopped: AtomicBool,
    stop: RwLock<Option<Stop>>,
    watchers: Arc<Watchers>,
    files: Arc<Files>,
    tails_bytes: Arc<AtomicU64>,
    meters: OnceLock<Box<TopicMeters>>,
    has_holes: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
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
    pub(crate) end: u64,
    pub(crate) segments: Segments,
    pub(crate) covered: Covered,
    pub(crate) aside: Option<Aside>,
    pub(crate) stop: Option<Stop>,
    pub(crate) appended_ms: Option<i64>,
}

impl Opened {
    /// A new partition.
    pub(crate) fn fresh(topic: TopicId, number: u32) -> Opened {
        Opened {
            epochs: Epochs::first(topic),
            start: 0,
            end: 0,
            segments: Segments::new((topic, number), Vec::new(), Arc::default(), 0),
            covered: Covered::default(),
            aside: None,
            stop: None,
            appended_ms: None,
        }
    }
}

impl Partition {
    pub(crate) fn new(
        topic: TopicId,
        name: TopicName,
        number: u32,
        shared: (Arc<Files>, Arc<AtomicU64>),
        opened: Opened,
    ) -> Partition {
        Partition {
            topic,
            name,
            number,
            epoch: AtomicU32::new(opened.epochs.current()),
            epochs: Mutex::new(opened.epochs),
            start: AtomicU64::new(opened.start),
            end: AtomicU64::new(opened.end),
            bytes: AtomicU64::new(opened.segments.bytes()),
            appended_ms: AtomicI64::new(opened.appended_ms.unwrap_or(i64::MIN)),
            is_stopped: AtomicBool::new(opened.stop.is_some()),
            stop: RwLock::new(opened.stop),
            watchers: Arc::default(),
            files: shared.0,
            tails_bytes: shared.1,
            meters: OnceLock::new(),
            has_holes: AtomicBool::new(!opened.segments.holes().is_empty()),
            inner: Mutex::new(Inner {
                tail: Tail::default(),
                segments: opened.segments,
                covered: opened.covered,
                aside: opened.aside,
                failing_since: None,
            }),
        }
    }

    pub(crate) fn key(&self) -> PartitionKey {
        (self.topic, self.number)
    }

    pub(crate) fn epochs(&self) -> Epochs {
        self.epochs.lock().clone()
    }

    fn over_holes(&self, offset: u64) -> u64 {
        if !self.has_holes.load(Ordering::Acquire) {
            return offset;
        }
        self.inner.lock().segments.over_holes(offset)
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
        self.epoch.load(Ordering::Acquire)
    }

    fn resume(&self, epoch: Option<u32>, offset: u64) -> Resume {
        self.epochs.lock().resume(epoch, offset)
    }

    fn start(&self) -> u64 {
        self.start.load(Ordering::Acquire)
    }

    fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn next_from(&self, offset: u64) -> u64 {
        self.over_holes(offset.max(self.start()))
    }

    fn stopped(&self) -> Option<String> {
        self.stop_reason().map(|reason| reason.to_string())
    }

    fn is_deleted(&self) -> bool {
        self.is_stopped_by(Cause::Deleted)
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
    /// The stop, if the partition is stopped.
    pub(crate) fn stop_state(&self) -> Option<Stop> {
        if !self.is_stopped.load(Ordering::Acquire) {
            return None;
        }
        self.stop.read().clone()
    }

    pub(crate) fn stop_reason(&self) -> Option<Arc<str>> {
        self.stop_state().map(|stop| stop.reason)
    }

    pub(crate) fn is_stopped_by(&self, cause: Cause) -> bool {
        self.stop_state().is_some_and(|stop| stop.cause == cause)
    }

    /// Whether what the journal alone has of it can come into no segment.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.is_stopped_by(Cause::Unwritable)
    }

    /// Stops the partition, unless it is stopped for a graver cause; returns why
    /// it is stopped.
    pub(crate) fn stop(&self, reason: impl Into<Arc<str>>, cause: Cause) -> Arc<str> {
        let mut stop = self.stop.write();
        if let Some(now) = stop.as_ref().filter(|now| !cause.outranks(now.cause)) {
            return now.reason.clone();
        }
        let reason = reason.into();
        *stop = Some(Stop::new(reason.clone(), cause));
        self.is_stopped.store(true, Ordering::Release);
        drop(stop);
        if cause != Cause::Deleted {
            tracing::error!(topic = %self.name, partition = self.number, %reason, "the partition is stopped");
        }
        self.changed();
        reason
    }

    /// Serves again, with these holes; returns the segments that are of no use
    /// any more.
    pub(crate) fn repair(&self, epoch: u32, from: u64, holes: Vec<Hole>) -> Vec<Key> {
        let holes: Arc<[Hole]> = holes.into();
        self.has_holes.store(!holes.is_empty(), Ordering::Release);
        let (lost, missing) = {
            let mut inner = self.inner.lock();
            let lost = inner.segments.give_up(holes);
            let missing = std::mem::take(&mut inner.covered.missing);
            let keys = missing.iter().map(|(base, _)| inner.segments.key_of(*base));
            (lost, keys.collect::<Vec<_>>())
        };
        let bytes: u64 = lost.iter().map(|segment| segment.len()).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.set_epoch(epoch, from);
        *self.stop.write() = None;
        self.is_stopped.store(false, Ordering::Release);
        self.changed();
        let lost = lost.iter().map(|segment| segment.key);
        lost.chain(missing).collect()
    }

    /// Says what a repair would do. Nothing may come to the partition meanwhile.
    pub(crate) fn set_repair(&self, repair: Repair) {
        if let Some(stop) = &mut *self.stop.write() {
            stop.repair = Some(repair);
        }
    }

    /// Another epoch begins, if it is another one, at the offset `from`.
    fn set_epoch(&self, epoch: u32, from: u64) {
        self.epochs.lock().begin(epoch, from);
        self.epoch.store(epoch, Ordering::Release);
    }
}

// Records on their way to the tail and from there to segments.
impl Partition {
    /// Takes a batch that came to the journal at `now_ms`; it becomes visible once
    /// the group `needs` is synced, and not before those that were pushed earlier.
    pub(crate) fn push(&self, needs: u64, batch: Batch, now_ms: i64) {
        self.appended_ms.store(now_ms, Ordering::Relaxed);
        self.inner.lock().tail.push(needs, batch);
    }

    /// Makes visible what may be.
    pub(crate) fn publish(&self, synced: u64) -> Published {
        let mut inner = self.inner.lock();
        let published = inner
            .tail
            .publish(synced, |end| self.end.store(end, Ordering::Release));
        self.tails_bytes
            .fetch_add(published.bytes, Ordering::Relaxed);
        published
    }

    /// The next batches for a segment.
    pub(crate) fn unapplied(&self, bytes_max: u64) -> Vec<Batch> {
        self.inner.lock().tail.unapplied(bytes_max)
    }

    /// Takes note that batches are in a segment.
    pub(crate) fn applied(&self, batches: &[Batch], tail_bytes_max: u64) {
        let Some(last) = batches.last() else { return };
        let bytes: u64 = batches.iter().map(|batch| batch.len() as u64).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut inner = self.inner.lock();
        inner.failing_since = None;
        inner.segments.set_end(last.end_offset());
        inner.tail.applied(batches.len());
        let freed = inner.tail.trim(|_, bytes| bytes > tail_bytes_max);
        self.tails_bytes.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Takes note that something for its segments did not work; returns for how
    /// long nothing has.
    pub(crate) fn failed_again(&self) -> Duration {
        let mut inner = self.inner.lock();
        let since = inner.failing_since.get_or_insert_with(Instant::now);
        since.elapsed()
    }

    /// Frees the memory of what is in no segment; returns how much. Who stops a
    /// partition for good has no reader for it. Not during a turn of the applier.
    pub(crate) fn drop_unapplied(&self) -> u64 {
        let bytes = self.inner.lock().tail.drop_unapplied();
        self.tails_bytes.fetch_sub(bytes, Ordering::Relaxed);
        bytes
    }

    /// Whether everything visible is in segments; if so, the applier must be
    /// told of what comes.
    pub(crate) fn leave_queue(&self) -> bool {
        self.inner.lock().tail.leave_queue()
    }

    /// Frees the memory of batches below `end` that are in segments.
    pub(crate) fn trim_tail(&self, end: u64) {
        let freed = self
            .inner
            .lock()
            .tail
            .trim(|batch, _| batch.end_offset() <= end);
        self.tails_bytes.fetch_sub(freed, Ordering::Relaxed);
    }
}

// Its segments.
impl Partition {
    /// When a record was appended last; `None`: not known.
    pub(crate) fn appended_ms(&self) -> Option<i64> {
        let time_ms = self.appended_ms.load(Ordering::Relaxed);
        (time_ms != i64::MIN).then_some(time_ms)
    }

    /// Everything below is in segments.
    pub(crate) fn applied_end(&self) -> u64 {
        self.inner.lock().segments.end()
    }

    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.inner.lock().segments.list().clone()
    }

    /// The holes that readers still meet.
    pub(crate) fn holes(&self) -> Vec<Hole> {
        let start = self.start();
        let holes = self.inner.lock().segments.holes().clone();
        let met = holes.iter().filter(|hole| hole.to > start);
        met.copied().collect()
    }

    /// Its segments as they are now.
    pub(crate) fn segments_state(&self) -> Segments {
        self.inner.lock().segments.clone()
    }

    /// Adds the segment that is written from now on.
    pub(crate) fn add_segment(&self, segment: Arc<Segment>) {
        self.bytes.fetch_add(segment.len(), Ordering::Relaxed);
        self.inner.lock().segments.push(segment);
    }

    /// Takes the oldest segment out of the list. Readers get
    /// [`ReadError::BelowStart`](super::ReadError::BelowStart) from now on.
    pub(crate) fn remove_first_segment(&self) -> Option<Arc<Segment>> {
        let (removed, start) = self.inner.lock().segments.pop_oldest()?;
        self.start.store(start, Ordering::Release);
        self.bytes.fetch_sub(removed.len(), Ordering::Relaxed);
        self.changed();
        Some(removed)
    }

    /// Goes on with these segments, in which everything is that was in others or
    /// in memory alone. A partition at rest is not at rest any more; only a
    /// repair makes it serve.
    pub(crate) fn wrote_again(&self, segments: Segments) {
        self.bytes.store(segments.bytes(), Ordering::Relaxed);
        self.end.store(segments.end(), Ordering::Release);
        let mut inner = self.inner.lock();
        let freed = inner.tail.trim(|_, _| true);
        self.tails_bytes.fetch_sub(freed, Ordering::Relaxed);
        inner.segments = segments;
        inner.failing_since = None;
        let oldest = inner.covered.segment;
        drop(inner);
        let mut stop = self.stop.write();
        if let Some(stop) = stop.as_mut().filter(|it| it.cause == Cause::Unwritable) {
            stop.cause = Cause::Segment(oldest);
        }
    }

    /// What the last checkpoint has of the segments, and besides.
    pub(crate) fn covered(&self) -> (Covered, Option<Aside>) {
        let inner = self.inner.lock();
        (inner.covered.clone(), inner.aside.clone())
    }

    /// What a checkpoint would have of the segments now, once they are synced.
    pub(crate) fn written(&self) -> Covered {
        let inner = self.inner.lock();
        let newest = inner.segments.newest();
        Covered {
            segment: newest.map_or(0, |segment| segment.key.base),
            length: newest.map_or(0, |segment| segment.len()),
            end: inner.segments.end(),
            missing: inner.covered.missing.clone(),
        }
    }

    /// Takes note of a checkpoint.
    pub(crate) fn set_covered(&self, covered: Covered, aside: Option<Aside>) {
        let mut inner = self.inner.lock();
        (inner.covered, inner.aside) = (covered, aside);
    }
}
