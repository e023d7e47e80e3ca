//! A partition while it is recovered: the one that will serve, and what only
//! recovery must know about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use eddy_protocol::{Batch, TopicName};
use rustc_hash::FxHashMap;

use crate::log::Partition as _;
use crate::store::partition::segments::Segments;
use crate::store::partition::stop::{Cause, Stop};
use crate::store::partition::{Opened, Partition, Shared};
use crate::store::producer::PartitionKey;
use crate::store::row::PartitionEntry;
use crate::store::segment::append::Run;
use crate::store::segment::files::Files;
use crate::store::segment::{self, AppendFault, HEADER_BYTES, Hole, Key, Segment};

/// A partition while it is recovered.
#[derive(Debug)]
pub(crate) struct Part {
    /// Its end is behind the newest record, be it in a segment, on its way there, or
    /// where an unwritable partition keeps it.
    pub(crate) partition: Arc<Partition>,
    /// The segment files there were: base and length.
    pub(crate) found: BTreeMap<u64, u64>,
    /// Whether a segment is not there that must be. What the journal has behind
    /// it goes on into other segments.
    is_incomplete: bool,
    /// Whether one that was missing is there again.
    pub(crate) is_restored: bool,
    /// Segments below this do not reach the partition's end.
    open_from: u64,
    pub(crate) is_touched: bool,
    /// Where the offsets end that the checkpoint or the journal so far tells of;
    /// segments may be further than the checkpoint.
    pub(crate) journalled: u64,
    /// The newest damage in the journal that an append behind it has proven harmless for this partition.
    pub(crate) proven: usize,
    /// The newest damage in the journal that a repair behind it has accepted.
    pub(crate) repaired: usize,
}

impl Part {
    pub(crate) fn new(
        key: PartitionKey,
        name: &TopicName,
        shared: &Shared,
        found: BTreeMap<u64, u64>,
    ) -> Part {
        Part::of(key, name, shared, found, Opened::fresh(key))
    }

    fn of(
        key: PartitionKey,
        name: &TopicName,
        shared: &Shared,
        found: BTreeMap<u64, u64>,
        opened: Opened,
    ) -> Part {
        Part {
            partition: Arc::new(Partition::new(key, name.clone(), shared.clone(), opened)),
            found,
            is_incomplete: false,
            is_restored: false,
            open_from: 0,
            is_touched: false,
            journalled: 0,
            proven: 0,
            repaired: 0,
        }
    }

    /// A partition as the checkpoint left it.
    pub(crate) fn kept(
        key: PartitionKey,
        name: &TopicName,
        shared: &Shared,
        found: BTreeMap<u64, u64>,
        entry: PartitionEntry,
    ) -> Part {
        let mut covered = entry.covered();
        let mut segments = found.clone();
        if entry.length == 0 {
            segments.clear();
        } else {
            segments.split_off(&(entry.segment + 1));
            segments.retain(|base, _| *base >= entry.start);
        }
        let mut required = entry.missing.clone();
        if entry.length > 0 && !required.contains(&(entry.segment, entry.length)) {
            required.insert(0, (entry.segment, entry.length));
        }
        let is_there =
            |(base, length): &(u64, u64)| found.get(base).is_some_and(|bytes| bytes >= length);
        let (there, missing): (Vec<_>, Vec<_>) = required.into_iter().partition(is_there);
        let is_restored = entry.missing.iter().any(|missing| there.contains(missing));
        segments.extend(there);
        for (base, length) in &missing {
            match found.get(base).is_some_and(|bytes| *bytes > HEADER_BYTES) {
                // It has a beginning, which a repair can keep.
                true => segments.insert(*base, *length),
                false => segments.remove(base),
            };
        }
        let newest = segments.keys().next_back().copied();
        let is_short = |base| missing.iter().any(|(of, _)| Some(*of) == base);
        let is_open = missing.iter().all(|(base, _)| Some(*base) <= newest) && !is_short(newest);
        let open_from = if is_open { 0 } else { entry.end };
        let existing = |(base, bytes)| {
            let is_newest = Some(base) == newest && base >= open_from;
            Arc::new(Segment::existing(Key::of(key, base), bytes, !is_newest))
        };
        let list = segments.into_iter().map(existing).collect();
        covered.missing.clone_from(&missing);
        let opened = Opened {
            epochs: entry.epochs,
            start: entry.start,
            segments: Segments::new(key, list, entry.holes.into(), entry.end),
            covered,
            stop: entry.stopped.map(|reason| Stop {
                reason: reason.into(),
                cause: Cause::Lost,
                repair: None,
            }),
            appended_ms: entry.appended_ms,
        };
        let mut part = Part {
            is_restored,
            open_from,
            journalled: entry.journalled,
            ..Part::of(key, name, shared, found, opened)
        };
        if is_restored {
            part.begin_epoch();
        }
        if let Some((base, length)) = missing.first() {
            part.lacks(*base, *length, &shared.files);
        }
        part
    }

    pub(crate) fn key(&self) -> PartitionKey {
        self.partition.key()
    }

    pub(crate) fn end(&self) -> u64 {
        self.partition.end()
    }

    /// Stops for a segment that is not there as it was synced, `length` bytes of it.
    fn lacks(&mut self, base: u64, length: u64, files: &Files) {
        let path = files.path(Key::of(self.key(), base));
        let reason = match self.found.get(&base) {
            None => format!("{path} is missing"),
            Some(bytes) => format!("{path} has {bytes} bytes, {length} were synced"),
        };
        self.is_incomplete = true;
        self.stop(reason, Cause::Segment(base));
    }

    /// Where nothing deletes segments, the oldest one must be there.
    pub(crate) fn require_start(&mut self, files: &Files) {
        let start = self.partition.extent.start();
        let segments = self.partition.segments_state();
        let is_there = |first| first <= start || segment::is_lost(segments.holes(), start, first);
        let first = segments.list().first().map(|segment| segment.key.base);
        let is_gone = first.is_some_and(|first| !is_there(first));
        if is_gone && self.partition.covered().0.missing.is_empty() {
            self.lacks(start, 0, files);
        }
    }

    /// Says in the partition which offset is the oldest one.
    pub(crate) fn set_start(&self) {
        let segments = self.partition.segments_state();
        let first = segments.list().first().map(|segment| segment.key.base);
        if !self.is_incomplete {
            self.partition
                .extent
                .set_start(first.unwrap_or(segments.end()));
        }
    }

    /// Begins the next epoch at the partition's end.
    pub(crate) fn begin_epoch(&mut self) {
        self.set_epoch(self.partition.epoch().wrapping_add(1), None);
    }

    /// Another epoch begins, if it is another one: at `from`, or at the end.
    pub(crate) fn set_epoch(&mut self, epoch: u32, from: Option<u64>) {
        let from = from.unwrap_or(self.end());
        self.partition.extent.set_epoch(epoch, from);
        self.is_touched = true;
    }

    /// Whether the journal's records are nothing for it any more, until a repair.
    pub(crate) fn is_lost(&self) -> bool {
        self.partition.service.is_stopped_by(Cause::Lost)
    }

    pub(crate) fn is_unwritable(&self) -> bool {
        self.partition.service.is_unwritable()
    }

    /// Stops the partition. Only the end of recovery says so: a repair may follow.
    pub(crate) fn stop(&mut self, reason: impl Into<Arc<str>>, cause: Cause) {
        let is_new = self.partition.service.stop(reason, cause).is_ok();
        // Damage of a segment is found again.
        self.is_touched |= is_new && !matches!(cause, Cause::Segment(_));
    }

    /// Goes on with these holes, as far as the journal has not just filled them:
    /// it brings back everything that the checkpoint does not cover.
    pub(crate) fn repair(
        &mut self,
        (epoch, from): (u32, Option<u64>),
        holes: Vec<Hole>,
        damages: usize,
    ) {
        self.is_incomplete = false;
        self.is_touched = true;
        (self.proven, self.repaired) = (damages, damages);
        let (covered, _) = self.partition.covered();
        let end = covered.end;
        let mut holes: Vec<Hole> = holes.into_iter().filter(|hole| hole.from < end).collect();
        for hole in &mut holes {
            hole.to = hole.to.min(end);
        }
        // An unwritable one serves again once it can be written.
        let stop = self.partition.service.stop_state();
        let stop = stop.filter(|stop| stop.cause == Cause::Unwritable);
        let from = from.unwrap_or(self.end());
        self.partition.repair(epoch, from, holes.clone());
        if let Some(stop) = stop {
            self.stop(stop.reason, stop.cause);
        }
        // Behind the newest one's end other segments go on, or this one at another byte.
        let is_newest = |it: &Arc<Segment>| it.key.base == covered.segment;
        if let Some(hole) = holes.last_mut().filter(|hole| hole.to == end)
            && hole.from >= covered.segment
            && self.partition.segments().iter().any(is_newest)
        {
            hole.at = covered.length;
            self.partition.set_holes(holes);
        }
    }

    /// Takes the next batch, which came to the journal at `time_ms`.
    pub(crate) fn push(&mut self, batch: Batch, time_ms: i64) {
        self.is_touched = true;
        self.partition.push(0, batch, time_ms);
        self.partition.publish(0);
        if self.is_unwritable() {
            // It stays where it is.
            self.partition.drop_unapplied();
        }
    }

    /// Writes what was pushed to segments; fails only where the disk is full.
    pub(crate) fn flush(&mut self, files: &Files, segment_bytes: u64) -> std::io::Result<()> {
        let batches = self.partition.unapplied(u64::MAX);
        if batches.is_empty() {
            return Ok(());
        }
        let mut run = Run {
            files,
            partition: self.key(),
            segment_bytes,
            now_ms: self.partition.extent.appended_ms().unwrap_or(0),
            newest: self.newest(),
        };
        let written = run.append(&batches, |segment| self.partition.add_segment(segment));
        self.partition.applied(&batches[..written.batches], 0);
        self.partition.leave_queue();
        if let Some((base, damage)) = written.damaged {
            self.stop(damage.to_string(), Cause::Segment(base));
        }
        match written.fault {
            None => Ok(()),
            Some(AppendFault::Full(source)) => Err(source),
            Some(fault) => {
                let reason = format!("its segments cannot be written: {fault}");
                self.stop(reason, Cause::Unwritable);
                self.partition.drop_unapplied();
                Ok(())
            }
        }
    }

    /// The segment that ends where the partition does.
    fn newest(&self) -> Option<Arc<Segment>> {
        let newest = self.partition.segments().last().cloned();
        newest.filter(|segment| segment.key.base >= self.open_from)
    }

    /// Where the partition's newest records end on disk: segment base and byte.
    pub(crate) fn written_to(&self) -> Option<(u64, u64)> {
        self.newest()
            .map(|segment| (segment.key.base, segment.len()))
    }

    /// Cuts what lies behind the recovered records and removes segments that
    /// are not part of them.
    pub(crate) fn trim(&self, files: &Files) -> std::io::Result<()> {
        if self.is_unwritable() || (self.is_incomplete && self.is_lost()) {
            // Whoever brings its files back should find everything else untouched.
            return Ok(());
        }
        let segments = self.partition.segments();
        let used = segments.iter().map(|it| (it.key.base, it.len()));
        let used: FxHashMap<u64, u64> = used.collect();
        let covered_end = self.partition.covered().0.end;
        for (base, bytes) in &self.found {
            let key = Key::of(self.key(), *base);
            match used.get(base) {
                // A missing one, or one beside it.
                None if self.is_incomplete && *base < covered_end => {}
                None => files.remove(key)?,
                Some(len) if len < bytes => files.open_unchecked(key)?.truncate(*len)?,
                Some(_) => {}
            }
        }
        Ok(())
    }
}
