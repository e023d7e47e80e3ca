//! A segment's sparse index: where in the file some of the offsets are, and how
//! new the records before them are.
//!
//! `<base offset>.index` is entries of 32 bytes, little endian, nothing else:
//!
//! ```text
//! 0            8               16                       24       28        32
//! +------------+---------------+------------------------+--------+---------+
//! | offset u64 | position u64  | newest timestamp i64   | crc    | zero    |
//! +------------+---------------+------------------------+--------+---------+
//! ```
//!
//! A batch with this base offset begins at this position of the segment; no
//! record before it is newer than the timestamp. `crc` is CRC-32C over bytes
//! 0..24. The index is never needed: what is missing or damaged is read from
//! the segment again, readers check that the batch they land on is the one they
//! were promised, and where it is not, the index is made anew before anybody
//! calls the segment damaged.

use std::io::{self, IoSlice};

use bytes::{Buf, BufMut};

use super::files::Files;
use super::read::Position;
use super::{HEADER_BYTES, Key};
use crate::io::read_all;

const ENTRY_BYTES: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) position: Position,
    pub(crate) timestamp_max: i64,
}

/// The index of one segment.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    entries: Vec<IndexEntry>,
    timestamp_max: i64,
    /// How many entries the file holds.
    saved: usize,
}

impl Index {
    /// The index of a segment without batches.
    pub(crate) fn new(base: u64) -> Index {
        let first = IndexEntry {
            position: Position {
                offset: base,
                at: HEADER_BYTES,
            },
            timestamp_max: i64::MIN,
        };
        Index {
            entries: vec![first],
            timestamp_max: i64::MIN,
            saved: 0,
        }
    }

    /// What of the file can be trusted for a segment of `len` bytes.
    pub(crate) fn load(files: &Files, key: Key, len: u64) -> Index {
        let mut index = Index::new(key.base);
        let bytes = files
            .disk()
            .open_read(&key.index_path())
            .and_then(|file| read_all(&*file));
        let Ok(bytes) = bytes else { return index };
        let (entries, _) = decode(&bytes, key.base, len);
        if let Some(last) = entries.last() {
            index.timestamp_max = last.timestamp_max;
            index.saved = entries.len();
            index.entries = entries;
        }
        index
    }

    /// Takes note of a batch.
    pub(crate) fn add(&mut self, position: Position, timestamp_max: i64, interval_bytes: u64) {
        let last = self.entries.last().map_or(0, |entry| entry.position.at);
        if position.at >= last.saturating_add(interval_bytes) {
            self.entries.push(IndexEntry {
                position,
                timestamp_max: self.timestamp_max,
            });
        }
        self.timestamp_max = self.timestamp_max.max(timestamp_max);
    }

    /// The entries that the file lacks, and how many it has.
    pub(crate) fn unsaved(&self) -> (Vec<IndexEntry>, usize) {
        (self.entries[self.saved..].to_vec(), self.saved)
    }

    /// Says how many entries the file has.
    pub(crate) fn set_saved(&mut self, saved: usize) {
        self.saved = saved;
    }

    /// The newest entry: what is in the segment from there on may not be in the index.
    pub(crate) fn covered(&self) -> Position {
        self.locate(u64::MAX)
    }

    /// Where batches begin, as far as it knows.
    pub(crate) fn positions(&self) -> Vec<Position> {
        self.entries.iter().map(|entry| entry.position).collect()
    }

    pub(crate) fn timestamp_max(&self) -> i64 {
        self.timestamp_max
    }

    pub(crate) fn locate(&self, offset: u64) -> Position {
        self.last_before(|entry| entry.position.offset <= offset)
    }

    pub(crate) fn locate_time(&self, time_ms: i64) -> Position {
        self.last_before(|entry| entry.timestamp_max < time_ms)
    }

    fn last_before(&self, is_before: impl Fn(&IndexEntry) -> bool) -> Position {
        let behind = self.entries.partition_point(is_before);
        self.entries[behind.saturating_sub(1)].position
    }
}

/// Writes entries behind the first `saved` ones of the file.
pub(crate) fn save(
    files: &Files,
    key: Key,
    entries: &[IndexEntry],
    saved: usize,
) -> io::Result<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let path = key.index_path();
    let file = match files.disk().open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => files.disk().create(&path)?,
        other => other?,
    };
    let mut bytes = Vec::new();
    for entry in entries {
        encode(entry, &mut bytes);
    }
    let at = (saved * ENTRY_BYTES) as u64;
    file.write_at(&mut [IoSlice::new(&bytes)], at)?;
    file.truncate(at + bytes.len() as u64)
}

/// The entries of an index file up to the first that cannot be right, and whether there was one.
pub(crate) fn decode(bytes: &[u8], base: u64, len: u64) -> (Vec<IndexEntry>, bool) {
    let mut entries: Vec<IndexEntry> = Vec::new();
    let mut chunks = bytes.chunks_exact(ENTRY_BYTES);
    for chunk in &mut chunks {
        let Some(entry) = decode_entry(chunk) else {
            return (entries, true);
        };
        let rises = match entries.last() {
            Some(IndexEntry {
                position: last,
                timestamp_max,
            }) => {
                entry.position.offset > last.offset
                    && entry.position.at > last.at
                    && entry.timestamp_max >= *timestamp_max
            }
            None => entry.position == Index::new(base).entries[0].position,
        };
        if !rises || entry.position.at >= len.max(HEADER_BYTES + 1) {
            return (entries, true);
        }
        entries.push(entry);
    }
    (entries, !chunks.remainder().is_empty())
}

fn encode(entry: &IndexEntry, out: &mut Vec<u8>) {
    let from = out.len();
    out.put_u64_le(entry.position.offset);
    out.put_u64_le(entry.position.at);
    out.put_i64_le(entry.timestamp_max);
    let crc = crc32c::crc32c(&out[from..]);
    out.put_u32_le(crc);
    out.put_u32_le(0);
}

fn decode_entry(chunk: &[u8]) -> Option<IndexEntry> {
    let mut from = chunk;
    let entry = IndexEntry {
        position: Position {
            offset: from.try_get_u64_le().ok()?,
            at: from.try_get_u64_le().ok()?,
        },
        timestamp_max: from.try_get_i64_le().ok()?,
    };
    (from.try_get_u32_le().ok()? == crc32c::crc32c(&chunk[..24])).then_some(entry)
}
