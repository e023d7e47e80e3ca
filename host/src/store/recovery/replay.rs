//! The state that recovery rebuilds: what the checkpoint kept, and over it the
//! journal's operations, one by one. Segments are written over in place, so
//! that doing all of it again after another crash gives the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use eddy_protocol::frame::{Durability, TopicSettings};
use eddy_protocol::{Batch, TopicName};
use rustc_hash::{FxHashMap, FxHashSet};

use super::salvage;
use crate::store::apply::segment_bytes;
use crate::store::checkpoint::{PartitionEntry, TopicEntry};
use crate::store::commit::{Producer, TopicId};
use crate::store::config::Config;
use crate::store::error::OpenError;
use crate::store::journal::operation::{Operation, Placed};
use crate::store::partition::first_epoch;
use crate::store::producer::{PartitionKey, Producers};
use crate::store::segment::append::Run;
use crate::store::segment::files::Files;
use crate::store::segment::{self, AppendFault, Fault, Hole, Key, Segment};
use crate::store::table::{Changes, entry};

/// What is written to a segment at once.
const BUFFER_BYTES: u64 = 4 << 20;
/// What all partitions together may hold back.
const BUFFERS_BYTES: u64 = 64 << 20;

/// A partition while it is recovered.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) key: PartitionKey,
    pub(crate) epoch: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The segment files there were: base and length.
    pub(crate) found: BTreeMap<u64, u64>,
    /// Why it is stopped until it is repaired.
    pub(crate) stopped: Option<String>,
    /// Why it is stopped until its files are brought back; the journal stays until then.
    pub(crate) broken: Option<String>,
    /// As `broken`, where even what is in the journal can come into no segment: it ends at `end`.
    pub(crate) held: Option<String>,
    /// Damage that was met in a segment, by its base.
    pub(crate) damaged: Option<(u64, Fault)>,
    pub(crate) is_touched: bool,
    /// Segments that begin below this are wholly synced.
    pub(crate) checkpointed: u64,
    /// The newest damage in the journal that an append behind it has proven harmless for this partition.
    pub(crate) proven: usize,
    /// The newest damage in the journal that a repair behind it has accepted.
    pub(crate) repaired: usize,
    /// What repairs gave up.
    pub(crate) holes: Arc<[Hole]>,
    /// How far the checkpoint knew it: the newest segment, its length, the end.
    pub(crate) kept: (u64, u64, u64),
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
}

/// Everything that is recovered.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    pub(crate) config: Config,
    pub(crate) files: &'a Files,
    pub(crate) topics: BTreeMap<TopicId, Known>,
    pub(crate) touched_topics: FxHashSet<TopicId>,
    pub(crate) deleted: FxHashSet<TopicId>,
    pub(crate) producers: Producers,
    pub(crate) table: Changes,
    pub(crate) next_topic: u64,
    pub(crate) records: u64,
    pub(crate) changes: u64,
    /// How often the journal was found damaged so far.
    pub(crate) damages: usize,
    buffered: u64,
    listed: FxHashMap<PartitionKey, BTreeMap<u64, u64>>,
}

impl Part {
    fn new(key: PartitionKey, found: BTreeMap<u64, u64>, damages: usize) -> Part {
        Part {
            key,
            epoch: first_epoch(key.0),
            start: 0,
            end: 0,
            segments: Vec::new(),
            found,
            stopped: None,
            broken: None,
            held: None,
            damaged: None,
            is_touched: false,
            checkpointed: 0,
            proven: damages,
            repaired: 0,
            holes: Arc::default(),
            kept: (0, 0, 0),
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
        (part.epoch, part.start, part.end, part.stopped) =
            (entry.epoch, entry.start, entry.end, entry.stopped);
        part.kept = (entry.segment, entry.length, entry.end);
        part.holes = entry.holes.into();
        if entry.length == 0 {
            return part;
        }
        part.checkpointed = entry.segment;
        let (topic, partition) = key;
        for (base, bytes) in part.found.range(entry.start..=entry.segment) {
            let is_newest = *base == entry.segment;
            let length = if is_newest {
                entry.length.min(*bytes)
            } else {
                *bytes
            };
            let key = Key {
                topic,
                partition,
                base: *base,
            };
            // What comes behind one that was cut short goes to another one.
            let is_closed = length < entry.length || !is_newest;
            let segment = Segment::existing(key, length, is_closed);
            segment.set_holes(part.holes.clone());
            part.segments.push(Arc::new(segment));
        }
        let newest = Key {
            topic,
            partition,
            base: entry.segment,
        };
        let path = files.disk().describe(&newest.path());
        match part.found.get(&entry.segment) {
            None => part.broken = Some(format!("{path} is missing")),
            Some(bytes) if *bytes < entry.length => {
                part.broken = Some(format!(
                    "{path} has {bytes} bytes, {} were synced",
                    entry.length
                ));
            }
            Some(_) => {
                part.start = part
                    .segments
                    .first()
                    .map_or(part.end, |segment| segment.key.base);
            }
        }
        part
    }

    pub(crate) fn serves(&self) -> bool {
        self.stopped.is_none() && self.broken.is_none() && self.held.is_none()
    }

    pub(crate) fn stop(&mut self, reason: String) {
        self.is_touched = true;
        self.stopped.get_or_insert(reason);
    }

    /// Goes on with these holes, as far as the journal has not just filled them:
    /// it brings back everything that the checkpoint does not cover.
    fn repair(&mut self, epoch: u32, holes: Vec<Hole>, damages: usize) {
        (self.stopped, self.broken, self.damaged) = (None, None, None);
        (self.epoch, self.is_touched) = (epoch, true);
        (self.proven, self.repaired) = (damages, damages);
        let (newest, length, end) = self.kept;
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

    /// Where the partition's newest records end on disk: segment base and byte.
    pub(crate) fn place(&self) -> Option<(u64, u64)> {
        self.segments
            .last()
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
            producers: Producers::default(),
            table: Changes::new(),
            next_topic: 1,
            records: 0,
            changes: 0,
            damages: 0,
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
            let was_memory = topic.settings.durability == Durability::Memory;
            replay.topics.insert(
                id,
                Known {
                    name: topic.name,
                    settings: topic.settings,
                    parts,
                    was_memory,
                },
            );
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
                let was_memory = settings.durability == Durability::Memory;
                let parts = self.new_parts(topic, 0..partitions);
                self.topics.insert(
                    topic,
                    Known {
                        name,
                        settings,
                        parts,
                        was_memory,
                    },
                );
            }
            Operation::AlterTopic {
                topic,
                partitions,
                settings,
            } => {
                self.touched_topics.insert(topic);
                let now = self.topics.get(&topic).map_or(0, |topic| topic.parts.len());
                let added =
                    self.new_parts(topic, u32::try_from(now).unwrap_or(u32::MAX)..partitions);
                if let Some(topic) = self.topics.get_mut(&topic) {
                    topic.settings = settings;
                    topic.was_memory |= settings.durability == Durability::Memory;
                    topic.parts.extend(added);
                }
            }
            Operation::DeleteTopic { topic } => {
                self.touched_topics.insert(topic);
                self.topics.remove(&topic);
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
            } => {
                if let Some(part) = self.part((topic, partition)) {
                    (part.epoch, part.is_touched) = (epoch, true);
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
                holes,
            } => {
                let key = (topic, partition);
                self.flush(key)?;
                let damages = self.damages;
                if let Some(part) = self.part(key) {
                    part.repair(epoch, holes, damages);
                }
            }
        }
        self.changes += 1;
        Ok(())
    }

    fn new_parts(&mut self, topic: TopicId, numbers: std::ops::Range<u32>) -> Vec<Part> {
        numbers
            .map(|number| {
                let found = self.listed.remove(&(topic, number)).unwrap_or_default();
                Part::new((topic, number), found, self.damages)
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
        let Some(part) = self.part(key) else {
            return Ok(());
        };
        if part.stopped.is_some() || part.held.is_some() {
            return Ok(());
        }
        if placed.base > part.end {
            let (end, base) = (part.end, placed.base);
            part.stop(format!(
                "offsets {end} to {} are missing in the journal",
                base - 1
            ));
            return Ok(());
        }
        part.proven = damages;
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
        let newest = part.segments.last().cloned();
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
            if part.held.is_some() {
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
        if part.broken.is_some() && *base <= part.checkpointed {
            // As above: only what the journal brings back may be written over.
            continue;
        }
        match used.get(base) {
            None => files.remove(key)?,
            Some(len) if len < bytes => files.open_unchecked(key)?.truncate(*len)?,
            Some(_) => {}
        }
    }
    Ok(())
}
