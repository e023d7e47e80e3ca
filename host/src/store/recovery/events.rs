//! The journal's files as one run of events, over the seams between files.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::io::{Disk, read_all};
use crate::store::error::OpenError;
use crate::store::journal::scan::{Found, Group, Scan};
use crate::store::journal::{self, FILE_HEADER_BYTES, FileHeader};

/// Something in the journal, and the file that it is in (by its first sequence).
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) file: u64,
    pub(crate) what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Group(Group),
    /// Groups with these sequences are not there any more.
    Lost {
        /// 0: the file before this one ends without them, or is missing.
        at: u64,
        bytes: u64,
        sequences: (u64, u64),
    },
    /// Nothing can be read from here to the journal's end.
    Rest {
        at: u64,
        bytes: u64,
        sequence: u64,
        /// Whether it is the beginning of a group: a write that a crash cut off.
        is_cut_off: bool,
    },
}

impl Event {
    /// Whether something here is not as it was written.
    pub(crate) fn is_damage(&self) -> bool {
        match &self.what {
            What::Group(group) => !group.is_whole,
            What::Lost { .. } | What::Rest { .. } => true,
        }
    }

    /// The first sequence that this is about.
    pub(crate) fn sequence(&self) -> u64 {
        match &self.what {
            What::Group(group) => group.header.sequence,
            What::Lost { sequences, .. } => sequences.0,
            What::Rest { sequence, .. } => *sequence,
        }
    }

    /// The newest sequence that was known to be synced when this was written.
    pub(crate) fn synced_through(&self) -> u64 {
        match &self.what {
            What::Group(group) => group.header.synced_through,
            _ => 0,
        }
    }
}

/// Reads the journal's files one after the other.
#[derive(Debug)]
pub(crate) struct Events {
    disk: Arc<dyn Disk>,
    salt: u64,
    files: VecDeque<(u64, u64)>,
    scan: Option<(u64, Scan)>,
    next: u64,
    /// A rest whose meaning depends on what the next file begins with.
    held: Option<Event>,
    queue: VecDeque<Event>,
    /// Where the next file begins: what the one that is read holds from there on was cut.
    until: u64,
    /// How many bytes of groups the files have.
    pub(crate) bytes: u64,
    /// The boot in which the newest file was written to; `None` if damage hides it.
    pub(crate) boot: Option<u64>,
    /// Files whose header cannot be read although groups follow.
    pub(crate) bad_headers: Vec<u64>,
    /// Files with something that was cut.
    pub(crate) cut: Vec<u64>,
    /// The newest file, if it is too short to have a header.
    pub(crate) headless: Option<u64>,
}

impl Events {
    /// Everything from the group `first` on.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        salt: u64,
        files: Vec<(u64, u64)>,
        first: u64,
    ) -> Events {
        Events {
            disk,
            salt,
            bytes: files
                .iter()
                .map(|(_, bytes)| bytes.saturating_sub(FILE_HEADER_BYTES as u64))
                .sum(),
            until: u64::MAX,
            files: files.into(),
            scan: None,
            next: first,
            held: None,
            queue: VecDeque::new(),
            boot: None,
            bad_headers: Vec::new(),
            cut: Vec::new(),
            headless: None,
        }
    }

    /// The next event.
    pub(crate) fn next(&mut self) -> Result<Option<Event>, OpenError> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(Some(event));
            }
            let Some((file, scan)) = &mut self.scan else {
                if !self.open_next()? {
                    return Ok(self.held.take());
                }
                continue;
            };
            let file = *file;
            match scan.next() {
                None => {
                    self.next = self.next.max(scan.next_sequence().min(self.until));
                    self.scan = None;
                }
                Some(Found::Newer { what }) => {
                    let path = self.disk.describe(&journal::path_of(file));
                    return Err(OpenError::Newer { path, what });
                }
                Some(found) => self.take(file, found),
            }
        }
    }

    fn take(&mut self, file: u64, found: Found) {
        let event = |what| Event { file, what };
        let begin = match &found {
            Found::Group(group) => group.header.sequence,
            Found::Lost { sequences, .. } => sequences.0,
            Found::Rest { sequence, .. } => *sequence,
            Found::Newer { .. } => return,
        };
        if begin >= self.until {
            if self.cut.last() != Some(&file) {
                self.cut.push(file);
            }
            return;
        }
        match found {
            // Already covered: by the checkpoint, or because an older file was cut.
            Found::Group(group) if group.header.sequence < self.next => {}
            Found::Group(group) => {
                self.next = group.header.sequence + 1;
                self.queue.push_back(event(What::Group(group)));
            }
            Found::Lost {
                at,
                bytes,
                sequences: (first, last),
            } => {
                let last = last.min(self.until - 1);
                if last >= self.next {
                    let sequences = (first.max(self.next), last);
                    self.queue.push_back(event(What::Lost {
                        at,
                        bytes,
                        sequences,
                    }));
                    self.next = last + 1;
                }
            }
            Found::Rest {
                at,
                bytes,
                sequence,
                is_cut_off,
            } => {
                self.held = Some(event(What::Rest {
                    at,
                    bytes,
                    sequence: sequence.max(self.next),
                    is_cut_off,
                }));
            }
            Found::Newer { .. } => {}
        }
    }

    fn open_next(&mut self) -> Result<bool, OpenError> {
        let Some((first, _)) = self.files.pop_front() else {
            return Ok(false);
        };
        self.until = self.files.front().map_or(u64::MAX, |(next, _)| *next);
        let path = journal::path_of(first);
        let bytes = self.disk.open_read(&path).and_then(|file| read_all(&*file));
        let bytes = Bytes::from(bytes.map_err(|source| OpenError::Io {
            action: "read",
            path: self.disk.describe(&path),
            source,
        })?);
        match FileHeader::decode(&bytes) {
            Some(header) => self.boot = Some(header.boot),
            None if bytes.len() > FILE_HEADER_BYTES => {
                self.boot = None;
                self.bad_headers.push(first);
            }
            // No crash leaves it so: a file gets its name when its header is synced.
            None => self.headless = self.files.is_empty().then_some(first),
        }
        if let Some(held) = self.held.take() {
            if first > self.next {
                self.queue.push_back(held.lost_until(first));
                self.next = first;
            }
        } else if first > self.next {
            let what = What::Lost {
                at: 0,
                bytes: 0,
                sequences: (self.next, first - 1),
            };
            self.queue.push_back(Event { file: first, what });
            self.next = first;
        }
        self.scan = Some((first, Scan::new(bytes, self.salt, first)));
        Ok(true)
    }
}

impl Event {
    /// A rest behind which a file with this first sequence follows.
    fn lost_until(self, next: u64) -> Event {
        match self.what {
            What::Rest {
                at,
                bytes,
                sequence,
                ..
            } => Event {
                file: self.file,
                what: What::Lost {
                    at,
                    bytes,
                    sequences: (sequence, next - 1),
                },
            },
            other => Event {
                file: self.file,
                what: other,
            },
        }
    }
}
