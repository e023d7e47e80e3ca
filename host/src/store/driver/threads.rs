//! The store's threads: what each does when, and who wakes it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::queue::Queue;
use crate::log::CommitError;
use crate::store::applier::Applied;
use crate::store::context::Worker;
use crate::store::core::Core;
use crate::store::request::Request;

/// How long a thread waits before it tries again what the system refused.
pub(super) const FULL_PAUSE: Duration = Duration::from_millis(100);
/// What has become visible waits so long for more to go to the segments with it, unless it is much.
const GATHER_TIME: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Threads {
    pub(super) core: Core,
    pub(super) queue: Queue,
    /// Repairs that the keeper has to prepare; `None` once it has ended.
    pub(super) repairs: Mutex<Option<Vec<Request>>>,
    pub(super) workers: Arc<Workers>,
    /// Set when the writer has answered everything and takes nothing any more.
    pub(super) writer_is_done: AtomicBool,
    pub(super) is_stopping: AtomicBool,
    /// Dropped without `close`: do not even write what waits.
    pub(super) is_abandoned: AtomicBool,
    pub(super) closed: watch::Sender<bool>,
}

/// The threads that may have to be woken.
#[derive(Debug, Default)]
pub(super) struct Workers {
    syncer: OnceLock<Thread>,
    applier: OnceLock<Thread>,
    keeper: OnceLock<Thread>,
}

impl Workers {
    pub(super) fn wake(&self, worker: Worker) {
        let thread = match worker {
            Worker::Syncer => &self.syncer,
            Worker::Applier => &self.applier,
            Worker::Keeper => &self.keeper,
        };
        if let Some(thread) = thread.get() {
            thread.unpark();
        }
    }

    pub(super) fn wake_all(&self) {
        for worker in [Worker::Syncer, Worker::Applier, Worker::Keeper] {
            self.wake(worker);
        }
    }
}

impl Threads {
    pub(super) fn start(self: &Arc<Self>) -> std::io::Result<Vec<JoinHandle<()>>> {
        // Before the first commit: a disk may be full before the keeper has its first turn.
        self.make_reserve();
        self.core.committer.prepare_next_file();
        self.core.committer.look_whether_full();
        let spawn = |name: &str, run: fn(&Threads)| {
            let threads = self.clone();
            thread::Builder::new()
                .name(format!("store-{name}"))
                .spawn(move || run(&threads))
        };
        let syncer = spawn("syncer", Threads::run_syncer)?;
        let applier = spawn("applier", Threads::run_applier)?;
        let keeper = spawn("keeper", Threads::run_keeper)?;
        // Set before the writer runs, so that nobody is woken in vain.
        for (slot, thread) in [
            (&self.workers.syncer, &syncer),
            (&self.workers.applier, &applier),
            (&self.workers.keeper, &keeper),
        ] {
            slot.get_or_init(|| thread.thread().clone());
        }
        let writer = spawn("writer", Threads::run_writer)?;
        Ok(vec![writer, syncer, applier, keeper])
    }

    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.queue.close();
        self.workers.wake_all();
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    /// Whether the other threads have nothing to wait for any more.
    fn is_over(&self) -> bool {
        self.is_abandoned() || *self.closed.borrow()
    }

    /// Runs a step of a thread; a panic in it fails the store.
    pub(super) fn guarded<T>(&self, thread: &str, step: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(step)).ok();
        if done.is_none() {
            self.core
                .committer
                .fail("go on", &format_args!("the {thread} panicked"));
        }
        done
    }

    pub(super) fn submit(&self, request: Request) {
        if request.is_repair() {
            return self.submit_repair(request);
        }
        let is_light = request.is_light() && self.core.committer.is_free();
        if !is_light || !self.queue.try_turn() {
            return self.queue.push(request);
        }
        self.guarded("writer", || self.core.committer.write(vec![request]));
        self.queue.written();
    }

    fn submit_repair(&self, request: Request) {
        match &mut *self.repairs.lock() {
            Some(repairs) => repairs.push(request),
            None => return request.refuse(CommitError::Closed),
        }
        self.workers.wake(Worker::Keeper);
    }

    pub(super) fn prepare_repairs(&self) {
        let repairs = self.repairs.lock().as_mut().map(std::mem::take);
        for request in repairs.into_iter().flatten() {
            let prepared = match &request {
                Request::Commit { commit, .. } => self.core.repairs.prepare(commit),
                _ => Ok(()),
            };
            match prepared {
                Ok(()) => self.queue.push(request),
                Err(error) => request.refuse(error),
            }
        }
    }

    fn run_writer(&self) {
        while let Some(requests) = self.queue.take() {
            if self.is_abandoned() {
                break;
            }
            self.guarded("writer", || {
                self.wait_for_applier();
                self.core.committer.write(requests);
            });
            self.queue.written();
        }
        self.writer_is_done.store(true, Ordering::Release);
        self.workers.wake_all();
    }

    /// Memory is bounded: what is visible but not in a segment stays in it.
    fn wait_for_applier(&self) {
        while !self.core.applier.is_ahead() {
            // Where waiting would not help, the commits are refused.
            let is_stuck = self.core.committer.is_full() || self.core.applier.is_waiting();
            if is_stuck || self.core.context.failure().is_some() || self.is_abandoned() {
                return;
            }
            self.workers.wake_all();
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn run_syncer(&self) {
        while !self.is_over() {
            if self.core.committer.sync_queue.is_waiting() && self.core.context.failure().is_none()
            {
                self.guarded("syncer", || self.core.committer.sync());
            } else {
                thread::park();
            }
        }
    }

    fn run_applier(&self) {
        while !self.is_over() {
            match self.guarded("applier", || self.core.applier.apply()) {
                Some(Applied::Some) => {}
                Some(Applied::Full | Applied::Again) => thread::park_timeout(FULL_PAUSE),
                Some(Applied::Nothing | Applied::Failed) | None => {
                    thread::park();
                    self.gather();
                }
            }
        }
    }

    /// Nobody waits for the segments: few large writes cost those who wait for the journal less.
    /// If the disk is full by then, the reserve has room for it.
    fn gather(&self) {
        let until = Instant::now() + GATHER_TIME;
        let applier = &self.core.applier;
        let bytes = self.core.context.config.reserve_bytes / 4;
        while !self.is_over() && applier.unapplied_bytes() < bytes {
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return,
                left => thread::park_timeout(left),
            }
        }
    }
}
