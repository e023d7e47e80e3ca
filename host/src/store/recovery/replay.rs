//! The state that recovery rebuilds: what the checkpoint kept, and over it the
//! journal's operations, one by one. Segments are written over in place, so
//! that doing all of it again after another crash gives the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use eddy_protocol::frame::{Durability, TopicSettings};
use eddy_protocol::{Batch, TopicName};
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use super::salvage;
use crate::log::{Delta, Epochs, Producer, StateChange, StateId, TopicId};
use crate::store::apply::segment_bytes;
use crate::store::aside::{self, Aside};
use crate::store::config::Config;
use crate::store::error::OpenError;
use crate::store::journal::operation::{Operation, Placed, TopicEntry};
use crate::store::partition::segments::{Covered, Segments};
use crate::store::partition::stop::{Cause, Stop};
use crate::store::producer::{PartitionKey, Producers};
use crate::store::row::PartitionEntry;
use crate::store::segment::append::Run;
use crate::store::segment::files::Files;
use crate::store::segment::{self, AppendFault, Fault, HEADER_BYTES, Hole, Key, Segment};
use crate::store::state::States;
use crate::store::table::{Changes, entry};

/// What is written to a segment at once.
const BUFFER_BYTES: u64 = 4 << 20;
/// What all partitions together may hold back.
const BUFFERS_BYTES: u64 = 64 << 20;

/// A partition while it is recovered.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) key: PartitionKey,
    pub(crate) epochs: Epochs,
    pub(crate) start: u64,
    /// Behind the newest record, be it in a segment, on its way there, or where
    /// a partition at rest keeps it.
    pub(crate) end: u64,
    pub(crate) segments: Segments,
    /// What the checkpoint has of the segments.
    pub(crate) covered: Covered,
    /// What the checkpoint has besides.
    pub(crate) aside: Option<Aside>,
    pub(crate) stop: Option<Stop>,
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
    /// When a record was appended last.
    pub(crate) appended_ms: Option<i64>,
    buffer: Vec<Batch>,
    buffer_bytes: u64,
}

/// A topic while it is recovered.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) name: TopicName,
    pub(crate) settings: TopicSettings,
    pub(crate) parts: Vec<Part>,
    /// Absent until it has one: it is of the first release.
    pub(crate) uuid: Option<Uuid>,
    /// Whether it was `memory` at any time that the journal tells of.
    pub(crate) was_memory: bool,
    /// Whether retention may have deleted segments since the checkpoint.
    had_retention: bool,
}

impl Known {
    fn new(
        (name, uuid): (TopicName, Option<Uuid>),
        settings: TopicSettings,
        parts: Vec<Part>,
    ) -> Known {
        let mut topic = Known {
            name,
            uuid,
            settings,
            parts,
            was_memory: false,
            had_retention: false,
        };
        topic.alter(settings);
        topic
    }

    fn alter(&mut self, settings: TopicSettings) {
        self.settings = settings;
        self.was_memory |= settings.durability == Durability::Memory;
        self.had_retention |= settings.retention_ms.is_some() || settings.retention_bytes.is_some();
    }
}

/// Everything that is recovered.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    pub(crate) config: Config,
    pub(crate) files: &'a Files,
    pub(crate) topics: BTreeMap<TopicId, Known>,
    pub(crate) touched_topics: FxHashSet<TopicId>,
    pub(crate) deleted: FxHashSet<TopicId>,
    /// Topics whose creation cannot be read.
    pub(crate) adopted: FxHashSet<TopicId>,
    pub(crate) producers: Producers,
    pub(crate) table: Changes,
    pub(crate) states: States,
    pub(crate) next_topic: u64,
    pub(crate) records: u64,
    pub(crate) changes: u64,
    /// How often the journal was found damaged so far.
    pub(crate) damages: usize,
    /// Whether records were left where they are, because their partition is stopped.
    pub(crate) has_dropped: bool,
    buffered: u64,
    /// When the group was written that is replayed.
    time_ms: i64,
    listed: FxHashMap<PartitionKey, BTreeMap<u64, u64>>,
}

impl Part {
    fn new(key: PartitionKey, found: BTreeMap<u64, u64>, damages: usize) -> Part {
        Part {
            key,
            epochs: Epochs::first(key.0),
            start: 0,
            end: 0,
            segments: Segments::new(key, Vec::new(), Arc::default(), 0),
            covered: Covered::default(),
            aside: None,
            stop: None,
            found,
            is_incomplete: false,
            is_restored: false,
            open_from: 0,
            is_touched: false,
            journalled: 0,
            proven: damages,
            repaired: 0,
            appended_ms: None,
            buffer: Vec::new(),
            buffer_bytes: 0,
        }
    }

    /// A partition as the checkpoint left it.
    fn kept(
        key: PartitionKey,
        found: BTreeMap<u64, u64>,
        entry: PartitionEntry,
        files: &Files,
    ) -> Part {
        let mut part = Part::new(key, found, 0);
        (part.epochs, part.start, part.end) = (entry.epochs.clone(), entry.start, entry.end);
        part.covered = entry.covered();
        part.appended_ms = entry.appended_ms;
        part.journalled = entry.journalled;
        part.stop = entry.stopped.map(|reason| Stop::new(reason, Cause::Lost));
        let mut segments = part.found.clone();
        if entry.length == 0 {
            segments.clear();
        } else {
            segments.split_off(&(entry.segment + 1));
            segments.retain(|base, _| *base >= entry.start);
        }
        let mut required = entry.missed.clone();
        if entry.length > 0 && !required.contains(&(entry.segment, entry.length)) {
            required.insert(0, (entry.segment, entry.length));
        }
        let is_there =
            |(base, length): &(u64, u64)| part.found.get(base).is_some_and(|bytes| bytes >= length);
        let (there, missing): (Vec<_>, Vec<_>) = required.into_iter().partition(is_there);
        part.is_restored = entry.missed.iter().any(|missed| there.contains(missed));
        if part.is_restored {
            part.begin_epoch();
        }
        segments.extend(there);
        for (base, _) in &missing {
            segments.remove(base);
        }
        let newest = segments.keys().next_back().copied();
        if missing.iter().any(|(base, _)| Some(*base) > newest) {
            part.open_from = part.end;
        }
        if let Some((base, length)) = missing.first() {
            part.lacks(*base, *length, files);
        }
        part.covered.missing = missing;
        let existing = |(base, bytes)| {
            let is_newest = Some(base) == newest && base >= part.open_from;
            Arc::new(Segment::existing(
                part.segments.key_of(base),
                bytes,
                !is_newest,
            ))
        };
        let list = segments.into_iter().map(existing).collect();
        part.segments = Segments::new(key, list, entry.holes.into(), entry.end);
        part
    }

    /// Stops for a segment that is not there as it was synced, `length` bytes of it.
    fn lacks(&mut self, base: u64, length: u64, files: &Files) {
        let path = self.describe(base, files);
        let reason = match self.found.get(&base) {
            None => format!("{path} is missing"),
            Some(bytes) => format!("{path} has {bytes} bytes, {length} were synced"),
        };
        self.is_incomplete = true;
        self.stop(reason, Cause::Segment(base));
    }

    /// Where nothing deletes segments, the oldest one must be there.
    fn require_start(&mut self, files: &Files) {
        let first = self.segments.list().first().map(|segment| segment.key.base);
        let holes = self.segments.holes();
        let is_there = |first| first <= self.start || segment::is_lost(holes, self.start, first);
        if self.covered.missing.is_empty() && first.is_some_and(|first| !is_there(first)) {
            self.lacks(self.start, 0, files);
        }
    }

    fn describe(&self, base: u64, files: &Files) -> String {
        files.path(Key::of(self.key, base))
    }

    /// The oldest offset.
    pub(crate) fn start(&self) -> u64 {
        match self.segments.list().first() {
            _ if self.is_incomplete => self.start,
            Some(segment) => segment.key.base,
            None => self.segments.end(),
        }
    }

    /// Begins the next epoch at the partition's end.
    pub(crate) fn begin_epoch(&mut self) {
        self.set_epoch(self.epochs.current().wrapping_add(1), None);
    }

    /// Another epoch begins, if it is another one: at `from`, or at the end.
    fn set_epoch(&mut self, epoch: u32, from: Option<u64>) {
        self.epochs.begin(epoch, from.unwrap_or(self.end));
        self.is_touched = true;
    }

    pub(crate) fn is_stopped_by(&self, cause: Cause) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.cause == cause)
    }

    pub(crate) fn stop(&mut self, reason: impl Into<Arc<str>>, cause: Cause) {
        if self
            .stop
            .as_ref()
            .is_none_or(|now| cause.outranks(now.cause))
        {
            // Damage of a segment is found again.
            self.is_touched |= !matches!(cause, Cause::Segment(_));
            self.stop = Some(Stop::new(reason, cause));
        }
    }

    /// Goes on with these holes, as far as the journal has not just filled them:
    /// it brings back everything that the checkpoint does not cover.
    fn repair(&mut self, epoch: (u32, Option<u64>), holes: Vec<Hole>, damages: usize) {
        // A partition at rest serves again once it can be written.
        if !self.is_stopped_by(Cause::Unwritable) {
            self.stop = None;
        }
        self.is_incomplete = false;
        self.set_epoch(epoch.0, epoch.1);
        (self.proven, self.repaired) = (damages, damages);
        let Covered {
            segment,
            length,
            end,
            ..
        } = self.covered;
        let mut holes: Vec<Hole> = holes.into_iter().filter(|hole| hole.from < end).collect();
        for hole in &mut holes {
            hole.to = hole.to.min(end);
        }
        self.covered
            .missing
            .retain(|(base, _)| !segment::is_lost(&holes, *base, *base));
        self.segments.give_up(holes.clone().into());
        // Behind the newest one's end other segments go on, or this one at another byte.
        let is_newest = |it: &Arc<Segment>| it.key.base == segment;
        if let Some(hole) = holes.last_mut().filter(|hole| hole.to == end)
            && hole.from >= segment
            && self.segments.list().iter().any(is_newest)
        {
            hole.at = length;
            self.segments.give_up(holes.into());
        }
    }

    /// Takes the next batch; returns how much memory it takes.
    fn push(&mut self, batch: Batch) -> u64 {
        (self.end, self.is_touched) = (batch.end_offset(), true);
        if self.is_stopped_by(Cause::Unwritable) {
            // It stays where it is.
            return 0;
        }
        let bytes = batch.len() as u64;
        self.buffer_bytes += bytes;
        self.buffer.push(batch);
        bytes
    }

    /// The segment that ends where the partition does.
    fn newest(&self) -> Option<&Arc<Segment>> {
        let newest = self.segments.newest();
        newest.filter(|segment| segment.key.base >= self.open_from)
    }

    /// Where the partition's newest records end on disk: segment base and byte.
    pub(crate) fn written_to(&self) -> Option<(u64, u64)> {
        self.newest()
            .map(|segment| (segment.key.base, segment.len()))
    }
}

impl<'a> Replay<'a> {
    /// Begins with what the checkpoint kept.
    pub(crate) fn new(
        config: Config,
        files: &'a Files,
        topics: BTreeMap<TopicId, TopicEntry>,
        mut partitions: FxHashMap<PartitionKey, PartitionEntry>,
        listed: FxHashMap<PartitionKey, BTreeMap<u64, u64>>,
    ) -> Replay<'a> {
        let mut replay = Replay {
            states: States::new(config.state_bytes),
            config,
            files,
            topics: BTreeMap::new(),
            touched_topics: FxHashSet::default(),
            deleted: FxHashSet::default(),
            adopted: FxHashSet::default(),
            producers: Producers::default(),
            table: Changes::new(),
            next_topic: 1,
            records: 0,
            changes: 0,
            damages: 0,
            has_dropped: false,
            buffered: 0,
            time_ms: 0,
            listed,
        };
        for (id, topic) in topics {
            let parts = (0..topic.partitions)
                .map(|number| {
                    let key = (id, number);
                    let found = replay.listed.remove(&key).unwrap_or_default();
                    match partitions.remove(&key) {
                        Some(entry) => Part::kept(key, found, entry, files),
                        None => Part::new(key, found, 0),
                    }
                })
                .collect();
            let topic = Known::new((topic.name, topic.uuid), topic.settings, parts);
            replay.topics.insert(id, topic);
        }
        replay
    }

    pub(crate) fn part(&mut self, key: PartitionKey) -> Option<&mut Part> {
        self.topics
            .get_mut(&key.0)?
            .parts
            .get_mut(usize::try_from(key.1).ok()?)
    }

    pub(crate) fn parts(&mut self) -> impl Iterator<Item = &mut Part> {
        self.topics
            .values_mut()
            .flat_map(|topic| topic.parts.iter_mut())
    }

    /// Whether a store that makes this operation waits for its sync.
    pub(crate) fn waits(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Append(placed) => self
                .topics
                .get(&placed.key.0)
                .is_none_or(|topic| topic.settings.durability == Durability::Disk),
            Operation::Change(change) => change.waits_for_sync(),
            Operation::State(_) | Operation::DeleteState(_) => false,
            _ => true,
        }
    }

    /// Makes one operation of a group that was written at `time_ms`. `batch` is
    /// the batch of an append, if it is whole.
    pub(crate) fn operate(
        &mut self,
        operation: Operation,
        batch: Option<Batch>,
        time_ms: i64,
    ) -> Result<(), OpenError> {
        self.time_ms = time_ms;
        match operation {
            Operation::Append(placed) => return self.append(&placed, batch, time_ms),
            Operation::Change(change) => {
                let (key, value) = entry(&change);
                self.table.insert(key, value);
            }
            Operation::CreateTopic { topic, entry } => {
                self.next_topic = self.next_topic.max(topic.0 + 1);
                self.touched_topics.insert(topic);
                let parts = self.new_parts(topic, 0..entry.partitions);
                let known = Known::new((entry.name, entry.uuid), entry.settings, parts);
                self.topics.insert(topic, known);
            }
            Operation::AlterTopic {
                topic,
                partitions,
                settings,
            } => {
                self.grow(topic, partitions);
                if let Some(topic) = self.topics.get_mut(&topic) {
                    topic.alter(settings);
                }
            }
            Operation::DeleteTopic { topic } => {
                self.touched_topics.insert(topic);
                let removed = self.topics.remove(&topic);
                let parts = removed.iter().flat_map(|topic| &topic.parts);
                self.buffered -= parts.map(|part| part.buffer_bytes).sum::<u64>();
                self.deleted.insert(topic);
                self.producers.forget_topic(topic);
            }
            Operation::OpenProducer { id, epoch, name } => {
                self.producers.opened(
                    Producer { id, epoch },
                    name.as_deref(),
                    time_ms,
                    &mut Vec::new(),
                );
            }
            Operation::ForgetProducer { id } => drop(self.producers.forget(id)),
            Operation::SetEpoch { key, epoch, from } => {
                if let Some(part) = self.part(key) {
                    part.set_epoch(epoch, from);
                }
            }
            Operation::Stop { key, reason, .. } => {
                if let Some(part) = self.part(key) {
                    part.stop(reason, Cause::Lost);
                }
            }
            Operation::Repair {
                key,
                epoch,
                from,
                holes,
            } => {
                self.flush(key)?;
                let damages = self.damages;
                if let Some(part) = self.part(key) {
                    part.repair((epoch, from), holes, damages);
                }
            }
            Operation::SetUuid { topic, uuid } => {
                self.touched_topics.insert(topic);
                if let Some(topic) = self.topics.get_mut(&topic) {
                    topic.uuid = uuid;
                }
            }
            Operation::DeleteState(deletion) => self.states.push(StateChange::Delete(deletion)),
            Operation::State(_) | Operation::Skipped => {}
        }
        self.changes += 1;
        Ok(())
    }

    /// Changes a state; without a delta, what it was cannot be read.
    pub(crate) fn change_state(&mut self, state: StateId, delta: Option<Delta>) {
        self.changes += 1;
        match delta {
            Some(delta) => self.states.push(StateChange::Delta { state, delta }),
            None => self.states.lose(&state),
        }
        // What waits is slices of whole files.
        self.states.apply_pending();
    }

    /// Topics that have segments and are not known, nor known to be deleted.
    pub(crate) fn strays(&self) -> Vec<TopicId> {
        let strays: BTreeSet<TopicId> = self
            .listed
            .iter()
            .filter(|(_, segments)| segments.values().any(|bytes| *bytes > HEADER_BYTES))
            .map(|((topic, _), _)| *topic)
            .filter(|topic| !self.topics.contains_key(topic) && !self.deleted.contains(topic))
            .collect();
        strays.into_iter().collect()
    }

    /// Takes a topic in whose creation cannot be read, under another name.
    pub(crate) fn adopt(&mut self, topic: TopicId) {
        if self.topics.contains_key(&topic) {
            return;
        }
        let is_free = |name: &TopicName| self.topics.values().all(|other| other.name != *name);
        let mut names = (0..).filter_map(|n| match n {
            0 => TopicName::parse(&format!("lost-{topic}")).ok(),
            n => TopicName::parse(&format!("lost-{topic}-{n}")).ok(),
        });
        let Some(name) = names.find(is_free) else {
            return;
        };
        tracing::error!(
            %topic,
            %name,
            "the journal is damaged where a topic was created: what is left of it is kept under another name",
        );
        let listed = self.listed.keys().filter(|(of, _)| *of == topic);
        let partitions = listed.map(|(_, number)| number + 1).max().unwrap_or(0);
        self.topics.insert(
            topic,
            Known::new((name, None), TopicSettings::default(), Vec::new()),
        );
        self.adopted.insert(topic);
        self.next_topic = self.next_topic.max(topic.0 + 1);
        self.grow(topic, partitions);
    }

    /// Sees to it that a topic has so many partitions.
    fn grow(&mut self, topic: TopicId, partitions: u32) {
        let now = self.topics.get(&topic).map_or(0, |topic| topic.parts.len());
        let added = self.new_parts(topic, u32::try_from(now).unwrap_or(u32::MAX)..partitions);
        self.touched_topics.insert(topic);
        if let Some(topic) = self.topics.get_mut(&topic) {
            topic.parts.extend(added);
        }
    }

    /// Stops partitions whose oldest segment is gone although nothing may have deleted it.
    pub(crate) fn require_starts(&mut self) {
        let files = self.files;
        let topics = self
            .topics
            .values_mut()
            .filter(|topic| !topic.had_retention);
        topics
            .flat_map(|topic| &mut topic.parts)
            .for_each(|part| part.require_start(files));
    }

    fn new_parts(&mut self, topic: TopicId, numbers: std::ops::Range<u32>) -> Vec<Part> {
        numbers
            .map(|number| {
                let found = self.listed.remove(&(topic, number)).unwrap_or_default();
                let is_adopted = self.adopted.contains(&topic);
                let proven = if is_adopted { usize::MAX } else { self.damages };
                Part::new((topic, number), found, proven)
            })
            .collect()
    }

    fn append(
        &mut self,
        placed: &Placed,
        batch: Option<Batch>,
        time_ms: i64,
    ) -> Result<(), OpenError> {
        let key = placed.key;
        self.records += u64::from(placed.span);
        let damages = self.damages;
        if self.part(key).is_none() {
            // Whatever made the partition cannot be read, but it was there.
            self.adopt(key.0);
            self.grow(key.0, key.1 + 1);
        }
        let is_taken = |part: &&mut Part| !part.is_stopped_by(Cause::Lost);
        let Some(part) = self.part(key).filter(is_taken) else {
            self.has_dropped = true;
            return Ok(());
        };
        if placed.base > part.end {
            let (end, last) = (part.end, placed.base - 1);
            let reason = format!("offsets {end} to {last} are missing in the journal");
            part.stop(reason, Cause::Lost);
            return Ok(());
        }
        part.proven = part.proven.max(damages);
        part.journalled = part.journalled.max(placed.end());
        if placed.base == part.end {
            let batch = match batch {
                Some(batch) => Some(batch),
                None => {
                    self.flush(key)?;
                    let candidate = self.part(key).and_then(|part| salvage::batch(part, placed));
                    candidate.and_then(|at| salvage::read(self.files, at, placed))
                }
            };
            let Some(part) = self.part(key) else {
                return Ok(());
            };
            let Some(batch) = batch else {
                let reason = format!(
                    "the journal is damaged where offset {} is, and no segment has it",
                    placed.base
                );
                part.stop(reason, Cause::Lost);
                return Ok(());
            };
            self.push(key, batch)?;
        }
        if let Some(stamp) = placed.stamp {
            self.producers
                .sent(key, stamp, placed.count, (placed.base, time_ms));
        }
        Ok(())
    }

    /// Adds a partition's next batch.
    fn push(&mut self, key: PartitionKey, batch: Batch) -> Result<(), OpenError> {
        let time_ms = self.time_ms;
        let Some(part) = self.part(key) else {
            return Ok(());
        };
        part.appended_ms = Some(time_ms);
        let bytes = part.push(batch);
        let is_large = part.buffer_bytes >= BUFFER_BYTES;
        self.buffered += bytes;
        if is_large {
            self.flush(key)
        } else if self.buffered >= BUFFERS_BYTES {
            self.flush_all()
        } else {
            Ok(())
        }
    }

    /// Adds what the checkpoint kept aside of partitions that were at rest.
    pub(crate) fn bring_back(
        &mut self,
        asides: BTreeMap<PartitionKey, Aside>,
    ) -> Result<(), OpenError> {
        for (key, aside) in asides {
            let disk = self.files.disk();
            let batches = aside.read(disk, key);
            let Some(part) = self.part(key) else { continue };
            match batches {
                Ok(batches) => {
                    let end = part.end;
                    part.aside = Some(aside);
                    for batch in aside::follow(end, &batches) {
                        self.push(key, batch.clone())?;
                    }
                }
                Err(Fault::Io { path, reason, .. }) => {
                    let source = std::io::Error::other(reason);
                    let action = "read";
                    return Err(OpenError::Io {
                        action,
                        path,
                        source,
                    });
                }
                Err(fault) => {
                    let (end, last) = (part.end, aside.end - 1);
                    let reason = format!("offsets {end} to {last} are lost: {fault}");
                    part.stop(reason, Cause::Lost);
                    if let Err(error) = aside.set_apart(disk, key) {
                        tracing::warn!(%error, %fault, "could not keep what is left of a file");
                    }
                }
            }
        }
        self.flush_all()
    }

    /// Adds batches that a segment still had where the journal is damaged.
    pub(crate) fn salvaged(
        &mut self,
        key: PartitionKey,
        batches: Vec<Batch>,
    ) -> Result<(), OpenError> {
        let now_ms = i64::MIN;
        for batch in batches {
            if let Some(stamp) = batch.producer() {
                self.producers
                    .sent(key, stamp, batch.count(), (batch.base_offset(), now_ms));
            }
            self.push(key, batch)?;
        }
        self.flush(key)
    }

    pub(crate) fn flush_all(&mut self) -> Result<(), OpenError> {
        let keys: Vec<PartitionKey> = self
            .parts()
            .filter(|part| !part.buffer.is_empty())
            .map(|part| part.key)
            .collect();
        keys.into_iter().try_for_each(|key| self.flush(key))
    }

    pub(crate) fn flush(&mut self, key: PartitionKey) -> Result<(), OpenError> {
        let files = self.files;
        let settings = self.topics.get(&key.0).map(|topic| topic.settings);
        let segment_bytes = segment_bytes(&self.config, settings);
        let Some(part) = self.part(key) else {
            return Ok(());
        };
        let batches = std::mem::take(&mut part.buffer);
        let bytes = std::mem::take(&mut part.buffer_bytes);
        let newest = part.newest().cloned();
        let now_ms = part.appended_ms.unwrap_or(0);
        let mut run = Run {
            files,
            partition: key,
            segment_bytes,
            now_ms,
            newest,
        };
        let segments = &mut part.segments;
        let written = run.append(&batches, |segment| segments.push(segment));
        if let Some(last) = batches[..written.batches].last() {
            segments.set_end(last.end_offset());
        }
        if let Some((base, damage)) = written.left {
            part.stop(damage.to_string(), Cause::Segment(base));
        }
        match written.fault {
            None => {}
            Some(AppendFault::Full(source)) => {
                return Err(OpenError::Io {
                    action: "write segments of",
                    path: files.disk().describe(&segment::folder(key)),
                    source,
                });
            }
            Some(fault) => {
                let reason = format!("its segments cannot be written: {fault}");
                part.stop(reason, Cause::Unwritable);
            }
        }
        self.buffered = self.buffered.saturating_sub(bytes);
        Ok(())
    }

    /// Cuts what lies behind the recovered records and removes segments that
    /// are not part of them.
    pub(crate) fn trim_files(&mut self) -> Result<(), OpenError> {
        let files = self.files;
        for part in self
            .topics
            .values_mut()
            .flat_map(|topic| topic.parts.iter_mut())
        {
            let is_lost = part.is_stopped_by(Cause::Lost);
            if part.is_stopped_by(Cause::Unwritable) || (part.is_incomplete && is_lost) {
                // Whoever brings its files back should find everything else untouched.
                continue;
            }
            trim(files, part).map_err(|source| OpenError::Io {
                action: "trim segments of",
                path: files.disk().describe(&segment::folder(part.key)),
                source,
            })?;
        }
        Ok(())
    }
}

fn trim(files: &Files, part: &Part) -> std::io::Result<()> {
    let used: FxHashMap<u64, u64> = part
        .segments
        .list()
        .iter()
        .map(|segment| (segment.key.base, segment.len()))
        .collect();
    for (base, bytes) in &part.found {
        let key = Key::of(part.key, *base);
        match used.get(base) {
            // A missed one, or one beside it.
            None if part.is_incomplete && *base < part.covered.end => {}
            None => files.remove(key)?,
            Some(len) if len < bytes => files.open_unchecked(key)?.truncate(*len)?,
            Some(_) => {}
        }
    }
    Ok(())
}
