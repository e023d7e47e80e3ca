//! The requests that wait for the writer.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use crate::log::CommitError;
use crate::store::request::Request;

/// The requests that wait for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
    room: Notify,
    bytes_max: u64,
}

#[derive(Debug, Default)]
struct QueueState {
    requests: VecDeque<Request>,
    bytes: u64,
    is_closed: bool,
    /// Whether what was taken out is being written.
    is_writing: bool,
}

impl Queue {
    pub(super) fn new(bytes_max: u64) -> Queue {
        Queue {
            state: Mutex::default(),
            filled: Condvar::new(),
            room: Notify::new(),
            bytes_max,
        }
    }

    pub(super) fn push(&self, request: Request) {
        let bytes = request.bytes();
        let mut state = self.state.lock();
        if state.is_closed {
            drop(state);
            return request.refuse(CommitError::Closed);
        }
        state.bytes += bytes;
        state.requests.push_back(request);
        drop(state);
        self.filled.notify_one();
    }

    /// All requests that wait, waiting for the first; `None` once the queue is closed and empty.
    /// Whoever takes them says when they are [written](Queue::written).
    pub(super) fn take(&self) -> Option<Vec<Request>> {
        let mut state = self.state.lock();
        while state.requests.is_empty() || state.is_writing {
            if state.is_closed && !state.is_writing {
                return None;
            }
            self.filled.wait(&mut state);
        }
        state.bytes = 0;
        state.is_writing = true;
        let taken = std::mem::take(&mut state.requests);
        drop(state);
        self.room.notify_waiters();
        Some(taken.into())
    }

    /// Takes the writer's turn for a request that finds nothing before it; it is
    /// to be given back with [`written`](Queue::written).
    pub(super) fn try_turn(&self) -> bool {
        let Some(mut state) = self.state.try_lock() else {
            return false;
        };
        let is_free = state.requests.is_empty() && !state.is_writing && !state.is_closed;
        state.is_writing |= is_free;
        is_free
    }

    pub(super) fn written(&self) {
        let mut state = self.state.lock();
        state.is_writing = false;
        let has_more = !state.requests.is_empty() || state.is_closed;
        drop(state);
        if has_more {
            self.filled.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.filled.notify_all();
        self.room.notify_waiters();
    }

    pub(super) fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.is_closed || state.bytes < self.bytes_max
    }

    pub(super) async fn wait_for_room(&self) {
        loop {
            let notified = self.room.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.has_room() {
                return;
            }
            notified.await;
        }
    }
}
