//! A segment: a file with a run of a partition's batches, each beginning where
//! the one before ended.
//!
//! `topics/<topic>/<partition>/<base offset>.log` is a header and whole batches
//! as they came in:
//!
//! ```text
//! 0         8         12        16        24          28        32            64
//! +---------+---------+---------+---------+-----------+---------+-------------+
//! | magic   | version | crc     | topic   | partition | zero    | base | zero |
//! +---------+---------+---------+---------+-----------+---------+-------------+
//! ```
//!
//! Little endian; `crc` is CRC-32C over bytes 16..64. Segments are written
//! after the journal and not synced until a checkpoint; what the checkpoint
//! does not cover, recovery writes again from the journal. Knows files and
//! batches; what is visible, kept or stopped is the partition's business.

pub(crate) mod append;
pub(crate) mod files;
pub(crate) mod index;
pub(crate) mod read;

use std::fmt;
use std::io::{self, IoSlice};

use bytes::{Buf, BufMut};
use eddy_protocol::Batch;
use parking_lot::Mutex;

use self::files::Files;
use self::index::Index;
use crate::store::commit::TopicId;

/// The folder of all topics.
pub(crate) const FOLDER: &str = "topics";
/// Bytes of a segment's header.
pub(crate) const HEADER_BYTES: u64 = 64;
const MAGIC: [u8; 8] = *b"EDDYSEGM";
const VERSION: u32 = 1;

/// Which segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) base: u64,
}

impl Key {
    pub(crate) fn path(&self) -> String {
        format!(
            "{}/{:020}.log",
            folder(self.topic, self.partition),
            self.base
        )
    }

    pub(crate) fn index_path(&self) -> String {
        format!(
            "{}/{:020}.index",
            folder(self.topic, self.partition),
            self.base
        )
    }

    pub(crate) fn header(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        let mut out = &mut bytes[16..];
        out.put_u64_le(self.topic.0);
        out.put_u32_le(self.partition);
        out.put_u32_le(0);
        out.put_u64_le(self.base);
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
        if bytes != self.header() {
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
pub(crate) fn folder(topic: TopicId, partition: u32) -> String {
    format!("{FOLDER}/{topic}/{partition}")
}

/// Why a segment did not give what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The system could not read.
    Io { path: String, reason: String },
    /// The file is gone.
    Missing { path: String },
    /// What is stored is not what was written.
    Damaged {
        path: String,
        at: u64,
        reason: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Io { path, reason } => write!(f, "cannot read {path}: {reason}"),
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
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes of the file that hold batches (and the header).
    len: u64,
    /// Loaded when first needed.
    index: Option<Index>,
    /// Whether no batch will be added.
    is_closed: bool,
    timestamp_max: Option<i64>,
}

impl Segment {
    /// A segment that is in its file, `len` bytes of it.
    pub(crate) fn existing(key: Key, len: u64, is_closed: bool) -> Segment {
        Segment {
            key,
            state: Mutex::new(State {
                len,
                index: None,
                is_closed,
                timestamp_max: None,
            }),
        }
    }

    /// Begins a segment. A file of the same name is written over, not emptied:
    /// recovery may still need what is behind.
    pub(crate) fn create(files: &Files, key: Key) -> io::Result<Segment> {
        let file = files.create(key)?;
        file.write_at(&mut [IoSlice::new(&key.header())], 0)?;
        let index = Index::new(key.base);
        Ok(Segment {
            key,
            state: Mutex::new(State {
                len: HEADER_BYTES,
                index: Some(index),
                is_closed: false,
                timestamp_max: None,
            }),
        })
    }

    /// Bytes of the file that are in use.
    pub(crate) fn len(&self) -> u64 {
        self.state.lock().len
    }

    /// Whether it holds no batch.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() <= HEADER_BYTES
    }

    /// Adds batches, which must begin where the last one ended.
    pub(crate) fn append(&self, files: &Files, batches: &[Batch]) -> Result<(), AppendFault> {
        let file = files.open(self.key).map_err(AppendFault::Io)?;
        let mut state = self.state.lock();
        self.load_index(files, &mut state)
            .map_err(AppendFault::Index)?;
        let from = state.len;
        // Readers load positions under this lock and never go beyond `len`, so the write itself
        // need not hold it.
        drop(state);
        let mut slices: Vec<IoSlice<'_>> = batches
            .iter()
            .map(|batch| IoSlice::new(batch.bytes()))
            .collect();
        file.write_at(&mut slices, from).map_err(AppendFault::Io)?;
        let mut state = self.state.lock();
        for batch in batches {
            let at = state.len;
            if let Some(index) = &mut state.index {
                index.add(
                    batch.base_offset(),
                    at,
                    batch.timestamp_max(),
                    files.index_interval_bytes,
                );
            }
            state.len += batch.len() as u64;
        }
        Ok(())
    }

    /// Says that no batch will be added.
    pub(crate) fn close(&self, files: &Files) {
        self.state.lock().is_closed = true;
        self.save_index(files);
    }

    /// Writes what the index file lacks. A failure costs a scan later, no data.
    pub(crate) fn save_index(&self, files: &Files) {
        let mut state = self.state.lock();
        if let Some(index) = &mut state.index
            && let Err(error) = index.save(files, self.key)
        {
            tracing::debug!(%error, path = %self.key.index_path(), "could not write the index");
        }
    }

    /// Makes the segment's bytes durable.
    pub(crate) fn sync(&self, files: &Files) -> io::Result<()> {
        files.open(self.key)?.sync_data()
    }

    /// Forgets the index of a closed segment; it will be loaded again.
    pub(crate) fn unload(&self) {
        let mut state = self.state.lock();
        if state.is_closed {
            state.index = None;
        }
    }

    /// Where to begin reading for `offset`: the offset and position of a batch at or before it.
    pub(crate) fn locate(&self, files: &Files, offset: u64) -> Result<(u64, u64), Fault> {
        let mut state = self.state.lock();
        self.load_index(files, &mut state)?;
        let index = state.index.as_ref().expect("the index was just loaded");
        Ok(index.locate(offset))
    }

    /// Where to begin reading for the first record that is not older than `time_ms`.
    pub(crate) fn locate_time(&self, files: &Files, time_ms: i64) -> Result<(u64, u64), Fault> {
        let mut state = self.state.lock();
        self.load_index(files, &mut state)?;
        let index = state.index.as_ref().expect("the index was just loaded");
        Ok(index.locate_time(time_ms))
    }

    /// The newest timestamp in the segment; `None` if it is empty.
    pub(crate) fn timestamp_max(&self, files: &Files) -> Result<Option<i64>, Fault> {
        let mut state = self.state.lock();
        if state.len <= HEADER_BYTES {
            return Ok(None);
        }
        if state.is_closed && state.timestamp_max.is_some() {
            return Ok(state.timestamp_max);
        }
        self.load_index(files, &mut state)?;
        let newest = state.index.as_ref().map(Index::timestamp_max);
        state.timestamp_max = newest;
        Ok(newest)
    }

    /// Makes the index anew from the segment itself.
    pub(crate) fn rebuild_index(&self, files: &Files) -> Result<(), Fault> {
        let mut state = self.state.lock();
        let mut index = Index::new(self.key.base);
        self.extend_index(files, &mut index, state.len)?;
        state.index = Some(index);
        Ok(())
    }

    fn load_index(&self, files: &Files, state: &mut State) -> Result<(), Fault> {
        if state.index.is_some() {
            return Ok(());
        }
        let mut index = Index::load(files, self.key, state.len);
        self.extend_index(files, &mut index, state.len)?;
        state.index = Some(index);
        Ok(())
    }

    /// Adds what the index does not cover yet by reading the segment's headers.
    fn extend_index(&self, files: &Files, index: &mut Index, len: u64) -> Result<(), Fault> {
        let (offset, at) = index.covered();
        if at >= len {
            return Ok(());
        }
        let mut scan = read::HeaderScan::new(files, self.key, offset, at, len)?;
        while let Some((at, header)) = scan.next()? {
            index.add(
                header.base_offset(),
                at,
                header.timestamp_max(),
                files.index_interval_bytes,
            );
        }
        Ok(())
    }
}

/// Why batches were not added.
#[derive(Debug)]
pub(crate) enum AppendFault {
    Io(io::Error),
    Index(Fault),
}
