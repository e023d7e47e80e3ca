//! The key-value tables: what changed since the last checkpoint in memory,
//! the rest in redb, which only checkpoints write.
//!
//! Everything lives in one redb table: the key is the table's number (u8) and
//! the key's bytes; the value is CRC-32C (u32, little endian) over that key and
//! the value's bytes, then those bytes. Numbers from 200 are the checkpoint's
//! own (see [`super::checkpoint`]). redb keeps a checksum per page, and all of
//! them are checked when the file is opened.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use redb::{Database, ReadableDatabase, TableDefinition};

use super::backend::Backend;
use super::commit::{Change, Table};
use super::error::TableError;
use crate::io::{Disk, File, is_full};

/// The file.
pub(crate) const PATH: &str = "tables.redb";
const ALL: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("eddy");

/// Keys with their values, `None` for those that have none any more.
pub(crate) type Changes = BTreeMap<Bytes, Option<Bytes>>;

/// All tables.
#[derive(Debug)]
pub(crate) struct Tables {
    disk: Arc<dyn Disk>,
    cache_bytes: usize,
    overlay: RwLock<Overlay>,
    database: Mutex<Option<Arc<Database>>>,
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
        let database = open_database(&*disk, cache_bytes)?;
        Ok(Tables {
            disk,
            cache_bytes,
            overlay: RwLock::default(),
            database: Mutex::new(Some(Arc::new(database))),
        })
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
        self.guarded(|database| {
            let read = database.begin_read().map_err(fault)?;
            let table = match read.open_table(ALL) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                other => other.map_err(fault)?,
            };
            let Some(value) = table.get(full).map_err(fault)? else {
                return Ok(None);
            };
            checked(full, value.value()).map(Some)
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
        self.guarded(|database| {
            let read = database.begin_read().map_err(fault)?;
            let table = match read.open_table(ALL) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                other => other.map_err(fault)?,
            };
            let mut found = Vec::new();
            for entry in table.range(prefix..).map_err(fault)? {
                let (key, value) = entry.map_err(fault)?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                found.push((
                    Bytes::copy_from_slice(key.value()),
                    checked(key.value(), value.value())?,
                ));
            }
            Ok(found)
        })
    }

    /// Makes changes that are in the journal.
    pub(crate) fn apply(&self, changes: Changes) {
        if changes.is_empty() {
            return;
        }
        let value_bytes = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        let bytes: usize = changes
            .iter()
            .map(|(key, value)| key.len() + value_bytes(value))
            .sum();
        let mut overlay = self.overlay.write();
        overlay.fresh_bytes += bytes as u64;
        overlay.fresh.extend(changes);
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
        overlay.fresh = all;
        overlay.fresh_bytes += std::mem::take(&mut overlay.frozen_bytes);
    }

    /// Writes what was frozen and the checkpoint's own entries, durably.
    pub(crate) fn write(
        &self,
        frozen: &Changes,
        own: &HashMap<Bytes, Option<Bytes>>,
    ) -> Result<(), WriteError> {
        let mut own: Vec<_> = own.iter().collect();
        own.sort_unstable();
        let written = self.guarded_write(|database| {
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(ALL)?;
                for (key, value) in frozen.iter().chain(own) {
                    match value {
                        Some(value) => table.insert(&key[..], &summed(key, value)[..])?,
                        None => table.remove(&key[..])?,
                    };
                }
            }
            write.commit()?;
            Ok(())
        });
        match written {
            Ok(()) => {
                let mut overlay = self.overlay.write();
                (overlay.frozen, overlay.frozen_bytes) = (Arc::default(), 0);
            }
            // redb refuses everything after an error until it is opened anew.
            Err(_) => *self.database.lock() = None,
        }
        written
    }

    /// Runs `act` on the database. A damaged page may make redb panic; that must
    /// not take the broker down.
    fn guarded<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, TableError>,
    ) -> Result<T, TableError> {
        let database = self.database()?;
        catch_unwind(AssertUnwindSafe(|| act(&database)))
            .unwrap_or_else(|_| Err(TableError::Damaged("a page cannot be read".to_owned())))
    }

    fn guarded_write(
        &self,
        act: impl FnOnce(&Database) -> Result<(), redb::Error>,
    ) -> Result<(), WriteError> {
        let database = self
            .database()
            .map_err(|error| WriteError::Failed(error.to_string()))?;
        match catch_unwind(AssertUnwindSafe(|| act(&database))) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(redb::Error::Io(error))) if is_full(&error) => Err(WriteError::DiskFull),
            Ok(Err(error)) => Err(WriteError::Failed(error.to_string())),
            Err(_) => Err(WriteError::Failed("a page cannot be read".to_owned())),
        }
    }

    fn database(&self) -> Result<Arc<Database>, TableError> {
        let mut database = self.database.lock();
        if let Some(database) = &*database {
            return Ok(database.clone());
        }
        let opened = Arc::new(open_database(&*self.disk, self.cache_bytes)?);
        *database = Some(opened.clone());
        Ok(opened)
    }
}

/// Why a checkpoint could not write the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WriteError {
    DiskFull,
    Failed(String),
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

fn open_database(disk: &dyn Disk, cache_bytes: usize) -> Result<Database, TableError> {
    let file = match disk.open(PATH) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            create_database(disk, cache_bytes)?;
            disk.open(PATH)
        }
        other => other,
    };
    open_file(file.map_err(io_fault)?, cache_bytes)
}

/// Makes the file such that after a crash it is there whole or not at all.
fn create_database(disk: &dyn Disk, cache_bytes: usize) -> Result<(), TableError> {
    let temporary = format!("{PATH}.new");
    let file = disk.create(&temporary).map_err(io_fault)?;
    let database = open_file(file.clone(), cache_bytes)?;
    // redb writes when it closes, and the name must not be there before all of that.
    database
        .close()
        .map_err(|error| fault(redb::Error::from(error)))?;
    file.sync_data().map_err(io_fault)?;
    disk.rename(&temporary, PATH).map_err(io_fault)?;
    disk.sync_dir("").map_err(io_fault)
}

fn open_file(file: Arc<dyn File>, cache_bytes: usize) -> Result<Database, TableError> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        Database::builder()
            .set_cache_size(cache_bytes)
            .set_check_integrity_on_open(true)
            .create_with_backend(Backend::new(file))
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
fn io_fault(error: std::io::Error) -> TableError {
    TableError::Io(error.to_string())
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
        redb::Error::Io(error) => TableError::Io(error.to_string()),
        error => TableError::Damaged(error.to_string()),
    }
}
