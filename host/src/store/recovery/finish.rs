//! The end of recovery: the torn tail is cut, what was found out is written
//! into a new journal file, and the store begins.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use rustc_hash::{FxHashMap, FxHashSet};

use super::replay::Known;
use super::{Recovery, Tail};
use crate::io::{Clock, Disk, Lock};
use crate::store::commit::TopicId;
use crate::store::config::Config;
use crate::store::engine::{Engine, Parts, Work};
use crate::store::error::OpenError;
use crate::store::journal::group::{self, Header};
use crate::store::journal::operation::Operation;
use crate::store::journal::{self, AppendError, FileHeader, Journal};
use crate::store::partition::{Opened, Partition};
use crate::store::producer::PartitionKey;
use crate::store::segment::files::Files;
use crate::store::table::Tables;
use crate::store::topic::{Catalog, Topic};
use crate::store::writer::Writer;

/// What the engine will need besides what is recovered.
pub(super) struct Opening {
    pub(super) config: Config,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) wake: Box<dyn Fn(Work) + Send + Sync>,
    pub(super) lock: Box<dyn Lock>,
    pub(super) salt: u64,
    pub(super) tables: Tables,
    pub(super) files: Arc<Files>,
    /// Topics that have a folder.
    pub(super) strays: Vec<TopicId>,
    /// Whether the store was closed properly.
    pub(super) was_closed: bool,
}

impl Recovery<'_> {
    pub(super) fn finish(mut self, opening: Opening) -> Result<Engine, OpenError> {
        let disk = opening.disk.clone();
        let fault = move |source| OpenError::Io {
            action: "write",
            path: disk.describe(journal::FOLDER),
            source,
        };
        self.gaps.conclude(&mut self.replay);
        self.replay.trim_files()?;
        for file in &self.events.bad_headers {
            let path = opening.disk.describe(&journal::path_of(*file));
            tracing::warn!(
                path,
                "the header of a journal file is damaged; its groups are not"
            );
            self.damaged.push(*file);
        }
        if let Some(tail) = self.tail.take() {
            self.cut(&*opening.disk, &tail).map_err(&fault)?;
            self.note_cut(&tail, &opening);
        }
        self.note_lost_memory(&opening);
        self.sync_journal(&*opening.disk).map_err(&fault)?;
        let journal = self.begin_journal(&opening).map_err(&fault)?;
        Ok(self.build(opening, journal))
    }

    /// Cuts the journal's tail, durably: the next groups get the same sequences.
    fn cut(&self, disk: &dyn Disk, tail: &Tail) -> io::Result<()> {
        let path = journal::path_of(tail.file);
        tracing::warn!(
            path = disk.describe(&path),
            at = tail.at,
            bytes = tail.bytes,
            groups = tail.groups,
            "cut {} bytes ({} groups) that were torn or corrupted from the journal's end",
            tail.bytes,
            tail.groups,
        );
        let at = tail.at.unwrap_or(0);
        let files = journal::list(disk)?;
        for (first, _) in files.iter().rev().filter(|(first, _)| *first > tail.file) {
            disk.remove(&journal::path_of(*first))?;
        }
        if at == 0 {
            disk.remove(&path)?;
        } else {
            let file = disk.open(&path)?;
            file.truncate(at)?;
            file.sync_data()?;
        }
        disk.sync_dir(journal::FOLDER)
    }

    /// After a stop of the process everything that was written is there, but for
    /// the write that was cut off. If more is missing, it was acknowledged or seen.
    fn note_cut(&mut self, tail: &Tail, opening: &Opening) {
        if tail.is_cut_off || self.events.boot != Some(opening.disk.boot_id()) {
            return;
        }
        let named: FxHashSet<PartitionKey> = tail.partitions.iter().copied().collect();
        let all = tail.has_unknown;
        for part in self
            .replay
            .parts()
            .filter(|part| all || named.contains(&part.key))
        {
            (part.epoch, part.is_touched) = (part.epoch.wrapping_add(1), true);
            self.lost.insert(part.key);
        }
    }

    /// Records of `memory` topics that were acknowledged may be lost if the machine stopped.
    fn note_lost_memory(&mut self, opening: &Opening) {
        if opening.was_closed || self.events.boot == Some(opening.disk.boot_id()) {
            return;
        }
        for topic in self
            .replay
            .topics
            .values_mut()
            .filter(|topic| topic.was_memory)
        {
            for part in &mut topic.parts {
                if self.lost.insert(part.key) {
                    (part.epoch, part.is_touched) = (part.epoch.wrapping_add(1), true);
                }
            }
        }
    }

    /// What was replayed is visible from now on and so must stay.
    fn sync_journal(&self, disk: &dyn Disk) -> io::Result<()> {
        for (first, bytes) in journal::list(disk)? {
            if bytes > journal::FILE_HEADER_BYTES as u64 {
                disk.open(&journal::path_of(first))?.sync_data()?;
            }
        }
        Ok(())
    }

    /// A new file, which begins with what recovery found out.
    fn begin_journal(&mut self, opening: &Opening) -> io::Result<Journal> {
        let header = FileHeader {
            salt: opening.salt,
            first_sequence: self.sequence + 1,
            boot: opening.disk.boot_id(),
        };
        let mut journal = Journal::create(&*opening.disk, header)?;
        let operations = self.findings();
        if !operations.is_empty() {
            let mut directory = Vec::new();
            operations
                .iter()
                .for_each(|operation| operation.encode(&mut directory));
            let count = operations.len();
            let header = Header {
                salt: opening.salt,
                sequence: self.sequence + 1,
                synced_through: self.sequence,
                time_ms: opening.clock.now_ms(),
                records_before: self.replay.records,
                changes_before: self.replay.changes,
                payload_bytes: 0,
                directory_bytes: u32::try_from(directory.len()).map_err(io::Error::other)?,
                operations: u32::try_from(count).map_err(io::Error::other)?,
            };
            let frame = group::encode(&header, &directory);
            journal.append(&frame, &[]).map_err(|error| match error {
                AppendError::Refused(error) | AppendError::Torn(error) => error,
            })?;
            self.sequence += 1;
            self.replay.changes += count as u64;
        }
        // That the store is in use must be known after a crash of the machine.
        journal.file().sync_data()?;
        Ok(journal)
    }

    fn findings(&mut self) -> Vec<Operation> {
        let lost = std::mem::take(&mut self.lost);
        let mut operations = Vec::new();
        for part in self.replay.parts() {
            let (topic, partition) = part.key;
            if lost.contains(&part.key) {
                operations.push(Operation::SetEpoch {
                    topic,
                    partition,
                    epoch: part.epoch,
                });
            }
            if let Some(reason) = part.stopped.clone().filter(|_| part.is_touched) {
                operations.push(Operation::Stop {
                    topic,
                    partition,
                    end: part.end,
                    reason,
                });
            }
        }
        operations
    }

    fn build(self, opening: Opening, journal: Journal) -> Engine {
        let tails_bytes = Arc::new(AtomicU64::new(0));
        let shared = (opening.files.clone(), tails_bytes.clone());
        let journaled_bytes = self.events.bytes;
        let replay = self.replay;
        let known: BTreeSet<TopicId> = replay.topics.keys().copied().collect();
        let doomed = opening
            .strays
            .iter()
            .filter(|topic| !known.contains(topic))
            .copied()
            .collect();
        let mut writer = Writer {
            journal,
            sequence: self.sequence,
            records: replay.records,
            changes: replay.changes,
            logs: FxHashMap::default(),
            producers: replay.producers,
            next_topic: replay.next_topic,
            touched: FxHashMap::default(),
            touched_topics: replay.touched_topics,
        };
        let topics = replay
            .topics
            .into_iter()
            .map(|(id, topic)| build_topic(id, topic, &shared, &mut writer))
            .collect();
        opening.tables.apply(replay.table);
        Engine::new(Parts {
            boot: opening.disk.boot_id(),
            config: opening.config,
            disk: opening.disk,
            clock: opening.clock,
            salt: opening.salt,
            files: opening.files,
            tails_bytes,
            tables: opening.tables,
            catalog: Catalog::new(topics),
            writer,
            journaled_bytes,
            doomed,
            damaged_journal: self.damaged.into_iter().collect(),
            wake: opening.wake,
            lock: opening.lock,
        })
    }
}

fn build_topic(
    id: TopicId,
    topic: Known,
    shared: &(Arc<Files>, Arc<AtomicU64>),
    writer: &mut Writer,
) -> Arc<Topic> {
    let mut partitions = Vec::with_capacity(topic.parts.len());
    for part in topic.parts {
        let start = match part.segments.first() {
            _ if part.broken.is_some() => part.start,
            Some(segment) => segment.key.base,
            None => part.end,
        };
        let opened = Opened {
            epoch: part.epoch,
            start,
            end: part.end,
            checkpointed: part.checkpointed,
            segments: part.segments,
            holes: part.holes,
            stopped: part.stopped.map(Into::into),
        };
        let partition = Arc::new(Partition::new(
            id,
            topic.name.clone(),
            part.key.1,
            shared.clone(),
            opened,
        ));
        let is_held = part.broken.is_some() || part.held.is_some();
        if let Some(reason) = part.held {
            partition.hold(reason.into(), None);
        }
        if let Some(reason) = part.broken {
            partition.hold(reason.into(), Some(part.kept.0));
        }
        if let Some((segment, damage)) = part.damaged {
            partition.stop(damage.to_string().into(), Some(segment));
        }
        if part.is_touched || is_held {
            writer.touched.insert(part.key, partition.clone());
        }
        partitions.push(partition);
    }
    let topic = Arc::new(Topic::new(id, topic.name, topic.settings, partitions));
    writer.add_logs(&topic);
    topic
}
