//! The engine: compiles artefacts, one at a time and once per digest, and makes instances.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle};
use wasmtime::component::{Component, Linker};
use wasmtime::{InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};

use super::bindings;
use super::instance::{Inside, Instance};
use super::runtime::PluginThreads;
use super::ticker::{Ticker, Ticking};
use super::{CodeCache, Config, Digest, Limits, PluginError, cache, compile, inspect};

/// A plugin's stack. Rust's own default for threads is four times as much; plugins are small.
const STACK_BYTES: usize = 512 << 10;
/// What host functions need on top of it.
const HOST_STACK_BYTES: usize = 512 << 10;
/// A component is made of few modules: the program, and what `wasm-tools` puts around it.
const MODULES_PER_COMPONENT_MAX: u32 = 16;
/// One of them has the memory, which the others use.
const MEMORIES_PER_COMPONENT_MAX: u32 = 1;
/// The program's own, and those of what is put around it.
const TABLES_PER_COMPONENT_MAX: u32 = 4;
/// Of all places, one in so many is kept for deployments, whatever is subscribed to.
const KEPT_FOR_DEPLOYMENTS: u32 = 4;
/// Instances beside those, to hear whether a plugin takes its parameters.
const TRIALS: u32 = 1;
/// Elements in a table: functions that are called through pointers.
const TABLE_ELEMENTS_MAX: usize = 100_000;
/// What an instance may have beside its memory for the globals and function references of its modules.
const INSTANCE_BYTES_MAX: usize = 2 << 20;

/// Compiles and runs plugins. Cheap to clone; all clones are the same engine.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

pub(super) struct Inner {
    pub(super) config: Config,
    pub(super) wasm: wasmtime::Engine,
    linker: Linker<Inside>,
    cache: Arc<dyn CodeCache>,
    /// Part of the keys in the cache: code of another version or other settings is other code.
    compatibility: String,
    compiled: Mutex<HashMap<Digest, Weak<Compiled>>>,
    /// Compiling takes a processor for as long as it lasts, so there is one at a time.
    compiling: Arc<Semaphore>,
    /// How many places are taken.
    taken: AtomicU32,
    /// What the instances of one deployment share, and those of one filter.
    crews: Mutex<HashMap<(Use, String), Weak<Semaphore>>>,
    ticker: Ticker,
    threads: PluginThreads,
}

/// A compiled plugin. Cheap to clone.
#[derive(Clone)]
pub struct Plugin(Arc<Compiled>);

struct Compiled {
    digest: Digest,
    pre: bindings::PluginPre<Inside>,
}

/// Where an instance finds itself: what the plugin's `init` is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// The name of the deployment; of a filter on a subscription, the name of the plugin.
    pub deployment: String,
    /// The version of the deployment.
    pub version: u32,
    /// The topic that is read.
    pub topic: String,
    /// The partition that is read.
    pub partition: u32,
    /// The deployment's parameters.
    pub params: BTreeMap<String, String>,
    /// The names of the outputs that are connected. A port is a place in this list.
    pub outputs: Vec<String>,
}

impl Engine {
    /// Starts the engine's threads. An error says what the system would not give.
    pub fn new(config: Config, cache: Arc<dyn CodeCache>) -> Result<Self, PluginError> {
        let wasm = wasmtime::Engine::new(&settings(&config)).map_err(|error| internal(&error))?;
        let linker = link(&wasm).map_err(|error| internal(&error))?;
        let weak = wasm.weak();
        let ticker = Ticker::start(move || {
            if let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
            }
        })?;
        Ok(Self(Arc::new(Inner {
            compatibility: compatibility(&wasm),
            threads: PluginThreads::start(config.threads)?,
            compiled: Mutex::default(),
            compiling: Arc::new(Semaphore::new(1)),
            taken: AtomicU32::new(0),
            crews: Mutex::default(),
            config,
            wasm,
            linker,
            cache,
            ticker,
        })))
    }

    /// The settings that the engine was started with.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// How many places are taken, by instances or for instances to come.
    pub fn instances(&self) -> u32 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// The key in the cache of the code of the plugin with this digest.
    pub fn code_key(&self, digest: &Digest) -> String {
        format!("{digest}-{}", self.0.compatibility)
    }

    /// Compiles an artefact, or finds it compiled already. On the engine's threads; what has to be
    /// compiled, one after the other.
    pub async fn compile(&self, wasm: Bytes) -> Result<Plugin, PluginError> {
        // The size before the digest, which takes a while for what is far too large.
        let (bytes, limit) = (wasm.len(), self.0.config.plugin_bytes_max);
        if bytes > limit {
            return Err(PluginError::TooLarge { bytes, limit });
        }
        // What is known already doesn't wait behind what has to be compiled.
        let (engine, bytes) = (self.clone(), wasm.clone());
        let known = self.0.threads.spawn_blocking(move || {
            let digest = Digest::of(&bytes);
            (digest, engine.known(digest))
        });
        let (digest, known) = known.await.map_err(|error| joined(&error))?;
        if let Some(known) = known {
            return known;
        }
        let engine = self.clone();
        let compiling = Arc::clone(&self.0.compiling);
        let permit = compiling.acquire_owned().await.map_err(|_| stopping())?;
        let work = self.0.threads.spawn_blocking(move || {
            // Held by the work: who asked may go away, the compiler can't be interrupted.
            let _permit = permit;
            // Who waited for the permit may have waited for this very plugin.
            match engine.known(digest) {
                Some(known) => known,
                None => engine.compile_now(digest, &wasm),
            }
        });
        work.await.map_err(|error| joined(&error))?
    }

    /// What was compiled since the start, or is in the cache.
    fn known(&self, digest: Digest) -> Option<Result<Plugin, PluginError>> {
        let known = self.0.compiled.lock().get(&digest).and_then(Weak::upgrade);
        match known {
            Some(compiled) => Some(Ok(Plugin(compiled))),
            None => Some(self.link_up(digest, &self.cached(&self.code_key(&digest))?)),
        }
    }

    fn compile_now(&self, digest: Digest, wasm: &[u8]) -> Result<Plugin, PluginError> {
        inspect::inspect(wasm, &self.0.config)?;
        let component = compile::compile(&self.0.wasm, wasm)?;
        // Only of what is a plugin: nobody would ever ask for the code of anything else.
        let plugin = self.link_up(digest, &component)?;
        match component.serialize() {
            Ok(code) => {
                let key = self.code_key(&digest);
                self.0.cache.store(&key, &cache::seal(&code));
            }
            Err(error) => tracing::warn!(%digest, "compiled code is not cached: {error:#}"),
        }
        Ok(plugin)
    }

    /// A plugin, if the component is one.
    fn link_up(&self, digest: Digest, component: &Component) -> Result<Plugin, PluginError> {
        compile::check_world(&self.0.wasm, component)?;
        let wrong = |error: wasmtime::Error| PluginError::WrongWorld(format!("{error:#}"));
        let pre = self.0.linker.instantiate_pre(component).map_err(wrong)?;
        compile::check_signatures(&self.0.wasm, component, &pre)?;
        let pre = bindings::PluginPre::new(pre).map_err(wrong)?;
        let compiled = Arc::new(Compiled { digest, pre });
        let mut known = self.0.compiled.lock();
        known.retain(|_, compiled| compiled.strong_count() > 0);
        known.insert(digest, Arc::downgrade(&compiled));
        Ok(Plugin(compiled))
    }

    #[allow(unsafe_code)]
    fn cached(&self, key: &str) -> Option<Component> {
        let entry = self.0.cache.load(key)?;
        let Some(code) = cache::open(&entry) else {
            tracing::warn!(
                key,
                "a damaged entry in the cache of compiled code is made anew"
            );
            return None;
        };
        // SAFETY: `deserialize` trusts that the bytes came out of `serialize`. The checksum says that
        // they are as they were stored, and only this engine stores; who can write into the broker's
        // data folder under the broker's rights needs no plugin to run code. Another version of
        // wasmtime or other settings are recognised by wasmtime itself, and by the key.
        let component = unsafe { Component::deserialize(&self.0.wasm, code) };
        component
            .inspect_err(|error| tracing::warn!(key, "compiled anew: {error:#}"))
            .ok()
    }

    /// Makes an instance and runs its `init`, on the engine's threads. Takes a place for as long as the
    /// instance lives; never one of those that are kept for deployments.
    pub async fn instantiate(
        &self,
        plugin: &Plugin,
        context: Context,
        limits: Limits,
    ) -> Result<Instance, PluginError> {
        let all = self.0.config.instances_max;
        let limit = all - all / KEPT_FOR_DEPLOYMENTS;
        let place = Slot::take(&self.0, 1, limit).pop();
        let place = place.ok_or(PluginError::NoCapacity { limit, all })?;
        self.make(Use::Filter, place, plugin, context, limits).await
    }

    /// Places for the instances of a deployment, all or none.
    pub fn reserve(&self, instances: u32) -> Result<Vec<Reservation>, PluginError> {
        let limit = self.0.config.instances_max;
        let slots = Slot::take(&self.0, instances, limit);
        if slots.len() < instances as usize {
            return Err(PluginError::TooFewPlaces {
                asked: instances,
                free: limit.saturating_sub(self.instances()),
                limit,
            });
        }
        Ok(slots.into_iter().map(Reservation).collect())
    }

    /// A place for an instance that is dropped again at once, beside those that are counted. There
    /// is one such place: two at a time may find no capacity.
    pub fn trial(&self) -> Reservation {
        Reservation(Arc::new(Slot {
            engine: Arc::clone(&self.0),
            is_counted: false,
        }))
    }

    /// Makes an instance of a deployment in a place that was reserved for it, where there is no other
    /// at the time.
    pub async fn instantiate_at(
        &self,
        place: &Reservation,
        plugin: &Plugin,
        context: Context,
        limits: Limits,
    ) -> Result<Instance, PluginError> {
        let slot = Arc::clone(&place.0);
        self.make(Use::Deployment, slot, plugin, context, limits)
            .await
    }

    async fn make(
        &self,
        purpose: Use,
        slot: Arc<Slot>,
        plugin: &Plugin,
        context: Context,
        limits: Limits,
    ) -> Result<Instance, PluginError> {
        limits.check(&self.0.config)?;
        let crew = self.crew(purpose, &context.deployment);
        let pre = plugin.0.pre.clone();
        let work = self.spawn(async move {
            Instance::start((slot, crew), &pre, &context, limits, purpose).await
        });
        work.await.map_err(|error| joined(&error))?
    }

    /// What lets as many instances of one deployment run at a time as there are threads: others wait
    /// for their turn behind those, not behind each of its partitions.
    fn crew(&self, purpose: Use, name: &str) -> Arc<Semaphore> {
        let mut crews = self.0.crews.lock();
        let key = (purpose, name.to_owned());
        if let Some(crew) = crews.get(&key).and_then(Weak::upgrade) {
            return crew;
        }
        crews.retain(|_, crew| crew.strong_count() > 0);
        let crew = Arc::new(Semaphore::new(self.0.threads.count()));
        crews.insert(key, Arc::downgrade(&crew));
        crew
    }

    /// Runs a future on the engine's threads. A future that calls [`Instance::process`] belongs here.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.0.threads.spawn(future)
    }
}

impl Plugin {
    /// The artefact's digest: the plugin's name.
    pub fn digest(&self) -> Digest {
        self.0.digest
    }
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Plugin({})", self.0.digest)
    }
}

/// What an instance is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Use {
    Deployment,
    Filter,
}

/// A place among `instances_max` that is reserved for an instance. Cheap to clone; all clones, and the
/// instance made there, are the same place, which is free when the last of them is dropped.
#[derive(Clone)]
pub struct Reservation(Arc<Slot>);

impl std::fmt::Debug for Reservation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reservation")
    }
}

/// One of `instances_max`, or that for trials; free again when dropped.
pub(super) struct Slot {
    engine: Arc<Inner>,
    is_counted: bool,
}

impl Slot {
    /// So many slots, or none if that would pass `limit`.
    fn take(engine: &Arc<Inner>, count: u32, limit: u32) -> Vec<Arc<Self>> {
        let more = |taken: u32| taken.checked_add(count).filter(|taken| *taken <= limit);
        let taken = engine
            .taken
            .try_update(Ordering::Relaxed, Ordering::Relaxed, more);
        let count = if taken.is_ok() { count } else { 0 };
        let slot = || Self {
            engine: Arc::clone(engine),
            is_counted: true,
        };
        (0..count).map(|_| Arc::new(slot())).collect()
    }

    pub(super) fn engine(&self) -> &Inner {
        &self.engine
    }

    /// Keeps the epoch advancing until the answer is dropped.
    pub(super) fn ticking(&self) -> Ticking {
        self.engine.ticker.ticking()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.is_counted {
            self.engine.taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn settings(config: &Config) -> wasmtime::Config {
    let instances = config.instances_max.max(1).saturating_add(TRIALS);
    let mut pool = PoolingAllocationConfig::new();
    // Each place has all that a component may have, so that none can take what is another's.
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(MODULES_PER_COMPONENT_MAX))
        .total_memories(instances.saturating_mul(MEMORIES_PER_COMPONENT_MAX))
        .total_tables(instances.saturating_mul(TABLES_PER_COMPONENT_MAX))
        .total_stacks(instances)
        .max_core_instances_per_component(MODULES_PER_COMPONENT_MAX)
        .max_memories_per_component(MEMORIES_PER_COMPONENT_MAX)
        .max_tables_per_component(TABLES_PER_COMPONENT_MAX)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(config.memory_bytes_max);
    let mut settings = wasmtime::Config::new();
    settings
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .cranelift_opt_level(OptLevel::Speed)
        // The same input gives the same output, on every machine.
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .epoch_interruption(true)
        .max_wasm_stack(STACK_BYTES)
        .async_stack_size(STACK_BYTES + HOST_STACK_BYTES)
        .concurrency_support(false)
        // Compiling in parallel would be done by threads that have not stepped back.
        .parallel_compilation(false);
    settings
}

fn link(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Inside>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    bindings::Plugin::add_to_linker::<Inside, wasmtime::component::HasSelf<Inside>>(
        &mut linker,
        |inside| inside,
    )?;
    Ok(linker)
}

/// What compiled code depends on beside the artefact, in a few characters.
fn compatibility(engine: &wasmtime::Engine) -> String {
    struct Into(Sha256);
    impl std::hash::Hasher for Into {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut hasher = Into(Sha256::new());
    std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hasher);
    let digest = hasher.0.finalize();
    digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn internal(error: &wasmtime::Error) -> PluginError {
    PluginError::Internal(format!("{error:#}"))
}

fn stopping() -> PluginError {
    PluginError::Internal("it is stopping".into())
}

fn joined(error: &JoinError) -> PluginError {
    match error.is_panic() {
        true => PluginError::Internal("a panic, whose message is in the log".into()),
        false => stopping(),
    }
}
