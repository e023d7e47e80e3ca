//! The end of recovery: what was found out is written into a new journal file,
//! which cuts the torn tail, and the store begins.

use std::collections::BTreeSet;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};

use super::replay::Known;
use super::{CutTail, Recovery, salvage};
use crate::io::{Clock, Disk, File, Lock};
use crate::log::{Topic, TopicId, new_uuid};
use crate::store::catalog::{Catalog, seen};
use crate::store::committer::Journaled;
use crate::store::config::Config;
use crate::store::core::Recovered;
use crate::store::error::OpenError;
use crate::store::journal::group::{self, GroupFrame, Header};
use crate::store::journal::operation::{Operation, Placed};
use crate::store::journal::{self, FILE_HEADER_BYTES, FileHeader, Journal};
use crate::store::partition::Partition;
use crate::store::partition::stop::Cause;
use crate::store::producer::PartitionKey;
use crate::store::retention::DeletedTopic;
use crate::store::table::Tables;
use crate::store::writer::Writer;

/// How much of a file is written again at a time.
const AGAIN_BYTES: usize = 1 << 20;

/// What the core will need besides what is recovered.
pub(super) struct Opening {
    pub(super) config: Config,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) lock: Box<dyn Lock>,
    pub(super) salt: u64,
    pub(super) tables: Tables,
    /// Topics that have a folder.
    pub(super) strays: Vec<TopicId>,
    /// Whether the store was closed properly.
    pub(super) was_closed: bool,
    /// The newest group that the last checkpoint covers.
    pub(super) checkpointed: u64,
    /// Whether there are files with what unwritable partitions have.
    pub(super) has_asides: bool,
}

impl Recovery {
    pub(super) fn finish(mut self, opening: Opening) -> Result<Recovered, OpenError> {
        let disk = opening.disk.clone();
        let fault = move |source| OpenError::Io {
            action: "write",
            path: disk.describe(journal::FOLDER),
            source,
        };
        self.gaps.conclude(&mut self.replay);
        self.replay.require_starts();
        self.decide_strays(&opening)?;
        self.keep_lost_end()?;
        let tail = self.tail.take();
        let is_torn = tail.as_ref().is_none_or(|tail| tail.is_torn);
        self.replay.trim_files()?;
        for file in &self.events.bad_headers {
            let path = opening.disk.describe(&journal::path_of(*file));
            tracing::warn!(
                path,
                "the header of a journal file is damaged; its groups are not"
            );
            self.damaged.push(*file);
        }
        self.damaged.append(&mut self.events.cut);
        if let Some(tail) = &tail {
            self.note_cut(tail, &opening);
        }
        self.note_lost_memory(&opening);
        let findings = self.findings();
        let is_plain = findings.is_empty()
            && self.again.is_empty()
            && tail.is_none()
            && self.replay.damages == 0;
        if !is_plain || self.newest_waiting > self.synced {
            self.sync(&opening).map_err(&fault)?;
            self.synced = self.sequence;
        }
        let unsynced = self.unsynced(&*opening.disk).map_err(&fault)?;
        let next = self.sequence + 1;
        let journal = self
            .begin_journal(&opening, findings, is_torn)
            .map_err(&fault)?;
        if let Some(tail) = tail.filter(|tail| tail.file < next) {
            self.cut(&*opening.disk, &tail).map_err(&fault)?;
        }
        Ok(self.build(opening, journal, unsynced))
    }

    /// The folders of topics that are not known: those of deleted topics go, and
    /// those without a record, whose creation a crash may have taken; others are
    /// taken in.
    fn decide_strays(&mut self, opening: &Opening) -> Result<(), OpenError> {
        for topic in self.gaps.unknown(&self.replay) {
            self.replay.adopt(topic);
            let files = self.replay.shared.files.clone();
            let parts = self.replay.topics.get(&topic).into_iter();
            let found: Vec<_> = parts
                .flat_map(|topic| &topic.parts)
                .map(|part| (part.key(), salvage::rest(&files, part, u64::MAX)))
                .collect();
            for (key, batches) in found {
                self.replay.salvaged(key, batches)?;
            }
        }
        // The id of a folder that is there must not be given again, whoever it was of.
        let newest = opening.strays.iter().max().map_or(0, |topic| topic.0 + 1);
        self.replay.next_topic = self.replay.next_topic.max(newest);
        Ok(())
    }

    /// Removes what was cut. It does not count any more, and where it may have
    /// been acknowledged it stays until a checkpoint sets the file aside.
    fn cut(&mut self, disk: &dyn Disk, tail: &CutTail) -> io::Result<()> {
        if !tail.is_torn {
            self.damaged.push(tail.file);
            return Ok(());
        }
        match tail.at.filter(|at| *at > 0) {
            Some(at) => disk.open(&journal::path_of(tail.file))?.truncate(at),
            None => Ok(()),
        }
    }

    /// After a stop of the process everything that was written is there, but for
    /// the write that was cut off. If more is missing, it was acknowledged or seen.
    fn note_cut(&mut self, tail: &CutTail, opening: &Opening) {
        tracing::warn!(
            path = opening.disk.describe(&journal::path_of(tail.file)),
            at = tail.at,
            bytes = tail.bytes,
            groups = tail.groups,
            "cut {} bytes ({} groups) that were torn or corrupted from the journal's end",
            tail.bytes,
            tail.groups,
        );
        if tail.is_torn {
            return;
        }
        let named: FxHashSet<PartitionKey> = tail.partitions.iter().copied().collect();
        let all = tail.has_unknown;
        for part in self
            .replay
            .parts()
            .filter(|part| all || named.contains(&part.key()))
        {
            if self.lost.insert(part.key()) {
                part.begin_epoch();
            }
        }
    }

    /// Records of `memory` topics that were acknowledged may be lost if the machine stopped.
    fn note_lost_memory(&mut self, opening: &Opening) {
        let was_closed = opening.was_closed || self.events.boot == Some(journal::CLOSED);
        if was_closed || self.is_same_boot() {
            return;
        }
        for topic in self
            .replay
            .topics
            .values_mut()
            .filter(|topic| topic.was_memory)
        {
            for part in &mut topic.parts {
                if self.lost.insert(part.key()) {
                    part.begin_epoch();
                }
            }
        }
    }

    /// What was replayed is visible from now on and so must stay.
    fn sync(&self, opening: &Opening) -> io::Result<()> {
        let disk = &*opening.disk;
        if self.replay.damages > 0 {
            // Some of it may be in segments alone.
            self.replay.shared.files.sync_everything()?;
        }
        for file in self.unsynced(disk)? {
            // A sync that failed before the restart left pages that say they are on the disk and
            // are not: written once more, they will be.
            write_again(&*file)?;
            file.sync_data()?;
        }
        disk.sync_dir(journal::FOLDER)
    }

    /// The journal's files with groups that are not known to be synced.
    fn unsynced(&self, disk: &dyn Disk) -> io::Result<Vec<Arc<dyn File>>> {
        let files = journal::list(disk)?;
        let nexts = files.iter().skip(1).map(|(first, _)| *first);
        let lasts = nexts.map(|next| next - 1).chain([self.sequence]);
        files
            .iter()
            .zip(lasts)
            .filter(|((_, bytes), last)| *bytes > FILE_HEADER_BYTES as u64 && *last > self.synced)
            .map(|((first, _), _)| disk.open(&journal::path_of(*first)))
            .collect()
    }

    /// A new file, which begins with what recovery found out. From here on all of
    /// it has happened: also that the store is in use, which must be known after a
    /// crash of the machine.
    fn begin_journal(
        &mut self,
        opening: &Opening,
        operations: Vec<Operation>,
        is_torn: bool,
    ) -> io::Result<Journal> {
        let disk = &*opening.disk;
        let header = FileHeader {
            salt: opening.salt,
            first_sequence: self.sequence + 1,
            boot: self.boot,
        };
        let again = std::mem::take(&mut self.again);
        let placed = again.iter();
        let placed = placed.map(|(key, batch)| Operation::Append(Placed::of(*key, batch)));
        let operations: Vec<Operation> = placed.chain(operations).collect();
        let mut directory = Vec::new();
        operations
            .iter()
            .for_each(|operation| operation.encode(&mut directory));
        let payload: Vec<Bytes> = again
            .iter()
            .map(|(_, batch)| batch.bytes().clone())
            .collect();
        let count = operations.len();
        // A group without operations still says that what is before it is no torn tail.
        let frame = if count > 0 || self.replay.damages > 0 {
            let header = Header {
                salt: opening.salt,
                sequence: self.sequence + 1,
                synced_through: self.sequence,
                time_ms: opening.clock.now_ms(),
                records_before: self.replay.records,
                changes_before: self.replay.changes,
                payload_bytes: payload.iter().map(|batch| batch.len() as u64).sum(),
                directory_bytes: u32::try_from(directory.len()).map_err(io::Error::other)?,
                operations: u32::try_from(count).map_err(io::Error::other)?,
                needs: 0,
            };
            self.sequence += 1;
            self.replay.changes += (count - again.len()) as u64;
            let spans = again.iter().map(|(_, batch)| u64::from(batch.span()));
            self.replay.records += spans.sum::<u64>();
            group::encode(&header, &directory)
        } else {
            GroupFrame::default()
        };
        let journal = journal::prepare(disk, header, &frame, &payload)?;
        journal::adopt(disk, header.first_sequence, !is_torn)?;
        Ok(journal)
    }

    fn findings(&mut self) -> Vec<Operation> {
        let lost = std::mem::take(&mut self.lost);
        let mut operations = Vec::new();
        for (topic, known) in &mut self.replay.topics {
            if known.uuid.is_none() {
                known.uuid = Some(new_uuid());
                operations.push(Operation::SetUuid {
                    topic: *topic,
                    uuid: known.uuid,
                });
                self.replay.touched_topics.insert(*topic);
            }
        }
        for part in self.replay.parts() {
            let key = part.key();
            if lost.contains(&part.key()) || part.is_restored {
                let epochs = part.partition.extent.epochs();
                operations.push(Operation::SetEpoch {
                    key,
                    epoch: part.partition.extent.epoch(),
                    from: epochs.starts().last().and_then(|start| start.from),
                });
            }
            if let Some(stop) = part.partition.service.stop_state()
                && stop.cause == Cause::Lost
                && part.is_touched
            {
                operations.push(Operation::Stop {
                    key,
                    end: part.end(),
                    reason: stop.reason.to_string(),
                });
            }
        }
        operations
    }

    fn build(self, opening: Opening, journal: Journal, unsynced: Vec<Arc<dyn File>>) -> Recovered {
        let journaled_bytes = self.events.bytes + journal.bytes() - FILE_HEADER_BYTES as u64;
        // What has just begun the new file is synced with it.
        let synced = match unsynced.is_empty() {
            true => self.sequence,
            false => self.synced,
        };
        let replay = self.replay;
        let known: BTreeSet<TopicId> = replay.topics.keys().copied().collect();
        let deleted_topics = opening
            .strays
            .iter()
            .filter(|topic| !known.contains(topic))
            .map(|topic| DeletedTopic::new(*topic, 0))
            .collect();
        let mut writer = Writer {
            journal,
            sequence: self.sequence,
            records: replay.records,
            changes: replay.changes,
            heads: FxHashMap::default(),
            producers: replay.producers,
            next_topic: replay.next_topic,
            touched: FxHashMap::default(),
            touched_topics: replay.touched_topics,
        };
        let topics = replay
            .topics
            .into_iter()
            .map(|(id, topic)| build_topic(id, topic, synced, &mut writer))
            .collect();
        opening.tables.apply(replay.table);
        Recovered {
            config: opening.config,
            disk: opening.disk,
            clock: opening.clock,
            salt: opening.salt,
            shared: replay.shared,
            tables: opening.tables,
            states: replay.states,
            catalog: Catalog::new(topics),
            journaled: Journaled {
                writer,
                boot: self.boot,
                synced,
                unsynced,
                bytes: journaled_bytes,
                deleted_topics,
            },
            checkpointed: opening.checkpointed,
            has_asides: opening.has_asides,
            notices: self.notices,
            damaged_journal: self.damaged.into_iter().collect(),
            lock: opening.lock,
        }
    }
}

/// Writes a file's bytes where they are.
fn write_again(file: &dyn File) -> io::Result<()> {
    let mut at = 0;
    let mut chunk = vec![0; AGAIN_BYTES];
    loop {
        let got = file.read_at(&mut chunk, at)?;
        if got == 0 {
            return Ok(());
        }
        file.write_at(&mut [IoSlice::new(&chunk[..got])], at)?;
        at += got as u64;
    }
}

fn build_topic(
    id: TopicId,
    topic: Known,
    synced: u64,
    writer: &mut Writer,
) -> (Arc<Topic>, Vec<Arc<Partition>>) {
    let mut partitions = Vec::with_capacity(topic.parts.len());
    for part in topic.parts {
        part.set_start();
        let partition = part.partition;
        if let Some(reason) = partition.stop_reason() {
            partition.report(&reason);
        }
        if part.is_touched {
            writer.touched.insert(partition.key(), partition.clone());
        }
        partitions.push(partition);
    }
    let topic = Arc::new(Topic::new(
        id,
        (topic.name, topic.uuid.unwrap_or_else(new_uuid)),
        topic.settings,
        seen(&partitions),
    ));
    writer.add_heads(&topic, &partitions, synced);
    (topic, partitions)
}
