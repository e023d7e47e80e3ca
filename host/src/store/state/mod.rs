//! The state of deployments' instances: keys with values, changed by the deltas of
//! commits.
//!
//! A delta that is in the journal is pending until somebody needs the values (a
//! reader, the applier, a checkpoint); then it changes the map in memory. A
//! checkpoint writes what changed into the tables, in the order of keys; what it
//! has written may leave memory, and is read back from there.
//!
//! A checkpoint may write what is newer than the groups that it covers: the
//! journal was synced in between, and to replay the groups behind it gives the
//! same values again.

mod hot;
mod key;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use self::hot::{ENTRY_BYTES, Hot, TableRows};
use self::key::{LOST, deletion_prefixes, lost_key, parse_prefix, prefix, row_key};
use super::table::Tables;
use crate::log::{Deletion, Delta, Page, StateChange, StateId, TableError};

/// How many entries an eviction looks at for each that came, before it gives up.
const LOOKS: usize = 4;

/// Full keys of the tables with their new values.
pub(crate) type Rows = Vec<(Bytes, Option<Bytes>)>;

/// All states.
#[derive(Debug)]
pub(crate) struct States {
    /// In the order of names, so that what belongs together is found together.
    stores: RwLock<BTreeMap<StateId, Arc<Mutex<Hot>>>>,
    /// Deletions that the tables do not know of yet.
    deleted: Mutex<Vec<Deletion>>,
    bytes_max: u64,
    bytes: AtomicU64,
    /// Of deltas that nobody has looked into.
    pending_bytes: AtomicU64,
    /// Entries that the tables do not have as they are.
    unwritten: AtomicU64,
}

/// What a checkpoint writes.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    /// Prefixes of which nothing is left, before the rows are written.
    pub(super) cleared: Vec<Bytes>,
    pub(super) rows: Rows,
    stores: Vec<Arc<Mutex<Hot>>>,
    deleted: usize,
}

impl States {
    pub(crate) fn new(bytes_max: u64) -> States {
        States {
            stores: RwLock::default(),
            deleted: Mutex::default(),
            bytes_max,
            bytes: AtomicU64::new(0),
            pending_bytes: AtomicU64::new(0),
            unwritten: AtomicU64::new(0),
        }
    }

    /// Reads which stores lost something.
    pub(crate) fn read_lost(&self, tables: &Tables) -> Result<(), TableError> {
        for (key, _) in tables.scan_stored(&[LOST])? {
            if let Some(id) = parse_prefix(&key[1..]) {
                self.store(&id).lock().is_lost = true;
            }
        }
        Ok(())
    }

    /// Takes a change that is in the journal. Does not look into it.
    pub(crate) fn push(&self, change: StateChange) {
        match change {
            StateChange::Delta { state, delta } => {
                let bytes = delta.bytes().clone();
                let length = bytes.len() as u64;
                self.pending_bytes.fetch_add(length, Ordering::Relaxed);
                self.store(&state).lock().pending.push_back(bytes);
            }
            StateChange::Delete(deletion) => self.delete(deletion),
        }
    }

    /// A delta of this store is not readable any more: nor is the store.
    pub(crate) fn lose(&self, id: &StateId) {
        tracing::error!(state = %id, "the journal is damaged where the state was changed; it is lost");
        self.store(id).lock().is_lost = true;
    }

    fn delete(&self, deletion: Deletion) {
        // Before the stores: one that is made meanwhile asks for it.
        self.deleted.lock().push(deletion.clone());
        for (id, hot) in self.stores.read().iter() {
            if deletion.is_of(id) {
                let mut hot = hot.lock();
                self.forget_pending(&mut hot);
                let before = hot.sizes();
                *hot = Hot::new(TableRows::Deleted, hot.version + 1);
                self.count(before, &hot);
            }
        }
    }

    fn forget_pending(&self, hot: &mut Hot) {
        let pending = hot.pending.drain(..).map(|delta| delta.len() as u64);
        let bytes: u64 = pending.sum();
        self.pending_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn store(&self, id: &StateId) -> Arc<Mutex<Hot>> {
        if let Some(hot) = self.stores.read().get(id) {
            return hot.clone();
        }
        let mut stores = self.stores.write();
        let deleted = self.deleted.lock();
        let is_deleted = deleted.iter().any(|deletion| deletion.is_of(id));
        let table_rows = match is_deleted {
            true => TableRows::Deleted,
            false => TableRows::Valid,
        };
        let made = || Arc::new(Mutex::new(Hot::new(table_rows, 0)));
        stores.entry(id.clone()).or_insert_with(made).clone()
    }

    /// How much of deltas nobody has looked into.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending_bytes.load(Ordering::Relaxed)
    }

    /// How much the next checkpoint has to write, roughly.
    pub(crate) fn unwritten_bytes(&self) -> u64 {
        self.pending_bytes() + self.unwritten.load(Ordering::Relaxed) * ENTRY_BYTES
    }

    /// What is in memory, roughly.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether only a checkpoint can make memory free.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// Looks into all deltas that wait; says whether there were some.
    pub(crate) fn apply_pending(&self) -> bool {
        if self.pending_bytes() == 0 {
            return false;
        }
        let stores: Vec<_> = self.stores.read().values().cloned().collect();
        for hot in stores {
            // One at a time, so that nobody waits for more than that.
            while self.apply_next(&mut hot.lock()) {}
        }
        true
    }

    fn apply_next(&self, hot: &mut Hot) -> bool {
        let Some(bytes) = hot.pending.pop_front() else {
            return false;
        };
        self.pending_bytes
            .fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        let before = hot.sizes();
        let mut rows = 0;
        if let Some(delta) = Delta::parse(bytes) {
            hot.apply(&delta);
            rows = delta.len();
        }
        self.count(before, hot);
        self.evict(hot, rows);
        true
    }

    fn up_to_date<'a>(&self, hot: &'a Mutex<Hot>) -> parking_lot::MutexGuard<'a, Hot> {
        let mut hot = hot.lock();
        while self.apply_next(&mut hot) {}
        hot
    }

    /// Takes note of what a store has now. The sums wrap, as they go down by going around.
    fn count(&self, before: (u64, u64), hot: &Hot) {
        let (bytes, unwritten) = hot.sizes();
        self.bytes
            .fetch_add(bytes.wrapping_sub(before.0), Ordering::Relaxed);
        self.unwritten
            .fetch_add(unwritten.wrapping_sub(before.1), Ordering::Relaxed);
    }

    /// Lets go what is too much, after so many entries came.
    fn evict(&self, hot: &mut Hot, came: usize) {
        let surplus = self.bytes().saturating_sub(self.bytes_max);
        if surplus > 0 {
            let before = hot.sizes();
            hot.evict(surplus, LOOKS * came);
            self.count(before, hot);
        }
    }

    /// The values of keys, in their order. May wait for the disk.
    pub(crate) fn get(
        &self,
        tables: &Tables,
        id: &StateId,
        keys: &[Bytes],
    ) -> Result<Vec<Option<Bytes>>, TableError> {
        let (mut found, missing, version) = self.look(id, keys)?;
        if missing.is_empty() {
            return Ok(found);
        }
        let full: Vec<Bytes> = missing.iter().map(|at| row_key(id, &keys[*at])).collect();
        let values = tables.get_stored(&full)?;
        let hot = self.store(id);
        let mut hot = self.up_to_date(&hot);
        let before = hot.sizes();
        for (at, value) in missing.into_iter().zip(values) {
            if hot.version == version {
                hot.keep(&keys[at], value.as_deref());
            }
            found[at] = value;
        }
        self.count(before, &hot);
        self.evict(&mut hot, keys.len());
        Ok(found)
    }

    /// What memory says of keys, and which of them it knows nothing of.
    #[expect(clippy::type_complexity, reason = "taken apart at once")]
    pub(crate) fn look(
        &self,
        id: &StateId,
        keys: &[Bytes],
    ) -> Result<(Vec<Option<Bytes>>, Vec<usize>, u64), TableError> {
        let hot = self.store(id);
        let mut hot = self.up_to_date(&hot);
        hot.check(id)?;
        let mut missing = Vec::new();
        let mut found = Vec::with_capacity(keys.len());
        for (at, key) in keys.iter().enumerate() {
            match hot.entries.get_mut(&key[..]) {
                Some(entry) => {
                    entry.was_used = true;
                    found.push(entry.value.as_deref().map(Bytes::copy_from_slice));
                }
                None => {
                    if hot.table_rows == TableRows::Valid {
                        missing.push(at);
                    }
                    found.push(None);
                }
            }
        }
        Ok((found, missing, hot.version))
    }

    /// Keys from `from` on and before `to`, in their order: as many as fit into
    /// `bytes_max`, and one at least. May wait for the disk.
    pub(crate) fn scan(
        &self,
        tables: &Tables,
        id: &StateId,
        range: (Bytes, Option<Bytes>),
        bytes_max: usize,
    ) -> Result<Page, TableError> {
        let (from, to) = range;
        let (fresh, table_rows) = {
            let hot = self.store(id);
            let mut hot = self.up_to_date(&hot);
            hot.check(id)?;
            (hot.unwritten_in(&from, to.as_deref()), hot.table_rows)
        };
        let prefix = prefix(id);
        let begin = [&prefix[..], &from[..]].concat();
        let end = to.as_ref().map(|to| [&prefix[..], &to[..]].concat());
        let (stored, more) = match table_rows {
            TableRows::Valid => tables.range_stored(&prefix, &begin, end.as_deref(), bytes_max)?,
            _ => (Vec::new(), None),
        };
        // What is behind the last key that the tables were asked for is for the next page.
        let limit = more.map(|key| key.slice(prefix.len()..));
        let mut merged: BTreeMap<Bytes, Option<Bytes>> = stored
            .into_iter()
            .map(|(key, value)| (key.slice(prefix.len()..), Some(value)))
            .collect();
        let is_before = |key: &Bytes| limit.as_ref().is_none_or(|limit| key < limit);
        merged.extend(fresh.into_iter().filter(|(key, _)| is_before(key)));
        Ok(page(merged, limit, bytes_max))
    }

    /// What must be written so that the tables hold all there is. The caller says
    /// how that ended: [`written`](States::written) or [`put_back`](States::put_back).
    pub(crate) fn collect(&self) -> Collected {
        let mut collected = Collected::default();
        {
            let deleted = self.deleted.lock();
            collected.deleted = deleted.len();
            for deletion in deleted.iter() {
                collected.cleared.extend(deletion_prefixes(deletion));
            }
        }
        let stores: Vec<_> = {
            let stores = self.stores.read();
            stores
                .iter()
                .map(|(id, hot)| (id.clone(), hot.clone()))
                .collect()
        };
        for (id, store) in stores {
            let mut hot = self.up_to_date(&store);
            if hot.is_lost {
                collected.rows.push((lost_key(&id), Some(Bytes::new())));
            }
            if hot.table_rows == TableRows::Deleted {
                hot.table_rows = TableRows::Deleting;
                collected.cleared.push(prefix(&id));
            }
            let prefix = prefix(&id);
            hot.collect(&prefix, &mut collected.rows);
            drop(hot);
            collected.stores.push(store);
        }
        collected
            .rows
            .sort_unstable_by(|one, other| one.0.cmp(&other.0));
        collected
    }

    /// The tables have it, durably.
    pub(crate) fn written(&self, collected: &Collected) {
        self.deleted.lock().drain(..collected.deleted);
        for store in &collected.stores {
            let mut hot = store.lock();
            let before = hot.sizes();
            hot.written();
            self.count(before, &hot);
            let all = hot.entries.len();
            self.evict(&mut hot, all);
        }
        let mut stores = self.stores.write();
        // Nobody else can have one that only the list holds.
        stores.retain(|_, hot| Arc::strong_count(hot) > 2 || !hot.lock().is_bare());
    }

    /// The tables do not have it.
    pub(crate) fn put_back(&self, collected: &Collected) {
        for store in &collected.stores {
            store.lock().put_back();
        }
    }
}

/// As much of it as fits, one entry at least.
fn page(merged: BTreeMap<Bytes, Option<Bytes>>, limit: Option<Bytes>, bytes_max: usize) -> Page {
    let mut page = Page {
        next: limit,
        ..Page::default()
    };
    let mut bytes = 0;
    for (key, value) in merged {
        let Some(value) = value else { continue };
        if bytes >= bytes_max && !page.entries.is_empty() {
            page.next = Some(key);
            break;
        }
        bytes += key.len() + value.len();
        page.entries.push((key, value));
    }
    page
}
