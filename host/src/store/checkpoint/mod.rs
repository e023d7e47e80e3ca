//! The checkpoint: what is in the journal is in segments and tables by then,
//! is synced there, and the journal's head can go.
//!
//! What recovery needs besides the tables and the segments lies in the same file
//! and the same transaction as the tables (see [`row`]).
//!
//! Nothing that a single partition cannot do stands in the way of a checkpoint
//! for long: what the system refuses for a while is tried again, and then the
//! partition is stopped as unwritable (see [`aside`]).

mod partitions;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashSet;

use self::partitions::{Covering, Synced};
use crate::io::is_short_of_files;
use crate::log::{Partition as _, TableError, TopicId};
use crate::store::applier::Applied;
use crate::store::aside;
use crate::store::committer::Committer;
use crate::store::context::Context;
use crate::store::journal::group::GroupFrame;
use crate::store::journal::operation::TopicEntry;
use crate::store::journal::{self, FileHeader};
use crate::store::partition::Partition;
use crate::store::producer::{Changed, PartitionKey};
use crate::store::row::{self, Totals};
use crate::store::state::Collected;
use crate::store::table::{Changes, WriteError};
use crate::store::writer::Writer;

/// How a checkpoint ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckpointOutcome {
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
    state: Totals,
    tables: Arc<Changes>,
    topics: Vec<(TopicId, Option<TopicEntry>)>,
    partitions: Vec<(PartitionKey, Arc<Partition>, u64)>,
    producers: Changed,
}

/// Makes checkpoints, one at a time.
pub(crate) struct Checkpoints {
    context: Arc<Context>,
    pub(crate) committer: Arc<Committer>,
    running: Mutex<()>,
    /// The newest group that the last one covers.
    covered: AtomicU64,
    /// Whether there may be files with what unwritable partitions have.
    has_asides: AtomicBool,
    /// First sequences of journal files with damage.
    damaged_journal: Mutex<FxHashSet<u64>>,
}

impl Checkpoints {
    pub(crate) fn new(
        committer: Arc<Committer>,
        covered: u64,
        has_asides: bool,
        damaged_journal: FxHashSet<u64>,
    ) -> Checkpoints {
        Checkpoints {
            context: committer.context.clone(),
            committer,
            running: Mutex::default(),
            covered: covered.into(),
            has_asides: has_asides.into(),
            damaged_journal: Mutex::new(damaged_journal),
        }
    }

    /// No other checkpoint is made while the guard lives.
    pub(crate) fn pause(&self) -> MutexGuard<'_, ()> {
        self.running.lock()
    }

    /// The newest group that the last checkpoint covers.
    pub(crate) fn covered(&self) -> u64 {
        self.covered.load(Ordering::Relaxed)
    }
}

impl Checkpoints {
    /// Makes a checkpoint of everything that is written by now.
    pub(crate) fn make(&self) -> CheckpointOutcome {
        let _alone = self.running.lock();
        let outcome = self.make_alone(false);
        let is_postponed = outcome == CheckpointOutcome::Postponed;
        self.committer.backlog.set_postponed(is_postponed);
        outcome
    }

    /// The last checkpoint: afterwards the journal holds nothing. Nothing may be
    /// written any more.
    pub(crate) fn close(&self) -> CheckpointOutcome {
        let _alone = self.running.lock();
        let outcome = self.make_alone(true);
        if outcome == CheckpointOutcome::Done
            && let Err(error) = self.empty_journal()
        {
            tracing::warn!(%error, "could not remove the journal of the closed store");
        }
        outcome
    }

    /// Leaves a journal file without a group: its name tells whether the tables
    /// are those of the last checkpoint.
    fn empty_journal(&self) -> io::Result<()> {
        let sequence = self.committer.writer.lock().sequence;
        let header = FileHeader {
            salt: self.context.salt,
            first_sequence: sequence + 1,
            boot: journal::CLOSED,
        };
        journal::prepare(&*self.context.disk, header, &GroupFrame::default(), &[])?;
        journal::adopt(&*self.context.disk, header.first_sequence, false)?;
        self.remove_journal(sequence)
    }

    /// Whether a checkpoint would find something to do.
    pub(crate) fn is_needed(&self) -> bool {
        self.differs(&self.committer.writer.lock())
    }

    fn differs(&self, writer: &Writer) -> bool {
        self.committer.backlog.bytes() > 0 || !writer.touched.is_empty()
    }

    fn make_alone(&self, closed: bool) -> CheckpointOutcome {
        let frozen = {
            let mut writer = self.committer.writer.lock();
            if !closed && !self.differs(&writer) {
                return CheckpointOutcome::Nothing;
            }
            // What the checkpoint covers must end where a file does.
            if !closed
                && (self.committer.rotate(&mut writer).is_err() || !writer.journal.is_empty())
            {
                return if self.context.failure().is_some() {
                    CheckpointOutcome::Failed
                } else {
                    CheckpointOutcome::Postponed
                };
            }
            self.freeze(&mut writer, closed)
        };
        let begin = Instant::now();
        let outcome = self.write_checkpoint(&frozen);
        self.committer
            .backlog
            .checkpointed(outcome == CheckpointOutcome::Done);
        match outcome {
            CheckpointOutcome::Done => {
                if let Err(error) = self.remove_journal(frozen.state.sequence) {
                    tracing::warn!(%error, "could not remove journal files that are not needed any more");
                }
                let left = self.committer.backlog.bytes();
                self.context.meters.checkpointed(begin, left);
            }
            _ => self.thaw(frozen),
        }
        outcome
    }

    fn freeze(&self, writer: &mut Writer, closed: bool) -> Frozen {
        self.committer.backlog.freeze();
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
            state: Totals {
                sequence: writer.sequence,
                records: writer.records,
                changes: writer.changes,
                next_topic: writer.next_topic,
                next_producer: writer.producers.next_id,
                closed,
            },
            tables: self.context.tables.freeze(),
            topics,
            partitions,
            producers,
        }
    }

    fn topic_entry(&self, id: TopicId) -> Option<TopicEntry> {
        let topic = self.context.catalog.topics.by_id(id)?;
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
        self.context.tables.thaw();
        let mut writer = self.committer.writer.lock();
        for (key, partition, _) in frozen.partitions {
            if !partition.is_deleted() {
                writer.touched.insert(key, partition);
            }
        }
        writer
            .touched_topics
            .extend(frozen.topics.iter().map(|(id, _)| *id));
        writer.producers.put_back(&frozen.producers);
    }

    fn write_checkpoint(&self, frozen: &Frozen) -> CheckpointOutcome {
        if self.committer.sync_all().is_err() {
            return CheckpointOutcome::Failed;
        }
        match self.apply_frozen(frozen) {
            CheckpointOutcome::Done => self.write_frozen(frozen),
            other => other,
        }
    }

    /// Makes durable what is in the segments, and with it the tables.
    fn write_frozen(&self, frozen: &Frozen) -> CheckpointOutcome {
        let entries = loop {
            let entries = match self.entries(frozen) {
                Ok(entries) => entries,
                Err(error) => return self.must_wait(&error),
            };
            match self.sync_segments(&entries) {
                Ok(Synced::All) => break entries,
                // What the journal has of those that were stopped is to be kept aside.
                Ok(Synced::Fewer) => {}
                Ok(Synced::NotNow) => return CheckpointOutcome::Postponed,
                // A folder could not be opened for its sync.
                Err(error) if is_short_of_files(&error) => return self.must_wait(&error),
                Err(error) => {
                    self.committer.fail("sync the segments", &error);
                    return CheckpointOutcome::Failed;
                }
            }
        };
        // The segments and the states may be further than what was frozen, by what is there before
        // its group is synced. It must not be there without the rest of its group.
        let states = self.context.states.collect();
        let outcome = self.write_tables(frozen, &entries, &states);
        match outcome {
            CheckpointOutcome::Done => self.context.states.written(&states),
            _ => self.context.states.put_back(&states),
        }
        outcome
    }

    fn write_tables(
        &self,
        frozen: &Frozen,
        entries: &[Covering],
        states: &Collected,
    ) -> CheckpointOutcome {
        if self.committer.sync_all().is_err() {
            return CheckpointOutcome::Failed;
        }
        let mut own = own_entries(frozen, entries);
        match self.forget_deleted(frozen, &mut own) {
            Ok(()) => {}
            Err(error @ TableError::Io { .. }) => return self.must_wait(&error),
            Err(error @ TableError::Damaged(_)) => {
                self.committer.fail("read the tables", &error);
                return CheckpointOutcome::Failed;
            }
        }
        match self.context.tables.write(&frozen.tables, &own, states) {
            Ok(()) => {}
            Err(WriteError::DiskFull) => return CheckpointOutcome::Postponed,
            Err(WriteError::NotNow(reason)) => return self.must_wait(&reason),
            Err(WriteError::Failed(reason)) => {
                self.committer.fail("write the tables", &reason);
                return CheckpointOutcome::Failed;
            }
        }
        let sequence = frozen.state.sequence;
        self.covered.store(sequence, Ordering::Relaxed);
        for entry in entries {
            let covered = entry.row.covered();
            entry.partition.set_covered(covered, entry.aside.clone());
        }
        if let Err(error) = self.remove_asides() {
            tracing::warn!(%error, "could not remove what was kept aside of a partition");
        }
        CheckpointOutcome::Done
    }

    /// Nothing is lost: the journal keeps all until the next try.
    fn must_wait(&self, why: &dyn std::fmt::Display) -> CheckpointOutcome {
        tracing::warn!(%why, "the checkpoint must wait");
        CheckpointOutcome::Postponed
    }

    /// Removes what earlier checkpoints kept of the partitions of deleted topics.
    fn forget_deleted(&self, frozen: &Frozen, own: &mut Changes) -> Result<(), TableError> {
        for (id, _) in frozen.topics.iter().filter(|(_, entry)| entry.is_none()) {
            for prefix in [row::PARTITION.prefix(*id), row::ASIDE.prefix(*id)] {
                for (key, _) in self.context.tables.scan_stored(&prefix)? {
                    own.insert(key, None);
                }
            }
        }
        Ok(())
    }

    fn apply_frozen(&self, frozen: &Frozen) -> CheckpointOutcome {
        for (_, partition, end) in &frozen.partitions {
            let is_behind = || {
                let is_left = partition.is_deleted() || partition.service.is_unwritable();
                !is_left && partition.applied_end() < *end
            };
            while is_behind() {
                match self.committer.applier.apply() {
                    Applied::Some => {}
                    Applied::Full | Applied::Again => return CheckpointOutcome::Postponed,
                    Applied::Failed => return CheckpointOutcome::Failed,
                    Applied::Nothing if !is_behind() => {}
                    Applied::Nothing => return CheckpointOutcome::Postponed,
                }
            }
        }
        CheckpointOutcome::Done
    }

    /// Removes the files of partitions that are writable again.
    fn remove_asides(&self) -> io::Result<()> {
        if !self.has_asides.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut named = Vec::new();
        for topic in self.context.catalog.topics.all() {
            for partition in self.context.catalog.partitions(topic.id()) {
                named.extend(partition.covered().1.map(|aside| (partition.key(), aside)));
            }
        }
        self.has_asides.store(!named.is_empty(), Ordering::Relaxed);
        aside::remove_others(&*self.context.disk, named.into_iter())
    }

    /// Removes the files whose groups are all at or below `sequence`. Damaged
    /// ones are kept aside, for whoever wants to look.
    pub(crate) fn remove_journal(&self, sequence: u64) -> io::Result<()> {
        let files = journal::list(&*self.context.disk)?;
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
            self.context.disk.sync_dir(journal::FOLDER)
        } else {
            Ok(())
        }
    }

    fn remove_journal_file(&self, first: u64) -> io::Result<()> {
        if self.damaged_journal.lock().contains(&first) {
            return journal::set_aside(&*self.context.disk, first);
        }
        journal::remove(&*self.context.disk, first)
    }
}

fn own_entries(frozen: &Frozen, partitions: &[Covering]) -> Changes {
    let mut own = Changes::new();
    own.extend([row::TOTALS.row((), Some(&frozen.state))]);
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
