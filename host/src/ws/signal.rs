//! From the broker to a connection's task: which cursors may have
//! something new.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::broker::{Follower, Listener};

/// Names a cursor within its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CursorKey {
    pub(super) subscription: u32,
    pub(super) partition: u32,
}

/// What has happened since the connection last looked.
#[derive(Default)]
pub(super) struct Signal {
    changed: Mutex<Vec<CursorKey>>,
    /// A topic has more partitions.
    grown: AtomicBool,
    task: AtomicWaker,
}

/// Tells a connection's signal about one cursor, at most once until it is rearmed.
pub(super) struct CursorSignal {
    key: CursorKey,
    pending: AtomicBool,
    signal: Arc<Signal>,
}

impl Signal {
    /// Ready when something has happened.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.task.register(cx.waker());
        let happened = self.grown.load(Ordering::Acquire) || !self.changed.lock().is_empty();
        if happened {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// The cursors that may have something new.
    pub(super) fn take_changed(&self) -> Vec<CursorKey> {
        std::mem::take(&mut *self.changed.lock())
    }

    /// Whether a topic has grown since the last call.
    pub(super) fn take_grown(&self) -> bool {
        self.grown.swap(false, Ordering::AcqRel)
    }
}

impl Follower for Signal {
    fn grown(&self) {
        self.grown.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl CursorSignal {
    pub(super) fn new(key: CursorKey, signal: &Arc<Signal>) -> Arc<CursorSignal> {
        Arc::new(CursorSignal {
            key,
            pending: AtomicBool::new(false),
            signal: signal.clone(),
        })
    }

    /// Must come before the cursor is polled, so that no change falls between.
    pub(super) fn rearm(&self) {
        self.pending.store(false, Ordering::Release);
    }

    /// Makes the connection poll the cursor.
    pub(super) fn ring(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.signal.changed.lock().push(self.key);
            self.signal.task.wake();
        }
    }
}

impl Listener for CursorSignal {
    fn changed(&self) {
        self.ring();
    }
}
