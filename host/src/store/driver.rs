//! The store's threads, and the handle that the broker holds.
//!
//! - **writer**: takes all requests that wait and writes them, as few groups
//! - **syncer**: syncs what is written while the writer writes on
//! - **applier**: moves what is visible into segments
//! - **keeper**: checkpoints, retention, deleted topics, a full disk
//!
//! A few records that find the writer idle are written by whoever brings them:
//! that saves them the way to another thread and back, which takes longer.
//!
//! A thread sleeps until somebody has work for it; only the keeper also looks
//! around twice a second, and the writer looks every millisecond whether the
//! applier, for which it must wait, has got on. A thread that panics ends the
//! store for commits, as the disk's failures do; it does not leave anybody waiting.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, watch};

use super::apply::Applied;
use super::checkpoint::Outcome;
use super::config::Config;
use super::engine::{Engine, Work};
use super::error::OpenError;
use super::recovery;
use super::request::Request;
use super::room::release_reserve;
use crate::io::{Clock, Disk};
use crate::log::CommitError;

/// How often the keeper looks around without being asked.
const KEEPER_PAUSE: Duration = Duration::from_millis(500);
/// How long a thread waits before it tries again what the system refused.
const FULL_PAUSE: Duration = Duration::from_millis(100);
/// How long the keeper waits at most between two checkpoints on a full disk.
const FULL_PAUSE_MAX: Duration = Duration::from_secs(5);
/// The longest pause before another try of a checkpoint that could not be made.
const POSTPONED_MAX: Duration = Duration::from_secs(30);
/// What has become visible waits so long for more to go to the segments with it, unless it is much.
const GATHER_TIME: Duration = Duration::from_millis(5);
/// How often producers that were idle for too long are looked for.
const FORGET_INTERVAL: Duration = Duration::from_secs(600);

/// A data folder in use. A clone is the same store.
///
/// Dropping the last clone without [`close`](crate::log::Log::close) is a crash: what was
/// acknowledged is there the next time, and recovery takes its time.
#[derive(Debug, Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    queue: Queue,
    /// Repairs that the keeper has to prepare; `None` once it has ended.
    repairs: Mutex<Option<Vec<Request>>>,
    bells: Arc<Bells>,
    /// Set when the writer has answered everything and takes nothing any more.
    writer_is_done: AtomicBool,
    is_stopping: AtomicBool,
    /// Dropped without `close`: do not even write what waits.
    is_abandoned: AtomicBool,
    closed: watch::Sender<bool>,
}

/// Who to wake for what.
#[derive(Debug, Default)]
struct Bells {
    syncer: OnceLock<Thread>,
    applier: OnceLock<Thread>,
    keeper: OnceLock<Thread>,
}

impl Bells {
    fn ring(&self, work: Work) {
        let thread = match work {
            Work::Sync => &self.syncer,
            Work::Apply => &self.applier,
            Work::Keep => &self.keeper,
        };
        if let Some(thread) = thread.get() {
            thread.unpark();
        }
    }

    fn ring_all(&self) {
        for work in [Work::Sync, Work::Apply, Work::Keep] {
            self.ring(work);
        }
    }
}

/// The requests that wait for the writer.
#[derive(Debug)]
struct Queue {
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
    fn push(&self, request: Request) {
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
    fn take(&self) -> Option<Vec<Request>> {
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
    fn try_turn(&self) -> bool {
        let Some(mut state) = self.state.try_lock() else {
            return false;
        };
        let is_free = state.requests.is_empty() && !state.is_writing && !state.is_closed;
        state.is_writing |= is_free;
        is_free
    }

    fn written(&self) {
        let mut state = self.state.lock();
        state.is_writing = false;
        let has_more = !state.requests.is_empty() || state.is_closed;
        drop(state);
        if has_more {
            self.filled.notify_one();
        }
    }

    fn close(&self) {
        self.state.lock().is_closed = true;
        self.filled.notify_all();
        self.room.notify_waiters();
    }

    fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.is_closed || state.bytes < self.bytes_max
    }

    async fn wait_for_room(&self) {
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

impl Store {
    /// Opens the data folder on `disk`, recovering what a crash left. May take
    /// long: a second or two per gigabyte of journal.
    pub fn open(
        config: Config,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<Store, OpenError> {
        let bells = Arc::new(Bells::default());
        let rung = bells.clone();
        let queue_bytes_max = config.queue_bytes_max;
        let engine = recovery::open(config, disk, clock, Box::new(move |work| rung.ring(work)))?;
        let shared = Arc::new(Shared {
            engine,
            queue: Queue {
                state: Mutex::default(),
                filled: Condvar::new(),
                room: Notify::new(),
                bytes_max: queue_bytes_max,
            },
            repairs: Mutex::new(Some(Vec::new())),
            bells,
            writer_is_done: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        });
        let threads = shared.start().map_err(|source| OpenError::Io {
            action: "start the threads of",
            path: "the store".to_owned(),
            source,
        })?;
        Ok(Store {
            handle: Arc::new(Handle {
                shared,
                threads: Mutex::new(threads),
            }),
        })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.handle.shared.engine
    }

    /// Gives the engine's threads something to do.
    pub(super) fn request(&self, request: Request) {
        self.handle.shared.submit(request);
    }

    pub(super) fn has_room(&self) -> bool {
        self.handle.shared.queue.has_room()
    }

    pub(super) async fn wait_for_room(&self) {
        self.handle.shared.queue.wait_for_room().await;
    }

    /// What was found at the start that an operator should know, such as a loss.
    pub fn notices(&self) -> &[String] {
        &self.engine().notices
    }

    /// Refuses what comes from now on, answers everything that waits, syncs,
    /// makes a checkpoint and lets the data folder go.
    pub(super) async fn end(&self) {
        let mut closed = self.handle.shared.closed.subscribe();
        self.handle.shared.stop();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.shared.is_stopping.load(Ordering::Acquire) {
            self.shared.is_abandoned.store(true, Ordering::Release);
            self.shared.stop();
        }
        let me = thread::current().id();
        for thread in self.threads.lock().drain(..) {
            // A watcher may hold the last clone; its thread cannot wait for itself.
            if thread.thread().id() != me {
                // A thread that panicked has said so; there is nothing to add.
                drop(thread.join());
            }
        }
    }
}

impl Shared {
    fn start(self: &Arc<Self>) -> std::io::Result<Vec<JoinHandle<()>>> {
        // Before the first commit: a disk may be full before the keeper has its first turn.
        self.engine.make_reserve();
        self.engine.keep_spare();
        self.engine.look_whether_full();
        let spawn = |name: &str, run: fn(&Shared)| {
            let shared = self.clone();
            thread::Builder::new()
                .name(format!("store-{name}"))
                .spawn(move || run(&shared))
        };
        let syncer = spawn("syncer", Shared::run_syncer)?;
        let applier = spawn("applier", Shared::run_applier)?;
        let keeper = spawn("keeper", Shared::run_keeper)?;
        // Set before the writer runs, so that no bell is rung in vain.
        for (bell, thread) in [
            (&self.bells.syncer, &syncer),
            (&self.bells.applier, &applier),
            (&self.bells.keeper, &keeper),
        ] {
            bell.get_or_init(|| thread.thread().clone());
        }
        let writer = spawn("writer", Shared::run_writer)?;
        Ok(vec![writer, syncer, applier, keeper])
    }

    fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.queue.close();
        self.bells.ring_all();
    }

    fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    /// Whether the other threads have nothing to wait for any more.
    fn is_over(&self) -> bool {
        self.is_abandoned() || *self.closed.borrow()
    }

    /// Runs a step of a thread; a panic in it fails the store.
    fn guarded<T>(&self, thread: &str, step: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(step)).ok();
        if done.is_none() {
            self.engine
                .fail("go on", &format_args!("the {thread} panicked"));
        }
        done
    }

    fn submit(&self, request: Request) {
        if request.is_repair() {
            return self.submit_repair(request);
        }
        let is_light = request.is_light() && self.engine.is_ahead() && self.engine.has_spare();
        if !is_light || !self.queue.try_turn() {
            return self.queue.push(request);
        }
        self.guarded("writer", || self.engine.write(vec![request]));
        self.queue.written();
    }

    fn submit_repair(&self, request: Request) {
        match &mut *self.repairs.lock() {
            Some(repairs) => repairs.push(request),
            None => return request.refuse(CommitError::Closed),
        }
        self.bells.ring(Work::Keep);
    }

    fn prepare_repairs(&self) {
        let repairs = self.repairs.lock().as_mut().map(std::mem::take);
        for request in repairs.into_iter().flatten() {
            let prepared = match &request {
                Request::Commit { commit, .. } => self.engine.prepare_repairs(commit),
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
                self.engine.write(requests);
            });
            self.queue.written();
        }
        self.writer_is_done.store(true, Ordering::Release);
        self.bells.ring_all();
    }

    /// Memory is bounded: what is visible but not in a segment stays in it.
    fn wait_for_applier(&self) {
        while !self.engine.is_ahead() {
            // Where waiting would not help, the commits are refused.
            let is_stuck = self.engine.is_full() || self.engine.apply_waits.load(Ordering::Relaxed);
            if is_stuck || self.engine.failure().is_some() || self.is_abandoned() {
                return;
            }
            self.bells.ring_all();
            thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn run_syncer(&self) {
        while !self.is_over() {
            if self.engine.flight.is_waiting() && self.engine.failure().is_none() {
                self.guarded("syncer", || self.engine.sync());
            } else {
                thread::park();
            }
        }
    }

    fn run_applier(&self) {
        while !self.is_over() {
            match self.guarded("applier", || self.engine.apply()) {
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
        let unapplied = &self.engine.unapplied_bytes;
        let bytes = self.engine.config.reserve_bytes / 4;
        while !self.is_over() && unapplied.load(Ordering::Relaxed) < bytes {
            match until.saturating_duration_since(Instant::now()) {
                Duration::ZERO => return,
                left => thread::park_timeout(left),
            }
        }
    }

    fn run_keeper(&self) {
        let mut times = Times::now();
        while !self.writer_is_done.load(Ordering::Acquire) {
            self.guarded("keeper", || self.keep(&mut times));
            if !self.writer_is_done.load(Ordering::Acquire) {
                let pause = if self.engine.is_full() {
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
            self.engine.unlock();
        }
        self.closed.send_replace(true);
        self.bells.ring_all();
    }

    fn keep(&self, times: &mut Times) {
        let engine = &self.engine;
        if engine.failure().is_some() {
            return;
        }
        engine.remove_doomed();
        self.prepare_repairs();
        if engine.is_full() {
            // Every refusal rings the keeper; once in a while is enough.
            if times.full.elapsed() >= FULL_PAUSE {
                self.make_room(times);
                times.full = Instant::now();
            }
            return;
        }
        times.full_pause = FULL_PAUSE;
        // Others may have filled it while nobody wrote here.
        engine.look_whether_full();
        engine.make_reserve();
        engine.keep_spare();
        let journaled = engine.journaled_bytes.load(Ordering::Relaxed);
        let pause = engine.config.checkpoint_interval;
        let is_due = times.checkpoint.elapsed() >= pause && engine.is_dirty();
        let may_do = times.checkpoint.elapsed() >= times.postponed;
        if may_do
            && (journaled >= engine.config.checkpoint_bytes || is_due || engine.states.is_full())
        {
            let outcome = engine.checkpoint();
            times.checkpointed(outcome);
        }
        if times.retention.elapsed() >= engine.config.retention_interval {
            engine.retain();
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
            let outcome = self.engine.checkpoint();
            if outcome == Outcome::Postponed && release_reserve(&*self.engine.disk) {
                self.engine.checkpoint();
            }
            times.checkpoint = Instant::now();
            // What the first ones could not free, the next ones hardly can.
            times.full_pause = (times.full_pause * 2).min(FULL_PAUSE_MAX);
        }
        self.engine.retain();
        self.bells.ring(Work::Apply);
        self.engine.look_for_room();
    }

    fn close(&self) {
        self.engine.sync();
        self.engine.remove_doomed();
        let mut outcome = self.engine.close();
        if outcome == Outcome::Postponed && release_reserve(&*self.engine.disk) {
            outcome = self.engine.close();
        }
        match outcome {
            Outcome::Done | Outcome::Nothing => {}
            Outcome::Postponed => {
                tracing::warn!(
                    "the last checkpoint could not be made; the journal will be replayed"
                );
            }
            Outcome::Failed => {
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

    fn checkpointed(&mut self, outcome: Outcome) {
        self.checkpoint = Instant::now();
        if outcome != Outcome::Postponed {
            self.postponed = Duration::ZERO;
            return;
        }
        if self.postponed.is_zero() {
            tracing::warn!("no checkpoint can be made; until then the journal grows");
        }
        self.postponed = (self.postponed * 2).clamp(KEEPER_PAUSE, POSTPONED_MAX);
    }
}
