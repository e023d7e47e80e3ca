//! An answer to come, and the one who gives it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::commit::Committed;
use super::error::CommitError;

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
