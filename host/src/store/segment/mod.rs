//! A segment: a file with a run of a partition's batches, each beginning where
//! the one before ended.
//!
//! `topics/<topic>/<partition>/<base offset>.log` is a header and whole batches
//! as they came in:
//!
//! ```text
//! 0         8         12        16        24          28        32            64
//! +---------+---------+---------+---------+-----------+---------+-------------+
//! | magic   | version | crc     | topic   | partition | zero    | base | …    |
//! +---------+---------+---------+---------+-----------+---------+-------------+
//! ```
//!
//! Little endian; `crc` is CRC-32C over bytes 16..64. At byte 40 stands when the
//! segment was begun, by the broker's clock (i64, milliseconds; 0: not known, as
//! in what the first release wrote): no record in an older segment was appended
//! later. The rest is zero, and may gain fields. Segments are written
//! after the journal and not synced until a checkpoint; what the checkpoint
//! does not cover, recovery writes again from the journal. Knows files and
//! batches; what is visible, kept or stopped is the partition's business.

pub(crate) mod append;
pub(crate) mod files;
pub(crate) mod index;
pub(crate) mod read;

use std::fmt;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use eddy_protocol::Batch;
use parking_lot::Mutex;

use self::files::Files;
use self::index::Index;
use crate::io::{is_full, is_short_of_files};
use crate::log::TopicId;
use crate::store::producer::PartitionKey;

/// The folder of all topics.
pub(crate) const FOLDER: &str = "topics";
/// Bytes of a segment's header.
pub(crate) const HEADER_BYTES: u64 = 64;
const MAGIC: [u8; 8] = *b"EDDYSEGM";
const VERSION: u32 = 1;
/// Where a header says when its segment was begun.
const BEGUN_AT: usize = 40;

/// Which segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) base: u64,
}

impl Key {
    pub(crate) fn of((topic, partition): PartitionKey, base: u64) -> Key {
        Key {
            topic,
            partition,
            base,
        }
    }

    /// The partition that it is of.
    pub(crate) fn of_partition(&self) -> PartitionKey {
        (self.topic, self.partition)
    }

    pub(crate) fn path(&self) -> String {
        format!("{}/{:020}.log", folder(self.of_partition()), self.base)
    }

    pub(crate) fn index_path(&self) -> String {
        format!("{}/{:020}.index", folder(self.of_partition()), self.base)
    }

    pub(crate) fn header(&self, begun_ms: i64) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        let mut out = &mut bytes[16..];
        out.put_u64_le(self.topic.0);
        out.put_u32_le(self.partition);
        out.put_u32_le(0);
        out.put_u64_le(self.base);
        out.put_i64_le(begun_ms);
        let crc = crc32c::crc32c(&bytes[16..]);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// What is wrong with a header that should be this segment's.
    pub(crate) fn check_header(&self, bytes: &[u8]) -> Result<(), String> {
        let Some(bytes) = bytes.get(..HEADER_BYTES as usize) else {
            return Err("it is shorter than a header".to_owned());
        };
        if bytes[..8] != MAGIC {
            return Err("it does not begin as a segment does".to_owned());
        }
        let mut from = &bytes[8..];
        let (version, crc) = (from.get_u32_le(), from.get_u32_le());
        if version != VERSION {
            return Err(format!("its format is {version}, known is {VERSION}"));
        }
        if crc != crc32c::crc32c(&bytes[16..]) {
            return Err("its header's checksum is wrong".to_owned());
        }
        if bytes[16..BEGUN_AT] != self.header(0)[16..BEGUN_AT] {
            return Err("its header names another segment".to_owned());
        }
        Ok(())
    }
}

/// The folder of a topic.
pub(crate) fn topic_folder(topic: TopicId) -> String {
    format!("{FOLDER}/{topic}")
}

/// The folder of a partition.
pub(crate) fn folder((topic, partition): PartitionKey) -> String {
    format!("{FOLDER}/{topic}/{partition}")
}

/// Offsets that were given up, so that what lies behind them can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hole {
    /// The first of them.
    pub(crate) from: u64,
    /// Behind the last of them.
    pub(crate) to: u64,
    /// Where the batch with the offset `to` begins in the segment in which
    /// `from` would be, or where that segment ends.
    pub(crate) at: u64,
}

/// Whether nothing of a segment with the offsets from `base` to `end` is left.
pub(crate) fn is_lost(holes: &[Hole], base: u64, end: u64) -> bool {
    holes
        .iter()
        .any(|hole| hole.from <= base && base < hole.to && end <= hole.to)
}

/// Why a segment did not give what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The system could not; another try may do.
    Io {
        path: String,
        reason: String,
        lasts: Lasts,
    },
    /// The file is gone.
    Missing { path: String },
    /// What the file holds is not what was written.
    Damaged {
        path: String,
        at: u64,
        reason: String,
    },
}

/// How long what the system could not do is likely to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lasts {
    /// Until files are closed: it says nothing about this file.
    AMoment,
    /// Nobody knows; another try may do.
    Maybe,
    /// Until somebody changes the file or its folder.
    UntilChanged,
}

impl Lasts {
    fn of(error: &io::Error) -> Lasts {
        match error.kind() {
            _ if is_short_of_files(error) => Lasts::AMoment,
            // Something is not there, or something else is in its place.
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::AlreadyExists => Lasts::UntilChanged,
            _ => Lasts::Maybe,
        }
    }
}

impl Fault {
    /// How long it is likely to last; `None` for damage, which another segment
    /// does not have.
    pub(crate) fn lasts(&self) -> Option<Lasts> {
        match self {
            Fault::Missing { .. } => Some(Lasts::UntilChanged),
            Fault::Io { lasts, .. } => Some(*lasts),
            Fault::Damaged { .. } => None,
        }
    }

    /// What an error of the file at `path` means.
    pub(crate) fn of(path: String, error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::NotFound => Fault::Missing { path },
            _ => Fault::Io {
                path,
                reason: error.to_string(),
                lasts: Lasts::of(error),
            },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Io { path, reason, .. } => write!(f, "cannot use {path}: {reason}"),
            Fault::Missing { path } => write!(f, "{path} is missing"),
            Fault::Damaged { path, at, reason } => {
                write!(f, "{path} is damaged at byte {at}: {reason}")
            }
        }
    }
}

/// A segment in use.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) key: Key,
    /// Held for moving numbers and pointers only: every reader needs it.
    state: Mutex<State>,
    /// Held over the reading and writing of the index's file, and taken before
    /// `state`: an index that is loaded is used without it.
    indexing: Mutex<()>,
}

#[derive(Debug)]
struct State {
    /// Bytes of the file that hold batches (and the header).
    len: u64,
    /// Loaded when first needed.
    index: Option<Index>,
    /// Where the index ends too early, because of this damage.
    damage: Option<Fault>,
    /// Whether no batch will be added.
    is_closed: bool,
    /// The partition's.
    holes: Arc<[Hole]>,
    /// The newest timestamp, once it is known and cannot change.
    timestamp_max: Option<i64>,
    /// What the header says of when it was begun, once it was read.
    begun_ms: Option<Option<i64>>,
}

impl Segment {
    fn new(key: Key, len: u64, index: Option<Index>, is_closed: bool) -> Segment {
        Segment {
            key,
            state: Mutex::new(State {
                len,
                index,
                damage: None,
                is_closed,
                holes: Arc::default(),
                timestamp_max: None,
                begun_ms: None,
            }),
            indexing: Mutex::default(),
        }
    }

    /// A segment that is in its file, `len` bytes of it.
    pub(crate) fn existing(key: Key, len: u64, is_closed: bool) -> Segment {
        Segment::new(key, len, None, is_closed)
    }

    /// Begins a segment. A file of the same name is written over, not emptied:
    /// recovery may still need what is behind.
    pub(crate) fn create(files: &Files, key: Key, now_ms: i64) -> io::Result<Segment> {
        let file = files.create(key)?;
        file.write_at(&mut [IoSlice::new(&key.header(now_ms))], 0)?;
        let index = Index::new(key.base);
        let segment = Segment::new(key, HEADER_BYTES, Some(index), false);
        segment.state.lock().begun_ms = Some((now_ms != 0).then_some(now_ms));
        Ok(segment)
    }

    /// When it was begun, if its header says that.
    pub(crate) fn begun_ms(&self, files: &Files) -> Result<Option<i64>, Fault> {
        if let Some(known) = self.state.lock().begun_ms {
            return Ok(known);
        }
        let file = files.open(self.key)?;
        let mut time = [0; 8];
        file.read_at(&mut time, BEGUN_AT as u64)
            .map_err(|error| files.fault(self.key, &error))?;
        let found = Some(i64::from_le_bytes(time)).filter(|time| *time != 0);
        self.state.lock().begun_ms = Some(found);
        Ok(found)
    }

    /// Bytes of the file that are in use.
    pub(crate) fn len(&self) -> u64 {
        self.state.lock().len
    }

    /// Whether it holds no batch.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() <= HEADER_BYTES
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().is_closed
    }

    /// Goes over these holes from now on.
    pub(crate) fn set_holes(&self, holes: Arc<[Hole]>) {
        let mut state = self.state.lock();
        state.holes = holes;
        (state.index, state.damage, state.timestamp_max) = (None, None, None);
    }

    /// Reads batches from `from` on.
    pub(crate) fn read(
        &self,
        files: &Files,
        from: read::Position,
        offset: u64,
        bytes_max: u64,
    ) -> Result<read::Fetched, Fault> {
        let (len, holes) = {
            let state = self.state.lock();
            (state.len, state.holes.clone())
        };
        let wanted = read::Wanted {
            offset,
            bytes_max,
            len,
        };
        read::read_over(files, self.key, from, wanted, &holes)
    }

    /// Adds batches, which must begin where the last one ended. After a fault
    /// none of them counts: the next try writes over what may be there of them.
    pub(crate) fn append(&self, files: &Files, batches: &[Batch]) -> Result<(), AppendFault> {
        let file = files.open(self.key)?;
        self.load_index(files)?;
        let (from, damage) = {
            let state = self.state.lock();
            (state.len, state.damage.clone())
        };
        if let Some(fault) = damage {
            // Behind it nothing could be found again.
            return Err(fault.into());
        }
        let mut slices: Vec<IoSlice<'_>> = batches
            .iter()
            .map(|batch| IoSlice::new(batch.bytes()))
            .collect();
        // Readers never go beyond `len`, so the write needs no lock.
        file.write_at(&mut slices, from)?;
        let mut state = self.state.lock();
        for batch in batches {
            let position = read::Position {
                offset: batch.base_offset(),
                at: state.len,
            };
            if let Some(index) = &mut state.index {
                index.add(position, batch.timestamp_max(), files.index_interval_bytes);
            }
            state.len += batch.len() as u64;
        }
        Ok(())
    }

    /// Says that no batch will be added.
    pub(crate) fn close(&self, files: &Files) {
        {
            let mut state = self.state.lock();
            state.is_closed = true;
            if state.damage.is_none() {
                state.timestamp_max = state.index.as_ref().map(Index::timestamp_max);
            }
        }
        self.save_index(files);
    }

    /// Writes what the index file lacks. A failure costs a scan later, no data.
    pub(crate) fn save_index(&self, files: &Files) {
        let _alone = self.indexing.lock();
        let Some((unsaved, saved)) = self.state.lock().index.as_ref().map(Index::unsaved) else {
            return;
        };
        match index::save(files, self.key, &unsaved, saved) {
            Ok(()) => {
                if let Some(index) = &mut self.state.lock().index {
                    index.set_saved(saved + unsaved.len());
                }
            }
            Err(error) => {
                tracing::debug!(%error, path = %self.key.index_path(), "could not write the index");
            }
        }
    }

    /// Whether its file is there, under its name, with all that was written: one
    /// that is open can be written to long after somebody removed it.
    pub(crate) fn require(&self, files: &Files) -> Result<(), Fault> {
        let len = self.len();
        match files.length(self.key) {
            Err(error) => Err(files.fault(self.key, &error)),
            Ok(found) if found < len => {
                let path = files.path(self.key);
                let path = format!("{path} (bytes {found} to {len})");
                Err(Fault::Missing { path })
            }
            Ok(_) => Ok(()),
        }
    }

    /// Makes the segment's bytes durable.
    pub(crate) fn sync(&self, files: &Files) -> Result<(), SyncFault> {
        self.require(files).map_err(SyncFault::Open)?;
        let file = files
            .open_unchecked(self.key)
            .map_err(|error| SyncFault::Open(files.fault(self.key, &error)))?;
        file.sync_data().map_err(SyncFault::Sync)
    }

    /// Forgets the index of a closed segment; it will be loaded again.
    pub(crate) fn unload(&self) {
        let mut state = self.state.lock();
        if state.is_closed {
            state.index = None;
        }
    }

    /// Where to begin reading for `offset`: at a batch at or before it.
    pub(crate) fn locate(&self, files: &Files, offset: u64) -> Result<read::Position, Fault> {
        self.with_index(files, |index| index.locate(offset))
    }

    /// Where to begin reading for the first record that is not older than `time_ms`.
    pub(crate) fn locate_time(&self, files: &Files, time_ms: i64) -> Result<read::Position, Fault> {
        self.with_index(files, |index| index.locate_time(time_ms))
    }

    /// The newest timestamp in the segment; `None` if it is empty. Of a closed
    /// segment only that number stays in memory.
    pub(crate) fn timestamp_max(&self, files: &Files) -> Result<Option<i64>, Fault> {
        let len = {
            let state = self.state.lock();
            if state.len <= HEADER_BYTES {
                return Ok(None);
            }
            if state.timestamp_max.is_some() {
                return Ok(state.timestamp_max);
            }
            if let (Some(index), None) = (&state.index, &state.damage) {
                return Ok(Some(index.timestamp_max()));
            }
            state.is_closed.then_some(state.len)
        };
        let Some(len) = len else {
            return self.with_index(files, |index| Some(index.timestamp_max()));
        };
        match self.build_index(files, len)? {
            (index, None) => {
                let newest = Some(index.timestamp_max());
                self.state.lock().timestamp_max = newest;
                Ok(newest)
            }
            // Something newer may be behind it.
            (_, Some(damage)) => Err(damage),
        }
    }

    /// Makes the index anew from the segment itself.
    pub(crate) fn rebuild_index(&self, files: &Files) -> Result<(), Fault> {
        let _alone = self.indexing.lock();
        self.put_index(files, Index::new(self.key.base))
    }

    /// What of it cannot be read, up to the offset `until` where the next one begins.
    pub(crate) fn survey(&self, files: &Files, until: u64) -> Result<Vec<Hole>, Fault> {
        let (len, known) = {
            let state = self.state.lock();
            (state.len, state.index.as_ref().map(Index::positions))
        };
        let mut marks = Index::load(files, self.key, len).positions();
        marks.extend(known.into_iter().flatten());
        marks.sort_unstable_by_key(|position| position.at);
        read::survey(files, self.key, (len, until), &marks)
    }

    fn with_index<T>(&self, files: &Files, act: impl Fn(&Index) -> T) -> Result<T, Fault> {
        loop {
            if let Some(index) = &self.state.lock().index {
                return Ok(act(index));
            }
            // May be unloaded again before it is used.
            self.load_index(files)?;
        }
    }

    fn load_index(&self, files: &Files) -> Result<(), Fault> {
        if self.state.lock().index.is_some() {
            return Ok(());
        }
        let _alone = self.indexing.lock();
        let len = {
            let state = self.state.lock();
            if state.index.is_some() {
                return Ok(());
            }
            state.len
        };
        let (index, _) = self.build_index(files, len)?;
        self.put_index(files, index)
    }

    /// The index of the first `len` bytes: from its file and, where that lacks
    /// or misleads, from the segment. It ends before damage, which comes with it.
    fn build_index(&self, files: &Files, len: u64) -> Result<(Index, Option<Fault>), Fault> {
        let mut index = Index::load(files, self.key, len);
        let mut damage = self.extend_index(files, &mut index, len)?;
        if damage.is_some() {
            index = Index::new(self.key.base);
            damage = self.extend_index(files, &mut index, len)?;
        }
        Ok((index, damage))
    }

    /// Uses this index from now on, once it covers everything that can be read.
    fn put_index(&self, files: &Files, mut index: Index) -> Result<(), Fault> {
        loop {
            let len = self.len();
            let damage = self.extend_index(files, &mut index, len)?;
            let mut state = self.state.lock();
            if state.len == len {
                (state.index, state.damage) = (Some(index), damage);
                return Ok(());
            }
        }
    }

    /// Adds what the index does not cover yet by reading the segment's headers; returns the damage
    /// that ended it.
    fn extend_index(
        &self,
        files: &Files,
        index: &mut Index,
        len: u64,
    ) -> Result<Option<Fault>, Fault> {
        let from = index.covered();
        if from.at >= len {
            return Ok(None);
        }
        let holes = self.state.lock().holes.clone();
        let mut scan = read::HeaderScan::new(files, self.key, from, len, &holes)?;
        loop {
            match scan.next() {
                Ok(Some((at, header))) => {
                    let offset = header.base_offset();
                    let position = read::Position { offset, at };
                    index.add(position, header.timestamp_max(), files.index_interval_bytes);
                }
                Ok(None) => return Ok(None),
                Err(fault @ Fault::Damaged { .. }) => return Ok(Some(fault)),
                Err(fault) => return Err(fault),
            }
        }
    }
}

/// Why batches were not added.
#[derive(Debug)]
pub(crate) enum AppendFault {
    /// There is no room.
    Full(io::Error),
    /// The system could not.
    System(String, Lasts),
    /// What is in the segment is damaged; another segment will do.
    Damaged(Fault),
}

impl fmt::Display for AppendFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AppendFault::Full(error) => error.fmt(f),
            AppendFault::System(reason, _) => f.write_str(reason),
            AppendFault::Damaged(fault) => fault.fmt(f),
        }
    }
}

impl From<io::Error> for AppendFault {
    /// A write that failed is no worse than one that was not begun: the position of
    /// the next try is known, and whether it is on disk, the sync will tell.
    fn from(error: io::Error) -> AppendFault {
        match is_full(&error) {
            true => AppendFault::Full(error),
            false => AppendFault::System(error.to_string(), Lasts::of(&error)),
        }
    }
}

impl From<Fault> for AppendFault {
    fn from(fault: Fault) -> AppendFault {
        match fault.lasts() {
            None => AppendFault::Damaged(fault),
            Some(lasts) => AppendFault::System(fault.to_string(), lasts),
        }
    }
}

/// Why a segment was not synced.
#[derive(Debug)]
pub(crate) enum SyncFault {
    /// Its file could not be opened; what was written to it is as it was.
    Open(Fault),
    /// The sync failed; what the kernel dropped then is lost.
    Sync(io::Error),
}
