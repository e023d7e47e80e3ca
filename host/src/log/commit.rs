//! What becomes durable together: appends to any partitions, changes of the
//! key-value tables, changes of the catalog. And what is answered.

use std::sync::Arc;

use bytes::Bytes;
use eddy_protocol::frame::TopicSettings;
use eddy_protocol::{Batch, TopicName};

use super::delta::StateChange;
use super::id::{Table, TopicId};
use super::timestamp::Claims;
use super::topic::Topic;

/// All of it becomes durable and visible, or none of it.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Batches for partitions, appended in this order.
    pub appends: Vec<Append>,
    /// Changes of the tables, made in this order.
    pub changes: Vec<Change>,
    /// What must be so, or the commit is refused with [`CommitError::Conflict`](super::CommitError).
    pub expect: Vec<Expect>,
    /// Changes of the catalog.
    pub catalog: Vec<CatalogChange>,
    /// Changes of deployments' states, made in this order. They are as durable as the
    /// appends of the commit, as [`Table::Progress`] is.
    pub states: Vec<StateChange>,
    /// What becomes of timestamps outside of their topics' bounds.
    pub claims: Claims,
}

/// A batch for a partition. Its base offset is given by the engine.
#[derive(Debug, Clone)]
pub struct Append {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: u32,
    /// The batch.
    pub batch: Batch,
}

/// A change of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this value from now on.
    Put {
        /// The table.
        table: Table,
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// The key has no value from now on.
    Delete {
        /// The table.
        table: Table,
        /// The key.
        key: Bytes,
    },
}

/// A value that a commit rests on. Values of commits that were submitted
/// before count as soon as they are in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// The table.
    pub table: Table,
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: ExpectedValue,
}

/// The value that a commit expects of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpectedValue {
    /// It has none.
    Absent,
    /// These bytes.
    Exactly(Bytes),
    /// A value that begins with these bytes.
    StartsWith(Bytes),
}

impl ExpectedValue {
    /// Whether this is it.
    pub(crate) fn is_met_by(&self, found: Option<&Bytes>) -> bool {
        match (self, found) {
            (ExpectedValue::Absent, found) => found.is_none(),
            (ExpectedValue::Exactly(value), found) => found == Some(value),
            (ExpectedValue::StartsWith(start), found) => {
                found.is_some_and(|found| found.starts_with(start))
            }
        }
    }
}

/// A change of the catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CatalogChange {
    /// A new topic.
    Create {
        /// Its name, which no other topic has.
        name: TopicName,
        /// How many partitions, at least one.
        partitions: u32,
        /// How it is kept.
        settings: TopicSettings,
    },
    /// More partitions or other settings.
    Alter {
        /// The topic.
        topic: TopicId,
        /// How many partitions, not fewer than now; absent: as many as now.
        partitions: Option<u32>,
        /// How it is kept from now on.
        settings: TopicSettings,
    },
    /// The end of a topic, its records and its files.
    Delete {
        /// The topic.
        topic: TopicId,
    },
    /// A stopped partition serves again with what of it is whole; the rest is
    /// given up, which [`Partition::next_from`](super::Partition::next_from)
    /// tells its readers. Where offsets will be given again because the end was
    /// lost, the epoch changes. Repairs what it was stopped for; other damage may
    /// stop it again.
    Repair {
        /// The topic.
        topic: TopicId,
        /// The partition.
        partition: u32,
    },
}

impl Change {
    /// Whether the commit it is in waits for the sync for its sake.
    pub(crate) fn waits_for_sync(&self) -> bool {
        match self {
            Change::Put { table, .. } | Change::Delete { table, .. } => table.waits_for_sync(),
        }
    }
}

/// The answer to a commit that was made.
#[derive(Debug, Clone, Default)]
pub struct Committed {
    /// One entry for each append, in their order.
    pub appends: Vec<Appended>,
    /// The topics that were created, in their order.
    pub created: Vec<Arc<Topic>>,
}

/// Where a batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first record. Absent for a repeat that is older than
    /// what is remembered.
    pub offset: Option<u64>,
    /// It was there already; nothing was appended.
    pub duplicate: bool,
}

/// A producer's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Producer {
    /// Never 0, never given again.
    pub id: u64,
    /// A batch with an older one is refused.
    pub epoch: u16,
}
