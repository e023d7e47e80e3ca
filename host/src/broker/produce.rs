//! Produce: batches checked, placed and handed to the store in the order they came.

mod placement;

use std::future::Future;
use std::sync::Arc;

use eddy_protocol::batch::{
    self, Attributes, Batches, ColumnBuf, OffsetMode, ProducerStamp, Rows, SEQUENCES,
};
use eddy_protocol::frame::{self, OpenProducer, Produce, Produced, Producer};
use eddy_protocol::{Batch, BatchError, Compression, ErrorCode, WireError, partitioner};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::{JoinHandle, block_in_place};

use super::{Broker, refusal};
use crate::log::{Append, Commit, Committed, Ticket, Topic};
pub use placement::{PlacedRecord, PlacedRecords, Placement};

/// Batches that expand to more than this are not checked at the expense of other connections.
const INLINE_BYTES_MAX: usize = 1 << 20;

/// A producer's name has at most this many bytes.
const PRODUCER_NAME_BYTES_MAX: usize = 255;

/// A commit that the store has, in its place in the order; its answer comes
/// when it is durable.
pub struct PendingCommit {
    outcome: Outcome,
    placed: Vec<(u32, u32)>,
}

/// Where the store's answer comes from.
enum Outcome {
    Store(Ticket),
    /// A task that takes note of what became of a group's commit, whoever waits for it.
    Group(JoinHandle<Result<Committed, WireError>>),
}

/// A [`PendingCommit`] of one batch, which may have been placed on several partitions.
pub struct PendingProduce {
    commit: PendingCommit,
    /// Which of its appends begins with the first record.
    first: usize,
}

impl PendingProduce {
    /// Where the first record went and how many there were, once all are durable.
    pub async fn answer(self) -> Result<Produced, WireError> {
        let produced = self.commit.answer().await?;
        let count = produced.iter().map(|batch| batch.count).sum();
        let first = produced.get(self.first);
        first
            .map(|first| Produced { count, ..*first })
            .ok_or_else(|| ErrorCode::Internal.because("a commit of nothing was produced"))
    }
}

impl PendingCommit {
    /// Where each batch went, once all are durable.
    pub async fn answer(self) -> Result<Vec<Produced>, WireError> {
        let committed = match self.outcome {
            Outcome::Store(ticket) => ticket.await.map_err(|error| refusal::of_commit(&error)),
            Outcome::Group(task) => task
                .await
                .unwrap_or_else(|error| Err(refusal::of_join(&error))),
        }?;
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
        let log = self.log.clone();
        async move {
            if !log.has_room() {
                log.room().await;
            }
        }
    }

    /// Whether [`Broker::room`] would return at once.
    pub fn has_room(&self) -> bool {
        self.log.has_room()
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
        let opened = match (request.name.as_deref(), request.current) {
            (Some(_), Some(_)) => {
                return Err(ErrorCode::Inconsistent.because(
                    "`current` is for a producer without a `name`: the name says which identity it is",
                ));
            }
            (None, Some(Producer { id, epoch })) => {
                let current = crate::log::Producer { id, epoch };
                self.log.next_epoch(current).await
            }
            (name, None) => self.log.open_producer(name).await,
        };
        let identity = opened.map_err(|error| refusal::of_commit(&error))?;
        Ok(Producer {
            id: identity.id,
            epoch: identity.epoch,
        })
    }

    /// Appends one batch. The order of calls is the order in the log.
    pub fn produce(&self, request: Produce) -> Result<PendingProduce, WireError> {
        let topic = self.topic(&request.topic)?;
        let bytes = expanded_len(&request.batch)?;
        let (appends, first) = without_delay_for_others(bytes, || {
            let batch = self.checked(request.batch)?;
            match request.partition {
                Some(number) => Ok((vec![append(&topic, number, batch)?], 0)),
                None => self.place(&topic, batch),
            }
        })?;
        let commit = self.submit(Commit {
            appends,
            ..Commit::default()
        })?;
        Ok(PendingProduce { commit, first })
    }

    /// Appends batches and moves a group's cursors, all or nothing.
    pub fn commit(self: &Arc<Self>, request: frame::Commit) -> Result<PendingCommit, WireError> {
        let bytes = self.check_total(&request.appends)?;
        let mut commit = without_delay_for_others(bytes, || {
            let appends = request.appends.into_iter();
            let appends = appends.map(|produce| self.named(produce));
            Ok::<_, WireError>(Commit {
                appends: appends.collect::<Result<_, _>>()?,
                ..Commit::default()
            })
        })?;
        let Some(group) = request.group else {
            if !request.cursors.is_empty() {
                return Err(
                    ErrorCode::InvalidArgument.because("a commit with cursors needs a `group`")
                );
            }
            return self.submit(commit);
        };
        let moves = self.move_cursors(&group, request.cursors, &mut commit)?;
        let (ticket, placed) = self.hand_over(commit)?;
        let broker = self.clone();
        let task = tokio::spawn(async move {
            let committed = ticket.await;
            broker.settle_group(&moves, committed.is_ok());
            committed.map_err(|error| moves.refusal(&error))
        });
        Ok(PendingCommit {
            outcome: Outcome::Group(task),
            placed,
        })
    }

    /// The append of a batch that must name its partition.
    fn named(&self, produce: Produce) -> Result<Append, WireError> {
        let topic = self.topic(&produce.topic)?;
        let number = produce.partition.ok_or_else(|| {
            ErrorCode::InvalidArgument.because(format!(
                "each batch of a commit must name its partition; one for topic `{}` does not",
                produce.topic
            ))
        })?;
        append(&topic, number, self.checked(produce.batch)?)
    }

    /// Appends records that the broker places, all or nothing.
    pub fn produce_placed(
        &self,
        PlacedRecords(appends): PlacedRecords,
    ) -> Result<PendingCommit, WireError> {
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
        let (ticket, placed) = self.hand_over(commit)?;
        Ok(PendingCommit {
            outcome: Outcome::Store(ticket),
            placed,
        })
    }

    /// Gives a commit to the store; also says where each of its batches goes and how many records
    /// it has.
    fn hand_over(&self, commit: Commit) -> Result<(Ticket, Vec<(u32, u32)>), WireError> {
        if commit.appends.is_empty() && commit.changes.is_empty() {
            return Err(ErrorCode::InvalidArgument.because("there is nothing to commit"));
        }
        let placed = commit
            .appends
            .iter()
            .map(|append| (append.partition, append.batch.count()))
            .collect();
        Ok((self.log.submit(commit), placed))
    }

    /// The one batch of a request, everything about it checked: first what its
    /// header promises, so that nothing is expanded that is too large.
    fn checked(&self, batch: Batches) -> Result<Batch, WireError> {
        let limit = self.config.batch_bytes_max;
        let bytes = expanded_len(&batch)?;
        if bytes > limit {
            return Err(ErrorCode::BatchTooLarge.because(format!(
                "the batch has {bytes} bytes (expanded), the limit is {limit} (`broker.batch_bytes_max`)"
            )));
        }
        let batch = batch.single().map_err(corrupt)?;
        refuse_attributes(batch.header().attributes())?;
        refuse_sequence(batch.producer())?;
        if batch.is_sparse() {
            return Err(ErrorCode::CorruptBatch
                .because("the batch has a column of offsets; those are the broker's to give"));
        }
        Ok(batch)
    }

    /// What the batches of a commit expand to; refused where that is too much
    /// for one, before any is expanded.
    fn check_total(&self, appends: &[Produce]) -> Result<usize, WireError> {
        let limit = self.log.commit_bytes_max();
        let mut total = 0;
        for produce in appends {
            total += expanded_len(&produce.batch)?;
            if total as u64 > limit {
                return Err(ErrorCode::BatchTooLarge.because(format!(
                    "the commit has {total} bytes (expanded) or more, the limit is {limit} (`store.commit_bytes_max`)"
                )));
            }
        }
        Ok(total)
    }

    /// The records of a batch by partition, and which append begins with the first of them.
    fn place(&self, topic: &Topic, batch: Batch) -> Result<(Vec<Append>, usize), WireError> {
        if batch.producer().is_some() {
            return Err(ErrorCode::InvalidArgument.because(format!(
                "a batch with a producer's stamp must name its partition of topic `{}`",
                topic.name()
            )));
        }
        let partitions = topic.partitions().len() as u32;
        if partitions == 1 {
            return Ok((vec![append(topic, 0, batch)?], 0));
        }
        let mut columns = ColumnBuf::default();
        columns.extend_from(&batch).map_err(corrupt)?;
        let keyless = self.next_spread(partitions);
        let appends = split(&columns, Rows::All, partitions, keyless)
            .map(|placed| {
                placed.map(|(partition, batch)| Append {
                    topic: topic.id(),
                    partition,
                    batch,
                })
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(corrupt)?;
        let first = partition_of(&columns, 0, partitions, keyless);
        let is_first = |append: &Append| append.partition == first;
        let first = appends.iter().position(is_first).unwrap_or_default();
        Ok((appends, first))
    }

    fn next_spread(&self, partitions: u32) -> u32 {
        let turn = self
            .spread
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        (turn % u64::from(partitions)) as u32
    }
}

/// The broker sets them where they are true.
fn refuse_attributes(attributes: Attributes) -> Result<(), WireError> {
    let set = [
        (attributes.append_time, "has timestamps of append"),
        (attributes.transactional, "is part of a transaction"),
        (attributes.control, "holds markers of transactions"),
    ];
    match set.into_iter().find(|(is_set, _)| *is_set) {
        Some((_, what)) => Err(ErrorCode::InvalidArgument.because(format!(
            "the batch says that it {what}; that is the broker's to say"
        ))),
        None => Ok(()),
    }
}

/// Two batches whose sequences agree modulo [`SEQUENCES`] would pass for one.
fn refuse_sequence(stamp: Option<ProducerStamp>) -> Result<(), WireError> {
    match stamp.filter(|stamp| stamp.sequence >= SEQUENCES) {
        Some(ProducerStamp { sequence, .. }) => Err(ErrorCode::InvalidArgument.because(format!(
            "the batch has the sequence {sequence}, the greatest is {}, and after it comes 0",
            SEQUENCES - 1
        ))),
        None => Ok(()),
    }
}

fn append(topic: &Topic, partition: u32, batch: Batch) -> Result<Append, WireError> {
    let partitions = topic.partitions().len();
    if partition as usize >= partitions {
        return Err(refusal::unknown_partition(
            topic.name(),
            partition,
            partitions,
        ));
    }
    Ok(Append {
        topic: topic.id(),
        partition,
        batch,
    })
}

/// Works on `bytes` bytes here, because the order of appends is the order of
/// calls; where that takes long, another thread serves the sockets meanwhile.
fn without_delay_for_others<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    if bytes <= INLINE_BYTES_MAX {
        return work();
    }
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}

/// What a batch takes once its records are read, as its header says.
fn expanded_len(batch: &Batches) -> Result<usize, WireError> {
    let header = batch::peek(&batch.0).map_err(corrupt)?;
    Ok(header.expanded_len())
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
        let number = partition_of(columns, row, partitions, keyless);
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

fn partition_of(columns: &ColumnBuf, row: u32, partitions: u32, keyless: u32) -> u32 {
    let key = columns.record(row as usize).and_then(|record| record.key);
    key.map_or(keyless, |key| {
        partitioner::partition_for_key(key, partitions)
    })
}

fn encode(columns: &ColumnBuf, rows: Rows<'_>) -> Result<Batch, BatchError> {
    columns.encode(rows, OffsetMode::Dense, Compression::None, None)
}

fn corrupt(error: BatchError) -> WireError {
    ErrorCode::CorruptBatch.because(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_beyond_the_greatest_is_refused_and_not_taken_for_another() {
        let stamp = |sequence| {
            Some(ProducerStamp {
                id: 1,
                epoch: 0,
                sequence,
            })
        };
        assert_eq!(refuse_sequence(None), Ok(()));
        assert_eq!(refuse_sequence(stamp(SEQUENCES - 1)), Ok(()));
        for sequence in [SEQUENCES, u32::MAX] {
            let error = refuse_sequence(stamp(sequence)).expect_err("it is too great");
            assert_eq!(error.code, ErrorCode::InvalidArgument);
            assert!(error.message.contains("2147483647"), "{error}");
        }
    }
}
