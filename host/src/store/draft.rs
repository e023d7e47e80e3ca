//! The draft of a group: requests are noted in it one by one, each resting on
//! those before it, and all of it can be taken back.

use bytes::Bytes;
use eddy_protocol::Batch;

use std::sync::Arc;

use super::journal::group;
use super::journal::operation::{Operation, PlacedDelta};
use super::partition::Partition;
use super::producer::{self, PartitionKey};
use super::request::Answer;
use super::table::Changes;
use crate::log::{CommitError, StateChange};

/// A group being made.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) directory: Vec<u8>,
    pub(crate) operations: u32,
    /// The batches and the deltas, in the order of their operations.
    pub(crate) payload: Vec<Bytes>,
    pub(crate) payload_bytes: u64,
    pub(crate) pushes: Vec<Push>,
    pub(crate) table: Changes,
    pub(crate) answers: Vec<(u64, Answer)>,
    pub(crate) catalog: Vec<Operation>,
    pub(crate) states: Vec<StateChange>,
    pub(super) undo: Vec<Step>,
    pub(super) spans: u64,
}

/// A batch on its way to a partition.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) key: PartitionKey,
    pub(crate) partition: Arc<Partition>,
    pub(crate) needs: u64,
    pub(crate) batch: Batch,
}

#[derive(Debug)]
pub(super) enum Step {
    Head {
        key: PartitionKey,
        next: u64,
        last_needs: u64,
    },
    Producer(producer::Undo),
}

/// How far a draft was.
pub(super) struct Mark {
    pub(super) directory: usize,
    pub(super) operations: u32,
    pub(super) payload: usize,
    pub(super) payload_bytes: u64,
    pub(super) pushes: usize,
    pub(super) undo: usize,
    pub(super) spans: u64,
}

impl Draft {
    pub(super) fn mark(&self) -> Mark {
        Mark {
            directory: self.directory.len(),
            operations: self.operations,
            payload: self.payload.len(),
            payload_bytes: self.payload_bytes,
            pushes: self.pushes.len(),
            undo: self.undo.len(),
            spans: self.spans,
        }
    }

    pub(super) fn note(&mut self, operation: &Operation) {
        operation.encode(&mut self.directory);
        self.operations += 1;
    }

    pub(super) fn note_state(&mut self, change: StateChange) {
        match &change {
            StateChange::Delta { state, delta } => {
                let bytes = delta.bytes();
                self.note(&Operation::State(PlacedDelta::of(state.clone(), delta)));
                self.payload_bytes += bytes.len() as u64;
                self.payload.push(bytes.clone());
            }
            StateChange::Delete(deletion) => {
                self.note(&Operation::DeleteState(deletion.clone()));
            }
        }
        self.states.push(change);
    }

    /// What the group takes, but for its headers and padding.
    pub(crate) fn bytes(&self) -> u64 {
        self.payload_bytes + 2 * self.directory.len() as u64
    }

    /// How many offsets the group gives.
    pub(crate) fn records(&self) -> u64 {
        self.spans
    }

    /// Whether all it does is to delete topics or to keep less of them.
    pub(crate) fn makes_room(&self) -> bool {
        let is_relief = |operation: &Operation| {
            matches!(
                operation,
                Operation::DeleteTopic { .. } | Operation::AlterTopic { .. }
            )
        };
        self.operations as usize == self.catalog.len() && self.catalog.iter().all(is_relief)
    }

    /// How many operations are no appends.
    pub(crate) fn changes(&self) -> u64 {
        u64::from(self.operations) - self.pushes.len() as u64
    }

    /// The length of the directory, if a reader takes one so large.
    pub(crate) fn directory_bytes(&self) -> Result<u32, CommitError> {
        let bytes = self.directory.len() as u64;
        match u32::try_from(bytes) {
            Ok(length) if length <= group::DIRECTORY_BYTES_MAX => Ok(length),
            _ => Err(CommitError::TooLarge {
                bytes,
                bytes_max: u64::from(group::DIRECTORY_BYTES_MAX),
            }),
        }
    }
}
