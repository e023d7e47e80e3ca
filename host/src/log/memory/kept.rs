//! All that the engine in memory keeps, and how a commit changes it.

use std::collections::BTreeMap;

use bytes::Bytes;
use eddy_protocol::ProducerStamp;
use eddy_protocol::batch::{sequence_after, sequences_between};

use super::PartitionKey;
use super::partition::Records;
use crate::log::{CommitError, Expect, Producer, StateChange, StateId, Table};

/// Sequences that lie further back than this lie ahead.
const SEQUENCES_BEHIND_MAX: u32 = 1 << 30;

/// All there is.
#[derive(Debug, Clone, Default)]
pub(super) struct Kept {
    pub(super) records: BTreeMap<PartitionKey, Records>,
    pub(super) tables: BTreeMap<(Table, Bytes), Bytes>,
    pub(super) states: BTreeMap<(StateId, Bytes), Bytes>,
    pub(super) producers: BTreeMap<u64, Identity>,
    pub(super) sent: BTreeMap<(u64, PartitionKey), Vec<Sent>>,
    /// How many there ever were.
    pub(super) topics: u64,
    /// How many offsets each commit takes in its partitions besides those of its records.
    pub(super) left_out: u32,
    pub(super) is_closed: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) epoch: u16,
    pub(super) name: Option<String>,
}

/// A producer's batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) sequence: u32,
    pub(super) count: u32,
    pub(super) offset: u64,
}

impl Kept {
    pub(super) fn expect(&self, expected: Vec<Expect>) -> Result<(), CommitError> {
        for Expect { table, key, value } in expected {
            let found = self.tables.get(&(table, key.clone()));
            if !value.is_met_by(found) {
                let found = found.cloned();
                return Err(CommitError::Conflict { table, key, found });
            }
        }
        Ok(())
    }

    /// Whether a batch is one that came before, and at which offset, if that is known; refused where
    /// it is of another epoch or another one is missing before it.
    pub(super) fn repeated(
        &self,
        key: PartitionKey,
        stamp: ProducerStamp,
        count: u32,
    ) -> Result<Option<Option<u64>>, CommitError> {
        let ProducerStamp {
            id,
            epoch,
            sequence,
        } = stamp;
        let known = self.producers.get(&id).filter(|known| epoch <= known.epoch);
        let current = known.ok_or(CommitError::UnknownProducer(id))?.epoch;
        if epoch < current {
            return Err(CommitError::Fenced { id, epoch, current });
        }
        let sent = self.sent.get(&(id, key)).map_or(&[][..], Vec::as_slice);
        let after = |last: &Sent| sequence_after(last.sequence, last.count);
        let expected = sent.last().map_or(0, after);
        let same = |it: &&Sent| it.sequence == sequence && it.count == count;
        match sequences_between(sequence, expected) {
            0 => Ok(None),
            behind if behind > SEQUENCES_BEHIND_MAX || behind < count => {
                Err(CommitError::OutOfOrder {
                    id,
                    expected,
                    sequence,
                })
            }
            _ => Ok(Some(sent.iter().rfind(same).map(|it| it.offset))),
        }
    }

    pub(super) fn identify(
        &mut self,
        name: Option<String>,
        current: Option<Producer>,
    ) -> Result<Producer, CommitError> {
        if self.is_closed {
            return Err(CommitError::Closed);
        }
        let named = |(_, it): &(&u64, &Identity)| name.is_some() && it.name == name;
        let unnamed = |it: &&Identity| it.name.is_none();
        let known = match current {
            Some(Producer { id, .. }) => self.producers.get(&id).filter(unnamed).map(|it| (id, it)),
            None => self.producers.iter().find(named).map(|(id, it)| (*id, it)),
        };
        let producer = match (known, current) {
            (None, _) => Producer {
                id: self.producers.keys().last().map_or(1, |newest| newest + 1),
                epoch: 0,
            },
            // It was given already, and the answer got lost: nothing was sent under it.
            (Some((id, it)), Some(of))
                if it.epoch == of.epoch + 1 && !self.sent.keys().any(|(by, _)| *by == id) =>
            {
                Producer {
                    id,
                    epoch: it.epoch,
                }
            }
            (Some((id, it)), Some(Producer { epoch, .. })) if epoch < it.epoch => {
                let current = it.epoch;
                return Err(CommitError::Fenced { id, epoch, current });
            }
            (Some((id, it)), _) => Producer {
                id,
                epoch: it.epoch + 1,
            },
        };
        self.sent.retain(|(id, _), _| *id != producer.id);
        let Producer { id, epoch } = producer;
        self.producers.insert(id, Identity { epoch, name });
        Ok(producer)
    }

    pub(super) fn change_state(&mut self, change: StateChange) {
        match change {
            StateChange::Delta { state, delta } => {
                for (key, value) in delta.rows() {
                    let row = (state.clone(), Bytes::copy_from_slice(key));
                    match value {
                        Some(value) => self.states.insert(row, Bytes::copy_from_slice(value)),
                        None => self.states.remove(&row),
                    };
                }
            }
            StateChange::Delete(deletion) => {
                self.states.retain(|(state, _), _| !deletion.is_of(state));
            }
        }
    }
}
