//! A partition as readers see it: what is visible, in memory and in segments.
//!
//! Records go through three places: *pending* (in the journal, not visible
//! yet), the *tail* (visible, in memory, shared by all readers) and segments.
//! What is not in a segment yet stays in the tail. Readers never wait on the
//! writer: the lock here is held for moving pointers only, never over a read,
//! a write or a watcher's call.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use eddy_protocol::{Batch, TopicName};
use parking_lot::{Mutex, RwLock};

use super::commit::TopicId;
use super::error::ReadError;
use super::segment::files::Files;
use super::segment::read::{self, Place, Wanted};
use super::segment::{Fault, Segment};
use super::watch::{WatchGuard, Watcher, Watchers};
use crate::metrics::TopicMeters;

/// How many readers' places a partition remembers, so that each goes on
/// without looking for its batch again.
const PLACES: usize = 8;

/// One partition of a topic.
#[derive(Debug)]
pub struct Partition {
    topic: TopicId,
    name: TopicName,
    number: u32,
    epoch: AtomicU32,
    start: AtomicU64,
    end: AtomicU64,
    bytes: AtomicU64,
    /// Segments that begin below this are wholly covered by a checkpoint.
    checkpointed: AtomicU64,
    is_stopped: AtomicBool,
    stopped: RwLock<Option<Arc<str>>>,
    /// Whether recovery stopped it, and [`Partition::repair`] may let it go on.
    can_repair: AtomicBool,
    /// Segments that are waited for, see the checkpoint.
    missed: Box<[(u64, u64)]>,
    /// Its topic was deleted: nothing may be written any more.
    is_deleted: AtomicBool,
    pub(crate) watchers: Watchers,
    files: Arc<Files>,
    tails_bytes: Arc<AtomicU64>,
    meters: OnceLock<Box<TopicMeters>>,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    pending: VecDeque<(u64, Batch)>,
    tail: VecDeque<Batch>,
    tail_bytes: u64,
    /// How many batches at the tail's front are in segments.
    applied_batches: usize,
    /// Records below this offset are in segments.
    applied: u64,
    is_queued: bool,
    segments: Arc<Vec<Arc<Segment>>>,
    places: [(u64, Place); PLACES],
    place_next: usize,
}

/// How a partition begins.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) epoch: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) checkpointed: u64,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) stopped: Option<Arc<str>>,
    pub(crate) missed: Vec<(u64, u64)>,
}

/// The epoch in which a topic's partitions begin. A topic of the same name that
/// was there before had others, so that its readers can tell.
pub(crate) fn first_epoch(topic: TopicId) -> u32 {
    const EPOCHS_EACH: u32 = 1 << 12;
    let earlier = topic.0.wrapping_sub(1) as u32;
    earlier.wrapping_mul(EPOCHS_EACH).wrapping_add(1)
}

impl Opened {
    /// A new partition.
    pub(crate) fn fresh(topic: TopicId) -> Opened {
        Opened {
            epoch: first_epoch(topic),
            start: 0,
            end: 0,
            checkpointed: 0,
            segments: Vec::new(),
            stopped: None,
            missed: Vec::new(),
        }
    }
}

/// What the newest batches in memory say about an offset.
#[derive(Debug, Clone)]
pub enum TailRead {
    /// Batches, the first holding the offset, each beginning where the one
    /// before ended.
    Batches(Vec<Batch>),
    /// The offset is the partition's end: nothing yet.
    AtEnd,
    /// The record exists, in a segment: [`Partition::read`] has it.
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

/// Batches from a partition: the first holds the offset that was asked for,
/// each begins where the one before ended. Empty at the partition's end.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// The batches; those from one read share memory.
    pub batches: Vec<Batch>,
}

impl Partition {
    pub(crate) fn new(
        topic: TopicId,
        name: TopicName,
        number: u32,
        shared: (Arc<Files>, Arc<AtomicU64>),
        opened: Opened,
    ) -> Partition {
        let bytes = opened.segments.iter().map(|segment| segment.len()).sum();
        Partition {
            topic,
            name,
            number,
            epoch: AtomicU32::new(opened.epoch),
            start: AtomicU64::new(opened.start),
            end: AtomicU64::new(opened.end),
            bytes: AtomicU64::new(bytes),
            checkpointed: AtomicU64::new(opened.checkpointed),
            is_stopped: AtomicBool::new(opened.stopped.is_some()),
            can_repair: AtomicBool::new(opened.stopped.is_some()),
            missed: opened.missed.into(),
            is_deleted: AtomicBool::new(false),
            stopped: RwLock::new(opened.stopped),
            watchers: Watchers::default(),
            files: shared.0,
            tails_bytes: shared.1,
            meters: OnceLock::new(),
            inner: Mutex::new(Inner {
                pending: VecDeque::new(),
                tail: VecDeque::new(),
                tail_bytes: 0,
                applied_batches: 0,
                applied: opened.end,
                is_queued: false,
                segments: Arc::new(opened.segments),
                places: [(u64::MAX, Place { offset: 0, at: 0 }); PLACES],
                place_next: 0,
            }),
        }
    }

    /// The topic that the partition is of.
    pub fn topic(&self) -> TopicId {
        self.topic
    }

    /// The topic's name.
    pub fn topic_name(&self) -> &TopicName {
        &self.name
    }

    /// The topic's numbers; a partition that is not used does not look them up.
    pub fn meters(&self) -> &TopicMeters {
        self.meters
            .get_or_init(|| Box::new(TopicMeters::of(self.name.as_ref())))
    }

    /// Its number, from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Changes when history may have been lost.
    pub fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The oldest offset.
    pub fn start(&self) -> u64 {
        self.start.load(Ordering::Acquire)
    }

    /// Behind the newest visible record: the offset that a reader waits for.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// What its segments take on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Why the partition is stopped; `None` while it serves.
    pub fn stopped(&self) -> Option<String> {
        self.stop_reason().map(|reason| reason.to_string())
    }

    pub(crate) fn stop_reason(&self) -> Option<Arc<str>> {
        if !self.is_stopped.load(Ordering::Acquire) {
            return None;
        }
        self.stopped.read().clone()
    }

    /// Calls `watcher` after every change of the end, the start or the state.
    pub fn watch(self: &Arc<Self>, watcher: &Arc<dyn Watcher>) -> WatchGuard {
        WatchGuard {
            partition: self.clone(),
            id: self.watchers.add(watcher),
        }
    }

    /// The batches from `offset` on that are in memory; stops after the one
    /// that passes `bytes_max`. Never waits.
    pub fn read_tail(&self, offset: u64, bytes_max: u64) -> TailRead {
        if let Some(reason) = self.stop_reason() {
            return TailRead::Stopped(reason);
        }
        let inner = self.inner.lock();
        let (start, end) = (self.start(), self.end());
        if offset < start {
            return TailRead::BelowStart { start };
        }
        if offset >= end {
            return if offset == end {
                TailRead::AtEnd
            } else {
                TailRead::BeyondEnd { end }
            };
        }
        match inner.tail.front() {
            Some(first) if first.base_offset() <= offset => {
                TailRead::Batches(inner.tail_from(offset, bytes_max))
            }
            _ => TailRead::OnDisk,
        }
    }

    /// The batches from `offset` on; stops after the one that passes
    /// `bytes_max`, at a segment's end, or at the partition's end. May wait for
    /// the disk.
    pub fn read(&self, offset: u64, bytes_max: u64) -> Result<Read, ReadError> {
        loop {
            match self.read_tail(offset, bytes_max) {
                TailRead::Batches(batches) => return Ok(Read { batches }),
                TailRead::AtEnd => return Ok(Read::default()),
                TailRead::BelowStart { start } => return Err(ReadError::BelowStart { start }),
                TailRead::BeyondEnd { end } => return Err(ReadError::BeyondEnd { end }),
                TailRead::Stopped(reason) => return Err(ReadError::Stopped(reason)),
                TailRead::OnDisk => {}
            }
            match self.read_segment(offset, bytes_max) {
                Ok(batches) => return Ok(Read { batches }),
                // Retention was faster; the next round says so.
                Err(Fault::Missing { .. }) if offset < self.start() => {}
                Err(fault) => return Err(self.fail(&fault)),
            }
        }
    }

    /// The offset of the first record whose timestamp is not older than
    /// `time_ms`; the partition's end if there is none. May wait for the disk.
    pub fn offset_at_time(&self, time_ms: i64) -> Result<u64, ReadError> {
        if let Some(reason) = self.stop_reason() {
            return Err(ReadError::Stopped(reason));
        }
        let (segments, tail, applied) = {
            let inner = self.inner.lock();
            let unapplied: Vec<Batch> = inner
                .tail
                .iter()
                .skip(inner.applied_batches)
                .cloned()
                .collect();
            (inner.segments.clone(), unapplied, inner.applied)
        };
        for segment in segments.iter() {
            match self.time_in_segment(segment, time_ms, applied) {
                Ok(None) => {}
                Ok(Some(offset)) => return Ok(offset.max(self.start())),
                Err(Fault::Missing { .. }) if segment.key.base < self.start() => {}
                Err(fault) => return Err(self.fail(&fault)),
            }
        }
        let found = tail.iter().find(|batch| batch.timestamp_max() >= time_ms);
        Ok(found.map_or_else(|| self.end(), |batch| first_at(batch, time_ms)))
    }

    fn time_in_segment(
        &self,
        segment: &Segment,
        time_ms: i64,
        applied: u64,
    ) -> Result<Option<u64>, Fault> {
        if segment
            .timestamp_max(&self.files)?
            .is_none_or(|newest| newest < time_ms)
        {
            return Ok(None);
        }
        let (mut offset, at) = segment.locate_time(&self.files, time_ms)?;
        let mut from = Place { offset, at };
        loop {
            let wanted = Wanted {
                offset,
                bytes_max: 1 << 18,
                len: segment.len(),
            };
            let found = read::read(&self.files, segment.key, from, wanted)?;
            if let Some(batch) = found
                .batches
                .iter()
                .find(|batch| batch.timestamp_max() >= time_ms)
            {
                return Ok(Some(first_at(batch, time_ms)));
            }
            if found.batches.is_empty() || found.next.offset >= applied {
                return Ok(None);
            }
            (offset, from) = (found.next.offset, found.next);
        }
    }

    fn read_segment(&self, offset: u64, bytes_max: u64) -> Result<Vec<Batch>, Fault> {
        let (segment, place) = {
            let inner = self.inner.lock();
            let Some(segment) = inner.segment_of(offset) else {
                return Err(Fault::Missing {
                    path: self.files.disk().describe(&self.key(offset).path()),
                });
            };
            let place = inner
                .places
                .iter()
                .find(|(base, place)| *base == segment.key.base && place.offset == offset);
            (segment, place.map(|(_, place)| *place))
        };
        let found = match self.read_at(&segment, offset, bytes_max, place) {
            // A wrong index sends readers to a wrong place; only a second look, with an index made
            // from the segment itself, tells that from a damaged segment.
            Err(Fault::Damaged { .. }) => {
                segment.rebuild_index(&self.files)?;
                self.read_at(&segment, offset, bytes_max, None)?
            }
            other => other?,
        };
        self.files.watch(&segment);
        if found.batches.is_empty() {
            let path = self.files.disk().describe(&segment.key.path());
            let reason = format!(
                "it ends at offset {}, offset {offset} should be in it",
                found.next.offset
            );
            return Err(Fault::Damaged {
                path,
                at: found.next.at,
                reason,
            });
        }
        let mut inner = self.inner.lock();
        let slot = inner.place_next;
        inner.places[slot] = (segment.key.base, found.next);
        inner.place_next = (slot + 1) % PLACES;
        Ok(found.batches)
    }

    fn read_at(
        &self,
        segment: &Segment,
        offset: u64,
        bytes_max: u64,
        place: Option<Place>,
    ) -> Result<read::Found, Fault> {
        let place = match place {
            Some(place) => place,
            None => {
                let (offset, at) = segment.locate(&self.files, offset)?;
                Place { offset, at }
            }
        };
        read::read(
            &self.files,
            segment.key,
            place,
            Wanted {
                offset,
                bytes_max,
                len: segment.len(),
            },
        )
    }

    fn key(&self, base: u64) -> super::segment::Key {
        super::segment::Key {
            topic: self.topic,
            partition: self.number,
            base,
        }
    }

    /// Damage stops the partition; what the system could not do may work the next time.
    fn fail(&self, fault: &Fault) -> ReadError {
        match fault {
            Fault::Io { path, reason } => ReadError::Io {
                path: path.clone(),
                reason: reason.clone(),
            },
            Fault::Missing { .. } | Fault::Damaged { .. } => {
                ReadError::Stopped(self.stop(fault.to_string().into()))
            }
        }
    }

    /// Stops the partition, unless it is stopped; returns why it is.
    pub(crate) fn stop(&self, reason: Arc<str>) -> Arc<str> {
        let reason = self.halt(reason);
        tracing::error!(topic = %self.name, partition = self.number, %reason, "the partition is stopped");
        reason
    }

    /// As [`stop`](Partition::stop), for good: the topic was deleted.
    pub(crate) fn delete(&self) {
        self.is_deleted.store(true, Ordering::Release);
        self.halt(format!("topic `{}` was deleted", self.name).into());
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.is_deleted.load(Ordering::Acquire)
    }

    fn halt(&self, reason: Arc<str>) -> Arc<str> {
        let mut stopped = self.stopped.write();
        if let Some(reason) = &*stopped {
            return reason.clone();
        }
        *stopped = Some(reason.clone());
        self.is_stopped.store(true, Ordering::Release);
        drop(stopped);
        self.watchers.notify(self.topic, self.number);
        reason
    }

    /// Why recovery stopped the partition; a checkpoint keeps that.
    pub(crate) fn lasting_stop(&self) -> Option<Arc<str>> {
        if self.can_repair() {
            self.stop_reason()
        } else {
            None
        }
    }

    pub(crate) fn missed(&self) -> &[(u64, u64)] {
        &self.missed
    }

    pub(crate) fn can_repair(&self) -> bool {
        self.can_repair.load(Ordering::Acquire)
    }

    pub(crate) fn repair(&self, epoch: u32) {
        self.set_epoch(epoch);
        *self.stopped.write() = None;
        self.can_repair.store(false, Ordering::Release);
        self.is_stopped.store(false, Ordering::Release);
        self.watchers.notify(self.topic, self.number);
    }

    pub(crate) fn set_epoch(&self, epoch: u32) {
        self.epoch.store(epoch, Ordering::Release);
    }
}

// What the engine does with a partition.
impl Partition {
    /// Takes a batch that is in the journal; it becomes visible once the group
    /// `needs` is synced, and not before those that were pushed earlier.
    pub(crate) fn push(&self, needs: u64, batch: Batch) {
        self.inner.lock().pending.push_back((needs, batch));
    }

    /// Makes visible what may be; returns whether the applier must be told.
    pub(crate) fn publish(&self, synced: u64) -> Published {
        let mut inner = self.inner.lock();
        let (mut records, mut batches, mut bytes) = (0, 0, 0);
        while inner
            .pending
            .front()
            .is_some_and(|(needs, _)| *needs <= synced)
        {
            let Some((_, batch)) = inner.pending.pop_front() else {
                break;
            };
            records += u64::from(batch.count());
            batches += 1;
            bytes += batch.len() as u64;
            self.end.store(batch.end_offset(), Ordering::Release);
            inner.tail.push_back(batch);
        }
        inner.tail_bytes += bytes;
        self.tails_bytes.fetch_add(bytes, Ordering::Relaxed);
        let must_queue = bytes > 0 && !inner.is_queued;
        inner.is_queued |= must_queue;
        Published {
            records,
            batches,
            bytes,
            must_queue,
        }
    }

    /// The next batches for a segment.
    pub(crate) fn unapplied(&self, bytes_max: u64) -> Vec<Batch> {
        let inner = self.inner.lock();
        let mut bytes = 0;
        let mut taken = Vec::new();
        for batch in inner.tail.iter().skip(inner.applied_batches) {
            if bytes >= bytes_max {
                break;
            }
            bytes += batch.len() as u64;
            taken.push(batch.clone());
        }
        taken
    }

    /// Takes note that batches are in a segment.
    pub(crate) fn applied(&self, batches: &[Batch], tail_bytes_max: u64) {
        let Some(last) = batches.last() else { return };
        let bytes: u64 = batches.iter().map(|batch| batch.len() as u64).sum();
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let mut inner = self.inner.lock();
        inner.applied = last.end_offset();
        inner.applied_batches += batches.len();
        while inner.tail_bytes > tail_bytes_max && self.drop_front(&mut inner) {}
    }

    /// Whether everything visible is in segments; if so, the applier must be
    /// told of what comes.
    pub(crate) fn leave_queue(&self) -> bool {
        let mut inner = self.inner.lock();
        let is_done = inner.applied_batches == inner.tail.len();
        inner.is_queued = !is_done;
        is_done
    }

    /// Frees the memory of batches below `end` that are in segments.
    pub(crate) fn trim_tail(&self, end: u64) {
        let mut inner = self.inner.lock();
        while inner
            .tail
            .front()
            .is_some_and(|batch| batch.end_offset() <= end)
            && self.drop_front(&mut inner)
        {}
    }

    fn drop_front(&self, inner: &mut Inner) -> bool {
        if inner.applied_batches == 0 {
            return false;
        }
        let Some(batch) = inner.tail.pop_front() else {
            return false;
        };
        inner.applied_batches -= 1;
        inner.tail_bytes -= batch.len() as u64;
        self.tails_bytes
            .fetch_sub(batch.len() as u64, Ordering::Relaxed);
        true
    }

    pub(crate) fn applied_end(&self) -> u64 {
        self.inner.lock().applied
    }

    pub(crate) fn segments(&self) -> Arc<Vec<Arc<Segment>>> {
        self.inner.lock().segments.clone()
    }

    /// Adds the segment that is written from now on.
    pub(crate) fn add_segment(&self, segment: Arc<Segment>) {
        self.bytes.fetch_add(segment.len(), Ordering::Relaxed);
        let mut inner = self.inner.lock();
        let mut segments = Vec::clone(&inner.segments);
        segments.push(segment);
        inner.segments = Arc::new(segments);
    }

    /// Takes the oldest segment out of the list. Readers get
    /// [`ReadError::BelowStart`] from now on.
    pub(crate) fn remove_first_segment(&self) -> Option<Arc<Segment>> {
        let mut inner = self.inner.lock();
        let mut segments = Vec::clone(&inner.segments);
        if segments.len() < 2 {
            return None;
        }
        let removed = segments.remove(0);
        self.start.store(segments[0].key.base, Ordering::Release);
        inner.segments = Arc::new(segments);
        drop(inner);
        self.bytes.fetch_sub(removed.len(), Ordering::Relaxed);
        self.watchers.notify(self.topic, self.number);
        Some(removed)
    }

    pub(crate) fn checkpointed(&self) -> u64 {
        self.checkpointed.load(Ordering::Acquire)
    }

    pub(crate) fn set_checkpointed(&self, base: u64) {
        self.checkpointed.store(base, Ordering::Release);
    }
}

/// What a publication did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Published {
    pub(crate) records: u64,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
    pub(crate) must_queue: bool,
}

impl Inner {
    fn tail_from(&self, offset: u64, bytes_max: u64) -> Vec<Batch> {
        let from = self
            .tail
            .partition_point(|batch| batch.end_offset() <= offset);
        let mut bytes = 0;
        let mut found = Vec::new();
        for batch in self.tail.range(from..) {
            bytes += batch.len() as u64;
            found.push(batch.clone());
            if bytes >= bytes_max {
                break;
            }
        }
        found
    }

    fn segment_of(&self, offset: u64) -> Option<Arc<Segment>> {
        let behind = self
            .segments
            .partition_point(|segment| segment.key.base <= offset);
        self.segments.get(behind.checked_sub(1)?).cloned()
    }
}

/// The first record of `batch` that is not older than `time_ms`; there is one.
fn first_at(batch: &Batch, time_ms: i64) -> u64 {
    let found = batch.records().ok().and_then(|records| {
        records
            .iter()
            .find(|record| record.timestamp >= time_ms)
            .map(|record| record.offset)
    });
    found.unwrap_or_else(|| batch.base_offset())
}
