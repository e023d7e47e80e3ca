//! Reading batches out of a segment: large reads, cut at batch boundaries, the
//! batches sharing the memory that was read into.

use std::sync::Arc;

use bytes::Bytes;
use eddy_protocol::Batch;
use eddy_protocol::batch::{self, Header};

use super::files::Files;
use super::{Fault, HEADER_BYTES, Hole, Key};
use crate::io::{File, read_exact_at};

const BATCH_HEADER_BYTES: usize = batch::HEADER_BYTES;
const CHUNK_BYTES_MIN: u64 = 64 << 10;
const CHUNK_BYTES_MAX: u64 = 1 << 20;

/// A position in a segment: a batch with this base offset begins at this byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) offset: u64,
    pub(crate) at: u64,
}

/// What was read, and where the next read goes on.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) batches: Vec<Batch>,
    pub(crate) next: Position,
}

/// What to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Batches that end at or before this offset are left out.
    pub(crate) offset: u64,
    /// Stop after the batch with which their [`expanded_len`](Batch::expanded_len) passes this many bytes.
    pub(crate) bytes_max: u64,
    /// How much of the file is in use.
    pub(crate) len: u64,
}

/// Reads from `from` on. Every batch that is returned was checked: its
/// checksum, and that it begins where the one before ended.
pub(crate) fn read(
    files: &Files,
    key: Key,
    from: Position,
    wanted: Wanted,
) -> Result<Fetched, Fault> {
    read_over(files, key, from, wanted, &[])
}

/// As [`read`]; ends at a hole, and the next position is behind it.
pub(crate) fn read_over(
    files: &Files,
    key: Key,
    from: Position,
    wanted: Wanted,
    holes: &[Hole],
) -> Result<Fetched, Fault> {
    let mut reader = Reader::open(files, key, from, wanted.len, holes)?;
    let mut batches = Vec::new();
    match reader.fill(&mut batches, wanted) {
        // What is whole before the damage is whole; the next read says what is not.
        Err(Fault::Damaged { .. }) if !batches.is_empty() => {}
        other => other?,
    }
    Ok(Fetched {
        batches,
        next: reader.next,
    })
}

/// A chunk and how much of it was used.
struct Cut<'a> {
    chunk: &'a Bytes,
    at: usize,
}

impl Cut<'_> {
    fn take(&mut self, length: usize) -> Bytes {
        let from = self.at;
        self.at += length;
        self.chunk.slice(from..self.at)
    }
}

struct Reader<'a> {
    files: &'a Files,
    key: Key,
    file: Arc<dyn File>,
    next: Position,
    len: u64,
    holes: &'a [Hole],
}

impl<'a> Reader<'a> {
    fn open(
        files: &'a Files,
        key: Key,
        next: Position,
        len: u64,
        holes: &'a [Hole],
    ) -> Result<Reader<'a>, Fault> {
        let mut reader = Reader {
            files,
            key,
            file: files.open(key)?,
            next,
            len,
            holes,
        };
        reader.skip();
        Ok(reader)
    }

    /// From the first batch on, whatever the header is.
    fn of_any(files: &'a Files, key: Key, len: u64) -> Result<Reader<'a>, Fault> {
        let file = files.open_unchecked(key);
        Ok(Reader {
            files,
            key,
            file: file.map_err(|error| files.fault(key, &error))?,
            next: Position {
                offset: key.base,
                at: HEADER_BYTES,
            },
            len,
            holes: &[],
        })
    }

    /// Goes over the holes that begin here; says whether there were any. One that
    /// begins where the segment ends is the next one's.
    fn skip(&mut self) -> bool {
        let before = self.next;
        while self.next.at < self.len
            && let Some(hole) = self.holes.iter().find(|hole| hole.from == self.next.offset)
        {
            self.next = Position {
                offset: hole.to,
                at: hole.at,
            };
        }
        self.next != before
    }

    fn fill(&mut self, batches: &mut Vec<Batch>, wanted: Wanted) -> Result<(), Fault> {
        let mut bytes = 0;
        let mut chunk_bytes = wanted.bytes_max.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        while bytes < wanted.bytes_max && self.next.at < wanted.len {
            let chunk = self.chunk(chunk_bytes)?;
            let mut cut = Cut {
                chunk: &chunk,
                at: 0,
            };
            while let Some(header) = self.peek(&cut)? {
                let encoded = cut.take(header.length());
                if header.end_offset() > wanted.offset {
                    let batch = self.check(encoded)?;
                    bytes += batch.expanded_len() as u64;
                    batches.push(batch);
                }
                let is_hole = self.advance(&header);
                if is_hole || bytes >= wanted.bytes_max {
                    break;
                }
            }
            if cut.at == 0 {
                chunk_bytes = self.larger(&chunk)?;
            } else if !batches.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn chunk(&self, chunk_bytes: u64) -> Result<Bytes, Fault> {
        let length = chunk_bytes.min(self.len.saturating_sub(self.next.at));
        let length = usize::try_from(length)
            .map_err(|_| self.damaged("a batch is too large to read".to_owned()))?;
        let mut chunk = vec![0; length];
        match read_exact_at(&*self.file, &mut chunk, self.next.at) {
            Ok(()) => Ok(Bytes::from(chunk)),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(error.to_string()))
            }
            Err(error) => Err(self.files.fault(self.key, &error)),
        }
    }

    /// The header at the cut, if the whole batch is in the chunk.
    fn peek(&self, cut: &Cut<'_>) -> Result<Option<Header>, Fault> {
        let rest = &cut.chunk[cut.at..];
        if rest.len() < BATCH_HEADER_BYTES {
            return Ok(None);
        }
        let header = self.header(rest)?;
        Ok((header.length() <= rest.len()).then_some(header))
    }

    fn header(&self, bytes: &[u8]) -> Result<Header, Fault> {
        let header = batch::peek(bytes).map_err(|error| self.damaged(error.to_string()))?;
        if header.base_offset() != self.next.offset {
            let (expected, found) = (self.next.offset, header.base_offset());
            return Err(self.damaged(format!("offset {expected} should be here, {found} is")));
        }
        Ok(header)
    }

    fn check(&self, encoded: Bytes) -> Result<Batch, Fault> {
        let batch =
            Batch::parse_trusted(encoded).map_err(|error| self.damaged(error.to_string()))?;
        batch
            .check()
            .map_err(|error| self.damaged(error.to_string()))?;
        Ok(batch)
    }

    /// Goes on behind a batch; says whether it went over a hole.
    fn advance(&mut self, header: &Header) -> bool {
        self.next = Position {
            offset: header.end_offset(),
            at: self.next.at + header.length() as u64,
        };
        self.skip()
    }

    /// How large the chunk must be that holds the next batch, which `chunk` does not.
    fn larger(&self, chunk: &Bytes) -> Result<u64, Fault> {
        if chunk.len() < BATCH_HEADER_BYTES {
            return Err(self.damaged("the file ends within a batch's header".to_owned()));
        }
        let length = self.header(chunk)?.length() as u64;
        if length > self.len - self.next.at {
            return Err(self.damaged(format!(
                "a batch of {length} bytes runs beyond the file's end"
            )));
        }
        Ok(length)
    }

    fn damaged(&self, reason: String) -> Fault {
        self.files.damaged(self.key, self.next.at, reason)
    }
}

/// Goes from batch to batch by their headers alone.
pub(crate) struct HeaderScan<'a> {
    reader: Reader<'a>,
    chunk: Bytes,
    chunk_at: u64,
}

impl<'a> HeaderScan<'a> {
    /// From the batch with this base offset at this position to the end of what is in use.
    pub(crate) fn new(
        files: &'a Files,
        key: Key,
        from: Position,
        len: u64,
        holes: &'a [Hole],
    ) -> Result<HeaderScan<'a>, Fault> {
        let reader = Reader::open(files, key, from, len, holes)?;
        Ok(HeaderScan {
            reader,
            chunk: Bytes::new(),
            chunk_at: from.at,
        })
    }

    /// The next batch's position and header.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Header)>, Fault> {
        let at = self.reader.next.at;
        if at >= self.reader.len {
            return Ok(None);
        }
        let within = usize::try_from(at - self.chunk_at).unwrap_or(usize::MAX);
        let rest = self.chunk.get(within..).unwrap_or_default();
        if rest.len() < BATCH_HEADER_BYTES {
            // Where batches are large, most of a large chunk would be read for nothing.
            let skipped = self.chunk.is_empty() || within > self.chunk.len();
            self.chunk = self
                .reader
                .chunk(if skipped { 4096 } else { CHUNK_BYTES_MIN })?;
            self.chunk_at = at;
        }
        let within = usize::try_from(at - self.chunk_at).unwrap_or(usize::MAX);
        let header = self.reader.chunk_header(&self.chunk, within)?;
        if header.length() as u64 > self.reader.len - at {
            return Err(self
                .reader
                .damaged("a batch runs beyond the file's end".to_owned()));
        }
        self.reader.advance(&header);
        Ok(Some((at, header)))
    }
}

impl Reader<'_> {
    fn chunk_header(&self, chunk: &Bytes, within: usize) -> Result<Header, Fault> {
        match chunk.get(within..within + BATCH_HEADER_BYTES) {
            Some(bytes) => self.header(bytes),
            None => Err(self.damaged("the file ends within a batch's header".to_owned())),
        }
    }
}

/// What of a segment cannot be read, up to the offset `until` where the next
/// one begins; `marks` are positions at which a batch may begin. Everything behind
/// damage counts as lost up to the next batch that is whole and was there for
/// certain: the one behind the damaged one, or one that a mark names. Bytes that
/// only look like a batch may be a user's.
pub(crate) fn survey(
    files: &Files,
    key: Key,
    (len, until): (u64, u64),
    marks: &[Position],
) -> Result<Vec<Hole>, Fault> {
    let mut reader = Reader::of_any(files, key, len)?;
    // It may have been cut.
    let found = reader.file.len();
    reader.len = len.min(found.map_err(|error| files.fault(key, &error))?);
    let mut holes: Vec<Hole> = Vec::new();
    let wanted = Wanted {
        offset: 0,
        bytes_max: CHUNK_BYTES_MAX,
        len: reader.len,
    };
    while reader.next.offset < until {
        let before = reader.next;
        match reader.fill(&mut Vec::new(), wanted) {
            Ok(()) if reader.next != before => {}
            Ok(()) | Err(Fault::Damaged { .. }) => {
                let from = reader.next.offset;
                let next = reader.behind(marks)?.filter(|next| next.offset < until);
                reader.next = next.unwrap_or(Position {
                    offset: until,
                    at: len,
                });
                let (to, at) = (reader.next.offset, reader.next.at);
                match holes.last_mut().filter(|last| last.to == from) {
                    Some(last) => (last.to, last.at) = (to, at),
                    None => holes.push(Hole { from, to, at }),
                }
            }
            Err(fault) => return Err(fault),
        }
    }
    Ok(holes)
}

impl Reader<'_> {
    /// The batch here, checked.
    fn one(&self) -> Result<Header, Fault> {
        let header = self.header(&self.chunk(BATCH_HEADER_BYTES as u64)?)?;
        let encoded = self.chunk(header.length() as u64)?;
        if encoded.len() < header.length() {
            return Err(self.damaged("the file ends within a batch".to_owned()));
        }
        self.check(encoded)?;
        Ok(header)
    }

    /// The next whole batch behind the one here, which is damaged.
    fn behind(&mut self, marks: &[Position]) -> Result<Option<Position>, Fault> {
        let here = self.next;
        let head = self.chunk(BATCH_HEADER_BYTES as u64)?;
        let next = batch::peek(&head).ok().map(|header| Position {
            offset: header.end_offset(),
            at: here.at.saturating_add(header.length() as u64),
        });
        for position in next.iter().chain(marks) {
            if position.offset <= here.offset || position.at <= here.at || position.at >= self.len {
                continue;
            }
            self.next = *position;
            let found = self.one();
            self.next = here;
            match found {
                Ok(_) => return Ok(Some(*position)),
                Err(Fault::Damaged { .. }) => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(None)
    }
}

/// The batch at the beginning of these bytes, checked; if `offset` is given, it
/// must begin with that.
pub(crate) fn next_batch(bytes: &Bytes, offset: Option<u64>) -> Result<Batch, String> {
    let header = batch::peek(bytes).map_err(|error| error.to_string())?;
    let found = header.base_offset();
    if let Some(offset) = offset.filter(|offset| *offset != found) {
        return Err(format!("offset {offset} should be here, {found} is"));
    }
    if header.length() > bytes.len() {
        return Err("the file ends within a batch".to_owned());
    }
    let batch = Batch::parse_trusted(bytes.slice(..header.length()));
    let batch = batch.map_err(|error| error.to_string())?;
    batch.check().map_err(|error| error.to_string())?;
    Ok(batch)
}
