//! What the first release wrote into its journal and its checkpoint: packed
//! fields that could not gain any. Read, so that its data folders open; never
//! written.
//!
//! ```text
//! 1 append          as 32 in `operation`
//! 2 put             table u8 | key length u32 | value length u32 | key | value
//! 3 delete          table u8 | key length u32 | key
//! 4 create topic    topic u64 | partitions u32 | settings | name length u8 | name
//! 5 alter topic     topic u64 | partitions u32 | settings
//! 6 delete topic    topic u64
//! 7 open producer   producer u64 | epoch u16 | name (text)
//! 8 forget producer producer u64
//! 9 set epoch       topic u64 | partition u32 | epoch u32
//! 10 stop           topic u64 | partition u32 | end u64 | reason (text)
//! 11 repair         topic u64 | partition u32 | epoch u32
//! 12 repair         as 11 | holes: count u32, each from u64 | to u64 | at u64
//!
//! settings          durability u8 | retention ms u64 | retention bytes u64
//! ```

use std::ops::RangeInclusive;

use bytes::Bytes;
use eddy_protocol::TopicName;
use eddy_protocol::frame::TopicSettings;

use super::operation::{Operation, TopicEntry, settings_fields};
use crate::log::{Change, Table, TopicId};
use crate::store::field::{Field, copy, take};
use crate::store::segment::Hole;

/// The kinds that the first release had.
pub(super) const KINDS: RangeInclusive<u8> = 1..=12;

/// The operation whose kind was just read.
pub(super) fn operation(kind: u8, from: &mut Bytes) -> Option<Operation> {
    Some(match kind {
        // Their fields are those of today.
        1 | 6 | 7 | 8 | 10 => return Operation::decode_fields(kind + 31, from),
        2 | 3 => Operation::Change(change(kind, from)?),
        4 => create_topic(from)?,
        5 => Operation::AlterTopic {
            topic: Field::decode(from)?,
            partitions: Field::decode(from)?,
            settings: settings(from)?,
        },
        9 => Operation::SetEpoch {
            key: Field::decode(from)?,
            epoch: Field::decode(from)?,
            from: None,
        },
        _ => Operation::Repair {
            key: Field::decode(from)?,
            epoch: Field::decode(from)?,
            from: None,
            holes: match kind {
                12 => holes(from)?,
                _ => Vec::new(),
            },
        },
    })
}

fn change(kind: u8, from: &mut Bytes) -> Option<Change> {
    let table = Table::from_number(u8::decode(from)?)?;
    let key = u32::decode(from)?;
    if kind == 3 {
        let key = copy(from, key as usize)?;
        return Some(Change::Delete { table, key });
    }
    let value = u32::decode(from)?;
    let key = copy(from, key as usize)?;
    let value = copy(from, value as usize)?;
    Some(Change::Put { table, key, value })
}

fn create_topic(from: &mut Bytes) -> Option<Operation> {
    let (topic, partitions) = <(TopicId, u32)>::decode(from)?;
    let settings = settings(from)?;
    let length = u8::decode(from)?;
    let name = take(from, usize::from(length))?;
    let entry = TopicEntry {
        partitions,
        name: TopicName::parse(std::str::from_utf8(&name).ok()?).ok()?,
        settings,
        uuid: None,
    };
    Some(Operation::CreateTopic { topic, entry })
}

pub(crate) fn settings(from: &mut Bytes) -> Option<TopicSettings> {
    const BYTES: usize = 17;
    settings_fields(&mut take(from, BYTES)?)
}

pub(crate) fn holes(from: &mut Bytes) -> Option<Vec<Hole>> {
    let count = u32::decode(from)?;
    let holes: Option<Vec<Hole>> = (0..count).map(|_| Hole::decode(from)).collect();
    holes.filter(|holes| Hole::is_valid_list(holes))
}
