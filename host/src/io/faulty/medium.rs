//! What a disk holds, and what of it is durable: files in sectors and names in
//! folders, each as they are and as the last sync left them.

use std::collections::{BTreeMap, BTreeSet};

use crate::io::folder_of;

/// What a power cut keeps or loses as a whole.
pub(super) const SECTOR_BYTES: u64 = 512;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) files: BTreeMap<String, u64>,
    pub(super) folders: BTreeSet<String>,
}

#[derive(Debug, Clone)]
pub(super) enum NameChange {
    Link { path: String, node: u64 },
    Unlink { path: String },
    Rename { from: String, to: String },
    MakeFolder { path: String },
    RemoveFolder { path: String },
}

#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub(super) data: Vec<u8>,
    pub(super) synced: Vec<u8>,
    pub(super) dirty: BTreeSet<u64>,
    /// Sectors that take room; what was only skipped or extended does not.
    pub(super) used: BTreeSet<u64>,
    /// How the length changed since the last sync.
    lengths: Vec<Length>,
}

#[derive(Debug, Clone, Copy)]
enum Length {
    Set(usize),
    Written { from: usize, to: usize },
}

impl Names {
    pub(super) fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link { path, node } => {
                self.files.insert(path.clone(), *node);
            }
            NameChange::Unlink { path } => {
                self.files.remove(path);
            }
            NameChange::Rename { from, to } => {
                if let Some(node) = self.files.remove(from) {
                    self.files.insert(to.clone(), node);
                }
            }
            NameChange::MakeFolder { path } => {
                self.folders.insert(path.clone());
            }
            NameChange::RemoveFolder { path } => {
                self.folders.remove(path);
            }
        }
    }

    pub(super) fn has_folder(&self, path: &str) -> bool {
        path.is_empty() || self.folders.contains(path)
    }

    /// Drops what lies in folders that are not there.
    pub(super) fn drop_orphans(&mut self) {
        let mut folders = BTreeSet::new();
        for folder in &self.folders {
            // Sorted order puts a folder behind the one that holds it.
            let above = folder_of(folder);
            if above.is_empty() || folders.contains(above) {
                folders.insert(folder.clone());
            }
        }
        self.files
            .retain(|path, _| folder_of(path).is_empty() || folders.contains(folder_of(path)));
        self.folders = folders;
    }
}

impl Node {
    /// A file that is durable as it is.
    pub(super) fn synced(bytes: Vec<u8>) -> Node {
        Node {
            used: (0..(bytes.len() as u64).div_ceil(SECTOR_BYTES)).collect(),
            synced: bytes.clone(),
            data: bytes,
            ..Node::default()
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], at: usize) {
        let (len, end) = (self.data.len(), at + bytes.len());
        if len < end {
            self.data.resize(end, 0);
            self.lengths.push(Length::Written { from: len, to: end });
        }
        self.data[at..end].copy_from_slice(bytes);
        self.mark(at as u64, end as u64);
        let (first, last) = (
            at as u64 / SECTOR_BYTES,
            (end as u64).div_ceil(SECTOR_BYTES),
        );
        self.used.extend(first..last);
    }

    pub(super) fn resize(&mut self, len: usize) {
        let (low, high) = (self.data.len().min(len), self.data.len().max(len));
        self.data.resize(len, 0);
        self.lengths.push(Length::Set(len));
        self.used.split_off(&(len as u64).div_ceil(SECTOR_BYTES));
        self.mark(low as u64, high as u64);
    }

    fn mark(&mut self, from: u64, to: u64) {
        if from < to {
            self.dirty
                .extend(from / SECTOR_BYTES..=(to - 1) / SECTOR_BYTES);
        }
    }

    pub(super) fn sync(&mut self) {
        self.lengths.clear();
        self.synced.resize(self.data.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            copy_sector(&self.data, &mut self.synced, sector);
        }
    }

    pub(super) fn lose_unsynced(&mut self, random: &mut fastrand::Rng) {
        let len = self.length_after_crash(random);
        // Sometimes nothing, sometimes everything, mostly some of it reached the disk.
        let kept_percent = [0, 100, random.u8(..100)][random.usize(..3)];
        self.synced.resize(len, 0);
        for sector in std::mem::take(&mut self.dirty) {
            if random.u8(..100) < kept_percent {
                copy_sector(&self.data, &mut self.synced, sector);
            }
        }
        self.data = self.synced.clone();
    }

    /// A length that the file had since its last sync. One that was set is there
    /// or not; one that grew by writing may be anywhere between.
    fn length_after_crash(&mut self, random: &mut fastrand::Rng) -> usize {
        let lengths = std::mem::take(&mut self.lengths);
        let chosen = random.usize(..=lengths.len());
        match chosen.checked_sub(1).map(|last| lengths[last]) {
            None => self.synced.len(),
            Some(Length::Set(len)) => len,
            Some(Length::Written { from, to }) => {
                let sector = SECTOR_BYTES as usize;
                let between = random.usize(from..=to).next_multiple_of(sector);
                between.min(to)
            }
        }
    }
}

fn copy_sector(from: &[u8], to: &mut [u8], sector: u64) {
    let start = usize::try_from(sector * SECTOR_BYTES).unwrap_or(usize::MAX);
    let end = (start + SECTOR_BYTES as usize)
        .min(from.len())
        .min(to.len());
    if start < end {
        to[start..end].copy_from_slice(&from[start..end]);
    }
}
