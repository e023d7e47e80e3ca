//! What the journal alone has of an unwritable partition, in a file of its own, so
//! that checkpoints go on and let the journal's head go.
//!
//! `aside/<topic>-<partition>-<sequence>.log` is made like a segment: its
//! header, with the first offset as its base, and whole batches. It is written
//! and synced before the checkpoint of that sequence, whose row for it (see
//! [`checkpoint`](super::checkpoint)) says how long it is. A file that no row
//! names does not count, and goes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;

use bytes::Bytes;
use eddy_protocol::Batch;

use super::journal;
use super::journal::operation::Operation;
use super::journal::scan::{Scan, Scanned};
use super::producer::PartitionKey;
use super::segment::{Fault, HEADER_BYTES, Key, read};
use crate::io::{Disk, read_all};

const FOLDER: &str = "aside";

/// A file that is named by the last checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aside {
    /// The checkpoint's.
    pub(crate) sequence: u64,
    /// The file's length.
    pub(crate) bytes: u64,
    /// The offset where its records end.
    pub(crate) end: u64,
}

impl Aside {
    fn name(&self, (topic, partition): PartitionKey) -> String {
        format!("{topic}-{partition}-{:020}.log", self.sequence)
    }

    fn path(&self, key: PartitionKey) -> String {
        format!("{FOLDER}/{}", self.name(key))
    }

    /// All its batches, which follow on each other.
    pub(crate) fn read(&self, disk: &dyn Disk, key: PartitionKey) -> Result<Vec<Batch>, Fault> {
        let path = disk.describe(&self.path(key));
        let file = disk.open_read(&self.path(key));
        let bytes = file.and_then(|file| read_all(&*file));
        let bytes = Bytes::from(bytes.map_err(|error| Fault::of(path.clone(), &error))?);
        let damaged = |at: usize, reason| Fault::Damaged {
            path: path.clone(),
            at: at as u64,
            reason,
        };
        if bytes.len() as u64 != self.bytes {
            let reason = format!("it has {} bytes, {} were synced", bytes.len(), self.bytes);
            return Err(damaged(0, reason));
        }
        let mut batches: Vec<Batch> = Vec::new();
        let mut at = HEADER_BYTES as usize;
        while at < bytes.len() {
            let offset = batches.last().map(Batch::end_offset);
            let batch = read::next_batch(&bytes.slice(at..), offset);
            let batch = batch.map_err(|reason| damaged(at, reason))?;
            at += batch.len();
            batches.push(batch);
        }
        let base = batches.first().map_or(self.end, Batch::base_offset);
        let checked = Key::of(key, base).check_header(&bytes);
        checked.map_err(|reason| damaged(0, reason))?;
        Ok(batches)
    }

    /// Keeps a file that cannot be used for people, where the store does not look.
    pub(crate) fn set_apart(&self, disk: &dyn Disk, key: PartitionKey) -> io::Result<()> {
        let path = self.path(key);
        disk.rename(&path, &format!("{path}.damaged"))
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct NewAside {
    key: PartitionKey,
    begun: bool,
    pub(crate) aside: Aside,
}

impl NewAside {
    /// A file for the checkpoint `sequence`, for the records from `base` on.
    pub(crate) fn new(key: PartitionKey, base: u64, sequence: u64) -> NewAside {
        let aside = Aside {
            sequence,
            bytes: HEADER_BYTES,
            end: base,
        };
        NewAside {
            key,
            begun: false,
            aside,
        }
    }

    /// Adds the batches that go on where the file ends, without a sync.
    pub(crate) fn add(&mut self, disk: &dyn Disk, batches: &[Batch]) -> io::Result<()> {
        let new = follow(self.aside.end, batches);
        let (Some(first), Some(last)) = (new.first(), new.last()) else {
            return Ok(());
        };
        let path = self.aside.path(self.key);
        let file = if self.begun {
            disk.open(&path)?
        } else {
            disk.create_dir(FOLDER)?;
            let file = disk.create(&path)?;
            let header = Key::of(self.key, first.base_offset()).header(0);
            file.write_at(&mut [IoSlice::new(&header)], 0)?;
            self.begun = true;
            file
        };
        let mut slices: Vec<IoSlice<'_>> = new
            .iter()
            .map(|batch| IoSlice::new(batch.bytes()))
            .collect();
        file.write_at(&mut slices, self.aside.bytes)?;
        self.aside.bytes += new.iter().map(|batch| batch.len() as u64).sum::<u64>();
        self.aside.end = last.end_offset();
        Ok(())
    }

    /// Syncs the file and returns what a checkpoint says of it; `None` if there
    /// is nothing in it. Its name is durable after [`sync_names`].
    pub(crate) fn finish(self, disk: &dyn Disk) -> io::Result<Option<Aside>> {
        if !self.begun {
            return Ok(None);
        }
        disk.open(&self.aside.path(self.key))?.sync_data()?;
        Ok(Some(self.aside))
    }
}

/// Makes the names of new files durable.
pub(crate) fn sync_names(disk: &dyn Disk) -> io::Result<()> {
    disk.sync_dir(FOLDER)?;
    disk.sync_dir("")
}

/// Whether there is any file.
pub(crate) fn has_any(disk: &dyn Disk) -> io::Result<bool> {
    Ok(!disk.list(FOLDER)?.is_empty())
}

/// Removes the files that are not among these.
pub(crate) fn remove_others(
    disk: &dyn Disk,
    named: impl Iterator<Item = (PartitionKey, Aside)>,
) -> io::Result<()> {
    let names: BTreeSet<String> = named.map(|(key, aside)| aside.name(key)).collect();
    for entry in disk.list(FOLDER)? {
        if entry.name.ends_with(".log") && !names.contains(&entry.name) {
            disk.remove(&format!("{FOLDER}/{}", entry.name))?;
        }
    }
    Ok(())
}

/// Those of the batches that go on where `end` is, each where the one before ended.
pub(crate) fn follow(mut end: u64, batches: &[Batch]) -> Vec<&Batch> {
    let goes_on = |batch: &&Batch| {
        let is_next = batch.base_offset() == end;
        end = if is_next { batch.end_offset() } else { end };
        is_next
    };
    batches.iter().filter(goes_on).collect()
}

/// Calls `found` with the batches that the journal has of one partition after
/// the other, in their order, in `groups` but for the first; at most a file's at once.
pub(crate) fn journalled(
    disk: &dyn Disk,
    salt: u64,
    groups: RangeInclusive<u64>,
    is_wanted: impl Fn(PartitionKey) -> bool,
    mut found: impl FnMut(PartitionKey, Vec<Batch>) -> io::Result<()>,
) -> io::Result<()> {
    let files = journal::list(disk)?;
    let (after, through) = groups.into_inner();
    for (at, (first, _)) in files.iter().enumerate() {
        let next = files.get(at + 1).map_or(u64::MAX, |(next, _)| *next);
        if next <= after.saturating_add(1) || *first > through {
            continue;
        }
        let bytes = Bytes::from(read_all(&*disk.open_read(&journal::path_of(*first))?)?);
        let mut batches: BTreeMap<PartitionKey, Vec<Batch>> = BTreeMap::new();
        for group in Scan::new(bytes, salt, *first) {
            // What the writer has begun is not read to its end.
            let Scanned::Group(group) = group else {
                continue;
            };
            let sequence = group.header.sequence;
            if sequence <= after || sequence > through || sequence >= next {
                continue;
            }
            let mut own = group.batches.into_iter();
            for operation in &group.operations {
                let Operation::Append(placed) = operation else {
                    continue;
                };
                let batch = own.next().flatten();
                let key = placed.key;
                let Some(batch) = batch.filter(|_| is_wanted(key)) else {
                    continue;
                };
                batches.entry(key).or_default().push(batch);
            }
        }
        for (key, batches) in batches {
            found(key, batches)?;
        }
    }
    Ok(())
}
