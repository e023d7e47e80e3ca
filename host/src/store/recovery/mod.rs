//! Opening a data folder: the checkpoint is read, the journal behind it is
//! replayed over the segments, and damage is told apart.
//!
//! - A bad group that nothing behind it knows to be synced (or, if the machine
//!   has not stopped since, written) is a **torn tail**: it is cut, and a line in
//!   the log says how much went.
//! - Any other bad group held acknowledged data: **damage in the middle**. What
//!   can be proven whole goes on (see [`salvage`]); partitions of which that
//!   can't be said are stopped until they are repaired, with a reason that says
//!   why; the damaged file is kept aside.
//! - Tables without which nothing makes sense or that are older than the rest
//!   of the folder, or a folder of a newer Eddy: the store does not open, and says
//!   which file.
//!
//! A crash during recovery is harmless: until it has begun a journal file with
//! what it found out, which is there whole or not at all, the journal stays as
//! it was found, and all of it can be done again.

pub(crate) mod events;
mod finish;
mod lost_end;
mod part;
pub(crate) mod replay;
mod salvage;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use eddy_protocol::Batch;
use rustc_hash::{FxHashMap, FxHashSet};

use self::events::{Event, Events};
use self::replay::Replay;
use super::aside;
use super::config::Config;
use super::context::Wake;
use super::core::{Core, Recovered};
use super::error::OpenError;
use super::format::{self, numbered};
use super::journal;
use super::journal::operation::Operation;
use super::journal::scan::{Group, Scanned};
use super::partition::Shared;
use super::producer::PartitionKey;
use super::room::release_reserve;
use super::row::{Kept, RowError, Totals};
use super::segment;
use super::segment::files::Files;
use super::state::Collected;
use super::table::{self, Changes, Tables, WriteError};
use crate::io::{Clock, Disk, Entry, is_full};
use crate::log::{TableError, TopicId};

/// Segment files: for each partition base and length.
pub(crate) type Listing = FxHashMap<PartitionKey, BTreeMap<u64, u64>>;

/// Opens the data folder on `disk`; `wake` wakes the store's threads.
pub(crate) fn open(
    config: Config,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    wake: Wake,
) -> Result<Core, OpenError> {
    let opened = match recover(&config, &disk, &clock) {
        Err(OpenError::Io { source, .. }) if is_full(&source) && release_reserve(&*disk) => {
            tracing::warn!("the disk is full; recovery uses the room that was kept for this");
            recover(&config, &disk, &clock)
        }
        other => other,
    };
    Ok(Core::new(opened?, wake))
}

fn recover(
    config: &Config,
    disk: &Arc<dyn Disk>,
    clock: &Arc<dyn Clock>,
) -> Result<Recovered, OpenError> {
    let lock = disk.lock()?;
    let salt = format::open_or_create(&**disk)?;
    let tables = Tables::open(disk.clone(), config.table_cache_bytes)
        .map_err(|error| table_fault(&**disk, &error))?;
    let kept = read_checkpoint(&**disk, &tables)?;
    let fault = |action, path: &str, source| OpenError::Io {
        action,
        path: disk.describe(path),
        source,
    };
    disk.create_dir(journal::FOLDER)
        .map_err(|source| fault("create", journal::FOLDER, source))?;
    disk.keep_dir(journal::FOLDER)
        .map_err(|source| fault("open", journal::FOLDER, source))?;
    journal::next::remove_spare(&**disk)
        .and_then(|()| journal::adopt_prepared(&**disk, salt))
        .map_err(|source| fault("write", journal::FOLDER, source))?;
    let journal_files =
        journal::list(&**disk).map_err(|source| fault("list", journal::FOLDER, source))?;
    if journal_files.is_empty() {
        // The folder may be new; the files in it are as durable as its name.
        disk.sync_dir("")
            .map_err(|source| fault("sync", "", source))?;
    }
    let (listing, strays) =
        list_segments(&**disk).map_err(|source| fault("list", segment::FOLDER, source))?;
    let state = kept.state.unwrap_or(Totals {
        next_topic: 1,
        next_producer: 1,
        ..Totals::default()
    });
    check_journal(&**disk, &kept, &journal_files, &listing)?;

    let files = Arc::new(Files::new(
        disk.clone(),
        config.open_files_max,
        config.index_interval_bytes,
    ));
    let shared = Shared {
        files,
        tails_bytes: Arc::default(),
    };
    let mut replay = Replay::new(
        config.clone(),
        shared,
        kept.topics,
        kept.partitions,
        listing,
    );
    replay
        .states
        .read_lost(&tables)
        .map_err(|error| table_fault(&**disk, &error))?;
    (replay.records, replay.changes) = (state.records, state.changes);
    replay.next_topic = state.next_topic;
    replay.producers.next_id = state.next_producer;
    for (id, identity) in kept.identities {
        replay.producers.insert(id, identity);
    }
    replay.bring_back(kept.asides)?;
    let has_asides = aside::has_any(&**disk).map_err(|source| fault("list", "", source))?;
    let was_closed = journal_files.is_empty();
    let newest_file = journal_files.last().map_or(1, |(first, _)| *first);
    let mut recovery = Recovery {
        replay,
        newest_file,
        again: Vec::new(),
        notices: Vec::new(),
        events: Events::new(disk.clone(), salt, journal_files, state.sequence + 1),
        boot: disk.boot_id(),
        sequence: state.sequence,
        damaged: Vec::new(),
        gaps: salvage::Gaps::new(state.next_topic),
        tail: None,
        lost: FxHashSet::default(),
        synced: state.sequence,
        newest_waiting: state.sequence,
        file: None,
    };
    recovery.run()?;
    recovery.finish(finish::Opening {
        config: config.clone(),
        disk: disk.clone(),
        clock: clock.clone(),
        lock,
        salt,
        tables,
        strays,
        was_closed,
        checkpointed: state.sequence,
        has_asides,
    })
}

/// The replay of a journal.
struct Recovery {
    replay: Replay,
    events: Events,
    /// The machine's present boot.
    boot: u64,
    /// The newest group that was replayed.
    sequence: u64,
    /// The first sequence of the newest file.
    newest_file: u64,
    /// What is journalled again, because the journal lost it.
    again: Vec<(PartitionKey, Batch)>,
    /// What an operator should know.
    notices: Vec<String>,
    /// First sequences of files with damage.
    damaged: Vec<u64>,
    gaps: salvage::Gaps,
    tail: Option<CutTail>,
    /// Partitions whose history may have lost something, which their new epoch says.
    lost: FxHashSet<PartitionKey>,
    /// The newest group that is known to be synced.
    synced: u64,
    /// The newest group that nobody may see before it is synced.
    newest_waiting: u64,
    /// The file that is replayed.
    file: Option<u64>,
}

/// What was cut from the journal's end.
#[derive(Debug)]
pub(crate) struct CutTail {
    /// Where: the file and the byte.
    pub(crate) file: u64,
    pub(crate) at: Option<u64>,
    pub(crate) bytes: u64,
    pub(crate) groups: u64,
    /// Whether a crash can have left it so: nothing of it was acknowledged, but on `memory` topics.
    pub(crate) is_torn: bool,
    /// Partitions that groups in it name.
    pub(crate) partitions: Vec<PartitionKey>,
    /// Whether something in it could not be read at all.
    pub(crate) has_unknown: bool,
}

impl Recovery {
    fn run(&mut self) -> Result<(), OpenError> {
        while let Some(event) = self.events.next()? {
            if !event.is_damage() {
                self.group(event)?;
                continue;
            }
            // Whether this is the middle or the tail, what follows tells.
            let mut rest = vec![event];
            while let Some(event) = self.events.next()? {
                rest.push(event);
            }
            self.damaged_rest(rest)?;
        }
        self.replay.flush_all()
    }

    fn damaged_rest(&mut self, events: Vec<Event>) -> Result<(), OpenError> {
        let proven = self.proven(&events);
        let cut = events
            .iter()
            .position(|event| event.is_damage() && event.what.sequence() > proven);
        let mut events = events;
        let tail = events.split_off(cut.unwrap_or(events.len()));
        self.gaps.look_ahead(&events);
        for (place, event) in events.into_iter().enumerate() {
            self.gaps.at = place;
            if event.is_damage() {
                self.damaged.push(event.file);
                tracing::error!(
                    path = journal::path_of(event.file),
                    sequence = event.what.sequence(),
                    "the journal is damaged where it was synced",
                );
                self.replay.damages += 1;
            }
            match event.what {
                Scanned::Group(_) => self.group(event)?,
                Scanned::Lost { .. } => self.gap()?,
                Scanned::Rest { .. } | Scanned::Newer { .. } => {}
            }
        }
        let has_stopped = self.has_machine_stopped();
        self.tail = (!tail.is_empty()).then(|| CutTail::of(&tail, has_stopped));
        Ok(())
    }

    /// The newest group that cannot be part of a torn tail.
    fn proven(&self, events: &[Event]) -> u64 {
        let is_same_boot = self.is_same_boot();
        let proofs = events.iter().map(|event| {
            // What a process wrote before this is there as long as the machine runs.
            if is_same_boot && !event.is_damage() {
                event.what.sequence()
            } else {
                event.synced_through()
            }
        });
        proofs.max().unwrap_or(0)
    }

    /// Whether the machine runs since the journal was last written to.
    fn is_same_boot(&self) -> bool {
        self.events.boot == Some(self.boot)
    }

    /// Whether the machine stopped since, which alone takes what was written. Damage
    /// may hide whether it did; then nothing is put down to that.
    fn has_machine_stopped(&self) -> bool {
        self.events.boot.is_some_and(|boot| boot != self.boot)
    }

    fn group(&mut self, event: Event) -> Result<(), OpenError> {
        let Scanned::Group(group) = event.what else {
            return Ok(());
        };
        if self.file.replace(event.file) != Some(event.file) {
            // What is buffered is slices of whole files.
            self.replay.flush_all()?;
        }
        self.gaps.measure(&mut self.replay, &group.header);
        self.sequence = group.header.sequence;
        self.synced = self.synced.max(group.header.synced_through);
        let Group {
            header,
            operations,
            batches,
            deltas,
            ..
        } = group;
        let (mut batches, mut deltas) = (batches.into_iter(), deltas.into_iter());
        let adopted = self.replay.adopted.len();
        for operation in operations {
            if let Operation::State(placed) = operation {
                self.replay
                    .change_state(placed.state, deltas.next().flatten());
                continue;
            }
            let batch = match operation {
                Operation::Append(_) => batches.next().flatten(),
                _ => None,
            };
            if self.replay.waits(&operation) {
                self.newest_waiting = self.sequence;
            }
            self.replay.operate(operation, batch, header.time_ms)?;
        }
        // The file has what may be nowhere else, for whoever wants to look.
        if self.replay.adopted.len() > adopted || std::mem::take(&mut self.replay.has_dropped) {
            self.damaged.push(event.file);
        }
        Ok(())
    }

    /// Groups are missing here: their records may be in segments.
    fn gap(&mut self) -> Result<(), OpenError> {
        self.replay.flush_all()?;
        self.gaps.open(self.replay.damages);
        for topic in self.gaps.unknown(&self.replay) {
            self.replay.adopt(topic);
        }
        let files = self.replay.shared.files.clone();
        let mut found = Vec::new();
        for part in self.replay.parts().filter(|part| !part.is_lost()) {
            let until = self.gaps.next_append(part.key());
            let batches = salvage::rest(&files, part, until);
            let end = batches.last().map_or(part.end(), Batch::end_offset);
            // Also what came into a segment before the checkpoint looked, and into the journal after.
            let records = end.min(until).saturating_sub(part.journalled);
            part.journalled += records;
            if records > 0 {
                found.push((part.key(), records, batches));
            }
        }
        for (key, records, batches) in found {
            let is_adopted = self.replay.adopted.contains(&key.0);
            self.gaps.found(key, records, is_adopted);
            self.replay.salvaged(key, batches)?;
        }
        Ok(())
    }
}

impl CutTail {
    fn of(events: &[Event], has_machine_stopped: bool) -> CutTail {
        let mut tail = CutTail {
            file: events[0].file,
            at: None,
            bytes: 0,
            groups: 0,
            is_torn: has_machine_stopped,
            partitions: Vec::new(),
            has_unknown: false,
        };
        for event in events {
            match &event.what {
                Scanned::Group(group) => {
                    tail.at.get_or_insert(group.at);
                    tail.bytes += group.header.group_bytes();
                    tail.groups += 1;
                    let appends = group.operations.iter().filter_map(Operation::append);
                    tail.partitions.extend(appends.map(|placed| placed.key));
                }
                Scanned::Lost {
                    at,
                    bytes,
                    sequences,
                } => {
                    tail.at.get_or_insert(*at);
                    tail.bytes += bytes;
                    tail.groups += sequences.1 - sequences.0 + 1;
                    tail.has_unknown = true;
                }
                Scanned::Rest {
                    at,
                    bytes,
                    is_cut_off,
                    ..
                } => {
                    tail.at.get_or_insert(*at);
                    tail.bytes += bytes;
                    tail.groups += 1;
                    // A write that was cut off is all that a stop of the process leaves.
                    tail.is_torn |= *is_cut_off && events.len() == 1;
                    tail.has_unknown |= !is_cut_off;
                }
                Scanned::Newer { .. } => {}
            }
        }
        tail
    }
}

/// Reads what the last checkpoint kept, and renews rows that the first release wrote.
fn read_checkpoint(disk: &dyn Disk, tables: &Tables) -> Result<Kept, OpenError> {
    let kept = Kept::read(tables).map_err(|error| match error {
        RowError::Table(error) => table_fault(disk, &error),
        RowError::Newer(what) => OpenError::Newer {
            path: disk.describe(table::PATH),
            what,
        },
    })?;
    if kept.old.is_empty() {
        return Ok(kept);
    }
    let written = tables.write(&Changes::new(), &kept.renewed(), &Collected::default());
    written.map_err(|error| OpenError::Io {
        action: "write",
        path: disk.describe(table::PATH),
        source: match error {
            WriteError::DiskFull => std::io::ErrorKind::StorageFull.into(),
            WriteError::NotNow(reason) | WriteError::Failed(reason) => {
                std::io::Error::other(reason)
            }
        },
    })?;
    Ok(kept)
}

pub(crate) fn table_fault(disk: &dyn Disk, error: &TableError) -> OpenError {
    let path = disk.describe(table::PATH);
    match error {
        TableError::Damaged(reason) => OpenError::Damaged {
            path,
            reason: reason.clone(),
        },
        TableError::Io { kind, reason } => OpenError::Io {
            action: "open",
            path,
            source: std::io::Error::new(*kind, reason.clone()),
        },
    }
}

/// All segment files, and the folders of topics.
pub(crate) fn list_segments(disk: &dyn Disk) -> std::io::Result<(Listing, Vec<TopicId>)> {
    let mut listing = Listing::default();
    let mut topics = Vec::new();
    for topic in disk.list(segment::FOLDER)? {
        let Some(id) = number(&topic.name).map(TopicId) else {
            continue;
        };
        topics.push(id);
        for partition in list_folder(disk, &segment::topic_folder(id))? {
            let Some(number) = number(&partition.name) else {
                continue;
            };
            let files = list_folder(disk, &segment::folder((id, number)))?;
            let segments = files.iter().filter(|file| !file.is_dir);
            let segments =
                segments.filter_map(|file| Some((numbered(&file.name, ".log")?, file.bytes)));
            listing.insert((id, number), segments.collect());
        }
    }
    Ok((listing, topics))
}

/// A number as a folder's name has it, and no other way to write it.
fn number<T: std::str::FromStr + ToString>(name: &str) -> Option<T> {
    let number: T = name.parse().ok()?;
    (number.to_string() == name).then_some(number)
}

/// Nothing is in a folder in whose place something else is: what should be there is missing.
fn list_folder(disk: &dyn Disk, path: &str) -> std::io::Result<Vec<Entry>> {
    match disk.list(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => Ok(Vec::new()),
        listed => listed,
    }
}

/// Refuses a folder that [lacks](missing_journal) the journal behind its checkpoint.
fn check_journal(
    disk: &dyn Disk,
    kept: &Kept,
    files: &[(u64, u64)],
    listing: &Listing,
) -> Result<(), OpenError> {
    let (path, reason) = match (
        missing_tables(kept, files),
        missing_journal(disk, kept, files, listing),
    ) {
        (Some(reason), _) => (table::PATH.to_owned(), reason),
        (None, Some((first, reason))) => (journal::path_of(first), reason),
        (None, None) => return Ok(()),
    };
    Err(OpenError::Damaged {
        path: disk.describe(&path),
        reason,
    })
}

/// Why the tables are not those of this journal, if they hold no checkpoint that it goes on from.
pub(crate) fn missing_tables(kept: &Kept, files: &[(u64, u64)]) -> Option<String> {
    let oldest = files.iter().map(|(first, _)| *first).min()?;
    (kept.state.is_none() && oldest > 1).then(|| {
        format!("it is missing or empty; the journal goes on from a checkpoint before group {oldest}, which it should hold")
    })
}

/// The journal file that should go on where the checkpoint ends, and how that is known, if it is
/// not there: a journal that is missing would look like one that is empty, and tables of an earlier
/// checkpoint like those of the last one.
pub(crate) fn missing_journal(
    disk: &dyn Disk,
    kept: &Kept,
    files: &[(u64, u64)],
    listing: &Listing,
) -> Option<(u64, String)> {
    let wanted = kept.state.map_or(1, |state| state.sequence + 1);
    if files.iter().any(|(first, _)| *first == wanted) {
        return None;
    }
    // Only a folder that is new, or that a crash left while it was closed, has no such file.
    let is_closed = kept.state.is_none_or(|state| state.closed);
    if !is_closed || files.iter().any(|(first, _)| *first > wanted) {
        let reason = format!("it is missing; the last checkpoint ended before group {wanted}");
        return Some((wanted, reason));
    }
    let unknown = unknown_segment(kept, listing)?;
    let reason = format!(
        "it is missing; the last checkpoint does not know all of {}",
        disk.describe(&unknown.path())
    );
    Some((wanted, reason))
}

/// A segment with records that the checkpoint does not know of.
fn unknown_segment(kept: &Kept, listing: &Listing) -> Option<segment::Key> {
    let next_topic = kept.state.map_or(1, |state| state.next_topic);
    let is_unknown = |(topic, partition): &PartitionKey, base: u64, bytes: u64| {
        let is_deleted = topic.0 < next_topic && !kept.topics.contains_key(topic);
        let known = match kept.partitions.get(&(*topic, *partition)) {
            Some(entry) if base < entry.segment => u64::MAX,
            Some(entry) if base == entry.segment => entry.length,
            _ => 0,
        };
        !is_deleted && bytes > known.max(segment::HEADER_BYTES)
    };
    let mut all = listing
        .iter()
        .flat_map(|(key, segments)| segments.iter().map(move |(base, bytes)| (key, base, bytes)));
    let (key, base, _) = all.find(|(key, base, bytes)| is_unknown(key, **base, **bytes))?;
    Some(segment::Key::of(*key, *base))
}
