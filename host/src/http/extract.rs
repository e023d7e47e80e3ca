//! Path, query and body of a request as typed values. What is wrong with them
//! is told in the same form as every other error.

use axum::body::{Body, HttpBody};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use eddy_protocol::{ErrorCode, TopicName};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

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

/// All of a body, within the limit and the time that a body may take.
pub(super) async fn bytes(
    context: &Context,
    headers: &HeaderMap,
    body: Body,
    limit: Limit,
) -> Result<Bytes, Failure> {
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
    let collected = tokio::time::timeout(timeout, Limited::new(body, limit.bytes).collect()).await;
    match collected {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(limit.passed()),
        Ok(Err(error)) => Err(invalid(format!("the body ended too early: {error}"))),
        Err(_) => {
            let late =
                format!("the body did not arrive within {timeout:?} (setting `http.body_timeout`)");
            Err(Failure::from(ErrorCode::TimedOut.because(late))
                .with_status(StatusCode::REQUEST_TIMEOUT))
        }
    }
}

/// A small JSON body.
pub(super) async fn json<T: DeserializeOwned>(
    context: &Context,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Failure> {
    let limit = Limit {
        bytes: JSON_BYTES_MAX,
        code: ErrorCode::FrameTooLarge,
        setting: None,
    };
    let bytes = bytes(context, headers, body, limit).await?;
    serde_json::from_slice(&bytes)
        .map_err(|error| invalid(format!("the body is not what is expected here: {error}")))
}
