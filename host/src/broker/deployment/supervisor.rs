//! Keeps one runner per partition at work, and stops all when one's plugin fails.

use std::sync::Arc;
use std::time::Duration;

use eddy_protocol::WireError;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

use super::runner::{Runner, Stop};
use super::{Deployment, Lane};
use crate::broker::Broker;
use crate::metrics as names;

/// A runner's number and why it stopped.
type Finished = (u32, Stop);

/// Runs until the deployment is told to stop or its plugin fails.
pub(super) async fn supervise(broker: Arc<Broker>, deployment: Arc<Deployment>) {
    let (mut stop, mut catalog) = (deployment.stop.subscribe(), broker.store.topics_changed());
    let mut runners: JoinSet<Finished> = JoinSet::new();
    loop {
        if let Err(error) = add_runners(&broker, &deployment, &mut runners).await {
            if error.code.retryable() {
                tokio::time::sleep(broker.config.deployment.retry_delay).await;
                continue;
            }
            fail(&broker, &deployment, error.message).await;
            break;
        }
        tokio::select! {
            () = told_to_stop(&mut stop) => break,
            changed = catalog.changed() => if changed.is_err() { break },
            Some(finished) = runners.join_next() => {
                if let Some(reason) = handle(&broker, &deployment, &mut runners, finished) {
                    fail(&broker, &deployment, reason).await;
                    break;
                }
            }
        }
    }
    // Commits that were handed to the store stand; nothing new is handed over.
    runners.shutdown().await;
}

async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    stop.wait_for(|stop| *stop).await.ok();
}

/// Adds runners for the partitions that have none yet.
async fn add_runners(
    broker: &Arc<Broker>,
    deployment: &Arc<Deployment>,
    runners: &mut JoinSet<Finished>,
) -> Result<(), WireError> {
    // Compiled here, once, rather than by every runner.
    broker.compiled_digest(&deployment.record.digest).await?;
    let partitions = broker
        .topic(&deployment.record.spec.from)?
        .partitions()
        .len();
    let running = deployment.lanes.lock().len();
    for number in running..partitions {
        let lane = Arc::new(Lane::default());
        deployment.lanes.lock().push(lane.clone());
        run(
            broker,
            deployment,
            runners,
            number as u32,
            lane,
            Duration::ZERO,
        );
    }
    Ok(())
}

fn run(
    broker: &Arc<Broker>,
    deployment: &Arc<Deployment>,
    runners: &mut JoinSet<Finished>,
    number: u32,
    lane: Arc<Lane>,
    delay: Duration,
) {
    let (broker, deployment) = (broker.clone(), deployment.clone());
    runners.spawn(async move {
        tokio::time::sleep(delay).await;
        let work = broker.engine.clone().spawn(async move {
            match Runner::open(&broker, &deployment, number, lane).await {
                Ok(runner) => runner.run().await,
                Err(stop) => stop,
            }
        });
        // Dropping the guard ends the work on the plugins' threads too.
        let _guard = AbortOnDrop(work.abort_handle());
        let stop = work
            .await
            .unwrap_or_else(|error| Stop::Plugin(format!("its work was cut off: {error}")));
        (number, stop)
    });
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The reason to stop the whole deployment, if there is one.
fn handle(
    broker: &Arc<Broker>,
    deployment: &Arc<Deployment>,
    runners: &mut JoinSet<Finished>,
    finished: Result<Finished, JoinError>,
) -> Option<String> {
    let (number, stop) = match finished {
        Ok(finished) => finished,
        Err(error) => return Some(format!("its work was cut off: {error}")),
    };
    let lane = deployment.lanes.lock().get(number as usize)?.clone();
    let name = &deployment.record.spec.name;
    match stop {
        Stop::Plugin(reason) => Some(format!("partition {number}: {reason}")),
        Stop::Partition(reason) => {
            tracing::error!(
                deployment = name,
                partition = number,
                reason,
                "deployment stopped on a partition"
            );
            *lane.stopped.lock() = Some(reason);
            None
        }
        Stop::Retry(reason) => {
            tracing::warn!(
                deployment = name,
                partition = number,
                reason,
                "deployment tries again"
            );
            run(
                broker,
                deployment,
                runners,
                number,
                lane,
                broker.config.deployment.retry_delay,
            );
            None
        }
    }
}

/// Marks the deployment as stopped, for good and in the store.
async fn fail(broker: &Broker, deployment: &Deployment, reason: String) {
    let name = &deployment.record.spec.name;
    tracing::error!(deployment = name, reason, "deployment stopped");
    *deployment.stopped.lock() = Some(reason.clone());
    metrics::counter!(names::DEPLOYMENTS_FAILED).increment(1);
    let mut record = deployment.record.clone();
    record.stopped = Some(reason);
    let kept = match record.put() {
        Ok(put) => broker.change(vec![put]).await,
        Err(error) => Err(error),
    };
    if let Err(error) = kept {
        tracing::warn!(deployment = name, %error, "that the deployment is stopped was not written down");
    }
}
