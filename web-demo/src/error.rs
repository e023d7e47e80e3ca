//! Errors as JavaScript knows them: an `Error` with the protocol's `code` and
//! whether to retry.

use eddy_protocol::session::RequestError;
use eddy_protocol::{ErrorCode, WireError};
use js_sys::Reflect;
use wasm_bindgen::prelude::*;

/// The broker's error, or the session's own.
pub(crate) fn into_js(error: &WireError) -> JsValue {
    with_code(&error.message, error.code.name(), error.code.retryable())
}

/// Why a request has no answer.
pub(crate) fn request_into_js(error: &RequestError) -> JsValue {
    match error {
        RequestError::Refused(error) => into_js(error),
        // It may have been carried out: who asks again may get it twice.
        RequestError::ConnectionLost => with_code(&error.to_string(), "connection_lost", false),
    }
}

/// The caller's fault, found before anything was sent.
pub(crate) fn invalid(message: &str) -> JsValue {
    into_js(&ErrorCode::InvalidArgument.because(message))
}

/// A batch was given up.
pub(crate) fn produce_into_js(error: &WireError, maybe_appended: bool) -> JsValue {
    let error = into_js(error);
    set_maybe_appended(&error, maybe_appended);
    error
}

/// The broker answered something else than was asked.
pub(crate) fn unexpected_answer() -> JsValue {
    into_js(&ErrorCode::Internal.because("the broker's answer does not fit the request"))
}

/// The client was closed before records that were under way had arrived.
pub(crate) fn produce_closed() -> JsValue {
    let error = closed();
    set_maybe_appended(&error, true);
    error
}

fn set_maybe_appended(error: &JsValue, maybe_appended: bool) {
    // An Error takes every property.
    let _ = Reflect::set(error, &"maybeAppended".into(), &maybe_appended.into());
}

/// The client was closed before this was done.
pub(crate) fn closed() -> JsValue {
    with_code("the client is closed", "closed", false)
}

/// What JavaScript threw, in words.
pub(crate) fn text(thrown: &JsValue) -> String {
    thrown
        .dyn_ref::<js_sys::Error>()
        .map_or_else(|| format!("{thrown:?}"), |error| error.message().into())
}

fn with_code(message: &str, code: &str, retryable: bool) -> JsValue {
    let error: JsValue = js_sys::Error::new(message).into();
    for (name, value) in [
        ("name", "EddyError".into()),
        ("code", code.into()),
        ("retryable", retryable.into()),
    ] {
        // An Error takes every property.
        let _ = Reflect::set(&error, &name.into(), &value);
    }
    error
}
