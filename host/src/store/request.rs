//! What the writer is asked for, and how it answers.

use crate::log::{
    CatalogChange, Change, Commit, CommitError, Committed, Producer, Reply, StateChange,
};

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
    /// prepared](super::repair::Repairs::prepare).
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
