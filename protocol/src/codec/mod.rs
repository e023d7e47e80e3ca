//! Frames to bytes and back, in both forms.
//!
//! Promises: decoding arbitrary bytes never panics and allocates no more than a
//! constant times their length; bytes behind a frame are an error. Knows
//! nothing of WebSockets.

mod binary;
mod json;

use bytes::Bytes;

use crate::error::{ErrorCode, WireError};
use crate::frame::{ClientFrame, Request, ServerFrame};
use crate::name::NAME_ERROR;

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Form {
    /// bincode, in binary messages.
    #[default]
    Binary,
    /// JSON, in text messages.
    Json,
}

/// How serde's sentence begins where a text names none of an enum's variants.
const UNKNOWN_VARIANT: &str = "unknown variant ";

/// Why a message is not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FrameError {
    /// Of the request that the message seems to be, or of the one that it seems
    /// to answer, where that could be read.
    pub id: Option<u32>,
    /// [`ErrorCode::MalformedFrame`], [`ErrorCode::InvalidName`], or where the
    /// message is right but holds what only a newer release knows,
    /// [`ErrorCode::Unsupported`].
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl FrameError {
    fn new(id: Option<u32>, message: String) -> FrameError {
        FrameError {
            id,
            code: FrameError::code(&message),
            message,
        }
    }

    /// The code for what a sentence says.
    fn code(message: &str) -> ErrorCode {
        if message.starts_with(NAME_ERROR) {
            ErrorCode::InvalidName
        } else if message.starts_with(UNKNOWN_VARIANT) {
            ErrorCode::Unsupported
        } else {
            ErrorCode::MalformedFrame
        }
    }
}

impl From<FrameError> for WireError {
    fn from(error: FrameError) -> WireError {
        WireError {
            code: error.code,
            message: error.message,
        }
    }
}

/// Why a frame can't be written in JSON: a batch in it can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a frame can't be written as JSON: {0}")]
pub struct EncodeError(String);

/// A message in pieces, so that records need not be copied into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pieces: Vec<Bytes>,
}

impl Message {
    /// Its length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "no frame is empty")]
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// What it consists of, in order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// The message in one piece; copies if it is in several.
    pub fn into_bytes(mut self) -> Bytes {
        match self.pieces.len() {
            1 => self.pieces.remove(0),
            _ => self.pieces.concat().into(),
        }
    }
}

impl From<Bytes> for Message {
    fn from(bytes: Bytes) -> Message {
        Message {
            pieces: vec![bytes],
        }
    }
}

/// As [`encode_client`], without a copy of the records of a binary `produce`.
pub fn encode_sharing(frame: &ClientFrame, form: Form) -> Result<Message, EncodeError> {
    match form {
        Form::Binary => Ok(binary::encode_sharing(frame)),
        Form::Json => json::encode(frame).map(Message::from),
    }
}

/// A frame from a client as a message. Only JSON can fail, and only where a
/// batch in the frame can't be read.
pub fn encode_client(frame: &ClientFrame, form: Form) -> Result<Bytes, EncodeError> {
    match form {
        Form::Binary => Ok(binary::encode(frame)),
        Form::Json => json::encode(frame),
    }
}

/// A frame from the broker as a message. Only JSON can fail, and only where a
/// batch in the frame can't be read.
pub fn encode_server(frame: &ServerFrame, form: Form) -> Result<Bytes, EncodeError> {
    match form {
        Form::Binary => Ok(binary::encode(frame)),
        Form::Json => json::encode(frame),
    }
}

/// The frame that a client sent. Records that JSON gave without a timestamp
/// get `now_ms` (milliseconds since 1970 UTC).
pub fn decode_client(message: &[u8], form: Form, now_ms: i64) -> Result<ClientFrame, FrameError> {
    match form {
        Form::Binary => binary::decode_client(message),
        Form::Json => {
            let mut frame = json::decode_client(message)?;
            fill_timestamps(&mut frame, now_ms)?;
            Ok(frame)
        }
    }
}

/// The frame that a broker sent. A reader skips one that is
/// [`ErrorCode::Unsupported`]; with an id it is what a request is answered with.
pub fn decode_server(message: &[u8], form: Form) -> Result<ServerFrame, FrameError> {
    match form {
        Form::Binary => binary::decode_server(message),
        Form::Json => json::decode_server(message),
    }
}

/// What a binary `deliver` says before its batches, which take `batch_bytes`.
/// Together they are what encoding [`ServerFrame::Deliver`] gives; apart, the
/// batches need not be copied.
pub fn deliver_head(
    stream: u64,
    partition: u32,
    epoch: u32,
    next: u64,
    batch_bytes: usize,
) -> Vec<u8> {
    binary::deliver_head(stream, partition, epoch, next, batch_bytes)
}

fn fill_timestamps(frame: &mut ClientFrame, now_ms: i64) -> Result<(), FrameError> {
    let produces = match &mut frame.request {
        Request::Produce(produce) => std::slice::from_mut(produce),
        Request::Commit(commit) => &mut commit.appends[..],
        _ => return Ok(()),
    };
    for produce in produces {
        let filled = produce.batch.fill_timestamps(now_ms);
        filled.map_err(|error| FrameError::new(Some(frame.id), error.to_string()))?;
    }
    Ok(())
}
