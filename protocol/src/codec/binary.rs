//! The binary form: bincode 2, `standard` configuration (little endian,
//! variable-size integers), in which structs are [blocks](crate::block).

use bincode::Decode;
use bincode::config::standard;
use bincode::enc::Encode;
use bincode::enc::write::Writer;
use bincode::error::DecodeError;
use bytes::Bytes;

use super::{FrameError, Message};
use crate::block::decode_prefix;
use crate::error::ErrorCode;
use crate::frame::{ClientFrame, Request, ServerFrame};

/// The place of [`ServerFrame::Answer`] among the variants.
const ANSWER: u32 = 0;
/// The place of [`ServerFrame::Deliver`] among the variants.
const DELIVER: u32 = 2;

pub(super) fn encode<T: Encode>(frame: &T) -> Bytes {
    let encoded = bincode::encode_to_vec(frame, standard());
    encoded
        .expect("frames are made of what bincode can write, to memory")
        .into()
}

/// A request as a message that shares the memory of its records.
pub(super) fn encode_sharing(frame: &ClientFrame) -> Message {
    let Request::Produce(produce) = &frame.request else {
        return encode(frame).into();
    };
    let mut sharing = Sharing {
        records: &produce.batch.0,
        pieces: Vec::new(),
        copied: Vec::new(),
    };
    bincode::encode_into_writer(frame, &mut sharing, standard())
        .expect("frames are made of what bincode can write, to memory");
    sharing.finish()
}

/// Copies everything but the records.
struct Sharing<'a> {
    records: &'a Bytes,
    pieces: Vec<Bytes>,
    copied: Vec<u8>,
}

impl Sharing<'_> {
    fn end_piece(&mut self) {
        if !self.copied.is_empty() {
            self.pieces.push(std::mem::take(&mut self.copied).into());
        }
    }

    fn finish(mut self) -> Message {
        self.end_piece();
        Message {
            pieces: self.pieces,
        }
    }
}

impl Writer for Sharing<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
        if std::ptr::eq(bytes, &self.records[..]) && !bytes.is_empty() {
            self.end_piece();
            self.pieces.push(self.records.clone());
        } else {
            self.copied.extend_from_slice(bytes);
        }
        Ok(())
    }
}

pub(super) fn deliver_head(
    stream: u64,
    partition: u32,
    epoch: u32,
    next: u64,
    batch_bytes: usize,
) -> Vec<u8> {
    let encode = |into: &mut [u8], fields| {
        bincode::encode_into_slice(fields, into, standard()).expect("there is room for integers")
    };
    // Five integers of at most nine bytes.
    let mut fields = [0; 45];
    let before = (stream, partition, epoch, next, batch_bytes as u64);
    let fields_len = encode(&mut fields, before);
    let length = (fields_len + batch_bytes) as u64;
    let mut head = bincode::encode_to_vec((DELIVER, length), standard())
        .expect("integers can always be written to memory");
    head.extend_from_slice(&fields[..fields_len]);
    head
}

pub(super) fn decode_client(message: &[u8]) -> Result<ClientFrame, FrameError> {
    let (id, id_bytes) = decode_prefix::<u32>(message).map_err(|error| refused(None, error))?;
    let request = decode(&message[id_bytes..]).map_err(|error| refused(Some(id), error))?;
    Ok(ClientFrame { id, request })
}

pub(super) fn decode_server(message: &[u8]) -> Result<ServerFrame, FrameError> {
    decode(message).map_err(|error| refused(answered_id(message), error))
}

/// The request that a frame answers, though the rest of it can't be read.
fn answered_id(message: &[u8]) -> Option<u32> {
    let ((number, _length, id), _) = decode_prefix::<(u32, u64, u32)>(message).ok()?;
    (number == ANSWER).then_some(id)
}

fn decode<T: Decode<()>>(message: &[u8]) -> Result<T, DecodeError> {
    let (value, used) = decode_prefix(message)?;
    if used < message.len() {
        return Err(DecodeError::OtherString(format!(
            "{} bytes are left behind the frame",
            message.len() - used
        )));
    }
    Ok(value)
}

fn refused(id: Option<u32>, error: DecodeError) -> FrameError {
    let message = match error {
        DecodeError::OtherString(message) => return FrameError::new(id, message),
        DecodeError::UnexpectedEnd { additional } => {
            format!("the message, or a struct in it, ends {additional} bytes too soon")
        }
        DecodeError::LimitExceeded => {
            "a length in the message is larger than the message can hold".to_owned()
        }
        DecodeError::UnexpectedVariant {
            type_name, found, ..
        } if !type_name.starts_with("core::") => {
            return FrameError {
                id,
                code: ErrorCode::Unsupported,
                message: format!("{type_name} {found} is not known here"),
            };
        }
        other => format!("the message is not a frame: {other}"),
    };
    FrameError::new(id, message)
}
