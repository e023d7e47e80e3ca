//! The checkpoint: what is in the journal comes to rest in segments and tables,
//! is synced there, and the journal's head can go.
//!
//! What recovery needs besides the tables and the segments lies in the same file
//! and the same transaction as the tables (see [`row`]).
//!
//! Nothing that a single partition cannot do stands in the way of a checkpoint
//! for long: what the system refuses for a while is tried again, and then the
//! partition comes to rest (see [`aside`]).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::apply::Applied;
use super::aside::{self, Aside};
use super::engine::Engine;
use super::journal::group::Frame;
use super::journal::operation::TopicEntry;
use super::journal::{self, FileHeader};
use super::partition::Partition;
use super::partition::stop::Cause;
use super::producer::{Changed, PartitionKey};
use super::row::{self, PartitionEntry, State};
use super::segment::{Fault, SyncFault};
use super::state::Collected;
use super::table::{Changes, WriteError};
use super::writer::Writer;
use crate::io::is_short_of_files;
use crate::log::{Partition as _, TableError, TopicId};

/// What a checkpoint says of a partition.
struct Entry {
    partition: Arc<Partition>,
    row: PartitionEntry,
    aside: Option<Aside>,
    /// Where its offsets ended when the checkpoint began.
    end: u64,
    is_at_rest: bool,
}

/// Which segments were synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Synced {
    All,
    /// Not those of partitions that came to rest.
    Fewer,
    /// Some could not be opened now.
    NotNow,
}

/// How a checkpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// There was nothing to do.
    Nothing,
    /// There was no room, or the system could not for a moment; nothing is lost,
    /// another try may do.
    Postponed,
    Failed,
}

/// What a checkpoint covers.
struct Frozen {
    state: State,
    tables: Arc<Changes>,
    topics: Vec<(TopicId, Option<TopicEntry>)>,
    partitions: Vec<(PartitionKey, Arc<Partition>, u64)>,
    producers: Changed,
    journaled_bytes: u64,
}

impl Engine {
    /// Makes a checkpoint of everything that is written by now.
    pub(crate) fn checkpoint(&self) -> Outcome {
        let _alone = self.checkpointing.lock();
        let outcome = self.checkpoint_alone(false);
        let is_postponed = outcome == Outcome::Postponed;
        self.is_postponed.store(is_postponed, Ordering::Relaxed);
        outcome
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
    fn empty_journal(&self) -> io::Result<()> {
        let sequence = self.writer.lock().sequence;
        let header = FileHeader {
            salt: self.salt,
            first_sequence: sequence + 1,
            boot: journal::CLOSED,
        };
        journal::prepare(&*self.disk, header, &Frame::default(), &[])?;
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
        self.frozen_bytes.store(0, Ordering::Relaxed);
        outcome
    }

    fn freeze(&self, writer: &mut Writer, closed: bool) -> Frozen {
        let journaled_bytes = self.journaled_bytes.swap(0, Ordering::Relaxed);
        self.frozen_bytes.store(journaled_bytes, Ordering::Relaxed);
        let topics = writer
            .touched_topics
            .drain()
            .map(|id| (id, self.topic_entry(id)))
            .collect();
        let mut partitions: Vec<_> = writer
            .touched
            .drain()
            .map(|(key, partition)| {
                let end = writer.heads.get(&key).map_or(0, |head| head.next);
                (key, partition, end)
            })
            .collect();
        partitions.sort_unstable_by_key(|(key, ..)| *key);
        let producers = writer.producers.take_changes();
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
            producers,
            journaled_bytes,
        }
    }

    fn topic_entry(&self, id: TopicId) -> Option<TopicEntry> {
        let topic = self.catalog.topics.by_id(id)?;
        let partitions = u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX);
        Some(TopicEntry {
            settings: topic.settings(),
            partitions,
            name: topic.name().clone(),
            uuid: Some(topic.uuid()),
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
        writer.producers.put_back(&frozen.producers);
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
        let entries = loop {
            let entries = match self.entries(frozen) {
                Ok(entries) => entries,
                Err(error) => return self.must_wait(&error),
            };
            match self.sync_segments(&entries) {
                Ok(Synced::All) => break entries,
                // What the journal has of those that came to rest is to be kept aside.
                Ok(Synced::Fewer) => {}
                Ok(Synced::NotNow) => return Outcome::Postponed,
                // A folder could not be opened for its sync.
                Err(error) if is_short_of_files(&error) => return self.must_wait(&error),
                Err(error) => {
                    self.fail("sync the segments", &error);
                    return Outcome::Failed;
                }
            }
        };
        // The segments and the states may be further than what was frozen, by what is there before
        // its group is synced. It must not be there without the rest of its group.
        let states = self.states.collect();
        let outcome = self.write_tables(frozen, &entries, &states);
        match outcome {
            Outcome::Done => self.states.written(&states),
            _ => self.states.put_back(&states),
        }
        outcome
    }

    fn write_tables(&self, frozen: &Frozen, entries: &[Entry], states: &Collected) -> Outcome {
        if self.sync_all().is_err() {
            return Outcome::Failed;
        }
        let mut own = own_entries(frozen, entries);
        match self.forget_deleted(frozen, &mut own) {
            Ok(()) => {}
            Err(error @ TableError::Io { .. }) => return self.must_wait(&error),
            Err(error @ TableError::Damaged(_)) => {
                self.fail("read the tables", &error);
                return Outcome::Failed;
            }
        }
        match self.tables.write(&frozen.tables, &own, states) {
            Ok(()) => {}
            Err(WriteError::DiskFull) => return Outcome::Postponed,
            Err(WriteError::NotNow(reason)) => return self.must_wait(&reason),
            Err(WriteError::Failed(reason)) => {
                self.fail("write the tables", &reason);
                return Outcome::Failed;
            }
        }
        let sequence = frozen.state.sequence;
        self.checkpointed.store(sequence, Ordering::Relaxed);
        for entry in entries {
            let covered = entry.row.covered();
            entry.partition.set_covered(covered, entry.aside.clone());
        }
        if let Err(error) = self.remove_asides() {
            tracing::warn!(%error, "could not remove what was kept aside of a partition");
        }
        Outcome::Done
    }

    /// Nothing is lost: the journal keeps all until the next try.
    fn must_wait(&self, why: &dyn std::fmt::Display) -> Outcome {
        tracing::warn!(%why, "the checkpoint must wait");
        Outcome::Postponed
    }

    /// Removes what earlier checkpoints kept of the partitions of deleted topics.
    fn forget_deleted(&self, frozen: &Frozen, own: &mut Changes) -> Result<(), TableError> {
        for (id, _) in frozen.topics.iter().filter(|(_, entry)| entry.is_none()) {
            for prefix in [row::PARTITION.prefix(*id), row::ASIDE.prefix(*id)] {
                for (key, _) in self.tables.scan_stored(&prefix)? {
                    own.insert(key, None);
                }
            }
        }
        Ok(())
    }

    fn apply_frozen(&self, frozen: &Frozen) -> Outcome {
        for (_, partition, end) in &frozen.partitions {
            let is_behind = || {
                let is_left = partition.is_deleted() || partition.service.is_unwritable();
                !is_left && partition.applied_end() < *end
            };
            while is_behind() {
                match self.apply() {
                    Applied::Some => {}
                    Applied::Full | Applied::Again => return Outcome::Postponed,
                    Applied::Failed => return Outcome::Failed,
                    Applied::Nothing if !is_behind() => {}
                    Applied::Nothing => return Outcome::Postponed,
                }
            }
        }
        Outcome::Done
    }

    /// What the checkpoint says of its partitions.
    fn entries(&self, frozen: &Frozen) -> io::Result<Vec<Entry>> {
        let alive = frozen
            .partitions
            .iter()
            .filter(|(_, partition, _)| !partition.is_deleted());
        let mut entries: Vec<Entry> = alive
            .map(|(_, partition, end)| self.partition_entry(partition, *end))
            .collect();
        self.keep_aside(frozen.state.sequence, &mut entries)?;
        Ok(entries)
    }

    /// Writes aside what the journal up to `sequence` has of the partitions at rest.
    fn keep_aside(&self, sequence: u64, entries: &mut [Entry]) -> io::Result<()> {
        let disk = &*self.disk;
        let mut drafts: BTreeMap<PartitionKey, aside::Draft> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.is_at_rest) {
            let aside = entry.aside.as_ref();
            if aside.map_or(entry.row.end, |aside| aside.end) >= entry.end {
                continue;
            }
            let key = entry.partition.key();
            let mut draft = aside::Draft::new(key, entry.row.end, sequence);
            if let Some(older) = &entry.aside {
                match older.read(disk, key) {
                    Ok(batches) => draft.add(disk, &batches)?,
                    Err(Fault::Io { reason, .. }) => return Err(io::Error::other(reason)),
                    Err(fault) => tracing::error!(%fault, "what was kept aside is lost"),
                }
            }
            drafts.insert(key, draft);
        }
        if drafts.is_empty() {
            return Ok(());
        }
        self.has_asides.store(true, Ordering::Relaxed);
        let groups = self.checkpointed()..=sequence;
        let wanted: BTreeSet<PartitionKey> = drafts.keys().copied().collect();
        let is_wanted = |key| wanted.contains(&key);
        aside::journalled(disk, self.salt, groups, is_wanted, |key, batches| {
            drafts
                .get_mut(&key)
                .map_or(Ok(()), |draft| draft.add(disk, &batches))
        })?;
        for entry in entries {
            let Some(draft) = drafts.remove(&entry.partition.key()) else {
                continue;
            };
            if draft.aside.end < entry.end {
                // The files stay, for whoever can make more of them.
                tracing::error!(topic = %entry.partition.topic_name(), partition = entry.partition.number(), from = draft.aside.end, to = entry.end, "the journal is damaged where it has records of a partition at rest");
                let files = journal::list(disk)?.into_iter().map(|(first, _)| first);
                self.damaged_journal.lock().extend(files);
            }
            entry.aside = draft.finish(disk)?.or(entry.aside.take());
        }
        aside::sync_names(disk)
    }

    /// Removes the files of partitions that are not at rest any more.
    fn remove_asides(&self) -> io::Result<()> {
        if !self.has_asides.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut named = Vec::new();
        for topic in self.catalog.topics.all() {
            for partition in self.catalog.partitions(topic.id()) {
                named.extend(partition.covered().1.map(|aside| (partition.key(), aside)));
            }
        }
        self.has_asides.store(!named.is_empty(), Ordering::Relaxed);
        aside::remove_others(&*self.disk, named.into_iter())
    }

    fn partition_entry(&self, partition: &Arc<Partition>, end: u64) -> Entry {
        // Between two turns of the applier the segments and the end belong together.
        let _alone = self.applying.lock();
        let stop = partition.service.stop_state();
        let is_at_rest = partition.service.is_unwritable();
        let (covered, aside) = match is_at_rest {
            true => partition.covered(),
            false => (partition.written(), None),
        };
        let lost = stop.filter(|stop| stop.cause == Cause::Lost);
        Entry {
            row: PartitionEntry {
                epochs: partition.extent.epochs(),
                start: partition.extent.start(),
                segment: covered.segment,
                length: covered.length,
                end: covered.end,
                stopped: lost.map(|stop| stop.reason.to_string()),
                holes: partition.holes(),
                missing: covered.missing,
                appended_ms: partition.extent.appended_ms(),
                journalled: end,
            },
            partition: partition.clone(),
            aside,
            end,
            is_at_rest,
        }
    }

    /// Syncs the segments of the partitions that are not at rest. An error is one
    /// of a sync that cannot be tried again.
    fn sync_segments(&self, entries: &[Entry]) -> io::Result<Synced> {
        let mut unsynced = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.is_at_rest) {
            let from = entry.partition.covered().0.segment;
            let segments = entry.partition.segments();
            let newer = segments.iter().filter(|segment| segment.key.base >= from);
            unsynced.extend(newer.map(|segment| (entry, segment.clone())));
        }
        // An index is made anew where it is missing; the last room is for the tables.
        if !self.is_full() {
            unsynced
                .iter()
                .for_each(|(_, segment)| segment.save_index(&self.files));
        }
        let is_one_by_one = unsynced.len() <= self.config.sync_files_max;
        let mut all = Synced::All;
        for (entry, segment) in &unsynced {
            let partition = &entry.partition;
            let is_older = segment.key.base < entry.row.segment;
            let is_listed = || {
                let segments = partition.segments();
                segments.iter().any(|it| Arc::ptr_eq(it, segment))
            };
            let synced = match is_one_by_one {
                true => segment.sync(&self.files),
                false => segment.require(&self.files).map_err(SyncFault::Open),
            };
            match synced {
                Ok(()) => {}
                // Its files may be gone by now.
                Err(_) if partition.is_deleted() => {}
                // It is stopped for that, or a repair has given it up meanwhile.
                Err(SyncFault::Open(Fault::Missing { .. }))
                    if is_older && (partition.service.stop_state().is_some() || !is_listed()) => {}
                Err(SyncFault::Sync(error)) => return Err(error),
                Err(SyncFault::Open(fault)) => {
                    let rests = self.not_written(partition, &fault);
                    all = match rests && all != Synced::NotNow {
                        true => Synced::Fewer,
                        false => Synced::NotNow,
                    };
                }
            }
        }
        match is_one_by_one {
            true => self.files.sync_folders()?,
            false => self.files.sync_everything()?,
        }
        Ok(all)
    }

    /// Removes the files whose groups are all at or below `sequence`. Damaged
    /// ones are kept aside, for whoever wants to look.
    pub(crate) fn remove_journal(&self, sequence: u64) -> io::Result<()> {
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

    fn remove_journal_file(&self, first: u64) -> io::Result<()> {
        if self.damaged_journal.lock().contains(&first) {
            return journal::set_aside(&*self.disk, first);
        }
        journal::remove(&*self.disk, first)
    }
}

fn own_entries(frozen: &Frozen, partitions: &[Entry]) -> Changes {
    let mut own = Changes::new();
    own.extend([row::STATE.row((), Some(&frozen.state))]);
    let topics = frozen.topics.iter();
    own.extend(topics.map(|(id, entry)| row::TOPIC.row(*id, entry.as_ref())));
    for entry in partitions {
        let key = entry.partition.key();
        let row = Some(&entry.row).filter(|row| row.has_history(key.0));
        own.extend([row::PARTITION.row(key, row)]);
        if entry.aside.is_some() || entry.partition.covered().1.is_some() {
            own.extend([row::ASIDE.row(key, entry.aside.as_ref())]);
        }
    }
    let changed = &frozen.producers;
    let identities = changed.identities.iter();
    own.extend(identities.map(|(id, identity)| row::IDENTITY.row(*id, Some(identity))));
    let windows = changed.windows.iter();
    own.extend(windows.map(|(id, key, window)| row::WINDOW.row((*id, *key), window.as_ref())));
    own.extend(changed.gone.iter().map(|id| row::IDENTITY.row(*id, None)));
    own
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use eddy_protocol::frame::{Durability, TopicSettings};
    use eddy_protocol::{BatchBuilder, Compression, TopicName};

    use super::*;
    use crate::io::{CrashKind, FaultyDisk, ManualClock};
    use crate::log::{Append, CatalogChange, Change, Commit, Table, ticket};
    use crate::store::config::Config;
    use crate::store::recovery;
    use crate::store::request::Request;

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

    fn create(partitions: u32) -> Commit {
        let settings = TopicSettings {
            durability: Durability::Memory,
            ..TopicSettings::default()
        };
        Commit {
            catalog: vec![CatalogChange::Create {
                name: TopicName::parse("t").expect("the name is plain"),
                partitions,
                settings,
            }],
            ..Commit::default()
        }
    }

    fn record(partition: u32) -> Commit {
        let mut builder = BatchBuilder::new();
        let pushed = builder.push(0, None, Some(b"output"), &[]);
        pushed.expect("the record is small");
        let batch = builder.finish(Compression::None, None);
        Commit {
            appends: vec![Append {
                topic: TopicId(1),
                partition,
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
            ..record(0)
        }
    }

    #[test]
    fn damage_behind_a_checkpoint_stops_no_partition_whose_segments_were_further() {
        let disk = FaultyDisk::new(1);
        let before = engine(&disk);
        write(&before, create(2));
        before.sync();
        write(&before, record(0));
        let frozen = {
            let mut writer = before.writer.lock();
            before.rotate(&mut writer).expect("the disk works");
            before.freeze(&mut writer, false)
        };
        before.sync_all().expect("the disk works");
        // Into its segment before the checkpoint looks at that, and in no group that it covers.
        write(&before, record(0));
        before.apply_all();
        assert_eq!(before.write_frozen(&frozen), Outcome::Done);
        let damaged = before.writer.lock().journal.bytes();
        for _ in 0..2 {
            write(&before, record(1));
            before.sync_all().expect("the disk works");
        }
        let path = journal::path_of(frozen.state.sequence + 1);
        let header = journal::FILE_HEADER_BYTES as u64;
        disk.corrupt(&path, header, &vec![0x5a; (damaged - header) as usize]);
        disk.crash(CrashKind::Process);
        drop(before);
        let after = engine(&disk);
        let partitions = after.catalog.partitions(TopicId(1));
        let ends = partitions.iter().map(|it| (it.end(), it.stopped()));
        assert_eq!(ends.collect::<Vec<_>>(), [(2, None), (2, None)]);
    }

    #[test]
    fn a_checkpoint_keeps_no_record_without_the_rest_of_its_commit() {
        for seed in 0..50 {
            let disk = FaultyDisk::new(seed);
            let before = engine(&disk);
            write(&before, create(1));
            before.sync();
            write(&before, record(0));
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
            let has_output = after.catalog.partitions(TopicId(1))[0].end() > 1;
            let is_noted = after
                .tables
                .get(Table::Progress, DONE)
                .expect("it is whole");
            assert_eq!(has_output, is_noted.is_some(), "seed {seed}");
        }
    }
}
