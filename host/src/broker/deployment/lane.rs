//! A deployment on one partition, as it can be seen from outside.

use std::sync::atomic::{AtomicU64, Ordering};

use eddy_protocol::admin::{DeploymentState, InstanceInfo};
use parking_lot::Mutex;

use crate::plugin::Place;
use crate::store::Partition;

/// One partition of a deployment.
pub(super) struct Lane {
    /// Where its instance is made; reserved as long as the deployment is there.
    pub(super) place: Place,
    state: Mutex<State>,
    position: AtomicU64,
    records_in: AtomicU64,
    records_out: AtomicU64,
    batches: AtomicU64,
    missed: AtomicU64,
}

#[derive(Clone)]
struct State {
    state: DeploymentState,
    reason: Option<String>,
}

/// What a commit moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    /// The position after it.
    pub(super) position: u64,
    pub(super) records_in: u64,
    pub(super) records_out: u64,
}

impl Lane {
    /// Not at work yet, at this position.
    pub(super) fn new(place: Place, position: u64) -> Lane {
        Lane {
            place,
            state: Mutex::new(State {
                state: DeploymentState::Starting,
                reason: None,
            }),
            position: position.into(),
            records_in: AtomicU64::default(),
            records_out: AtomicU64::default(),
            batches: AtomicU64::default(),
            missed: AtomicU64::default(),
        }
    }

    /// At work. What was in the way is only gone once something was committed.
    pub(super) fn opened(&self, position: u64) {
        self.position.store(position, Ordering::Relaxed);
        self.state.lock().state = DeploymentState::Running;
    }

    /// Nothing is in the way.
    pub(super) fn clear(&self) {
        self.state.lock().reason = None;
    }

    /// It will be tried again.
    pub(super) fn waits(&self, reason: String) {
        *self.state.lock() = State {
            state: DeploymentState::Starting,
            reason: Some(reason),
        };
    }

    /// For good, until the broker starts again.
    pub(super) fn stopped(&self, reason: String) {
        *self.state.lock() = State {
            state: DeploymentState::Stopped,
            reason: Some(reason),
        };
    }

    /// A commit is durable.
    pub(super) fn moved(&self, moved: Moved) {
        self.position.store(moved.position, Ordering::Relaxed);
        let add = |counter: &AtomicU64, count| counter.fetch_add(count, Ordering::Relaxed);
        add(&self.records_in, moved.records_in);
        add(&self.records_out, moved.records_out);
        add(&self.batches, 1);
    }

    /// Retention took so many records before they were read.
    pub(super) fn missed(&self, records: u64) {
        self.missed.fetch_add(records, Ordering::Relaxed);
    }

    pub(super) fn info(&self, partition: &Partition) -> InstanceInfo {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let State { state, reason } = self.state.lock().clone();
        InstanceInfo {
            state,
            reason,
            records_in: read(&self.records_in),
            records_out: read(&self.records_out),
            batches: read(&self.batches),
            missed: read(&self.missed),
            ..nobody(partition, read(&self.position))
        }
    }
}

/// A partition that nobody works on yet.
pub(super) fn nobody(partition: &Partition, position: u64) -> InstanceInfo {
    let end = partition.end();
    InstanceInfo {
        partition: partition.number(),
        position,
        end,
        lag: end.saturating_sub(position),
        state: DeploymentState::Starting,
        reason: None,
        records_in: 0,
        records_out: 0,
        batches: 0,
        missed: 0,
    }
}
