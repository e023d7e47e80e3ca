//! Errors as HTTP says them: the code's status and
//! `{"error":{"code":…,"message":…,"retryable":…}}`. The one place where
//! anything gets a status.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use eddy_protocol::{ErrorCode, WireError};
use serde::Serialize;
use utoipa::ToSchema;

/// A request that was not done, and how to say so.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    pub(super) error: WireError,
}

impl Failure {
    /// For what HTTP knows and the table of errors does not: a status of its own.
    pub(super) fn with_status(self, status: StatusCode) -> Failure {
        Failure { status, ..self }
    }
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Failure {
        let status = StatusCode::from_u16(error.code.http_status())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Failure { status, error }
    }
}

/// An argument that is wrong, with a sentence that names it.
pub(super) fn invalid(message: impl Into<String>) -> Failure {
    ErrorCode::InvalidArgument.because(message).into()
}

/// What every answer carries that is not a success.
#[derive(Serialize, ToSchema)]
pub(super) struct ErrorAnswer {
    error: Refusal,
}

#[derive(Serialize, ToSchema)]
struct Refusal {
    #[schema(value_type = ErrorCode)]
    code: &'static str,
    /// For people; its wording may change.
    message: String,
    /// Whether the same request may succeed later without anybody changing anything.
    retryable: bool,
}

/// The JSON that carries an error.
pub fn body(error: &WireError) -> Vec<u8> {
    let error = Refusal {
        code: error.code.name(),
        message: error.message.clone(),
        retryable: error.code.retryable(),
    };
    // Two texts and a boolean have a JSON form.
    serde_json::to_vec(&ErrorAnswer { error }).unwrap_or_default()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let json = (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let mut answer = (self.status, [json], body(&self.error)).into_response();
        if self.error.code.retryable() {
            answer
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn every_code_has_its_status_and_says_whether_to_retry() {
        for code in ErrorCode::ALL {
            let answer = Failure::from(code.because("a \"sentence\"")).into_response();
            assert_eq!(answer.status().as_u16(), code.http_status());
            assert_eq!(
                answer.headers().contains_key(header::RETRY_AFTER),
                code.retryable()
            );
            let bytes = answer
                .into_body()
                .collect()
                .await
                .expect("a whole body")
                .to_bytes();
            let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
            let expected = serde_json::json!({
                "error": { "code": code.name(), "message": "a \"sentence\"", "retryable": code.retryable() }
            });
            assert_eq!(value, expected);
        }
    }
}
