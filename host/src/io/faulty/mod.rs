//! A disk in memory that does to its user what real ones do: a power cut keeps
//! what was synced and any part of what was not, writes run out of space, syncs
//! fail, bits rot. Everything comes from a seed: the same calls on the same
//! seed give the same faults.
//!
//! Public because the tests of every layer above run on it.

mod medium;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;

use self::medium::{NameChange, Names, Node, SECTOR_BYTES};
use super::{Disk, Entry, File, Lock, LockError, folder_of};

/// What shall go wrong. Operations are the calls that change something.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The machine stops at this operation: part of it may happen, and every later call fails.
    pub stop_at_operation: Option<u64>,
    /// The machine stops at this sync, before it did anything.
    pub stop_at_sync: Option<u64>,
    /// This sync fails with an input/output error, and the machine goes on: as with real ones, the
    /// next sync of the same file says that all is well, and what was to be synced is not.
    pub fail_sync: Option<u64>,
    /// Every read of a file fails with an input/output error.
    pub fail_reads: bool,
    /// All files together may take this much.
    pub bytes_max: Option<u64>,
    /// [`Disk::free_bytes`] promises more than there is, as quotas do.
    pub hide_free_bytes: bool,
    /// So many files can be open at a time.
    pub files_max: Option<usize>,
    /// What fails in single files.
    pub broken: Vec<Broken>,
}

/// A call that fails with an error of the system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which call.
    pub call: Call,
    /// In files whose paths begin so.
    pub path: String,
    /// With which error.
    pub errno: i32,
}

/// A call that may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Opening or creating a file.
    Open,
    /// Reading from it.
    Read,
    /// Writing to it.
    Write,
}

/// How a crash ends what was running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashKind {
    /// The process was killed: what it wrote is there.
    Process,
    /// The power failed: what was not synced may be there, in any part.
    Machine,
}

/// A disk in memory. A clone is the same disk.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Clone)]
struct State {
    random: fastrand::Rng,
    nodes: BTreeMap<u64, Node>,
    names: Names,
    durable: Names,
    pending: Vec<(String, NameChange)>,
    next_node: u64,
    generation: u64,
    boot: u64,
    locked: bool,
    stopped: bool,
    operations: u64,
    syncs: u64,
    open_files: usize,
    faults: Faults,
}

impl FaultyDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> FaultyDisk {
        FaultyDisk {
            state: Arc::new(Mutex::new(State {
                random: fastrand::Rng::with_seed(seed),
                nodes: BTreeMap::new(),
                names: Names::default(),
                durable: Names::default(),
                pending: Vec::new(),
                next_node: 1,
                generation: 0,
                boot: 1,
                locked: false,
                stopped: false,
                operations: 0,
                syncs: 0,
                open_files: 0,
                faults: Faults::default(),
            })),
        }
    }

    /// Another disk that holds the same and has nobody using it.
    pub fn fork(&self) -> FaultyDisk {
        let mut state = self.state.lock().clone();
        (state.locked, state.open_files) = (false, 0);
        FaultyDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    fn file(&self, state: &mut State, node: u64, path: &str) -> Arc<dyn File> {
        state.open_files += 1;
        Arc::new(FaultyFile {
            state: self.state.clone(),
            node,
            path: path.to_owned(),
            generation: state.generation,
        })
    }

    /// Lets a call fail besides, in files whose paths begin so.
    pub fn break_files(&self, call: Call, path: &str, errno: i32) {
        self.state.lock().faults.broken.push(Broken {
            call,
            path: path.to_owned(),
            errno,
        });
    }

    /// Removes a folder with everything in it, as somebody beside the broker does.
    pub fn remove_all(&self, folder: &str) {
        let mut state = self.state.lock();
        let prefix = format!("{folder}/");
        let is_in = |path: &String| path == folder || path.starts_with(&prefix);
        let State { names, durable, .. } = &mut *state;
        for names in [names, durable] {
            names.files.retain(|path, _| !is_in(path));
            names.folders.retain(|path| !is_in(path));
        }
        state.pending.retain(|(of, _)| !is_in(of));
    }

    /// What shall go wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// How many syncs there were.
    pub fn syncs(&self) -> u64 {
        self.state.lock().syncs
    }

    /// Whether a stop that was asked for has come.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().stopped
    }

    /// How many bytes all files take.
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// Ends whatever uses the disk: its handles fail from now on, its lock is
    /// free, the faults are over.
    pub fn crash(&self, kind: CrashKind) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.locked = false;
        state.stopped = false;
        state.faults = Faults::default();
        if kind == CrashKind::Machine {
            state.boot += 1;
            state.lose_unsynced();
        }
    }

    /// Every file with its length, sorted by path.
    pub fn files(&self) -> Vec<(String, u64)> {
        let state = self.state.lock();
        let length = |node: &u64| state.nodes[node].data.len() as u64;
        state
            .names
            .files
            .iter()
            .map(|(path, node)| (path.clone(), length(node)))
            .collect()
    }

    /// A file's bytes.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.state.lock();
        state
            .names
            .files
            .get(path)
            .map(|node| state.nodes[node].data.clone())
    }

    /// Changes bytes as a rotting medium does, behind the user's back. What is
    /// beyond the file's end is left out.
    pub fn corrupt(&self, path: &str, at: u64, bytes: &[u8]) {
        let mut state = self.state.lock();
        let Some(node) = state.names.files.get(path).copied() else {
            return;
        };
        let node = state.nodes.entry(node).or_default();
        for content in [&mut node.data, &mut node.synced] {
            for (position, byte) in
                (usize::try_from(at).unwrap_or(usize::MAX)..content.len()).zip(bytes)
            {
                content[position] = *byte;
            }
        }
    }

    /// Puts a file there, durable at once.
    pub fn insert(&self, path: &str, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        let id = state.next_node;
        state.next_node += 1;
        state.nodes.insert(id, Node::synced(bytes));
        let mut folder = folder_of(path);
        while !folder.is_empty() {
            state.names.folders.insert(folder.to_owned());
            state.durable.folders.insert(folder.to_owned());
            folder = folder_of(folder);
        }
        state.names.files.insert(path.to_owned(), id);
        state.durable.files.insert(path.to_owned(), id);
    }
}

impl State {
    fn check(&self, call: Call, path: &str) -> io::Result<()> {
        let is_full = self
            .faults
            .files_max
            .is_some_and(|max| self.open_files >= max);
        if call == Call::Open && is_full {
            return Err(rustix::io::Errno::MFILE.into());
        }
        let is_it = |broken: &&Broken| broken.call == call && path.starts_with(&broken.path);
        match self.faults.broken.iter().find(is_it) {
            Some(broken) => Err(io::Error::from_raw_os_error(broken.errno)),
            None => Ok(()),
        }
    }

    /// Counts an operation; an error once the machine has stopped.
    fn operate(&mut self) -> io::Result<()> {
        self.running()?;
        self.operations += 1;
        if self.faults.stop_at_operation == Some(self.operations) {
            self.stopped = true;
        }
        Ok(())
    }

    fn running(&self) -> io::Result<()> {
        if self.stopped {
            Err(io::Error::other("the machine has stopped"))
        } else {
            Ok(())
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.operate()?;
        self.syncs += 1;
        if self.faults.stop_at_sync == Some(self.syncs) {
            self.stopped = true;
        }
        if self.faults.fail_sync == Some(self.syncs) {
            return Err(io::Error::other("input/output error"));
        }
        self.running()
    }

    fn change(&mut self, change: NameChange) {
        let folder = match &change {
            NameChange::Link { path, .. }
            | NameChange::Unlink { path }
            | NameChange::Rename { from: path, .. }
            | NameChange::MakeFolder { path }
            | NameChange::RemoveFolder { path } => folder_of(path).to_owned(),
        };
        self.names.apply(&change);
        self.pending.push((folder, change));
    }

    fn used_bytes(&self) -> u64 {
        let used = |node: &u64| self.nodes[node].used.len() as u64 * SECTOR_BYTES;
        self.names.files.values().map(used).sum()
    }

    /// How many of `length` bytes at `at` there is room for.
    fn room_for(&self, node: u64, at: u64, length: u64) -> u64 {
        let Some(max) = self.faults.bytes_max else {
            return length;
        };
        let mut sectors = max.saturating_sub(self.used_bytes()) / SECTOR_BYTES;
        for sector in at / SECTOR_BYTES..(at + length).div_ceil(SECTOR_BYTES) {
            if self
                .nodes
                .get(&node)
                .is_some_and(|node| node.used.contains(&sector))
            {
                continue;
            }
            if sectors == 0 {
                return (sector * SECTOR_BYTES).saturating_sub(at);
            }
            sectors -= 1;
        }
        length
    }

    fn lose_unsynced(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let folders: BTreeSet<&String> = pending.iter().map(|(folder, _)| folder).collect();
        for folder in folders {
            let changes: Vec<_> = pending.iter().filter(|(of, _)| of == folder).collect();
            let kept = self.random.usize(..=changes.len());
            for (_, change) in &changes[..kept] {
                self.durable.apply(change);
            }
        }
        self.durable.drop_orphans();
        self.names = self.durable.clone();
        let alive: BTreeSet<u64> = self.names.files.values().copied().collect();
        self.nodes.retain(|id, _| alive.contains(id));
        for node in self.nodes.values_mut() {
            node.lose_unsynced(&mut self.random);
        }
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.running()?;
        state.check(Call::Open, path)?;
        let node = *state.names.files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(&mut state, node, path))
    }

    fn open_read(&self, path: &str) -> io::Result<Arc<dyn File>> {
        self.open(path)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.operate()?;
        state.check(Call::Open, path)?;
        if !state.names.has_folder(folder_of(path)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let node = match state.names.files.get(path).copied() {
            Some(node) => {
                state.nodes.entry(node).or_default().resize(0);
                node
            }
            None => {
                let node = state.next_node;
                state.next_node += 1;
                state.nodes.insert(node, Node::default());
                state.change(NameChange::Link {
                    path: path.to_owned(),
                    node,
                });
                node
            }
        };
        Ok(self.file(&mut state, node, path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        if !state.names.files.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Rename {
            from: from.to_owned(),
            to: to.to_owned(),
        });
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        if !state.names.files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::Unlink {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn remove_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.operate()?;
        if !state.names.folders.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change(NameChange::RemoveFolder {
            path: path.to_owned(),
        });
        Ok(())
    }

    fn list(&self, path: &str) -> io::Result<Vec<Entry>> {
        let state = self.state.lock();
        state.running()?;
        if state.names.files.contains_key(path) {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let name = |of: &str| of.rsplit('/').next().unwrap_or(of).to_owned();
        let files = state
            .names
            .files
            .iter()
            .filter(|(file, _)| folder_of(file) == path)
            .map(|(file, node)| Entry {
                name: name(file),
                is_dir: false,
                bytes: state.nodes[node].data.len() as u64,
            });
        let folders = state
            .names
            .folders
            .iter()
            .filter(|folder| folder_of(folder) == path)
            .map(|folder| Entry {
                name: name(folder),
                is_dir: true,
                bytes: 0,
            });
        let mut entries: Vec<Entry> = files.chain(folders).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut missing = Vec::new();
        let mut folder = path;
        while !state.names.has_folder(folder) {
            missing.push(folder.to_owned());
            folder = folder_of(folder);
        }
        for path in missing.into_iter().rev() {
            state.operate()?;
            state.change(NameChange::MakeFolder { path });
        }
        state.running()
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        state.sync()?;
        let (synced, pending): (Vec<_>, Vec<_>) = std::mem::take(&mut state.pending)
            .into_iter()
            .partition(|(folder, _)| folder == path);
        state.pending = pending;
        for (_, change) in synced {
            state.durable.apply(&change);
        }
        Ok(())
    }

    fn keep_dir(&self, _path: &str) -> io::Result<()> {
        self.state.lock().running()
    }

    fn sync_everything(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.sync()?;
        state.pending.clear();
        state.durable = state.names.clone();
        state.nodes.values_mut().for_each(Node::sync);
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state.lock();
        state.running()?;
        Ok(match state.faults.bytes_max {
            Some(max) if !state.faults.hide_free_bytes => max.saturating_sub(state.used_bytes()),
            _ => u64::MAX,
        })
    }

    fn lock(&self) -> Result<Box<dyn Lock>, LockError> {
        let mut state = self.state.lock();
        if state.locked {
            return Err(LockError::Held {
                path: "LOCK".to_owned(),
                pid: None,
            });
        }
        state.locked = true;
        Ok(Box::new(FaultyLock {
            state: self.state.clone(),
            generation: state.generation,
        }))
    }

    fn boot_id(&self) -> u64 {
        self.state.lock().boot
    }

    fn describe(&self, path: &str) -> String {
        path.to_owned()
    }
}

#[derive(Debug)]
struct FaultyLock {
    state: Arc<Mutex<State>>,
    generation: u64,
}

impl Lock for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.generation == self.generation {
            state.locked = false;
        }
    }
}

#[derive(Debug)]
struct FaultyFile {
    state: Arc<Mutex<State>>,
    node: u64,
    path: String,
    generation: u64,
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        self.state.lock().open_files -= 1;
    }
}

impl FaultyFile {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.state.lock();
        if state.generation != self.generation {
            return Err(io::Error::other("the handle is from before the crash"));
        }
        act(&mut state)
    }
}

impl File for FaultyFile {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        self.with(|state| {
            state.running()?;
            state.check(Call::Read, &self.path)?;
            if state.faults.fail_reads {
                return Err(io::Error::other("input/output error"));
            }
            let data = state
                .nodes
                .get(&self.node)
                .map_or(&[][..], |node| &node.data);
            let from = usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
            let read = buf.len().min(data.len() - from);
            buf[..read].copy_from_slice(&data[from..from + read]);
            Ok(read)
        })
    }

    fn write_at(&self, slices: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let mut bytes = Vec::new();
        slices
            .iter()
            .for_each(|slice| bytes.extend_from_slice(slice));
        self.with(|state| {
            state.operate()?;
            state.check(Call::Write, &self.path)?;
            let room = state.room_for(self.node, at, bytes.len() as u64);
            let mut part = usize::try_from(room).map_err(io::Error::other)?;
            if state.stopped {
                part = state.random.usize(..=part);
            }
            let at = usize::try_from(at).map_err(io::Error::other)?;
            if part > 0 {
                state
                    .nodes
                    .entry(self.node)
                    .or_default()
                    .write(&bytes[..part], at);
            }
            state.running()?;
            if part < bytes.len() {
                Err(io::ErrorKind::StorageFull.into())
            } else {
                Ok(())
            }
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| {
            state.running()?;
            Ok(state
                .nodes
                .get(&self.node)
                .map_or(0, |node| node.data.len() as u64))
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            state.operate()?;
            state.running()?;
            let len = usize::try_from(len).map_err(io::Error::other)?;
            state.nodes.entry(self.node).or_default().resize(len);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            let synced = state.sync();
            let is_stopped = state.stopped;
            match state.nodes.get_mut(&self.node) {
                Some(node) if synced.is_ok() => node.sync(),
                Some(node) if !is_stopped => node.dirty.clear(),
                _ => {}
            }
            synced
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(file: &dyn File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_at(&mut [IoSlice::new(bytes)], at)
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_any_part_of_the_rest() {
        let mut lengths = BTreeSet::new();
        for seed in 0..200 {
            let disk = FaultyDisk::new(seed);
            let file = disk.create("f").expect("the disk works");
            write(&*file, &[1; 2000], 0).expect("the disk works");
            file.sync_data().expect("the disk works");
            disk.sync_dir("").expect("the disk works");
            write(&*file, &[2; 3000], 2000).expect("the disk works");
            disk.crash(CrashKind::Machine);
            let content = disk.content("f").expect("its name was synced");
            assert_eq!(content[..1536], [1; 1536]);
            assert!(content.len() >= 2000 && content.iter().all(|byte| *byte <= 2));
            assert!(
                write(&*file, b"x", 0).is_err(),
                "the handle is from before the crash"
            );
            lengths.insert(content.len());
        }
        assert!(lengths.len() > 4, "{lengths:?}");
    }

    #[test]
    fn a_name_may_vanish_until_its_folder_is_synced() {
        let survives = |seed| {
            let disk = FaultyDisk::new(seed);
            disk.create("f")
                .expect("the disk works")
                .sync_data()
                .expect("the disk works");
            disk.crash(CrashKind::Machine);
            disk.content("f").is_some()
        };
        let survivors = (0..100).filter(|seed| survives(*seed)).count();
        assert!((20..80).contains(&survivors), "{survivors} of 100");
    }

    #[test]
    fn a_killed_process_loses_nothing_that_it_wrote() {
        let disk = FaultyDisk::new(1);
        let boot = disk.boot_id();
        write(&*disk.create("f").expect("the disk works"), b"abc", 0).expect("the disk works");
        let lock = disk.lock().expect("nobody has it");
        disk.lock().expect_err("somebody has it");
        disk.crash(CrashKind::Process);
        disk.lock().expect("the holder is gone");
        drop(lock);
        assert_eq!(
            (disk.content("f"), disk.boot_id()),
            (Some(b"abc".to_vec()), boot)
        );
    }

    #[test]
    fn a_full_disk_takes_a_part_and_room_comes_back() {
        let disk = FaultyDisk::new(1);
        let file = disk.create("f").expect("the disk works");
        disk.set_faults(Faults {
            bytes_max: Some(1024),
            ..Faults::default()
        });
        let error = write(&*file, &[1; 5000], 0).expect_err("there is no room");
        assert!(super::super::is_full(&error));
        assert_eq!(
            (file.len().ok(), disk.free_bytes().ok()),
            (Some(1024), Some(0))
        );
        file.truncate(0).expect("cutting needs no room");
        write(&*file, &[1; 1000], 0).expect("there is room again");
    }

    #[test]
    fn the_machine_stops_where_it_was_told_to() {
        let disk = FaultyDisk::new(1);
        let file = disk.create("f").expect("the disk works");
        disk.set_faults(Faults {
            stop_at_operation: Some(disk.operations() + 2),
            ..Faults::default()
        });
        write(&*file, b"a", 0).expect("not yet");
        write(&*file, b"b", 1).expect_err("now");
        assert!(disk.is_stopped());
        disk.create("g").expect_err("it has stopped");
    }
}
