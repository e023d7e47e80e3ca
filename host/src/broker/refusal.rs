//! From the engines' errors to the public table: the one place where a store's
//! or a plugin's error gets its code.

use eddy_protocol::{ErrorCode, TopicName, WireError};
use tokio::task::JoinError;

use crate::log::{CommitError, Partition, ReadError, TableError};
use crate::metrics as names;
use crate::plugin::PluginError;

/// The answer for a name that no topic has.
pub(super) fn unknown_topic(topic: &TopicName) -> WireError {
    ErrorCode::UnknownTopic.because(format!("no topic `{topic}`"))
}

/// The answer for a partition that a topic does not have.
pub(super) fn unknown_partition(topic: &TopicName, asked: u32, partitions: usize) -> WireError {
    ErrorCode::UnknownPartition.because(format!(
        "topic `{topic}` has {partitions} partitions, {asked} was asked for (they count from 0)"
    ))
}

/// The answer to a commit that the store refused.
pub(super) fn of_commit(error: &CommitError) -> WireError {
    let code = match error {
        CommitError::Fenced { .. } => ErrorCode::FencedProducer,
        CommitError::OutOfOrder { .. } => ErrorCode::OutOfOrderSequence,
        CommitError::UnknownProducer { .. } => ErrorCode::UnknownProducer,
        CommitError::DiskFull => ErrorCode::DiskFull,
        CommitError::Behind { .. } | CommitError::JournalFull { .. } => ErrorCode::TooMany,
        CommitError::Conflict { .. } | CommitError::TakenOver { .. } => ErrorCode::Conflict,
        CommitError::TopicExists { .. } => ErrorCode::TopicExists,
        CommitError::UnknownTopic { .. } => ErrorCode::UnknownTopic,
        CommitError::UnknownPartition { .. } => ErrorCode::UnknownPartition,
        CommitError::Stopped { .. } => ErrorCode::PartitionStopped,
        CommitError::InvalidPartitions { .. } => ErrorCode::InvalidArgument,
        CommitError::NothingToRepair { .. } => ErrorCode::Inconsistent,
        CommitError::TooManyWindows { .. } => ErrorCode::TooMany,
        CommitError::Timestamp { .. } => ErrorCode::InvalidArgument,
        CommitError::TooLarge { .. } => ErrorCode::BatchTooLarge,
        CommitError::Closed => ErrorCode::ShuttingDown,
        CommitError::Unreadable(_) => ErrorCode::ReadFailed,
        CommitError::StorageFailed(_) | CommitError::Table(_) => ErrorCode::StorageFailed,
    };
    metrics::counter!(names::COMMITS_REFUSED, "code" => code.name()).increment(1);
    code.because(error.to_string())
}

/// The answer to a read at `asked` that the store refused.
pub(super) fn of_read(partition: &dyn Partition, asked: u64, error: &ReadError) -> WireError {
    let (number, topic) = (partition.number(), partition.topic_name());
    match error {
        ReadError::BelowStart { start } => ErrorCode::OffsetOutOfRange.because(format!(
            "partition {number} of topic `{topic}` begins at offset {start}, {asked} was asked for"
        )),
        ReadError::BeyondEnd { end } => ErrorCode::OffsetOutOfRange.because(format!(
            "partition {number} of topic `{topic}` ends at offset {end}, {asked} was asked for"
        )),
        ReadError::Stopped(reason) => stopped(partition, reason),
        ReadError::Io { .. } => ErrorCode::ReadFailed.because(error.to_string()),
    }
}

/// The answer where a partition serves nothing: it is stopped, or gone with its topic.
pub(super) fn stopped(partition: &dyn Partition, reason: &str) -> WireError {
    if partition.is_deleted() {
        return unknown_topic(partition.topic_name());
    }
    ErrorCode::PartitionStopped.because(reason)
}

/// The answer where a table could not be read.
pub(super) fn of_table(error: &TableError) -> WireError {
    let code = match error {
        TableError::Io { .. } => ErrorCode::ReadFailed,
        TableError::Damaged(_) => ErrorCode::StorageFailed,
    };
    code.because(error.to_string())
}

/// The answer where a task has no outcome. A panic is no reason to come back: it would come again.
pub(super) fn of_join(error: &JoinError) -> WireError {
    if error.is_panic() {
        return ErrorCode::Internal.because("a panic, whose message is in the log");
    }
    ErrorCode::ShuttingDown.because("the broker is stopping")
}

/// The answer to a plugin's failure; `what` names the plugin's place.
pub(super) fn of_plugin(what: &str, error: &PluginError) -> WireError {
    let code = match error {
        PluginError::NotAComponent(_) | PluginError::WrongWorld(_) => ErrorCode::InvalidPlugin,
        PluginError::TooLarge { .. } => ErrorCode::PluginTooLarge,
        PluginError::Refused(_) => ErrorCode::PluginRefused,
        PluginError::NoCapacity { .. } | PluginError::TooFewPlaces { .. } => ErrorCode::TooMany,
        PluginError::LimitTooHigh { .. } => ErrorCode::InvalidArgument,
        PluginError::Internal(_) => ErrorCode::Internal,
        _ => ErrorCode::PluginFailed,
    };
    code.because(format!("{what}: {error}"))
}

/// The answer to an artefact that can't be taken.
pub(super) fn of_upload(what: &str, error: &PluginError) -> WireError {
    of_the_plugins(what, error, ErrorCode::InvalidPlugin)
}

/// The answer to a plugin that doesn't start with what it is given.
pub(super) fn of_start(what: &str, error: &PluginError) -> WireError {
    of_the_plugins(what, error, ErrorCode::PluginRefused)
}

/// Nothing was at work yet: the fault is that of the request.
fn of_the_plugins(what: &str, error: &PluginError, code: ErrorCode) -> WireError {
    match of_plugin(what, error) {
        answer if answer.code == ErrorCode::PluginFailed => WireError { code, ..answer },
        answer => answer,
    }
}
