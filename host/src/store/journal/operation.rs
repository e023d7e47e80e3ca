//! What a group's directory lists: everything that its commits do, except for
//! the batches' bytes, which follow in the payload.
//!
//! An operation is a kind (u8) and a block (see [`field`]) with its fields:
//!
//! ```text
//! 32 append          topic u64 | partition u32 | base u64 | span u32 | count u32 | length u32
//!                    | crc u32 (the batch's own) | producer u64 (0: none) | epoch u16 | sequence u32
//! 33 put             table u8 | key length u32 | key | value (the rest)
//! 34 delete          table u8 | key (the rest)
//! 35 create topic    topic u64 | partitions u32 | name (text) | settings | uuid (16 bytes)
//! 36 alter topic     topic u64 | partitions u32 | settings
//! 37 delete topic    topic u64
//! 38 open producer   producer u64 | epoch u16 | name (text)
//! 39 forget producer producer u64
//! 40 set epoch       topic u64 | partition u32 | epoch u32 | from u64
//! 41 stop            topic u64 | partition u32 | end u64 | reason (text)
//! 42 repair          topic u64 | partition u32 | epoch u32 | from u64 | holes
//! 43 state           deployment (text) | instance u32 | store (text) | rows u32 | length u32 | crc u32
//!                    (CRC-32C of the delta, whose bytes are in the payload, in their turn)
//! 45 set uuid        topic u64 | uuid (16 bytes)
//! 44 delete state    deployment (text) | instance u64 (all bits set: all of them)
//!
//! settings           entry: durability u8 (0 disk, 1 memory) | retention ms u64 | retention bytes u64
//!                    (all bits set: no limit) | timestamps u8 (0 create, 1 append) | timestamp ahead ms
//!                    u64 | timestamp behind ms u64 (both likewise) | out of bounds u8 (0 refuse, 1 append)
//! holes              list: from u64 | to u64 | at u64
//! ```
//!
//! Put and delete have no fields behind key and value: what they would gain wants
//! another kind. Kinds from 128 on may be skipped by a reader that does not know
//! them; it refuses other kinds that it does not know. The first release had the
//! kinds 1 to 12, without blocks, which are read (see [`old`]) and never written.

use bytes::{Buf, BufMut, Bytes};
use eddy_protocol::frame::{Durability, OutOfBounds, Timestamps, TopicSettings};
use eddy_protocol::{Batch, ProducerStamp, TopicName};

use uuid::Uuid;

use super::old;
use crate::store::commit::{Change, Table, TopicId};
use crate::store::delta::{Delta, StateId};
use crate::store::field::{self, Unreadable, copy};
use crate::store::segment::Hole;
use crate::store::state::Deletion;

const NO_LIMIT: u64 = u64::MAX;
/// Kinds from here on are skipped where they are not known.
const SKIPPED_FROM: u8 = 128;

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
        /// Absent in what the first release wrote.
        uuid: Option<Uuid>,
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
        /// Where it begins; absent: at the partition's end (an earlier release).
        from: Option<u64>,
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
        /// As for `SetEpoch`.
        from: Option<u64>,
        /// All that the partition has from then on.
        holes: Vec<Hole>,
    },
    /// A topic of the first release is given its UUID.
    SetUuid {
        topic: TopicId,
        uuid: Uuid,
    },
    /// A delta of a state.
    State(PlacedDelta),
    DeleteState(Deletion),
    /// What a newer release does and this one may skip.
    Skipped,
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

/// A delta in the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlacedDelta {
    pub(crate) state: StateId,
    pub(crate) rows: u32,
    pub(crate) length: u32,
    pub(crate) crc: u32,
}

impl PlacedDelta {
    pub(crate) fn of(state: StateId, delta: &Delta) -> PlacedDelta {
        let number = |number: usize| u32::try_from(number).expect("a delta has less than 4 GiB");
        PlacedDelta {
            state,
            rows: number(delta.len()),
            length: number(delta.bytes().len()),
            crc: delta.crc(),
        }
    }

    /// The delta, if these bytes are it.
    pub(crate) fn read(&self, bytes: Bytes) -> Option<Delta> {
        let is_it = crc32c::crc32c(&bytes) == self.crc;
        let delta = is_it.then(|| Delta::parse(bytes)).flatten()?;
        (delta.len() == self.rows as usize).then_some(delta)
    }
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
    fn kind(&self) -> u8 {
        match self {
            Operation::Append(_) => 32,
            Operation::Change(Change::Put { .. }) => 33,
            Operation::Change(Change::Delete { .. }) => 34,
            Operation::CreateTopic { .. } => 35,
            Operation::AlterTopic { .. } => 36,
            Operation::DeleteTopic { .. } => 37,
            Operation::OpenProducer { .. } => 38,
            Operation::ForgetProducer { .. } => 39,
            Operation::SetEpoch { .. } => 40,
            Operation::Stop { .. } => 41,
            Operation::Repair { .. } => 42,
            Operation::State(_) => 43,
            Operation::DeleteState(_) => 44,
            Operation::SetUuid { .. } => 45,
            Operation::Skipped => SKIPPED_FROM,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.kind());
        field::block(out, |out| self.encode_fields(out));
    }

    fn encode_fields(&self, out: &mut Vec<u8>) {
        match self {
            Operation::Append(placed) => encode_append(placed, out),
            Operation::Change(Change::Put { table, key, value }) => {
                out.put_u8(*table as u8);
                out.put_u32_le(u32::try_from(key.len()).expect("a commit is far below 4 GiB"));
                out.put_slice(key);
                out.put_slice(value);
            }
            Operation::Change(Change::Delete { table, key }) => {
                out.put_u8(*table as u8);
                out.put_slice(key);
            }
            Operation::CreateTopic {
                topic,
                name,
                partitions,
                settings,
                uuid,
            } => {
                out.put_u64_le(topic.0);
                out.put_u32_le(*partitions);
                field::text(Some(name.as_ref()), out);
                encode_settings(settings, out);
                encode_uuid(*uuid, out);
            }
            Operation::AlterTopic {
                topic,
                partitions,
                settings,
            } => {
                out.put_u64_le(topic.0);
                out.put_u32_le(*partitions);
                encode_settings(settings, out);
            }
            Operation::DeleteTopic { topic } => out.put_u64_le(topic.0),
            Operation::OpenProducer { id, epoch, name } => {
                out.put_u64_le(*id);
                out.put_u16_le(*epoch);
                field::text(name.as_deref(), out);
            }
            Operation::ForgetProducer { id } => out.put_u64_le(*id),
            Operation::SetEpoch {
                topic,
                partition,
                epoch,
                from,
            } => {
                encode_partition(*topic, *partition, out);
                out.put_u32_le(*epoch);
                out.put_u64_le(from.unwrap_or(NO_LIMIT));
            }
            Operation::Stop {
                topic,
                partition,
                end,
                reason,
            } => {
                encode_partition(*topic, *partition, out);
                out.put_u64_le(*end);
                field::text(Some(reason), out);
            }
            Operation::Repair {
                topic,
                partition,
                epoch,
                from,
                holes,
            } => {
                encode_partition(*topic, *partition, out);
                out.put_u32_le(*epoch);
                out.put_u64_le(from.unwrap_or(NO_LIMIT));
                encode_holes(holes, out);
            }
            Operation::SetUuid { topic, uuid } => {
                out.put_u64_le(topic.0);
                encode_uuid(Some(*uuid), out);
            }
            Operation::State(placed) => {
                field::text(Some(&placed.state.deployment), out);
                out.put_u32_le(placed.state.instance);
                field::text(Some(&placed.state.store), out);
                out.put_u32_le(placed.rows);
                out.put_u32_le(placed.length);
                out.put_u32_le(placed.crc);
            }
            Operation::DeleteState(deletion) => {
                field::text(Some(&deletion.deployment), out);
                out.put_u64_le(deletion.instance.map_or(NO_LIMIT, u64::from));
            }
            Operation::Skipped => {}
        }
    }

    /// The next operation of a directory.
    pub(crate) fn decode(directory: &mut Bytes) -> Result<Operation, Unreadable> {
        let kind = directory.try_get_u8().map_err(|_| Unreadable::Damaged)?;
        if old::KINDS.contains(&kind) {
            return old::operation(kind, directory).ok_or(Unreadable::Damaged);
        }
        let mut fields = field::open(directory)?;
        match kind {
            32 => decode_append(&mut fields).map(Operation::Append),
            33 | 34 => {
                let number = fields.try_get_u8().map_err(|_| Unreadable::Damaged)?;
                let table = Table::from_number(number);
                let table = table.ok_or_else(|| Unreadable::newer("table", number))?;
                decode_change(table, kind == 34, &mut fields).map(Operation::Change)
            }
            35..=39 | 45 => decode_whole(kind, &mut fields),
            40..=42 => decode_state(kind, &mut fields),
            43 => decode_delta(&mut fields).map(Operation::State),
            44 => decode_deletion(&mut fields).map(Operation::DeleteState),
            SKIPPED_FROM.. => Some(Operation::Skipped),
            _ => return Err(Unreadable::newer("operations of kind", kind)),
        }
        .ok_or(Unreadable::Damaged)
    }
}

fn decode_change(table: Table, is_delete: bool, from: &mut Bytes) -> Option<Change> {
    if is_delete {
        let key = copy(from, from.len())?;
        return Some(Change::Delete { table, key });
    }
    let length = from.try_get_u32_le().ok()?;
    let key = copy(from, length as usize)?;
    let value = copy(from, from.len())?;
    Some(Change::Put { table, key, value })
}

fn decode_delta(from: &mut Bytes) -> Option<PlacedDelta> {
    let deployment = field::read_text(from)??;
    let instance = from.try_get_u32_le().ok()?;
    let store = field::read_text(from)??;
    Some(PlacedDelta {
        state: StateId::new(&deployment, instance, &store)?,
        rows: from.try_get_u32_le().ok()?,
        length: from.try_get_u32_le().ok()?,
        crc: from.try_get_u32_le().ok()?,
    })
}

fn decode_deletion(from: &mut Bytes) -> Option<Deletion> {
    let deployment = field::read_text(from)??.into();
    let instance = limit(from.try_get_u64_le().ok()?).map(u32::try_from);
    Some(Deletion {
        deployment,
        instance: instance.transpose().ok()?,
    })
}

/// Operations on topics and producers.
fn decode_whole(kind: u8, from: &mut Bytes) -> Option<Operation> {
    let id = from.try_get_u64_le().ok()?;
    let topic = TopicId(id);
    Some(match kind {
        35 => Operation::CreateTopic {
            topic,
            partitions: from.try_get_u32_le().ok()?,
            name: TopicName::parse(&field::read_text(from)??).ok()?,
            settings: decode_settings(from)?,
            uuid: decode_uuid(from)?,
        },
        36 => Operation::AlterTopic {
            topic,
            partitions: from.try_get_u32_le().ok()?,
            settings: decode_settings(from)?,
        },
        37 => Operation::DeleteTopic { topic },
        38 => Operation::OpenProducer {
            id,
            epoch: from.try_get_u16_le().ok()?,
            name: field::read_text(from)?,
        },
        39 => Operation::ForgetProducer { id },
        _ => Operation::SetUuid {
            topic,
            uuid: decode_uuid(from)??,
        },
    })
}

/// Operations on a partition's state.
fn decode_state(kind: u8, from: &mut Bytes) -> Option<Operation> {
    let (topic, partition) = decode_partition(from)?;
    if kind == 41 {
        let end = from.try_get_u64_le().ok()?;
        let reason = field::read_text(from)??;
        return Some(Operation::Stop {
            topic,
            partition,
            end,
            reason,
        });
    }
    let epoch = from.try_get_u32_le().ok()?;
    let begin = limit(from.try_get_u64_le().ok()?);
    Some(if kind == 40 {
        Operation::SetEpoch {
            topic,
            partition,
            epoch,
            from: begin,
        }
    } else {
        Operation::Repair {
            topic,
            partition,
            epoch,
            from: begin,
            holes: decode_holes(from)?,
        }
    })
}

fn encode_append(placed: &Placed, out: &mut Vec<u8>) {
    let stamp = placed.stamp.unwrap_or(ProducerStamp {
        id: 0,
        epoch: 0,
        sequence: 0,
    });
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

pub(super) fn decode_append(from: &mut Bytes) -> Option<Placed> {
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

pub(super) fn decode_partition(from: &mut Bytes) -> Option<(TopicId, u32)> {
    Some((
        TopicId(from.try_get_u64_le().ok()?),
        from.try_get_u32_le().ok()?,
    ))
}

/// The holes as in the picture above; the checkpoint keeps them the same way.
pub(crate) fn encode_holes(holes: &[Hole], out: &mut Vec<u8>) {
    field::list(out, holes, |hole, out| {
        out.put_u64_le(hole.from);
        out.put_u64_le(hole.to);
        out.put_u64_le(hole.at);
    });
}

pub(crate) fn decode_holes(from: &mut Bytes) -> Option<Vec<Hole>> {
    in_order(field::read_list(from, decode_hole)?)
}

pub(super) fn decode_hole(from: &mut Bytes) -> Option<Hole> {
    Some(Hole {
        from: from.try_get_u64_le().ok()?,
        to: from.try_get_u64_le().ok()?,
        at: from.try_get_u64_le().ok()?,
    })
}

/// Whoever goes over holes must come to an end.
pub(super) fn in_order(holes: Vec<Hole>) -> Option<Vec<Hole>> {
    let is_one = |hole: &Hole| hole.from < hole.to;
    let rises = |pair: &[Hole]| pair[0].to <= pair[1].from;
    (holes.iter().all(is_one) && holes.windows(2).all(rises)).then_some(holes)
}

/// The settings as in the picture above; the checkpoint keeps them the same way.
pub(crate) fn encode_settings(settings: &TopicSettings, out: &mut Vec<u8>) {
    field::entry(out, |out| {
        out.put_u8(match settings.durability {
            // The broker refuses what is unknown; the stricter promise is right for it.
            Durability::Disk | Durability::Unknown => 0,
            Durability::Memory => 1,
        });
        out.put_u64_le(settings.retention_ms.unwrap_or(NO_LIMIT));
        out.put_u64_le(settings.retention_bytes.unwrap_or(NO_LIMIT));
        // The broker refuses what is unknown.
        out.put_u8(u8::from(settings.timestamps == Timestamps::Append));
        out.put_u64_le(settings.timestamp_ahead_ms.unwrap_or(NO_LIMIT));
        out.put_u64_le(settings.timestamp_behind_ms.unwrap_or(NO_LIMIT));
        out.put_u8(u8::from(settings.out_of_bounds == OutOfBounds::Append));
    });
}

pub(crate) fn decode_settings(from: &mut Bytes) -> Option<TopicSettings> {
    settings_fields(&mut field::read_entry(from)?)
}

/// The fields of settings, of which the first release wrote the first three.
pub(super) fn settings_fields(from: &mut Bytes) -> Option<TopicSettings> {
    let durability = match from.try_get_u8().ok()? {
        0 => Durability::Disk,
        1 => Durability::Memory,
        _ => return None,
    };
    let mut settings = TopicSettings {
        durability,
        retention_ms: limit(from.try_get_u64_le().ok()?),
        retention_bytes: limit(from.try_get_u64_le().ok()?),
        ..TopicSettings::default()
    };
    if from.is_empty() {
        return Some(settings);
    }
    settings.timestamps = match from.try_get_u8().ok()? {
        0 => Timestamps::Create,
        1 => Timestamps::Append,
        _ => return None,
    };
    settings.timestamp_ahead_ms = limit(from.try_get_u64_le().ok()?);
    settings.timestamp_behind_ms = limit(from.try_get_u64_le().ok()?);
    settings.out_of_bounds = match from.try_get_u8().ok()? {
        0 => OutOfBounds::Refuse,
        1 => OutOfBounds::Append,
        _ => return None,
    };
    Some(settings)
}

/// 16 bytes; zeros: none.
pub(crate) fn encode_uuid(uuid: Option<Uuid>, out: &mut Vec<u8>) {
    out.put_slice(uuid.unwrap_or_default().as_bytes());
}

pub(crate) fn decode_uuid(from: &mut Bytes) -> Option<Option<Uuid>> {
    let bytes = field::take(from, size_of::<Uuid>())?;
    let uuid = Uuid::from_slice(&bytes).ok()?;
    Some((!uuid.is_nil()).then_some(uuid))
}

fn limit(value: u64) -> Option<u64> {
    (value != NO_LIMIT).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../../tests/fixtures/operations-2.hex");

    fn name() -> TopicName {
        TopicName::parse("t").expect("it is plain")
    }

    fn settings() -> TopicSettings {
        TopicSettings {
            durability: Durability::Memory,
            retention_ms: Some(1000),
            retention_bytes: None,
            timestamps: Timestamps::Append,
            timestamp_ahead_ms: None,
            timestamp_behind_ms: Some(7),
            out_of_bounds: OutOfBounds::Append,
        }
    }

    fn all() -> Vec<Operation> {
        let (topic, partition) = (TopicId(1), 2);
        let (key, value) = (Bytes::from("key"), Bytes::from("value"));
        let table = Table::Cursors;
        vec![
            Operation::Append(Placed {
                topic,
                partition,
                base: 3,
                span: 5,
                count: 4,
                length: 100,
                crc: 6,
                stamp: Some(ProducerStamp {
                    id: 7,
                    epoch: 8,
                    sequence: 9,
                }),
            }),
            Operation::Change(Change::Put {
                table,
                key: key.clone(),
                value,
            }),
            Operation::Change(Change::Delete { table, key }),
            Operation::CreateTopic {
                topic,
                name: name(),
                partitions: 3,
                settings: settings(),
                uuid: Some(Uuid::from_u128(5)),
            },
            Operation::SetUuid {
                topic,
                uuid: Uuid::from_u128(6),
            },
            Operation::AlterTopic {
                topic,
                partitions: 4,
                settings: settings(),
            },
            Operation::DeleteTopic { topic },
            Operation::OpenProducer {
                id: 7,
                epoch: 8,
                name: Some("n".to_owned()),
            },
            Operation::ForgetProducer { id: 7 },
            Operation::SetEpoch {
                topic,
                partition,
                epoch: 5,
                from: Some(90),
            },
            Operation::Stop {
                topic,
                partition,
                end: 90,
                reason: "it is".to_owned(),
            },
            Operation::Repair {
                topic,
                partition,
                epoch: 6,
                from: None,
                holes: vec![Hole {
                    from: 1,
                    to: 2,
                    at: 64,
                }],
            },
            Operation::State(PlacedDelta {
                state: StateId::new("d", 1, "s").expect("the names are short"),
                rows: 2,
                length: 3,
                crc: 4,
            }),
            Operation::DeleteState(Deletion {
                deployment: "d".into(),
                instance: Some(1),
            }),
        ]
    }

    fn encoded(operation: &Operation) -> Vec<u8> {
        let mut out = Vec::new();
        operation.encode(&mut out);
        out
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn operations_are_what_the_golden_file_says() {
        let lines: Vec<String> = all().iter().map(|it| hex(&encoded(it)) + "\n").collect();
        if std::env::var_os("EDDY_WRITE_FIXTURES").is_some() {
            let path = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/fixtures/operations-2.hex"
            );
            std::fs::write(path, lines.concat()).expect("it can be written");
            return;
        }
        assert_eq!(GOLDEN, lines.concat());
        for operation in all() {
            let mut bytes = Bytes::from(encoded(&operation));
            assert_eq!(Operation::decode(&mut bytes), Ok(operation));
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn fields_of_a_newer_writer_are_skipped() {
        let has_rest = |it: &Operation| matches!(it, Operation::Change(_));
        for operation in all().into_iter().filter(|it| !has_rest(it)) {
            let mut bytes = encoded(&operation);
            bytes.extend([1, 2, 3]);
            let length = u32::try_from(bytes.len() - 6).expect("it is short");
            bytes[2..6].copy_from_slice(&length.to_le_bytes());
            let decoded = Operation::decode(&mut bytes.into());
            assert_eq!(decoded, Ok(operation));
        }
    }

    #[test]
    fn what_a_newer_writer_does_is_skipped_or_refused_as_its_number_says() {
        let kind = |kind: u8, needs: u8| {
            let bytes = vec![kind, needs, 1, 0, 0, 0, 99];
            Operation::decode(&mut bytes.into())
        };
        let newer = |what: &str| Err(Unreadable::Newer(what.to_owned()));
        assert_eq!(kind(200, 0), Ok(Operation::Skipped));
        assert_eq!(kind(60, 0), newer("operations of kind 60"));
        assert_eq!(kind(34, 0), newer("table 99"));
        assert_eq!(kind(37, 2), newer("needs 2"));
        assert_eq!(kind(37, 0), Err(Unreadable::Damaged));
    }
}
