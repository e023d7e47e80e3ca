//! A partition as readers see it: what is visible, in memory and in segments.
//!
//! Records go through three places: *pending* (in the journal, not visible
//! yet), the *tail* (visible, in memory, shared by all readers) and segments.
//! What is not in a segment yet stays in the tail. Readers never wait on the
//! writer: the locks here and in a segment are held for moving pointers only,
//! never over a read, a write or a watcher's call. Only who is the first to
//! need a segment's index waits for it, with the others who need it then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use eddy_protocol::{Batch, TopicName};
use parking_lot::{Mutex, RwLock};

use super::commit::TopicId;
use super::epoch::{Epochs, Resume};
use super::error::ReadError;
use super::segment::files::Files;
use super::segment::read::{self, Place};
use super::segment::{Fault, Hole, Key, Segment, is_lost};
use super::watch::{WatchGuard, Watcher, Watchers};
use crate::metrics::TopicMeters;

/// How many readers' places a partition remembers, so that each goes on
/// without looking for its batch again.
const PLACES: usize = 8;

const NO_PLACES: [(u64, Place); PLACES] = [(u64::MAX, Place { offset: 0, at: 0 }); PLACES];

/// One partition of a topic.
#[derive(Debug)]
pub struct Partition {
    topic: TopicId,
    name: TopicName,
    number: u32,
    epoch: AtomicU32,
    epochs: Mutex<Epochs>,
    start: AtomicU64,
    end: AtomicU64,
    bytes: AtomicU64,
    /// Segments that begin below this are wholly covered by a checkpoint.
    checkpointed: AtomicU64,
    is_stopped: AtomicBool,
    stopped: RwLock<Option<Stop>>,
    /// The journal has records of it that can come into no segment: no
    /// checkpoint may let them go.
    is_held: AtomicBool,
    /// Segments that are waited for, see the checkpoint.
    missed: Mutex<Vec<(u64, u64)>>,
    /// Its topic was deleted: nothing may be written any more.
    is_deleted: AtomicBool,
    pub(crate) watchers: Watchers,
    files: Arc<Files>,
    tails_bytes: Arc<AtomicU64>,
    meters: OnceLock<Box<TopicMeters>>,
    has_holes: AtomicBool,
    inner: Mutex<Inner>,
}

/// Why a partition is stopped.
#[derive(Debug, Clone)]
struct Stop {
    reason: Arc<str>,
    /// The segment, by its base, that a repair must look at.
    segment: Option<u64>,
    /// Whether a checkpoint keeps it, because recovery cannot find it out again.
    is_lasting: bool,
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
    /// When the first of the applier's turns was that did nothing since one did something.
    failing_since: Option<Instant>,
    segments: Arc<Vec<Arc<Segment>>>,
    /// In the order of their offsets.
    holes: Arc<[Hole]>,
    places: [(u64, Place); PLACES],
    place_next: usize,
}

/// How a partition begins.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) epochs: Epochs,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) checkpointed: u64,
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) holes: Arc<[Hole]>,
    pub(crate) stopped: Option<Arc<str>>,
    pub(crate) missed: Vec<(u64, u64)>,
}

impl Opened {
    /// A new partition.
    pub(crate) fn fresh(topic: TopicId) -> Opened {
        Opened {
            epochs: Epochs::first(topic),
            start: 0,
            end: 0,
            checkpointed: 0,
            segments: Vec::new(),
            holes: Arc::default(),
            stopped: None,
            missed: Vec::new(),
        }
    }
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

/// Batches from a partition: the first holds the offset that was asked for (or
/// [the next one](Partition::next_from) that is there), each begins where the
/// one before ended. Empty at the partition's end.
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
            epoch: AtomicU32::new(opened.epochs.current()),
            epochs: Mutex::new(opened.epochs),
            start: AtomicU64::new(opened.start),
            end: AtomicU64::new(opened.end),
            bytes: AtomicU64::new(bytes),
            checkpointed: AtomicU64::new(opened.checkpointed),
            is_stopped: AtomicBool::new(opened.stopped.is_some()),
            is_held: AtomicBool::new(false),
            missed: Mutex::new(opened.missed),
            is_deleted: AtomicBool::new(false),
            stopped: RwLock::new(opened.stopped.map(|reason| Stop {
                reason,
                segment: None,
                is_lasting: true,
            })),
            watchers: Watchers::default(),
            files: shared.0,
            tails_bytes: shared.1,
            meters: OnceLock::new(),
            has_holes: AtomicBool::new(!opened.holes.is_empty()),
            inner: Mutex::new(Inner {
                pending: VecDeque::new(),
                tail: VecDeque::new(),
                tail_bytes: 0,
                applied_batches: 0,
                applied: opened.end,
                is_queued: false,
                failing_since: None,
                segments: Arc::new(opened.segments),
                holes: opened.holes,
                places: NO_PLACES,
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

    /// What a position means that a reader stored under `epoch` (`None`: by a
    /// release that stored none): the offset of the next record it wants.
    pub fn resume(&self, epoch: Option<u32>, offset: u64) -> Resume {
        self.epochs.lock().resume(epoch, offset)
    }

    pub(crate) fn epochs(&self) -> Epochs {
        self.epochs.lock().clone()
    }

    /// The oldest offset.
    pub fn start(&self) -> u64 {
        self.start.load(Ordering::Acquire)
    }

    /// The oldest offset at or behind `offset` that can be read: retention and
    /// repairs of damage leave others out. A reader that this takes further has
    /// lost what is between.
    pub fn next_from(&self, offset: u64) -> u64 {
        self.over_holes(offset.max(self.start()))
    }

    fn over_holes(&self, offset: u64) -> u64 {
        if !self.has_holes.load(Ordering::Acquire) {
            return offset;
        }
        self.inner.lock().over_holes(offset)
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
        let stopped = self.stopped.read();
        stopped.as_ref().map(|stop| stop.reason.clone())
    }

    /// Calls `watcher` after every change of the end, the start or the state.
    pub fn watch(self: &Arc<Self>, watcher: &Arc<dyn Watcher>) -> WatchGuard {
        WatchGuard::new(self, watcher)
    }

    /// The batches from `offset` on that are in memory; stops after the one
    /// that passes `bytes_max`, which counts what the batches take expanded.
    /// Never waits.
    pub fn read_tail(&self, offset: u64, bytes_max: u64) -> TailRead {
        if let Some(reason) = self.stop_reason() {
            return TailRead::Stopped(reason);
        }
        let inner = self.inner.lock();
        let (start, end) = (self.start(), self.end());
        if offset < start {
            return TailRead::BelowStart { start };
        }
        let offset = inner.over_holes(offset);
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
    /// `bytes_max` (which counts what the batches take expanded), at a segment's
    /// end, or at the partition's end. May wait for the disk.
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
            let offset = self.over_holes(offset);
            match self.read_segment(offset, bytes_max) {
                Ok(batches) => return Ok(Read { batches }),
                // Retention was faster; the next round says so.
                Err((_, Fault::Missing { .. })) if offset < self.start() => {}
                Err((segment, fault)) => return Err(self.fail(&fault, segment)),
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
            let found = self.look(segment, || self.time_in_segment(segment, time_ms, applied));
            match found {
                Ok(None) => {}
                Ok(Some(offset)) => return Ok(offset.max(self.start())),
                Err(Fault::Missing { .. }) if segment.key.base < self.start() => {}
                Err(fault) => return Err(self.fail(&fault, segment.key.base)),
            }
        }
        let found = tail.iter().find(|batch| batch.timestamp_max() >= time_ms);
        Ok(found.map_or_else(|| self.end(), |batch| first_at(batch, time_ms)))
    }

    fn time_in_segment(
        &self,
        segment: &Arc<Segment>,
        time_ms: i64,
        applied: u64,
    ) -> Result<Option<u64>, Fault> {
        if segment
            .timestamp_max(&self.files)?
            .is_none_or(|newest| newest < time_ms)
        {
            return Ok(None);
        }
        let (offset, at) = segment.locate_time(&self.files, time_ms)?;
        let mut from = Place { offset, at };
        loop {
            let found = segment.read(&self.files, from, from.offset, 1 << 18)?;
            self.files.watch(segment);
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
            from = found.next;
        }
    }

    /// The batches from `offset` on; a fault comes with its segment's base.
    fn read_segment(&self, offset: u64, bytes_max: u64) -> Result<Vec<Batch>, (u64, Fault)> {
        let (segment, place) = {
            let inner = self.inner.lock();
            let Some(segment) = inner.segment_of(offset) else {
                let path = self.files.disk().describe(&self.key(offset).path());
                return Err((offset, Fault::Missing { path }));
            };
            let place = inner
                .places
                .iter()
                .find(|(base, place)| *base == segment.key.base && place.offset == offset);
            (segment, place.map(|(_, place)| *place))
        };
        let mut place = place;
        let look = || self.read_at(&segment, offset, bytes_max, place.take());
        let found = self
            .look(&segment, look)
            .map_err(|fault| (segment.key.base, fault))?;
        self.files.watch(&segment);
        if found.batches.is_empty() {
            let path = self.files.disk().describe(&segment.key.path());
            let reason = format!(
                "it ends at offset {}, offset {offset} should be in it",
                found.next.offset
            );
            let at = found.next.at;
            return Err((segment.key.base, Fault::Damaged { path, at, reason }));
        }
        let mut inner = self.inner.lock();
        let slot = inner.place_next;
        inner.places[slot] = (segment.key.base, found.next);
        inner.place_next = (slot + 1) % PLACES;
        Ok(found.batches)
    }

    /// A wrong index sends readers to a wrong place; only a second look, with an index made from
    /// the segment itself, tells that from a damaged segment.
    fn look<T>(
        &self,
        segment: &Segment,
        mut look: impl FnMut() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match look() {
            Err(Fault::Damaged { .. }) => {
                segment.rebuild_index(&self.files)?;
                look()
            }
            other => other,
        }
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
        segment.read(&self.files, place, offset, bytes_max)
    }

    fn key(&self, base: u64) -> Key {
        Key {
            topic: self.topic,
            partition: self.number,
            base,
        }
    }

    /// Damage stops the partition; what the system could not do may work the next time.
    fn fail(&self, fault: &Fault, segment: u64) -> ReadError {
        match fault {
            Fault::Io { path, reason, .. } => ReadError::Io {
                path: path.clone(),
                reason: reason.clone(),
            },
            Fault::Missing { .. } | Fault::Damaged { .. } => {
                ReadError::Stopped(self.stop(fault.to_string().into(), Some(segment)))
            }
        }
    }

    /// Stops the partition, unless it is stopped; returns why it is. A repair
    /// will look at `segment`; without one there is none before a restart.
    pub(crate) fn stop(&self, reason: Arc<str>, segment: Option<u64>) -> Arc<str> {
        let reason = self.halt(reason, segment);
        tracing::error!(topic = %self.name, partition = self.number, %reason, "the partition is stopped");
        reason
    }

    /// As [`stop`](Partition::stop); and what of it is only in the journal stays there.
    pub(crate) fn hold(&self, reason: Arc<str>, segment: Option<u64>) {
        self.is_held.store(true, Ordering::Release);
        self.stop(reason, segment);
    }

    pub(crate) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Acquire)
    }

    /// As [`stop`](Partition::stop), for good: the topic was deleted.
    pub(crate) fn delete(&self) {
        self.is_deleted.store(true, Ordering::Release);
        self.halt(format!("topic `{}` was deleted", self.name).into(), None);
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.is_deleted.load(Ordering::Acquire)
    }

    fn halt(&self, reason: Arc<str>, segment: Option<u64>) -> Arc<str> {
        let mut stopped = self.stopped.write();
        if let Some(stop) = &*stopped {
            return stop.reason.clone();
        }
        *stopped = Some(Stop {
            reason: reason.clone(),
            segment,
            is_lasting: false,
        });
        self.is_stopped.store(true, Ordering::Release);
        drop(stopped);
        self.watchers.notify(self.topic, self.number);
        reason
    }

    /// Why the partition is stopped, if a checkpoint must keep that.
    pub(crate) fn lasting_stop(&self) -> Option<Arc<str>> {
        let stopped = self.stopped.read();
        let stop = stopped.as_ref().filter(|stop| stop.is_lasting)?;
        Some(stop.reason.clone())
    }

    /// What a repair would do: the epoch and the holes with which the partition
    /// goes on; `None` where it has nothing to go on with. Reads a whole segment.
    /// The caller holds the applier off.
    pub(crate) fn plan_repair(&self) -> Result<Option<(u32, Vec<Hole>)>, Fault> {
        let Some(stop) = self.stopped.read().clone() else {
            return Ok(None);
        };
        let mut holes = self.holes().to_vec();
        if let Some(base) = stop.segment {
            let is_complete = self.applied_end() == self.end();
            if self.is_held() && !is_complete {
                return Ok(None);
            }
            let missed = self.missed().into_iter().map(|(base, _)| base);
            for base in [base].into_iter().chain(missed) {
                self.survey(base, &mut holes)?;
            }
        } else if !stop.is_lasting {
            return Ok(None);
        }
        // Where the end may have been lost, its offsets are given again, which readers must know.
        let lost_end = u32::from(stop.is_lasting);
        Ok(Some((self.epoch().wrapping_add(lost_end), holes)))
    }

    /// Finds out anew which holes the segment with this base needs.
    fn survey(&self, base: u64, holes: &mut Vec<Hole>) -> Result<(), Fault> {
        let (segments, applied) = {
            let inner = self.inner.lock();
            (inner.segments.clone(), inner.applied)
        };
        let behind = segments.partition_point(|segment| segment.key.base <= base);
        let until = segments
            .get(behind)
            .map_or(applied, |segment| segment.key.base);
        let before = segments.partition_point(|segment| segment.key.base < base);
        let found = match segments
            .get(before)
            .filter(|segment| segment.key.base == base)
        {
            Some(segment) => segment.survey(&self.files, until),
            None => Err(Fault::Missing {
                path: self.key(base).path(),
            }),
        };
        let found = match found {
            Err(fault @ Fault::Io { .. }) => return Err(fault),
            Ok(found) if !is_lost(&found, base, until) => found,
            // Nothing of it is left; the segment before ends where it begins.
            _ => vec![Hole {
                from: base,
                to: until,
                at: before
                    .checked_sub(1)
                    .map_or(0, |before| segments[before].len()),
            }],
        };
        holes.retain(|hole| hole.from < base || hole.from >= until);
        holes.extend(found.into_iter().filter(|hole| hole.from < hole.to));
        holes.sort_unstable_by_key(|hole| hole.from);
        Ok(())
    }

    pub(crate) fn missed(&self) -> Vec<(u64, u64)> {
        self.missed.lock().clone()
    }

    /// Goes on with these holes; returns the segments of which nothing is left, or
    /// that are not waited for any more.
    pub(crate) fn repair(&self, epoch: u32, from: u64, holes: Vec<Hole>) -> Vec<Key> {
        let holes: Arc<[Hole]> = holes.into();
        let damaged = self.stopped.read().as_ref().and_then(|stop| stop.segment);
        let mut inner = self.inner.lock();
        let all = inner.segments.clone();
        let ends = all.iter().skip(1).map(|segment| segment.key.base);
        let ends = ends.chain([inner.applied]);
        let (lost, kept): (Vec<_>, Vec<_>) = all
            .iter()
            .zip(ends)
            .partition(|(segment, end)| is_lost(&holes, segment.key.base, *end));
        let of = |segments: Vec<(&Arc<Segment>, u64)>| -> Vec<Arc<Segment>> {
            segments
                .into_iter()
                .map(|(segment, _)| segment.clone())
                .collect()
        };
        let (lost, kept) = (of(lost), of(kept));
        kept.iter()
            .for_each(|segment| segment.set_holes(holes.clone()));
        inner.segments = Arc::new(kept);
        self.has_holes.store(!holes.is_empty(), Ordering::Release);
        inner.holes = holes;
        inner.places = NO_PLACES;
        let kept = inner.segments.clone();
        drop(inner);
        if let Some(segment) = kept.iter().find(|it| Some(it.key.base) == damaged)
            && let Err(error) = self.files.mend_header(segment.key)
        {
            tracing::warn!(%error, path = segment.key.path(), "could not mend a segment's header");
        }
        let bytes: u64 = lost.iter().map(|segment| segment.len()).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.set_epoch(epoch, from);
        self.is_held.store(false, Ordering::Release);
        *self.stopped.write() = None;
        self.is_stopped.store(false, Ordering::Release);
        self.watchers.notify(self.topic, self.number);
        let missed = std::mem::take(&mut *self.missed.lock());
        let lost = lost.iter().map(|segment| segment.key);
        lost.chain(missed.into_iter().map(|(base, _)| self.key(base)))
            .collect()
    }

    /// The holes that readers still meet.
    pub(crate) fn holes(&self) -> Vec<Hole> {
        let start = self.start();
        let holes = self.inner.lock().holes.clone();
        holes
            .iter()
            .filter(|hole| hole.to > start)
            .copied()
            .collect()
    }

    /// Another epoch begins, if it is another one, at the offset `from`.
    fn set_epoch(&self, epoch: u32, from: u64) {
        self.epochs.lock().begin(epoch, from);
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
        inner.failing_since = None;
        inner.applied = last.end_offset();
        inner.applied_batches += batches.len();
        while inner.tail_bytes > tail_bytes_max && self.drop_front(&mut inner) {}
    }

    /// Takes note of a turn of the applier that did nothing; returns for how long there were no
    /// others.
    pub(crate) fn failed_again(&self) -> Duration {
        let mut inner = self.inner.lock();
        let since = inner.failing_since.get_or_insert_with(Instant::now);
        since.elapsed()
    }

    /// Frees the memory of what is in no segment; returns how much. Who stops a
    /// partition for good has no reader for it. Not during a turn of the applier.
    pub(crate) fn drop_unapplied(&self) -> u64 {
        let mut inner = self.inner.lock();
        let applied = inner.applied_batches;
        let bytes: u64 = inner
            .tail
            .drain(applied..)
            .map(|batch| batch.len() as u64)
            .sum();
        inner.tail_bytes -= bytes;
        inner.is_queued = false;
        self.tails_bytes.fetch_sub(bytes, Ordering::Relaxed);
        bytes
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
        // One without a batch may be begun again where its file does not serve.
        segments.retain(|older| older.key.base < segment.key.base);
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
            bytes += batch.expanded_len() as u64;
            found.push(batch.clone());
            if bytes >= bytes_max {
                break;
            }
        }
        found
    }

    /// The first offset at or behind `offset` that is in no hole.
    fn over_holes(&self, mut offset: u64) -> u64 {
        for hole in self.holes.iter() {
            if hole.from <= offset && offset < hole.to {
                offset = hole.to;
            }
        }
        offset
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
