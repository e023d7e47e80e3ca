//! The checkpoint: what is in the journal comes to rest in segments and tables,
//! is synced there, and the journal's head can go.
//!
//! What recovery needs besides the tables and the segments lies in the same
//! file and the same transaction as the tables, under numbers of its own:
//!
//! ```text
//! 200               sequence u64 | records u64 | changes u64 | next topic u64 | next producer u64
//!                   | closed u8 (1: the store was closed, the journal has nothing behind this)
//! 201 topic u64be   settings | partitions u32 | name length u16 | name
//! 202 topic u64be partition u32be
//!                   epoch u32 | start u64 | segment u64 | length u64 | end u64
//!                   | why stopped: length u16 (65535: not stopped) | text
//!                   and if there are holes or segments are missed:
//!                   holes: count u32, each from u64 | to u64 | at u64
//!                   missed, until the end, each segment u64 | length u64
//! 203 producer u64be
//!                   epoch u16 | used ms i64 | name length u16 (65535: none) | name | windows u32, each
//!                   topic u64 | partition u32 | epoch u16 | next u32 | sent u8, each
//!                   sequence u32 | count u32 | offset u64
//! ```
//!
//! Little endian but for the keys, whose order should be that of the numbers.
//! `segment` and `length` say how far the partition's files are synced and
//! `end` which offset that is; everything above is written anew from the
//! journal at recovery. A hole is what a repair gave up: the offsets from `from`
//! to `to`, where the latter is at byte `at` of the segment that `from` is in. A
//! segment is missed that was the newest once and then was not there as it was
//! synced: the partition is stopped until it is (or is given up), but what the
//! journal had behind it went on into other segments.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes};
use eddy_protocol::TopicName;
use eddy_protocol::frame::TopicSettings;

use super::apply::Applied;
use super::commit::TopicId;
use super::engine::Engine;
use super::error::TableError;
use super::journal::group::Frame;
use super::journal::operation::{
    decode_holes, decode_settings, decode_text, encode_holes, encode_settings, encode_text,
};
use super::journal::{self, FileHeader};
use super::partition::{Partition, first_epoch};
use super::producer::{Identity, PartitionKey, Sent, Window};
use super::segment::{HEADER_BYTES, Hole, SyncFault};
use super::table::{Changes, WriteError, full_key};
use super::writer::Writer;
use crate::io::is_short_of_files;

pub(crate) const STATE: u8 = 200;
pub(crate) const TOPIC: u8 = 201;
pub(crate) const PARTITION: u8 = 202;
pub(crate) const IDENTITY: u8 = 203;

/// How far partitions' segments are.
type Entries = Vec<(Arc<Partition>, PartitionEntry)>;

/// The numbers that a checkpoint keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// The newest group that the checkpoint covers.
    pub(crate) sequence: u64,
    pub(crate) records: u64,
    pub(crate) changes: u64,
    pub(crate) next_topic: u64,
    pub(crate) next_producer: u64,
    pub(crate) closed: bool,
}

/// What a checkpoint keeps of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicEntry {
    pub(crate) settings: TopicSettings,
    pub(crate) partitions: u32,
    pub(crate) name: TopicName,
}

/// What a checkpoint keeps of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PartitionEntry {
    pub(crate) epoch: u32,
    pub(crate) start: u64,
    /// The base of the newest segment.
    pub(crate) segment: u64,
    /// How much of it is synced; 0: there is no segment.
    pub(crate) length: u64,
    pub(crate) end: u64,
    pub(crate) stopped: Option<String>,
    pub(crate) holes: Vec<Hole>,
    /// Segments that are waited for, and how much of them was synced.
    pub(crate) missed: Vec<(u64, u64)>,
}

/// How a checkpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// There was nothing to do.
    Nothing,
    /// There was no room, or a partition's records are in no segment; nothing is
    /// lost, another try may do.
    Postponed,
    Failed,
}

/// What a checkpoint covers.
struct Frozen {
    state: State,
    tables: Arc<Changes>,
    topics: Vec<(TopicId, Option<TopicEntry>)>,
    partitions: Vec<(PartitionKey, Arc<Partition>, u64)>,
    identities: Vec<(u64, Arc<Identity>)>,
    gone: Vec<u64>,
    journaled_bytes: u64,
}

impl Engine {
    /// Makes a checkpoint of everything that is written by now.
    pub(crate) fn checkpoint(&self) -> Outcome {
        let _alone = self.checkpointing.lock();
        self.checkpoint_alone(false)
    }

    /// The last checkpoint: afterwards the journal holds nothing. Nothing may be
    /// written any more.
    pub(crate) fn close(&self) -> Outcome {
        let _alone = self.checkpointing.lock();
        let outcome = self.checkpoint_alone(true);
        if outcome == Outcome::Done
            && let Err(error) = self.empty_journal()
        {
            tracing::warn!(%error, "could not remove the journal of the closed store");
        }
        outcome
    }

    /// Leaves a journal file without a group: its name tells whether the tables
    /// are those of the last checkpoint.
    fn empty_journal(&self) -> std::io::Result<()> {
        let sequence = self.writer.lock().sequence;
        let header = FileHeader {
            salt: self.salt,
            first_sequence: sequence + 1,
            boot: journal::CLOSED,
        };
        journal::prepare(&*self.disk, header, &Frame::default())?;
        journal::adopt(&*self.disk, header.first_sequence, false)?;
        self.remove_journal(sequence)
    }

    /// Whether a checkpoint would find something to do.
    pub(crate) fn is_dirty(&self) -> bool {
        self.differs(&self.writer.lock())
    }

    fn differs(&self, writer: &Writer) -> bool {
        self.journaled_bytes.load(Ordering::Relaxed) > 0 || !writer.touched.is_empty()
    }

    fn checkpoint_alone(&self, closed: bool) -> Outcome {
        let frozen = {
            let mut writer = self.writer.lock();
            if !closed && !self.differs(&writer) {
                return Outcome::Nothing;
            }
            // What the checkpoint covers must end where a file does.
            if !closed && (self.rotate(&mut writer).is_err() || !writer.journal.is_empty()) {
                return if self.failure().is_some() {
                    Outcome::Failed
                } else {
                    Outcome::Postponed
                };
            }
            self.freeze(&mut writer, closed)
        };
        let begin = Instant::now();
        let outcome = self.write_checkpoint(&frozen);
        match outcome {
            Outcome::Done => {
                if let Err(error) = self.remove_journal(frozen.state.sequence) {
                    tracing::warn!(%error, "could not remove journal files that are not needed any more");
                }
                let left = self.journaled_bytes.load(Ordering::Relaxed);
                self.meters.checkpointed(begin, left);
            }
            _ => self.thaw(frozen),
        }
        outcome
    }

    fn freeze(&self, writer: &mut Writer, closed: bool) -> Frozen {
        let journaled_bytes = self.journaled_bytes.swap(0, Ordering::Relaxed);
        let topics = writer
            .touched_topics
            .drain()
            .map(|id| (id, self.topic_entry(id)))
            .collect();
        let mut partitions: Vec<_> = writer
            .touched
            .drain()
            .map(|(key, partition)| {
                let end = writer.logs.get(&key).map_or(0, |log| log.next);
                (key, partition, end)
            })
            .collect();
        partitions.sort_unstable_by_key(|(key, ..)| *key);
        let (identities, gone) = writer.producers.take_changes();
        Frozen {
            state: State {
                sequence: writer.sequence,
                records: writer.records,
                changes: writer.changes,
                next_topic: writer.next_topic,
                next_producer: writer.producers.next_id,
                closed,
            },
            tables: self.tables.freeze(),
            topics,
            partitions,
            identities,
            gone,
            journaled_bytes,
        }
    }

    fn topic_entry(&self, id: TopicId) -> Option<TopicEntry> {
        let topic = self.catalog.by_id(id)?;
        let partitions = u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX);
        Some(TopicEntry {
            settings: topic.settings(),
            partitions,
            name: topic.name().clone(),
        })
    }

    /// The checkpoint did not happen: what it covered is for the next one.
    fn thaw(&self, frozen: Frozen) {
        self.tables.thaw();
        let mut writer = self.writer.lock();
        for (key, partition, _) in frozen.partitions {
            if !partition.is_deleted() {
                writer.touched.insert(key, partition);
            }
        }
        writer
            .touched_topics
            .extend(frozen.topics.iter().map(|(id, _)| *id));
        let changed = frozen.identities.iter().map(|(id, _)| *id);
        writer
            .producers
            .put_back(changed, frozen.gone.iter().copied());
        self.journaled_bytes
            .fetch_add(frozen.journaled_bytes, Ordering::Relaxed);
    }

    fn write_checkpoint(&self, frozen: &Frozen) -> Outcome {
        if self.sync_all().is_err() {
            return Outcome::Failed;
        }
        match self.apply_frozen(frozen) {
            Outcome::Done => self.write_frozen(frozen),
            other => other,
        }
    }

    /// Makes durable what is in the segments, and with it the tables.
    fn write_frozen(&self, frozen: &Frozen) -> Outcome {
        let entries = match self.sync_segments(frozen) {
            Ok(Some(entries)) => entries,
            Ok(None) => return Outcome::Postponed,
            // A folder could not be opened for its sync.
            Err(error) if is_short_of_files(&error) => return Outcome::Postponed,
            Err(error) => {
                self.fail("sync the segments", &error);
                return Outcome::Failed;
            }
        };
        // The segments may be further than what was frozen, by records that are visible before
        // their group is synced. They must not be there without the rest of their group.
        if self.sync_all().is_err() {
            return Outcome::Failed;
        }
        let mut own = own_entries(frozen, &entries);
        match self.forget_deleted(frozen, &mut own) {
            Ok(()) => {}
            Err(error @ TableError::Io { .. }) => {
                tracing::warn!(%error, "the checkpoint must wait");
                return Outcome::Postponed;
            }
            Err(error @ TableError::Damaged(_)) => {
                self.fail("read the tables", &error);
                return Outcome::Failed;
            }
        }
        match self.tables.write(&frozen.tables, &own) {
            Ok(()) => {}
            Err(WriteError::DiskFull) => return Outcome::Postponed,
            Err(WriteError::NotNow(reason)) => {
                tracing::warn!(%reason, "the checkpoint must wait");
                return Outcome::Postponed;
            }
            Err(WriteError::Failed(reason)) => {
                self.fail("write the tables", &reason);
                return Outcome::Failed;
            }
        }
        for (partition, entry) in &entries {
            partition.set_checkpointed(entry.segment);
        }
        Outcome::Done
    }

    /// Removes what earlier checkpoints kept of the partitions of deleted topics.
    fn forget_deleted(&self, frozen: &Frozen, own: &mut Changes) -> Result<(), TableError> {
        for (id, _) in frozen.topics.iter().filter(|(_, entry)| entry.is_none()) {
            for (key, _) in self
                .tables
                .scan_stored(&full_key(PARTITION, &id.0.to_be_bytes()))?
            {
                own.insert(key, None);
            }
        }
        Ok(())
    }

    fn apply_frozen(&self, frozen: &Frozen) -> Outcome {
        let any = |is: &dyn Fn(&Partition, u64) -> bool| {
            let mut alive = frozen
                .partitions
                .iter()
                .filter(|(_, partition, _)| !partition.is_deleted());
            alive.any(|(_, partition, end)| is(partition, *end))
        };
        // What such a partition has in the journal only must stay there.
        let is_held = || any(&|partition, _| partition.is_held());
        for (_, partition, end) in &frozen.partitions {
            let is_behind = || !partition.is_deleted() && partition.applied_end() < *end;
            while is_behind() && !partition.is_held() {
                match self.apply() {
                    Applied::Some => {}
                    Applied::Full | Applied::Again => return Outcome::Postponed,
                    Applied::Failed => return Outcome::Failed,
                    Applied::Nothing if !is_behind() => {}
                    Applied::Nothing => return Outcome::Postponed,
                }
            }
        }
        if is_held() {
            Outcome::Postponed
        } else {
            Outcome::Done
        }
    }

    /// Syncs the frozen partitions' segments and says how far they are; nothing
    /// if one could not be opened. An error is one of a sync.
    fn sync_segments(&self, frozen: &Frozen) -> std::io::Result<Option<Entries>> {
        let alive = frozen
            .partitions
            .iter()
            .filter(|(_, partition, _)| !partition.is_deleted());
        let mut entries = Vec::with_capacity(frozen.partitions.len());
        let mut unsynced = Vec::new();
        for (_, partition, _) in alive {
            let (entry, segments) = self.partition_entry(partition);
            let newer = segments
                .iter()
                .filter(|segment| segment.key.base >= partition.checkpointed());
            unsynced.extend(newer.map(|segment| (partition.clone(), segment.clone())));
            entries.push((partition.clone(), entry));
        }
        // An index is made anew where it is missing; the last room is for the tables.
        if !self.is_full() {
            unsynced
                .iter()
                .for_each(|(_, segment)| segment.save_index(&self.files));
        }
        if unsynced.len() > self.config.sync_files_max {
            self.files.sync_everything()?;
            return Ok(Some(entries));
        }
        let mut is_whole = true;
        for (partition, segment) in &unsynced {
            match segment.sync(&self.files) {
                Ok(()) => {}
                // Its files may be gone by now.
                Err(_) if partition.is_deleted() => {}
                Err(SyncFault::Sync(error)) => return Err(error),
                Err(SyncFault::Open(fault)) => {
                    is_whole = false;
                    if fault.is_barred() {
                        let _alone = self.applying.lock();
                        self.hold(partition, &fault, Some(segment.key.base));
                    }
                }
            }
        }
        self.files.sync_folders()?;
        Ok(is_whole.then_some(entries))
    }

    fn partition_entry(
        &self,
        partition: &Partition,
    ) -> (PartitionEntry, Arc<Vec<Arc<super::segment::Segment>>>) {
        // Between two turns of the applier the segments and the end belong together.
        let _alone = self.applying.lock();
        let segments = partition.segments();
        let entry = PartitionEntry {
            epoch: partition.epoch(),
            start: partition.start(),
            segment: segments.last().map_or(0, |segment| segment.key.base),
            length: segments.last().map_or(0, |segment| segment.len()),
            end: partition.applied_end(),
            stopped: partition.lasting_stop().map(|reason| reason.to_string()),
            holes: partition.holes(),
            missed: partition.missed(),
        };
        (entry, segments)
    }

    /// Removes the files whose groups are all at or below `sequence`. Damaged
    /// ones are kept aside, for whoever wants to look.
    pub(crate) fn remove_journal(&self, sequence: u64) -> std::io::Result<()> {
        let files = journal::list(&*self.disk)?;
        let mut changed = false;
        for (at, (first, _)) in files.iter().enumerate() {
            let is_covered = match files.get(at + 1) {
                Some((next, _)) => *next <= sequence.saturating_add(1),
                None => false,
            };
            if is_covered {
                changed = true;
                self.remove_journal_file(*first)?;
            }
        }
        if changed {
            self.disk.sync_dir(journal::FOLDER)
        } else {
            Ok(())
        }
    }

    fn remove_journal_file(&self, first: u64) -> std::io::Result<()> {
        if self.damaged_journal.lock().contains(&first) {
            return journal::set_aside(&*self.disk, first);
        }
        journal::remove(&*self.disk, first)
    }
}

fn own_entries(frozen: &Frozen, partitions: &[(Arc<Partition>, PartitionEntry)]) -> Changes {
    let mut own = Changes::new();
    own.insert(full_key(STATE, b""), Some(encode_state(&frozen.state)));
    for (id, entry) in &frozen.topics {
        own.insert(topic_key(*id), entry.as_ref().map(encode_topic));
    }
    for (partition, entry) in partitions {
        let has_history = entry.length > 0
            || entry.stopped.is_some()
            || !entry.holes.is_empty()
            || !entry.missed.is_empty()
            || entry.epoch != first_epoch(partition.topic());
        let value = has_history.then(|| encode_partition(entry));
        own.insert(partition_key(partition.topic(), partition.number()), value);
    }
    for (id, identity) in &frozen.identities {
        own.insert(identity_key(*id), Some(encode_identity(identity)));
    }
    for id in &frozen.gone {
        own.insert(identity_key(*id), None);
    }
    own
}

pub(crate) fn topic_key(topic: TopicId) -> Bytes {
    full_key(TOPIC, &topic.0.to_be_bytes())
}

pub(crate) fn partition_key(topic: TopicId, partition: u32) -> Bytes {
    let mut key = topic.0.to_be_bytes().to_vec();
    key.extend_from_slice(&partition.to_be_bytes());
    full_key(PARTITION, &key)
}

pub(crate) fn identity_key(id: u64) -> Bytes {
    full_key(IDENTITY, &id.to_be_bytes())
}

fn encode_state(state: &State) -> Bytes {
    let mut out = Vec::new();
    out.put_u64_le(state.sequence);
    out.put_u64_le(state.records);
    out.put_u64_le(state.changes);
    out.put_u64_le(state.next_topic);
    out.put_u64_le(state.next_producer);
    out.put_u8(u8::from(state.closed));
    out.into()
}

pub(crate) fn decode_state(mut from: Bytes) -> Option<State> {
    let state = State {
        sequence: from.try_get_u64_le().ok()?,
        records: from.try_get_u64_le().ok()?,
        changes: from.try_get_u64_le().ok()?,
        next_topic: from.try_get_u64_le().ok()?,
        next_producer: from.try_get_u64_le().ok()?,
        closed: from.try_get_u8().ok()? == 1,
    };
    from.is_empty().then_some(state)
}

fn encode_topic(entry: &TopicEntry) -> Bytes {
    let mut out = Vec::new();
    encode_settings(&entry.settings, &mut out);
    out.put_u32_le(entry.partitions);
    encode_text(Some(entry.name.as_ref()), &mut out);
    out.into()
}

pub(crate) fn decode_topic(key: &[u8], mut from: Bytes) -> Option<(TopicId, TopicEntry)> {
    let id = TopicId(u64::from_be_bytes(key.get(1..)?.try_into().ok()?));
    let settings = decode_settings(&mut from)?;
    let partitions = from.try_get_u32_le().ok()?;
    let name = TopicName::parse(&decode_text(&mut from)??).ok()?;
    from.is_empty().then_some((
        id,
        TopicEntry {
            settings,
            partitions,
            name,
        },
    ))
}

fn encode_partition(entry: &PartitionEntry) -> Bytes {
    let mut out = Vec::new();
    out.put_u32_le(entry.epoch);
    out.put_u64_le(entry.start);
    out.put_u64_le(entry.segment);
    out.put_u64_le(entry.length);
    out.put_u64_le(entry.end);
    encode_text(entry.stopped.as_deref(), &mut out);
    if !entry.holes.is_empty() || !entry.missed.is_empty() {
        encode_holes(&entry.holes, &mut out);
    }
    for (segment, length) in &entry.missed {
        out.put_u64_le(*segment);
        out.put_u64_le(*length);
    }
    out.into()
}

pub(crate) fn decode_partition(
    key: &[u8],
    mut from: Bytes,
) -> Option<(PartitionKey, PartitionEntry)> {
    let topic = TopicId(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?));
    let partition = u32::from_be_bytes(key.get(9..)?.try_into().ok()?);
    let mut entry = PartitionEntry {
        epoch: from.try_get_u32_le().ok()?,
        start: from.try_get_u64_le().ok()?,
        segment: from.try_get_u64_le().ok()?,
        length: from.try_get_u64_le().ok()?,
        end: from.try_get_u64_le().ok()?,
        stopped: decode_text(&mut from)?,
        holes: if from.is_empty() {
            Vec::new()
        } else {
            decode_holes(&mut from)?
        },
        missed: Vec::new(),
    };
    while !from.is_empty() {
        entry
            .missed
            .push((from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?));
    }
    let is_plausible = entry.length == 0 || entry.length >= HEADER_BYTES;
    is_plausible.then_some(((topic, partition), entry))
}

fn encode_identity(identity: &Identity) -> Bytes {
    let mut out = Vec::new();
    out.put_u16_le(identity.epoch);
    out.put_i64_le(identity.used_ms);
    encode_text(identity.name.as_deref(), &mut out);
    out.put_u32_le(u32::try_from(identity.windows.len()).unwrap_or(u32::MAX));
    let mut windows: Vec<_> = identity.windows.iter().collect();
    windows.sort_unstable_by_key(|(key, _)| **key);
    for ((topic, partition), window) in windows {
        out.put_u64_le(topic.0);
        out.put_u32_le(*partition);
        out.put_u16_le(window.epoch);
        out.put_u32_le(window.next);
        out.put_u8(window.used);
        for sent in window.remembered() {
            out.put_u32_le(sent.sequence);
            out.put_u32_le(sent.count);
            out.put_u64_le(sent.offset);
        }
    }
    out.into()
}

pub(crate) fn decode_identity(key: &[u8], mut from: Bytes) -> Option<(u64, Identity)> {
    let id = u64::from_be_bytes(key.get(1..)?.try_into().ok()?);
    let mut identity = Identity {
        epoch: from.try_get_u16_le().ok()?,
        used_ms: from.try_get_i64_le().ok()?,
        name: decode_text(&mut from)?,
        ..Identity::default()
    };
    for _ in 0..from.try_get_u32_le().ok()? {
        let key = (
            TopicId(from.try_get_u64_le().ok()?),
            from.try_get_u32_le().ok()?,
        );
        let mut window = Window {
            epoch: from.try_get_u16_le().ok()?,
            next: from.try_get_u32_le().ok()?,
            used: from.try_get_u8().ok()?,
            ..Window::default()
        };
        for place in 0..usize::from(window.used) {
            *window.sent.get_mut(place)? = Sent {
                sequence: from.try_get_u32_le().ok()?,
                count: from.try_get_u32_le().ok()?,
                offset: from.try_get_u64_le().ok()?,
            };
        }
        identity.windows.insert(key, window);
    }
    from.is_empty().then_some((id, identity))
}

#[cfg(test)]
mod tests {
    use eddy_protocol::frame::Durability;
    use eddy_protocol::{BatchBuilder, Compression};

    use super::*;
    use crate::io::{CrashKind, FaultyDisk, ManualClock};
    use crate::store::commit::{Append, CatalogChange, Change, Commit, Table};
    use crate::store::config::Config;
    use crate::store::recovery;
    use crate::store::request::{Request, ticket};

    const DONE: &[u8] = b"done";

    fn engine(disk: &FaultyDisk) -> Engine {
        let clock = Arc::new(ManualClock::new(0));
        let disk = Arc::new(disk.clone());
        recovery::open(Config::default(), disk, clock, Box::new(|_| {})).expect("the disk works")
    }

    fn write(engine: &Engine, commit: Commit) {
        let (reply, _) = ticket();
        engine.write(vec![Request::Commit { commit, reply }]);
    }

    fn create() -> Commit {
        let settings = TopicSettings {
            durability: Durability::Memory,
            ..TopicSettings::default()
        };
        Commit {
            catalog: vec![CatalogChange::Create {
                name: TopicName::parse("t").expect("the name is plain"),
                partitions: 1,
                settings,
            }],
            ..Commit::default()
        }
    }

    fn record() -> Commit {
        let mut builder = BatchBuilder::new();
        let pushed = builder.push(0, None, Some(b"output"), &[]);
        pushed.expect("the record is small");
        let batch = builder.finish(Compression::None, None);
        Commit {
            appends: vec![Append {
                topic: TopicId(1),
                partition: 0,
                batch: batch.expect("the batch is small"),
            }],
            ..Commit::default()
        }
    }

    /// A record, and the note that its work is done.
    fn output() -> Commit {
        Commit {
            changes: vec![Change::Put {
                table: Table::Progress,
                key: Bytes::from_static(DONE),
                value: Bytes::from_static(DONE),
            }],
            ..record()
        }
    }

    #[test]
    fn a_checkpoint_keeps_no_record_without_the_rest_of_its_commit() {
        for seed in 0..50 {
            let disk = FaultyDisk::new(seed);
            let before = engine(&disk);
            write(&before, create());
            before.sync();
            write(&before, record());
            let frozen = {
                let mut writer = before.writer.lock();
                before.rotate(&mut writer).expect("the disk works");
                before.freeze(&mut writer, false)
            };
            before.sync_all().expect("the disk works");
            // Visible at once, so it may go to its segment before the checkpoint looks at that.
            write(&before, output());
            before.apply_all();
            assert_eq!(before.write_frozen(&frozen), Outcome::Done);
            disk.crash(CrashKind::Machine);
            drop(before);
            let after = engine(&disk);
            let topic = after.catalog.by_id(TopicId(1)).expect("it was synced");
            let has_output = topic.partitions()[0].end() > 1;
            let is_noted = after
                .tables
                .get(Table::Progress, DONE)
                .expect("it is whole");
            assert_eq!(has_output, is_noted.is_some(), "seed {seed}");
        }
    }
}
