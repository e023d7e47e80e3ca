//! What a checkpoint keeps for recovery besides the tables: rows in the same file
//! and the same transaction, under numbers of their own.
//!
//! ```text
//! 204               sequence u64 | records u64 | changes u64 | next topic u64 | next producer u64
//!                   | closed u8 (1: the store was closed, the journal has nothing behind this)
//! 205 topic u64be   partitions u32 | name (text) | settings | uuid (16 bytes)
//! 206 topic u64be partition u32be
//!                   start u64 | segment u64 | length u64 | end u64 | why stopped (text, or none)
//!                   | epochs: list, each epoch u32 | from u64 (all bits set: not known)
//!                   | holes: list, each from u64 | to u64 | at u64
//!                   | missed: list, each segment u64 | length u64
//!                   | when a record was appended last i64 (the least there is: not known)
//!                   | journalled u64 (where it is missing, as end)
//! 207 producer u64be
//!                   epoch u16 | used ms i64 | name (text, or none)
//! 211 producer u64be topic u64be partition u32be
//!                   epoch u16 | next u32 | sent: list, each sequence u32 | count u32 | offset u64
//! 210 topic u64be partition u32be
//!                   sequence u64 | length u64 | end u64
//! ```
//!
//! Each value is a block, and the lists have entries (see [`field`]), so that all
//! of them can gain fields; keys are big endian, whose order is that of the
//! numbers. `segment` and `length` say how far the partition's files are synced
//! and `end` which offset that is; everything above is written anew from the
//! journal at recovery. A hole is what a repair gave up: the offsets from `from`
//! to `to`, where the latter is at byte `at` of the segment that `from` is in. A
//! segment is missed that was the newest once and then was not there as it was
//! synced: the partition is stopped until it is (or is given up), but what the
//! journal had behind it went on into other segments. A row 210 names the file
//! with what a partition at rest has besides (see [`aside`](super::aside)). The
//! numbers 208 and 209 are the [states'](super::state).
//!
//! The first release had such rows under the numbers 200 to 203, packed without
//! blocks. They are read, and written anew when its folder is opened.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes};
use eddy_protocol::TopicName;
use eddy_protocol::frame::TopicSettings;
use rustc_hash::FxHashMap;
use uuid::Uuid;

use super::aside::Aside;
use super::commit::TopicId;
use super::epoch::{Epochs, Start};
use super::error::TableError;
use super::field::{self, Unreadable};
use super::journal::old;
use super::journal::operation::{
    decode_holes, decode_settings, decode_uuid, encode_holes, encode_settings, encode_uuid,
};
use super::partition::segments::Covered;
use super::producer::{Identity, PartitionKey, Sent, Window};
use super::segment::{HEADER_BYTES, Hole};
use super::table::{Changes, Tables, full_key};

const STATE: u8 = 204;
const TOPIC: u8 = 205;
const PARTITION: u8 = 206;
const IDENTITY: u8 = 207;
const WINDOW: u8 = 211;
const ASIDE: u8 = 210;
const OLD_STATE: u8 = 200;
const OLD_TOPIC: u8 = 201;
const OLD_PARTITION: u8 = 202;
const OLD_IDENTITY: u8 = 203;
/// Marks an epoch of which nobody knows where it began.
const UNKNOWN: u64 = u64::MAX;

/// The numbers that a checkpoint keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct State {
    /// The newest group that the checkpoint covers.
    pub(crate) sequence: u64,
    pub(crate) records: u64,
    pub(crate) changes: u64,
    pub(crate) next_topic: u64,
    pub(crate) next_producer: u64,
    pub(crate) closed: bool,
}

/// What a checkpoint keeps of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicEntry {
    pub(crate) settings: TopicSettings,
    pub(crate) partitions: u32,
    pub(crate) name: TopicName,
    /// Absent in what the first release wrote.
    pub(crate) uuid: Option<Uuid>,
}

/// What a checkpoint keeps of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionEntry {
    pub(crate) epochs: Epochs,
    pub(crate) start: u64,
    /// The base of the newest segment.
    pub(crate) segment: u64,
    /// How much of it is synced; 0: there is no segment.
    pub(crate) length: u64,
    pub(crate) end: u64,
    pub(crate) stopped: Option<String>,
    pub(crate) holes: Vec<Hole>,
    /// Segments that are waited for, and how much of them was synced.
    pub(crate) missed: Vec<(u64, u64)>,
    /// When a record was appended last; `None`: by the first release.
    pub(crate) appended_ms: Option<i64>,
    /// Where the offsets end that groups gave which the checkpoint covers; the
    /// segments may be further.
    pub(crate) journalled: u64,
}

impl PartitionEntry {
    /// What it says of the segments.
    pub(crate) fn covered(&self) -> Covered {
        Covered {
            segment: self.segment,
            length: self.length,
            end: self.end,
            missing: self.missed.clone(),
        }
    }

    /// Whether it says more than that the partition exists.
    pub(crate) fn has_history(&self, topic: TopicId) -> bool {
        self.length > 0
            || self.stopped.is_some()
            || !self.holes.is_empty()
            || !self.missed.is_empty()
            || self.epochs != Epochs::first(topic)
    }
}

/// What the checkpoint says.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) state: Option<State>,
    pub(crate) topics: BTreeMap<TopicId, TopicEntry>,
    pub(crate) partitions: FxHashMap<PartitionKey, PartitionEntry>,
    pub(crate) identities: BTreeMap<u64, Identity>,
    pub(crate) asides: BTreeMap<PartitionKey, Aside>,
    /// The keys of rows that the first release wrote.
    pub(crate) old: Vec<Bytes>,
}

/// Why what a checkpoint kept could not be read.
#[derive(Debug)]
pub(crate) enum RowError {
    Table(TableError),
    /// A newer release wrote this.
    Newer(String),
}

impl From<TableError> for RowError {
    fn from(error: TableError) -> RowError {
        RowError::Table(error)
    }
}

impl From<Unreadable> for RowError {
    fn from(error: Unreadable) -> RowError {
        match error {
            Unreadable::Damaged => RowError::Table(TableError::Damaged(
                "a row of the checkpoint makes no sense".to_owned(),
            )),
            Unreadable::Newer(what) => RowError::Newer(format!("rows with {what}")),
        }
    }
}

impl Kept {
    /// Reads what the last checkpoint kept besides the tables.
    pub(crate) fn read(tables: &Tables) -> Result<Kept, RowError> {
        let mut kept = Kept::default();
        for (key, value) in tables.scan_stored(&[STATE])? {
            if key.len() == 1 {
                kept.state = Some(fields(value, decode_state)?);
            }
        }
        for (key, value) in tables.scan_stored(&[TOPIC])? {
            let entry = fields(value, decode_topic)?;
            kept.topics.insert(topic_of(&key)?, entry);
        }
        for (key, value) in tables.scan_stored(&[PARTITION])? {
            let entry = fields(value, decode_partition)?;
            kept.partitions.insert(partition_of(&key)?, entry);
        }
        for (key, value) in tables.scan_stored(&[IDENTITY])? {
            let identity = fields(value, decode_identity)?;
            kept.identities.insert(number_of(&key)?, identity);
        }
        for (key, value) in tables.scan_stored(&[WINDOW])? {
            let (id, of) = window_of(&key)?;
            let window = fields(value, decode_window)?;
            if let Some(identity) = kept.identities.get_mut(&id) {
                identity.windows.insert(of, window);
            }
        }
        for (key, value) in tables.scan_stored(&[ASIDE])? {
            let aside = fields(value, decode_aside)?;
            kept.asides.insert(partition_of(&key)?, aside);
        }
        kept.read_old(tables)?;
        Ok(kept)
    }

    fn read_old(&mut self, tables: &Tables) -> Result<(), RowError> {
        let damaged = || Unreadable::Damaged;
        for (key, value) in tables.scan_stored(&[OLD_STATE])? {
            if key.len() == 1 {
                self.state = Some(decode_state(&mut { value }).ok_or_else(damaged)?);
                self.old.push(key);
            }
        }
        for (key, value) in tables.scan_stored(&[OLD_TOPIC])? {
            let entry = old_topic(&mut { value }).ok_or_else(damaged)?;
            self.topics.insert(topic_of(&key)?, entry);
            self.old.push(key);
        }
        for (key, value) in tables.scan_stored(&[OLD_PARTITION])? {
            let of = partition_of(&key)?;
            let entry = old_partition(of.0, &mut { value }).ok_or_else(damaged)?;
            self.partitions.insert(of, entry);
            self.old.push(key);
        }
        for (key, value) in tables.scan_stored(&[OLD_IDENTITY])? {
            let identity = old_identity(&mut { value }).ok_or_else(damaged)?;
            self.identities.insert(number_of(&key)?, identity);
            self.old.push(key);
        }
        Ok(())
    }

    /// The rows of the first release as this one writes them.
    pub(crate) fn renewed(&self) -> Changes {
        let mut rows: Changes = self.old.iter().map(|key| (key.clone(), None)).collect();
        rows.extend(self.state.iter().map(state_row));
        rows.extend(
            self.topics
                .iter()
                .map(|(id, entry)| topic_row(*id, Some(entry))),
        );
        let partitions = self.partitions.iter();
        rows.extend(partitions.map(|(key, entry)| partition_row(*key, Some(entry))));
        for (id, identity) in &self.identities {
            rows.extend([identity_row(*id, Some(identity))]);
            let windows = identity.windows.iter();
            rows.extend(windows.map(|(of, window)| window_row(*id, *of, Some(window))));
        }
        rows
    }
}

type Row = (Bytes, Option<Bytes>);

/// The row of the checkpoint's numbers.
pub(crate) fn state_row(state: &State) -> Row {
    let value = block(|out| {
        out.put_u64_le(state.sequence);
        out.put_u64_le(state.records);
        out.put_u64_le(state.changes);
        out.put_u64_le(state.next_topic);
        out.put_u64_le(state.next_producer);
        out.put_u8(u8::from(state.closed));
    });
    (full_key(STATE, b""), Some(value))
}

/// A topic's row; without an entry, its end.
pub(crate) fn topic_row(topic: TopicId, entry: Option<&TopicEntry>) -> Row {
    let value = entry.map(|entry| {
        block(|out| {
            out.put_u32_le(entry.partitions);
            field::text(Some(entry.name.as_ref()), out);
            encode_settings(&entry.settings, out);
            encode_uuid(entry.uuid, out);
        })
    });
    (full_key(TOPIC, &topic.0.to_be_bytes()), value)
}

/// A partition's row; without an entry, its end.
pub(crate) fn partition_row(key: PartitionKey, entry: Option<&PartitionEntry>) -> Row {
    let value = entry.map(|entry| block(|out| encode_partition(entry, out)));
    (partition_key(PARTITION, key), value)
}

/// The row of what a partition at rest has besides; without one, its end.
pub(crate) fn aside_row(key: PartitionKey, aside: Option<&Aside>) -> Row {
    let value = aside.map(|aside| {
        block(|out| {
            out.put_u64_le(aside.sequence);
            out.put_u64_le(aside.bytes);
            out.put_u64_le(aside.end);
        })
    });
    (partition_key(ASIDE, key), value)
}

fn partition_key(number: u8, (topic, partition): PartitionKey) -> Bytes {
    let mut key = topic.0.to_be_bytes().to_vec();
    key.extend_from_slice(&partition.to_be_bytes());
    full_key(number, &key)
}

/// What the keys of a topic's partitions begin with.
pub(crate) fn partitions_prefixes(topic: TopicId) -> [Bytes; 2] {
    [PARTITION, ASIDE].map(|number| full_key(number, &topic.0.to_be_bytes()))
}

/// A producer's row; without an identity, its end.
pub(crate) fn identity_row(id: u64, identity: Option<&Identity>) -> Row {
    let value = identity.map(|identity| block(|out| encode_identity(identity, out)));
    (full_key(IDENTITY, &id.to_be_bytes()), value)
}

/// The row of what a producer sent to a partition last; without a window, its end.
pub(crate) fn window_row(id: u64, of: PartitionKey, window: Option<&Window>) -> Row {
    let mut key = id.to_be_bytes().to_vec();
    key.extend_from_slice(&of.0.0.to_be_bytes());
    key.extend_from_slice(&of.1.to_be_bytes());
    let value = window.map(|window| block(|out| encode_window(window, out)));
    (full_key(WINDOW, &key), value)
}

fn block(fields: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::new();
    field::block(&mut out, fields);
    out.into()
}

/// Reads a row's value. What is behind the fields that are known is skipped.
fn fields<T>(
    mut value: Bytes,
    decode: impl FnOnce(&mut Bytes) -> Option<T>,
) -> Result<T, Unreadable> {
    let mut fields = field::open(&mut value)?;
    decode(&mut fields).ok_or(Unreadable::Damaged)
}

fn number_of(key: &[u8]) -> Result<u64, Unreadable> {
    let number = key.get(1..).and_then(|number| number.try_into().ok());
    number.map(u64::from_be_bytes).ok_or(Unreadable::Damaged)
}

fn topic_of(key: &[u8]) -> Result<TopicId, Unreadable> {
    number_of(key).map(TopicId)
}

fn partition_of(key: &[u8]) -> Result<PartitionKey, Unreadable> {
    let (topic, partition) = key.split_last_chunk::<4>().ok_or(Unreadable::Damaged)?;
    Ok((topic_of(topic)?, u32::from_be_bytes(*partition)))
}

fn window_of(key: &[u8]) -> Result<(u64, PartitionKey), Unreadable> {
    let id = key.get(..9).ok_or(Unreadable::Damaged)?;
    // What follows looks as a partition's key does behind its number.
    Ok((number_of(id)?, partition_of(&key[8..])?))
}

fn decode_state(from: &mut Bytes) -> Option<State> {
    Some(State {
        sequence: from.try_get_u64_le().ok()?,
        records: from.try_get_u64_le().ok()?,
        changes: from.try_get_u64_le().ok()?,
        next_topic: from.try_get_u64_le().ok()?,
        next_producer: from.try_get_u64_le().ok()?,
        closed: from.try_get_u8().ok()? == 1,
    })
}

fn decode_aside(from: &mut Bytes) -> Option<Aside> {
    Some(Aside {
        sequence: from.try_get_u64_le().ok()?,
        bytes: from.try_get_u64_le().ok()?,
        end: from.try_get_u64_le().ok()?,
    })
}

fn decode_topic(from: &mut Bytes) -> Option<TopicEntry> {
    Some(TopicEntry {
        partitions: from.try_get_u32_le().ok()?,
        name: TopicName::parse(&field::read_text(from)??).ok()?,
        settings: decode_settings(from)?,
        uuid: decode_uuid(from)?,
    })
}

fn encode_partition(entry: &PartitionEntry, out: &mut Vec<u8>) {
    out.put_u64_le(entry.start);
    out.put_u64_le(entry.segment);
    out.put_u64_le(entry.length);
    out.put_u64_le(entry.end);
    field::text(entry.stopped.as_deref(), out);
    field::list(out, entry.epochs.starts(), |start, out| {
        out.put_u32_le(start.epoch);
        out.put_u64_le(start.from.unwrap_or(UNKNOWN));
    });
    encode_holes(&entry.holes, out);
    field::list(out, &entry.missed, |(segment, length), out| {
        out.put_u64_le(*segment);
        out.put_u64_le(*length);
    });
    out.put_i64_le(entry.appended_ms.unwrap_or(i64::MIN));
    out.put_u64_le(entry.journalled);
}

fn decode_partition(from: &mut Bytes) -> Option<PartitionEntry> {
    let (start, segment) = (from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?);
    let (length, end) = (from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?);
    let entry = PartitionEntry {
        start,
        segment,
        length,
        end,
        stopped: field::read_text(from)?,
        epochs: Epochs::kept(field::read_list(from, decode_start)?)?,
        holes: decode_holes(from)?,
        missed: field::read_list(from, decode_pair)?,
        appended_ms: Some(from.try_get_i64_le().ok()?).filter(|time| *time != i64::MIN),
        journalled: from.try_get_u64_le().unwrap_or(end),
    };
    is_plausible(&entry).then_some(entry)
}

fn is_plausible(entry: &PartitionEntry) -> bool {
    entry.length == 0 || entry.length >= HEADER_BYTES
}

fn decode_start(from: &mut Bytes) -> Option<Start> {
    let epoch = from.try_get_u32_le().ok()?;
    let begin = from.try_get_u64_le().ok()?;
    Some(Start {
        epoch,
        from: (begin != UNKNOWN).then_some(begin),
    })
}

fn decode_pair(from: &mut Bytes) -> Option<(u64, u64)> {
    Some((from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?))
}

fn encode_identity(identity: &Identity, out: &mut Vec<u8>) {
    out.put_u16_le(identity.epoch);
    out.put_i64_le(identity.used_ms);
    field::text(identity.name.as_deref(), out);
}

fn decode_identity(from: &mut Bytes) -> Option<Identity> {
    Some(Identity {
        epoch: from.try_get_u16_le().ok()?,
        used_ms: from.try_get_i64_le().ok()?,
        name: field::read_text(from)?,
        ..Identity::default()
    })
}

fn encode_window(window: &Window, out: &mut Vec<u8>) {
    out.put_u16_le(window.epoch);
    out.put_u32_le(window.next);
    field::list(out, window.remembered(), |sent, out| {
        out.put_u32_le(sent.sequence);
        out.put_u32_le(sent.count);
        out.put_u64_le(sent.offset);
    });
}

fn decode_window(from: &mut Bytes) -> Option<Window> {
    let (epoch, next) = (from.try_get_u16_le().ok()?, from.try_get_u32_le().ok()?);
    Window::kept(epoch, next, &field::read_list(from, decode_sent)?)
}

fn decode_sent(from: &mut Bytes) -> Option<Sent> {
    Some(Sent {
        sequence: from.try_get_u32_le().ok()?,
        count: from.try_get_u32_le().ok()?,
        offset: from.try_get_u64_le().ok()?,
    })
}

// The rows of the first release:
//
//   200               as 204
//   201 topic u64be   settings | partitions u32 | name (text)
//   202 topic u64be partition u32be
//                     epoch u32 | start u64 | segment u64 | length u64 | end u64 | why stopped (text)
//                     and if there are holes or segments are missed:
//                     holes: count u32, each from u64 | to u64 | at u64
//                     missed, until the end, each segment u64 | length u64
//   203 producer u64be
//                     epoch u16 | used ms i64 | name (text) | windows u32, each topic u64 | partition u32
//                     | epoch u16 | next u32 | sent u8, each sequence u32 | count u32 | offset u64

fn old_topic(from: &mut Bytes) -> Option<TopicEntry> {
    Some(TopicEntry {
        settings: old::settings(from)?,
        partitions: from.try_get_u32_le().ok()?,
        name: TopicName::parse(&field::read_text(from)??).ok()?,
        uuid: None,
    })
}

fn old_partition(topic: TopicId, from: &mut Bytes) -> Option<PartitionEntry> {
    let epoch = from.try_get_u32_le().ok()?;
    let (start, segment) = (from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?);
    let (length, end) = (from.try_get_u64_le().ok()?, from.try_get_u64_le().ok()?);
    let mut entry = PartitionEntry {
        epochs: Epochs::alone(topic, epoch),
        start,
        segment,
        length,
        end,
        stopped: field::read_text(from)?,
        holes: Vec::new(),
        missed: Vec::new(),
        appended_ms: None,
        journalled: end,
    };
    if !from.is_empty() {
        entry.holes = old::holes(from)?;
    }
    while !from.is_empty() {
        entry.missed.push(decode_pair(from)?);
    }
    is_plausible(&entry).then_some(entry)
}

fn old_identity(from: &mut Bytes) -> Option<Identity> {
    let mut identity = Identity {
        epoch: from.try_get_u16_le().ok()?,
        used_ms: from.try_get_i64_le().ok()?,
        name: field::read_text(from)?,
        ..Identity::default()
    };
    for _ in 0..from.try_get_u32_le().ok()? {
        let key = (
            TopicId(from.try_get_u64_le().ok()?),
            from.try_get_u32_le().ok()?,
        );
        let (epoch, next) = (from.try_get_u16_le().ok()?, from.try_get_u32_le().ok()?);
        let count = from.try_get_u8().ok()?;
        let sent: Option<Vec<Sent>> = (0..count).map(|_| decode_sent(from)).collect();
        identity
            .windows
            .insert(key, Window::kept(epoch, next, &sent?)?);
    }
    from.is_empty().then_some(identity)
}

#[cfg(test)]
mod tests {
    use eddy_protocol::frame::Durability;

    use super::*;

    /// Checks that a row is read as it was written, also by a reader to whom its
    /// last fields are unknown, and refused where it must not be.
    fn check<T: PartialEq + std::fmt::Debug>(
        row: Row,
        written: &T,
        decode: fn(&mut Bytes) -> Option<T>,
    ) {
        let value = row.1.expect("there is an entry");
        assert_eq!(fields(value.clone(), decode).as_ref(), Ok(written));
        let mut newer = value.to_vec();
        newer.extend([7; 5]);
        let length = u32::try_from(newer.len() - 5).expect("it is short");
        newer[1..5].copy_from_slice(&length.to_le_bytes());
        assert_eq!(fields(newer.clone().into(), decode).as_ref(), Ok(written));
        newer[0] = 9;
        let refused = Unreadable::Newer("needs 9".to_owned());
        assert_eq!(fields(newer.into(), decode), Err(refused));
        for end in 0..value.len() {
            assert!(fields(value.slice(..end), decode).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written_and_may_gain_fields() {
        let state = State {
            sequence: 1,
            records: 2,
            changes: 3,
            next_topic: 4,
            next_producer: 5,
            closed: true,
        };
        check(state_row(&state), &state, decode_state);
        let topic = TopicEntry {
            settings: TopicSettings {
                durability: Durability::Memory,
                retention_ms: Some(7),
                ..TopicSettings::default()
            },
            partitions: 3,
            name: TopicName::parse("t").expect("it is plain"),
            uuid: Some(Uuid::from_u128(7)),
        };
        check(topic_row(TopicId(1), Some(&topic)), &topic, decode_topic);
        let mut epochs = Epochs::alone(TopicId(1), 5);
        epochs.begin(6, 90);
        let partition = PartitionEntry {
            epochs,
            start: 10,
            segment: 80,
            length: 4000,
            end: 100,
            stopped: Some("it is".to_owned()),
            holes: vec![Hole {
                from: 20,
                to: 30,
                at: 500,
            }],
            missed: vec![(40, 1000)],
            appended_ms: Some(-5),
            journalled: 70,
        };
        let row = partition_row((TopicId(1), 2), Some(&partition));
        assert_eq!(partition_of(&row.0), Ok((TopicId(1), 2)));
        check(row, &partition, decode_partition);
        let sent = Sent {
            sequence: 1,
            count: 2,
            offset: 3,
        };
        let window = Window::kept(4, 3, &[sent, sent]).expect("it is one");
        let row = window_row(9, (TopicId(1), 2), Some(&window));
        assert_eq!(window_of(&row.0), Ok((9, (TopicId(1), 2))));
        check(row, &window, decode_window);
        let identity = Identity {
            epoch: 4,
            used_ms: -1,
            ..Identity::default()
        };
        check(identity_row(9, Some(&identity)), &identity, decode_identity);
    }
}
