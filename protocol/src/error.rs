//! The one public table of errors. Numbers are never reused.

use std::fmt;

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize};

use crate::block::{self, Added};

/// An error as it crosses a wire: a stable code and a sentence that names the
/// thing and the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct WireError {
    /// What kind of error.
    pub code: ErrorCode,
    /// For people; its wording may change.
    pub message: String,
}

macro_rules! codes {
    ($(#[doc = $doc:literal] $name:ident = $number:literal, $text:literal, $http:literal, $retry:literal;)*) => {
        /// What went wrong, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(#[doc = $doc] $name,)*
            /// A code of a newer broker.
            Unknown {
                /// Its number.
                number: u16,
                /// What the broker says of it.
                retryable: bool,
            },
        }

        impl ErrorCode {
            /// Every code there is, in the order of their numbers.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name),*];

            /// The number on the wire.
            pub fn number(self) -> u16 {
                match self { $(ErrorCode::$name => $number,)* ErrorCode::Unknown { number, .. } => number }
            }

            /// The code with this number; `retryable` is what the broker says, and
            /// counts where the code is not known.
            pub fn from_number(number: u16, retryable: bool) -> ErrorCode {
                match number { $($number => ErrorCode::$name,)* number => ErrorCode::Unknown { number, retryable } }
            }

            /// The name in JSON, logs and documentation.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)* ErrorCode::Unknown { .. } => "unknown" }
            }

            /// What it means, for documentation.
            pub fn description(self) -> &'static str {
                let text = match self { $(ErrorCode::$name => $doc,)* ErrorCode::Unknown { .. } => "A code of a newer broker." };
                text.trim_ascii()
            }

            /// The code with this name.
            pub fn from_name(name: &str) -> Option<ErrorCode> {
                match name { $($text => Some(ErrorCode::$name),)* _ => None }
            }

            /// The status with which HTTP answers.
            pub fn http_status(self) -> u16 {
                match self { $(ErrorCode::$name => $http,)* ErrorCode::Unknown { .. } => 500 }
            }

            /// Whether the same request may succeed later without anybody changing anything.
            pub fn retryable(self) -> bool {
                match self { $(ErrorCode::$name => $retry,)* ErrorCode::Unknown { retryable, .. } => retryable }
            }
        }
    };
}

codes! {
    /// The message is not a frame.
    MalformedFrame = 1, "malformed_frame", 400, false;
    /// The message is larger than the broker reads.
    FrameTooLarge = 2, "frame_too_large", 413, false;
    /// The request came before `hello`, or `hello` twice.
    UnexpectedFrame = 3, "unexpected_frame", 400, false;
    /// An argument is out of its range.
    InvalidArgument = 4, "invalid_argument", 400, false;
    /// A name breaks the rules for names.
    InvalidName = 5, "invalid_name", 400, false;
    /// A batch's bytes are not a batch, or its checksum is wrong.
    CorruptBatch = 6, "corrupt_batch", 400, false;
    /// A batch is larger than the broker appends.
    BatchTooLarge = 7, "batch_too_large", 413, false;
    /// No topic has this name.
    UnknownTopic = 8, "unknown_topic", 404, false;
    /// The topic has fewer partitions.
    UnknownPartition = 9, "unknown_partition", 404, false;
    /// A topic of this name is there already.
    TopicExists = 10, "topic_exists", 409, false;
    /// The connection holds no such stream.
    UnknownStream = 11, "unknown_stream", 404, false;
    /// The connection holds this stream already.
    AlreadySubscribed = 12, "already_subscribed", 409, false;
    /// A limit on subscriptions, connections or the like was reached.
    TooMany = 13, "too_many", 429, true;
    /// The offset is beyond the partition's end, or retention has removed it.
    OffsetOutOfRange = 14, "offset_out_of_range", 416, false;
    /// A newer epoch of this producer is at work.
    FencedProducer = 15, "fenced_producer", 409, false;
    /// A batch is missing before this one.
    OutOfOrderSequence = 16, "out_of_order_sequence", 409, true;
    /// The broker does not know (any more) this producer.
    UnknownProducer = 17, "unknown_producer", 404, false;
    /// The disk is full; produces are refused until there is room.
    DiskFull = 18, "disk_full", 507, true;
    /// The partition's files are damaged; it is stopped.
    PartitionStopped = 19, "partition_stopped", 500, false;
    /// The broker's storage failed; it accepts nothing until it is restarted.
    StorageFailed = 20, "storage_failed", 500, false;
    /// The broker is stopping; come back.
    ShuttingDown = 21, "shutting_down", 503, true;
    /// No plugin has this name or digest.
    UnknownPlugin = 22, "unknown_plugin", 404, false;
    /// The upload is not a plugin.
    InvalidPlugin = 23, "invalid_plugin", 400, false;
    /// The upload is larger than the broker takes.
    PluginTooLarge = 24, "plugin_too_large", 413, false;
    /// The plugin is used by a deployment.
    PluginInUse = 25, "plugin_in_use", 409, false;
    /// No deployment has this name.
    UnknownDeployment = 26, "unknown_deployment", 404, false;
    /// A deployment of this name is there already.
    DeploymentExists = 27, "deployment_exists", 409, false;
    /// The plugin refused its parameters.
    PluginRefused = 28, "plugin_refused", 400, false;
    /// The plugin failed at work.
    PluginFailed = 29, "plugin_failed", 500, false;
    /// A write or a WebSocket from a page of another origin.
    ForbiddenOrigin = 30, "forbidden_origin", 403, false;
    /// What the answer rests on changed meanwhile.
    Conflict = 31, "conflict", 409, true;
    /// The answer did not come in time.
    TimedOut = 32, "timed_out", 504, true;
    /// No such resource.
    NotFound = 33, "not_found", 404, false;
    /// A deployment reads or writes the topic.
    TopicInUse = 34, "topic_in_use", 409, false;
    /// A defect of the broker.
    Internal = 35, "internal", 500, false;
    /// The disk did not give what is stored; another try may succeed.
    ReadFailed = 36, "read_failed", 503, true;
    /// The request, or something in it, is of a newer release than the broker.
    Unsupported = 37, "unsupported", 400, false;
    /// The resource is there and has no such method.
    MethodNotAllowed = 38, "method_not_allowed", 405, false;
    /// The group's cursor is not where the commit expects it.
    CursorMoved = 40, "cursor_moved", 409, false;
    /// The position is of history that its partition has lost.
    HistoryLost = 41, "history_lost", 409, false;
    /// No group of this name has cursors.
    UnknownGroup = 42, "unknown_group", 404, false;
    /// The request's parts contradict each other, or what is there.
    Inconsistent = 43, "inconsistent", 409, false;
}

impl ErrorCode {
    /// The error with this code and sentence.
    pub fn because(self, message: impl Into<String>) -> WireError {
        WireError {
            code: self,
            message: message.into(),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ErrorCode::Unknown { number, .. } => write!(out, "error {number}"),
            known => out.pad(known.name()),
        }
    }
}

// Whether to retry is said beside the code, for clients that are older than the code.

impl Encode for WireError {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let (number, retryable) = (self.code.number(), self.code.retryable());
        block::write(&(number, &self.message, retryable), encoder)
    }
}

impl<C> Decode<C> for WireError {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let (number, message, Added(retryable)) = block::read(decoder)?;
        let code = ErrorCode::from_number(number, retryable.unwrap_or_default());
        Ok(WireError { code, message })
    }
}

bincode::impl_borrow_decode!(WireError);

impl Serialize for WireError {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut error = serializer.serialize_struct("WireError", 4)?;
        error.serialize_field("code", self.code.name())?;
        error.serialize_field("number", &self.code.number())?;
        error.serialize_field("message", &self.message)?;
        error.serialize_field("retryable", &self.code.retryable())?;
        error.end()
    }
}

impl<'de> Deserialize<'de> for WireError {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Shown {
            code: String,
            #[serde(default)]
            number: u16,
            message: String,
            #[serde(default)]
            retryable: bool,
        }
        let shown = Shown::deserialize(deserializer)?;
        let code = ErrorCode::from_name(&shown.code)
            .unwrap_or_else(|| ErrorCode::from_number(shown.number, shown.retryable));
        Ok(WireError {
            code,
            message: shown.message,
        })
    }
}
