//! The journal's files as one run of events, over the seams between files.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::io::{Disk, read_all};
use crate::store::error::OpenError;
use crate::store::journal::scan::{Scan, Scanned};
use crate::store::journal::{self, FILE_HEADER_BYTES, FileHeader};

/// Something in the journal, and the file that it is in (by its first sequence).
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) file: u64,
    pub(crate) what: Scanned,
}

impl Event {
    /// Whether something here is not as it was written.
    pub(crate) fn is_damage(&self) -> bool {
        !matches!(&self.what, Scanned::Group(group) if group.is_whole)
    }

    /// The newest sequence that was known to be synced when this was written.
    pub(crate) fn synced_through(&self) -> u64 {
        match &self.what {
            Scanned::Group(group) => group.header.synced_through,
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
                Some(Scanned::Newer { what }) => {
                    let path = self.disk.describe(&journal::path_of(file));
                    return Err(OpenError::Newer { path, what });
                }
                Some(what) => self.take(Event { file, what }),
            }
        }
    }

    fn take(&mut self, mut event: Event) {
        if event.what.sequence() >= self.until {
            if self.cut.last() != Some(&event.file) {
                self.cut.push(event.file);
            }
            return;
        }
        match &mut event.what {
            // Already covered: by the checkpoint, or because an older file was cut.
            Scanned::Group(group) if group.header.sequence < self.next => return,
            Scanned::Group(group) => self.next = group.header.sequence + 1,
            Scanned::Lost { sequences, .. } => {
                sequences.0 = sequences.0.max(self.next);
                sequences.1 = sequences.1.min(self.until - 1);
                if sequences.1 < self.next {
                    return;
                }
                self.next = sequences.1 + 1;
            }
            Scanned::Rest { sequence, .. } => {
                *sequence = self.next.max(*sequence);
                self.held = Some(event);
                return;
            }
            Scanned::Newer { .. } => {}
        }
        self.queue.push_back(event);
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
        let held = self.held.take();
        if first > self.next {
            self.queue.push_back(lost(held, self.next, first));
            self.next = first;
        }
        self.scan = Some((first, Scan::new(bytes, self.salt, first)));
        Ok(true)
    }
}

/// What is missing before the file `first`: a rest that was held back, or all from `next` on.
fn lost(held: Option<Event>, next: u64, first: u64) -> Event {
    let (file, at, bytes, from) = match held {
        Some(Event {
            file,
            what:
                Scanned::Rest {
                    at,
                    bytes,
                    sequence,
                    ..
                },
        }) => (file, at, bytes, sequence),
        _ => (first, 0, 0, next),
    };
    let sequences = (from, first - 1);
    let what = Scanned::Lost {
        at,
        bytes,
        sequences,
    };
    Event { file, what }
}
