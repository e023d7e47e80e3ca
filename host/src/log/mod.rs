//! What the broker asks of an engine that keeps its records, and the types that it speaks in.
//!
//! The store is the first engine; another one may be a cluster of other machines. What is behind
//! the traits is named by nobody but `server`, which opens it, `config` and the commands that look
//! at a store's files. What any engine must do is said here and at [`Partition`], and held by
//! `log/tests.rs`, which runs against each of them.

mod commit;
mod delta;
mod epoch;
mod error;
mod id;
#[cfg(test)]
mod memory;
mod partition;
#[cfg(test)]
mod tests;
mod ticket;
mod timestamp;
mod topic;
mod watch;

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use commit::{
    Append, Appended, CatalogChange, Change, Commit, Committed, Expect, ExpectedValue, Producer,
};
pub use delta::{Deletion, Delta, Page, StateChange, StateId};
pub use epoch::Resume;
pub(crate) use epoch::{Epochs, Start};
pub use error::{CommitError, Health, ReadError, TableError};
pub use id::{Table, TopicId};
#[cfg(test)]
pub(crate) use memory::{Fate, Memory};
pub use partition::{Partition, Read, TailRead};
pub use ticket::Ticket;
pub(crate) use ticket::{Reply, ticket};
pub(crate) use timestamp::admit;
pub use timestamp::{Claims, Side};
pub(crate) use topic::new_uuid;
pub use topic::{Topic, Topics};
pub(crate) use watch::Watchers;
pub use watch::{WatchGuard, Watcher};

/// Takes commits, and has the topics that they change.
///
/// **A commit** is made as a whole or not at all, and commits are made in the order of calls, also
/// where they are submitted by several callers one after the other. Its answer comes later, once
/// it is as durable as it asks for, and alone says which offsets were given: those of a batch follow
/// one another, and rise from batch to batch of a partition, but may leave some out. What it changed
/// can be seen no later than its answer, and those who watch a partition are told afterwards.
///
/// **A refusal** ([`CommitError`]) means that nothing of the commit happened, but for
/// [`CommitError::StorageFailed`], where nobody knows. Any commit may be refused because another
/// node has [taken over](CommitError::TakenOver) a partition that it changes; another try, after
/// what it rests on was read anew, may do.
///
/// **A repeat** of a producer's batch is recognised by its stamp and answered with its first offset,
/// also after a restart; an older epoch is refused, and so is a batch before which another is missing.
pub trait Log: Send + Sync {
    /// Hands a commit over. The ticket resolves when the commit is as durable as its topics ask
    /// for; dropping it does not take the commit back. Never waits, so a caller that may flood the
    /// engine awaits [`room`](Log::room) first.
    fn submit(&self, commit: Commit) -> Ticket;

    /// A new producer's identity, or for a name that was used before its identity's next epoch,
    /// which fences the older one at once.
    fn open_producer(&self, name: Option<&str>) -> Ticket<Producer>;

    /// The next epoch of an identity without a name, which fences this one at once; a new identity
    /// if this one is forgotten. Asked again with the same identity, because the answer was lost,
    /// the answer is the same.
    fn next_epoch(&self, current: Producer) -> Ticket<Producer>;

    /// Whether [`room`](Log::room) would return at once.
    fn has_room(&self) -> bool;

    /// Waits while the engine has as much to do as it takes on.
    fn room(&self) -> BoxFuture<'_, ()>;

    /// The largest commit, in bytes.
    fn commit_bytes_max(&self) -> u64;

    /// All topics.
    fn topics(&self) -> &Topics;

    /// How the engine is.
    fn health(&self) -> Health;

    /// Refuses what comes from now on, answers everything that waits, and lets go of what the
    /// engine holds.
    fn close(&self) -> BoxFuture<'_, ()>;

    /// Waits for room, hands the commit over and waits for the answer.
    fn commit(&self, commit: Commit) -> BoxFuture<'_, Result<Committed, CommitError>> {
        Box::pin(async move {
            self.room().await;
            self.submit(commit).await
        })
    }
}

/// Has what commits changed besides records: rows of tables and deployments' states. It may be far
/// away, or be made again from the changes in the log, so every read may take a while. A read sees
/// at least every commit that was answered before it began.
pub trait State: Send + Sync {
    /// The value of a key.
    fn get<'a>(
        &'a self,
        table: Table,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Bytes>, TableError>>;

    /// All keys that begin with `prefix` and their values, in the keys' order.
    fn scan<'a>(
        &'a self,
        table: Table,
        prefix: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, TableError>>;

    /// The values of keys of a deployment's state, in their order.
    fn state_get<'a>(
        &'a self,
        state: &'a StateId,
        keys: Vec<Bytes>,
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, TableError>>;

    /// A part of a deployment's state: keys from `from` on and before `to`, as many as fit into
    /// `bytes_max` (and one at least, unless there is none).
    fn state_scan<'a>(
        &'a self,
        state: &'a StateId,
        range: (Bytes, Option<Bytes>),
        bytes_max: usize,
    ) -> BoxFuture<'a, Result<Page, TableError>>;
}
