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
use crate::log::{Change, Deletion, Delta, StateId, Table, TopicId};
use crate::store::field::{self, Field, Unreadable, added, copy, fields};
use crate::store::producer::PartitionKey;
use crate::store::segment::Hole;

/// Kinds from here on are skipped where they are not known.
const SKIPPED_FROM: u8 = 128;

/// One thing that a group does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    Append(Placed),
    Change(Change),
    CreateTopic {
        topic: TopicId,
        entry: TopicEntry,
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
        key: PartitionKey,
        epoch: u32,
        /// Where it begins; absent: at the partition's end (an earlier release).
        from: Option<u64>,
    },
    Stop {
        key: PartitionKey,
        end: u64,
        reason: String,
    },
    Repair {
        key: PartitionKey,
        epoch: u32,
        /// As for `SetEpoch`.
        from: Option<u64>,
        /// All that the partition has from then on.
        holes: Vec<Hole>,
    },
    /// A topic of the first release is given its UUID.
    SetUuid {
        topic: TopicId,
        uuid: Option<Uuid>,
    },
    /// A delta of a state.
    State(PlacedDelta),
    DeleteState(Deletion),
    /// What a newer release does and this one may skip.
    Skipped,
}

/// What is kept of a topic, here and in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TopicEntry {
    pub(crate) partitions: u32,
    pub(crate) name: TopicName,
    pub(crate) settings: TopicSettings,
    /// Absent in what the first release wrote.
    pub(crate) uuid: Option<Uuid>,
}

fields!(TopicEntry {
    partitions,
    name,
    settings,
    uuid
});

/// Where a batch was put, and what of it the producers' state needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) key: PartitionKey,
    pub(crate) base: u64,
    pub(crate) span: u32,
    pub(crate) count: u32,
    pub(crate) length: u32,
    pub(crate) crc: u32,
    pub(crate) stamp: Option<ProducerStamp>,
}

fields!(Placed {
    key,
    base,
    span,
    count,
    length,
    crc,
    stamp
});

/// A delta in the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlacedDelta {
    pub(crate) state: StateId,
    pub(crate) rows: u32,
    pub(crate) length: u32,
    pub(crate) crc: u32,
}

fields!(PlacedDelta {
    state,
    rows,
    length,
    crc
});

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
    pub(crate) fn of(key: PartitionKey, batch: &Batch) -> Placed {
        Placed {
            key,
            base: batch.base_offset(),
            span: batch.span(),
            count: batch.count(),
            length: u32::try_from(batch.len()).expect("a batch's length is a u32 in its header"),
            crc: batch.header().crc(),
            stamp: batch.producer(),
        }
    }

    /// The offset behind the batch.
    pub(crate) fn end(&self) -> u64 {
        self.base + u64::from(self.span)
    }

    /// Whether these bytes are the batch that was put there.
    pub(crate) fn matches(&self, batch: &Batch) -> bool {
        *self == Placed::of(self.key, batch)
    }
}

/// The operations whose fields are packed one after the other, by their kinds.
macro_rules! packed {
    (
        ($($single_kind:literal $single:ident),*)
        $($kind:literal $variant:ident { $($field:ident),* })*
    ) => {
        impl Operation {
            fn kind(&self) -> u8 {
                match self {
                    Operation::Change(Change::Put { .. }) => PUT,
                    Operation::Change(Change::Delete { .. }) => DELETE,
                    $(Operation::$single(_) => $single_kind,)*
                    $(Operation::$variant { .. } => $kind,)*
                    Operation::Skipped => SKIPPED_FROM,
                }
            }

            fn encode_fields(&self, out: &mut Vec<u8>) {
                match self {
                    Operation::Change(change) => encode_change(change, out),
                    $(Operation::$single(it) => it.encode(out),)*
                    $(Operation::$variant { $($field),* } => { $($field.encode(out);)* })*
                    Operation::Skipped => {}
                }
            }

            /// Reads the fields of an operation of a kind that is known.
            pub(super) fn decode_fields(kind: u8, from: &mut Bytes) -> Option<Operation> {
                Some(match kind {
                    $($single_kind => Operation::$single(Field::decode(from)?),)*
                    $($kind => Operation::$variant { $($field: Field::decode(from)?),* },)*
                    _ => return None,
                })
            }
        }

        const PACKED: &[u8] = &[$($single_kind,)* $($kind,)*];
    };
}

packed! {
    (32 Append, 43 State, 44 DeleteState)
    35 CreateTopic { topic, entry }
    36 AlterTopic { topic, partitions, settings }
    37 DeleteTopic { topic }
    38 OpenProducer { id, epoch, name }
    39 ForgetProducer { id }
    40 SetEpoch { key, epoch, from }
    41 Stop { key, end, reason }
    42 Repair { key, epoch, from, holes }
    45 SetUuid { topic, uuid }
}

const PUT: u8 = 33;
const DELETE: u8 = 34;

impl Operation {
    /// The batch's entry, of an append.
    pub(crate) fn append(&self) -> Option<&Placed> {
        match self {
            Operation::Append(placed) => Some(placed),
            _ => None,
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u8(self.kind());
        field::block(out, |out| self.encode_fields(out));
    }

    /// The next operation of a directory.
    pub(crate) fn decode(directory: &mut Bytes) -> Result<Operation, Unreadable> {
        let kind = directory.try_get_u8().map_err(|_| Unreadable::Damaged)?;
        if old::KINDS.contains(&kind) {
            return old::operation(kind, directory).ok_or(Unreadable::Damaged);
        }
        let mut fields = field::open(directory)?;
        match kind {
            PUT | DELETE => {
                let number = fields.try_get_u8().map_err(|_| Unreadable::Damaged)?;
                let table = Table::from_number(number);
                let table = table.ok_or_else(|| Unreadable::newer("table", number))?;
                decode_change(table, kind == DELETE, &mut fields).map(Operation::Change)
            }
            SKIPPED_FROM.. => Some(Operation::Skipped),
            _ if PACKED.contains(&kind) => Operation::decode_fields(kind, &mut fields),
            _ => return Err(Unreadable::newer("operations of kind", kind)),
        }
        .ok_or(Unreadable::Damaged)
    }
}

fn encode_change(change: &Change, out: &mut Vec<u8>) {
    match change {
        Change::Put { table, key, value } => {
            out.put_u8(*table as u8);
            out.put_u32_le(u32::try_from(key.len()).expect("a commit is far below 4 GiB"));
            out.put_slice(key);
            out.put_slice(value);
        }
        Change::Delete { table, key } => {
            out.put_u8(*table as u8);
            out.put_slice(key);
        }
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

impl Field for StateId {
    fn encode(&self, out: &mut Vec<u8>) {
        field::text(&self.deployment, out);
        self.instance.encode(out);
        field::text(&self.store, out);
    }

    fn decode(from: &mut Bytes) -> Option<StateId> {
        let (deployment, instance) = <(String, u32)>::decode(from)?;
        StateId::new(&deployment, instance, &String::decode(from)?)
    }
}

impl Field for Deletion {
    fn encode(&self, out: &mut Vec<u8>) {
        field::text(&self.deployment, out);
        self.instance.map(u64::from).encode(out);
    }

    fn decode(from: &mut Bytes) -> Option<Deletion> {
        let (deployment, instance) = <(String, Option<u64>)>::decode(from)?;
        Some(Deletion {
            deployment: deployment.into(),
            instance: instance.map(u32::try_from).transpose().ok()?,
        })
    }
}

/// A producer's id of 0: none.
impl Field for Option<ProducerStamp> {
    fn encode(&self, out: &mut Vec<u8>) {
        let (id, epoch, sequence) = self.map_or((0, 0, 0), |it| (it.id, it.epoch, it.sequence));
        id.encode(out);
        epoch.encode(out);
        sequence.encode(out);
    }

    fn decode(from: &mut Bytes) -> Option<Option<ProducerStamp>> {
        let stamp = ProducerStamp {
            id: Field::decode(from)?,
            epoch: Field::decode(from)?,
            sequence: Field::decode(from)?,
        };
        Some((stamp.id != 0).then_some(stamp))
    }
}

impl Field for Hole {
    fn encode(&self, out: &mut Vec<u8>) {
        self.from.encode(out);
        self.to.encode(out);
        self.at.encode(out);
    }

    fn decode(from: &mut Bytes) -> Option<Hole> {
        Some(Hole {
            from: Field::decode(from)?,
            to: Field::decode(from)?,
            at: Field::decode(from)?,
        })
    }

    /// Going over holes must come to an end.
    fn is_valid_list(holes: &[Hole]) -> bool {
        let is_one = |hole: &Hole| hole.from < hole.to;
        let rises = |pair: &[Hole]| pair[0].to <= pair[1].from;
        holes.iter().all(is_one) && holes.windows(2).all(rises)
    }
}

/// An entry, as in the picture above.
impl Field for TopicSettings {
    fn encode(&self, out: &mut Vec<u8>) {
        field::entry(out, |out| {
            // The broker refuses settings that it does not know.
            (self.durability == Durability::Memory).encode(out);
            self.retention_ms.encode(out);
            self.retention_bytes.encode(out);
            (self.timestamps == Timestamps::Append).encode(out);
            self.timestamp_ahead_ms.encode(out);
            self.timestamp_behind_ms.encode(out);
            (self.out_of_bounds == OutOfBounds::Append).encode(out);
        });
    }

    fn decode(from: &mut Bytes) -> Option<TopicSettings> {
        settings_fields(&mut field::read_entry(from)?)
    }
}

/// The fields of settings, of which the first release wrote the first three.
pub(super) fn settings_fields(from: &mut Bytes) -> Option<TopicSettings> {
    let default = TopicSettings::default();
    Some(TopicSettings {
        durability: choice(u8::decode(from)?, [Durability::Disk, Durability::Memory])?,
        retention_ms: Field::decode(from)?,
        retention_bytes: Field::decode(from)?,
        timestamps: choice(added(from, 0)?, [Timestamps::Create, Timestamps::Append])?,
        timestamp_ahead_ms: added(from, default.timestamp_ahead_ms)?,
        timestamp_behind_ms: added(from, default.timestamp_behind_ms)?,
        out_of_bounds: choice(added(from, 0)?, [OutOfBounds::Refuse, OutOfBounds::Append])?,
    })
}

fn choice<T>(number: u8, choices: [T; 2]) -> Option<T> {
    choices.into_iter().nth(usize::from(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../../tests/fixtures/operations-2.hex");

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
        let (topic, key) = (TopicId(1), (TopicId(1), 2));
        let (name, value) = (Bytes::from("key"), Bytes::from("value"));
        let table = Table::Cursors;
        vec![
            Operation::Append(Placed {
                key,
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
                key: name.clone(),
                value,
            }),
            Operation::Change(Change::Delete { table, key: name }),
            Operation::CreateTopic {
                topic,
                entry: TopicEntry {
                    partitions: 3,
                    name: TopicName::parse("t").expect("it is plain"),
                    settings: settings(),
                    uuid: Some(Uuid::from_u128(5)),
                },
            },
            Operation::SetUuid {
                topic,
                uuid: Some(Uuid::from_u128(6)),
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
                key,
                epoch: 5,
                from: Some(90),
            },
            Operation::Stop {
                key,
                end: 90,
                reason: "it is".to_owned(),
            },
            Operation::Repair {
                key,
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
