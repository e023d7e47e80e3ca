//! The checkpoint: what is in the journal comes to rest in segments and tables,
//! is synced there, and the journal's head can go.
//!
//! What recovery needs besides the tables and the segments lies in the same file
//! and the same transaction as the tables (see [`row`](super::row)).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::apply::Applied;
use super::commit::TopicId;
use super::engine::Engine;
use super::error::TableError;
use super::journal::group::Frame;
use super::journal::{self, FileHeader};
use super::partition::Partition;
use super::producer::{Identity, PartitionKey};
use super::row::{self, PartitionEntry, State, TopicEntry};
use super::segment::SyncFault;
use super::table::{Changes, WriteError};
use super::writer::Writer;
use crate::io::is_short_of_files;

/// How far partitions' segments are.
type Entries = Vec<(Arc<Partition>, PartitionEntry)>;

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
            for (key, _) in self.tables.scan_stored(&row::partitions_prefix(*id))? {
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
            epochs: partition.epochs(),
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
    own.extend([row::state_row(&frozen.state)]);
    let topics = frozen.topics.iter();
    own.extend(topics.map(|(id, entry)| row::topic_row(*id, entry.as_ref())));
    own.extend(partitions.iter().map(|(partition, entry)| {
        let key = (partition.topic(), partition.number());
        row::partition_row(key, Some(entry).filter(|entry| entry.has_history(key.0)))
    }));
    let identities = frozen.identities.iter();
    own.extend(identities.map(|(id, identity)| row::identity_row(*id, Some(identity))));
    own.extend(frozen.gone.iter().map(|id| row::identity_row(*id, None)));
    own
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use eddy_protocol::frame::{Durability, TopicSettings};
    use eddy_protocol::{BatchBuilder, Compression, TopicName};

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
