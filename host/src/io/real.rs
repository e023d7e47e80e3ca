//! A folder of the machine as [`Disk`]: thin over `std::fs`.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, TryLockError};
use std::io::{self, IoSlice, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, Entry, File, Lock, LockError, is_short_of_files};

const LOCK_FILE: &str = "LOCK";
/// How many descriptors are kept for when the process has no other.
const RESERVE: usize = 8;
/// How many slices one `pwritev` takes.
const SLICES_MAX: usize = 1024;

/// A folder of the machine.
#[derive(Debug, Clone)]
pub struct RealDisk {
    root: PathBuf,
    /// Open from the beginning, so that [`Disk::sync_everything`] hears of every write that failed since.
    folder: Arc<fs::File>,
    kept: Arc<Mutex<BTreeMap<String, Arc<fs::File>>>>,
    reserve: Arc<Mutex<Vec<fs::File>>>,
}

impl RealDisk {
    /// The folder `root`, created if it is missing.
    pub fn new(root: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let root = root.into();
        create_durably(&root)?;
        RealDisk::opened(root)
    }

    /// The folder `root`, which must be there.
    pub fn existing(root: impl Into<PathBuf>) -> io::Result<RealDisk> {
        let root = root.into();
        if !fs::metadata(&root)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, "not a folder"));
        }
        RealDisk::opened(root)
    }

    fn opened(root: PathBuf) -> io::Result<RealDisk> {
        let folder = Arc::new(fs::File::open(&root)?);
        let reserve = (0..RESERVE).map(|_| folder.try_clone());
        Ok(RealDisk {
            root,
            reserve: Arc::new(Mutex::new(reserve.collect::<io::Result<_>>()?)),
            folder,
            kept: Arc::default(),
        })
    }

    /// Opens something. Where the process has no descriptor for it, one of the
    /// reserve makes room, which is filled again when there are others.
    fn open_with<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match open() {
                Err(error) if is_short_of_files(&error) => {
                    if self.reserve.lock().pop().is_none() {
                        return Err(error);
                    }
                }
                opened => {
                    let mut reserve = self.reserve.lock();
                    if reserve.len() < RESERVE {
                        reserve.extend(self.folder.try_clone().ok());
                    }
                    return opened;
                }
            }
        }
    }

    fn open_file(&self, path: &str, options: &OpenOptions) -> io::Result<Arc<dyn File>> {
        let file = self.open_with(|| options.open(self.path(path)))?;
        Ok(Arc::new(RealFile { file }))
    }

    fn path(&self, path: &str) -> PathBuf {
        if path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(path)
        }
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.open_file(path, OpenOptions::new().read(true).write(true))
    }

    fn open_read(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.open_file(path, OpenOptions::new().read(true))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        self.open_file(path, &options)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.path(path))
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        fs::remove_dir(self.path(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let entries = match self.open_with(|| fs::read_dir(self.path(path))) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = entries
            .filter_map(|entry| entry.and_then(|entry| describe_entry(&entry)).transpose())
            .collect::<io::Result<Vec<_>>>()?;
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        fs::create_dir_all(self.path(path))
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let kept = self.kept.lock().get(path).cloned();
        match kept {
            Some(folder) => folder.sync_all(),
            None => self
                .open_with(|| fs::File::open(self.path(path)))?
                .sync_all(),
        }
    }

    fn keep_dir(&self, path: &str) -> io::Result<()> {
        let folder = Arc::new(self.open_with(|| fs::File::open(self.path(path)))?);
        self.kept.lock().insert(path.to_owned(), folder);
        Ok(())
    }

    fn sync_everything(&self) -> io::Result<()> {
        rustix::fs::syncfs(&*self.folder)?;
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.root)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self) -> Result<Box<dyn Lock>, LockError> {
        take_lock(&self.path(LOCK_FILE))
    }

    fn boot_id(&self) -> u64 {
        // Where the system does not tell, every stop counts as one of the machine: an epoch too
        // many tells readers that records may be gone, an epoch too few would hide it.
        fs::read("/proc/sys/kernel/random/boot_id")
            .map_or_else(|_| fastrand::u64(..), |id| fold(&id))
    }

    fn describe(&self, path: &str) -> String {
        self.path(path).display().to_string()
    }
}

fn fold(id: &[u8]) -> u64 {
    // FNV-1a: no secret, only another number for another boot.
    id.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Nothing where the entry has gone since its folder was read.
fn describe_entry(entry: &fs::DirEntry) -> io::Result<Option<Entry>> {
    let metadata = match entry.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    Ok(Some(Entry {
        name: entry.file_name().to_string_lossy().into_owned(),
        is_dir: metadata.is_dir(),
        bytes: metadata.len(),
    }))
}

/// Creates a folder and those above it, each with a name that is durable.
fn create_durably(path: &Path) -> io::Result<()> {
    let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let created: Vec<&Path> = path.ancestors().take_while(missing).collect();
    fs::create_dir_all(path)?;
    for folder in created {
        let above = match folder.parent() {
            Some(above) if !above.as_os_str().is_empty() => above,
            _ => Path::new("."),
        };
        fs::File::open(above)?.sync_all()?;
    }
    Ok(())
}

#[derive(Debug)]
struct RealLock {
    _file: fs::File,
}

impl Lock for RealLock {}

fn take_lock(path: &Path) -> Result<Box<dyn Lock>, LockError> {
    let name = path.display().to_string();
    let fault = |source| LockError::Io {
        path: name.clone(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(fault)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file
                .read_to_string(&mut text)
                .ok()
                .and_then(|_| text.trim().parse().ok());
            return Err(LockError::Held { path: name, pid });
        }
        Err(TryLockError::Error(source)) => return Err(fault(source)),
    }
    // The pid helps a person; the lock itself is the kernel's and needs no bytes. So a full disk
    // must not keep the broker from starting.
    let written = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = written {
        tracing::debug!(%error, path = %name, "could not write the pid into the lock file");
    }
    Ok(Box::new(RealLock { _file: file }))
}

#[derive(Debug)]
struct RealFile {
    file: fs::File,
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], at + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, mut slices: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let count = slices.len().min(SLICES_MAX);
            match rustix::io::pwritev(&self.file, &slices[..count], at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_slices_than_one_call_takes_are_written_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = RealDisk::new(folder.path()).expect("the folder is there");
        let file = disk.create("f").expect("there is room");
        let pieces: Vec<Vec<u8>> = (0..3000u32)
            .map(|n| n.to_le_bytes()[..(n % 4) as usize].to_vec())
            .collect();
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        file.write_at(&mut slices, 5).expect("there is room");
        let mut found = vec![0; pieces.concat().len() + 5 + 9];
        let read = file.read_at(&mut found, 0).expect("it can be read");
        assert_eq!(
            (&found[..5], &found[5..read]),
            (&[0; 5][..], &pieces.concat()[..])
        );
    }

    #[test]
    fn a_missing_folder_lists_as_empty_and_names_are_sorted() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = RealDisk::new(folder.path()).expect("the folder is there");
        assert_eq!(disk.list("none").expect("it is no error"), []);
        disk.create_dir("a/b").expect("there is room");
        for name in ["a/z", "a/c"] {
            disk.create(name).expect("there is room");
        }
        disk.sync_everything().expect("the disk works");
        let names: Vec<String> = disk
            .list("a")
            .expect("it is there")
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        assert_eq!(names, ["b", "c", "z"]);
    }
}
