//! The JSON form: the same frames as text.

use std::fmt;

use bytes::Bytes;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::{EncodeError, FrameError};
use crate::flat::Alone;
use crate::frame::{ClientFrame, ServerFrame};

pub(super) fn encode<T: Serialize>(frame: &T) -> Result<Bytes, EncodeError> {
    let text = serde_json::to_vec(frame).map_err(|error| EncodeError(error.to_string()))?;
    Ok(text.into())
}

pub(super) fn decode_client(message: &[u8]) -> Result<ClientFrame, FrameError> {
    decode(message).map_err(|message_of| FrameError::new(request_id(message), message_of))
}

pub(super) fn decode_server(message: &[u8]) -> Result<ServerFrame, FrameError> {
    decode(message)
        .map(|Alone(frame)| frame)
        .map_err(|message_of| FrameError::new(answered_id(message), message_of))
}

fn decode<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(message).map_err(|error| error.to_string())
}

/// The request that a frame answers, though the rest of it can't be read.
fn answered_id(message: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Frame {
        answer: Answer,
    }
    #[derive(Deserialize)]
    struct Answer {
        id: u32,
    }
    let frame: Frame = serde_json::from_slice(message).ok()?;
    Some(frame.answer.id)
}

/// The `id` of a message that may be broken anywhere, even behind it.
fn request_id(message: &[u8]) -> Option<u32> {
    struct Seek<'a>(&'a mut Option<u32>);

    impl<'de> Visitor<'de> for Seek<'_> {
        type Value = ();

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<String>()? {
                if name == "id" {
                    *self.0 = map
                        .next_value::<serde_json::Value>()?
                        .as_u64()
                        .and_then(|id| u32::try_from(id).ok());
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(())
        }
    }

    let mut id = None;
    // What is wrong with the message was found before; only the id matters here.
    let _ = serde_json::Deserializer::from_slice(message).deserialize_map(Seek(&mut id));
    id
}
