//! The JSON form: the same frames as text.

use std::fmt;

use bytes::Bytes;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{EncodeError, FrameError};
use crate::flat::Alone;
use crate::frame::{ClientFrame, ServerFrame};
use crate::json::{BYTE_ORDER_MARK, JsonError, from_slice};

pub(super) fn encode<T: Serialize>(frame: &T) -> Result<Bytes, EncodeError> {
    let text = serde_json::to_vec(frame).map_err(|error| EncodeError(error.to_string()))?;
    // What it grew by while it was written would stay as long as the message.
    Ok(text.into_boxed_slice().into())
}

pub(super) fn decode_client(message: &[u8]) -> Result<ClientFrame, FrameError> {
    from_slice(message).map_err(|error| refused(request_id(message), &error))
}

pub(super) fn decode_server(message: &[u8]) -> Result<ServerFrame, FrameError> {
    from_slice(message)
        .map(|Alone(frame)| frame)
        .map_err(|error| refused(answered_id(message), &error))
}

fn refused(id: Option<u32>, error: &JsonError) -> FrameError {
    FrameError {
        id,
        code: FrameError::code(error.message()),
        message: error.to_string(),
    }
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

/// The `id` of a message that may be broken anywhere, even behind it; none if
/// several are there that differ.
fn request_id(message: &[u8]) -> Option<u32> {
    #[derive(Default)]
    struct Ids(Vec<Option<u32>>);

    impl<'de> Visitor<'de> for &mut Ids {
        type Value = ();

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<String>()? {
                if name == "id" {
                    let text = map.next_value::<&RawValue>()?.get();
                    self.0.push(text.parse().ok());
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(())
        }
    }

    let mut ids = Ids::default();
    // What is wrong with the message was found before; only the id matters here.
    let text = message.strip_prefix(BYTE_ORDER_MARK).unwrap_or(message);
    let _ = serde_json::Deserializer::from_slice(text).deserialize_map(&mut ids);
    let first = ids.0.first().copied().flatten();
    first.filter(|_| ids.0.iter().all(|id| *id == first))
}
