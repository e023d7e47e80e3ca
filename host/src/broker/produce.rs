//! Produce: batches checked, placed and handed to the store in the order they came.

mod placement;

use std::future::Future;

use eddy_protocol::batch::{ColumnBuf, OffsetMode, Rows};
use eddy_protocol::frame::{self, OpenProducer, Produce, Produced, Producer};
use eddy_protocol::{Batch, BatchError, Compression, ErrorCode, WireError, partitioner};

use super::{Broker, refusal};
use crate::store::{Append, Commit, Ticket, Topic};
pub use placement::{Placed, PlacedRecord, Placement};

/// A producer's name has at most this many bytes.
const PRODUCER_NAME_BYTES_MAX: usize = 255;

/// A commit that the store has, in its place in the order; its answer comes
/// when it is durable.
pub struct PendingCommit {
    ticket: Ticket,
    placed: Vec<(u32, u32)>,
}

/// A [`PendingCommit`] of one batch.
pub struct PendingProduce(PendingCommit);

impl PendingProduce {
    /// Where the batch went, once that is durable.
    pub async fn answer(self) -> Result<Produced, WireError> {
        let produced = self.0.answer().await?;
        produced
            .first()
            .copied()
            .ok_or_else(|| ErrorCode::Internal.because("a commit of nothing was produced"))
    }
}

impl PendingCommit {
    /// Where each batch went, once all are durable.
    pub async fn answer(self) -> Result<Vec<Produced>, WireError> {
        let committed = self
            .ticket
            .await
            .map_err(|error| refusal::of_commit(&error))?;
        let placed = committed.appends.iter().zip(self.placed);
        Ok(placed
            .map(|(appended, (partition, count))| Produced {
                partition,
                offset: appended.offset,
                count,
                duplicate: appended.duplicate,
            })
            .collect())
    }
}

impl Broker {
    /// Waits while the store has as much to do as it takes on.
    pub fn room(&self) -> impl Future<Output = ()> + Send + use<> {
        let store = self.store.clone();
        async move { store.room().await }
    }

    /// Whether [`Broker::room`] would return at once.
    pub fn has_room(&self) -> bool {
        self.store.has_room()
    }

    /// A producer's identity: a new one, or the next epoch of a named one.
    pub async fn open_producer(&self, request: OpenProducer) -> Result<Producer, WireError> {
        if let Some(name) = &request.name
            && (name.is_empty() || name.len() > PRODUCER_NAME_BYTES_MAX)
        {
            return Err(ErrorCode::InvalidName.because(format!(
                "a producer's name has 1 to {PRODUCER_NAME_BYTES_MAX} bytes, this one has {}",
                name.len()
            )));
        }
        let opened = self.store.open_producer(request.name.as_deref()).await;
        let identity = opened.map_err(|error| refusal::of_commit(&error))?;
        Ok(Producer {
            id: identity.id,
            epoch: identity.epoch,
        })
    }

    /// Appends one batch. The order of calls is the order in the log.
    pub fn produce(&self, request: Produce) -> Result<PendingProduce, WireError> {
        self.submit(Commit {
            appends: self.placed(request)?,
            ..Commit::default()
        })
        .map(PendingProduce)
    }

    /// Appends batches and moves a group's cursors, all or nothing.
    pub fn commit(&self, request: frame::Commit) -> Result<PendingCommit, WireError> {
        let mut commit = Commit::default();
        for produce in request.appends {
            commit.appends.extend(self.placed(produce)?);
        }
        match (&request.group, request.cursors.as_slice()) {
            (None, []) => {}
            (None, _) => {
                return Err(
                    ErrorCode::InvalidArgument.because("a commit with cursors needs a `group`")
                );
            }
            (Some(group), cursors) => commit.changes = self.move_cursors(group, cursors)?,
        }
        self.submit(commit)
    }

    /// Appends records that the broker places, all or nothing.
    pub fn produce_placed(&self, Placed(appends): Placed) -> Result<PendingCommit, WireError> {
        self.submit(Commit {
            appends,
            ..Commit::default()
        })
    }

    /// Puts records of one commit in their places, for [`Broker::produce_placed`].
    pub fn placement(&self, topic: &eddy_protocol::TopicName) -> Result<Placement, WireError> {
        let topic = self.topic(topic)?;
        let keyless = self.next_spread(topic.partitions().len() as u32);
        Ok(Placement::new(topic, keyless, self.config.batch_bytes_max))
    }

    fn submit(&self, commit: Commit) -> Result<PendingCommit, WireError> {
        if commit.appends.is_empty() && commit.changes.is_empty() {
            return Err(ErrorCode::InvalidArgument.because("there is nothing to commit"));
        }
        let placed = commit
            .appends
            .iter()
            .map(|append| (append.partition, append.batch.count()))
            .collect();
        Ok(PendingCommit {
            ticket: self.store.submit(commit),
            placed,
        })
    }

    /// The appends of one request: its batch as it is, or its records placed.
    fn placed(&self, request: Produce) -> Result<Vec<Append>, WireError> {
        let topic = self.topic(&request.topic)?;
        let batch = Batch::parse(request.batch.0).map_err(corrupt)?;
        self.check_size(&batch)?;
        if batch.is_sparse() {
            return Err(ErrorCode::CorruptBatch
                .because("the batch has a column of offsets; those are the broker's to give"));
        }
        let partitions = topic.partitions().len();
        match request.partition {
            Some(number) if (number as usize) < partitions => Ok(vec![Append {
                topic: topic.id(),
                partition: number,
                batch,
            }]),
            Some(number) => Err(refusal::unknown_partition(
                &request.topic,
                number,
                partitions,
            )),
            None if batch.producer().is_some() => Err(ErrorCode::InvalidArgument.because(format!(
                "a batch with a producer's stamp must name its partition of topic `{}`",
                request.topic
            ))),
            None => self.place(&topic, batch),
        }
    }

    fn place(&self, topic: &Topic, batch: Batch) -> Result<Vec<Append>, WireError> {
        let partitions = topic.partitions().len() as u32;
        if partitions == 1 {
            return Ok(vec![Append {
                topic: topic.id(),
                partition: 0,
                batch,
            }]);
        }
        let mut columns = ColumnBuf::default();
        columns.extend_from(&batch).map_err(corrupt)?;
        let keyless = self.next_spread(partitions);
        split(&columns, Rows::All, partitions, keyless)
            .map(|placed| {
                placed.map(|(partition, batch)| Append {
                    topic: topic.id(),
                    partition,
                    batch,
                })
            })
            .collect::<Result<_, _>>()
            .map_err(corrupt)
    }

    fn next_spread(&self, partitions: u32) -> u32 {
        let turn = self
            .spread
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (turn % u64::from(partitions)) as u32
    }

    fn check_size(&self, batch: &Batch) -> Result<(), WireError> {
        let limit = self.config.batch_bytes_max;
        let bytes = batch.bytes().len().max(batch.raw_len());
        if bytes <= limit {
            return Ok(());
        }
        Err(ErrorCode::BatchTooLarge.because(format!(
            "the batch has {bytes} bytes (expanded), the limit is {limit} (`broker.batch_bytes_max`)"
        )))
    }
}

/// Rows of `columns`, by key as Kafka's default partitioner places them and to
/// `keyless` without one: a batch for each partition that gets any.
pub(super) fn split<'a>(
    columns: &'a ColumnBuf,
    rows: Rows<'a>,
    partitions: u32,
    keyless: u32,
) -> impl Iterator<Item = Result<(u32, Batch), BatchError>> + 'a {
    let mut by_partition: Vec<Vec<u32>> = vec![Vec::new(); partitions as usize];
    let mut place = |row: u32| {
        let key = columns.record(row as usize).and_then(|record| record.key);
        let number = key.map_or(keyless, |key| {
            partitioner::partition_for_key(key, partitions)
        });
        by_partition[number as usize].push(row);
    };
    match rows {
        // With one partition there is nothing to look up.
        _ if partitions == 1 => {}
        Rows::All => (0..columns.len() as u32).for_each(&mut place),
        Rows::Keep(rows) => rows.iter().copied().for_each(&mut place),
    }
    let whole = (partitions == 1).then(|| encode(columns, rows).map(|batch| (0, batch)));
    let filled = by_partition
        .into_iter()
        .zip(0..)
        .filter(|(rows, _)| !rows.is_empty());
    let parts = filled.map(move |(rows, number)| Ok((number, encode(columns, Rows::Keep(&rows))?)));
    whole.into_iter().chain(parts)
}

fn encode(columns: &ColumnBuf, rows: Rows<'_>) -> Result<Batch, BatchError> {
    columns.encode(rows, OffsetMode::Dense, Compression::None, None)
}

fn corrupt(error: BatchError) -> WireError {
    ErrorCode::CorruptBatch.because(error.to_string())
}
