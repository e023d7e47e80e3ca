//! What a group's directory lists: everything that its commits do, except for
//! the batches' bytes, which follow in the payload.
//!
//! An operation is a kind (u8) and its fields, little endian, packed:
//!
//! ```text
//! 1 append          topic u64 | partition u32 | base u64 | span u32 | count u32 | length u32
//!                   | crc u32 (the batch's own) | producer u64 (0: none) | epoch u16 | sequence u32
//! 2 put             table u8 | key length u32 | value length u32 | key | value
//! 3 delete          table u8 | key length u32 | key
//! 4 create topic    topic u64 | partitions u32 | settings | name length u8 | name
//! 5 alter topic     topic u64 | partitions u32 | settings
//! 6 delete topic    topic u64
//! 7 open producer   producer u64 | epoch u16 | name length u16 (65535: none) | name
//! 8 forget producer producer u64
//! 9 set epoch       topic u64 | partition u32 | epoch u32
//! 10 stop           topic u64 | partition u32 | end u64 | reason length u16 | reason
//! 11 repair         topic u64 | partition u32 | epoch u32
//! 12 repair         as 11 | holes: count u32, each from u64 | to u64 | at u64
//!
//! settings          durability u8 (0 disk, 1 memory) | retention ms u64 | retention bytes u64
//!                   (all bits set: no limit)
//! ```

use bytes::{Buf, BufMut, Bytes};
use eddy_protocol::frame::{Durability, TopicSettings};
use eddy_protocol::{Batch, ProducerStamp, TopicName};

use crate::store::commit::{Change, Table, TopicId};
use crate::store::segment::Hole;

const NO_LIMIT: u64 = u64::MAX;
const NO_NAME: u16 = u16::MAX;

/// One thing that a group does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    Append(Placed),
    Change(Change),
    CreateTopic {
        topic: TopicId,
        name: TopicName,
        partitions: u32,
        settings: TopicSettings,
    },
    AlterTopic {
        topic: TopicId,
        partitions: u32,
        settings: TopicSettings,
    },
    DeleteTopic {
        topic: TopicId,
    },
    OpenProducer {
        id: u64,
        epoch: u16,
        name: Option<String>,
    },
    ForgetProducer {
        id: u64,
    },
    SetEpoch {
        topic: TopicId,
        partition: u32,
        epoch: u32,
    },
    Stop {
        topic: TopicId,
        partition: u32,
        end: u64,
        reason: String,
    },
    Repair {
        topic: TopicId,
        partition: u32,
        epoch: u32,
        /// All that the partition has from then on.
        holes: Vec<Hole>,
    },
}

/// Where a batch was put, and what of it the producers' state needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) topic: TopicId,
    pub(crate) partition: u32,
    pub(crate) base: u64,
    pub(crate) span: u32,
    pub(crate) count: u32,
    pub(crate) length: u32,
    pub(crate) crc: u32,
    pub(crate) stamp: Option<ProducerStamp>,
}

impl Placed {
    /// The entry of a batch that has its offset.
    pub(crate) fn of(topic: TopicId, partition: u32, batch: &Batch) -> Placed {
        Placed {
            topic,
            partition,
            base: batch.base_offset(),
            span: batch.span(),
            count: batch.count(),
            length: u32::try_from(batch.len()).expect("a batch's length is a u32 in its header"),
            crc: batch.header().crc(),
            stamp: batch.producer(),
        }
    }

    /// Whether these bytes are the batch that was put there.
    pub(crate) fn matches(&self, batch: &Batch) -> bool {
        batch.base_offset() == self.base
            && batch.span() == self.span
            && batch.count() == self.count
            && batch.len() == self.length as usize
            && batch.header().crc() == self.crc
            && batch.producer() == self.stamp
    }
}

impl Operation {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Operation::Append(placed) => encode_append(placed, out),
            Operation::Change(Change::Put { table, key, value }) => {
                out.put_u8(2);
                out.put_u8(*table as u8);
                out.put_u32_le(length(key));
                out.put_u32_le(length(value));
                out.put_slice(key);
                out.put_slice(value);
            }
            Operation::Change(Change::Delete { table, key }) => {
                out.put_u8(3);
                out.put_u8(*table as u8);
                out.put_u32_le(length(key));
                out.put_slice(key);
            }
            Operation::CreateTopic {
                topic,
                name,
                partitions,
                settings,
            } => {
                out.put_u8(4);
                out.put_u64_le(topic.0);
                out.put_u32_le(*partitions);
                encode_settings(settings, out);
                let name: &str = name.as_ref();
                out.put_u8(u8::try_from(name.len()).expect("a topic's name has at most 249 bytes"));
                out.put_slice(name.as_bytes());
            }
            Operation::AlterTopic {
                topic,
                partitions,
                settings,
            } => {
                out.put_u8(5);
                out.put_u64_le(topic.0);
                out.put_u32_le(*partitions);
                encode_settings(settings, out);
            }
            Operation::DeleteTopic { topic } => {
                out.put_u8(6);
                out.put_u64_le(topic.0);
            }
            Operation::OpenProducer { id, epoch, name } => {
                out.put_u8(7);
                out.put_u64_le(*id);
                out.put_u16_le(*epoch);
                encode_text(name.as_deref(), out);
            }
            Operation::ForgetProducer { id } => {
                out.put_u8(8);
                out.put_u64_le(*id);
            }
            Operation::SetEpoch {
                topic,
                partition,
                epoch,
            } => {
                out.put_u8(9);
                encode_partition(*topic, *partition, out);
                out.put_u32_le(*epoch);
            }
            Operation::Stop {
                topic,
                partition,
                end,
                reason,
            } => {
                out.put_u8(10);
                encode_partition(*topic, *partition, out);
                out.put_u64_le(*end);
                encode_text(Some(reason), out);
            }
            Operation::Repair {
                topic,
                partition,
                epoch,
                holes,
            } => {
                out.put_u8(if holes.is_empty() { 11 } else { 12 });
                encode_partition(*topic, *partition, out);
                out.put_u32_le(*epoch);
                if !holes.is_empty() {
                    encode_holes(holes, out);
                }
            }
        }
    }

    /// The next operation of a directory; `None` if it is not one.
    pub(crate) fn decode(directory: &mut Bytes) -> Option<Operation> {
        let kind = directory.try_get_u8().ok()?;
        Some(match kind {
            1 => Operation::Append(decode_append(directory)?),
            2 => {
                let table = Table::from_number(directory.try_get_u8().ok()?)?;
                let (key, value) = (
                    directory.try_get_u32_le().ok()?,
                    directory.try_get_u32_le().ok()?,
                );
                let key = copy(directory, key as usize)?;
                let value = copy(directory, value as usize)?;
                Operation::Change(Change::Put { table, key, value })
            }
            3 => {
                let table = Table::from_number(directory.try_get_u8().ok()?)?;
                let key = directory.try_get_u32_le().ok()?;
                Operation::Change(Change::Delete {
                    table,
                    key: copy(directory, key as usize)?,
                })
            }
            4 => {
                let topic = TopicId(directory.try_get_u64_le().ok()?);
                let partitions = directory.try_get_u32_le().ok()?;
                let settings = decode_settings(directory)?;
                let length = directory.try_get_u8().ok()?;
                let name = take(directory, usize::from(length))?;
                let name = TopicName::parse(std::str::from_utf8(&name).ok()?).ok()?;
                Operation::CreateTopic {
                    topic,
                    name,
                    partitions,
                    settings,
                }
            }
            5 => Operation::AlterTopic {
                topic: TopicId(directory.try_get_u64_le().ok()?),
                partitions: directory.try_get_u32_le().ok()?,
                settings: decode_settings(directory)?,
            },
            6 => Operation::DeleteTopic {
                topic: TopicId(directory.try_get_u64_le().ok()?),
            },
            7 => Operation::OpenProducer {
                id: directory.try_get_u64_le().ok()?,
                epoch: directory.try_get_u16_le().ok()?,
                name: decode_text(directory)?,
            },
            8 => Operation::ForgetProducer {
                id: directory.try_get_u64_le().ok()?,
            },
            9 => {
                let (topic, partition) = decode_partition(directory)?;
                Operation::SetEpoch {
                    topic,
                    partition,
                    epoch: directory.try_get_u32_le().ok()?,
                }
            }
            10 => {
                let (topic, partition) = decode_partition(directory)?;
                let end = directory.try_get_u64_le().ok()?;
                Operation::Stop {
                    topic,
                    partition,
                    end,
                    reason: decode_text(directory)??,
                }
            }
            11 | 12 => {
                let (topic, partition) = decode_partition(directory)?;
                Operation::Repair {
                    topic,
                    partition,
                    epoch: directory.try_get_u32_le().ok()?,
                    holes: if kind == 12 {
                        decode_holes(directory)?
                    } else {
                        Vec::new()
                    },
                }
            }
            _ => return None,
        })
    }
}

fn encode_append(placed: &Placed, out: &mut Vec<u8>) {
    let stamp = placed.stamp.unwrap_or(ProducerStamp {
        id: 0,
        epoch: 0,
        sequence: 0,
    });
    out.put_u8(1);
    encode_partition(placed.topic, placed.partition, out);
    out.put_u64_le(placed.base);
    out.put_u32_le(placed.span);
    out.put_u32_le(placed.count);
    out.put_u32_le(placed.length);
    out.put_u32_le(placed.crc);
    out.put_u64_le(stamp.id);
    out.put_u16_le(stamp.epoch);
    out.put_u32_le(stamp.sequence);
}

fn decode_append(from: &mut Bytes) -> Option<Placed> {
    let (topic, partition) = decode_partition(from)?;
    let base = from.try_get_u64_le().ok()?;
    let span = from.try_get_u32_le().ok()?;
    let count = from.try_get_u32_le().ok()?;
    let length = from.try_get_u32_le().ok()?;
    let crc = from.try_get_u32_le().ok()?;
    let stamp = ProducerStamp {
        id: from.try_get_u64_le().ok()?,
        epoch: from.try_get_u16_le().ok()?,
        sequence: from.try_get_u32_le().ok()?,
    };
    Some(Placed {
        topic,
        partition,
        base,
        span,
        count,
        length,
        crc,
        stamp: (stamp.id != 0).then_some(stamp),
    })
}

fn encode_partition(topic: TopicId, partition: u32, out: &mut Vec<u8>) {
    out.put_u64_le(topic.0);
    out.put_u32_le(partition);
}

fn decode_partition(from: &mut Bytes) -> Option<(TopicId, u32)> {
    Some((
        TopicId(from.try_get_u64_le().ok()?),
        from.try_get_u32_le().ok()?,
    ))
}

/// The holes as in the picture above; the checkpoint keeps them the same way.
pub(crate) fn encode_holes(holes: &[Hole], out: &mut Vec<u8>) {
    out.put_u32_le(u32::try_from(holes.len()).expect("each hole is a repair's"));
    for hole in holes {
        out.put_u64_le(hole.from);
        out.put_u64_le(hole.to);
        out.put_u64_le(hole.at);
    }
}

pub(crate) fn decode_holes(from: &mut Bytes) -> Option<Vec<Hole>> {
    let mut holes: Vec<Hole> = Vec::new();
    for _ in 0..from.try_get_u32_le().ok()? {
        let hole = Hole {
            from: from.try_get_u64_le().ok()?,
            to: from.try_get_u64_le().ok()?,
            at: from.try_get_u64_le().ok()?,
        };
        // Whoever goes over them must come to an end.
        if hole.from >= hole.to || holes.last().is_some_and(|last| last.to > hole.from) {
            return None;
        }
        holes.push(hole);
    }
    Some(holes)
}

/// The settings as in the picture above; the checkpoint keeps them the same way.
pub(crate) fn encode_settings(settings: &TopicSettings, out: &mut Vec<u8>) {
    out.put_u8(match settings.durability {
        // The broker refuses what is unknown; the stricter promise is right for it.
        Durability::Disk | Durability::Unknown => 0,
        Durability::Memory => 1,
    });
    out.put_u64_le(settings.retention_ms.unwrap_or(NO_LIMIT));
    out.put_u64_le(settings.retention_bytes.unwrap_or(NO_LIMIT));
}

pub(crate) fn decode_settings(from: &mut Bytes) -> Option<TopicSettings> {
    let durability = match from.try_get_u8().ok()? {
        0 => Durability::Disk,
        1 => Durability::Memory,
        _ => return None,
    };
    let limit = |value: u64| (value != NO_LIMIT).then_some(value);
    Some(TopicSettings {
        durability,
        retention_ms: limit(from.try_get_u64_le().ok()?),
        retention_bytes: limit(from.try_get_u64_le().ok()?),
    })
}

/// A text of at most 65,534 bytes (a longer one is cut), or none.
pub(crate) fn encode_text(text: Option<&str>, out: &mut Vec<u8>) {
    let Some(text) = text else {
        return out.put_u16_le(NO_NAME);
    };
    let mut end = text.len().min(usize::from(NO_NAME) - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u16_le(u16::try_from(end).unwrap_or(NO_NAME - 1));
    out.put_slice(&text.as_bytes()[..end]);
}

pub(crate) fn decode_text(from: &mut Bytes) -> Option<Option<String>> {
    let length = from.try_get_u16_le().ok()?;
    if length == NO_NAME {
        return Some(None);
    }
    let text = take(from, usize::from(length))?;
    Some(Some(std::str::from_utf8(&text).ok()?.to_owned()))
}

/// The next `length` bytes; `None` if there are fewer.
pub(crate) fn take(from: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= from.len()).then(|| from.split_to(length))
}

/// As [`take`], in memory of its own: what stays in the tables must not hold the
/// whole file that it was read from.
fn copy(from: &mut Bytes, length: usize) -> Option<Bytes> {
    take(from, length).map(|bytes| Bytes::copy_from_slice(&bytes))
}

fn length(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len()).expect("a commit's size is limited far below 4 GiB")
}
