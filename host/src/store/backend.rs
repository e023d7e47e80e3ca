//! redb's file, on our disk: so that the tables are under the same faults in
//! the tests as everything else.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

use crate::io::{File, read_exact_at};

/// A file as redb sees it.
#[derive(Debug)]
pub(crate) struct Backend {
    file: Arc<dyn File>,
    has_sync_failed: Arc<AtomicBool>,
}

impl Backend {
    /// `has_sync_failed` is set for good when a sync fails: what is on disk then,
    /// nobody knows.
    pub(crate) fn new(file: Arc<dyn File>, has_sync_failed: Arc<AtomicBool>) -> Backend {
        Backend {
            file,
            has_sync_failed,
        }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact_at(&*self.file, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = self.file.sync_data();
        self.has_sync_failed
            .fetch_or(synced.is_err(), Ordering::Relaxed);
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(&mut [IoSlice::new(data)], offset)
    }
}
