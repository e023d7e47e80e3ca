//! A plugin on a subscription: evaluated once per batch for all subscribers
//! with the same plugin and parameters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};

use eddy_protocol::batch::{ColumnBuf, OffsetMode, Rows};
use eddy_protocol::{Batch, BatchError, Compression, ErrorCode, WireError, frame};
use metrics::{Counter, counter};
use tokio::sync::{Mutex, MutexGuard};

use super::feed::{self, Feed, PluginCall};
use super::stream::count;
use super::{Broker, refusal};
use crate::log::{Partition, Topic};
use crate::metrics as names;
use crate::plugin::{
    Context, Digest, Engine, Instance, Limits, PORT_OUT, Plugin, PluginError, Verdict,
};

/// What makes two filters the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FilterKey {
    digest: Digest,
    params: BTreeMap<String, String>,
}

/// A plugin with parameters, on the stream of one topic.
pub(super) struct Filter {
    key: FilterKey,
    name: String,
    topic: Arc<Topic>,
    plugin: Plugin,
    engine: Engine,
    limits: Limits,
    call_bytes_max: usize,
    slots: Arc<InstanceSlots>,
    failure: OnceLock<WireError>,
    evaluations: Counter,
    records: Counter,
}

/// Where a partition's instance sits. Whoever holds it evaluates.
#[derive(Default)]
pub(super) struct InstanceSlot(Arc<Mutex<Option<Instance>>>);

impl InstanceSlot {
    pub(super) async fn take(&self) -> MutexGuard<'_, Option<Instance>> {
        self.0.lock().await
    }
}

/// The slots that keep their instances between calls.
#[derive(Default)]
pub(super) struct InstanceSlots(parking_lot::Mutex<VecDeque<Weak<Mutex<Option<Instance>>>>>);

impl InstanceSlots {
    /// One more, empty.
    pub(super) fn add(&self) -> InstanceSlot {
        let slot = InstanceSlot::default();
        self.0.lock().push_back(Arc::downgrade(&slot.0));
        slot
    }

    /// Forgets those that are gone.
    pub(super) fn tidy(&self) {
        self.0.lock().retain(|slot| slot.strong_count() > 0);
    }

    /// Gives up an instance that no call needs at present: its slot makes another one when it has
    /// to. `false` if all are at work. In turn, so that it isn't always the same one.
    fn free_one(&self) -> bool {
        let mut slots = self.0.lock();
        for _ in 0..slots.len() {
            let Some(slot) = slots.pop_front() else {
                return false;
            };
            let Some(held) = slot.upgrade() else {
                continue;
            };
            slots.push_back(slot);
            if held.try_lock().is_ok_and(|mut held| held.take().is_some()) {
                return true;
            }
        }
        false
    }
}

impl Broker {
    /// The filter that a subscription asks for.
    pub(super) async fn filter(
        &self,
        topic: &Arc<Topic>,
        asked: &frame::Filter,
    ) -> Result<Filter, WireError> {
        let (info, plugin) = self.compiled(&asked.plugin).await?;
        let limits = self.engine.config().limits();
        Ok(Filter {
            key: FilterKey {
                digest: plugin.digest(),
                params: asked.params.clone(),
            },
            name: info.name,
            topic: topic.clone(),
            plugin,
            engine: self.engine.clone(),
            limits,
            call_bytes_max: feed::call_bytes_max(self.config.deployment.chunk_bytes, limits),
            slots: self.streams.slots(),
            failure: OnceLock::new(),
            evaluations: counter!(names::FILTER_EVALUATIONS, "topic" => topic.name().to_string()),
            records: counter!(names::FILTER_RECORDS, "topic" => topic.name().to_string()),
        })
    }
}

impl Filter {
    pub(super) fn key(&self) -> &FilterKey {
        &self.key
    }

    /// Refuses where the plugin refuses the parameters.
    pub(super) async fn try_out(&self) -> Result<(), WireError> {
        let trial = self.instantiate(0).await;
        trial.map(drop).map_err(|error| self.refuse(&error))
    }

    /// Why the filter no longer works.
    pub(super) fn failure(&self) -> Option<&WireError> {
        self.failure.get()
    }

    /// The kept records of `batches`, which follow one another, as at most one
    /// batch with sparse offsets. What the plugin is to blame for is for good:
    /// the stream ends with it.
    pub(super) async fn evaluate(
        &self,
        slot: &mut Option<Instance>,
        partition: &dyn Partition,
        batches: Vec<Batch>,
    ) -> Result<Vec<Batch>, WireError> {
        self.evaluations.increment(1);
        self.records.increment(count(&batches));
        let kept = self.keep(slot, partition, batches).await;
        kept.map_err(|error| match error.is_the_plugins() {
            true => self.failure.get_or_init(|| self.refuse(&error)).clone(),
            false => self.refuse(&error),
        })
    }

    async fn keep(
        &self,
        slot: &mut Option<Instance>,
        partition: &dyn Partition,
        batches: Vec<Batch>,
    ) -> Result<Vec<Batch>, PluginError> {
        let mut instance = match slot.take() {
            Some(instance) => instance,
            None => self.instantiate(partition.number()).await?,
        };
        let call_bytes_max = self.call_bytes_max;
        let evaluated = self.engine.spawn(async move {
            let kept = sift(&mut instance, batches, call_bytes_max).await?;
            Ok((instance, kept))
        });
        let (instance, kept) = evaluated
            .await
            .unwrap_or_else(|_| Err(PluginError::Internal("the evaluation was cut off".into())))?;
        *slot = Some(instance);
        Ok(kept)
    }

    async fn instantiate(&self, partition: u32) -> Result<Instance, PluginError> {
        let context = Context {
            deployment: self.name.clone(),
            version: 0,
            topic: self.topic.name().to_string(),
            partition,
            params: self.key.params.clone(),
            outputs: vec![PORT_OUT.to_owned()],
        };
        loop {
            let made = self
                .engine
                .instantiate(&self.plugin, context.clone(), self.limits);
            match made.await {
                Err(PluginError::NoCapacity { .. }) if self.slots.free_one() => {}
                made => return made,
            }
        }
    }

    fn refuse(&self, error: &PluginError) -> WireError {
        refusal::of_plugin(
            &format!("filter `{}` on topic `{}`", self.name, self.topic.name()),
            error,
        )
    }
}

/// The kept records of `batches`, in as many calls as a deployment would be handed them.
async fn sift(
    instance: &mut Instance,
    batches: Vec<Batch>,
    call_bytes_max: usize,
) -> Result<Vec<Batch>, PluginError> {
    let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
        return Ok(batches);
    };
    let (base, end) = (first.base_offset(), last.end_offset());
    let mut feed = Feed::new(call_bytes_max);
    feed.extend(batches.clone());
    let (mut kept, mut position) = (Kept::default(), base);
    while let Some(PluginCall { columns, next }) = feed.next(position).map_err(internal)? {
        if !columns.is_empty() {
            let verdict = instance.process(&columns).await?;
            kept.add(columns, verdict)?;
        }
        position = next;
    }
    if !kept.is_less {
        return Ok(batches);
    }
    kept.encode(base, (end - base) as u32)
}

/// What is kept of several calls.
#[derive(Default)]
struct Kept {
    /// Of the first call all, of others what is kept of them.
    columns: ColumnBuf,
    rows: Vec<u32>,
    /// Whether a record was dropped.
    is_less: bool,
}

impl Kept {
    fn add(&mut self, columns: ColumnBuf, verdict: Verdict) -> Result<(), PluginError> {
        let rows = match verdict {
            Verdict::All => (0..columns.len() as u32).collect(),
            Verdict::Keep(rows) => rows,
            // Nothing new was made: whatever there was is dropped.
            Verdict::Emit(outputs) if outputs.iter().all(|output| output.records.is_empty()) => {
                Vec::new()
            }
            Verdict::Emit(_) => {
                return Err(PluginError::InvalidVerdict(
                    "on a subscription a plugin can only keep or drop records; this one made new ones"
                        .into(),
                ));
            }
        };
        self.is_less |= rows.len() < columns.len();
        if self.columns.is_empty() {
            // Nearly always there is no other call, and no copy is made.
            (self.columns, self.rows) = (columns, rows);
            return Ok(());
        }
        for record in rows.iter().filter_map(|row| columns.record(*row as usize)) {
            self.rows.push(self.columns.len() as u32);
            self.columns.push_record(&record).map_err(internal)?;
        }
        Ok(())
    }

    /// One batch for `span` offsets from `base` on, or none.
    fn encode(self, base: u64, span: u32) -> Result<Vec<Batch>, PluginError> {
        if self.rows.is_empty() {
            return Ok(Vec::new());
        }
        let offsets = OffsetMode::Sparse { base, span };
        let (rows, codec) = (Rows::Keep(&self.rows), Compression::None);
        let batch = self.columns.encode(rows, offsets, codec, None);
        Ok(vec![batch.map_err(internal)?])
    }
}

fn internal(error: BatchError) -> PluginError {
    PluginError::Internal(error.to_string())
}

/// The records of `batch` from offset `from` on; nothing if there are none.
pub(super) fn keep_from(batch: &Batch, from: u64) -> Result<Option<Batch>, BatchError> {
    if batch.base_offset() >= from {
        return Ok(Some(batch.clone()));
    }
    let mut columns = ColumnBuf::default();
    columns.extend_from(batch)?;
    let first = columns.offsets().partition_point(|offset| *offset < from) as u32;
    let rows: Vec<u32> = (first..columns.len() as u32).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let span = (batch.end_offset() - from) as u32;
    let offsets = OffsetMode::Sparse { base: from, span };
    columns
        .encode(Rows::Keep(&rows), offsets, Compression::None, None)
        .map(Some)
}

/// The error for a name that no plugin has.
pub(super) fn unknown_plugin(name: &str) -> WireError {
    ErrorCode::UnknownPlugin.because(format!("no plugin `{name}`"))
}
