//! What can go wrong, one small enum for each thing that a caller asks for.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use eddy_protocol::TopicName;

use super::id::{Table, TopicId};
use super::timestamp::{Outside, Side};

/// Why a commit was refused. Nothing of it happened, unless it says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// No topic has this id (any more).
    #[error("there is no topic with id {0}")]
    UnknownTopic(TopicId),
    /// The topic has fewer partitions.
    #[error("topic `{topic}` has {partitions} partitions, {partition} was asked for")]
    UnknownPartition {
        /// The topic.
        topic: TopicName,
        /// What was asked for.
        partition: u32,
        /// How many there are.
        partitions: u32,
    },
    /// A topic of this name is there already.
    #[error("topic `{0}` exists already")]
    TopicExists(TopicName),
    /// The number of partitions cannot be what was asked for.
    #[error("topic `{topic}` has {partitions} partitions and cannot have {asked}")]
    InvalidPartitions {
        /// The topic.
        topic: TopicName,
        /// How many there are (0: it is new).
        partitions: u32,
        /// What was asked for.
        asked: u32,
    },
    /// The partition is stopped.
    #[error("partition {partition} of topic `{topic}` is stopped: {reason}")]
    Stopped {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
        /// Why.
        reason: String,
    },
    /// Another node has taken the partition over. Worth trying again, once what the commit rests on
    /// was read anew.
    #[error("another node has taken over partition {partition} of topic `{topic}`")]
    TakenOver {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
    },
    /// The partition is not stopped.
    #[error("partition {partition} of topic `{topic}` has nothing to repair: it is not stopped")]
    NothingToRepair {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: u32,
    },
    /// A value that the commit rests on is another one by now.
    #[error("a value of table {table:?} changed meanwhile")]
    Conflict {
        /// The table.
        table: Table,
        /// The key.
        key: Bytes,
        /// Its value.
        found: Option<Bytes>,
    },
    /// A newer epoch of this producer is at work.
    #[error("producer {id} is at epoch {current}, the batch has epoch {epoch}")]
    Fenced {
        /// The producer.
        id: u64,
        /// The batch's.
        epoch: u16,
        /// The newest.
        current: u16,
    },
    /// A batch is missing before this one.
    #[error("producer {id} should go on with sequence {expected}, the batch has {sequence}")]
    OutOfOrder {
        /// The producer.
        id: u64,
        /// What must come next.
        expected: u32,
        /// What came.
        sequence: u32,
    },
    /// A producer sends to too many partitions.
    #[error(
        "producer {id} can't send to another partition: {most} are remembered, which is the limit (`{setting}`)"
    )]
    TooManyWindows {
        /// The producer.
        id: u64,
        /// How many are remembered at most: of it, or of all producers together.
        most: usize,
        /// The setting that says so.
        setting: &'static str,
    },
    /// The producer's id was never handed out, or was idle for too long.
    #[error("producer {0} is not known (any more)")]
    UnknownProducer(u64),
    /// A record's timestamp lies further from the broker's clock than its topic allows.
    #[error(
        "a record for topic `{topic}` has the timestamp {timestamp}, which is more than {limit_ms} ms {} of the broker's clock: the topic allows no more (`timestamp_{}_ms`)",
        side.word(), side.word()
    )]
    Timestamp {
        /// The topic.
        topic: TopicName,
        /// The timestamp, milliseconds since 1970 UTC.
        timestamp: i64,
        /// What the topic allows.
        limit_ms: u64,
        /// On which side of the clock.
        side: Side,
    },
    /// A part of the commit is larger than the journal takes.
    #[error("the commit has {bytes} bytes, the limit is {bytes_max}")]
    TooLarge {
        /// What it has.
        bytes: u64,
        /// What is allowed.
        bytes_max: u64,
    },
    /// There is no room on the disk. Worth trying again.
    #[error("the disk is full")]
    DiskFull,
    /// Too much waits for segments that cannot be written for the moment. Worth
    /// trying again.
    #[error(
        "segments cannot be written now, and {bytes_max} bytes wait for that, which is the limit (store.unapplied_bytes_max)"
    )]
    Behind {
        /// How much may wait.
        bytes_max: u64,
    },
    /// No checkpoint can be made for the moment, and the journal is as large as it
    /// may be. Worth trying again.
    #[error(
        "no checkpoint can be made now, and the journal has {bytes_max} bytes, which is the limit (8 times store.checkpoint_bytes)"
    )]
    JournalFull {
        /// How much it may have.
        bytes_max: u64,
    },
    /// The storage failed. The commit may or may not be found after a restart.
    #[error("the storage failed: {0}")]
    StorageFailed(Arc<str>),
    /// A table could not be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// What a repair must look at could not be read now. Worth trying again.
    #[error("{0}")]
    Unreadable(String),
    /// The store was closed before. Nothing of the commit happened, unless the
    /// store was dropped without being closed, which is a crash.
    #[error("the store is closed")]
    Closed,
}

impl CommitError {
    pub(crate) fn outside(topic: &TopicName, outside: Outside) -> CommitError {
        CommitError::Timestamp {
            topic: topic.clone(),
            timestamp: outside.timestamp,
            limit_ms: outside.limit_ms,
            side: outside.side,
        }
    }
}

/// Why a read gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The offset is older than the oldest record.
    #[error("the oldest offset is {start}")]
    BelowStart {
        /// The oldest offset.
        start: u64,
    },
    /// The offset is beyond the partition's end.
    #[error("the partition ends at offset {end}")]
    BeyondEnd {
        /// The offset that the next record will get.
        end: u64,
    },
    /// The partition is stopped.
    #[error("the partition is stopped: {0}")]
    Stopped(Arc<str>),
    /// The system could not read; another try may succeed.
    #[error("cannot read {path}: {reason}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
}

/// Why a table could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// What is stored is not what was written.
    #[error("the key-value tables are damaged: {0}")]
    Damaged(String),
    /// The system could not read; another try may succeed.
    #[error("cannot read the key-value tables: {reason}")]
    Io {
        /// What kind of error it was.
        kind: io::ErrorKind,
        /// What the system said.
        reason: String,
    },
}

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Everything works.
    Ok,
    /// Commits are refused until there is room; reads work.
    DiskFull,
    /// Commits are refused until what is tried again and again works, for this reason; reads work.
    Behind(Arc<str>),
    /// Commits are refused until the broker is restarted; reads work.
    Failed(Arc<str>),
}
