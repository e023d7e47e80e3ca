//! What the store counts besides its topics: handles looked up once, moved once
//! per group, sync or checkpoint.

use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::request::Answer;
use super::sync_queue::Completion;
use crate::metrics as names;

pub(crate) struct Meters {
    commits: Counter,
    groups: Counter,
    bytes: Counter,
    size: Gauge,
    syncs: Counter,
    sync_seconds: Histogram,
    checkpoint_seconds: Histogram,
}

impl Meters {
    pub(crate) fn new() -> Meters {
        Meters {
            commits: counter!(names::COMMITS),
            groups: counter!(names::JOURNAL_GROUPS),
            bytes: counter!(names::JOURNAL_BYTES),
            size: gauge!(names::JOURNAL_SIZE_BYTES),
            syncs: counter!(names::JOURNAL_SYNCS),
            sync_seconds: histogram!(names::JOURNAL_SYNC_SECONDS),
            checkpoint_seconds: histogram!(names::CHECKPOINT_SECONDS),
        }
    }

    /// A group of `bytes` was written; the journal holds `size` since the last checkpoint.
    pub(crate) fn group(&self, bytes: u64, size: u64) {
        self.groups.increment(1);
        self.bytes.increment(bytes);
        self.size.set(size as f64);
    }

    pub(crate) fn synced(&self, begin: Instant) {
        self.syncs.increment(1);
        self.sync_seconds.record(begin.elapsed());
    }

    pub(crate) fn completed(&self, completion: &Completion) {
        let is_commit = |answer: &&Answer| matches!(answer, Answer::Commit(..));
        let commits = completion.answers.iter().filter(is_commit).count();
        self.commits.increment(commits as u64);
    }

    /// A checkpoint is made; the journal holds `size` that it does not cover.
    pub(crate) fn checkpointed(&self, begin: Instant, size: u64) {
        self.checkpoint_seconds.record(begin.elapsed());
        self.size.set(size as f64);
    }
}
