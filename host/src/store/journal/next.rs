//! The journal file that will be begun when the newest one is full. It is made
//! ahead, so that no writer waits for the sync of its header: a header that is
//! durable tells, where groups follow one that cannot be read, that it is damaged.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::{AppendError, FILE_HEADER_BYTES, FOLDER, FileHeader, Journal, path_of};
use crate::io::{Disk, File, is_full};

/// Its name until it is begun, which is none of a journal file.
const SPARE: &str = "journal/.spare";

/// The journal file to be begun next.
#[derive(Debug)]
pub(crate) struct NextFile {
    disk: Arc<dyn Disk>,
    salt: u64,
    boot: u64,
    /// There is one name for it, so it is made and begun under the lock.
    spare: Mutex<Option<Arc<dyn File>>>,
    /// Whether the last attempt to begin one found no way to.
    is_short_of_files: AtomicBool,
}

impl NextFile {
    pub(crate) fn new(disk: Arc<dyn Disk>, salt: u64, boot: u64) -> NextFile {
        NextFile {
            disk,
            salt,
            boot,
            spare: Mutex::default(),
            is_short_of_files: AtomicBool::new(false),
        }
    }

    /// Whether it can be begun without a sync.
    pub(crate) fn is_ready(&self) -> bool {
        self.spare.try_lock().is_some_and(|spare| spare.is_some())
    }

    /// Makes it ahead. Waits for a sync.
    pub(crate) fn prepare(&self) {
        let mut spare = self.spare.lock();
        if spare.is_some() {
            return;
        }
        match self.make() {
            Ok(made) => *spare = Some(made),
            Err(error) => tracing::debug!(%error, "could not make a journal file ahead"),
        }
    }

    fn make(&self) -> io::Result<Arc<dyn File>> {
        let header = FileHeader {
            salt: self.salt,
            first_sequence: 0,
            boot: self.boot,
        };
        let file = self.disk.create(SPARE)?;
        file.write_at(&mut [IoSlice::new(&header.encode())], 0)?;
        file.sync_data()?;
        Ok(file)
    }

    /// Begins it for the groups from `first` on, or changes nothing. Its name is not
    /// durable after this: that is for the sync that makes its first group so. `None`: the
    /// system could not; the file that there is takes more.
    pub(crate) fn begin(&self, first: u64) -> Result<Option<Journal>, AppendError> {
        match self.try_begin(first) {
            Ok(journal) => {
                self.is_short_of_files.store(false, Ordering::Relaxed);
                Ok(Some(journal))
            }
            Err(AppendError::Refused(error)) if !is_full(&error) => {
                if !self.is_short_of_files.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "cannot begin another journal file; this one grows");
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn try_begin(&self, first: u64) -> Result<Journal, AppendError> {
        let mut spare = self.spare.lock();
        let file = match spare.take() {
            Some(spare) => spare,
            None => self.make().map_err(AppendError::Refused)?,
        };
        if let Err(error) = self.disk.rename(SPARE, &path_of(first)) {
            // The name would say that the groups to come in the file before do not count.
            match self.disk.remove(&path_of(first)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => self.disk.sync_dir(FOLDER),
            }
            .map_err(AppendError::Torn)?;
            return Err(AppendError::Refused(error));
        }
        Ok(Journal {
            file,
            bytes: FILE_HEADER_BYTES as u64,
        })
    }
}

/// Removes the spare file of whoever used the folder before.
pub(crate) fn remove_spare(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove(SPARE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
