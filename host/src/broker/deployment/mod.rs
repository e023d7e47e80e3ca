//! Deployments: plugins at work from topic to topic, one instance per
//! partition.
//!
//! A deployment is a row in the store; its positions are rows too, moved in the
//! same commits as the outputs, which makes it exactly once. A plugin that
//! fails stops its deployment, with the reason in the row, and nothing else. A
//! replacement goes on from the positions.
//!
//! What is written down comes first and what runs follows from it, so a change
//! that the store refuses leaves everything as it was.

mod admission;
mod outputs;
mod progress;
mod record;
mod runner;
mod status;
mod supervisor;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use eddy_protocol::admin::{
    DeploymentInfo, DeploymentSpec, DeploymentState, InstanceInfo, Unreadable,
};
use eddy_protocol::{ErrorCode, TopicName, WireError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Broker, refusal, whole};
use crate::log::{Partition, Table};
use crate::metrics as names;
use crate::plugin::Reservation;

use admission::Admitted;
use record::Record;
use status::InstanceStatus;

/// Deployments' settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many bytes of records, expanded, an instance is handed at once, but
    /// for the last record; less where its limits are small. For filters, too.
    pub chunk_bytes: usize,
    /// How many commits of an instance may be under way.
    pub commits_in_flight_max: usize,
    /// How long a deployment waits before it tries again what was refused; longer each time.
    pub retry_delay: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            chunk_bytes: 512 << 10,
            commits_in_flight_max: 8,
            retry_delay: Duration::from_millis(500),
        }
    }
}

/// All deployments, by name.
#[derive(Default)]
pub(super) struct Deployments {
    by_name: DashMap<String, Arc<Deployment>>,
    /// Those whose rows this version of the broker can't read, and why. The rows stay, and so does
    /// whatever they may run.
    unreadable: DashMap<String, String>,
    /// Held while a deployment or a plugin is made, replaced or deleted: what
    /// one may rest on the other must not take away.
    pub(super) admission: tokio::sync::Mutex<()>,
    /// Held while a plugin is tried out: there is one place for that.
    pub(super) trial: tokio::sync::Mutex<()>,
}

/// One deployment.
struct Deployment {
    record: Record,
    /// Where it was in each partition when it was started.
    positions: BTreeMap<u32, u64>,
    /// Reserved for the instances of partitions to come.
    places: Mutex<Vec<Reservation>>,
    /// Why it is stopped; `None` while it works.
    stopped: Mutex<Option<String>>,
    /// Why not all of its partitions are at work yet.
    trouble: Mutex<Option<String>>,
    statuses: Mutex<Vec<Arc<InstanceStatus>>>,
    stop: watch::Sender<bool>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl Deployments {
    /// The deployment that reads or writes `topic`.
    pub(super) fn using(&self, topic: &TopicName) -> Option<String> {
        let uses =
            |spec: &DeploymentSpec| spec.from == *topic || spec.to.values().any(|to| to == topic);
        self.find(|deployment| uses(&deployment.record.spec))
    }

    /// Of the plugins of all deployments, also of those that are stopped; `None` where they are not
    /// all known.
    pub(super) fn digests(&self) -> Option<Vec<String>> {
        let deployments = self.by_name.iter().map(|entry| entry.value().clone());
        let needed = deployments.flat_map(|it| it.record.digests().cloned().collect::<Vec<_>>());
        self.unreadable.is_empty().then(|| needed.collect())
    }

    /// What the deployments know of plugins: the name by which each digest was deployed, and who
    /// needs it.
    pub(super) fn plugins(&self) -> BTreeMap<String, (String, Vec<String>)> {
        let mut plugins: BTreeMap<String, (String, Vec<String>)> = BTreeMap::new();
        for entry in &self.by_name {
            let record = &entry.value().record;
            for digest in record.digests() {
                let name = || record.spec.plugin.clone();
                let (_, users) = plugins
                    .entry(digest.clone())
                    .or_insert_with(|| (name(), Vec::new()));
                users.push(record.spec.name.clone());
            }
        }
        plugins.values_mut().for_each(|(_, users)| users.sort());
        plugins
    }

    fn find(&self, matches: impl Fn(&Deployment) -> bool) -> Option<String> {
        self.by_name
            .iter()
            .find(|entry| matches(entry.value()))
            .map(|entry| entry.key().clone())
    }

    fn named(&self, name: &str) -> Result<Arc<Deployment>, WireError> {
        if let Some(reason) = self.unreadable.get(name) {
            return Err(admission::unreadable_deployment(name, &reason));
        }
        let found = self.by_name.get(name).map(|entry| entry.value().clone());
        found.ok_or_else(|| admission::unknown_deployment(name))
    }

    /// Stops all work and returns when it rests.
    pub(super) async fn stop_all(&self) {
        let all: Vec<_> = self
            .by_name
            .iter()
            .map(|entry| entry.value().clone())
            .collect();
        for deployment in &all {
            deployment.stop.send_replace(true);
        }
        for deployment in &all {
            deployment.rest().await;
        }
    }
}

impl Deployment {
    fn new(
        record: Record,
        places: Vec<Reservation>,
        positions: BTreeMap<u32, u64>,
    ) -> Arc<Deployment> {
        Arc::new(Deployment {
            positions,
            stopped: Mutex::new(record.stopped.clone()),
            record,
            places: places.into(),
            trouble: Mutex::default(),
            statuses: Mutex::default(),
            stop: watch::Sender::new(false),
            supervisor: Mutex::default(),
        })
    }

    async fn rest(&self) {
        self.stop.send_replace(true);
        let supervisor = self.supervisor.lock().take();
        if let Some(supervisor) = supervisor {
            // A supervisor that panicked rests too.
            supervisor.await.ok();
        }
    }

    /// The places of all its instances, once it rests.
    fn take_places(&self) -> Vec<Reservation> {
        let mut places = std::mem::take(&mut *self.places.lock());
        places.extend(
            self.statuses
                .lock()
                .iter()
                .filter_map(|status| status.leave()),
        );
        places
    }

    fn is_stopped(&self) -> bool {
        self.stopped.lock().is_some()
    }

    /// Says why not all of its partitions are at work; in the log, too, where that is new.
    fn trouble(&self, trouble: Option<String>) {
        let mut now = self.trouble.lock();
        if let Some(reason) = trouble.as_ref().filter(|_| *now != trouble) {
            let name = &self.record.spec.name;
            tracing::warn!(deployment = name, reason, "deployment tries again");
        }
        *now = trouble;
    }

    /// Its state as that of its instances comes to, and what is in the way.
    fn state(&self, instances: &[InstanceInfo]) -> (DeploymentState, Option<String>) {
        if let Some(reason) = self.stopped.lock().clone() {
            return (DeploymentState::Stopped, Some(reason));
        }
        let is = |state: DeploymentState| move |instance: &&InstanceInfo| instance.state == state;
        let first = |state| instances.iter().find(is(state));
        let state = match first(DeploymentState::Starting) {
            Some(_) => DeploymentState::Starting,
            None if first(DeploymentState::Running).is_some() => DeploymentState::Running,
            None => DeploymentState::Stopped,
        };
        let reason = instances.iter().find_map(|instance| {
            let reason = instance.reason.as_ref()?;
            Some(match instance.state {
                DeploymentState::Stopped => {
                    format!("partition {} is stopped: {reason}", instance.partition)
                }
                _ => format!("partition {} tries again: {reason}", instance.partition),
            })
        });
        (state, self.trouble.lock().clone().or(reason))
    }
}

impl Broker {
    /// Puts a plugin to work. It is there for good when this returns; its
    /// instances are made from then on.
    pub async fn deploy(
        self: &Arc<Self>,
        spec: DeploymentSpec,
    ) -> Result<DeploymentInfo, WireError> {
        let broker = self.clone();
        whole(async move {
            // Before the plugin is compiled for nothing.
            broker.check_free(&spec.name)?;
            let (_admission, digest) = broker.prepare(&spec, 1).await?;
            let admitted = broker.admit(spec, digest).await?;
            broker.begin_deployment(admitted).await
        })
        .await
    }

    /// Writes down what was admitted, and starts it.
    async fn begin_deployment(
        self: &Arc<Self>,
        admitted: Admitted,
    ) -> Result<DeploymentInfo, WireError> {
        // Of an earlier deployment of the name there may be something left.
        let mut changes = self.forget_positions(&admitted.record.spec.name).await?;
        changes.push(admitted.record.put()?);
        changes.extend(admitted.positions().map(|position| position.put()));
        self.change(changes).await?;
        let positions = admitted.positions();
        let positions = positions.map(|it| (it.partition, it.stored.offset));
        let positions = positions.collect();
        let Admitted { record, places, .. } = admitted;
        Ok(self.start(Deployment::new(record, places, positions)))
    }

    /// Puts another plugin, or other parameters, limits or outputs, in the
    /// place of a deployment, be it at work or stopped. The replacement goes on
    /// where it was: no record is processed twice or left out. One whose row can't be read is begun
    /// anew, because nobody knows what it read.
    pub async fn replace_deployment(
        self: &Arc<Self>,
        spec: DeploymentSpec,
    ) -> Result<DeploymentInfo, WireError> {
        let broker = self.clone();
        whole(async move {
            let next = |record: &Record| record.version.saturating_add(1);
            let version = match broker.deployments.by_name.get(&spec.name) {
                Some(old) => next(&old.record),
                None => 1,
            };
            let (_admission, digest) = broker.prepare(&spec, version).await?;
            if broker.deployments.unreadable.contains_key(&spec.name) {
                let admitted = broker.begin(Record::new(spec.clone(), digest)).await?;
                let info = broker.begin_deployment(admitted).await?;
                broker.deployments.unreadable.remove(&spec.name);
                return Ok(info);
            }
            let old = broker.deployments.named(&spec.name)?;
            let (record, mut places) = broker.admit_replacement(&old, spec, digest)?;
            broker.change(vec![record.put()?]).await?;
            old.rest().await;
            places.extend(old.take_places());
            let positions = broker.positions(&record).await;
            let info = broker.start(Deployment::new(record, places, positions));
            // Nothing else may name what the old one ran.
            broker.sweep_plugins().await;
            Ok(info)
        })
        .await
    }

    /// All deployments, in the order of their names.
    pub fn deployments(&self) -> Vec<DeploymentInfo> {
        let names = self.deployment_names();
        // One may have been deleted meanwhile.
        let found = names.iter().filter_map(|name| self.deployment(name).ok());
        found.collect()
    }

    /// The names of all deployments, in order.
    pub fn deployment_names(&self) -> Vec<String> {
        let by_name = self.deployments.by_name.iter();
        let mut names: Vec<_> = by_name.map(|entry| entry.key().clone()).collect();
        names.sort_unstable();
        names
    }

    /// The deployments whose rows can't be read.
    pub(super) fn unreadable_deployments(&self) -> Vec<Unreadable> {
        let unreadable = self.deployments.unreadable.iter();
        let info = unreadable.map(|entry| Unreadable {
            kind: "deployment".to_owned(),
            name: entry.key().clone(),
            reason: entry.value().clone(),
        });
        info.collect()
    }

    /// One deployment.
    pub fn deployment(&self, name: &str) -> Result<DeploymentInfo, WireError> {
        Ok(self.info(&*self.deployments.named(name)?))
    }

    /// Ends a deployment: when this returns, it writes nothing any more.
    pub async fn delete_deployment(self: &Arc<Self>, name: &str) -> Result<(), WireError> {
        let (broker, name) = (self.clone(), name.to_owned());
        whole(async move {
            let _admission = broker.deployments.admission.lock().await;
            let mut changes = broker.forget_positions(&name).await?;
            if broker.deployments.unreadable.contains_key(&name) {
                changes.push(record::delete(&name));
                broker.change(changes).await?;
                broker.deployments.unreadable.remove(&name);
                broker.sweep_plugins().await;
                return Ok(());
            }
            let deployment = broker.deployments.named(&name)?;
            changes.push(record::delete(&name));
            broker.change(changes).await?;
            // Without its position nothing of it is committed any more.
            deployment.rest().await;
            broker.deployments.by_name.remove(&name);
            // What is gone lags no more; a scrape would never look at it again.
            metrics::gauge!(names::DEPLOYMENT_LAG, "deployment" => name).set(0);
            broker.sweep_plugins().await;
            Ok(())
        })
        .await
    }

    /// Starts what was deployed before the broker stopped.
    pub(super) async fn resume_deployments(self: &Arc<Self>) -> anyhow::Result<()> {
        for (key, value) in self.state.scan(Table::Deployments, b"").await? {
            let record = match Record::read(&value) {
                Ok(record) => record,
                Err(error) => {
                    let name = String::from_utf8_lossy(&key).into_owned();
                    tracing::error!(
                        deployment = name,
                        %error,
                        "a deployment's row can't be read; it is kept, and does not run"
                    );
                    self.deployments.unreadable.insert(name, error.to_string());
                    continue;
                }
            };
            let partitions = self.topic(&record.spec.from);
            let partitions = partitions.map_or(0, |topic| topic.partitions().len());
            let places = match record.stopped {
                Some(_) => Vec::new(),
                // With less room than there was, its supervisor waits for more.
                None => self.engine.reserve(partitions as u32).unwrap_or_default(),
            };
            let positions = self.positions(&record).await;
            self.start(Deployment::new(record, places, positions));
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, deployment: Arc<Deployment>) -> DeploymentInfo {
        let name = deployment.record.spec.name.clone();
        let mut supervisor = deployment.supervisor.lock();
        if !deployment.is_stopped() {
            let work = supervisor::supervise(self.clone(), deployment.clone());
            *supervisor = Some(tokio::spawn(work));
        }
        drop(supervisor);
        let info = self.info(&deployment);
        self.deployments.by_name.insert(name, deployment);
        info
    }

    /// A place for one more instance of a deployment.
    fn place_for(&self, deployment: &Deployment) -> Result<Reservation, WireError> {
        if let Some(place) = deployment.places.lock().pop() {
            return Ok(place);
        }
        let reserved = self.engine.reserve(1);
        let place = reserved.map(|mut places| places.pop()).map_err(|error| {
            let name = &deployment.record.spec.name;
            refusal::of_plugin(&format!("deployment `{name}`"), &error)
        })?;
        place.ok_or_else(|| ErrorCode::Internal.because("no place where one was reserved"))
    }

    fn info(&self, deployment: &Deployment) -> DeploymentInfo {
        let record = &deployment.record;
        let statuses = deployment.statuses.lock().clone();
        let is_stopped = deployment.is_stopped();
        let look = |partition: &Arc<dyn Partition>| {
            let info = match statuses.get(partition.number() as usize) {
                Some(status) => status.info(&**partition),
                None => {
                    let position = deployment.positions.get(&partition.number());
                    status::nobody(&**partition, position.copied().unwrap_or_default())
                }
            };
            match is_stopped {
                true => InstanceInfo {
                    state: DeploymentState::Stopped,
                    ..info
                },
                false => info,
            }
        };
        let topic = self.topic(&record.spec.from);
        let partitions: Vec<_> = topic.map_or_else(
            |_| Vec::new(),
            |topic| topic.partitions().iter().map(look).collect(),
        );
        let (state, reason) = deployment.state(&partitions);
        DeploymentInfo {
            spec: record.spec.clone(),
            digest: record.digest.clone(),
            version: record.version,
            state,
            reason,
            partitions,
        }
    }
}

/// Whether what was refused may well be granted later. Where the store failed,
/// that takes a restart of the broker, and until then nothing is lost by trying.
fn passes(error: &WireError) -> bool {
    error.code.retryable() || matches!(error.code, ErrorCode::StorageFailed | ErrorCode::Internal)
}

async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    stop.wait_for(|stop| *stop).await.ok();
}
