//! The binary form: bincode 2, `standard` configuration (little endian,
//! variable-size integers).

use bincode::Decode;
use bincode::config::{Configuration, Limit, LittleEndian, Varint, standard};
use bincode::enc::Encode;
use bincode::error::DecodeError;
use bytes::Bytes;

use super::FrameError;
use crate::frame::{ClientFrame, ServerFrame};

/// In memory an element of a frame's list takes at most so many times the bytes
/// that it takes in a message.
const GROWTH_MAX: usize = 32;

/// The place of [`ServerFrame::Deliver`] among the variants.
const DELIVER: u32 = 2;

pub(super) fn encode<T: Encode>(frame: &T) -> Bytes {
    let encoded = bincode::encode_to_vec(frame, standard());
    encoded
        .expect("frames are made of what bincode can write, to memory")
        .into()
}

pub(super) fn deliver_head(
    stream: u64,
    partition: u32,
    epoch: u32,
    next: u64,
    batch_bytes: usize,
) -> Vec<u8> {
    let head = (DELIVER, stream, partition, epoch, next, batch_bytes as u64);
    bincode::encode_to_vec(head, standard()).expect("integers can always be written to memory")
}

pub(super) fn decode_client(message: &[u8]) -> Result<ClientFrame, FrameError> {
    let (id, id_bytes) = bincode::decode_from_slice::<u32, _>(message, standard())
        .map_err(|error| malformed(None, &error))?;
    let request = decode(&message[id_bytes..]).map_err(|error| malformed(Some(id), &error))?;
    Ok(ClientFrame { id, request })
}

pub(super) fn decode_server(message: &[u8]) -> Result<ServerFrame, FrameError> {
    decode(message).map_err(|error| malformed(None, &error))
}

/// Decodes under a limit to what bincode reserves for strings and lists, which
/// it otherwise takes from the message unseen. (Batches are not under it; they
/// are looked at before they are copied.) The limit is part of the type; hence
/// the steps.
fn decode<T: Decode<()>>(message: &[u8]) -> Result<T, DecodeError> {
    const STEP_1: usize = 4 << 10;
    const STEP_2: usize = 64 << 10;
    const STEP_3: usize = 512 << 10;
    const STEP_4: usize = 4 << 20;
    const STEP_5: usize = 32 << 20;
    const STEP_6: usize = 256 << 20;
    let needed = message.len().saturating_mul(GROWTH_MAX);
    if needed <= STEP_1 {
        decode_whole(message, standard().with_limit::<STEP_1>())
    } else if needed <= STEP_2 {
        decode_whole(message, standard().with_limit::<STEP_2>())
    } else if needed <= STEP_3 {
        decode_whole(message, standard().with_limit::<STEP_3>())
    } else if needed <= STEP_4 {
        decode_whole(message, standard().with_limit::<STEP_4>())
    } else if needed <= STEP_5 {
        decode_whole(message, standard().with_limit::<STEP_5>())
    } else {
        decode_whole(message, standard().with_limit::<STEP_6>())
    }
}

fn decode_whole<T: Decode<()>, const LIMIT: usize>(
    message: &[u8],
    config: Configuration<LittleEndian, Varint, Limit<LIMIT>>,
) -> Result<T, DecodeError> {
    let (value, used) = bincode::decode_from_slice(message, config)?;
    if used < message.len() {
        return Err(DecodeError::OtherString(format!(
            "{} bytes are left behind the frame",
            message.len() - used
        )));
    }
    Ok(value)
}

fn malformed(id: Option<u32>, error: &DecodeError) -> FrameError {
    let message = match error {
        DecodeError::OtherString(message) => message.clone(),
        DecodeError::UnexpectedEnd { additional } => {
            format!("the message ends {additional} bytes too soon")
        }
        DecodeError::LimitExceeded => {
            "a length in the message is larger than the message can hold".to_owned()
        }
        DecodeError::UnexpectedVariant {
            type_name, found, ..
        } => format!("{type_name} has no variant {found}"),
        other => format!("the message is not a frame: {other}"),
    };
    FrameError::new(id, message)
}
