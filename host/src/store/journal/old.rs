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

use bytes::{Buf, Bytes};
use eddy_protocol::TopicName;
use eddy_protocol::frame::TopicSettings;

use super::operation::{
    Operation, decode_append, decode_hole, decode_partition, in_order, settings_fields,
};
use crate::store::commit::{Change, Table, TopicId};
use crate::store::field::{copy, read_text, take};
use crate::store::segment::Hole;

/// The kinds that the first release had.
pub(super) const KINDS: RangeInclusive<u8> = 1..=12;

/// The operation whose kind was just read.
pub(super) fn operation(kind: u8, from: &mut Bytes) -> Option<Operation> {
    match kind {
        1 => decode_append(from).map(Operation::Append),
        2 | 3 => change(kind, from).map(Operation::Change),
        4..=8 => whole(kind, from),
        _ => state(kind, from),
    }
}

fn change(kind: u8, from: &mut Bytes) -> Option<Change> {
    let table = Table::from_number(from.try_get_u8().ok()?)?;
    let key = from.try_get_u32_le().ok()?;
    if kind == 3 {
        let key = copy(from, key as usize)?;
        return Some(Change::Delete { table, key });
    }
    let value = from.try_get_u32_le().ok()?;
    let key = copy(from, key as usize)?;
    let value = copy(from, value as usize)?;
    Some(Change::Put { table, key, value })
}

fn whole(kind: u8, from: &mut Bytes) -> Option<Operation> {
    let id = from.try_get_u64_le().ok()?;
    let topic = TopicId(id);
    Some(match kind {
        4 => {
            let partitions = from.try_get_u32_le().ok()?;
            let settings = settings(from)?;
            let length = from.try_get_u8().ok()?;
            let name = take(from, usize::from(length))?;
            let name = TopicName::parse(std::str::from_utf8(&name).ok()?).ok()?;
            Operation::CreateTopic {
                topic,
                name,
                partitions,
                settings,
                uuid: None,
            }
        }
        5 => Operation::AlterTopic {
            topic,
            partitions: from.try_get_u32_le().ok()?,
            settings: settings(from)?,
        },
        6 => Operation::DeleteTopic { topic },
        7 => Operation::OpenProducer {
            id,
            epoch: from.try_get_u16_le().ok()?,
            name: read_text(from)?,
        },
        _ => Operation::ForgetProducer { id },
    })
}

fn state(kind: u8, from: &mut Bytes) -> Option<Operation> {
    let (topic, partition) = decode_partition(from)?;
    if kind == 10 {
        let end = from.try_get_u64_le().ok()?;
        let reason = read_text(from)??;
        return Some(Operation::Stop {
            topic,
            partition,
            end,
            reason,
        });
    }
    let epoch = from.try_get_u32_le().ok()?;
    Some(match kind {
        9 => Operation::SetEpoch {
            topic,
            partition,
            epoch,
            from: None,
        },
        _ => Operation::Repair {
            topic,
            partition,
            epoch,
            from: None,
            holes: match kind {
                12 => holes(from)?,
                _ => Vec::new(),
            },
        },
    })
}

pub(crate) fn settings(from: &mut Bytes) -> Option<TopicSettings> {
    const BYTES: usize = 17;
    settings_fields(&mut take(from, BYTES)?)
}

pub(crate) fn holes(from: &mut Bytes) -> Option<Vec<Hole>> {
    let mut holes = Vec::new();
    for _ in 0..from.try_get_u32_le().ok()? {
        holes.push(decode_hole(from)?);
    }
    in_order(holes)
}
