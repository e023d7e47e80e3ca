//! The key-value tables: what changed since the last checkpoint in memory,
//! the rest in redb, which only checkpoints write.
//!
//! Everything lives in one redb table: the key is the table's number (u8) and
//! the key's bytes; the value is CRC-32C (u32, little endian) over that key and
//! the value's bytes, then those bytes. Numbers from 200 are the checkpoint's
//! own (see [`super::checkpoint`]). redb keeps a checksum per page, and all of
//! them are checked when the file is opened: a damaged page above the leaves
//! would hide keys, which no checksum of a value tells.
//!
//! A checkpoint is one redb transaction, committed in two phases: after a
//! one-phase commit redb takes a damaged page for a write that a crash cut off,
//! and goes back to the transaction before without a word.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::{RwLock, RwLockWriteGuard};
use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};

use super::backend::Backend;
use super::state::Collected;
use crate::io::{Disk, File, is_full};
use crate::log::{Change, Table, TableError};

/// The file.
pub(crate) const PATH: &str = "tables.redb";
const ALL: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("eddy");

/// Rows of the file, and the key behind them.
pub(crate) type Stored = (Vec<(Bytes, Bytes)>, Option<Bytes>);

/// Keys with their values, `None` for those that have none any more.
pub(crate) type Changes = BTreeMap<Bytes, Option<Bytes>>;

/// All tables.
#[derive(Debug)]
pub(crate) struct Tables {
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
    has_sync_failed: Arc<AtomicBool>,
    overlay: RwLock<Overlay>,
    /// Who uses the database holds this for reading, so that closing it waits.
    slot: RwLock<Slot>,
}

#[derive(Debug)]
enum Slot {
    Open(Database),
    /// An error made redb refuse everything: whoever needs it next opens it anew.
    Failed,
    /// The folder may be somebody else's by now.
    Closed,
}

#[derive(Debug, Default)]
struct Overlay {
    fresh: Changes,
    /// What a running checkpoint is writing.
    frozen: Arc<Changes>,
    fresh_bytes: u64,
    frozen_bytes: u64,
}

impl Tables {
    /// Opens the file (making it if there is none) and checks all of it.
    pub(crate) fn open(disk: Arc<dyn Disk>, cache_bytes: usize) -> Result<Tables, TableError> {
        let has_sync_failed = Arc::default();
        let database = open_database(&*disk, cache_bytes, &has_sync_failed)?;
        Ok(Tables {
            disk,
            cache_bytes,
            has_sync_failed,
            overlay: RwLock::default(),
            slot: RwLock::new(Slot::Open(database)),
        })
    }

    /// Closes the file, which redb writes to once more. What is not in memory
    /// cannot be read any more.
    pub(crate) fn close(&self) {
        let Slot::Open(database) = std::mem::replace(&mut *self.slot.write(), Slot::Closed) else {
            return;
        };
        // Every checkpoint is durable already; this only saves the next open some work.
        if let Ok(Err(error)) = catch_unwind(AssertUnwindSafe(|| database.close())) {
            tracing::debug!(%error, "could not close the key-value tables properly");
        }
    }

    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, TableError> {
        self.get_full(&full_key(table as u8, key))
    }

    pub(crate) fn get_full(&self, full: &[u8]) -> Result<Option<Bytes>, TableError> {
        {
            let overlay = self.overlay.read();
            if let Some(value) = overlay.fresh.get(full).or_else(|| overlay.frozen.get(full)) {
                return Ok(value.clone());
            }
        }
        self.read(|table| match table.get(full).map_err(fault)? {
            Some(value) => checked(full, value.value()).map(Some),
            None => Ok(None),
        })
    }

    /// All keys of a table that begin with `prefix`, in their order.
    pub(crate) fn scan(
        &self,
        table: Table,
        prefix: &[u8],
    ) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        let prefix = full_key(table as u8, prefix);
        // The overlay first: a checkpoint that ends in between moves entries from it to the file,
        // where they are found a second time, never not at all.
        let (frozen, fresh) = {
            let overlay = self.overlay.read();
            (overlay.frozen.clone(), below(&overlay.fresh, &prefix))
        };
        let mut found: BTreeMap<Bytes, Bytes> = self.scan_stored(&prefix)?.into_iter().collect();
        for (key, value) in below(&frozen, &prefix).into_iter().chain(fresh) {
            match value {
                Some(value) => found.insert(key, value),
                None => found.remove(&key),
            };
        }
        Ok(found
            .into_iter()
            .map(|(key, value)| (key.slice(1..), value))
            .collect())
    }

    /// As [`scan`](Tables::scan) over what the last checkpoint wrote, with full keys.
    pub(crate) fn scan_stored(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, TableError> {
        let (rows, _) = self.range_stored(prefix, prefix, None, usize::MAX)?;
        Ok(rows)
    }

    /// The values of keys (as they are stored) that the last checkpoint wrote.
    pub(crate) fn get_stored(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>, TableError> {
        let mut found: Vec<Option<Bytes>> = self.read(|table| {
            let get = |key: &Bytes| match table.get(&key[..]).map_err(fault)? {
                Some(value) => checked(key, value.value()).map(Some),
                None => Ok(None),
            };
            keys.iter().map(get).collect()
        })?;
        found.resize(keys.len(), None);
        Ok(found)
    }

    /// Rows that the last checkpoint wrote, from `from` on and before `to`, while
    /// their keys begin with `prefix`: as many as fit into `bytes_max`, and one at
    /// least; and the key that comes next.
    pub(crate) fn range_stored(
        &self,
        prefix: &[u8],
        from: &[u8],
        to: Option<&[u8]>,
        bytes_max: usize,
    ) -> Result<Stored, TableError> {
        self.read(|table| {
            let (mut found, mut bytes) = (Stored::default(), 0);
            for row in table.range(from..).map_err(fault)? {
                let (key, value) = row.map_err(fault)?;
                let key = Bytes::copy_from_slice(key.value());
                if !key.starts_with(prefix) || to.is_some_and(|to| &key[..] >= to) {
                    break;
                }
                if bytes >= bytes_max && !found.0.is_empty() {
                    found.1 = Some(key);
                    break;
                }
                let value = checked(&key, value.value())?;
                bytes += key.len() + value.len();
                found.0.push((key, value));
            }
            Ok(found)
        })
    }

    /// Makes changes that are in the journal.
    pub(crate) fn apply(&self, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        let mut overlay = self.overlay.write();
        for (key, value) in changes {
            let key_bytes = key.len() as u64;
            overlay.fresh_bytes += key_bytes + value_bytes(value.as_ref());
            if let Some(replaced) = overlay.fresh.insert(key, value) {
                overlay.fresh_bytes -= key_bytes + value_bytes(replaced.as_ref());
            }
        }
    }

    /// How much the next checkpoint has to write, roughly.
    pub(crate) fn unwritten_bytes(&self) -> u64 {
        let overlay = self.overlay.read();
        overlay.fresh_bytes + overlay.frozen_bytes
    }

    /// Begins a checkpoint: returns what it must write.
    pub(crate) fn freeze(&self) -> Arc<Changes> {
        let mut overlay = self.overlay.write();
        overlay.frozen = Arc::new(std::mem::take(&mut overlay.fresh));
        overlay.frozen_bytes = std::mem::take(&mut overlay.fresh_bytes);
        overlay.frozen.clone()
    }

    /// Ends a checkpoint that failed: what was frozen is to be written again.
    pub(crate) fn thaw(&self) {
        let mut overlay = self.overlay.write();
        let mut all = Changes::clone(&overlay.frozen);
        overlay.frozen = Arc::default();
        all.append(&mut overlay.fresh);
        overlay.frozen_bytes = 0;
        overlay.fresh_bytes = all
            .iter()
            .map(|(key, value)| key.len() as u64 + value_bytes(value.as_ref()))
            .sum();
        overlay.fresh = all;
    }

    /// Writes what was frozen and the checkpoint's own entries, durably.
    pub(crate) fn write(
        &self,
        frozen: &Changes,
        own: &Changes,
        states: &Collected,
    ) -> Result<(), WriteError> {
        let written = self.guarded_write(|database| {
            let mut write = database.begin_write()?;
            write.set_two_phase_commit(true);
            {
                let mut table = write.open_table(ALL)?;
                for prefix in &states.cleared {
                    let end = behind(prefix);
                    table.retain_in::<&[u8], _>(&prefix[..]..&end[..], |_, _| false)?;
                }
                let states = states.rows.iter().map(|(key, value)| (key, value));
                for (key, value) in frozen.iter().chain(own).chain(states) {
                    match value {
                        Some(value) => table.insert(&key[..], &summed(key, value)[..])?,
                        None => table.remove(&key[..])?,
                    };
                }
            }
            write.commit()?;
            Ok(())
        });
        if written.is_ok() {
            let mut overlay = self.overlay.write();
            (overlay.frozen, overlay.frozen_bytes) = (Arc::default(), 0);
        }
        written
    }

    /// Reads from the one table that holds everything, which a new folder does not have.
    fn read<T: Default>(
        &self,
        act: impl FnOnce(&ReadOnlyTable<&'static [u8], &'static [u8]>) -> Result<T, TableError>,
    ) -> Result<T, TableError> {
        self.guarded(|database| {
            let read = database.begin_read().map_err(fault)?;
            match read.open_table(ALL) {
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(T::default()),
                table => act(&table.map_err(fault)?),
            }
        })
    }

    /// Runs `act` on the database. A damaged page may make redb panic; that must
    /// not take the broker down.
    fn guarded<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, TableError>,
    ) -> Result<T, TableError> {
        let done = self.with_database(|database| {
            catch_unwind(AssertUnwindSafe(|| act(database)))
                .unwrap_or_else(|_| Err(TableError::Damaged("a page cannot be read".to_owned())))
        })?;
        if matches!(done, Err(TableError::Io { .. })) {
            self.give_up();
        }
        done
    }

    fn guarded_write(
        &self,
        act: impl FnOnce(&Database) -> Result<(), redb::Error>,
    ) -> Result<(), WriteError> {
        let done = self.with_database(|database| catch_unwind(AssertUnwindSafe(|| act(database))));
        let error = match done {
            Ok(Ok(Ok(()))) => return Ok(()),
            Ok(Ok(Err(redb::Error::Io(error)))) if is_full(&error) => WriteError::DiskFull,
            Ok(Ok(Err(error))) if self.has_sync_failed() => WriteError::Failed(error.to_string()),
            // A read failed before or meanwhile, so redb has not begun to commit.
            Ok(Ok(Err(error @ redb::Error::PreviousIo))) => WriteError::NotNow(error.to_string()),
            // Opened anew, the file is as it was before, or as it should become.
            Ok(Ok(Err(error @ redb::Error::Io(_)))) => WriteError::NotNow(error.to_string()),
            Ok(Ok(Err(error))) => WriteError::Failed(error.to_string()),
            Ok(Err(_)) => WriteError::Failed("a page cannot be read".to_owned()),
            Err(TableError::Io { kind, .. }) if is_full(&kind.into()) => WriteError::DiskFull,
            Err(error @ TableError::Io { .. }) => WriteError::NotNow(error.to_string()),
            Err(error @ TableError::Damaged(_)) => WriteError::Failed(error.to_string()),
        };
        self.give_up();
        Err(error)
    }

    fn has_sync_failed(&self) -> bool {
        self.has_sync_failed.load(Ordering::Relaxed)
    }

    /// redb refuses everything after an error until it is opened anew.
    fn give_up(&self) {
        let mut slot = self.slot.write();
        if matches!(*slot, Slot::Open(_)) {
            *slot = Slot::Failed;
        }
    }

    fn with_database<T>(&self, act: impl FnOnce(&Database) -> T) -> Result<T, TableError> {
        let mut slot = self.slot.read();
        if matches!(*slot, Slot::Failed) {
            drop(slot);
            let mut failed = self.slot.write();
            if matches!(*failed, Slot::Failed) {
                *failed = Slot::Open(open_database(
                    &*self.disk,
                    self.cache_bytes,
                    &self.has_sync_failed,
                )?);
            }
            slot = RwLockWriteGuard::downgrade(failed);
        }
        match &*slot {
            Slot::Open(database) => Ok(act(database)),
            Slot::Failed | Slot::Closed => Err(TableError::Io {
                kind: io::ErrorKind::Other,
                reason: "the store is closed".to_owned(),
            }),
        }
    }
}

/// Why a checkpoint could not write the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteError {
    DiskFull,
    /// The file could not be read or written; nothing of it counts, and another
    /// try may do.
    NotNow(String),
    /// What is on disk now, nobody knows.
    Failed(String),
}

fn value_bytes(value: Option<&Bytes>) -> u64 {
    value.map_or(0, |value| value.len() as u64)
}

/// The first key behind all that begin with `prefix`, whose first byte is not the last there is.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The key as it is stored.
pub(crate) fn full_key(table: u8, key: &[u8]) -> Bytes {
    let mut full = BytesMut::with_capacity(key.len() + 1);
    full.put_u8(table);
    full.put_slice(key);
    full.freeze()
}

/// A change as an entry of [`Changes`].
pub(crate) fn entry(change: &Change) -> (Bytes, Option<Bytes>) {
    match change {
        Change::Put { table, key, value } => (full_key(*table as u8, key), Some(value.clone())),
        Change::Delete { table, key } => (full_key(*table as u8, key), None),
    }
}

fn open_database(
    disk: &dyn Disk,
    cache_bytes: usize,
    has_sync_failed: &Arc<AtomicBool>,
) -> Result<Database, TableError> {
    let file = match disk.open(PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_database(disk, cache_bytes, has_sync_failed)?;
            disk.open(PATH)
        }
        other => other,
    };
    open_file(file.map_err(io_fault)?, cache_bytes, has_sync_failed)
}

/// Makes the file such that after a crash it is there whole or not at all.
fn create_database(
    disk: &dyn Disk,
    cache_bytes: usize,
    has_sync_failed: &Arc<AtomicBool>,
) -> Result<(), TableError> {
    let temporary = format!("{PATH}.new");
    let file = disk.create(&temporary).map_err(io_fault)?;
    let database = open_file(file.clone(), cache_bytes, has_sync_failed)?;
    // redb writes when it closes, and the name must not be there before all of that.
    database
        .close()
        .map_err(|error| fault(redb::Error::from(error)))?;
    file.sync_data().map_err(io_fault)?;
    disk.rename(&temporary, PATH).map_err(io_fault)?;
    disk.sync_dir("").map_err(io_fault)
}

fn open_file(
    file: Arc<dyn File>,
    cache_bytes: usize,
    has_sync_failed: &Arc<AtomicBool>,
) -> Result<Database, TableError> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        Database::builder()
            .set_cache_size(cache_bytes)
            .set_check_integrity_on_open(true)
            .create_with_backend(Backend::new(file, has_sync_failed.clone()))
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(redb::DatabaseError::Storage(redb::StorageError::Io(error)))) => {
            Err(io_fault(error))
        }
        Ok(Err(error)) => Err(TableError::Damaged(error.to_string())),
        Err(_) => Err(TableError::Damaged(
            "its pages contradict each other".to_owned(),
        )),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn io_fault(error: io::Error) -> TableError {
    // So redb says that the file does not even begin as one of its own.
    if error.kind() == io::ErrorKind::InvalidData {
        return TableError::Damaged(error.to_string());
    }
    TableError::Io {
        kind: error.kind(),
        reason: error.to_string(),
    }
}

fn below(changes: &Changes, prefix: &[u8]) -> Vec<(Bytes, Option<Bytes>)> {
    changes
        .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(prefix))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn summed(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 4);
    bytes.put_u32_le(crc32c::crc32c_append(crc32c::crc32c(key), value));
    bytes.put_slice(value);
    bytes
}

fn checked(key: &[u8], stored: &[u8]) -> Result<Bytes, TableError> {
    let value = stored.split_first_chunk::<4>().and_then(|(crc, value)| {
        let found = crc32c::crc32c_append(crc32c::crc32c(key), value);
        (u32::from_le_bytes(*crc) == found).then_some(value)
    });
    let value =
        value.ok_or_else(|| TableError::Damaged("a value's checksum is wrong".to_owned()))?;
    Ok(Bytes::copy_from_slice(value))
}

fn fault(error: impl Into<redb::Error>) -> TableError {
    match error.into() {
        redb::Error::Io(error) => io_fault(error),
        // Another read failed, and this one was not tried.
        error @ redb::Error::PreviousIo => io_fault(io::Error::other(error)),
        error => TableError::Damaged(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Faults, FaultyDisk};

    fn put(tables: &Tables, key: &str, value: &str) {
        let change = Change::Put {
            table: Table::Cursors,
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value.as_bytes()),
        };
        tables.apply(Changes::from([entry(&change)]));
    }

    fn write(tables: &Tables) -> Result<(), WriteError> {
        let frozen = tables.freeze();
        let written = tables.write(&frozen, &Changes::new(), &Collected::default());
        if written.is_err() {
            tables.thaw();
        }
        written
    }

    fn get(tables: &Tables, key: &str) -> Result<Option<Bytes>, TableError> {
        tables.get(Table::Cursors, key.as_bytes())
    }

    fn faults(disk: &FaultyDisk, fail_reads: bool, bytes_max: Option<u64>) {
        disk.set_faults(Faults {
            fail_reads,
            bytes_max,
            ..Faults::default()
        });
    }

    #[test]
    fn a_read_that_failed_is_tried_again_and_a_checkpoint_waits_for_it() {
        let disk = FaultyDisk::new(1);
        let tables = Tables::open(Arc::new(disk.clone()), 0).expect("the disk works");
        put(&tables, "a", "1");
        write(&tables).expect("there is room");
        faults(&disk, true, None);
        for _ in 0..3 {
            let error = get(&tables, "a").expect_err("nothing can be read");
            assert!(matches!(error, TableError::Io { .. }), "{error}");
        }
        put(&tables, "b", "2");
        let error = write(&tables).expect_err("nothing can be read");
        assert!(matches!(error, WriteError::NotNow(_)), "{error:?}");
        faults(&disk, false, None);
        assert_eq!(get(&tables, "a"), Ok(Some(Bytes::from("1"))));
        write(&tables).expect("it works again");
        assert_eq!(get(&tables, "b"), Ok(Some(Bytes::from("2"))));
    }

    #[test]
    fn a_full_disk_is_known_as_one_whatever_was_tried() {
        let disk = FaultyDisk::new(1);
        let tables = Tables::open(Arc::new(disk.clone()), 0).expect("the disk works");
        put(&tables, "a", "1");
        write(&tables).expect("there is room");
        put(&tables, "b", &"2".repeat(2 << 20));
        faults(&disk, false, Some(disk.used_bytes()));
        for _ in 0..3 {
            assert_eq!(write(&tables), Err(WriteError::DiskFull));
        }
        assert_eq!(get(&tables, "a"), Ok(Some(Bytes::from("1"))));
        faults(&disk, false, None);
        write(&tables).expect("there is room again");
    }

    #[test]
    fn a_key_that_changes_often_counts_once() {
        let disk = FaultyDisk::new(1);
        let tables = Tables::open(Arc::new(disk), 0).expect("the disk works");
        for n in 0..100 {
            put(&tables, "key", &format!("{n:05}"));
        }
        assert_eq!(tables.unwritten_bytes(), 4 + 5);
        tables.freeze();
        put(&tables, "key", "x");
        assert_eq!(tables.unwritten_bytes(), 9 + 5);
        tables.thaw();
        assert_eq!(tables.unwritten_bytes(), 5);
    }

    #[test]
    fn closed_tables_are_not_touched_any_more() {
        let disk = FaultyDisk::new(1);
        let tables = Tables::open(Arc::new(disk.clone()), 0).expect("the disk works");
        put(&tables, "a", "1");
        write(&tables).expect("there is room");
        tables.close();
        let operations = disk.operations();
        get(&tables, "a").expect_err("they are closed");
        drop(tables);
        assert_eq!(disk.operations(), operations);
    }
}
