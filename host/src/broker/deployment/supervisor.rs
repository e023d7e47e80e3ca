//! Keeps one runner per partition at work, and stops all when one's plugin fails.

use std::sync::Arc;
use std::time::Duration;

use eddy_protocol::WireError;
use eddy_protocol::admin::DeploymentState;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::runner::{RunEnd, Runner};
use super::status::InstanceStatus;
use super::{Deployment, passes, told_to_stop};
use crate::broker::{Broker, refusal};
use crate::log::{Commit, CommitError};
use crate::metrics as names;

/// The longest pause before what is in the way is tried again, unless a longer one is configured.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

/// A runner's number and why it stopped.
type Finished = (u32, RunEnd);

/// Runs until the deployment is told to stop or its plugin fails.
pub(super) async fn supervise(broker: Arc<Broker>, deployment: Arc<Deployment>) {
    let (mut stop, mut catalog) = (deployment.stop.subscribe(), broker.log.topics().changed());
    let mut runners = Runners {
        broker: broker.clone(),
        deployment: deployment.clone(),
        halt: watch::Sender::new(false),
        tasks: JoinSet::new(),
    };
    let retry_delay = broker.config.deployment.retry_delay;
    let mut retries = 0;
    let failure = loop {
        // Whatever it is, it is not the plugin's fault.
        let trouble = runners.grow().await.err().map(|error| error.message);
        retries = trouble.as_ref().map_or(0, |_| retries + 1);
        let delay = trouble.as_ref().map(|_| pause(retry_delay, retries - 1));
        deployment.trouble(trouble);
        tokio::select! {
            biased;
            () = told_to_stop(&mut stop) => break None,
            changed = catalog.changed() => if changed.is_err() { break None },
            Some(finished) = runners.tasks.join_next() => {
                if let Some(reason) = runners.handle(finished) {
                    break Some(reason);
                }
            }
            () = tokio::time::sleep(delay.unwrap_or_default()), if delay.is_some() => {}
        }
    };
    runners.rest().await;
    if failure.is_some() {
        // Others may need them; what replaces it reserves its own.
        drop(deployment.take_places());
    }
    if let Some(reason) = failure {
        fail(&broker, &deployment, reason, &mut stop).await;
    }
}

/// The runners of one deployment.
struct Runners {
    broker: Arc<Broker>,
    deployment: Arc<Deployment>,
    /// What tells all of them to stop.
    halt: watch::Sender<bool>,
    tasks: JoinSet<Finished>,
}

impl Runners {
    /// Adds runners for the partitions that have none yet.
    async fn grow(&mut self) -> Result<(), WireError> {
        let deployment = self.deployment.clone();
        let record = &deployment.record;
        // Compiled here, once, rather than by every runner.
        self.broker.compiled_digest(&record.digest).await?;
        let partitions = self.broker.topic(&record.spec.from)?.partitions().len();
        let running = deployment.statuses.lock().len();
        for number in running..partitions {
            let number = number as u32;
            let stored = self.broker.position(record, number).await?;
            let position = stored.map_or(0, |stored| stored.offset);
            let status = Arc::new(InstanceStatus::new(
                self.broker.place_for(&deployment)?,
                position,
            ));
            deployment.statuses.lock().push(status.clone());
            self.run(number, status, Duration::ZERO);
        }
        Ok(())
    }

    fn run(&mut self, number: u32, status: Arc<InstanceStatus>, delay: Duration) {
        let work = work(
            self.broker.clone(),
            self.deployment.clone(),
            (number, status),
            delay,
            self.halt.subscribe(),
        );
        let work = self.broker.engine.spawn(work);
        self.tasks.spawn(async move {
            // Dropping the guard ends the work on the plugins' threads too.
            let _guard = AbortOnDrop(work.abort_handle());
            let stop = work
                .await
                // A panic of the broker's own: the plugin's would have been a trap.
                .unwrap_or_else(|error| RunEnd::Retry(format!("its work was cut off: {error}")));
            (number, stop)
        });
    }

    /// The reason to stop the whole deployment, if there is one.
    fn handle(&mut self, finished: Result<Finished, JoinError>) -> Option<String> {
        let (number, stop) = match finished {
            Ok(finished) => finished,
            // What only waits for the work can't fail before the runtime ends.
            Err(_) => return None,
        };
        let status = self
            .deployment
            .statuses
            .lock()
            .get(number as usize)?
            .clone();
        let (state, reason) = match stop {
            RunEnd::Told => return None,
            RunEnd::Plugin(reason) => return Some(format!("partition {number}: {reason}")),
            RunEnd::Partition(reason) => (DeploymentState::Stopped, reason),
            RunEnd::Retry(reason) => (DeploymentState::Starting, reason),
        };
        let trouble = status.troubled(state, &reason);
        if !trouble.is_known {
            let name = &self.deployment.record.spec.name;
            tracing::warn!(
                deployment = name,
                partition = number,
                reason,
                "deployment tries again"
            );
        }
        let retry_delay = self.broker.config.deployment.retry_delay;
        self.run(number, status, pause(retry_delay, trouble.retries));
        None
    }

    /// Tells all runners to stop, and returns when the last commit was answered.
    async fn rest(mut self) {
        self.halt.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn work(
    broker: Arc<Broker>,
    deployment: Arc<Deployment>,
    (number, status): (u32, Arc<InstanceStatus>),
    delay: Duration,
    mut halt: watch::Receiver<bool>,
) -> RunEnd {
    let open = async {
        if !delay.is_zero() {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = repaired(&broker, &deployment, number) => {}
            }
        }
        Runner::open(&broker, &deployment, number, status).await
    };
    let opened = tokio::select! {
        biased;
        () = told_to_stop(&mut halt) => return RunEnd::Told,
        opened = open => opened,
    };
    match opened {
        Ok(runner) => runner.run(halt).await,
        Err(stop) => stop,
    }
}

/// How long to wait before it is tried again: longer each time.
fn pause(delay: Duration, retries: u32) -> Duration {
    let longer = delay.saturating_mul(1 << retries.min(16));
    longer.min(RETRY_DELAY_MAX.max(delay))
}

/// Until a partition that is stopped serves again; for ever where it is not stopped.
async fn repaired(broker: &Broker, deployment: &Deployment, number: u32) {
    if let Ok((_, partition)) = broker.partition(&deployment.record.spec.from, number)
        && partition.stopped().is_some()
    {
        let (change, _listening) = broker.listen(&partition);
        while partition.stopped().is_some() {
            change.came().await;
        }
        return;
    }
    std::future::pending::<()>().await;
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Marks the deployment as stopped, for good and in the store, unless it is
/// another one by now.
async fn fail(
    broker: &Broker,
    deployment: &Deployment,
    reason: String,
    stop: &mut watch::Receiver<bool>,
) {
    let name = &deployment.record.spec.name;
    tracing::error!(deployment = name, reason, "deployment stopped");
    *deployment.stopped.lock() = Some(reason.clone());
    metrics::counter!(names::DEPLOYMENTS_FAILED).increment(1);
    loop {
        let error = match write_down(broker, deployment, reason.clone()).await {
            Ok(()) => return,
            Err(error) => error,
        };
        tracing::warn!(deployment = name, %error, "that the deployment is stopped is not written down");
        if !passes(&error) {
            return;
        }
        tokio::select! {
            () = told_to_stop(stop) => return,
            () = tokio::time::sleep(broker.config.deployment.retry_delay) => {}
        }
    }
}

async fn write_down(
    broker: &Broker,
    deployment: &Deployment,
    reason: String,
) -> Result<(), WireError> {
    let commit = Commit {
        changes: vec![deployment.record.stopped_for(reason).put()?],
        expect: vec![deployment.record.expect()?],
        ..Commit::default()
    };
    match broker.log.commit(commit).await {
        Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
        Err(error) => Err(refusal::of_commit(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute_or_to_what_is_configured() {
        let pauses = |delay: Duration| -> Vec<Duration> {
            [0, 1, 2, 5, 6, 16, u32::MAX]
                .map(|retries| pause(delay, retries))
                .to_vec()
        };
        let ms = |ms: [u64; 7]| ms.map(Duration::from_millis).to_vec();
        assert_eq!(
            pauses(Duration::from_millis(500)),
            ms([500, 1_000, 2_000, 16_000, 30_000, 30_000, 30_000])
        );
        let longer = Duration::from_secs(90);
        assert_eq!(pauses(longer), [longer; 7], "never shorter than configured");
        assert_eq!(pauses(Duration::MAX), [Duration::MAX; 7]);
        assert_eq!(pauses(Duration::ZERO), [Duration::ZERO; 7]);
    }
}
