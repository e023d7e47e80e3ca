//! The disk and the clock, the broker's only seams to the machine.
//!
//! Nothing else in the broker opens a file or asks for the time. [`RealDisk`]
//! is a folder; [`FaultyDisk`] is memory that loses what a power cut would
//! lose, from a seed. This module knows nothing of what is stored.
//!
//! A path is relative to the data folder, with `/` between its parts.

mod clock;
mod faulty;
mod real;
mod time;

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

pub use clock::{Clock, ManualClock, SystemClock};
pub use faulty::{Broken, Call, CrashKind, Faults, FaultyDisk};
pub use real::RealDisk;
pub use time::point_in_time;

/// A data folder.
///
/// What was written to a file is durable after [`File::sync_data`]; a name
/// that was created, renamed or removed is durable after [`Disk::sync_dir`] of
/// its folder.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file that exists, for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// Opens a file that exists, for reading only.
    fn open_read(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// Creates a file, empty; one that exists is emptied.
    fn create(&self, path: &str) -> io::Result<Arc<dyn File>>;
    /// Renames a file within its folder, replacing another one.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &str) -> io::Result<()>;
    /// What is in a folder, sorted by name; nothing if the folder is missing.
    fn list(&self, path: &str) -> io::Result<Vec<Entry>>;
    /// Creates a folder and those above it that are missing.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Keeps what [`sync_dir`](Disk::sync_dir) of a folder that stays takes, so
    /// that it works when no file can be opened.
    fn keep_dir(&self, path: &str) -> io::Result<()>;
    /// Makes everything durable that was written anywhere in the folder: for
    /// many files at once, where a sync of each would take too long.
    fn sync_everything(&self) -> io::Result<()>;
    /// How many bytes may still be written.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Takes the folder for this process until the lock is dropped.
    fn lock(&self) -> Result<Box<dyn Lock>, LockError>;
    /// Another value after each start of the machine.
    fn boot_id(&self) -> u64;
    /// Where the folder is, for messages.
    fn describe(&self, path: &str) -> String;
}

/// An open file. Positions are bytes from its beginning.
pub trait File: Send + Sync + fmt::Debug {
    /// Fills `buf` from `at`, or up to the file's end; returns how much.
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all slices, one after the other, from `at`. After an error any
    /// part of them may have been written.
    fn write_at(&self, slices: &mut [IoSlice<'_>], at: u64) -> io::Result<()>;
    /// How long the file is.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file holds nothing.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends (with zeros) the file.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes the content and the length durable.
    fn sync_data(&self) -> io::Result<()>;
}

/// Holds a data folder; dropping it lets go.
pub trait Lock: Send + Sync + fmt::Debug {}

/// Something in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name, without the folder.
    pub name: String,
    /// Whether it is a folder itself.
    pub is_dir: bool,
    /// The length of a file.
    pub bytes: u64,
}

/// Why a data folder could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("{path} is used by another process{}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Held {
        /// The lock file.
        path: String,
        /// Who wrote itself into the lock file.
        pid: Option<u32>,
    },
    /// The lock file could not be used.
    #[error("cannot lock {path}: {source}")]
    Io {
        /// The lock file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Whether an error says that the disk (or a quota on it) is full, or that the process may make its
/// files no longer, which beginning other ones helps against.
pub fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Whether an error says that no file can be opened for now, which says nothing
/// about any file.
pub fn is_short_of_files(error: &io::Error) -> bool {
    let short = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
    rustix::io::Errno::from_io_error(error).is_some_and(|errno| short.contains(&errno))
}

/// Fills `buf` from `at`, or says that the file is too short.
pub fn read_exact_at(file: &dyn File, buf: &mut [u8], at: u64) -> io::Result<()> {
    let got = file.read_at(buf, at)?;
    if got < buf.len() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("the file ends {} bytes early", buf.len() - got),
        ));
    }
    Ok(())
}

/// A whole file.
pub fn read_all(file: &dyn File) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let got = file.read_at(&mut bytes, 0)?;
    bytes.truncate(got);
    Ok(bytes)
}

/// Writes a file anew such that after a crash it is there whole or not at all.
pub fn write_atomically(disk: &dyn Disk, path: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{path}.new");
    let file = disk.create(&temporary)?;
    file.write_at(&mut [IoSlice::new(bytes)], 0)?;
    file.sync_data()?;
    disk.rename(&temporary, path)?;
    disk.sync_dir(folder_of(path))
}

/// The folder that holds `path`; empty for the data folder itself.
pub fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}
