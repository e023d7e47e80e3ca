//! The state that recovery rebuilds: what the checkpoint kept, and over it the
//! journal's operations, one by one. Segments are written over in place, so
//! that doing all of it again after another crash gives the same.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::Ordering;

use eddy_protocol::frame::{Durability, TopicSettings};
use eddy_protocol::{Batch, TopicName};
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

use super::part::Part;
use super::salvage;
use crate::log::{Delta, Producer, StateChange, StateId, TopicId};
use crate::store::applier::segment_bytes;
use crate::store::aside::{self, Aside};
use crate::store::config::Config;
use crate::store::error::OpenError;
use crate::store::journal::operation::{Operation, Placed, TopicEntry};
use crate::store::partition::Shared;
use crate::store::partition::stop::Cause;
use crate::store::producer::{PartitionKey, Producers};
use crate::store::row::PartitionEntry;
use crate::store::segment::{self, Fault, HEADER_BYTES};
use crate::store::state::States;
use crate::store::table::{Changes, entry};

/// How much may wait in memory for its segments.
const BUFFERS_BYTES: u64 = 64 << 20;

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
pub(crate) struct Replay {
    pub(crate) config: Config,
    pub(crate) shared: Shared,
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
    /// When the group was written that is replayed.
    time_ms: i64,
    listed: FxHashMap<PartitionKey, BTreeMap<u64, u64>>,
}

impl Replay {
    /// Begins with what the checkpoint kept.
    pub(crate) fn new(
        config: Config,
        shared: Shared,
        topics: BTreeMap<TopicId, TopicEntry>,
        mut partitions: FxHashMap<PartitionKey, PartitionEntry>,
        listed: FxHashMap<PartitionKey, BTreeMap<u64, u64>>,
    ) -> Replay {
        let mut replay = Replay {
            states: States::new(config.state_bytes),
            config,
            shared,
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
            time_ms: 0,
            listed,
        };
        for (id, topic) in topics {
            let parts = (0..topic.partitions)
                .map(|number| {
                    let key = (id, number);
                    let found = replay.listed.remove(&key).unwrap_or_default();
                    let (name, shared) = (&topic.name, &replay.shared);
                    match partitions.remove(&key) {
                        Some(entry) => Part::kept(key, name, shared, found, entry),
                        None => Part::new(key, name, shared, found),
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
                let parts = self.new_parts(topic, &entry.name, 0..entry.partitions);
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
                for part in removed.iter().flat_map(|topic| &topic.parts) {
                    part.partition.drop_unapplied();
                }
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
        self.touched_topics.insert(topic);
        let Some(known) = self.topics.get(&topic) else {
            return;
        };
        let (name, now) = (known.name.clone(), known.parts.len());
        let numbers = u32::try_from(now).unwrap_or(u32::MAX)..partitions;
        let added = self.new_parts(topic, &name, numbers);
        if let Some(known) = self.topics.get_mut(&topic) {
            known.parts.extend(added);
        }
    }

    /// Stops partitions whose oldest segment is gone although nothing may have deleted it.
    pub(crate) fn require_starts(&mut self) {
        let topics = self.topics.values_mut();
        topics
            .filter(|topic| !topic.had_retention)
            .flat_map(|topic| &mut topic.parts)
            .for_each(|part| part.require_start(&self.shared.files));
    }

    fn new_parts(&mut self, topic: TopicId, name: &TopicName, numbers: Range<u32>) -> Vec<Part> {
        let is_adopted = self.adopted.contains(&topic);
        let proven = if is_adopted { usize::MAX } else { self.damages };
        let made = numbers.map(|number| {
            let key = (topic, number);
            let found = self.listed.remove(&key).unwrap_or_default();
            let mut part = Part::new(key, name, &self.shared, found);
            part.proven = proven;
            part
        });
        made.collect()
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
        let Some(part) = self.part(key).filter(|part| !part.is_lost()) else {
            self.has_dropped = true;
            return Ok(());
        };
        if placed.base > part.end() {
            let (end, last) = (part.end(), placed.base - 1);
            let reason = format!("offsets {end} to {last} are missing in the journal");
            part.stop(reason, Cause::Lost);
            return Ok(());
        }
        part.proven = part.proven.max(damages);
        part.journalled = part.journalled.max(placed.end());
        if placed.base == part.end() {
            let batch = match batch {
                Some(batch) => Some(batch),
                None => {
                    self.flush(key)?;
                    let candidate = self.part(key).and_then(|part| salvage::batch(part, placed));
                    candidate.and_then(|at| salvage::read(&self.shared.files, at, placed))
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
            self.push(key, batch, time_ms)?;
        }
        if let Some(stamp) = placed.stamp {
            self.producers
                .sent(key, stamp, placed.count, (placed.base, time_ms));
        }
        Ok(())
    }

    /// Adds a partition's next batch.
    fn push(&mut self, key: PartitionKey, batch: Batch, time_ms: i64) -> Result<(), OpenError> {
        if let Some(part) = self.part(key) {
            part.push(batch, time_ms);
        }
        match self.shared.tails_bytes.load(Ordering::Relaxed) >= BUFFERS_BYTES {
            true => self.flush_all(),
            false => Ok(()),
        }
    }

    /// Adds what the checkpoint kept aside of unwritable partitions.
    pub(crate) fn bring_back(
        &mut self,
        asides: BTreeMap<PartitionKey, Aside>,
    ) -> Result<(), OpenError> {
        for (key, aside) in asides {
            let files = self.shared.files.clone();
            let batches = aside.read(files.disk(), key);
            let Some(part) = self.part(key) else { continue };
            match batches {
                Ok(batches) => {
                    let (end, time_ms) = (part.end(), part.partition.extent.appended_ms());
                    let (covered, _) = part.partition.covered();
                    part.partition.set_covered(covered, Some(aside));
                    for batch in aside::follow(end, &batches) {
                        self.push(key, batch.clone(), time_ms.unwrap_or(i64::MIN))?;
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
                    let (end, last) = (part.end(), aside.end - 1);
                    let reason = format!("offsets {end} to {last} are lost: {fault}");
                    part.stop(reason, Cause::Lost);
                    if let Err(error) = aside.set_apart(files.disk(), key) {
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
            self.push(key, batch, self.time_ms)?;
        }
        self.flush(key)
    }

    pub(crate) fn flush_all(&mut self) -> Result<(), OpenError> {
        let keys: Vec<PartitionKey> = self.parts().map(|part| part.key()).collect();
        keys.into_iter().try_for_each(|key| self.flush(key))
    }

    pub(crate) fn flush(&mut self, key: PartitionKey) -> Result<(), OpenError> {
        let settings = self.topics.get(&key.0).map(|topic| topic.settings);
        let segment_bytes = segment_bytes(&self.config, settings);
        let files = self.shared.files.clone();
        let Some(part) = self.part(key) else {
            return Ok(());
        };
        let flushed = part.flush(&files, segment_bytes);
        flushed.map_err(|source| self.fault("write segments of", key, source))
    }

    /// Cuts the files of all partitions, see [`Part::trim`].
    pub(crate) fn trim_files(&self) -> Result<(), OpenError> {
        for part in self.topics.values().flat_map(|topic| &topic.parts) {
            let trimmed = part.trim(&self.shared.files);
            trimmed.map_err(|source| self.fault("trim segments of", part.key(), source))?;
        }
        Ok(())
    }

    fn fault(&self, action: &'static str, key: PartitionKey, source: std::io::Error) -> OpenError {
        let disk = self.shared.files.disk();
        OpenError::Io {
            action,
            path: disk.describe(&segment::folder(key)),
            source,
        }
    }
}
