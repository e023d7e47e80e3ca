//! What the writer is asked for, and how it answers.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::commit::{CatalogChange, Change, Commit, Committed, Producer};
use super::error::CommitError;
use super::state::StateChange;

/// What is larger is worth the way to another thread.
const LIGHT_BYTES_MAX: u64 = 16 << 10;

/// Something for the writer to do.
#[derive(Debug)]
pub(crate) enum Request {
    Commit {
        commit: Commit,
        reply: Reply<Committed>,
    },
    OpenProducer {
        name: Option<String>,
        /// Of which the next epoch is wanted.
        current: Option<Producer>,
        reply: Reply<Producer>,
    },
    /// Forget the producers that were idle for too long.
    ForgetProducers,
}

impl Request {
    /// What the request holds in memory, roughly.
    pub(crate) fn bytes(&self) -> u64 {
        const FIXED: usize = 256;
        let Request::Commit { commit, .. } = self else {
            return FIXED as u64;
        };
        let appends: usize = commit
            .appends
            .iter()
            .map(|append| append.batch.len() + FIXED)
            .sum();
        let changes: usize = commit
            .changes
            .iter()
            .map(|change| match change {
                Change::Put { key, value, .. } => key.len() + value.len() + FIXED,
                Change::Delete { key, .. } => key.len() + FIXED,
            })
            .sum();
        let states: usize = commit
            .states
            .iter()
            .map(|change| match change {
                StateChange::Delta { delta, .. } => delta.bytes().len() + FIXED,
                StateChange::Delete(_) => FIXED,
            })
            .sum();
        (appends + changes + states + FIXED) as u64
    }

    /// Whether to make it takes a moment: a few records, and nothing to look up.
    pub(crate) fn is_light(&self) -> bool {
        let Request::Commit { commit, .. } = self else {
            return false;
        };
        commit.expect.is_empty() && commit.catalog.is_empty() && self.bytes() <= LIGHT_BYTES_MAX
    }

    /// Whether a partition is to be repaired, which [must be
    /// prepared](super::engine::Engine::prepare_repairs).
    pub(crate) fn is_repair(&self) -> bool {
        let Request::Commit { commit, .. } = self else {
            return false;
        };
        let is_repair = |change: &CatalogChange| matches!(change, CatalogChange::Repair { .. });
        commit.catalog.iter().any(is_repair)
    }

    pub(crate) fn refuse(self, error: CommitError) {
        match self {
            Request::Commit { reply, .. } => reply.answer(Err(error)),
            Request::OpenProducer { reply, .. } => reply.answer(Err(error)),
            Request::ForgetProducers => {}
        }
    }
}

/// Where an answer goes.
#[derive(Debug)]
pub(crate) struct Reply<T>(oneshot::Sender<Result<T, CommitError>>);

/// An answer to come. Dropping it does not take the request back.
#[derive(Debug)]
#[must_use = "a commit that nobody waits for may have failed"]
pub struct Ticket<T = Committed>(oneshot::Receiver<Result<T, CommitError>>);

/// A reply and the ticket that waits for it.
pub(crate) fn ticket<T>() -> (Reply<T>, Ticket<T>) {
    let (sender, receiver) = oneshot::channel();
    (Reply(sender), Ticket(receiver))
}

impl<T> Reply<T> {
    pub(crate) fn answer(self, answer: Result<T, CommitError>) {
        // Nobody may wait any more; the commit stands all the same.
        drop(self.0.send(answer));
    }
}

impl<T> Ticket<T> {
    /// The answer, if it is there.
    pub fn try_take(&mut self) -> Option<Result<T, CommitError>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(dropped())),
        }
    }

    /// Waits for the answer on a thread that may block.
    pub fn wait(self) -> Result<T, CommitError> {
        self.0.blocking_recv().unwrap_or_else(|_| Err(dropped()))
    }
}

impl<T> Future for Ticket<T> {
    type Output = Result<T, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or_else(|_| Err(dropped())))
    }
}

/// Whoever had the request ended without a word, as a panic does: before or
/// behind the journal, nobody can say.
fn dropped() -> CommitError {
    CommitError::StorageFailed(
        "the request was dropped; what it asked for may have happened".into(),
    )
}

/// An answer that waits for a sync.
#[derive(Debug)]
pub(crate) enum Answer {
    Commit(Reply<Committed>, Committed),
    Producer(Reply<Producer>, Producer),
}

impl Answer {
    pub(crate) fn give(self) {
        match self {
            Answer::Commit(reply, committed) => reply.answer(Ok(committed)),
            Answer::Producer(reply, producer) => reply.answer(Ok(producer)),
        }
    }

    pub(crate) fn refuse(self, error: CommitError) {
        match self {
            Answer::Commit(reply, _) => reply.answer(Err(error)),
            Answer::Producer(reply, _) => reply.answer(Err(error)),
        }
    }
}
