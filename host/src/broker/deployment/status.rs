//! A deployment on one partition, as it can be seen from outside.

use std::sync::atomic::{AtomicU64, Ordering};

use eddy_protocol::admin::{DeploymentState, InstanceInfo, LostHistory};
use parking_lot::Mutex;

use crate::log::Partition;
use crate::plugin::Reservation;

/// One partition of a deployment.
pub(super) struct InstanceStatus {
    /// Where its instance is made; reserved until the deployment is stopped or gone.
    place: Mutex<Option<Reservation>>,
    state: Mutex<State>,
    position: AtomicU64,
    records_in: AtomicU64,
    records_out: AtomicU64,
    batches: AtomicU64,
    missed: AtomicU64,
    lost: Mutex<Option<LostHistory>>,
}

#[derive(Clone)]
struct State {
    state: DeploymentState,
    reason: Option<String>,
    /// How often it was tried again since nothing was in the way.
    retries: u32,
}

/// How a trouble is to be taken.
pub(super) struct Trouble {
    /// Whether it was in the way already.
    pub(super) is_known: bool,
    /// How often it was tried again before.
    pub(super) retries: u32,
}

/// What a commit moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    /// The position after it.
    pub(super) position: u64,
    pub(super) records_in: u64,
    pub(super) records_out: u64,
    /// Records before those that retention took or a repair gave up.
    pub(super) missed: u64,
}

impl InstanceStatus {
    /// Not at work yet, at this position.
    pub(super) fn new(place: Reservation, position: u64) -> InstanceStatus {
        InstanceStatus {
            place: Mutex::new(Some(place)),
            state: Mutex::new(State {
                state: DeploymentState::Starting,
                reason: None,
                retries: 0,
            }),
            position: position.into(),
            records_in: AtomicU64::default(),
            records_out: AtomicU64::default(),
            batches: AtomicU64::default(),
            missed: AtomicU64::default(),
            lost: Mutex::default(),
        }
    }

    /// The partition had lost the history before the position.
    pub(super) fn lost(&self, lost: LostHistory) {
        *self.lost.lock() = Some(lost);
    }

    /// At work. What was in the way is only gone once something was committed.
    pub(super) fn opened(&self, position: u64) {
        self.position.store(position, Ordering::Relaxed);
        self.state.lock().state = DeploymentState::Running;
    }

    /// Where its instance is made; `None` once it was given back.
    pub(super) fn place(&self) -> Option<Reservation> {
        self.place.lock().clone()
    }

    /// Gives the place back.
    pub(super) fn leave(&self) -> Option<Reservation> {
        self.place.lock().take()
    }

    /// Nothing is in the way.
    pub(super) fn clear(&self) {
        let mut state = self.state.lock();
        (state.reason, state.retries) = (None, 0);
    }

    /// Something is in the way, and will be tried again.
    pub(super) fn troubled(&self, state: DeploymentState, reason: &str) -> Trouble {
        let mut now = self.state.lock();
        let trouble = Trouble {
            is_known: now.reason.as_deref() == Some(reason),
            retries: now.retries,
        };
        *now = State {
            state,
            reason: Some(reason.to_owned()),
            retries: now.retries.saturating_add(1),
        };
        trouble
    }

    /// A commit is durable.
    pub(super) fn moved(&self, moved: Moved) {
        self.position.store(moved.position, Ordering::Relaxed);
        let add = |counter: &AtomicU64, count| counter.fetch_add(count, Ordering::Relaxed);
        add(&self.records_in, moved.records_in);
        add(&self.records_out, moved.records_out);
        add(&self.batches, 1);
        add(&self.missed, moved.missed);
    }

    pub(super) fn info(&self, partition: &dyn Partition) -> InstanceInfo {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let State { state, reason, .. } = self.state.lock().clone();
        InstanceInfo {
            state,
            reason,
            records_in: read(&self.records_in),
            records_out: read(&self.records_out),
            batches: read(&self.batches),
            missed: read(&self.missed),
            lost: *self.lost.lock(),
            ..nobody(partition, read(&self.position))
        }
    }
}

/// A partition that nobody works on yet.
pub(super) fn nobody(partition: &dyn Partition, position: u64) -> InstanceInfo {
    let end = partition.end();
    InstanceInfo {
        partition: partition.number(),
        position,
        end,
        // What retention took is no work that is left.
        lag: end.saturating_sub(partition.next_from(position)),
        state: DeploymentState::Starting,
        reason: None,
        records_in: 0,
        records_out: 0,
        batches: 0,
        missed: 0,
        lost: None,
    }
}
