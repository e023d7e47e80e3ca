//! Positions that outlast their reader, and what became of the history before them.

use std::fmt;

use crate::log::{Partition, Resume};

/// A position in a partition as it is stored: the next offset, and the partition's epoch when it
/// was learnt.
///
/// ```text
/// offset(le u64) epoch(le u32), which the first release left out
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredPosition {
    pub(super) offset: u64,
    /// `None`: a release stored it that did not know epochs.
    pub(super) epoch: Option<u32>,
}

/// The partition has lost history before a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LostHistory {
    /// The histories part here.
    At(u64),
    /// It is not known where: so whoever goes on begins anew, at the partition's start.
    Somewhere { start: u64 },
}

impl StoredPosition {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = self.offset.to_le_bytes().to_vec();
        if let Some(epoch) = self.epoch {
            bytes.extend_from_slice(&epoch.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`to_bytes`](StoredPosition::to_bytes) wrote, and what a later release adds to it.
    pub(super) fn read(bytes: &[u8]) -> Option<StoredPosition> {
        let (offset, rest) = bytes.split_first_chunk::<8>()?;
        let epoch = match rest.split_first_chunk::<4>() {
            Some((epoch, _)) => Some(u32::from_le_bytes(*epoch)),
            None if rest.is_empty() => None,
            None => return None,
        };
        Some(StoredPosition {
            offset: u64::from_le_bytes(*offset),
            epoch,
        })
    }

    /// What the partition has lost of the history before this position, if anything.
    pub(super) fn lost(self, partition: &dyn Partition) -> Option<LostHistory> {
        let (start, end) = (partition.start(), partition.end());
        match partition.resume(self.epoch, self.offset) {
            Resume::Here => None,
            Resume::Lost { at } => Some(LostHistory::At(at)),
            // Of the first release nobody knows more than that the end was not behind it.
            Resume::Unknown if self.epoch.is_none() => {
                (self.offset > end).then_some(LostHistory::At(end))
            }
            Resume::Unknown => Some(LostHistory::Somewhere { start }),
        }
    }
}

impl LostHistory {
    /// Where to go on, so that nothing is left out.
    pub(super) fn next(self) -> u64 {
        match self {
            LostHistory::At(offset) | LostHistory::Somewhere { start: offset } => offset,
        }
    }
}

impl fmt::Display for LostHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LostHistory::At(offset) => write!(f, "what was from offset {offset} on is gone"),
            LostHistory::Somewhere { .. } => f.write_str("from where on is not known"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_was_written_by_the_first_release_this_one_and_later_ones() {
        let position = |epoch| StoredPosition { offset: 7, epoch };
        for stored in [position(None), position(Some(4_097))] {
            assert_eq!(StoredPosition::read(&stored.to_bytes()), Some(stored));
        }
        let mut later = position(Some(1)).to_bytes();
        later.extend_from_slice(b"more");
        assert_eq!(StoredPosition::read(&later), Some(position(Some(1))));
        assert_eq!(StoredPosition::read(&[0; 7]), None);
        assert_eq!(StoredPosition::read(&[0; 10]), None);
    }
}
