//! Deployments: plugins at work from topic to topic, one instance per
//! partition.
//!
//! A deployment is a row in the store; its positions are rows too, moved in the
//! same commits as the outputs, which makes it exactly once. A plugin that
//! fails stops its deployment, with the reason in the row, and nothing else.

mod admission;
mod progress;
mod record;
mod runner;
mod supervisor;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use eddy_protocol::admin::{DeploymentInfo, DeploymentSpec, DeploymentState, InstanceInfo};
use eddy_protocol::{TopicName, WireError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{Broker, refusal};
use crate::metrics as names;
use crate::store::{Change, Table};

use record::Record;

/// Deployments' settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many bytes of records an instance is handed at once, unless a
    /// single batch is larger.
    pub chunk_bytes: usize,
    /// How many commits of an instance may be under way.
    pub commits_in_flight_max: usize,
    /// How long a deployment waits before it tries again what the store refused.
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
    /// Held while one is made or deleted: names and cycles are checked before.
    pub(super) admission: tokio::sync::Mutex<()>,
}

/// One deployment.
struct Deployment {
    record: Record,
    /// Why it is stopped; `None` while it works.
    stopped: Mutex<Option<String>>,
    lanes: Mutex<Vec<Arc<Lane>>>,
    stop: watch::Sender<bool>,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

/// A deployment on one partition, as it can be seen from outside.
#[derive(Default)]
struct Lane {
    position: AtomicU64,
    records_in: AtomicU64,
    records_out: AtomicU64,
    batches: AtomicU64,
    stopped: Mutex<Option<String>>,
}

impl Deployments {
    /// The deployment that reads or writes `topic`.
    pub(super) fn using(&self, topic: &TopicName) -> Option<String> {
        let uses =
            |spec: &DeploymentSpec| spec.from == *topic || spec.to.values().any(|to| to == topic);
        self.find(|deployment| uses(&deployment.record.spec))
    }

    /// A deployment of the plugin with this digest.
    pub(super) fn running(&self, digest: &str) -> Option<String> {
        self.find(|deployment| deployment.record.digest == digest)
    }

    fn find(&self, matches: impl Fn(&Deployment) -> bool) -> Option<String> {
        self.by_name
            .iter()
            .find(|entry| matches(entry.value()))
            .map(|entry| entry.key().clone())
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
    fn new(record: Record) -> Arc<Deployment> {
        Arc::new(Deployment {
            stopped: Mutex::new(record.stopped.clone()),
            record,
            lanes: Mutex::default(),
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
}

impl Broker {
    /// Puts a plugin to work and returns once its instances run.
    pub async fn deploy(
        self: &Arc<Self>,
        spec: DeploymentSpec,
    ) -> Result<DeploymentInfo, WireError> {
        let _admission = self.deployments.admission.lock().await;
        let admitted = self.admit(spec).await?;
        let mut changes = vec![admitted.record.put()?];
        changes.extend(admitted.positions().map(|position| position.put()));
        self.change(changes).await?;
        let deployment = Deployment::new(admitted.record);
        self.start(&deployment);
        Ok(self.info(&deployment))
    }

    /// All deployments, in the order of their names.
    pub fn deployments(&self) -> Vec<DeploymentInfo> {
        let mut all: Vec<_> = self
            .deployments
            .by_name
            .iter()
            .map(|entry| self.info(entry.value()))
            .collect();
        all.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        all
    }

    /// One deployment.
    pub fn deployment(&self, name: &str) -> Result<DeploymentInfo, WireError> {
        let deployment = self
            .deployments
            .by_name
            .get(name)
            .ok_or_else(|| admission::unknown_deployment(name))?;
        Ok(self.info(&deployment))
    }

    /// Ends a deployment: when this returns, it writes nothing any more.
    pub async fn delete_deployment(&self, name: &str) -> Result<(), WireError> {
        let _admission = self.deployments.admission.lock().await;
        let deployment = self
            .deployments
            .by_name
            .get(name)
            .map(|entry| entry.value().clone());
        let deployment = deployment.ok_or_else(|| admission::unknown_deployment(name))?;
        deployment.rest().await;
        let mut changes = vec![deployment.record.delete()];
        let rows = self.store.scan(Table::Progress, &progress::prefix(name));
        let rows = rows.map_err(|error| refusal::of_table(&error))?;
        changes.extend(rows.into_iter().map(|(key, _)| Change::Delete {
            table: Table::Progress,
            key,
        }));
        self.change(changes).await?;
        self.deployments.by_name.remove(name);
        // What is gone lags no more; a scrape would never look at it again.
        metrics::gauge!(names::DEPLOYMENT_LAG, "deployment" => name.to_owned()).set(0);
        Ok(())
    }

    /// Starts what was deployed before the broker stopped.
    pub(super) async fn resume_deployments(self: &Arc<Self>) -> anyhow::Result<()> {
        for (key, value) in self.store.scan(Table::Deployments, b"")? {
            let record = Record::read(&value).map_err(|error| {
                anyhow::anyhow!("deployment `{}`: {error}", String::from_utf8_lossy(&key))
            })?;
            self.start(&Deployment::new(record));
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, deployment: &Arc<Deployment>) {
        self.deployments
            .by_name
            .insert(deployment.record.spec.name.clone(), deployment.clone());
        if deployment.stopped.lock().is_none() {
            let supervisor = tokio::spawn(supervisor::supervise(self.clone(), deployment.clone()));
            *deployment.supervisor.lock() = Some(supervisor);
        }
    }

    fn info(&self, deployment: &Deployment) -> DeploymentInfo {
        let reason = deployment.stopped.lock().clone();
        let state = if reason.is_some() {
            DeploymentState::Stopped
        } else {
            DeploymentState::Running
        };
        let Record {
            spec,
            digest,
            version,
            ..
        } = &deployment.record;
        let partitions = self.topic(&spec.from).map(|topic| topic.partitions()).ok();
        let lanes = deployment.lanes.lock().clone();
        let numbered = partitions
            .iter()
            .flat_map(|partitions| partitions.iter())
            .enumerate();
        let partitions = numbered.map(|(index, partition)| {
            let lane = lanes.get(index).cloned().unwrap_or_else(|| {
                let position = self
                    .position(&deployment.record, partition.number())
                    .unwrap_or_default();
                Arc::new(Lane {
                    position: position.into(),
                    ..Lane::default()
                })
            });
            let (position, end) = (lane.position.load(Ordering::Relaxed), partition.end());
            let stopped = lane.stopped.lock().clone();
            let runs = reason.is_none() && stopped.is_none();
            InstanceInfo {
                partition: partition.number(),
                position,
                end,
                lag: end.saturating_sub(position),
                state: if runs {
                    DeploymentState::Running
                } else {
                    DeploymentState::Stopped
                },
                reason: stopped,
                records_in: lane.records_in.load(Ordering::Relaxed),
                records_out: lane.records_out.load(Ordering::Relaxed),
                batches: lane.batches.load(Ordering::Relaxed),
            }
        });
        DeploymentInfo {
            partitions: partitions.collect(),
            spec: spec.clone(),
            digest: digest.clone(),
            version: *version,
            state,
            reason,
        }
    }
}
