//! How much the journal holds that no checkpoint covers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How much the journal holds that no checkpoint covers.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    /// What came since a checkpoint was begun last.
    bytes: AtomicU64,
    /// What the checkpoint that is being made will cover.
    frozen_bytes: AtomicU64,
    /// Whether the last checkpoint could not be made.
    is_postponed: AtomicBool,
}

impl Backlog {
    pub(crate) fn new(bytes: u64) -> Backlog {
        Backlog {
            bytes: bytes.into(),
            ..Backlog::default()
        }
    }

    /// What the next checkpoint would cover.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// So much was written; returns what the next checkpoint would cover.
    pub(crate) fn add(&self, bytes: u64) -> u64 {
        self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// A checkpoint of all of it is begun.
    pub(crate) fn freeze(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        self.frozen_bytes.store(bytes, Ordering::Relaxed);
    }

    /// The checkpoint ended; unless it is done, the next one must cover it all again.
    pub(crate) fn checkpointed(&self, is_done: bool) {
        let frozen = self.frozen_bytes.swap(0, Ordering::Relaxed);
        if !is_done {
            self.bytes.fetch_add(frozen, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_postponed(&self, is_postponed: bool) {
        self.is_postponed.store(is_postponed, Ordering::Relaxed);
    }

    /// Whether it is more than `bytes_max` while no checkpoint can be made.
    pub(crate) fn is_stuck_above(&self, bytes_max: u64) -> bool {
        let bytes = self.frozen_bytes.load(Ordering::Relaxed) + self.bytes();
        bytes > bytes_max && self.is_postponed.load(Ordering::Relaxed)
    }
}
