//! The part of one store that is in memory: its entries, and the deltas that
//! were not applied to them yet. Evicts what the tables have.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;
use indexmap::IndexMap;
use smallvec::SmallVec;

use super::Rows;
use crate::log::{Delta, StateId, TableError};

/// What an entry takes in memory besides its bytes, roughly.
pub(super) const ENTRY_BYTES: u64 = 96;

/// Keys and values are small as a rule; small ones need no allocation.
type Small = SmallVec<[u8; 16]>;

/// One store's part that is in memory.
#[derive(Debug, Default)]
pub(super) struct Hot {
    pub(super) entries: IndexMap<Small, HotEntry, foldhash::fast::RandomState>,
    /// Deltas in their order, not looked into yet.
    pub(super) pending: VecDeque<Bytes>,
    pub(super) table_rows: TableRows,
    /// How many entries are not in the tables as they are here.
    unwritten: usize,
    /// The keys of those, in order; kept once somebody has asked for a range.
    ordered: Option<BTreeSet<Small>>,
    /// How often the store changed: what was read meanwhile is not kept.
    pub(super) version: u64,
    /// Where the search for something to evict goes on.
    hand: usize,
    bytes: u64,
    pub(super) is_lost: bool,
}

#[derive(Debug)]
pub(super) struct HotEntry {
    pub(super) value: Option<Small>,
    saved: Saved,
    pub(super) was_used: bool,
}

/// Whether the tables have an entry's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saved {
    Yes,
    /// A checkpoint is writing it.
    Writing,
    No,
}

/// Whether the rows that the tables have of a store count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum TableRows {
    #[default]
    Valid,
    /// A checkpoint is deleting them.
    Deleting,
    Deleted,
}

impl Hot {
    /// With nothing in memory.
    pub(super) fn new(table_rows: TableRows, version: u64) -> Hot {
        Hot {
            table_rows,
            version,
            ..Hot::default()
        }
    }

    /// Its bytes, and how many entries are not written.
    pub(super) fn sizes(&self) -> (u64, u64) {
        (self.bytes, self.unwritten as u64)
    }

    pub(super) fn check(&self, id: &StateId) -> Result<(), TableError> {
        if self.is_lost {
            return Err(TableError::Damaged(format!(
                "{id} is lost: the journal was damaged where it was changed"
            )));
        }
        Ok(())
    }

    /// Whether it says nothing that the tables do not.
    pub(super) fn is_bare(&self) -> bool {
        self.entries.is_empty()
            && self.pending.is_empty()
            && self.table_rows == TableRows::Valid
            && !self.is_lost
    }

    pub(super) fn apply(&mut self, delta: &Delta) {
        self.version += 1;
        for (key, value) in delta.rows() {
            self.set(key, value);
        }
    }

    fn set(&mut self, key: &[u8], value: Option<&[u8]>) {
        if let Some(entry) = self.entries.get_mut(key) {
            let before = entry.value.as_ref().map_or(0, |value| value.len());
            match (&mut entry.value, value) {
                (Some(old), Some(new)) if old.len() == new.len() => old.copy_from_slice(new),
                (old, new) => *old = new.map(Small::from_slice),
            }
            self.bytes = self.bytes + value.map_or(0, <[u8]>::len) as u64 - before as u64;
            entry.was_used = true;
            if entry.saved != Saved::No {
                let was_written = entry.saved == Saved::Yes;
                entry.saved = Saved::No;
                self.is_unwritten(key, was_written);
            }
            return;
        }
        self.insert(key, value, Saved::No);
        self.is_unwritten(key, true);
    }

    fn is_unwritten(&mut self, key: &[u8], is_new: bool) {
        if is_new {
            self.unwritten += 1;
            if let Some(ordered) = &mut self.ordered {
                ordered.insert(Small::from_slice(key));
            }
        }
    }

    /// Keeps what the tables said, for the next time.
    pub(super) fn keep(&mut self, key: &[u8], value: Option<&[u8]>) {
        if !self.entries.contains_key(key) {
            self.insert(key, value, Saved::Yes);
        }
    }

    fn insert(&mut self, key: &[u8], value: Option<&[u8]>, saved: Saved) {
        let entry = HotEntry {
            value: value.map(Small::from_slice),
            saved,
            was_used: true,
        };
        self.bytes += entry_bytes(key, entry.value.as_deref());
        self.entries.insert(Small::from_slice(key), entry);
    }

    /// Lets entries go that the tables have, those first that were not used since
    /// it came by last.
    pub(super) fn evict(&mut self, surplus: u64, looks: usize) {
        let mut freed = 0;
        for _ in 0..looks {
            if freed >= surplus {
                break;
            }
            if self.hand >= self.entries.len() {
                self.hand = 0;
            }
            let Some((_, entry)) = self.entries.get_index_mut(self.hand) else {
                break;
            };
            if entry.saved != Saved::Yes || std::mem::take(&mut entry.was_used) {
                self.hand += 1;
                continue;
            }
            if let Some((key, entry)) = self.entries.swap_remove_index(self.hand) {
                freed += entry_bytes(&key, entry.value.as_deref());
            }
        }
        self.bytes -= freed;
    }

    /// The entries of a range that the tables do not have as they are.
    pub(super) fn unwritten_in(
        &mut self,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> Vec<(Bytes, Option<Bytes>)> {
        let entries = &self.entries;
        let ordered = self.ordered.get_or_insert_with(|| {
            let unwritten = entries
                .iter()
                .filter(|(_, entry)| entry.saved != Saved::Yes);
            unwritten.map(|(key, _)| key.clone()).collect()
        });
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        if to.is_some_and(|to| to <= from) {
            return Vec::new();
        }
        let keys = ordered.range::<[u8], _>((Bound::Included(from), end));
        let found = keys.filter_map(|key| {
            let value = entries.get(&key[..])?.value.as_deref();
            Some((
                Bytes::copy_from_slice(key),
                value.map(Bytes::copy_from_slice),
            ))
        });
        found.collect()
    }

    pub(super) fn collect(&mut self, prefix: &[u8], rows: &mut Rows) {
        let nowhere = self.entries.iter_mut();
        for (key, entry) in nowhere.filter(|(_, entry)| entry.saved == Saved::No) {
            entry.saved = Saved::Writing;
            let full = [prefix, key].concat();
            rows.push((
                full.into(),
                entry.value.as_deref().map(Bytes::copy_from_slice),
            ));
        }
    }

    pub(super) fn written(&mut self) {
        if self.table_rows == TableRows::Deleting {
            self.table_rows = TableRows::Valid;
        }
        let mut unwritten = 0;
        for entry in self.entries.values_mut() {
            match entry.saved {
                Saved::Writing => entry.saved = Saved::Yes,
                Saved::No => unwritten += 1,
                Saved::Yes => {}
            }
        }
        self.unwritten = unwritten;
        self.ordered = None;
    }

    pub(super) fn put_back(&mut self) {
        if self.table_rows == TableRows::Deleting {
            self.table_rows = TableRows::Deleted;
        }
        let coming = self.entries.values_mut();
        coming
            .filter(|entry| entry.saved == Saved::Writing)
            .for_each(|entry| entry.saved = Saved::No);
    }
}

fn entry_bytes(key: &[u8], value: Option<&[u8]>) -> u64 {
    ENTRY_BYTES + (key.len() + value.map_or(0, <[u8]>::len)) as u64
}
