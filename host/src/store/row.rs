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
//!                   | missing: list, each segment u64 | length u64
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
//! segment is missing that was the newest once and then was not there as it was
//! synced: the partition is stopped until it is (or is given up), but what the
//! journal had behind it went on into other segments. A row 210 names the file
//! with what an unwritable partition has besides (see [`aside`](super::aside)). The
//! numbers 208 and 209 are the [states'](super::state).
//!
//! The first release had such rows under the numbers 200 to 203, packed without
//! blocks. They are read, and written anew when its folder is opened.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;

use super::aside::Aside;
use super::field::{self, Field, Unreadable, added, fields};
use super::journal::old;
use super::journal::operation::TopicEntry;
use super::partition::segments::Covered;
use super::producer::{Identity, PartitionKey, Sent, Window};
use super::segment::{HEADER_BYTES, Hole};
use super::table::{Changes, Tables};
use crate::log::{Epochs, Start, TableError, TopicId};

pub(crate) const TOTALS: Kind<(), Totals> = Kind::new(204);
pub(crate) const TOPIC: Kind<TopicId, TopicEntry> = Kind::new(205);
pub(crate) const PARTITION: Kind<PartitionKey, PartitionEntry> = Kind::new(206);
pub(crate) const IDENTITY: Kind<u64, Identity> = Kind::new(207);
pub(crate) const ASIDE: Kind<PartitionKey, Aside> = Kind::new(210);
pub(crate) const WINDOW: Kind<(u64, PartitionKey), Window> = Kind::new(211);
const OLD_TOTALS: u8 = 200;
const OLD_TOPIC: u8 = 201;
const OLD_PARTITION: u8 = 202;
const OLD_IDENTITY: u8 = 203;

type Row = (Bytes, Option<Bytes>);

/// A kind of rows: their number, keys and values.
pub(crate) struct Kind<K, V> {
    number: u8,
    of: std::marker::PhantomData<(K, V)>,
}

impl<K: RowKey, V: Field> Kind<K, V> {
    const fn new(number: u8) -> Kind<K, V> {
        let of = std::marker::PhantomData;
        Kind { number, of }
    }

    /// The row of this key; without a value, its end.
    pub(crate) fn row(&self, key: K, value: Option<&V>) -> Row {
        let value = value.map(|value| {
            let mut out = Vec::new();
            field::block(&mut out, |out| value.encode(out));
            out.into()
        });
        (self.prefix(key), value)
    }

    /// What the keys of all rows begin with whose own keys begin with this one.
    pub(crate) fn prefix<P: RowKey>(&self, key: P) -> Bytes {
        let mut out = BytesMut::from(&[self.number][..]);
        key.put(&mut out);
        out.freeze()
    }

    fn read(&self, tables: &Tables) -> Result<Vec<(K, V)>, RowError> {
        let mut found = Vec::new();
        for (key, mut value) in tables.scan_stored(&[self.number])? {
            // What is behind the fields that are known is skipped.
            found.push((own_key(&key)?, field::decode_block(&mut value)?));
        }
        Ok(found)
    }
}

/// A row's key, big endian.
pub(crate) trait RowKey: Sized {
    fn put(self, out: &mut BytesMut);
    fn take(from: &mut &[u8]) -> Option<Self>;
}

impl RowKey for () {
    fn put(self, _: &mut BytesMut) {}

    fn take(_: &mut &[u8]) -> Option<()> {
        Some(())
    }
}

impl RowKey for u64 {
    fn put(self, out: &mut BytesMut) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn take(from: &mut &[u8]) -> Option<u64> {
        let bytes = from.split_off(..8)?;
        bytes.try_into().ok().map(u64::from_be_bytes)
    }
}

impl RowKey for u32 {
    fn put(self, out: &mut BytesMut) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn take(from: &mut &[u8]) -> Option<u32> {
        let bytes = from.split_off(..4)?;
        bytes.try_into().ok().map(u32::from_be_bytes)
    }
}

impl RowKey for TopicId {
    fn put(self, out: &mut BytesMut) {
        self.0.put(out);
    }

    fn take(from: &mut &[u8]) -> Option<TopicId> {
        u64::take(from).map(TopicId)
    }
}

impl<A: RowKey, B: RowKey> RowKey for (A, B) {
    fn put(self, out: &mut BytesMut) {
        self.0.put(out);
        self.1.put(out);
    }

    fn take(from: &mut &[u8]) -> Option<(A, B)> {
        Some((A::take(from)?, B::take(from)?))
    }
}

/// A row's key without its number.
fn own_key<K: RowKey>(full: &[u8]) -> Result<K, Unreadable> {
    let mut rest = full.get(1..).unwrap_or_default();
    let key = K::take(&mut rest).filter(|_| rest.is_empty());
    key.ok_or(Unreadable::Damaged)
}

/// The numbers that a checkpoint keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    /// The newest group that the checkpoint covers.
    pub(crate) sequence: u64,
    pub(crate) records: u64,
    pub(crate) changes: u64,
    pub(crate) next_topic: u64,
    pub(crate) next_producer: u64,
    pub(crate) closed: bool,
}

fields!(Totals {
    sequence,
    records,
    changes,
    next_topic,
    next_producer,
    closed
});
fields!(Aside {
    sequence,
    bytes,
    end
});
fields!(Start { epoch, from });
fields!(Sent {
    sequence,
    count,
    offset
});

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
    pub(crate) missing: Vec<(u64, u64)>,
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
            missing: self.missing.clone(),
        }
    }

    /// Whether it says more than that the partition exists.
    pub(crate) fn has_history(&self, topic: TopicId) -> bool {
        self.length > 0
            || self.stopped.is_some()
            || !self.holes.is_empty()
            || !self.missing.is_empty()
            || self.epochs != Epochs::first(topic)
    }

    fn is_plausible(&self) -> bool {
        self.length == 0 || self.length >= HEADER_BYTES
    }
}

impl Field for PartitionEntry {
    fn encode(&self, out: &mut Vec<u8>) {
        self.start.encode(out);
        self.segment.encode(out);
        self.length.encode(out);
        self.end.encode(out);
        self.stopped.encode(out);
        field::list(self.epochs.starts(), out);
        self.holes.encode(out);
        self.missing.encode(out);
        self.appended_ms.encode(out);
        self.journalled.encode(out);
    }

    fn decode(from: &mut Bytes) -> Option<PartitionEntry> {
        let (start, segment) = Field::decode(from)?;
        let (length, end) = Field::decode(from)?;
        let entry = PartitionEntry {
            start,
            segment,
            length,
            end,
            stopped: Field::decode(from)?,
            epochs: Epochs::kept(Field::decode(from)?)?,
            holes: Field::decode(from)?,
            missing: Field::decode(from)?,
            appended_ms: Field::decode(from)?,
            journalled: added(from, end)?,
        };
        entry.is_plausible().then_some(entry)
    }
}

/// Its windows have rows of their own.
impl Field for Identity {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.used_ms.encode(out);
        self.name.encode(out);
    }

    fn decode(from: &mut Bytes) -> Option<Identity> {
        Some(Identity {
            epoch: Field::decode(from)?,
            used_ms: Field::decode(from)?,
            name: Field::decode(from)?,
            ..Identity::default()
        })
    }
}

impl Field for Window {
    fn encode(&self, out: &mut Vec<u8>) {
        self.epoch.encode(out);
        self.next.encode(out);
        field::list(self.remembered(), out);
    }

    fn decode(from: &mut Bytes) -> Option<Window> {
        let (epoch, next) = Field::decode(from)?;
        Window::kept(epoch, next, &Vec::decode(from)?)
    }
}

/// What the checkpoint says.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) state: Option<Totals>,
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
        let mut kept = Kept {
            state: TOTALS.read(tables)?.pop().map(|(_, state)| state),
            topics: TOPIC.read(tables)?.into_iter().collect(),
            partitions: PARTITION.read(tables)?.into_iter().collect(),
            identities: IDENTITY.read(tables)?.into_iter().collect(),
            asides: ASIDE.read(tables)?.into_iter().collect(),
            old: Vec::new(),
        };
        for ((id, of), window) in WINDOW.read(tables)? {
            if let Some(identity) = kept.identities.get_mut(&id) {
                identity.windows.insert(of, window);
            }
        }
        kept.read_old(tables)?;
        Ok(kept)
    }

    fn read_old(&mut self, tables: &Tables) -> Result<(), RowError> {
        let damaged = || Unreadable::Damaged;
        for (key, mut value) in tables.scan_stored(&[OLD_TOTALS])? {
            self.state = Some(Totals::decode(&mut value).ok_or_else(damaged)?);
            self.old.push(key);
        }
        for (key, mut value) in tables.scan_stored(&[OLD_TOPIC])? {
            let entry = old_topic(&mut value).ok_or_else(damaged)?;
            self.topics.insert(own_key(&key)?, entry);
            self.old.push(key);
        }
        for (key, mut value) in tables.scan_stored(&[OLD_PARTITION])? {
            let of: PartitionKey = own_key(&key)?;
            let entry = old_partition(of.0, &mut value).ok_or_else(damaged)?;
            self.partitions.insert(of, entry);
            self.old.push(key);
        }
        for (key, mut value) in tables.scan_stored(&[OLD_IDENTITY])? {
            let identity = old_identity(&mut value).ok_or_else(damaged)?;
            self.identities.insert(own_key(&key)?, identity);
            self.old.push(key);
        }
        Ok(())
    }

    /// The rows of the first release as this one writes them.
    pub(crate) fn renewed(&self) -> Changes {
        let mut rows: Changes = self.old.iter().map(|key| (key.clone(), None)).collect();
        rows.extend(self.state.iter().map(|state| TOTALS.row((), Some(state))));
        let topics = self.topics.iter();
        rows.extend(topics.map(|(id, entry)| TOPIC.row(*id, Some(entry))));
        let partitions = self.partitions.iter();
        rows.extend(partitions.map(|(key, entry)| PARTITION.row(*key, Some(entry))));
        for (id, identity) in &self.identities {
            rows.extend([IDENTITY.row(*id, Some(identity))]);
            let windows = identity.windows.iter();
            rows.extend(windows.map(|(of, window)| WINDOW.row((*id, *of), Some(window))));
        }
        rows
    }
}

// The rows of the first release:
//
//   200               as 204
//   201 topic u64be   settings | partitions u32 | name (text)
//   202 topic u64be partition u32be
//                     epoch u32 | start u64 | segment u64 | length u64 | end u64 | why stopped (text)
//                     and if there are holes or segments are missing:
//                     holes: count u32, each from u64 | to u64 | at u64
//                     missing, until the end, each segment u64 | length u64
//   203 producer u64be
//                     epoch u16 | used ms i64 | name (text) | windows u32, each topic u64 | partition u32
//                     | epoch u16 | next u32 | sent u8, each sequence u32 | count u32 | offset u64

fn old_topic(from: &mut Bytes) -> Option<TopicEntry> {
    Some(TopicEntry {
        settings: old::settings(from)?,
        partitions: Field::decode(from)?,
        name: Field::decode(from)?,
        uuid: None,
    })
}

fn old_partition(topic: TopicId, from: &mut Bytes) -> Option<PartitionEntry> {
    let epoch = Field::decode(from)?;
    let (start, segment) = Field::decode(from)?;
    let (length, end) = Field::decode(from)?;
    let mut entry = PartitionEntry {
        epochs: Epochs::alone(topic, epoch),
        start,
        segment,
        length,
        end,
        stopped: Field::decode(from)?,
        holes: Vec::new(),
        missing: Vec::new(),
        appended_ms: None,
        journalled: end,
    };
    if !from.is_empty() {
        entry.holes = old::holes(from)?;
    }
    while !from.is_empty() {
        entry.missing.push(Field::decode(from)?);
    }
    entry.is_plausible().then_some(entry)
}

fn old_identity(from: &mut Bytes) -> Option<Identity> {
    let mut identity = Identity::decode(from)?;
    for _ in 0..u32::decode(from)? {
        let key = Field::decode(from)?;
        let (epoch, next) = Field::decode(from)?;
        let count = u8::decode(from)?;
        let sent: Option<Vec<Sent>> = (0..count).map(|_| Sent::decode(from)).collect();
        let window = Window::kept(epoch, next, &sent?)?;
        identity.windows.insert(key, window);
    }
    from.is_empty().then_some(identity)
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use eddy_protocol::TopicName;
    use eddy_protocol::frame::{Durability, TopicSettings};
    use uuid::Uuid;

    use super::*;

    /// Checks that a row is read as it was written, also by a reader to whom its
    /// last fields are unknown, and refused where it must not be.
    fn check<K, V>(kind: &Kind<K, V>, key: K, written: &V)
    where
        K: RowKey + Copy + PartialEq + Debug,
        V: Field + PartialEq + Debug,
    {
        let (full, value) = kind.row(key, Some(written));
        let value = value.expect("there is an entry");
        assert_eq!(own_key(&full), Ok(key));
        let decode = |bytes: &[u8]| field::decode_block(&mut Bytes::copy_from_slice(bytes));
        assert_eq!(decode(&value).as_ref(), Ok(written));
        let mut newer = value.to_vec();
        newer.extend([7; 5]);
        let length = u32::try_from(newer.len() - 5).expect("it is short");
        newer[1..5].copy_from_slice(&length.to_le_bytes());
        assert_eq!(decode(&newer).as_ref(), Ok(written));
        newer[0] = 9;
        let refused = Unreadable::Newer("needs 9".to_owned());
        assert_eq!(decode(&newer), Err(refused));
        for end in 0..value.len() {
            assert!(decode(&value[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn rows_are_read_as_they_were_written_and_may_gain_fields() {
        let state = Totals {
            sequence: 1,
            records: 2,
            changes: 3,
            next_topic: 4,
            next_producer: 5,
            closed: true,
        };
        check(&TOTALS, (), &state);
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
        check(&TOPIC, TopicId(1), &topic);
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
            missing: vec![(40, 1000)],
            appended_ms: Some(-5),
            journalled: 70,
        };
        check(&PARTITION, (TopicId(1), 2), &partition);
        let sent = Sent {
            sequence: 1,
            count: 2,
            offset: 3,
        };
        let window = Window::kept(4, 3, &[sent, sent]).expect("it is one");
        check(&WINDOW, (9, (TopicId(1), 2)), &window);
        let identity = Identity {
            epoch: 4,
            used_ms: -1,
            ..Identity::default()
        };
        check(&IDENTITY, 9, &identity);
    }
}
