//! The segments' open files: a bounded number of them, the least recently used
//! one closed first. Idle partitions hold none.

use std::io::{self, IoSlice};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use super::{Fault, HEADER_BYTES, Key, Segment, folder, topic_folder};
use crate::io::{Disk, File, is_short_of_files};
use crate::store::producer::PartitionKey;

/// Opens segments and remembers them.
#[derive(Debug)]
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    open_max: usize,
    pub(crate) index_interval_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: FxHashMap<Key, Open>,
    tick: u64,
    /// Folders with names that are not durable yet.
    unsynced_folders: FxHashSet<String>,
    known_folders: FxHashSet<String>,
}

#[derive(Debug)]
struct Open {
    file: Arc<dyn File>,
    used: u64,
    segment: Weak<Segment>,
}

impl Files {
    pub(crate) fn new(disk: Arc<dyn Disk>, open_max: usize, index_interval_bytes: u64) -> Files {
        Files {
            disk,
            open_max: open_max.max(1),
            index_interval_bytes,
            state: Mutex::default(),
        }
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// The file of a segment that exists, and is this segment's.
    pub(crate) fn open(&self, key: Key) -> Result<Arc<dyn File>, Fault> {
        if let Some(file) = self.opened(key) {
            return Ok(file);
        }
        let fault = |error| self.fault(key, &error);
        let file = self.open_with(|| self.disk.open(&key.path()));
        let file = file.map_err(fault)?;
        let mut header = [0; HEADER_BYTES as usize];
        let got = file.read_at(&mut header, 0).map_err(fault)?;
        if let Err(reason) = key.check_header(&header[..got]) {
            return Err(self.damaged(key, 0, reason));
        }
        self.remember(key, file.clone());
        Ok(file)
    }

    /// As [`open`](Files::open), whatever the file holds.
    pub(crate) fn open_unchecked(&self, key: Key) -> io::Result<Arc<dyn File>> {
        match self.opened(key) {
            Some(file) => Ok(file),
            None => self.open_with(|| self.disk.open(&key.path())),
        }
    }

    /// How long the file at a segment's path is.
    pub(crate) fn length(&self, key: Key) -> io::Result<u64> {
        let file = self.open_with(|| self.disk.open_read(&key.path()));
        file.and_then(|file| file.len())
    }

    /// Opens something. Where the process has no descriptor for it, files that
    /// are open here are closed for it.
    fn open_with<T>(&self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        loop {
            match open() {
                Err(error) if is_short_of_files(&error) && self.close_oldest() => {}
                opened => return opened,
            }
        }
    }

    /// Closes the file that was not used for longest; says whether there was one.
    fn close_oldest(&self) -> bool {
        let mut state = self.state.lock();
        let oldest = state.open.iter().min_by_key(|(_, open)| open.used);
        let oldest = oldest.map(|(key, _)| *key);
        let Some(closed) = oldest.and_then(|key| state.open.remove(&key)) else {
            return false;
        };
        drop(state);
        if let Some(segment) = closed.segment.upgrade() {
            segment.unload();
        }
        true
    }

    /// Writes a segment's header anew where it is damaged (the name says all that is in it), and
    /// gives it the length that it should have: a hole says what is nothing of it.
    pub(crate) fn mend(&self, key: Key, len: u64) -> io::Result<()> {
        let file = self.open_unchecked(key)?;
        let mut header = [0; HEADER_BYTES as usize];
        let got = file.read_at(&mut header, 0)?;
        let is_headed = key.check_header(&header[..got]).is_ok();
        let is_short = self.length(key)? < len;
        if !is_headed {
            file.write_at(&mut [IoSlice::new(&key.header(0))], 0)?;
        }
        if is_short {
            file.truncate(len)?;
        }
        match is_headed && !is_short {
            true => Ok(()),
            false => file.sync_data(),
        }
    }

    fn opened(&self, key: Key) -> Option<Arc<dyn File>> {
        let mut state = self.state.lock();
        state.tick += 1;
        let used = state.tick;
        let open = state.open.get_mut(&key)?;
        open.used = used;
        Some(open.file.clone())
    }

    /// What an error of a segment's file means.
    pub(crate) fn fault(&self, key: Key, error: &io::Error) -> Fault {
        Fault::of(self.path(key), error)
    }

    /// A segment's file, for people.
    pub(crate) fn path(&self, key: Key) -> String {
        self.disk.describe(&key.path())
    }

    /// What is wrong with a segment's file at the byte `at`.
    pub(crate) fn damaged(&self, key: Key, at: u64, reason: String) -> Fault {
        let path = self.path(key);
        Fault::Damaged { path, at, reason }
    }

    /// Lets the index of `segment` go when its file is closed.
    pub(crate) fn watch(&self, segment: &Arc<Segment>) {
        if let Some(open) = self.state.lock().open.get_mut(&segment.key) {
            open.segment = Arc::downgrade(segment);
        }
    }

    /// A new file for a segment; one that is there stays as it is.
    pub(crate) fn create(&self, key: Key) -> io::Result<Arc<dyn File>> {
        self.make_folders(key)?;
        let file = self.open_with(|| match self.disk.open(&key.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.create(&key.path()),
            other => other,
        })?;
        self.state
            .lock()
            .unsynced_folders
            .insert(folder(key.of_partition()));
        self.remember(key, file.clone());
        Ok(file)
    }

    /// Removes a segment and its index.
    pub(crate) fn remove(&self, key: Key) -> io::Result<()> {
        self.state.lock().open.remove(&key);
        for path in [key.path(), key.index_path()] {
            match self.disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts aside what is no folder where a partition's must be, and what is a folder where one of
    /// its segments must be.
    pub(crate) fn clear_way(&self, partition: PartitionKey, keys: &[Key]) -> io::Result<()> {
        self.forget_folder(partition);
        let is_folder = |path: &str| match self.disk.list(path) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(false),
            listed => listed.map(|_| true),
        };
        for path in [topic_folder(partition.0), folder(partition)] {
            if !is_folder(&path)? {
                self.disk.rename(&path, &format!("{path}.damaged"))?;
            }
        }
        for key in keys {
            if is_folder(&key.path())? {
                self.set_aside(*key);
            }
        }
        Ok(())
    }

    /// Puts a segment that is of no use any more aside, for whoever wants to look.
    pub(crate) fn set_aside(&self, key: Key) {
        self.state.lock().open.remove(&key);
        let path = key.path();
        match self.disk.rename(&path, &format!("{path}.damaged")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, path, "could not put a damaged segment aside");
            }
            _ => {}
        }
    }

    /// Forgets the files and folders of a topic that is about to be removed.
    pub(crate) fn forget_topic(&self, topic: crate::log::TopicId) {
        let prefix = topic_folder(topic);
        let below = |path: &str| {
            path == prefix
                || path
                    .strip_prefix(&prefix)
                    .is_some_and(|rest| rest.starts_with('/'))
        };
        let mut state = self.state.lock();
        state.open.retain(|key, _| key.topic != topic);
        state.unsynced_folders.retain(|folder| !below(folder));
        state.known_folders.retain(|folder| !below(folder));
    }

    /// Forgets the files and the folder of a partition, which may be gone.
    pub(crate) fn forget_folder(&self, partition: PartitionKey) {
        let mut state = self.state.lock();
        state.open.retain(|key, _| key.of_partition() != partition);
        state.known_folders.remove(&folder(partition));
    }

    /// Makes all names durable that were created since the last call.
    pub(crate) fn sync_folders(&self) -> io::Result<()> {
        let mut folders: Vec<String> = self.state.lock().unsynced_folders.iter().cloned().collect();
        folders.sort_unstable();
        for folder in folders {
            match self.disk.sync_dir(&folder) {
                // The topic was deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
            self.state.lock().unsynced_folders.remove(&folder);
        }
        Ok(())
    }

    /// Makes all files and names durable with one call.
    pub(crate) fn sync_everything(&self) -> io::Result<()> {
        // Taken before the sync: what is created meanwhile is for the next one.
        let folders = std::mem::take(&mut self.state.lock().unsynced_folders);
        let synced = self.disk.sync_everything();
        if synced.is_err() {
            self.state.lock().unsynced_folders.extend(folders);
        }
        synced
    }

    fn make_folders(&self, key: Key) -> io::Result<()> {
        let wanted = folder(key.of_partition());
        if self.state.lock().known_folders.contains(&wanted) {
            return Ok(());
        }
        self.disk.create_dir(&wanted)?;
        let mut state = self.state.lock();
        for folder in [super::FOLDER.to_owned(), topic_folder(key.topic)] {
            state.unsynced_folders.insert(folder);
        }
        state.unsynced_folders.insert(String::new());
        state.known_folders.insert(wanted);
        Ok(())
    }

    fn remember(&self, key: Key, file: Arc<dyn File>) {
        let mut state = self.state.lock();
        state.tick += 1;
        let used = state.tick;
        state.open.insert(
            key,
            Open {
                file,
                used,
                segment: Weak::new(),
            },
        );
        let are_too_many = state.open.len() > self.open_max;
        drop(state);
        if are_too_many {
            self.close_oldest();
        }
    }
}
