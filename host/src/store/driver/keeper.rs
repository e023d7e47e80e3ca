//! The keeper: checkpoints, retention, deleted topics, a full disk, repairs.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::threads::{FULL_PAUSE, Threads};
use crate::log::CommitError;
use crate::store::checkpoint::CheckpointOutcome;
use crate::store::context::Worker;
use crate::store::request::Request;
use crate::store::room::{make_reserve, release_reserve};

/// How often the keeper looks around without being asked.
const KEEPER_PAUSE: Duration = Duration::from_millis(500);
/// How long the keeper waits at most between two checkpoints on a full disk.
const FULL_PAUSE_MAX: Duration = Duration::from_secs(5);
/// The longest pause before another try of a checkpoint that could not be made.
const POSTPONED_MAX: Duration = Duration::from_secs(30);
/// How often producers that were idle for too long are looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(600);

impl Threads {
    pub(super) fn run_keeper(&self) {
        let mut times = Times::now();
        while !self.writer_is_done.load(Ordering::Acquire) {
            self.guarded("keeper", || self.keep(&mut times));
            if !self.writer_is_done.load(Ordering::Acquire) {
                let pause = if self.core.committer.is_full() {
                    FULL_PAUSE
                } else {
                    KEEPER_PAUSE
                };
                thread::park_timeout(pause);
            }
        }
        for request in self.repairs.lock().take().into_iter().flatten() {
            request.refuse(CommitError::Closed);
        }
        if !self.is_abandoned() {
            self.guarded("keeper", || self.close());
            self.core.unlock();
        }
        self.closed.send_replace(true);
        self.workers.wake_all();
    }

    pub(super) fn make_reserve(&self) {
        let context = &self.core.context;
        make_reserve(&*context.disk, context.config.reserve_bytes);
    }

    fn keep(&self, times: &mut Times) {
        let core = &self.core;
        if core.context.failure().is_some() {
            return;
        }
        core.retention.remove_deleted();
        self.prepare_repairs();
        if core.committer.is_full() {
            // Every refusal rings the keeper; once in a while is enough.
            if times.full.elapsed() >= FULL_PAUSE {
                self.make_room(times);
                times.full = Instant::now();
            }
            return;
        }
        times.full_pause = FULL_PAUSE;
        // Others may have filled it while nobody wrote here.
        core.committer.look_whether_full();
        self.make_reserve();
        core.committer.prepare_next_file();
        let journaled = core.committer.backlog.bytes();
        let pause = core.context.config.checkpoint_interval;
        let is_due = times.checkpoint.elapsed() >= pause && core.checkpoints.is_needed();
        let may_do = times.checkpoint.elapsed() >= times.postponed;
        if may_do
            && (journaled >= core.context.config.checkpoint_bytes
                || is_due
                || core.context.states.is_full())
        {
            let outcome = core.checkpoints.make();
            times.checkpointed(outcome);
        }
        if times.retention.elapsed() >= core.context.config.retention_interval {
            core.retention.retain();
            times.retention = Instant::now();
        }
        if times.forgetting.elapsed() >= FORGET_INTERVAL {
            self.queue.push(Request::ForgetProducers);
            times.forgetting = Instant::now();
        }
    }

    /// What can give a full disk room again: a checkpoint lets the journal go
    /// and retention the segments that it covers.
    fn make_room(&self, times: &mut Times) {
        if times.checkpoint.elapsed() >= times.full_pause {
            let outcome = self.core.checkpoints.make();
            if outcome == CheckpointOutcome::Postponed && release_reserve(&*self.core.context.disk)
            {
                self.core.checkpoints.make();
            }
            times.checkpoint = Instant::now();
            // What the first ones could not free, the next ones hardly can.
            times.full_pause = (times.full_pause * 2).min(FULL_PAUSE_MAX);
        }
        self.core.retention.retain();
        self.workers.wake(Worker::Applier);
        self.core.committer.look_for_room();
    }

    fn close(&self) {
        self.core.committer.sync();
        self.core.retention.remove_deleted();
        let mut outcome = self.core.checkpoints.close();
        if outcome == CheckpointOutcome::Postponed && release_reserve(&*self.core.context.disk) {
            outcome = self.core.checkpoints.close();
        }
        match outcome {
            CheckpointOutcome::Done | CheckpointOutcome::Nothing => {}
            CheckpointOutcome::Postponed => {
                tracing::warn!(
                    "the last checkpoint could not be made; the journal will be replayed"
                );
            }
            CheckpointOutcome::Failed => {
                tracing::error!("the last checkpoint failed; the journal will be replayed");
            }
        }
    }
}

/// When the keeper did what.
struct Times {
    checkpoint: Instant,
    retention: Instant,
    forgetting: Instant,
    /// For how long a checkpoint that could not be made is not tried again.
    postponed: Duration,
    full: Instant,
    full_pause: Duration,
}

impl Times {
    fn now() -> Times {
        let now = Instant::now();
        Times {
            checkpoint: now,
            retention: now,
            forgetting: now,
            postponed: Duration::ZERO,
            full: now,
            full_pause: FULL_PAUSE,
        }
    }

    fn checkpointed(&mut self, outcome: CheckpointOutcome) {
        self.checkpoint = Instant::now();
        if outcome != CheckpointOutcome::Postponed {
            self.postponed = Duration::ZERO;
            return;
        }
        if self.postponed.is_zero() {
            tracing::warn!("no checkpoint can be made; until then the journal grows");
        }
        self.postponed = (self.postponed * 2).clamp(KEEPER_PAUSE, POSTPONED_MAX);
    }
}
