//! Reading a journal file group by group, over damage.
//!
//! Where a group is not readable, the scan looks for the next thing that is: a
//! group's second header (which tells what the group did and where it began)
//! or the next group's first. It never takes bytes for a group whose checksum
//! is wrong, and never one whose sequence does not rise.

use bytes::Bytes;
use eddy_protocol::Batch;

use super::FILE_HEADER_BYTES;
use super::group::{self, Header, HeaderCopy};
use super::operation::Operation;
use crate::log::Delta;
use crate::store::field::{Unreadable, take};

/// Something found in a journal file.
#[derive(Debug)]
pub(crate) enum Scanned {
    /// A group of which at least one copy of the directory is whole.
    Group(Group),
    /// Bytes that are no group any more, behind which a group follows.
    Lost {
        /// Where they begin.
        at: u64,
        /// How many there are.
        bytes: u64,
        /// The sequences that are missing, first and last.
        sequences: (u64, u64),
    },
    /// Bytes to the file's end of which nothing can be read.
    Rest {
        /// Where they begin.
        at: u64,
        /// How many there are.
        bytes: u64,
        /// The sequence that should have followed.
        sequence: u64,
        /// Whether it is the beginning of a group: a write that was cut off.
        is_cut_off: bool,
    },
    /// A whole group with something that only a newer release understands. The
    /// scan ends with it.
    Newer {
        /// What that is.
        what: String,
    },
}

impl Scanned {
    /// The first sequence that this is about.
    pub(crate) fn sequence(&self) -> u64 {
        match self {
            Scanned::Group(group) => group.header.sequence,
            Scanned::Lost { sequences, .. } => sequences.0,
            Scanned::Rest { sequence, .. } => *sequence,
            Scanned::Newer { .. } => u64::MAX,
        }
    }
}

/// A group as it was found.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) at: u64,
    pub(crate) header: Header,
    pub(crate) operations: Vec<Operation>,
    /// The batches of the appends, in their order; `None` where one is damaged.
    pub(crate) batches: Vec<Option<Batch>>,
    /// The deltas of the states, likewise.
    pub(crate) deltas: Vec<Option<Delta>>,
    /// Whether every byte that matters was as it was written.
    pub(crate) is_whole: bool,
}

/// Goes through a file's bytes.
#[derive(Debug)]
pub(crate) struct Scan {
    bytes: Bytes,
    salt: u64,
    at: usize,
    sequence: u64,
}

impl Scan {
    /// The groups in `bytes`, a whole file, of which the first should have this sequence.
    pub(crate) fn new(bytes: Bytes, salt: u64, first_sequence: u64) -> Scan {
        Scan {
            bytes,
            salt,
            at: FILE_HEADER_BYTES,
            sequence: first_sequence,
        }
    }

    /// The sequence that should come next.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence
    }

    fn rest(&mut self) -> Scanned {
        let at = self.at;
        let is_cut_off = group::is_cut_off(&self.bytes.slice(at..), self.salt, self.sequence);
        self.at = self.bytes.len();
        Scanned::Rest {
            at: at as u64,
            bytes: (self.bytes.len() - at) as u64,
            sequence: self.sequence,
            is_cut_off,
        }
    }

    /// The group at the scan's place, read from its first header.
    fn head_group(&mut self) -> Option<Scanned> {
        let here = self.bytes.slice(self.at..);
        let (header, directory) = group::head(&here, self.salt)?;
        if header.sequence != self.sequence {
            return None;
        }
        if header.group_bytes() > here.len() as u64 {
            // Only the end of the file may cut a group short; the caller looks further otherwise.
            return None;
        }
        let found = self.group(self.at, header, &directory, true)?;
        if matches!(found, Scanned::Newer { .. }) {
            self.at = self.bytes.len();
            return Some(found);
        }
        self.at += usize::try_from(header.group_bytes()).ok()?;
        self.sequence = header.sequence + 1;
        Some(found)
    }

    fn group(
        &self,
        at: usize,
        header: Header,
        directory: &Bytes,
        is_whole: bool,
    ) -> Option<Scanned> {
        let operations = match group::operations(&header, directory.clone()) {
            Ok(operations) => operations,
            Err(Unreadable::Newer(what)) => return Some(Scanned::Newer { what }),
            Err(Unreadable::Damaged) => return None,
        };
        let payload_at = at.checked_add(usize::try_from(header.payload_at()).ok()?)?;
        let payload_end = payload_at.checked_add(usize::try_from(header.payload_bytes).ok()?)?;
        let mut payload =
            (payload_end <= self.bytes.len()).then(|| self.bytes.slice(payload_at..payload_end))?;
        let (mut batches, mut deltas) = (Vec::new(), Vec::new());
        for operation in &operations {
            match operation {
                Operation::Append(placed) => {
                    let bytes = take(&mut payload, placed.length as usize)?;
                    let batch = Batch::parse_trusted(bytes).ok();
                    let is_it = |batch: &Batch| placed.matches(batch) && batch.check().is_ok();
                    batches.push(batch.filter(is_it));
                }
                Operation::State(placed) => {
                    let bytes = take(&mut payload, placed.length as usize)?;
                    deltas.push(placed.read(bytes));
                }
                _ => {}
            }
        }
        let is_whole =
            is_whole && batches.iter().all(Option::is_some) && deltas.iter().all(Option::is_some);
        Some(Scanned::Group(Group {
            at: at as u64,
            header,
            operations,
            batches,
            deltas,
            is_whole,
        }))
    }

    /// Behind a group that cannot be read from its beginning.
    fn resync(&mut self) -> Scanned {
        let lost_at = self.at;
        let mut at = lost_at + 8;
        while at + 4 <= self.bytes.len() {
            match group::looks_like(&self.bytes[at..]) {
                Some(HeaderCopy::Second) => {
                    if let Some(found) = self.tail_group(lost_at, at) {
                        return found;
                    }
                }
                Some(HeaderCopy::First) => {
                    if let Some(found) = self.lost_until(lost_at, at) {
                        return found;
                    }
                }
                None => {}
            }
            at += 8;
        }
        self.rest()
    }

    /// The group whose second header is at `at`.
    fn tail_group(&mut self, lost_at: usize, at: usize) -> Option<Scanned> {
        let end = at + group::HEADER_BYTES;
        let (header, directory) = group::tail(&self.bytes, end, self.salt)?;
        let begin = end.checked_sub(usize::try_from(header.group_bytes()).ok()?)?;
        if begin < lost_at || header.sequence < self.sequence {
            return None;
        }
        if begin > lost_at {
            return self.lost(lost_at, begin, header.sequence);
        }
        if header.sequence != self.sequence {
            return None;
        }
        let found = self.group(begin, header, &directory, false)?;
        if matches!(found, Scanned::Newer { .. }) {
            self.at = self.bytes.len();
            return Some(found);
        }
        self.at = end;
        self.sequence = header.sequence + 1;
        Some(found)
    }

    /// The bytes before the group whose first header is at `at`.
    fn lost_until(&mut self, lost_at: usize, at: usize) -> Option<Scanned> {
        let (header, _) = group::head(&self.bytes.slice(at..), self.salt)?;
        self.lost(lost_at, at, header.sequence)
    }

    fn lost(&mut self, lost_at: usize, until: usize, next: u64) -> Option<Scanned> {
        if next <= self.sequence {
            return None;
        }
        let sequences = (self.sequence, next - 1);
        self.at = until;
        self.sequence = next;
        Some(Scanned::Lost {
            at: lost_at as u64,
            bytes: (until - lost_at) as u64,
            sequences,
        })
    }
}

impl Iterator for Scan {
    type Item = Scanned;

    fn next(&mut self) -> Option<Scanned> {
        if self.at >= self.bytes.len() {
            return None;
        }
        Some(self.head_group().unwrap_or_else(|| self.resync()))
    }
}
