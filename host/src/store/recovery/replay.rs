//! The state that recovery rebuilds: what the checkpoint kept, and over it the
//! journal's operations, one by one. Segments are written over in place, so
//! that doing all of it again after another crash gives the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use eddy_protocol::frame::{Durability, TopicSettings};
use eddy_protocol::{Batch, TopicName};
use rustc_hash::{FxHashMap, FxHashSet};

use super::salvage;
use crate::store::apply::segment_bytes;
use crate::store::commit::{Producer, TopicId};
use crate::store::config::Config;
use crate::store::epoch::Epochs;
use crate::store::error::OpenError;
use crate::store::journal::operation::{Operation, Placed};
use crate::store::producer::{PartitionKey, Producers};
use crate::store::row::{PartitionEntry, TopicEntry};
use crate::store::segment::append::Run;
use crate::store::segment::files::Files;
use crate::store::segment::{self, AppendFault, Fault, HEADER_BYTES, Hole, Key, Segment};
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
    pub(crate) end: u64,
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The segment files there were: base and length.
    pub(crate) found: BTreeMap<u64, u64>,
    /// Why it is stopped until it is repaired.
    pub(crate) stopped: Option<String>,
    /// Why it is stopped until its files are brought back. What the journal has
    /// for it goes on into other segments.
    pub(crate) broken: Option<String>,
    /// Why the journal's records behind `end` are in no segment: they stay in the journal.
    pub(crate) held: Option<String>,
    /// Damage that was met in a segment, by its base.
    pub(crate) damaged: Option<(u64, Fault)>,
    /// Segments that are waited for, and how much of them was synced.
    pub(crate) missed: Vec<(u64, u64)>,
    /// Whether one of them is there again.
    pub(crate) is_restored: bool,
    /// Where the journal goes on behind the checkpoint.
    kept_end: u64,
    /// How much of the newest segment the checkpoint covers.
    kept_length: u64,
    /// Segments below this do not reach the partition's end.
    open_from: u64,
    pub(crate) is_touched: bool,
    /// Segments that begin below this are wholly synced.
    pub(crate) checkpointed: u64,
    /// The newest damage in the journal that an append behind it has proven harmless for this partition.
    pub(crate) proven: usize,
    /// The newest damage in the journal that a repair behind it has accepted.
    pub(crate) repaired: usize,
    /// What repairs gave up.
    pub(crate) holes: Arc<[Hole]>,
    buffer: Vec<Batch>,
    buffer_bytes: u64,
}

/// A topic while it is recovered.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) name: TopicName,
    pub(crate) settings: TopicSettings,
    pub(crate) parts: Vec<Part>,
    /// Whether it was `memory` at any time that the journal tells of.
    pub(crate) was_memory: bool,
    /// Whether retention may have deleted segments since the checkpoint.
    had_retention: bool,
}

impl Known {
    fn new(name: TopicName, settings: TopicSettings, parts: Vec<Part>) -> Known {
        let mut topic = Known {
            name,
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
    pub(crate) next_topic: u64,
    pub(crate) records: u64,
    pub(crate) changes: u64,
    /// How often the journal was found damaged so far.
    pub(crate) damages: usize,
    /// Whether records were left where they are, because their partition is stopped.
    pub(crate) has_dropped: bool,
    buffered: u64,
    listed: FxHashMap<PartitionKey, BTreeMap<u64, u64>>,
}

impl Part {
    fn new(key: PartitionKey, found: BTreeMap<u64, u64>, damages: usize) -> Part {
        Part {
            key,
            epochs: Epochs::first(key.0),
            start: 0,
            end: 0,
            segments: Vec::new(),
            found,
            stopped: None,
            broken: None,
            held: None,
            damaged: None,
            missed: Vec::new(),
            is_restored: false,
            kept_end: 0,
            open_from: 0,
            kept_length: 0,
            is_touched: false,
            checkpointed: 0,
            proven: damages,
            repaired: 0,
            holes: Arc::default(),
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
        (part.epochs, part.start, part.end, part.stopped) =
            (entry.epochs, entry.start, entry.end, entry.stopped);
        (part.kept_end, part.checkpointed) = (entry.end, entry.segment);
        let mut segments = part.found.clone();
        (part.kept_length, part.holes) = (entry.length, entry.holes.into());
        if entry.length == 0 {
            segments.clear();
        } else {
            segments.split_off(&(entry.segment + 1));
            segments.retain(|base, _| *base >= entry.start);
            part.require(entry.segment, entry.length, &mut segments, files);
        }
        let missed = part.missed.len();
        for (segment, length) in &entry.missed {
            part.require(*segment, *length, &mut segments, files);
        }
        part.is_restored = part.missed.len() - missed < entry.missed.len();
        if part.is_restored {
            part.begin_epoch();
        }
        let newest = segments.keys().next_back().copied();
        if part.missed.iter().any(|(base, _)| Some(*base) > newest) {
            part.open_from = part.kept_end;
        }
        let (topic, partition) = key;
        for (base, bytes) in segments {
            let is_newest = Some(base) == newest && base >= part.open_from;
            let key = Key {
                topic,
                partition,
                base,
            };
            let segment = Segment::existing(key, bytes, !is_newest);
            segment.set_holes(part.holes.clone());
            part.segments.push(Arc::new(segment));
        }
        part
    }

    /// A segment that must be there, of this length; otherwise it is missed.
    fn require(
        &mut self,
        base: u64,
        length: u64,
        segments: &mut BTreeMap<u64, u64>,
        files: &Files,
    ) {
        let bytes = self.found.get(&base).copied();
        if bytes.is_some_and(|bytes| bytes >= length) {
            segments.insert(base, length);
            return;
        }
        segments.remove(&base);
        self.missed.push((base, length));
        let path = self.describe(base, files);
        self.broken.get_or_insert(match bytes {
            None => format!("{path} is missing"),
            Some(bytes) => format!("{path} has {bytes} bytes, {length} were synced"),
        });
    }

    /// Where nothing deletes segments, the oldest one must be there.
    fn require_start(&mut self, files: &Files) {
        let first = self.segments.first().map(|segment| segment.key.base);
        let holes = &self.holes;
        let is_there = |first| first <= self.start || segment::is_lost(holes, self.start, first);
        if self.missed.is_empty() && first.is_some_and(|first| !is_there(first)) {
            let path = self.describe(self.start, files);
            self.broken = Some(format!("{path} is missing"));
        }
    }

    fn describe(&self, base: u64, files: &Files) -> String {
        let (topic, partition) = self.key;
        let key = Key {
            topic,
            partition,
            base,
        };
        files.disk().describe(&key.path())
    }

    /// The oldest offset.
    pub(crate) fn start(&self) -> u64 {
        match self.segments.first() {
            _ if self.broken.is_some() => self.start,
            Some(segment) => segment.key.base,
            None => self.end,
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

    /// Whether what the journal has for it is replayed.
    fn takes(&self) -> bool {
        self.stopped.is_none() && self.held.is_none()
    }

    pub(crate) fn stop(&mut self, reason: String) {
        self.is_touched = true;
        self.stopped.get_or_insert(reason);
    }

    /// Goes on with these holes, as far as the journal has not just filled them:
    /// it brings back everything that the checkpoint does not cover.
    fn repair(&mut self, epoch: (u32, Option<u64>), holes: Vec<Hole>, damages: usize) {
        (self.stopped, self.broken, self.damaged) = (None, None, None);
        self.set_epoch(epoch.0, epoch.1);
        (self.proven, self.repaired) = (damages, damages);
        let (newest, length, end) = (self.checkpointed, self.kept_length, self.kept_end);
        let mut holes: Vec<Hole> = holes.into_iter().filter(|hole| hole.from < end).collect();
        for hole in &mut holes {
            hole.to = hole.to.min(end);
        }
        let found = std::mem::take(&mut self.segments);
        let ends: Vec<u64> = found
            .iter()
            .skip(1)
            .map(|segment| segment.key.base)
            .chain([self.end])
            .collect();
        self.segments = found
            .into_iter()
            .zip(ends)
            .filter(|(segment, end)| !segment::is_lost(&holes, segment.key.base, *end))
            .map(|(segment, _)| segment)
            .collect();
        // Behind the newest one's end other segments go on, or this one at another byte.
        if let Some(hole) = holes.last_mut().filter(|hole| hole.to == end)
            && hole.from >= newest
            && self
                .segments
                .iter()
                .any(|segment| segment.key.base == newest)
        {
            hole.at = length;
        }
        self.missed
            .retain(|(base, _)| !segment::is_lost(&holes, *base, *base));
        self.holes = holes.into();
        for segment in &self.segments {
            segment.set_holes(self.holes.clone());
        }
    }

    fn push(&mut self, batch: Batch) -> u64 {
        let bytes = batch.len() as u64;
        self.end = batch.end_offset();
        self.buffer_bytes += bytes;
        self.buffer.push(batch);
        self.is_touched = true;
        bytes
    }

    /// The segment that ends where the partition does.
    fn newest(&self) -> Option<&Arc<Segment>> {
        let newest = self.segments.last();
        newest.filter(|segment| segment.key.base >= self.open_from)
    }

    /// Where the partition's newest records end on disk: segment base and byte.
    pub(crate) fn place(&self) -> Option<(u64, u64)> {
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
            let topic = Known::new(topic.name, topic.settings, parts);
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
                .get(&placed.topic)
                .is_none_or(|topic| topic.settings.durability == Durability::Disk),
            Operation::Change(change) => change.waits_for_sync(),
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
        match operation {
            Operation::Append(placed) => return self.append(&placed, batch, time_ms),
            Operation::Change(change) => {
                let (key, value) = entry(&change);
                self.table.insert(key, value);
            }
            Operation::CreateTopic {
                topic,
                name,
                partitions,
                settings,
            } => {
                self.next_topic = self.next_topic.max(topic.0 + 1);
                self.touched_topics.insert(topic);
                let parts = self.new_parts(topic, 0..partitions);
                self.topics.insert(topic, Known::new(name, settings, parts));
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
            Operation::SetEpoch {
                topic,
                partition,
                epoch,
                from,
            } => {
                if let Some(part) = self.part((topic, partition)) {
                    part.set_epoch(epoch, from);
                }
            }
            Operation::Stop {
                topic,
                partition,
                reason,
                ..
            } => {
                if let Some(part) = self.part((topic, partition)) {
                    part.stop(reason);
                }
            }
            Operation::Repair {
                topic,
                partition,
                epoch,
                from,
                holes,
            } => {
                let key = (topic, partition);
                self.flush(key)?;
                let damages = self.damages;
                if let Some(part) = self.part(key) {
                    part.repair((epoch, from), holes, damages);
                }
            }
            Operation::Skipped => {}
        }
        self.changes += 1;
        Ok(())
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
            Known::new(name, TopicSettings::default(), Vec::new()),
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
        let key = (placed.topic, placed.partition);
        self.records += u64::from(placed.span);
        let damages = self.damages;
        if self.part(key).is_none() {
            // Whatever made the partition cannot be read, but it was there.
            self.adopt(placed.topic);
            self.grow(placed.topic, placed.partition + 1);
        }
        let Some(part) = self.part(key).filter(|part| part.takes()) else {
            self.has_dropped = true;
            return Ok(());
        };
        if placed.base > part.end {
            let (end, base) = (part.end, placed.base);
            part.stop(format!(
                "offsets {end} to {} are missing in the journal",
                base - 1
            ));
            return Ok(());
        }
        part.proven = part.proven.max(damages);
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
                part.stop(format!(
                    "the journal is damaged where offset {} is, and no segment has it",
                    placed.base
                ));
                return Ok(());
            };
            let bytes = part.push(batch);
            let is_large = part.buffer_bytes >= BUFFER_BYTES;
            self.buffered += bytes;
            if is_large {
                self.flush(key)?;
            } else if self.buffered >= BUFFERS_BYTES {
                self.flush_all()?;
            }
        }
        if let Some(stamp) = placed.stamp {
            self.producers
                .sent(key, stamp, placed.count, (placed.base, time_ms));
        }
        Ok(())
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
            let bytes = self.part(key).map_or(0, |part| part.push(batch));
            self.buffered += bytes;
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
        let mut run = Run {
            files,
            partition: key,
            segment_bytes,
            newest,
        };
        let segments = &mut part.segments;
        let written = run.append(&batches, |segment| segments.push(segment));
        part.damaged = part.damaged.take().or(written.left);
        match written.fault {
            None => {}
            Some(AppendFault::Full(source)) => {
                return Err(OpenError::Io {
                    action: "write segments of",
                    path: files.disk().describe(&segment::folder(key.0, key.1)),
                    source,
                });
            }
            Some(fault) => {
                part.end = batches[written.batches].base_offset();
                part.held = Some(fault.to_string());
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
            if part.held.is_some() || (part.broken.is_some() && part.stopped.is_some()) {
                // Whoever brings its files back should find everything else untouched.
                continue;
            }
            trim(files, part).map_err(|source| OpenError::Io {
                action: "trim segments of",
                path: files
                    .disk()
                    .describe(&segment::folder(part.key.0, part.key.1)),
                source,
            })?;
        }
        Ok(())
    }
}

fn trim(files: &Files, part: &Part) -> std::io::Result<()> {
    let (topic, partition) = part.key;
    let used: FxHashMap<u64, u64> = part
        .segments
        .iter()
        .map(|segment| (segment.key.base, segment.len()))
        .collect();
    for (base, bytes) in &part.found {
        let key = Key {
            topic,
            partition,
            base: *base,
        };
        match used.get(base) {
            // A missed one, or one beside it.
            None if part.broken.is_some() && *base < part.kept_end => {}
            None => files.remove(key)?,
            Some(len) if len < bytes => files.open_unchecked(key)?.truncate(*len)?,
            Some(_) => {}
        }
    }
    Ok(())
}
