//! A group: the commits that one write puts into the journal.
//!
//! ```text
//! 0        4        8                16               24               32
//! +--------+--------+----------------+----------------+----------------+
//! | magic  | crc    | salt           | sequence       | synced through |
//! +--------+--------+----------------+----------------+----------------+
//! | time ms         | records before | changes before | payload bytes  |
//! +-----------------+----------------+----------------+----------------+
//! 64 directory bytes u32 | 68 operations u32 | 72 check u32 | 76 needs u32  80
//! directory   the operations, filled with zeros to a multiple of 8
//! payload     the batches of the appends in their order, filled likewise
//! directory   again
//! header      again, with another magic
//! ```
//!
//! Little endian. `crc` is CRC-32C over bytes 8..80 of the header and the
//! directory; a batch carries its own checksum, so the payload is not summed a
//! second time. `check` is CRC-32C over bytes 8..72 alone: it tells the beginning
//! of a group that a crash cut off, where `crc` can't be checked any more, from
//! a header whose numbers are damaged. Groups from before it was there have 0.
//! The second copy tells after damage what the group did. Groups
//! follow each other without a gap; their sequences rise by one, also from file
//! to file. `salt` is the data folder's: bytes of users that look like a group
//! are not taken for one.
//!
//! `needs` is 0; a group that a reader of this release must not read has another
//! number there, and is refused. What else a group should say about itself is for
//! an operation of a kind that older readers skip.
//!
//! `synced through` is the highest sequence that was known to be synced when
//! the group was written: a bad group at or below it held acknowledged data.
//! `records before` and `changes before` count all offsets and all operations
//! but appends of the journal's whole past: where groups are missing, they tell
//! whether what the segments hold makes up for all of it.

use bytes::{Buf, BufMut, Bytes};

use super::operation::Operation;
use crate::store::field::Unreadable;

/// Bytes of a group's header.
pub(crate) const HEADER_BYTES: usize = 80;
/// Where a header's own checksum is: over what is before it, from byte 8 on.
const CHECK_AT: usize = 72;
const HEAD: u32 = u32::from_le_bytes(*b"EGRP");
const TAIL: u32 = u32::from_le_bytes(*b"EGRT");
/// A directory larger than this is damage, not a directory.
pub(crate) const DIRECTORY_BYTES_MAX: u32 = 1 << 30;

/// The numbers in a group's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Header {
    pub(crate) salt: u64,
    pub(crate) sequence: u64,
    pub(crate) synced_through: u64,
    pub(crate) time_ms: i64,
    pub(crate) records_before: u64,
    pub(crate) changes_before: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) directory_bytes: u32,
    pub(crate) operations: u32,
    /// What a reader must know to read the group; see the module.
    pub(crate) needs: u32,
}

/// Which of the two copies of a group's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderCopy {
    First,
    Second,
}

impl Header {
    /// How many bytes the whole group takes.
    pub(crate) fn group_bytes(&self) -> u64 {
        let directory = u64::from(self.directory_bytes).next_multiple_of(8);
        let payload = self.payload_bytes.saturating_add(7) / 8 * 8;
        payload.saturating_add(2 * (HEADER_BYTES as u64 + directory))
    }

    /// Where the payload begins, from the group's beginning.
    pub(crate) fn payload_at(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.directory_bytes).next_multiple_of(8)
    }

    fn encode(&self, copy: HeaderCopy, directory: &[u8]) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut out = &mut bytes[8..];
        out.put_u64_le(self.salt);
        out.put_u64_le(self.sequence);
        out.put_u64_le(self.synced_through);
        out.put_i64_le(self.time_ms);
        out.put_u64_le(self.records_before);
        out.put_u64_le(self.changes_before);
        out.put_u64_le(self.payload_bytes);
        out.put_u32_le(self.directory_bytes);
        out.put_u32_le(self.operations);
        let check = crc32c::crc32c(&bytes[8..CHECK_AT]);
        bytes[CHECK_AT..CHECK_AT + 4].copy_from_slice(&check.to_le_bytes());
        bytes[CHECK_AT + 4..].copy_from_slice(&self.needs.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[8..]), directory);
        bytes[..4].copy_from_slice(&copy.magic().to_le_bytes());
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header's numbers; says nothing yet about whether they are right.
    fn decode(bytes: &[u8], copy: HeaderCopy) -> Option<(Header, u32)> {
        let mut from = bytes.get(..HEADER_BYTES)?;
        if from.get_u32_le() != copy.magic() {
            return None;
        }
        let crc = from.get_u32_le();
        let header = Header {
            salt: from.get_u64_le(),
            sequence: from.get_u64_le(),
            synced_through: from.get_u64_le(),
            time_ms: from.get_i64_le(),
            records_before: from.get_u64_le(),
            changes_before: from.get_u64_le(),
            payload_bytes: from.get_u64_le(),
            directory_bytes: from.get_u32_le(),
            operations: from.get_u32_le(),
            needs: (&bytes[CHECK_AT + 4..]).get_u32_le(),
        };
        (header.directory_bytes <= DIRECTORY_BYTES_MAX).then_some((header, crc))
    }
}

impl HeaderCopy {
    fn magic(self) -> u32 {
        match self {
            HeaderCopy::First => HEAD,
            HeaderCopy::Second => TAIL,
        }
    }
}

/// The bytes of a group that lie before and behind the payload.
#[derive(Debug, Default)]
pub(crate) struct GroupFrame {
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
}

/// Encodes everything of a group but its payload.
pub(crate) fn encode(header: &Header, directory: &[u8]) -> GroupFrame {
    let padding = |length: usize| length.next_multiple_of(8) - length;
    let payload_padding = (8 - header.payload_bytes % 8) % 8;
    let mut before = Vec::with_capacity(HEADER_BYTES + directory.len() + 8);
    before.extend_from_slice(&header.encode(HeaderCopy::First, directory));
    before.extend_from_slice(directory);
    before.resize(before.len() + padding(directory.len()), 0);
    let mut after = Vec::with_capacity(HEADER_BYTES + directory.len() + 16);
    after.put_bytes(0, usize::try_from(payload_padding).unwrap_or(0));
    after.extend_from_slice(directory);
    after.put_bytes(0, padding(directory.len()));
    after.extend_from_slice(&header.encode(HeaderCopy::Second, directory));
    GroupFrame { before, after }
}

/// The header at the beginning of `bytes` and its directory, if they are whole.
pub(crate) fn head(bytes: &Bytes, salt: u64) -> Option<(Header, Bytes)> {
    let (header, crc) = Header::decode(bytes, HeaderCopy::First)?;
    let end = HEADER_BYTES.checked_add(header.directory_bytes as usize)?;
    let directory = (end <= bytes.len()).then(|| bytes.slice(HEADER_BYTES..end))?;
    is_whole(bytes, &directory, crc, header.salt == salt).then_some((header, directory))
}

/// Whether these bytes, which end where the file ends, are the beginning of the
/// group `sequence` and nothing else: what a write leaves that a crash cut off.
/// Only numbers that a checksum vouches for may say that something is missing: a
/// group that is all there and damaged was acknowledged. Where the cut leaves no
/// whole header, the bytes' number says it: no group is that short.
pub(crate) fn is_cut_off(bytes: &Bytes, salt: u64, sequence: u64) -> bool {
    if bytes.len() < HEADER_BYTES {
        return true;
    }
    let Some((header, _)) = Header::decode(bytes, HeaderCopy::First) else {
        return false;
    };
    let has_directory = HEADER_BYTES + header.directory_bytes as usize <= bytes.len();
    let is_vouched_for = match has_directory {
        true => head(bytes, salt).is_some(),
        false => has_check(bytes) && header.salt == salt,
    };
    is_vouched_for && header.sequence == sequence && header.group_bytes() > bytes.len() as u64
}

/// Whether a header's numbers are as they were written.
fn has_check(bytes: &[u8]) -> bool {
    bytes[CHECK_AT..CHECK_AT + 4] == crc32c::crc32c(&bytes[8..CHECK_AT]).to_le_bytes()
}

/// The second copies of header and directory that end at `end`, if they are whole.
pub(crate) fn tail(bytes: &Bytes, end: usize, salt: u64) -> Option<(Header, Bytes)> {
    let at = end.checked_sub(HEADER_BYTES)?;
    let (header, crc) = Header::decode(bytes.get(at..end)?, HeaderCopy::Second)?;
    let length = header.directory_bytes as usize;
    let from = at.checked_sub(length.next_multiple_of(8))?;
    let directory = bytes.slice(from..from + length);
    is_whole(&bytes[at..end], &directory, crc, header.salt == salt).then_some((header, directory))
}

/// Whether a header may begin at `bytes`: the two magics, cheap to look for.
pub(crate) fn looks_like(bytes: &[u8]) -> Option<HeaderCopy> {
    let magic = u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    match magic {
        HEAD => Some(HeaderCopy::First),
        TAIL => Some(HeaderCopy::Second),
        _ => None,
    }
}

fn is_whole(header: &[u8], directory: &[u8], crc: u32, salted: bool) -> bool {
    salted && crc32c::crc32c_append(crc32c::crc32c(&header[8..HEADER_BYTES]), directory) == crc
}

/// The operations of a group's directory. That they are damaged, a right checksum rules out.
pub(crate) fn operations(
    header: &Header,
    mut directory: Bytes,
) -> Result<Vec<Operation>, Unreadable> {
    if header.needs > 0 {
        return Err(Unreadable::Newer(format!(
            "groups that need {}",
            header.needs
        )));
    }
    let count = header.operations as usize;
    let mut found = Vec::with_capacity(count.min(directory.len()));
    for _ in 0..count {
        found.push(Operation::decode(&mut directory)?);
    }
    if directory.is_empty() {
        Ok(found)
    } else {
        Err(Unreadable::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(directory: &[u8], payload_bytes: u64) -> Header {
        Header {
            salt: 7,
            sequence: 42,
            synced_through: 40,
            time_ms: -3,
            records_before: 5,
            changes_before: 6,
            payload_bytes,
            directory_bytes: directory.len() as u32,
            operations: 1,
            needs: 0,
        }
    }

    #[test]
    fn both_copies_of_a_group_are_read_back_for_every_padding() {
        for directory_bytes in 0..20 {
            for payload_bytes in 0..20 {
                let directory = vec![1; directory_bytes];
                let header = header(&directory, payload_bytes);
                let frame = encode(&header, &directory);
                let mut bytes = frame.before;
                bytes.extend(vec![9; payload_bytes as usize]);
                bytes.extend(frame.after);
                assert_eq!(bytes.len() as u64, header.group_bytes());
                let bytes = Bytes::from(bytes);
                assert_eq!(
                    head(&bytes, 7),
                    Some((header, Bytes::from(directory.clone())))
                );
                assert_eq!(
                    tail(&bytes, bytes.len(), 7),
                    Some((header, Bytes::from(directory)))
                );
                assert_eq!(head(&bytes, 8), None);
            }
        }
    }

    #[test]
    fn a_group_that_is_cut_off_anywhere_is_known_as_one_and_a_changed_one_is_not() {
        let directory = [3; 24];
        let frame = encode(&header(&directory, 100), &directory);
        let mut whole = frame.before.clone();
        whole.extend([9; 100]);
        whole.extend(&frame.after);
        for end in 0..whole.len() {
            let bytes = Bytes::copy_from_slice(&whole[..end]);
            assert!(is_cut_off(&bytes, 7, 42), "cut at {end}");
            assert_eq!(is_cut_off(&bytes, 7, 41), end < HEADER_BYTES);
        }
        assert!(!is_cut_off(&Bytes::from(whole.clone()), 7, 42));
        let mut changed = whole.clone();
        changed[HEADER_BYTES] ^= 1;
        let bytes = Bytes::copy_from_slice(&changed[..whole.len() - 1]);
        assert!(!is_cut_off(&bytes, 7, 42));
        // Whatever a whole group's header says now: nothing was cut off.
        for from in 0..HEADER_BYTES {
            for mask in [1, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[from..].iter_mut().for_each(|byte| *byte ^= mask);
                assert!(!is_cut_off(&Bytes::from(changed), 7, 42), "byte {from}");
            }
        }
    }

    #[test]
    fn any_changed_byte_of_header_or_directory_is_noticed() {
        let directory = [3; 24];
        let frame = encode(&header(&directory, 0), &directory);
        for position in 0..frame.before.len() {
            let mut bytes = frame.before.clone();
            bytes[position] ^= 0x10;
            assert_eq!(head(&Bytes::from(bytes), 7), None, "byte {position}");
        }
    }
}
