//! One deployment on one partition: read, process, commit.
//!
//! Commits are pipelined: while some are on their way to the disk, the next
//! records are processed. Each commit expects the position that the one before
//! it leaves, so when one is refused, all behind it are, and the runner begins
//! again from the committed position with a new instance.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use eddy_protocol::batch::{ColumnBuf, Rows};
use eddy_protocol::{Batch, WireError};

use super::progress::Position;
use super::{Deployment, Lane, admission};
use crate::broker::fetch::{self, News};
use crate::broker::filter::columns_of;
use crate::broker::{Broker, produce, refusal};
use crate::plugin::{Instance, PluginError, Verdict};
use crate::store::{Append, Commit, CommitError, Partition, Ticket, Topic, WatchGuard};

/// Why a runner stopped.
pub(super) enum Stop {
    /// The plugin's fault: the deployment stops.
    Plugin(String),
    /// The partition can't be read or written: the others go on.
    Partition(String),
    /// Try again from the committed position.
    Retry(String),
}

/// A deployment at work on one partition.
pub(super) struct Runner {
    broker: Arc<Broker>,
    deployment: Arc<Deployment>,
    lane: Arc<Lane>,
    partition: Arc<Partition>,
    outputs: Vec<Arc<Topic>>,
    instance: Instance,
    /// Of the next record to read.
    position: u64,
    in_flight: VecDeque<InFlight>,
    news: Arc<News>,
    _watch: WatchGuard,
}

struct InFlight {
    ticket: Ticket,
    position: u64,
    records_in: u64,
    records_out: u64,
}

impl Runner {
    pub(super) async fn open(
        broker: &Arc<Broker>,
        deployment: &Arc<Deployment>,
        number: u32,
        lane: Arc<Lane>,
    ) -> Result<Runner, Stop> {
        let record = &deployment.record;
        let (_, partition) = broker.partition(&record.spec.from, number).map_err(stop)?;
        let outputs = record
            .outputs()
            .map(|(_, topic)| broker.topic(topic))
            .collect::<Result<_, _>>();
        let plugin = broker.compiled_digest(&record.digest).await.map_err(stop)?;
        let limits = broker.limits(record).map_err(stop)?;
        let context = admission::context(record, number);
        let instance = broker.engine().instantiate(&plugin, context, limits).await;
        let position = match broker.position(record, number) {
            Some(position) => position,
            None => begin(broker, deployment, number).await?,
        };
        lane.position.store(position, Ordering::Relaxed);
        let news = Arc::new(News::default());
        Ok(Runner {
            broker: broker.clone(),
            deployment: deployment.clone(),
            lane,
            outputs: outputs.map_err(stop)?,
            instance: instance.map_err(|error| Stop::Plugin(error.to_string()))?,
            position,
            in_flight: VecDeque::new(),
            _watch: news.watch(&partition),
            news,
            partition,
        })
    }

    pub(super) async fn run(mut self) -> Stop {
        loop {
            if let Err(stop) = self.turn().await {
                return stop;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Stop> {
        let room = self.in_flight.len() < self.broker.config.deployment.commits_in_flight_max;
        if room && self.advance().await? {
            return Ok(());
        }
        match self.in_flight.front_mut() {
            // Nothing to read: wait for records, and meanwhile for answers.
            Some(oldest) if room => tokio::select! {
                () = self.news.came() => Ok(()),
                answer = &mut oldest.ticket => self.settle(answer.map(drop)),
            },
            Some(oldest) => {
                let answer = (&mut oldest.ticket).await;
                self.settle(answer.map(drop))
            }
            None => {
                self.news.came().await;
                Ok(())
            }
        }
    }

    /// Processes the next records, if there are any.
    async fn advance(&mut self) -> Result<bool, Stop> {
        let batches = self.read().await?;
        let Some(next) = batches.last().map(Batch::end_offset) else {
            return Ok(false);
        };
        let columns = columns_of(&batches).map_err(|error| failed(&error))?;
        let columns = from_position(columns, self.position);
        let verdict = self
            .instance
            .process(&columns)
            .await
            .map_err(|error| self.blame(&columns, &error))?;
        let appends = self.appends(&columns, verdict)?;
        let records_out = appends
            .iter()
            .map(|append| u64::from(append.batch.count()))
            .sum();
        let commit = self.commit(appends, next);
        self.broker.room().await;
        self.in_flight.push_back(InFlight {
            ticket: self.broker.store.submit(commit),
            position: next,
            records_in: columns.len() as u64,
            records_out,
        });
        self.position = next;
        Ok(true)
    }

    // `&mut` although nothing changes: an instance can be sent between threads, not shared.
    async fn read(&mut self) -> Result<Vec<Batch>, Stop> {
        let next = self.partition.next_from(self.position);
        if self.position < next {
            let (name, missing) = (&self.deployment.record.spec.name, next - self.position);
            tracing::warn!(
                deployment = name,
                missing,
                "retention overtook the deployment, or a repair gave records up"
            );
            return self.read_from(next).await;
        }
        self.read_from(self.position).await
    }

    async fn read_from(&mut self, offset: u64) -> Result<Vec<Batch>, Stop> {
        if let Some(reason) = self.partition.stopped() {
            return Err(Stop::Partition(reason));
        }
        fetch::read(
            &self.partition,
            offset,
            self.broker.config.deployment.chunk_bytes,
        )
        .await
        .map_err(|error| {
            // Retention may have passed between the check and the read.
            if self.partition.start() > offset {
                Stop::Retry(error.message)
            } else {
                stop(error)
            }
        })
    }

    /// The verdict's records, placed on the outputs' partitions.
    fn appends(&self, columns: &ColumnBuf, verdict: Verdict) -> Result<Vec<Append>, Stop> {
        let mut appends = Vec::new();
        match verdict {
            Verdict::All => self.keep(columns, Rows::All, &mut appends)?,
            Verdict::Keep(rows) => self.keep(columns, Rows::Keep(&rows), &mut appends)?,
            Verdict::Emit(outputs) => {
                for output in &outputs {
                    self.place(
                        output.port as usize,
                        &output.records,
                        Rows::All,
                        &mut appends,
                    )?;
                }
            }
        }
        let limit = self.broker.config.batch_bytes_max;
        match appends
            .iter()
            .find(|append| append.batch.bytes().len() > limit)
        {
            Some(append) => Err(failed(&PluginError::OutputTooLarge {
                bytes: append.batch.bytes().len(),
                limit,
            })),
            None => Ok(appends),
        }
    }

    /// What is merely kept goes to the port `out`, if that is connected.
    fn keep(
        &self,
        columns: &ColumnBuf,
        rows: Rows<'_>,
        appends: &mut Vec<Append>,
    ) -> Result<(), Stop> {
        match self.deployment.record.kept_output() {
            Some(port) => self.place(port, columns, rows, appends),
            None => Ok(()),
        }
    }

    /// By key as producers do; without one, to the partition of the input's number.
    fn place(
        &self,
        port: usize,
        columns: &ColumnBuf,
        rows: Rows<'_>,
        appends: &mut Vec<Append>,
    ) -> Result<(), Stop> {
        let Some(topic) = self.outputs.get(port) else {
            return Ok(());
        };
        let partitions = topic.partitions().len() as u32;
        let is_empty = match rows {
            Rows::All => columns.is_empty(),
            Rows::Keep(rows) => rows.is_empty(),
        };
        if is_empty {
            return Ok(());
        }
        let keyless = self.partition.number() % partitions;
        for placed in produce::split(columns, rows, partitions, keyless) {
            let (partition, batch) = placed.map_err(|error| Stop::Plugin(error.to_string()))?;
            appends.push(Append {
                topic: topic.id(),
                partition,
                batch,
            });
        }
        Ok(())
    }

    fn commit(&self, appends: Vec<Append>, next: u64) -> Commit {
        let from = Position {
            record: &self.deployment.record,
            partition: self.partition.number(),
            offset: self.position,
        };
        let to = Position {
            offset: next,
            ..from
        };
        Commit {
            appends,
            changes: vec![to.put()],
            expect: vec![from.expect()],
            ..Commit::default()
        }
    }

    /// Takes the answer to the oldest commit.
    fn settle(&mut self, answer: Result<(), CommitError>) -> Result<(), Stop> {
        let Some(settled) = self.in_flight.pop_front() else {
            return Ok(());
        };
        match answer {
            Ok(()) => {
                self.lane
                    .position
                    .store(settled.position, Ordering::Relaxed);
                self.lane
                    .records_in
                    .fetch_add(settled.records_in, Ordering::Relaxed);
                self.lane
                    .records_out
                    .fetch_add(settled.records_out, Ordering::Relaxed);
                self.lane.batches.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(stop(refusal::of_commit(&error))),
        }
    }

    /// A plugin's failure, with the offset of the record that it names.
    fn blame(&self, columns: &ColumnBuf, error: &PluginError) -> Stop {
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
                Stop::Plugin(format!("the plugin failed at offset {offset}: {message}"))
            }
            error => Stop::Plugin(format!("{error} (records from offset {first} on)")),
        }
    }
}

/// The first position of a partition that came after the deployment.
async fn begin(broker: &Broker, deployment: &Deployment, number: u32) -> Result<u64, Stop> {
    let position = Position {
        record: &deployment.record,
        partition: number,
        offset: 0,
    };
    broker.change(vec![position.put()]).await.map_err(stop)?;
    Ok(0)
}

/// Without the records before `position`: a batch may begin before it.
fn from_position(columns: ColumnBuf, position: u64) -> ColumnBuf {
    let before = columns
        .offsets()
        .partition_point(|offset| *offset < position);
    if before == 0 {
        return columns;
    }
    let mut rest = ColumnBuf::default();
    for record in columns.iter().skip(before) {
        rest.push_record(&record).expect("a part of what fits fits");
    }
    rest
}

fn failed(error: &PluginError) -> Stop {
    Stop::Plugin(error.to_string())
}

fn stop(error: WireError) -> Stop {
    if error.code.retryable() {
        Stop::Retry(error.message)
    } else {
        Stop::Partition(error.message)
    }
}
