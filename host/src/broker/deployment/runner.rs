//! One deployment on one partition: read, process, commit.
//!
//! Commits are pipelined: while some are on their way to the disk, the next
//! records are processed. Each commit expects the position that the one before
//! it leaves, so when one is refused, all behind it are, and the runner begins
//! again from the committed position with a new instance. A runner never ends
//! before the store has answered for everything that it handed over.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;

use eddy_protocol::admin::LostHistory;
use eddy_protocol::batch::ColumnBuf;
use eddy_protocol::{Batch, WireError};
use metrics::{Counter, counter};
use tokio::sync::watch;

use super::outputs::Outputs;
use super::progress::InstancePosition;
use super::status::{InstanceStatus, Moved};
use super::{Deployment, admission, passes, told_to_stop};
use crate::broker::epoch::{self, StoredPosition};
use crate::broker::feed::{self, Feed, PluginCall};
use crate::broker::fetch::{self, PartitionChange};
use crate::broker::{Broker, ListenGuard, refusal};
use crate::log::{Append, Claims, Commit, CommitError, Partition, Ticket};
use crate::metrics as names;
use crate::plugin::{Instance, PluginError, Verdict};

/// Why a runner stopped, in words for who runs the deployment.
pub(super) enum RunEnd {
    /// The plugin's fault: the deployment stops.
    Plugin(String),
    /// The partition can't be read or written until somebody repairs it: the others go on.
    Partition(String),
    /// Nobody's fault that lasts: try again from the committed position.
    Retry(String),
    /// It was told to.
    Told,
}

/// A deployment at work on one partition.
pub(super) struct Runner {
    broker: Arc<Broker>,
    deployment: Arc<Deployment>,
    status: Arc<InstanceStatus>,
    partition: Arc<dyn Partition>,
    outputs: Outputs,
    instance: Instance,
    /// Of the next record to process.
    position: u64,
    /// Of the history that is read.
    epoch: u32,
    feed: Feed,
    in_flight: VecDeque<InFlight>,
    /// Records before those that were read last, which retention took before they were.
    skipped: u64,
    missed: Counter,
    /// Whether the status may show something that was in the way and is no more.
    is_troubled: bool,
    change: Arc<PartitionChange>,
    _listening: ListenGuard,
}

struct InFlight {
    ticket: Ticket,
    moves: Moved,
}

impl Runner {
    pub(super) async fn open(
        broker: &Arc<Broker>,
        deployment: &Arc<Deployment>,
        number: u32,
        status: Arc<InstanceStatus>,
    ) -> Result<Runner, RunEnd> {
        let record = &deployment.record;
        let (_, partition) = broker.partition(&record.spec.from, number).map_err(stop)?;
        if let Some(reason) = partition.stopped() {
            return Err(RunEnd::Partition(reason));
        }
        // Without a place the deployment is at its end.
        let place = status.place().ok_or(RunEnd::Told)?;
        let topics = record.outputs().map(|(_, topic)| broker.topic(topic));
        let topics = topics.collect::<Result<_, _>>().map_err(stop)?;
        let plugin = broker.compiled_digest(&record.digest).await.map_err(stop)?;
        let limits = broker.limits(record).map_err(stop)?;
        let context = admission::context(record, number);
        let instance = broker
            .engine
            .instantiate_at(&place, &plugin, context, limits)
            .await
            .map_err(|error| failed(&error, String::new()))?;
        let epoch = partition.epoch();
        let stored = match broker.position(record, number).await.map_err(stop)? {
            Some(stored) => stored,
            None => begin(broker, deployment, &*partition).await?,
        };
        let position = match stored.lost(&*partition) {
            None => stored.offset,
            Some(lost) => {
                let next = go_on_after(broker, deployment, &*partition, stored, lost).await?;
                status.lost(LostHistory {
                    position: stored.offset,
                    resumed: next,
                });
                next
            }
        };
        status.opened(position);
        let (change, listening) = broker.listen(&partition);
        Ok(Runner {
            outputs: Outputs::new(record, topics, number, broker.config.batch_bytes_max),
            feed: Feed::new(feed::call_bytes_max(
                broker.config.deployment.chunk_bytes,
                limits,
            )),
            broker: broker.clone(),
            deployment: deployment.clone(),
            status,
            instance,
            position,
            epoch,
            in_flight: VecDeque::new(),
            skipped: 0,
            missed: counter!(names::DEPLOYMENT_MISSED, "deployment" => deployment.record.spec.name.clone()),
            is_troubled: true,
            change,
            _listening: listening,
            partition,
        })
    }

    /// Until something stops it. When this returns, the store has answered for
    /// every commit and the status shows where the deployment is.
    pub(super) async fn run(mut self, mut halt: watch::Receiver<bool>) -> RunEnd {
        let stop = {
            let mut told = pin!(told_to_stop(&mut halt));
            loop {
                let turn = tokio::select! {
                    biased;
                    () = &mut told => break RunEnd::Told,
                    turn = self.turn() => turn,
                };
                if let Err(stop) = turn {
                    break stop;
                }
            }
        };
        self.drain().await;
        stop
    }

    async fn turn(&mut self) -> Result<(), RunEnd> {
        let room = self.in_flight.len() < self.broker.config.deployment.commits_in_flight_max;
        if room && self.advance().await? {
            return Ok(());
        }
        match self.in_flight.front_mut() {
            // Nothing to read: wait for records, and meanwhile for answers.
            Some(oldest) if room => tokio::select! {
                () = self.change.came() => Ok(()),
                answer = &mut oldest.ticket => self.settle(answer.map(drop)),
            },
            Some(oldest) => {
                let answer = (&mut oldest.ticket).await;
                self.settle(answer.map(drop))
            }
            None => {
                self.untroubled();
                self.change.came().await;
                Ok(())
            }
        }
    }

    /// Processes the next records, if there are any.
    async fn advance(&mut self) -> Result<bool, RunEnd> {
        if self.feed.is_empty() {
            let batches = self.read().await?;
            self.feed.extend(batches);
        }
        let call = self.feed.next(self.position).map_err(|error| {
            let offset = self.position;
            RunEnd::Partition(format!("the records from offset {offset} on: {error}"))
        })?;
        let Some(PluginCall { columns, next }) = call else {
            return Ok(false);
        };
        let verdict = match columns.is_empty() {
            true => Verdict::Keep(Vec::new()),
            false => self
                .instance
                .process(&columns)
                .await
                .map_err(|error| self.blame(&columns, &error))?,
        };
        let appends = self
            .outputs
            .place(&columns, verdict)
            .map_err(|error| RunEnd::Plugin(error.to_string()))?;
        let records_out = appends
            .iter()
            .map(|append| u64::from(append.batch.count()))
            .sum();
        let commit = self.commit(appends, next);
        self.broker.room().await;
        self.in_flight.push_back(InFlight {
            ticket: self.broker.log.submit(commit),
            moves: Moved {
                position: next,
                records_in: columns.len() as u64,
                records_out,
                missed: std::mem::take(&mut self.skipped),
            },
        });
        self.position = next;
        Ok(true)
    }

    // `&mut` although little changes: an instance can be sent between threads, not shared.
    async fn read(&mut self) -> Result<Vec<Batch>, RunEnd> {
        if let Some(reason) = self.partition.stopped() {
            return Err(RunEnd::Partition(reason));
        }
        let from = self.partition.next_from(self.position);
        let bytes_max = self.broker.config.deployment.chunk_bytes;
        let batches = fetch::read(&self.partition, from, bytes_max)
            .await
            .map_err(|error| {
                // Retention may have passed between the check and the read.
                if self.partition.start() > from {
                    RunEnd::Retry(error.message)
                } else {
                    stop(error)
                }
            })?;
        if self.partition.epoch() != self.epoch {
            return Err(RunEnd::Retry("its history has changed".to_owned()));
        }
        if !batches.is_empty() {
            self.skipped = from - self.position;
        }
        Ok(batches)
    }

    /// A commit is durable.
    fn moved(&self, moved: Moved) {
        self.status.moved(moved);
        let missing = moved.missed;
        if missing == 0 {
            return;
        }
        let name = &self.deployment.record.spec.name;
        tracing::warn!(
            deployment = name,
            partition = self.partition.number(),
            missing,
            "retention overtook the deployment, or a repair gave records up"
        );
        self.missed.increment(missing);
    }

    fn commit(&self, appends: Vec<Append>, next: u64) -> Commit {
        let at = |offset| InstancePosition {
            record: &self.deployment.record,
            partition: self.partition.number(),
            stored: StoredPosition {
                offset,
                epoch: Some(self.epoch),
            },
        };
        let (from, to) = (at(self.position), at(next));
        Commit {
            appends,
            changes: vec![to.put()],
            expect: vec![from.expect()],
            // Its input was let in; to refuse its outputs would stop it for good.
            claims: Claims::Mended,
            ..Commit::default()
        }
    }

    /// Takes the answer to the oldest commit.
    fn settle(&mut self, answer: Result<(), CommitError>) -> Result<(), RunEnd> {
        let Some(settled) = self.in_flight.pop_front() else {
            return Ok(());
        };
        answer.map_err(|error| stop(refusal::of_commit(&error)))?;
        self.moved(settled.moves);
        self.untroubled();
        Ok(())
    }

    /// Waits for the answers to all commits. Those behind one that was refused
    /// are refused too, because they expect its position.
    async fn drain(&mut self) {
        while let Some(mut oldest) = self.in_flight.pop_front() {
            if (&mut oldest.ticket).await.is_ok() {
                self.moved(oldest.moves);
            }
        }
    }

    fn untroubled(&mut self) {
        if std::mem::take(&mut self.is_troubled) {
            self.status.clear();
        }
    }

    /// A plugin's failure, with the offset of the record that it names.
    fn blame(&self, columns: &ColumnBuf, error: &PluginError) -> RunEnd {
        let first = columns.offsets().first().copied().unwrap_or(self.position);
        match error {
            PluginError::Failed {
                row: Some(row),
                message,
            } => {
                let offset = columns
                    .offsets()
                    .get(*row as usize)
                    .copied()
                    .unwrap_or(first);
                RunEnd::Plugin(format!("the plugin failed at offset {offset}: {message}"))
            }
            error => failed(error, format!(" (records from offset {first} on)")),
        }
    }
}

/// The first position of a partition that came after the deployment. Refused
/// where there is one already, and where the deployment is another one by now.
async fn begin(
    broker: &Broker,
    deployment: &Deployment,
    partition: &dyn Partition,
) -> Result<StoredPosition, RunEnd> {
    let stored = StoredPosition {
        offset: 0,
        epoch: Some(partition.epoch()),
    };
    let position = InstancePosition {
        record: &deployment.record,
        partition: partition.number(),
        stored,
    };
    let commit = Commit {
        changes: vec![position.put()],
        expect: vec![
            position.expect_none(),
            deployment.record.expect().map_err(stop)?,
        ],
        ..Commit::default()
    };
    let begun = broker.log.commit(commit).await;
    begun.map_err(|error| stop(refusal::of_commit(&error)))?;
    Ok(stored)
}

/// Moves the deployment to where the history that it knows ends: from there on it has read nothing
/// of what is in the partition now.
async fn go_on_after(
    broker: &Broker,
    deployment: &Deployment,
    partition: &dyn Partition,
    stored: StoredPosition,
    lost: epoch::LostHistory,
) -> Result<u64, RunEnd> {
    let record = &deployment.record;
    let from = InstancePosition {
        record,
        partition: partition.number(),
        stored,
    };
    let next = StoredPosition {
        offset: lost.next(),
        epoch: Some(partition.epoch()),
    };
    let commit = Commit {
        changes: vec![
            InstancePosition {
                stored: next,
                ..from
            }
            .put(),
        ],
        expect: vec![from.expect()],
        ..Commit::default()
    };
    let moved = broker.log.commit(commit).await;
    moved.map_err(|error| stop(refusal::of_commit(&error)))?;
    tracing::warn!(
        deployment = record.spec.name,
        partition = partition.number(),
        position = stored.offset,
        next = next.offset,
        "the partition has lost history before the deployment's position: {lost}"
    );
    Ok(next.offset)
}

/// What a plugin's error comes to: the engine's own troubles are not the plugin's.
fn failed(error: &PluginError, place: String) -> RunEnd {
    let reason = format!("{error}{place}");
    match error {
        error if error.is_the_plugins() => RunEnd::Plugin(reason),
        _ => RunEnd::Retry(reason),
    }
}

fn stop(error: WireError) -> RunEnd {
    if passes(&error) {
        RunEnd::Retry(error.message)
    } else {
        RunEnd::Partition(error.message)
    }
}
