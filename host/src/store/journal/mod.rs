//! The journal: what was committed, in one order, before it is anywhere else.
//!
//! Files of bounded size, `journal/<sequence of the first group>.journal`, each
//! a header and groups (see [`group`]):
//!
//! ```text
//! 0         8         12        16        24               32       40        64
//! +---------+---------+---------+---------+----------------+--------+---------+
//! | magic   | version | crc     | salt    | first sequence | boot   | zero    |
//! +---------+---------+---------+---------+----------------+--------+---------+
//! ```
//!
//! Little endian; `crc` is CRC-32C over bytes 16..64; `first sequence` is 0 where
//! the file was made ahead and only its name says it; `boot` is another number
//! after each start of the machine, and 0 in the file that a store leaves which
//! was closed. A group is appended with one write; whether it is synced is
//! somebody else's business. After a write that failed, the file ends where it
//! ended before.
//!
//! Recovery begins a file as `<its name>.new`, with what it found out: once that
//! is whole, it has happened (see [`prepare`]). So what older files hold at or
//! above the first sequence of the next file does not count: it was cut.
//!
//! Knows nothing of partitions and tables.

pub(crate) mod group;
pub(crate) mod next;
pub(crate) mod old;
pub(crate) mod operation;
pub(crate) mod scan;

use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

use self::group::GroupFrame;
use self::scan::{Scan, Scanned};
use crate::io::{Disk, File, read_all};
use crate::store::format::numbered;

/// The journal's folder.
pub(crate) const FOLDER: &str = "journal";
/// Bytes of a file's header.
pub(crate) const FILE_HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"EDDYJRNL";
const VERSION: u32 = 1;
/// The boot in a file that a closed store left: nothing was written since.
pub(crate) const CLOSED: u64 = 0;
/// Behind the path of a file that is not adopted yet.
const PREPARED: &str = ".new";
/// Behind the path of a file that is kept for whoever wants to look.
const SET_ASIDE: &str = ".damaged";
/// Batches below this are copied into one slice: an entry in a list of slices costs the kernel
/// more than the copy.
const COPY_BYTES_MAX: usize = 4096;

/// What a file's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) salt: u64,
    pub(crate) first_sequence: u64,
    pub(crate) boot: u64,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> [u8; FILE_HEADER_BYTES] {
        let mut bytes = [0; FILE_HEADER_BYTES];
        let mut out = &mut bytes[16..];
        out.put_u64_le(self.salt);
        out.put_u64_le(self.first_sequence);
        out.put_u64_le(self.boot);
        let crc = crc32c::crc32c(&bytes[16..]);
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<FileHeader> {
        let bytes = bytes.get(..FILE_HEADER_BYTES)?;
        let mut from = &bytes[8..];
        let (version, crc) = (from.get_u32_le(), from.get_u32_le());
        if bytes[..8] != MAGIC || version != VERSION || crc != crc32c::crc32c(&bytes[16..]) {
            return None;
        }
        Some(FileHeader {
            salt: from.get_u64_le(),
            first_sequence: from.get_u64_le(),
            boot: from.get_u64_le(),
        })
    }
}

/// The path of the file whose first group has this sequence.
pub(crate) fn path_of(first_sequence: u64) -> String {
    format!("{FOLDER}/{first_sequence:020}.journal")
}

/// The journal's files in order: first sequence and length.
pub(crate) fn list(disk: &dyn Disk) -> io::Result<Vec<(u64, u64)>> {
    let files = disk.list(FOLDER)?;
    let named = files
        .iter()
        .filter_map(|file| Some((numbered(&file.name, ".journal")?, file.bytes)));
    Ok(named.collect())
}

/// Removes a file whose groups are not needed any more.
pub(crate) fn remove(disk: &dyn Disk, first_sequence: u64) -> io::Result<()> {
    disk.remove(&path_of(first_sequence))
}

/// Keeps a file for people, where the store does not look.
pub(crate) fn set_aside(disk: &dyn Disk, first_sequence: u64) -> io::Result<()> {
    let path = path_of(first_sequence);
    disk.rename(&path, &format!("{path}{SET_ASIDE}"))
}

/// Writes a file, durably, that is to take the place of everything at and above
/// its first sequence. [`adopt`] puts it there; after a crash in between,
/// [`adopt_prepared`] does.
pub(crate) fn prepare(
    disk: &dyn Disk,
    header: FileHeader,
    group: &GroupFrame,
    payload: &[Bytes],
) -> io::Result<Journal> {
    let path = path_of(header.first_sequence) + PREPARED;
    let mut journal = Journal {
        file: disk.create(&path)?,
        bytes: 0,
    };
    let mut pieces = vec![Bytes::copy_from_slice(&header.encode())];
    pieces.extend(gather(group, payload));
    let written = journal
        .write(&pieces)
        .and_then(|_| journal.file.sync_data());
    if let Err(error) = written {
        // What was begun must not take the room that is missing.
        drop(disk.remove(&path));
        return Err(error);
    }
    Ok(journal)
}

/// Puts a prepared file into its place. Files that it supersedes go, or are
/// kept aside.
pub(crate) fn adopt(disk: &dyn Disk, first_sequence: u64, keep: bool) -> io::Result<()> {
    let path = path_of(first_sequence);
    let superseded: Vec<u64> = list(disk)?
        .into_iter()
        // One without a group has nothing to tell, and one of the same name is replaced.
        .filter(|(first, bytes)| {
            *first > first_sequence
                || (*first == first_sequence && keep && *bytes > FILE_HEADER_BYTES as u64)
        })
        .map(|(first, _)| first)
        .collect();
    if !superseded.is_empty() {
        // From the first change on there is no way back.
        disk.sync_dir(FOLDER)?;
    }
    for first in superseded.into_iter().rev() {
        if keep {
            set_aside(disk, first)?;
        } else {
            remove(disk, first)?;
        }
    }
    disk.rename(&(path.clone() + PREPARED), &path)?;
    disk.sync_dir(FOLDER)
}

/// Ends what a crash interrupted between [`prepare`] and [`adopt`].
pub(crate) fn adopt_prepared(disk: &dyn Disk, salt: u64) -> io::Result<()> {
    for entry in disk.list(FOLDER)? {
        let Some(name) = entry.name.strip_suffix(PREPARED) else {
            continue;
        };
        let path = format!("{FOLDER}/{}", entry.name);
        let bytes = Bytes::from(read_all(&*disk.open_read(&path)?)?);
        let header = FileHeader::decode(&bytes).filter(|header| header.salt == salt);
        match header.filter(|header| is_prepared(&bytes, header, name)) {
            Some(header) => adopt(disk, header.first_sequence, true)?,
            None => disk.remove(&path)?,
        }
    }
    Ok(())
}

/// Whether a prepared file is whole: nothing behind its header, or one group.
fn is_prepared(bytes: &Bytes, header: &FileHeader, name: &str) -> bool {
    let mut groups = Scan::new(bytes.clone(), header.salt, header.first_sequence);
    let is_whole = match groups.next() {
        None => true,
        Some(Scanned::Group(group)) => group.is_whole && groups.next().is_none(),
        Some(_) => false,
    };
    is_whole && path_of(header.first_sequence) == format!("{FOLDER}/{name}")
}

/// The file that groups are appended to.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Arc<dyn File>,
    bytes: u64,
}

impl Journal {
    /// Appends a group, whole or not at all.
    pub(crate) fn append(
        &mut self,
        frame: &GroupFrame,
        batches: &[Bytes],
    ) -> Result<u64, AppendError> {
        self.write(&gather(frame, batches))
            .map_err(|error| match self.file.truncate(self.bytes) {
                Ok(()) => AppendError::Refused(error),
                Err(truncate) => AppendError::Torn(truncate),
            })
    }

    fn write(&mut self, pieces: &[Bytes]) -> io::Result<u64> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.file.write_at(&mut slices, self.bytes)?;
        self.bytes += bytes;
        Ok(bytes)
    }

    pub(crate) fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether there is no group in the file.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes <= FILE_HEADER_BYTES as u64
    }
}

/// Why a group or a file is not in the journal.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// Nothing of it is there.
    Refused(io::Error),
    /// Recovered of it are there and could not be removed.
    Torn(io::Error),
}

/// The group's bytes in few slices, without copying what is large.
fn gather(frame: &GroupFrame, batches: &[Bytes]) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut small = frame.before.clone();
    for batch in batches {
        if batch.len() <= COPY_BYTES_MAX {
            small.extend_from_slice(batch);
            continue;
        }
        if !small.is_empty() {
            pieces.push(Bytes::from(std::mem::take(&mut small)));
        }
        pieces.push(batch.clone());
    }
    small.extend_from_slice(&frame.after);
    pieces.push(Bytes::from(small));
    pieces
}
