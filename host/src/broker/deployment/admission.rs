//! What a deployment must be before it is let in.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use eddy_protocol::admin::DeploymentSpec;
use eddy_protocol::frame::Start;
use eddy_protocol::{ErrorCode, TopicName, WireError};
use tokio::sync::MutexGuard;

use super::Deployment;
use super::progress::InstancePosition;
use super::record::Record;
use crate::broker::epoch::StoredPosition;
use crate::broker::{Broker, plugin, refusal};
use crate::plugin::{Context, Limits, Plugin, Reservation};

/// A plugin has at most this many outputs.
const OUTPUTS_MAX: usize = 64;

/// A deployment that may begin, and where.
pub(super) struct Admitted {
    pub(super) record: Record,
    /// One for each partition.
    pub(super) places: Vec<Reservation>,
    starts: Vec<StoredPosition>,
}

impl Admitted {
    pub(super) fn positions(&self) -> impl Iterator<Item = InstancePosition<'_>> {
        let numbered = self.starts.iter().zip(0..);
        numbered.map(|(&stored, partition)| InstancePosition {
            record: &self.record,
            partition,
            stored,
        })
    }
}

/// The answer for a name that no deployment has.
pub(super) fn unknown_deployment(name: &str) -> WireError {
    ErrorCode::UnknownDeployment.because(format!("no deployment `{name}`"))
}

/// The answer for a deployment whose row makes no sense to this version of the broker.
pub(super) fn unreadable_deployment(name: &str, reason: &str) -> WireError {
    ErrorCode::StorageFailed.because(format!(
        "the row of deployment `{name}` can't be read, so it does not run: {reason}; delete or replace it, or start the version of the broker that wrote it"
    ))
}

impl Broker {
    /// A deployment that is not there yet, of the plugin with this digest.
    pub(super) async fn admit(
        &self,
        spec: DeploymentSpec,
        digest: String,
    ) -> Result<Admitted, WireError> {
        self.check_free(&spec.name)?;
        self.begin(Record::new(spec, digest)).await
    }

    /// Whether a deployment could have this name.
    pub(super) fn check_free(&self, name: &str) -> Result<(), WireError> {
        if let Some(reason) = self.deployments.unreadable.get(name) {
            return Err(unreadable_deployment(name, &reason));
        }
        if self.deployments.by_name.contains_key(name) {
            return Err(ErrorCode::DeploymentExists.because(format!(
                "there is a deployment `{name}` already; replace it, or delete it first"
            )));
        }
        Ok(())
    }

    /// What a deployment begins with.
    pub(super) async fn begin(&self, record: Record) -> Result<Admitted, WireError> {
        self.check_topics(&record.spec)?;
        let partitions = self.topic(&record.spec.from)?.partitions();
        let places = self.reserve(&record)?;
        let mut starts = Vec::new();
        for partition in partitions.iter() {
            let epoch = Some(partition.epoch());
            let offset = match record.spec.start {
                // Partitions differ in length: an offset beyond one's end means its end.
                Start::Offset(offset) => offset.min(partition.end()),
                start => self.resolve(partition, start).await?,
            };
            starts.push(StoredPosition { offset, epoch });
        }
        Ok(Admitted {
            record,
            places,
            starts,
        })
    }

    /// What may take the place of `old`: it reads the same topic. With places of its own where `old`
    /// has given its back.
    pub(super) fn admit_replacement(
        &self,
        deployment: &Deployment,
        spec: DeploymentSpec,
        digest: String,
    ) -> Result<(Record, Vec<Reservation>), WireError> {
        let old = &deployment.record;
        self.check_topics(&spec)?;
        if spec.from != old.spec.from {
            return Err(ErrorCode::Inconsistent.because(format!(
                "deployment `{}` reads topic `{}`; what replaces it goes on from its positions there, and can't read `{}`",
                spec.name, old.spec.from, spec.from
            )));
        }
        // Where it began is where it began.
        let spec = DeploymentSpec {
            start: old.spec.start,
            ..spec
        };
        let record = old.replaced_by(spec, digest);
        let places = match deployment.is_stopped() {
            true => self.reserve(&record)?,
            false => Vec::new(),
        };
        Ok((record, places))
    }

    /// Takes the lock of admissions once the plugin has taken what is asked for, and says which
    /// plugin that is. It is compiled and tried out before: neither is for others to wait for.
    pub(super) async fn prepare(
        &self,
        spec: &DeploymentSpec,
        version: u32,
    ) -> Result<(MutexGuard<'_, ()>, String), WireError> {
        plugin::check_name("deployment", &spec.name)?;
        self.check_topics(spec)?;
        loop {
            let (_, plugin) = self.compiled(&spec.plugin).await?;
            let digest = plugin.digest().to_string();
            let mut record = Record::new(spec.clone(), digest.clone());
            record.version = version;
            self.try_out(&record, &plugin).await?;
            let admission = self.deployments.admission.lock().await;
            // Its name may have another artefact by now.
            if self.plugin(&spec.plugin).await?.digest == digest {
                return Ok((admission, digest));
            }
        }
    }

    /// A place for each partition.
    fn reserve(&self, record: &Record) -> Result<Vec<Reservation>, WireError> {
        let partitions = self.topic(&record.spec.from)?.partitions().len();
        let places = self.engine.reserve(partitions as u32);
        places.map_err(|error| refusal::of_start(&of_deployment(record), &error))
    }

    /// Makes an instance, to hear whether the plugin takes its parameters. In the place for trials:
    /// those that are there may have all others.
    async fn try_out(&self, record: &Record, plugin: &Plugin) -> Result<(), WireError> {
        let _alone = self.deployments.trial.lock().await;
        let (context, limits) = (context(record, 0), self.limits(record)?);
        let place = self.engine.trial();
        let trial = self.engine.instantiate_at(&place, plugin, context, limits);
        match trial.await {
            Ok(_) => Ok(()),
            Err(error) => Err(refusal::of_start(&of_deployment(record), &error)),
        }
    }

    fn check_topics(&self, spec: &DeploymentSpec) -> Result<(), WireError> {
        self.topic(&spec.from)?;
        if spec.to.is_empty() || spec.to.len() > OUTPUTS_MAX {
            return Err(ErrorCode::InvalidArgument.because(format!(
                "deployment `{}` has {} outputs; it needs 1 to {OUTPUTS_MAX}",
                spec.name,
                spec.to.len()
            )));
        }
        for (port, topic) in &spec.to {
            plugin::check_name("port", port)?;
            self.topic(topic)?;
        }
        if self.would_cycle(spec) {
            return Err(ErrorCode::Inconsistent.because(format!(
                "deployment `{}` would feed topic `{}` with what comes out of it: its records would go round for ever",
                spec.name, spec.from
            )));
        }
        Ok(())
    }

    /// Whether records could come back from the outputs to the input.
    fn would_cycle(&self, spec: &DeploymentSpec) -> bool {
        let mut onward: HashMap<TopicName, Vec<TopicName>> = HashMap::new();
        for entry in &self.deployments.by_name {
            let other = &entry.value().record.spec;
            if other.name == spec.name {
                // The one that is replaced.
                continue;
            }
            onward
                .entry(other.from.clone())
                .or_default()
                .extend(other.to.values().cloned());
        }
        let mut reached = BTreeSet::new();
        let mut ahead: Vec<TopicName> = spec.to.values().cloned().collect();
        while let Some(topic) = ahead.pop() {
            if reached.insert(topic.clone()) {
                ahead.extend(onward.get(&topic).into_iter().flatten().cloned());
            }
        }
        reached.contains(&spec.from)
    }

    /// What an instance of the deployment may use.
    pub(super) fn limits(&self, record: &Record) -> Result<Limits, WireError> {
        let (asked, mut limits) = (&record.spec.limits, self.engine.config().limits());
        let within = |name: &str, asked: Option<u64>, most: u64| match asked {
            None => Ok(most),
            Some(asked) if (1..=most).contains(&asked) => Ok(asked),
            Some(asked) => Err(ErrorCode::InvalidArgument.because(format!(
                "`{name}` of deployment `{}` is {asked}; it must be between 1 and {most}",
                record.spec.name
            ))),
        };
        limits.memory_bytes_max = within(
            "memory_bytes_max",
            asked.memory_bytes_max,
            limits.memory_bytes_max as u64,
        )? as usize;
        limits.output_bytes_max = within(
            "output_bytes_max",
            asked.output_bytes_max,
            limits.output_bytes_max as u64,
        )? as usize;
        let time_max_ms = limits.batch_time_max.as_millis() as u64;
        let time_ms = within("batch_time_max_ms", asked.batch_time_max_ms, time_max_ms)?;
        limits.batch_time_max = Duration::from_millis(time_ms);
        Ok(limits)
    }
}

fn of_deployment(record: &Record) -> String {
    format!("deployment `{}`", record.spec.name)
}

/// What the instance on a partition is told.
pub(super) fn context(record: &Record, partition: u32) -> Context {
    Context {
        deployment: record.spec.name.clone(),
        version: record.version,
        topic: record.spec.from.to_string(),
        partition,
        params: record.spec.params.clone(),
        outputs: record.outputs().map(|(port, _)| port.clone()).collect(),
    }
}
