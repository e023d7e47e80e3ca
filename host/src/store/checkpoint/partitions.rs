//! What a checkpoint does about partitions: their rows, the files of those that
//! are unwritable, the syncs of their segments.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Checkpoints, Frozen};
use crate::log::Partition as _;
use crate::store::aside::{self, Aside};
use crate::store::journal;
use crate::store::partition::Partition;
use crate::store::partition::stop::Cause;
use crate::store::producer::PartitionKey;
use crate::store::row::PartitionEntry;
use crate::store::segment::{Fault, SyncFault};

/// What a checkpoint says of a partition.
pub(super) struct Covering {
    pub(super) partition: Arc<Partition>,
    pub(super) row: PartitionEntry,
    pub(super) aside: Option<Aside>,
    /// Where its offsets ended when the checkpoint began.
    pub(super) end: u64,
    pub(super) is_unwritable: bool,
}

/// Which segments were synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Synced {
    All,
    /// Not those of partitions that turned out to be unwritable.
    Fewer,
    /// Some could not be opened now.
    NotNow,
}

impl Checkpoints {
    /// What the checkpoint says of its partitions.
    pub(super) fn entries(&self, frozen: &Frozen) -> io::Result<Vec<Covering>> {
        let alive = frozen
            .partitions
            .iter()
            .filter(|(_, partition, _)| !partition.is_deleted());
        let mut entries: Vec<Covering> = alive
            .map(|(_, partition, end)| self.partition_entry(partition, *end))
            .collect();
        self.keep_aside(frozen.state.sequence, &mut entries)?;
        Ok(entries)
    }

    /// Writes aside what the journal up to `sequence` has of unwritable partitions.
    fn keep_aside(&self, sequence: u64, entries: &mut [Covering]) -> io::Result<()> {
        let disk = &*self.context.disk;
        let mut drafts: BTreeMap<PartitionKey, aside::NewAside> = BTreeMap::new();
        for entry in entries.iter().filter(|entry| entry.is_unwritable) {
            let aside = entry.aside.as_ref();
            if aside.map_or(entry.row.end, |aside| aside.end) >= entry.end {
                continue;
            }
            let key = entry.partition.key();
            let mut draft = aside::NewAside::new(key, entry.row.end, sequence);
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
        let groups = self.covered()..=sequence;
        let wanted: BTreeSet<PartitionKey> = drafts.keys().copied().collect();
        let is_wanted = |key| wanted.contains(&key);
        aside::journalled(
            disk,
            self.context.salt,
            groups,
            is_wanted,
            |key, batches| {
                drafts
                    .get_mut(&key)
                    .map_or(Ok(()), |draft| draft.add(disk, &batches))
            },
        )?;
        for entry in entries {
            let Some(draft) = drafts.remove(&entry.partition.key()) else {
                continue;
            };
            if draft.aside.end < entry.end {
                // The files stay, for whoever can make more of them.
                tracing::error!(topic = %entry.partition.topic_name(), partition = entry.partition.number(), from = draft.aside.end, to = entry.end, "the journal is damaged where it has records of an unwritable partition");
                let files = journal::list(disk)?.into_iter().map(|(first, _)| first);
                self.damaged_journal.lock().extend(files);
            }
            entry.aside = draft.finish(disk)?.or(entry.aside.take());
        }
        aside::sync_names(disk)
    }

    fn partition_entry(&self, partition: &Arc<Partition>, end: u64) -> Covering {
        // Between two turns of the applier the segments and the end belong together.
        let _alone = self.committer.applier.pause();
        let stop = partition.service.stop_state();
        let is_unwritable = partition.service.is_unwritable();
        let (covered, aside) = match is_unwritable {
            true => partition.covered(),
            false => (partition.written(), None),
        };
        let lost = stop.filter(|stop| stop.cause == Cause::Lost);
        Covering {
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
            is_unwritable,
        }
    }

    /// Syncs the segments of the writable partitions. An error is one
    /// of a sync that cannot be tried again.
    pub(super) fn sync_segments(&self, entries: &[Covering]) -> io::Result<Synced> {
        let mut unsynced = Vec::new();
        for entry in entries.iter().filter(|entry| !entry.is_unwritable) {
            let from = entry.partition.covered().0.segment;
            let segments = entry.partition.segments();
            let newer = segments.iter().filter(|segment| segment.key.base >= from);
            unsynced.extend(newer.map(|segment| (entry, segment.clone())));
        }
        // An index is made anew where it is missing; the last room is for the tables.
        if !self.committer.is_full() {
            unsynced
                .iter()
                .for_each(|(_, segment)| segment.save_index(&self.context.shared.files));
        }
        let is_one_by_one = unsynced.len() <= self.context.config.sync_files_max;
        let mut all = Synced::All;
        for (entry, segment) in &unsynced {
            let partition = &entry.partition;
            let is_older = segment.key.base < entry.row.segment;
            let is_listed = || {
                let segments = partition.segments();
                segments.iter().any(|it| Arc::ptr_eq(it, segment))
            };
            let synced = match is_one_by_one {
                true => segment.sync(&self.context.shared.files),
                false => segment
                    .require(&self.context.shared.files)
                    .map_err(SyncFault::Open),
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
                    let rests = self.committer.applier.cannot_sync(partition, &fault);
                    all = match rests && all != Synced::NotNow {
                        true => Synced::Fewer,
                        false => Synced::NotNow,
                    };
                }
            }
        }
        match is_one_by_one {
            true => self.context.shared.files.sync_folders()?,
            false => self.context.shared.files.sync_everything()?,
        }
        Ok(all)
    }
}
