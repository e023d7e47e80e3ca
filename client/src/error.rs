//! What can go wrong for a client, for callers that branch on it.

use std::time::Duration;

use eddy_protocol::{ErrorCode, WireError};
use serde::Deserialize;

use crate::ServerAddress;

/// Why a call failed. Cheap to clone: one lost connection may fail many calls.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The broker answered with an error.
    #[error("{}", .0.message)]
    Refused(WireError),
    /// The broker could not be reached within the deadline.
    #[error("the broker at {server} cannot be reached: {reason}")]
    Unreachable {
        /// Where it should have been.
        server: ServerAddress,
        /// What the last attempt died of.
        reason: String,
    },
    /// The broker is there but nothing moved within the deadline.
    #[error("the broker at {server} did not {what} within {limit:?}")]
    TimedOut {
        /// Which broker.
        server: ServerAddress,
        /// What it was to do, as a verb.
        what: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// A record is larger than a batch may be.
    #[error("a record of {bytes} bytes was given, the largest is {limit} bytes")]
    RecordTooLarge {
        /// Its key, value and headers together, and what the batch's columns
        /// take beside them.
        bytes: usize,
        /// What a batch takes.
        limit: usize,
    },
    /// The topic has fewer partitions.
    #[error("topic `{topic}` has {partitions} partitions, partition {partition} was asked for")]
    NoSuchPartition {
        /// The topic.
        topic: String,
        /// How many there are.
        partitions: u32,
        /// What was asked for.
        partition: u32,
    },
    /// What answered is not a broker, or one that speaks another dialect.
    #[error("{server} does not speak as a broker does: {reason}")]
    Protocol {
        /// Where.
        server: ServerAddress,
        /// What was wrong.
        reason: String,
    },
    /// The connection was lost after a request that changes something was sent
    /// and before its answer came; nobody knows whether it was carried out.
    #[error("the connection was lost before the answer; the request may have been carried out")]
    ConnectionLost,
    /// The client was closed before the answer came.
    #[error("the client is closed")]
    Closed,
}

impl ClientError {
    /// The broker's code, where the broker said no.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ClientError::Refused(error) => Some(error.code),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    pub fn retryable(&self) -> bool {
        match self {
            ClientError::Refused(error) => error.code.retryable(),
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } => true,
            ClientError::RecordTooLarge { .. }
            | ClientError::NoSuchPartition { .. }
            | ClientError::Protocol { .. }
            | ClientError::ConnectionLost
            | ClientError::Closed => false,
        }
    }
}

/// What a broker says over HTTP where it refuses a request: `{"error": …}`.
pub(crate) fn refusal_in(body: &[u8]) -> Option<WireError> {
    #[derive(Deserialize)]
    struct Body {
        error: WireError,
    }
    let body: Body = serde_json::from_slice(body).ok()?;
    Some(body.error)
}

impl From<WireError> for ClientError {
    fn from(error: WireError) -> Self {
        ClientError::Refused(error)
    }
}
