//! Path, query and body of a request as typed values. What is wrong with them
//! is told in the same form as every other error.

use std::sync::Arc;

use axum::body::{Body, HttpBody};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use eddy_protocol::{ErrorCode, TopicName};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Context;
use super::error::{Failure, invalid};

/// A request for anything but an upload or records is small.
const JSON_BYTES_MAX: usize = 1 << 20;

/// The variable parts of the path.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Path<T>, Failure> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Path(value)),
            Err(rejection) => Err(invalid(format!(
                "the path is wrong: {}",
                rejection.body_text()
            ))),
        }
    }
}

/// What follows the question mark.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Query<T>, Failure> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Query(value)),
            Err(rejection) => Err(invalid(format!(
                "the query is wrong: {}",
                rejection.body_text()
            ))),
        }
    }
}

/// A topic's name out of a path.
pub(super) fn topic_name(text: &str) -> Result<TopicName, Failure> {
    TopicName::parse(text).map_err(|error| ErrorCode::InvalidName.because(error.to_string()).into())
}

/// Refuses what a head asks for and nobody here does.
pub(super) fn refuse_head(headers: &HeaderMap) -> Option<Failure> {
    let other_than = |name, known: &str| {
        let values = headers.get_all(name).iter();
        let mut values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.find(|value| !value.trim().eq_ignore_ascii_case(known))
    };
    if let Some(expected) = other_than(header::EXPECT, "100-continue") {
        let sentence = format!("`expect` is `{expected}`, only `100-continue` can be met");
        return Some(invalid(sentence).with_status(StatusCode::EXPECTATION_FAILED));
    }
    let coding = other_than(header::TRANSFER_ENCODING, "chunked")?;
    let sentence = format!("`transfer-encoding` is `{coding}`, only `chunked` is read");
    Some(invalid(sentence).with_status(StatusCode::NOT_IMPLEMENTED))
}

/// The most that a body may hold, and what to say when it holds more.
pub(super) struct Limit {
    pub(super) bytes: usize,
    pub(super) code: ErrorCode,
    /// The name of the setting, where it is one.
    pub(super) setting: Option<&'static str>,
}

impl Limit {
    fn passed(&self) -> Failure {
        let setting = self
            .setting
            .map_or_else(String::new, |name| format!(" (setting `{name}`)"));
        let failure = Failure::from(self.code.because(format!(
            "a body here holds at most {} bytes{setting}",
            self.bytes
        )));
        failure.with_status(StatusCode::PAYLOAD_TOO_LARGE)
    }
}

/// The memory for requests' bodies, all of them together. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Bodies {
    bytes_max: usize,
    free: Arc<Semaphore>,
}

impl Bodies {
    /// Room for so many bytes.
    pub fn new(bytes_max: usize) -> Bodies {
        let free = Semaphore::new(bytes_max.min(Semaphore::MAX_PERMITS));
        Bodies {
            bytes_max,
            free: Arc::new(free),
        }
    }

    /// Room for what has come of a body. To wait for it would let bodies that
    /// are half there wait for each other.
    fn hold(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Failure> {
        let held = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.free.clone().try_acquire_many_owned(bytes).ok());
        held.ok_or_else(|| {
            let full = format!(
                "the bodies of requests under way take {} bytes, which is the limit (setting `http.bodies_bytes_max`)",
                self.bytes_max
            );
            ErrorCode::TooMany.because(full).into()
        })
    }
}

/// A body that has come as a whole, and its room among all bodies.
pub(super) struct Taken {
    pub(super) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// All of a body, within the limit and the time that a body may take.
pub(super) async fn bytes(
    context: &Context,
    headers: &HeaderMap,
    body: Body,
    limit: Limit,
) -> Result<Taken, Failure> {
    check_encoding(headers)?;
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if declared
        .or_else(|| body.size_hint().exact())
        .is_some_and(|length| length > limit.bytes as u64)
    {
        return Err(limit.passed());
    }
    let timeout = context.config.body_timeout;
    match tokio::time::timeout(timeout, collect(body, &limit, &context.bodies)).await {
        Ok(collected) => collected,
        Err(_) => {
            let late =
                format!("the body did not arrive within {timeout:?} (setting `http.body_timeout`)");
            Err(Failure::from(ErrorCode::TimedOut.because(late))
                .with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

/// Bodies are taken as they are.
fn check_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    let values = headers.get_all(header::CONTENT_ENCODING).iter();
    let codings = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut codings = codings.map(|coding| coding.trim_ascii());
    match codings.find(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")) {
        None => Ok(()),
        Some(coding) => Err(unsupported(format!(
            "a body with `content-encoding: {}` is not taken, only one without or with `identity`",
            coding.escape_ascii()
        ))),
    }
}

/// The type of a body, in lower case; nothing where none is named.
pub(super) fn media_type(headers: &HeaderMap) -> Result<String, Failure> {
    let mut values = headers.get_all(header::CONTENT_TYPE).iter();
    let value = values
        .next()
        .map(|value| value.as_bytes())
        .unwrap_or_default();
    let Ok(value) = str::from_utf8(value) else {
        return Err(unsupported("`content-type` is not text"));
    };
    if values.next().is_some() {
        return Err(unsupported("there is more than one `content-type`"));
    }
    let mut parts = value.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    for (name, charset) in parts.filter_map(|part| part.split_once('=')) {
        let charset = charset.trim_matches('"');
        if name.eq_ignore_ascii_case("charset") && !charset.eq_ignore_ascii_case("utf-8") {
            return Err(unsupported(format!("a body is UTF-8, not `{charset}`")));
        }
    }
    Ok(essence)
}

/// A body in a form that is not read here.
pub(super) fn unsupported(message: impl Into<String>) -> Failure {
    invalid(message).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE)
}

async fn collect(mut body: Body, limit: &Limit, bodies: &Bodies) -> Result<Taken, Failure> {
    let mut gathered = Gathered::new(bodies)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| invalid(format!("the body ended too early: {error}")))?;
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if gathered.len() + data.len() > limit.bytes {
            return Err(limit.passed());
        }
        gathered.push(data, bodies)?;
    }
    Ok(gathered.finish())
}

/// A body in memory: what came first as it came, which is often all of it, and the rest in one piece.
/// To keep every part would let a peer that sends single bytes hold many times as much as is counted.
struct Gathered {
    first: Bytes,
    several: Vec<u8>,
    room: OwnedSemaphorePermit,
}

impl Gathered {
    fn new(bodies: &Bodies) -> Result<Gathered, Failure> {
        Ok(Gathered {
            first: Bytes::new(),
            several: Vec::new(),
            room: bodies.hold(0)?,
        })
    }

    fn len(&self) -> usize {
        self.first.len() + self.several.len()
    }

    fn push(&mut self, data: Bytes, bodies: &Bodies) -> Result<(), Failure> {
        if self.len() == 0 {
            self.room.merge(bodies.hold(data.len())?);
            self.first = data;
            return Ok(());
        }
        let first = std::mem::take(&mut self.first);
        for part in [first, data] {
            let (length, capacity) = (self.several.len() + part.len(), self.several.capacity());
            if length > capacity {
                // Twice as much each time, so that the copies don't add up.
                let larger = length.max(2 * capacity);
                let held = self.room.num_permits();
                self.room.merge(bodies.hold(larger.saturating_sub(held))?);
                self.several.reserve_exact(larger - self.several.len());
            }
            self.several.extend_from_slice(&part);
        }
        Ok(())
    }

    fn finish(self) -> Taken {
        let bytes = match self.several.is_empty() {
            true => self.first,
            false => self.several.into(),
        };
        Taken {
            bytes,
            _room: self.room,
        }
    }
}

/// A small JSON body.
pub(super) async fn json<T: DeserializeOwned>(
    context: &Context,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Failure> {
    // Whatever it is called, it is read as JSON: people forget to say so.
    media_type(headers)?;
    let limit = Limit {
        bytes: JSON_BYTES_MAX,
        code: ErrorCode::FrameTooLarge,
        setting: None,
    };
    let body = bytes(context, headers, body, limit).await?;
    eddy_protocol::json::from_slice(&body.bytes)
        .map_err(|error| invalid(format!("the body is not what is expected here: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_single_bytes_takes_what_is_counted_and_a_whole_one_is_not_copied() {
        let bodies = Bodies::new(1 << 20);
        let mut gathered = Gathered::new(&bodies).unwrap_or_else(|_| panic!("there is room"));
        let whole = Bytes::from(vec![1; 100]);
        assert!(gathered.push(whole.clone(), &bodies).is_ok());
        assert_eq!(gathered.first.as_ptr(), whole.as_ptr());
        for _ in 0..10_000 {
            assert!(gathered.push(Bytes::from_static(b"x"), &bodies).is_ok());
        }
        assert!(gathered.several.capacity() <= gathered.room.num_permits());
        assert!(gathered.room.num_permits() <= 2 * gathered.len());
        let taken = gathered.finish();
        assert_eq!(taken.bytes.len(), 10_100);
        drop(taken);
        assert!(bodies.hold(1 << 20).is_ok(), "all is free again");
    }
}
