//! One plugin at work on one partition: its memory, its limits, and the calls into it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use eddy_protocol::batch::ColumnBuf;
use metrics::{Counter, Histogram, counter, histogram};
use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::component::ResourceTable;
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

use super::bindings::{self, eddy::plugin::types as wit};
use super::engine::{Slot, Use};
use super::limits::MemoryLimit;
use super::log::InstanceLog;
use super::ticker::TICK;
use super::{Context, Limits, PluginError, Verdict, compile, verdict, wasi, words};
use crate::metrics as names;

/// The name of the input of a deployment from one topic.
const PORT_IN: &str = "in";
/// The place of that input in the context's list.
const INPUT: u32 = 0;
/// What a call may hand over beside its output: lines for the log and the message of a failure.
const WORDS_BYTES_MAX: usize = 64 << 10;
/// How many things of the system (streams, pollables) an instance may hold.
const RESOURCES_MAX: usize = 256;
/// A host function that is handed so many bytes counts as having run for a tick.
const BYTES_PER_TICK: usize = 1 << 20;

/// An instance of a plugin. After a trap, a timeout or a call that was given up half-way it runs no more.
pub struct Instance {
    // Dropped in this order: the memory goes back to the pool before the slot is free.
    store: Store<Inside>,
    calls: bindings::Plugin,
    turn: Arc<Turn>,
    limits: Limits,
    ports: usize,
    poisoned: bool,
    meters: Meters,
    crew: Arc<Semaphore>,
    slot: Arc<Slot>,
}

/// What is counted of an instance's calls.
struct Meters {
    seconds: Histogram,
    /// Only of deployments: filters have no name of their own.
    deployment: Option<DeploymentMeters>,
}

struct DeploymentMeters {
    calls: Counter,
    records: Counter,
    failures: Counter,
}

impl Meters {
    fn of(purpose: Use, name: &str) -> Meters {
        let name = || name.to_owned();
        let deployment = || DeploymentMeters {
            calls: counter!(names::PLUGIN_CALLS, "deployment" => name()),
            records: counter!(names::PLUGIN_RECORDS, "deployment" => name()),
            failures: counter!(names::PLUGIN_FAILURES, "deployment" => name()),
        };
        Meters {
            seconds: histogram!(names::PLUGIN_SECONDS),
            deployment: (purpose == Use::Deployment).then(deployment),
        }
    }

    fn count(&self, took: Duration, records: usize, has_failed: bool) {
        self.seconds.record(took);
        if let Some(deployment) = &self.deployment {
            deployment.calls.increment(1);
            deployment.records.increment(records as u64);
            deployment.failures.increment(has_failed.into());
        }
    }
}

/// What the store of an instance holds: everything that host functions act on.
pub(super) struct Inside {
    pub(super) log: Arc<InstanceLog>,
    memory: MemoryLimit,
    turn: Arc<Turn>,
    wasi: WasiCtx,
    resources: ResourceTable,
}

impl WasiView for Inside {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.resources,
        }
    }
}

impl Inside {
    /// Counts what a host function does with so many bytes as time of the call: no tick comes while it
    /// does it.
    pub(super) fn charge(&self, bytes: usize) {
        self.turn.add((bytes / BYTES_PER_TICK) as u64);
    }
}

/// How long the present call has run, and whether it gave way to others.
#[derive(Default)]
struct Turn {
    ticks: AtomicU64,
    ticks_max: AtomicU64,
    yielded: AtomicBool,
}

/// The call has had its time.
#[derive(Debug, thiserror::Error)]
#[error("out of time")]
struct OutOfTime;

/// Marks what went wrong before the plugin's own functions were called.
#[derive(Debug, thiserror::Error)]
#[error("the instance was not made")]
struct NotMade;

/// The call waits for something that will not come.
#[derive(Debug, thiserror::Error)]
#[error("it waits for time to pass or for a device, and plugins have neither")]
struct Waits;

impl Instance {
    /// Makes an instance and runs its `init`.
    pub(super) async fn start(
        (slot, crew): (Arc<Slot>, Arc<Semaphore>),
        pre: &bindings::PluginPre<Inside>,
        context: &Context,
        limits: Limits,
        purpose: Use,
    ) -> Result<Self, PluginError> {
        let turn = Arc::new(Turn::default());
        let mut store = store(&slot, context, limits, &turn);
        let time_max = slot.engine().config.init_time_max;
        let instantiating = async {
            let calls = pre.instantiate_async(&mut store).await;
            let calls = calls.map_err(|error| error.context(NotMade))?;
            let processor = calls.eddy_plugin_processor();
            let answer = processor
                .call_init(&mut store, described(context).view())
                .await?;
            Ok((calls, answer))
        };
        let outcome = {
            let _running = running(&crew).await;
            let _ticking = slot.ticking();
            turn.take(time_max, instantiating).await
        };
        match outcome {
            Ok((calls, Ok(()))) => {
                let ports = context.outputs.len();
                Ok(Self {
                    store,
                    calls,
                    turn,
                    limits,
                    ports,
                    poisoned: false,
                    meters: Meters::of(purpose, &context.deployment),
                    crew,
                    slot,
                })
            }
            Ok((_, Err(words))) => Err(PluginError::Refused(words::message(&words))),
            Err(error) => Err(explain(&error, store.data(), &slot, limits, time_max)),
        }
    }

    /// What becomes of these records. To be polled within [`Engine::spawn`](super::Engine::spawn), where
    /// a call that takes long gives way to others.
    pub async fn process(&mut self, records: &ColumnBuf) -> Result<Verdict, PluginError> {
        let begin = Instant::now();
        let outcome = self.call(records).await;
        self.meters
            .count(begin.elapsed(), records.len(), outcome.is_err());
        outcome
    }

    async fn call(&mut self, records: &ColumnBuf) -> Result<Verdict, PluginError> {
        if self.poisoned {
            return Err(PluginError::Poisoned);
        }
        // Until the call has come back: a call that is dropped half-way leaves an instance half-way.
        self.poisoned = true;
        let time_max = self.limits.batch_time_max;
        let batch = verdict::lower(records);
        self.store.data_mut().memory.begin_call();
        let outcome = {
            let _running = running(&self.crew).await;
            let _ticking = self.slot.ticking();
            // Whatever time went by since the last call was not the plugin's.
            self.store.set_epoch_deadline(1);
            let processor = self.calls.eddy_plugin_processor();
            let call = processor.call_process(&mut self.store, INPUT, batch);
            self.turn.take(time_max, call).await
        };
        let answer = outcome.map_err(|error| {
            explain(&error, self.store.data(), &self.slot, self.limits, time_max)
        })?;
        self.poisoned = false;
        match answer {
            Ok(verdict) => {
                verdict::check(verdict, records, self.ports, self.limits.output_bytes_max)
            }
            Err(wit::Failure { row, message }) => Err(PluginError::Failed {
                row,
                message: words::message(&message),
            }),
        }
    }

    /// Whether the instance has failed in a way that leaves it unable to run.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Instance")
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

/// Waits until the instances of the same deployment leave this one a thread.
async fn running(crew: &Semaphore) -> Option<SemaphorePermit<'_>> {
    // Nobody closes it.
    crew.acquire().await.ok()
}

fn store(slot: &Slot, context: &Context, limits: Limits, turn: &Arc<Turn>) -> Store<Inside> {
    let engine = slot.engine();
    let lines_max = engine.config.log_lines_per_second_max;
    let log = Arc::new(InstanceLog::new(
        &context.deployment,
        context.partition,
        lines_max,
    ));
    let mut resources = ResourceTable::new();
    resources.set_max_capacity(RESOURCES_MAX);
    let inside = Inside {
        wasi: wasi::locked(&log),
        memory: MemoryLimit::new(limits.memory_bytes_max),
        turn: Arc::clone(turn),
        log,
        resources,
    };
    let mut store = Store::new(&engine.wasm, inside);
    store.limiter(|inside| &mut inside.memory);
    store.set_hostcall_fuel(limits.output_bytes_max.saturating_add(WORDS_BYTES_MAX));
    store.set_epoch_deadline(1);
    let turn = Arc::clone(turn);
    store.epoch_deadline_callback(move |_| turn.tick());
    store
}

impl Turn {
    /// Runs a call to its end, but for no longer than it may. Only time in which it really runs counts:
    /// a tick is counted by the call that it interrupts.
    async fn take<T>(
        &self,
        time_max: Duration,
        call: impl Future<Output = wasmtime::Result<T>>,
    ) -> wasmtime::Result<T> {
        let ticks_max = time_max.as_nanos().div_ceil(TICK.as_nanos()).max(1);
        self.ticks.store(0, Ordering::Relaxed);
        self.ticks_max
            .store(ticks_max.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        let mut call = pin!(call);
        std::future::poll_fn(|cx| {
            self.yielded.store(false, Ordering::Relaxed);
            match call.as_mut().poll(cx) {
                // What it waits for may be there at the next look, as a moment that is past already is.
                // Nothing that takes longer is worth waiting for, so each look counts as time.
                Poll::Pending if !self.yielded.load(Ordering::Relaxed) => {
                    self.add(1);
                    if self.is_over() {
                        return Poll::Ready(Err(Waits.into()));
                    }
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                poll => poll,
            }
        })
        .await
    }

    fn add(&self, ticks: u64) {
        self.ticks.fetch_add(ticks, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.ticks.load(Ordering::Relaxed) > self.ticks_max.load(Ordering::Relaxed)
    }

    fn tick(&self) -> wasmtime::Result<UpdateDeadline> {
        self.add(1);
        if self.is_over() {
            return Err(OutOfTime.into());
        }
        self.yielded.store(true, Ordering::Relaxed);
        Ok(UpdateDeadline::Yield(1))
    }
}

/// The context as the contract has it.
struct Described<'a> {
    context: &'a Context,
    params: Vec<(&'a str, &'a str)>,
    outputs: Vec<&'a str>,
}

fn described(context: &Context) -> Described<'_> {
    Described {
        context,
        params: context
            .params
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect(),
        outputs: context.outputs.iter().map(String::as_str).collect(),
    }
}

impl Described<'_> {
    fn view(&self) -> wit::Context<'_> {
        wit::Context {
            deployment: &self.context.deployment,
            version: self.context.version,
            topic: &self.context.topic,
            partition: self.context.partition,
            params: &self.params,
            inputs: &[PORT_IN],
            outputs: &self.outputs,
        }
    }
}

/// A failed call in the words of [`PluginError`].
fn explain(
    error: &wasmtime::Error,
    inside: &Inside,
    slot: &Slot,
    limits: Limits,
    time_max: Duration,
) -> PluginError {
    if error.is::<OutOfTime>() {
        return PluginError::TimedOut(time_max);
    }
    if inside.memory.refused() {
        return PluginError::OutOfMemory(inside.memory.bytes_max());
    }
    if inside.memory.starved() {
        return PluginError::Internal("the system has no memory for the plugin".into());
    }
    if error.is::<PoolConcurrencyLimitError>() {
        let all = slot.engine().config.instances_max;
        return PluginError::NoCapacity { limit: all, all };
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return PluginError::Trapped(with_last_words(trap_words(*trap), inside));
    }
    if let Some(I32Exit(code)) = error.downcast_ref::<I32Exit>() {
        return PluginError::Trapped(with_last_words(
            format!("it exited with code {code}"),
            inside,
        ));
    }
    if error.is::<Waits>() {
        return PluginError::Trapped(Waits.to_string());
    }
    let words = words::message(&compile::first_line(error));
    // The type of this error is private to wasmtime; a test holds its words.
    if words.contains("fuel allocated for hostcalls") {
        let limit = limits.output_bytes_max;
        return PluginError::OutputTooLarge {
            bytes: limit + WORDS_BYTES_MAX,
            limit,
        };
    }
    if error.is::<NotMade>() || error.is::<std::io::Error>() {
        return PluginError::Internal(words);
    }
    PluginError::InvalidVerdict(words)
}

fn trap_words(trap: Trap) -> String {
    match trap {
        Trap::StackOverflow => "stack overflow".into(),
        trap => trap.to_string().trim_start_matches("wasm trap: ").into(),
    }
}

/// What the plugin wrote to standard error before it ended: in Rust, the message of the panic.
fn with_last_words(words: String, inside: &Inside) -> String {
    let last = inside.log.last_words();
    if last.is_empty() {
        words
    } else {
        format!("{words}; its last words: {last}")
    }
}
