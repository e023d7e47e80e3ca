//! A plugin on a subscription: evaluated once per batch for all subscribers
//! with the same plugin and parameters.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use eddy_protocol::batch::{ColumnBuf, OffsetMode, Rows};
use eddy_protocol::{Batch, BatchError, Compression, ErrorCode, WireError, frame};
use metrics::{Counter, counter};
use tokio::sync::{Mutex, MutexGuard};

use super::stream::count;
use super::{Broker, refusal};
use crate::metrics as names;
use crate::plugin::{
    Context, Digest, Engine, Instance, Limits, PORT_OUT, Plugin, PluginError, Verdict,
};
use crate::store::{Partition, Topic};

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
    failure: OnceLock<WireError>,
    evaluations: Counter,
    records: Counter,
}

/// Where a partition's instance sits. Whoever holds it evaluates.
#[derive(Default)]
pub(super) struct Seat(Arc<Mutex<Option<Instance>>>);

impl Seat {
    pub(super) async fn take(&self) -> MutexGuard<'_, Option<Instance>> {
        self.0.lock().await
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
        Ok(Filter {
            key: FilterKey {
                digest: plugin.digest(),
                params: asked.params.clone(),
            },
            name: info.name,
            topic: topic.clone(),
            plugin,
            engine: self.engine.clone(),
            limits: self.engine.config().limits(),
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
        seat: &mut Option<Instance>,
        partition: &Partition,
        batches: Vec<Batch>,
    ) -> Result<Vec<Batch>, WireError> {
        self.evaluations.increment(1);
        self.records.increment(count(&batches));
        let kept = self.keep(seat, partition, batches).await;
        kept.map_err(|error| match error {
            PluginError::NoCapacity { .. } | PluginError::Internal(_) => self.refuse(&error),
            _ => self.failure.get_or_init(|| self.refuse(&error)).clone(),
        })
    }

    async fn keep(
        &self,
        seat: &mut Option<Instance>,
        partition: &Partition,
        batches: Vec<Batch>,
    ) -> Result<Vec<Batch>, PluginError> {
        let mut instance = match seat.take() {
            Some(instance) => instance,
            None => self.instantiate(partition.number()).await?,
        };
        let evaluated = self.engine.spawn(async move {
            let columns = columns_of(&batches)?;
            let verdict = instance.process(&columns).await?;
            Ok((instance, kept(&batches, &columns, verdict)?))
        });
        let (instance, kept) = evaluated
            .await
            .unwrap_or_else(|_| Err(PluginError::Internal("the evaluation was cut off".into())))?;
        *seat = Some(instance);
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
        self.engine
            .instantiate(&self.plugin, context, self.limits)
            .await
    }

    fn refuse(&self, error: &PluginError) -> WireError {
        refusal::of_plugin(
            &format!("filter `{}` on topic `{}`", self.name, self.topic.name()),
            error,
        )
    }
}

/// The records of several batches as one set of columns.
pub(super) fn columns_of(batches: &[Batch]) -> Result<ColumnBuf, PluginError> {
    let mut columns = ColumnBuf::default();
    for batch in batches {
        columns
            .extend_from(batch)
            .map_err(|error| PluginError::Internal(error.to_string()))?;
    }
    Ok(columns)
}

fn kept(
    batches: &[Batch],
    columns: &ColumnBuf,
    verdict: Verdict,
) -> Result<Vec<Batch>, PluginError> {
    let rows = match verdict {
        Verdict::All => return Ok(batches.to_vec()),
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
    let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
        return Ok(Vec::new());
    };
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let base = first.base_offset();
    let span = (last.end_offset() - base) as u32;
    let offsets = OffsetMode::Sparse { base, span };
    let kept = columns.encode(Rows::Keep(&rows), offsets, Compression::None, None);
    Ok(vec![kept.map_err(|error| {
        PluginError::Internal(error.to_string())
    })?])
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
