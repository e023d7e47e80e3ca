//! The state of deployments' instances: keys with values, changed by the deltas of
//! commits.
//!
//! A delta that is in the journal waits at its store until somebody looks (a
//! reader, the applier, a checkpoint); then it changes the map in memory. A
//! checkpoint writes what changed into the tables, in the order of keys; what it
//! has written may leave memory, and is read back from there.
//!
//! A checkpoint may write what is newer than the groups that it covers: the
//! journal was synced in between, and to replay the groups behind it gives the
//! same values again.
//!
//! The rows: number 208, then the store's name (see [`prefix`]) and the key; the
//! value as it is. A row under the number 209 says that a store lost something.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes};
use indexmap::IndexMap;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use super::delta::{Delta, StateId};
use super::driver::Store;
use super::error::TableError;
use super::table::Tables;

/// The number that the keys of states begin with in the tables' file.
pub(super) const VALUE: u8 = 208;
const LOST: u8 = 209;
/// What an entry takes in memory besides its bytes, roughly.
const ENTRY_BYTES: u64 = 96;
/// How many entries an eviction looks at for each that came, before it gives up.
const LOOKS: usize = 4;

/// Keys and values are small as a rule; small ones need no allocation.
type Small = SmallVec<[u8; 16]>;
/// Full keys of the tables with their new values.
pub(super) type Rows = Vec<(Bytes, Option<Bytes>)>;

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

/// The end of the state of a deployment's instance, or of all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The deployment.
    pub deployment: Arc<str>,
    /// The instance; `None`: all of them.
    pub instance: Option<u32>,
}

impl Deletion {
    fn is_of(&self, id: &StateId) -> bool {
        self.deployment == id.deployment && self.instance.is_none_or(|only| only == id.instance)
    }
}

/// A change of states, as commits carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateChange {
    /// Values of keys of one store.
    Delta {
        /// The store.
        state: StateId,
        /// The values.
        delta: Delta,
    },
    /// Nothing of it is left.
    Delete(Deletion),
}

/// One store's part that is in memory.
#[derive(Debug, Default)]
struct Hot {
    entries: IndexMap<Small, Entry, foldhash::fast::RandomState>,
    /// Deltas in their order, not looked into yet.
    pending: VecDeque<Bytes>,
    /// What the tables hold: its values, or nothing that counts.
    below: Below,
    /// How many entries are not in the tables as they are here.
    unwritten: usize,
    /// The keys of those, in order; kept once somebody has asked for a range.
    ordered: Option<BTreeSet<Small>>,
    /// How often the store changed: what was read meanwhile is not kept.
    version: u64,
    /// Where the search for something to evict goes on.
    hand: usize,
    bytes: u64,
    is_lost: bool,
}

#[derive(Debug)]
struct Entry {
    value: Option<Small>,
    place: Place,
    was_used: bool,
}

/// Where an entry's value is besides here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Tables,
    /// A checkpoint is writing it.
    Coming,
    Nowhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Below {
    #[default]
    Counts,
    /// A checkpoint is deleting it.
    Going,
    Deleted,
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

/// A part of a range.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Keys and values, in the keys' order.
    pub entries: Vec<(Bytes, Bytes)>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<Bytes>,
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
                let version = hot.version + 1;
                let before = hot.sizes();
                *hot = Hot {
                    below: Below::Deleted,
                    version,
                    ..Hot::default()
                };
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
        let made = || {
            Arc::new(Mutex::new(Hot {
                below: if is_deleted {
                    Below::Deleted
                } else {
                    Below::Counts
                },
                ..Hot::default()
            }))
        };
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
    pub(crate) fn settle(&self) -> bool {
        if self.pending_bytes() == 0 {
            return false;
        }
        let stores: Vec<_> = self.stores.read().values().cloned().collect();
        for hot in stores {
            // One at a time, so that nobody waits for more than that.
            while self.settle_one(&mut hot.lock()) {}
        }
        true
    }

    fn settle_one(&self, hot: &mut Hot) -> bool {
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

    fn settled<'a>(&self, hot: &'a Mutex<Hot>) -> parking_lot::MutexGuard<'a, Hot> {
        let mut hot = hot.lock();
        while self.settle_one(&mut hot) {}
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
        let full: Vec<Bytes> = missing.iter().map(|at| full_key(id, &keys[*at])).collect();
        let values = tables.get_stored(&full)?;
        let hot = self.store(id);
        let mut hot = self.settled(&hot);
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
        let mut hot = self.settled(&hot);
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
                    if hot.below == Below::Counts {
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
        let (fresh, below) = {
            let hot = self.store(id);
            let mut hot = self.settled(&hot);
            hot.check(id)?;
            (hot.unwritten_in(&from, to.as_deref()), hot.below)
        };
        let prefix = prefix(id);
        let begin = [&prefix[..], &from[..]].concat();
        let end = to.as_ref().map(|to| [&prefix[..], &to[..]].concat());
        let (stored, more) = match below {
            Below::Counts => tables.range_stored(&prefix, &begin, end.as_deref(), bytes_max)?,
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
            let mut hot = self.settled(&store);
            if hot.is_lost {
                collected.rows.push((lost_key(&id), Some(Bytes::new())));
            }
            if hot.below == Below::Deleted {
                hot.below = Below::Going;
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

impl Hot {
    /// Its bytes, and how many entries are not written.
    fn sizes(&self) -> (u64, u64) {
        (self.bytes, self.unwritten as u64)
    }

    fn check(&self, id: &StateId) -> Result<(), TableError> {
        if self.is_lost {
            return Err(TableError::Damaged(format!(
                "{id} is lost: the journal was damaged where it was changed"
            )));
        }
        Ok(())
    }

    /// Whether it says nothing that the tables do not.
    fn is_bare(&self) -> bool {
        self.entries.is_empty()
            && self.pending.is_empty()
            && self.below == Below::Counts
            && !self.is_lost
    }

    fn apply(&mut self, delta: &Delta) {
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
            if entry.place != Place::Nowhere {
                let was_written = entry.place == Place::Tables;
                entry.place = Place::Nowhere;
                self.is_unwritten(key, was_written);
            }
            return;
        }
        self.insert(key, value, Place::Nowhere);
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
    fn keep(&mut self, key: &[u8], value: Option<&[u8]>) {
        if !self.entries.contains_key(key) {
            self.insert(key, value, Place::Tables);
        }
    }

    fn insert(&mut self, key: &[u8], value: Option<&[u8]>, place: Place) {
        let entry = Entry {
            value: value.map(Small::from_slice),
            place,
            was_used: true,
        };
        self.bytes += entry_bytes(key, entry.value.as_deref());
        self.entries.insert(Small::from_slice(key), entry);
    }

    /// Lets entries go that the tables have, those first that were not used since
    /// it came by last.
    fn evict(&mut self, surplus: u64, looks: usize) {
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
            if entry.place != Place::Tables || std::mem::take(&mut entry.was_used) {
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
    fn unwritten_in(&mut self, from: &[u8], to: Option<&[u8]>) -> Vec<(Bytes, Option<Bytes>)> {
        let entries = &self.entries;
        let ordered = self.ordered.get_or_insert_with(|| {
            let unwritten = entries
                .iter()
                .filter(|(_, entry)| entry.place != Place::Tables);
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

    fn collect(&mut self, prefix: &[u8], rows: &mut Rows) {
        let nowhere = self.entries.iter_mut();
        for (key, entry) in nowhere.filter(|(_, entry)| entry.place == Place::Nowhere) {
            entry.place = Place::Coming;
            let full = [prefix, key].concat();
            rows.push((
                full.into(),
                entry.value.as_deref().map(Bytes::copy_from_slice),
            ));
        }
    }

    fn written(&mut self) {
        if self.below == Below::Going {
            self.below = Below::Counts;
        }
        let mut unwritten = 0;
        for entry in self.entries.values_mut() {
            match entry.place {
                Place::Coming => entry.place = Place::Tables,
                Place::Nowhere => unwritten += 1,
                Place::Tables => {}
            }
        }
        self.unwritten = unwritten;
        self.ordered = None;
    }

    fn put_back(&mut self) {
        if self.below == Below::Going {
            self.below = Below::Deleted;
        }
        let coming = self.entries.values_mut();
        coming
            .filter(|entry| entry.place == Place::Coming)
            .for_each(|entry| entry.place = Place::Nowhere);
    }
}

fn entry_bytes(key: &[u8], value: Option<&[u8]>) -> u64 {
    ENTRY_BYTES + (key.len() + value.map_or(0, <[u8]>::len)) as u64
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

impl Store {
    /// The values of keys of a state, in their order, as of all commits that are in
    /// the journal.
    pub async fn state_get(
        &self,
        state: &StateId,
        keys: Vec<Bytes>,
    ) -> Result<Vec<Option<Bytes>>, TableError> {
        let (found, missing, _) = self.engine().states.look(state, &keys)?;
        if missing.is_empty() {
            return Ok(found);
        }
        let (store, state) = (self.clone(), state.clone());
        let get = move || {
            let engine = store.engine();
            engine.states.get(&engine.tables, &state, &keys)
        };
        blocking(get).await
    }

    /// A part of a state: keys from `from` on and before `to`, as many as fit into
    /// `bytes_max` (and one at least, unless there is none).
    pub async fn state_scan(
        &self,
        state: &StateId,
        range: (Bytes, Option<Bytes>),
        bytes_max: usize,
    ) -> Result<Page, TableError> {
        let (store, state) = (self.clone(), state.clone());
        let scan = move || {
            let engine = store.engine();
            engine.states.scan(&engine.tables, &state, range, bytes_max)
        };
        blocking(scan).await
    }
}

/// Runs what may wait for the disk where that is allowed.
async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, TableError> + Send + 'static,
) -> Result<T, TableError> {
    let done = tokio::task::spawn_blocking(act).await;
    done.unwrap_or_else(|error| {
        Err(TableError::Io {
            kind: std::io::ErrorKind::Other,
            reason: error.to_string(),
        })
    })
}

/// What the keys of a store's rows begin with: 208 | deployment | instance u32be | store, the
/// names with their length (u8) before them.
fn prefix(id: &StateId) -> Bytes {
    named(VALUE, id)
}

fn lost_key(id: &StateId) -> Bytes {
    named(LOST, id)
}

fn named(number: u8, id: &StateId) -> Bytes {
    let mut out = vec![number];
    put_name(&mut out, &id.deployment);
    out.put_u32(id.instance);
    put_name(&mut out, &id.store);
    out.into()
}

fn parse_prefix(bytes: &[u8]) -> Option<StateId> {
    fn name<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
        let length = usize::from(*bytes.split_off_first()?);
        std::str::from_utf8(bytes.split_off(..length)?).ok()
    }
    let mut rest = bytes;
    let deployment = name(&mut rest)?;
    let instance = rest.split_off(..4)?.try_into().ok()?;
    StateId::new(deployment, u32::from_be_bytes(instance), name(&mut rest)?)
}

fn deletion_prefixes(deletion: &Deletion) -> [Bytes; 2] {
    [VALUE, LOST].map(|number| {
        let mut out = vec![number];
        put_name(&mut out, &deletion.deployment);
        if let Some(instance) = deletion.instance {
            out.put_u32(instance);
        }
        out.into()
    })
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.put_u8(u8::try_from(name.len()).expect("a name has at most 255 bytes"));
    out.put_slice(name.as_bytes());
}

fn full_key(id: &StateId, key: &[u8]) -> Bytes {
    [&prefix(id)[..], key].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Faults, FaultyDisk};
    use crate::store::table::Changes;

    type Model = BTreeMap<Bytes, Bytes>;

    struct World {
        disk: FaultyDisk,
        tables: Tables,
        states: States,
        ids: Vec<StateId>,
        models: Vec<Model>,
        random: fastrand::Rng,
    }

    impl World {
        fn new(seed: u64) -> World {
            let disk = FaultyDisk::new(seed);
            World {
                tables: Tables::open(Arc::new(disk.clone()), 0).expect("the disk works"),
                disk,
                states: States::new(2_000),
                ids: [("a", 0, "s"), ("a", 0, "t"), ("a", 1, "s"), ("ab", 0, "s")]
                    .iter()
                    .filter_map(|(name, instance, store)| StateId::new(name, *instance, store))
                    .collect(),
                models: vec![Model::new(); 4],
                random: fastrand::Rng::with_seed(seed),
            }
        }

        fn key(&mut self) -> Bytes {
            Bytes::from(format!("{:03}", self.random.u32(..150)).repeat(self.random.usize(1..3)))
        }

        fn step(&mut self) {
            let at = self.random.usize(..4);
            match self.random.u8(..20) {
                0 => self.delete(at),
                1..3 => self.checkpoint(),
                3..8 => self.scan(at),
                8..13 => self.get(at),
                _ => self.change(at),
            }
        }

        fn change(&mut self, at: usize) {
            let changes: Vec<(Bytes, Option<Bytes>)> = (0..self.random.usize(1..9))
                .map(|_| {
                    let value = self.key();
                    let is_kept = self.random.u8(..4) > 0;
                    (self.key(), is_kept.then_some(value))
                })
                .collect();
            let slices: Vec<(&[u8], Option<&[u8]>)> = changes
                .iter()
                .map(|(key, value)| (&key[..], value.as_deref()))
                .collect();
            let state = self.ids[at].clone();
            let delta = Delta::of(&slices).expect("it is small");
            self.states.push(StateChange::Delta { state, delta });
            for (key, value) in changes {
                match value {
                    Some(value) => self.models[at].insert(key, value),
                    None => self.models[at].remove(&key),
                };
            }
        }

        fn delete(&mut self, at: usize) {
            let instance = self.random.bool().then_some(self.ids[at].instance);
            let deployment = self.ids[at].deployment.clone();
            let deletion = Deletion {
                deployment,
                instance,
            };
            for (id, model) in self.ids.iter().zip(&mut self.models) {
                if deletion.is_of(id) {
                    model.clear();
                }
            }
            self.states.push(StateChange::Delete(deletion));
        }

        fn checkpoint(&mut self) {
            let collected = self.states.collect();
            if self.random.bool() {
                // It goes on while the checkpoint writes.
                let at = self.random.usize(..4);
                self.change(at);
            }
            let is_full = self.random.u8(..3) == 0;
            self.disk.set_faults(Faults {
                bytes_max: is_full.then(|| self.disk.used_bytes()),
                ..Faults::default()
            });
            let none = Changes::new();
            match self.tables.write(&none, &none, &collected) {
                Ok(()) => self.states.written(&collected),
                Err(_) => self.states.put_back(&collected),
            }
            self.disk.set_faults(Faults::default());
        }

        fn get(&mut self, at: usize) {
            let keys: Vec<Bytes> = (0..5).map(|_| self.key()).collect();
            let found = self.states.get(&self.tables, &self.ids[at], &keys);
            let expected = keys.iter().map(|key| self.models[at].get(key).cloned());
            assert_eq!(found, Ok(expected.collect()));
        }

        fn scan(&mut self, at: usize) {
            let (from, to) = (self.key(), self.random.bool().then(|| self.key()));
            let end = to.clone().map_or(Bound::Unbounded, Bound::Excluded);
            let is_empty = to.as_ref().is_some_and(|to| *to <= from);
            let mut expected: Vec<(Bytes, Bytes)> = Vec::new();
            if !is_empty {
                let range = self.models[at].range((Bound::Included(from.clone()), end));
                expected.extend(range.map(|(key, value)| (key.clone(), value.clone())));
            }
            let (mut found, mut next) = (Vec::new(), Some(from));
            while let Some(from) = next {
                let page = self
                    .states
                    .scan(&self.tables, &self.ids[at], (from, to.clone()), 40);
                let page = page.expect("the disk works");
                found.extend(page.entries);
                next = page.next;
            }
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_state_is_what_its_deltas_say_however_little_memory_there_is() {
        for seed in 0..40 {
            let mut world = World::new(seed);
            for _ in 0..400 {
                world.step();
                world.states.settle();
            }
            for at in 0..4 {
                world.get(at);
                world.scan(at);
            }
            world.checkpoint();
            world.checkpoint();
            assert!(world.states.bytes() < 100_000);
            // What is read anew from the tables is the same.
            let collected = world.states.collect();
            let none = Changes::new();
            let written = world.tables.write(&none, &none, &collected);
            written.expect("there is room");
            world.states = States::new(1 << 20);
            for at in 0..4 {
                world.scan(at);
                world.get(at);
            }
        }
    }

    #[test]
    fn what_the_tables_have_leaves_memory_when_there_is_too_much() {
        let mut world = World::new(1);
        for _ in 0..100 {
            world.change(0);
        }
        world.states.settle();
        assert!(world.states.is_full() && world.states.unwritten_bytes() > 2_000);
        let collected = world.states.collect();
        let none = Changes::new();
        let written = world.tables.write(&none, &none, &collected);
        written.expect("there is room");
        world.states.written(&collected);
        assert!(!world.states.is_full());
        assert_eq!(world.states.unwritten_bytes(), 0);
        world.scan(0);
    }

    #[test]
    fn a_store_that_lost_something_says_so_until_it_is_deleted() {
        let world = World::new(1);
        let id = &world.ids[0];
        world.states.lose(id);
        let keys = [Bytes::from("k")];
        let none = Changes::new();
        for states in [&world.states, &States::new(0)] {
            states.read_lost(&world.tables).expect("the disk works");
            let error = states
                .get(&world.tables, id, &keys)
                .expect_err("it is lost");
            assert!(
                error.to_string().contains("store `s` of instance 0"),
                "{error}"
            );
            let collected = states.collect();
            let written = world.tables.write(&none, &none, &collected);
            written.expect("there is room");
            states.written(&collected);
        }
        let deletion = Deletion {
            deployment: "a".into(),
            instance: None,
        };
        world.states.push(StateChange::Delete(deletion));
        assert_eq!(world.states.get(&world.tables, id, &keys), Ok(vec![None]));
        let collected = world.states.collect();
        let written = world.tables.write(&none, &none, &collected);
        written.expect("there is room");
        let again = States::new(0);
        again.read_lost(&world.tables).expect("the disk works");
        assert_eq!(again.get(&world.tables, id, &keys), Ok(vec![None]));
    }
}
