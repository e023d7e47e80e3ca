//! What the broker asks of an engine that keeps its records, and the types that it speaks in.
//!
//! The store is the first engine; another one may be a cluster of other machines. What is behind
//! the traits is named by nobody but `server`, which opens it, `config` and the commands that look
//! at a store's files.

mod commit;
mod delta;
mod epoch;
mod error;
mod partition;
mod ticket;
mod timestamp;
mod topic;
mod watch;

pub use commit::{
    Append, Appended, CatalogChange, Change, Commit, Committed, Expect, ExpectedValue, Producer,
    Table, TopicId,
};
pub use delta::{Deletion, Delta, Page, StateChange, StateId};
pub use epoch::Resume;
pub(crate) use epoch::{Epochs, Start};
pub use error::{CommitError, Health, ReadError, TableError};
pub use partition::{Partition, Read, TailRead};
pub use ticket::Ticket;
pub(crate) use ticket::{Reply, ticket};
pub(crate) use timestamp::admit;
pub use timestamp::{Claims, Side};
pub(crate) use topic::new_uuid;
pub use topic::{Topic, Topics};
pub(crate) use watch::Watchers;
pub use watch::{WatchGuard, Watcher};
