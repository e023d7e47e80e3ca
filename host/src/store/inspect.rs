//! What is in a data folder, for people: read only, without its lock, beside a
//! broker that may be running on it. A running broker moves on meanwhile, so
//! what looks torn at the newest end may be in the making.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use eddy_protocol::frame::{Durability, TopicSettings};
use serde::Serialize;

use super::error::OpenError;
use super::format;
use super::journal::operation::Operation;
use super::journal::scan::{Group, Scan, Scanned};
use super::journal::{self, FileHeader};
use super::producer::PartitionKey;
use super::recovery::{list_segments, missing_journal, missing_tables};
use super::row::Kept;
use super::segment::{self, HEADER_BYTES, Key, index, read};
use super::table::{self, Tables};
use crate::io::{Disk, FaultyDisk, read_all};
use crate::log::TopicId;

/// A data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Folder {
    /// The version of its layout.
    pub format: u32,
    /// Its topics, in the order of their ids.
    pub topics: Vec<TopicFiles>,
    /// Its journal files, in their order.
    pub journal: Vec<JournalFile>,
    /// Journal files that recovery found damaged and kept aside.
    pub set_aside: Vec<String>,
    /// Bytes of the file with the key-value tables.
    pub tables_bytes: u64,
}

/// The files of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicFiles {
    /// Its id, the name of its folder.
    pub id: TopicId,
    /// Its partitions that have files.
    pub partitions: Vec<PartitionFiles>,
}

/// The files of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartitionFiles {
    /// Its number.
    pub partition: u32,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentFile>,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentFile {
    /// The file.
    pub path: String,
    /// Its first offset.
    pub base: u64,
    /// The offset after its last whole batch.
    pub end: u64,
    /// Its length.
    pub bytes: u64,
    /// How many whole batches it has.
    pub batches: u64,
    /// How many records those have.
    pub records: u64,
    /// The oldest and the newest timestamp, milliseconds since 1970 UTC.
    pub timestamps: Option<(i64, i64)>,
    /// What is wrong with it, from where on.
    pub damage: Option<Damage>,
    /// Its index.
    pub index: IndexState,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The first byte of it.
    pub at: u64,
    /// How many bytes cannot be used.
    pub bytes: u64,
    /// What is wrong.
    pub reason: String,
}

/// How a segment's index is. It is made anew where it does not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexState {
    /// There is no file.
    Missing,
    /// All entries are right.
    Whole {
        /// How many.
        entries: u64,
    },
    /// Only the first entries are right.
    Damaged {
        /// How many.
        entries: u64,
    },
}

/// A journal file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JournalFile {
    /// The file.
    pub path: String,
    /// The sequence of its first group.
    pub first_sequence: u64,
    /// Its length.
    pub bytes: u64,
    /// Whether its header is right.
    pub has_header: bool,
    /// Its groups.
    pub groups: Vec<GroupInfo>,
    /// What is wrong with it.
    pub damage: Vec<Damage>,
}

/// A group in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupInfo {
    /// Where it begins.
    pub at: u64,
    /// Its length.
    pub bytes: u64,
    /// Its sequence.
    pub sequence: u64,
    /// The newest group that was known to be synced when it was written.
    pub synced_through: u64,
    /// When it was written, milliseconds since 1970 UTC.
    pub time_ms: i64,
    /// Its batches.
    pub appends: Vec<AppendInfo>,
    /// How many changes of tables it has.
    pub table_changes: u64,
    /// How many changes of the catalog, of producers and of partitions' states.
    pub other_changes: u64,
    /// Whether every byte that matters is as it was written.
    pub is_whole: bool,
}

/// Where the journal says that offsets end.
#[derive(Debug, Default)]
struct Ends {
    ends: BTreeMap<PartitionKey, u64>,
    /// Topics that are not there any more.
    deleted: BTreeSet<TopicId>,
    /// Topics of which a stop of the machine may have taken records.
    memory: BTreeSet<TopicId>,
    /// The boot in which the newest file was begun.
    boot: Option<u64>,
}

impl Ends {
    /// What the checkpoint says, which the journal goes on from.
    fn kept(kept: &Kept) -> Ends {
        let mut ends = Ends::default();
        for (key, entry) in &kept.partitions {
            ends.reach(*key, entry.end);
        }
        for (key, aside) in &kept.asides {
            ends.reach(*key, aside.end);
        }
        for (topic, entry) in &kept.topics {
            ends.note(*topic, entry.settings);
        }
        ends
    }

    fn reach(&mut self, key: PartitionKey, end: u64) {
        let known = self.ends.entry(key).or_default();
        *known = end.max(*known);
    }

    fn note(&mut self, topic: TopicId, settings: TopicSettings) {
        if settings.durability == Durability::Memory {
            self.memory.insert(topic);
        }
    }

    fn group(&mut self, group: &Group) {
        for operation in &group.operations {
            match operation {
                Operation::Append(placed) => {
                    self.reach(placed.key, placed.end());
                }
                Operation::CreateTopic { topic, entry } => self.note(*topic, entry.settings),
                Operation::AlterTopic {
                    topic, settings, ..
                } => self.note(*topic, *settings),
                Operation::DeleteTopic { topic } => drop(self.deleted.insert(*topic)),
                _ => {}
            }
        }
    }

    /// What segments have that the journal should have, or the checkpoint.
    fn beyond(&self, kept: &Kept, topics: &[TopicFiles], boot: u64) -> Vec<String> {
        let has_stopped = self
            .boot
            .is_some_and(|of| of != boot && of != journal::CLOSED);
        let next_topic = kept.state.map_or(1, |state| state.next_topic);
        let mut found = Vec::new();
        for topic in topics {
            let is_known = topic.id.0 >= next_topic || kept.topics.contains_key(&topic.id);
            let may_lack = has_stopped && self.memory.contains(&topic.id);
            if !is_known || may_lack || self.deleted.contains(&topic.id) {
                continue;
            }
            for partition in &topic.partitions {
                let key = (topic.id, partition.partition);
                let end = self.ends.get(&key).copied().unwrap_or(0);
                let ends = partition.segments.iter().map(|segment| segment.end);
                let last = ends.max().unwrap_or(0);
                if last > end {
                    found.push(format!(
                        "offsets {end} to {} of partition {} of topic {}",
                        last - 1,
                        key.1,
                        topic.id
                    ));
                }
            }
        }
        found
    }
}

/// A batch in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AppendInfo {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: u32,
    /// Its first offset.
    pub base: u64,
    /// How many records it has.
    pub count: u32,
    /// Its length.
    pub bytes: u32,
    /// Whether its checksum is right.
    pub is_whole: bool,
}

/// Looks through a data folder without changing anything.
pub fn inspect(disk: &Arc<dyn Disk>) -> Result<Folder, OpenError> {
    let fault = |path: &str| {
        let path = disk.describe(path);
        move |source: io::Error| OpenError::Io {
            action: "read",
            path,
            source,
        }
    };
    let (salt, format) = format::open(&**disk)?.ok_or_else(|| OpenError::Damaged {
        path: disk.describe(format::PATH),
        reason: "there is none; this is no data folder of Eddy".to_owned(),
    })?;
    let (listing, mut ids) = list_segments(&**disk).map_err(fault(segment::FOLDER))?;
    ids.sort_unstable();
    let mut keys: Vec<_> = listing.keys().copied().collect();
    keys.sort_unstable();
    let partitions_of = |id: TopicId| {
        let of_topic = keys.iter().filter(move |(topic, _)| *topic == id);
        of_topic.map(|(topic, partition)| {
            let key = (*topic, *partition);
            let bases = listing[&key].keys();
            let segments = bases.filter_map(|base| segment_file(&**disk, Key::of(key, *base)));
            PartitionFiles {
                partition: *partition,
                segments: segments.collect(),
            }
        })
    };
    let topics = ids
        .iter()
        .map(|id| TopicFiles {
            id: *id,
            partitions: partitions_of(*id).collect(),
        })
        .collect();
    // Segments first: a broker that runs beside this has whatever is in one in its journal by now.
    let topics: Vec<TopicFiles> = topics;
    let kept = kept(&**disk);
    let checkpoint = kept.as_ref().map(|kept| kept.state);
    let kept = kept.unwrap_or_default();
    let mut ends = Ends::kept(&kept);
    let files = journal::list(&**disk).map_err(fault(journal::FOLDER))?;
    let journal = files.iter().filter_map(|(first, _)| {
        unless_gone(journal_file(&**disk, *first, salt, &mut ends)).transpose()
    });
    let journal = journal.collect::<io::Result<Vec<_>>>();
    let mut journal = journal.map_err(fault(journal::FOLDER))?;
    note_gaps(&mut journal);
    if let Some(checkpoint) = checkpoint
        && let Some((first, reason)) = missing_journal(&**disk, &kept, &files, &listing)
        // A running broker that has made another checkpoint meanwhile needs that file no longer.
        && self::kept(&**disk).is_some_and(|kept| kept.state == checkpoint)
    {
        let path = disk.describe(&journal::path_of(first));
        journal.insert(0, not_there(path, first, reason));
    }
    let root = disk.list("").map_err(fault(""))?;
    let tables = root.iter().find(|entry| entry.name == table::PATH);
    let tables_bytes = tables.map_or(0, |entry| entry.bytes);
    if (checkpoint.is_some() || tables_bytes == 0)
        && let Some(reason) = missing_tables(&kept, &files)
    {
        journal.insert(0, not_there(disk.describe(table::PATH), 0, reason));
    }
    let beyond = ends.beyond(&kept, &topics, disk.boot_id());
    // Without the file that goes on where the checkpoint ends, they are not of the same moment.
    let goes_on = kept.state.map_or(1, |state| state.sequence + 1);
    if let Some(newest) = journal.last_mut()
        && files.iter().any(|(first, _)| *first == goes_on)
        && !beyond.is_empty()
    {
        newest.damage.push(Damage {
            at: newest.bytes,
            bytes: 0,
            reason: format!(
                "what came behind is lost: segments have {}",
                beyond.join(", ")
            ),
        });
    }
    let entries = disk.list(journal::FOLDER).map_err(fault(journal::FOLDER))?;
    let set_aside = entries
        .into_iter()
        .map(|entry| entry.name)
        .filter(|name| name.ends_with(".damaged"));
    Ok(Folder {
        format,
        topics,
        journal,
        set_aside: set_aside.collect(),
        tables_bytes,
    })
}

/// A running broker deletes what it no longer needs between the listing and the reading.
fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

fn segment_file(disk: &dyn Disk, key: Key) -> Option<SegmentFile> {
    let mut found = SegmentFile {
        path: disk.describe(&key.path()),
        base: key.base,
        end: key.base,
        bytes: 0,
        batches: 0,
        records: 0,
        timestamps: None,
        damage: None,
        index: IndexState::Missing,
    };
    let read = disk
        .open_read(&key.path())
        .and_then(|file| read_all(&*file));
    let bytes = match unless_gone(read) {
        Ok(bytes) => Bytes::from(bytes?),
        Err(error) => {
            found.damage = Some(Damage {
                at: 0,
                bytes: 0,
                reason: error.to_string(),
            });
            return Some(found);
        }
    };
    found.bytes = bytes.len() as u64;
    found.index = index_state(disk, key, found.bytes);
    if let Err(reason) = key.check_header(&bytes) {
        found.damage = Some(Damage {
            at: 0,
            bytes: HEADER_BYTES.min(found.bytes),
            reason,
        });
    }
    let mut at = usize::try_from(HEADER_BYTES).unwrap_or(0);
    while at < bytes.len() {
        match read::next_batch(&bytes.slice(at..), Some(found.end)) {
            Ok(batch) => {
                let header = batch.header();
                at += header.length();
                found.end = header.end_offset();
                found.batches += 1;
                found.records += u64::from(header.count());
                let (oldest, newest) = found.timestamps.unwrap_or((i64::MAX, i64::MIN));
                found.timestamps = Some((
                    oldest.min(header.timestamp_min()),
                    newest.max(header.timestamp_max()),
                ));
            }
            Err(reason) => {
                let bytes = (bytes.len() - at) as u64;
                found.damage.get_or_insert(Damage {
                    at: at as u64,
                    bytes,
                    reason,
                });
                break;
            }
        }
    }
    Some(found)
}

fn index_state(disk: &dyn Disk, key: Key, len: u64) -> IndexState {
    let Ok(bytes) = disk
        .open_read(&key.index_path())
        .and_then(|file| read_all(&*file))
    else {
        return IndexState::Missing;
    };
    let (entries, is_damaged) = index::decode(&bytes, key.base, len);
    let entries = entries.len() as u64;
    if is_damaged {
        IndexState::Damaged { entries }
    } else {
        IndexState::Whole { entries }
    }
}

/// What the checkpoint kept, read from a copy, because opening the tables writes
/// to them; nothing where that cannot be told, as while a broker writes to them.
fn kept(disk: &dyn Disk) -> Option<Kept> {
    let file = disk.open_read(table::PATH).ok()?;
    let copy = FaultyDisk::new(0);
    copy.insert(table::PATH, read_all(&*file).ok()?);
    Kept::read(&Tables::open(Arc::new(copy), 0).ok()?).ok()
}

fn journal_file(
    disk: &dyn Disk,
    first: u64,
    salt: u64,
    ends: &mut Ends,
) -> io::Result<JournalFile> {
    let path = journal::path_of(first);
    let bytes = Bytes::from(read_all(&*disk.open_read(&path)?)?);
    let header = FileHeader::decode(&bytes);
    ends.boot = header.map(|header| header.boot);
    let mut file = JournalFile {
        path: disk.describe(&path),
        first_sequence: first,
        bytes: bytes.len() as u64,
        has_header: header.is_some_and(|header| [0, first].contains(&header.first_sequence)),
        groups: Vec::new(),
        damage: Vec::new(),
    };
    if !file.has_header {
        file.damage.push(Damage {
            at: 0,
            bytes: (journal::FILE_HEADER_BYTES as u64).min(file.bytes),
            reason: "the file's header is not as it was written".to_owned(),
        });
    }
    let length = file.bytes;
    for found in Scan::new(bytes, salt, first) {
        match found {
            Scanned::Newer { what } => file.damage.push(Damage {
                at: file.groups.last().map_or(0, |group| group.at + group.bytes),
                bytes: length,
                reason: format!("a newer eddy wrote {what}"),
            }),
            Scanned::Group(group) => {
                ends.group(&group);
                let group = group_info(&group);
                if !group.is_whole {
                    file.damage.push(Damage {
                        at: group.at,
                        bytes: group.bytes,
                        reason: format!("group {} is not as it was written", group.sequence),
                    });
                }
                file.groups.push(group);
            }
            Scanned::Lost {
                at,
                bytes,
                sequences: (first, last),
            } => {
                let reason = format!("groups {first} to {last} cannot be read");
                file.damage.push(Damage { at, bytes, reason });
            }
            Scanned::Rest {
                at,
                bytes,
                sequence,
                is_cut_off,
            } => {
                let reason = if is_cut_off {
                    format!("group {sequence} was not written to its end")
                } else {
                    format!("nothing can be read where group {sequence} should be")
                };
                file.damage.push(Damage { at, bytes, reason });
            }
        }
    }
    Ok(file)
}

/// Says of each file where the one behind it is missing.
fn note_gaps(journal: &mut [JournalFile]) {
    let firsts: Vec<_> = journal.iter().map(|file| file.first_sequence).collect();
    for (file, following) in journal.iter_mut().zip(firsts.into_iter().skip(1)) {
        let last = file.groups.last().map(|group| group.sequence + 1);
        let next = last.unwrap_or(file.first_sequence);
        if next < following && file.damage.is_empty() {
            file.damage.push(Damage {
                at: file.bytes,
                bytes: 0,
                reason: format!(
                    "groups {next} to {} should follow, and no file has them",
                    following - 1
                ),
            });
        }
    }
}

/// A file that should be there.
fn not_there(path: String, first: u64, reason: String) -> JournalFile {
    let damage = Damage {
        at: 0,
        bytes: 0,
        reason,
    };
    JournalFile {
        path,
        first_sequence: first,
        bytes: 0,
        has_header: false,
        groups: Vec::new(),
        damage: vec![damage],
    }
}

fn group_info(group: &Group) -> GroupInfo {
    let mut batches = group.batches.iter();
    let mut appends = Vec::new();
    let (mut table_changes, mut other_changes) = (0, 0);
    for operation in &group.operations {
        match operation {
            Operation::Append(placed) => appends.push(AppendInfo {
                topic: placed.key.0,
                partition: placed.key.1,
                base: placed.base,
                count: placed.count,
                bytes: placed.length,
                is_whole: batches.next().is_some_and(Option::is_some),
            }),
            Operation::Change(_) => table_changes += 1,
            _ => other_changes += 1,
        }
    }
    GroupInfo {
        at: group.at,
        bytes: group.header.group_bytes(),
        sequence: group.header.sequence,
        synced_through: group.header.synced_through,
        time_ms: group.header.time_ms,
        appends,
        table_changes,
        other_changes,
        is_whole: group.is_whole,
    }
}
