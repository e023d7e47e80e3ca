//! What a refusal must look like: its code, and a sentence that names the thing
//! and the limit.

use eddy_protocol::{ErrorCode, WireError};

use crate::http;

/// An error of the wire with this code, whose sentence holds all `parts`.
#[track_caller]
pub fn assert_error(error: &WireError, code: ErrorCode, parts: &[&str]) {
    assert_eq!(error.code, code, "{error}");
    for part in parts {
        assert!(
            error.message.contains(part),
            "`{}` does not name {part}",
            error.message
        );
    }
}

/// The same of an answer over HTTP.
#[track_caller]
pub fn assert_refused(answer: &http::Response, status: u16, code: &str, parts: &[&str]) {
    let text = answer.text();
    assert_eq!(answer.status, status, "{text}");
    let error = &answer.json()["error"];
    assert_eq!(error["code"], code, "{text}");
    let message = error["message"].as_str().unwrap_or_default();
    for part in parts {
        assert!(message.contains(part), "`{message}` does not name {part}");
    }
}
