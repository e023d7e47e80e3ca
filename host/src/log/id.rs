//! What names a topic, and the key-value tables.

use serde::{Deserialize, Serialize};

/// Names a topic for ever: never given to another one, also after a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicId(pub u64);

impl std::fmt::Display for TopicId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The key-value tables. The numbers are on disk and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Table {
    /// What is deployed. A change waits for the sync.
    Deployments = 1,
    /// Names of plugins. A change waits for the sync.
    Plugins = 2,
    /// How far deployments have read. A change is as durable as the appends of
    /// its commit: if a power cut takes it, it takes everything after it too,
    /// and the deployment repeats that work from the same place.
    Progress = 3,
    /// Where groups are. A change waits for the sync.
    Cursors = 4,
}

impl Table {
    /// Every table, in the order of their numbers.
    pub const ALL: &[Table] = &[
        Table::Deployments,
        Table::Plugins,
        Table::Progress,
        Table::Cursors,
    ];

    /// The table with this number.
    pub(crate) fn from_number(number: u8) -> Option<Table> {
        Table::ALL
            .iter()
            .copied()
            .find(|table| *table as u8 == number)
    }

    pub(super) fn waits_for_sync(self) -> bool {
        self != Table::Progress
    }
}
