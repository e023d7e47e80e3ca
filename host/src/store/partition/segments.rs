//! A partition's records on disk: its segments, what of them was given up, and
//! how much of them the last checkpoint has. Recovery builds it and a running
//! partition goes on with it. Pointers and numbers only, without locks.

use std::sync::Arc;

use crate::store::producer::PartitionKey;
use crate::store::segment::files::Files;
use crate::store::segment::read::{Fetched, Position};
use crate::store::segment::{Fault, Hole, Key, Segment, is_lost};

/// How many readers' positions are remembered, so that each goes on without
/// looking for its batch again.
const POSITIONS: usize = 8;
const NO_POSITIONS: [(u64, Position); POSITIONS] =
    [(u64::MAX, Position { offset: 0, at: 0 }); POSITIONS];

/// What is on disk.
#[derive(Debug, Clone)]
pub(crate) struct Segments {
    key: PartitionKey,
    /// In the order of their offsets.
    list: Arc<Vec<Arc<Segment>>>,
    /// What repairs gave up, in the order of their offsets.
    holes: Arc<[Hole]>,
    /// Records below this offset are in segments.
    end: u64,
    positions: [(u64, Position); POSITIONS],
    position_next: usize,
}

/// How much of a partition's segments the last checkpoint has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Covered {
    /// The base of the newest segment then: those before it are wholly synced.
    pub(crate) segment: u64,
    /// How much of it is synced; 0: there was no segment.
    pub(crate) length: u64,
    /// The offset where that ends.
    pub(crate) end: u64,
    /// Segments that are waited for, and how much of them was synced once.
    pub(crate) missing: Vec<(u64, u64)>,
}

impl Covered {
    /// Waits no more for the segments of which these holes leave nothing, whose bases it returns,
    /// nor for those that `segments` go on with: the holes say what they lack.
    pub(crate) fn give_up(&mut self, segments: &Segments) -> impl Iterator<Item = u64> + use<> {
        let missing = std::mem::take(&mut self.missing).into_iter();
        let (lost, mut kept) =
            missing.partition::<Vec<_>, _>(|(base, _)| is_lost(&segments.holes, *base, *base));
        kept.retain(|(base, _)| segments.list.iter().all(|it| it.key.base != *base));
        self.missing = kept;
        lost.into_iter().map(|(base, _)| base)
    }
}

impl Segments {
    /// Segments that end at the offset `end`.
    pub(crate) fn new(
        key: PartitionKey,
        list: Vec<Arc<Segment>>,
        holes: Arc<[Hole]>,
        end: u64,
    ) -> Segments {
        list.iter()
            .for_each(|segment| segment.set_holes(holes.clone()));
        Segments {
            key,
            list: Arc::new(list),
            holes,
            end,
            positions: NO_POSITIONS,
            position_next: 0,
        }
    }

    pub(crate) fn list(&self) -> &Arc<Vec<Arc<Segment>>> {
        &self.list
    }

    pub(crate) fn holes(&self) -> &Arc<[Hole]> {
        &self.holes
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn set_end(&mut self, end: u64) {
        self.end = end;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.list.iter().map(|segment| segment.len()).sum()
    }

    pub(crate) fn newest(&self) -> Option<&Arc<Segment>> {
        self.list.last()
    }

    /// Adds the segment that is written from now on. One without a batch may be
    /// begun again where its file does not serve.
    pub(crate) fn push(&mut self, segment: Arc<Segment>) {
        let list = Arc::make_mut(&mut self.list);
        list.retain(|older| older.key.base < segment.key.base);
        list.push(segment);
    }

    /// Takes the oldest segment out, if another one follows; returns it and the
    /// base of that one.
    pub(crate) fn pop_oldest(&mut self) -> Option<(Arc<Segment>, u64)> {
        let base = self.list.get(1)?.key.base;
        let oldest = Arc::make_mut(&mut self.list).remove(0);
        Some((oldest, base))
    }

    /// The segment in which the offset is, if any.
    pub(crate) fn of(&self, offset: u64) -> Option<&Arc<Segment>> {
        let behind = self.list.partition_point(|it| it.key.base <= offset);
        self.list.get(behind.checked_sub(1)?)
    }

    /// Where a reader left off that goes on at `offset`.
    pub(crate) fn position(&self, segment: &Segment, offset: u64) -> Option<Position> {
        let is_it = |(base, position): &&(u64, Position)| {
            *base == segment.key.base && position.offset == offset
        };
        self.positions
            .iter()
            .find(is_it)
            .map(|(_, position)| *position)
    }

    /// Remembers where a read ended.
    pub(crate) fn remember(&mut self, segment: &Segment, found: &Fetched) {
        self.positions[self.position_next] = (segment.key.base, found.next);
        self.position_next = (self.position_next + 1) % POSITIONS;
    }

    /// The first offset at or behind `offset` that is in no hole.
    pub(crate) fn over_holes(&self, mut offset: u64) -> u64 {
        for hole in self.holes.iter() {
            if hole.from <= offset && offset < hole.to {
                offset = hole.to;
            }
        }
        offset
    }

    /// Goes on with these holes; returns the segments of which nothing is left.
    pub(crate) fn give_up(&mut self, holes: Arc<[Hole]>) -> Vec<Arc<Segment>> {
        let ends = self.list.iter().skip(1).map(|segment| segment.key.base);
        let ends: Vec<u64> = ends.chain([self.end]).collect();
        let mut lost = Vec::new();
        let mut kept = Vec::new();
        for (segment, end) in self.list.iter().zip(ends) {
            let to = match is_lost(&holes, segment.key.base, end) {
                true => &mut lost,
                false => &mut kept,
            };
            to.push(segment.clone());
        }
        *self = Segments::new(self.key, kept, holes, self.end);
        lost
    }

    /// Cuts what the last checkpoint does not cover, here and in the newest file.
    pub(crate) fn cut(&mut self, files: &Files, covered: &Covered) -> Result<(), Fault> {
        let mut list: Vec<Arc<Segment>> = self.list.to_vec();
        list.retain(|segment| {
            segment.key.base < covered.end && segment.key.base <= covered.segment
        });
        if let Some(newest) = list.last_mut().filter(|it| it.key.base == covered.segment) {
            let key = newest.key;
            if newest.len() > covered.length && newest.require(files).is_ok() {
                let file = files.open_unchecked(key);
                let cut = file.and_then(|file| file.truncate(covered.length));
                cut.map_err(|error| files.fault(key, &error))?;
            }
            *newest = Arc::new(Segment::existing(key, covered.length, true));
        }
        let below = self.holes.iter().filter(|hole| hole.from < covered.end);
        let holes: Arc<[Hole]> = below.copied().collect();
        *self = Segments::new(self.key, list, holes, covered.end);
        Ok(())
    }

    /// These holes, and those that there are when the segment with this base is
    /// looked through, up to the offset `end` at most. Reads the whole segment.
    pub(crate) fn survey(
        &self,
        files: &Files,
        base: u64,
        end: u64,
        mut holes: Vec<Hole>,
    ) -> Result<Vec<Hole>, Fault> {
        let behind = self.list.partition_point(|it| it.key.base <= base);
        let until = self.list.get(behind).map_or(end, |it| it.key.base.min(end));
        let before = self.list.partition_point(|it| it.key.base < base);
        let found = match self.list.get(before).filter(|it| it.key.base == base) {
            Some(segment) => segment.survey(files, until),
            None => Err(Fault::Missing {
                path: self.key_of(base).path(),
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
                    .map_or(0, |before| self.list[before].len()),
            }],
        };
        holes.retain(|hole| hole.from < base || hole.from >= until);
        holes.extend(found.into_iter().filter(|hole| hole.from < hole.to));
        holes.sort_unstable_by_key(|hole| hole.from);
        Ok(holes)
    }

    pub(crate) fn key_of(&self, base: u64) -> Key {
        Key::of(self.key, base)
    }
}
