//! The handshake of RFC 6455, section 4.2: what is asked for is checked and
//! accepted here. The socket itself is not touched: the answer carries
//! [`Accepted`], and whoever drives the connection takes the socket over once
//! the answer is out.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use eddy_protocol::Form;
use eddy_protocol::frame::{SUBPROTOCOL_BINARY, SUBPROTOCOL_JSON};
use serde::Deserialize;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Context;
use super::error::{ErrorAnswer, Failure, invalid};

/// The length of a key, decoded.
const KEY_BYTES: usize = 16;

/// In the extensions of a `101` answer: what the connection speaks from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted(pub Form);

#[derive(Deserialize, ToSchema)]
enum Subprotocol {
    #[serde(rename = "eddy.v1")]
    Binary,
    #[serde(rename = "eddy.v1.json")]
    Json,
}

/// Whether a request asks for a WebSocket.
pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &header::UPGRADE, "websocket")
}

pub(super) fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::new().routes(routes!(upgrade))
}

/// Open a WebSocket
///
/// The subprotocol must be `eddy.v1` (bincode) or `eddy.v1.json` (the same frames as JSON text).
/// The frames are described in protocol/SPEC.md. `/` takes the same handshake.
#[utoipa::path(
    get, path = "/v1/ws", tag = "wire", operation_id = "websocket",
    params(("sec-websocket-protocol" = inline(Subprotocol), Header)),
    responses(
        (status = 101, description = "The connection is a WebSocket from now on."),
        (status = 426, description = "The request is no handshake.", body = ErrorAnswer),
    ),
)]
pub(super) async fn upgrade(request: Request) -> Response {
    let mut answer = accept(&request).into_response();
    if answer.status() == StatusCode::UPGRADE_REQUIRED {
        let headers = answer.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(
            header::SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static("13"),
        );
    }
    answer
}

fn accept(request: &Request) -> Result<Response, Failure> {
    let headers = request.headers();
    if request.version() < Version::HTTP_11 {
        return Err(invalid("a WebSocket begins with a request of HTTP/1.1"));
    }
    if !is_upgrade(headers) || !has_token(headers, &header::CONNECTION, "upgrade") {
        let failure = invalid(
            "this is a WebSocket: the request needs `connection: upgrade` and `upgrade: websocket`",
        );
        return Err(failure.with_status(StatusCode::UPGRADE_REQUIRED));
    }
    if single(headers, &header::SEC_WEBSOCKET_VERSION)? != "13" {
        let failure = invalid("the WebSocket version must be 13 (`sec-websocket-version`)");
        return Err(failure.with_status(StatusCode::UPGRADE_REQUIRED));
    }
    let key = single(headers, &header::SEC_WEBSOCKET_KEY)?.as_bytes();
    if !BASE64
        .decode(key)
        .is_ok_and(|nonce| nonce.len() == KEY_BYTES)
    {
        return Err(invalid(format!(
            "`sec-websocket-key` must be {KEY_BYTES} bytes in base64"
        )));
    }
    let (name, form) = subprotocol(headers)?;
    let accept = HeaderValue::from_str(&derive_accept_key(key))
        .map_err(|_| invalid("`sec-websocket-key` is not a key"))?;
    let answer = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
        (
            header::SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(name),
        ),
    ];
    let mut answer = (StatusCode::SWITCHING_PROTOCOLS, answer).into_response();
    answer.extensions_mut().insert(Accepted(form));
    Ok(answer)
}

/// The first of the client's subprotocols that the broker speaks.
fn subprotocol(headers: &HeaderMap) -> Result<(&'static str, Form), Failure> {
    for offered in tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL) {
        match offered {
            SUBPROTOCOL_BINARY => return Ok((SUBPROTOCOL_BINARY, Form::Binary)),
            SUBPROTOCOL_JSON => return Ok((SUBPROTOCOL_JSON, Form::Json)),
            _ => {}
        }
    }
    let offered: Vec<&str> = tokens(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    Err(invalid(format!(
        "the WebSocket subprotocol must be `{SUBPROTOCOL_BINARY}` or `{SUBPROTOCOL_JSON}`; offered: {}",
        if offered.is_empty() {
            "none".to_owned()
        } else {
            offered.join(", ")
        }
    )))
}

/// The value of a header that must be there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a HeaderValue, Failure> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        (None, _) => Err(invalid(format!("`{name}` is missing"))),
        (Some(_), Some(_)) => Err(invalid(format!("`{name}` is there more than once"))),
    }
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// The comma-separated words of all headers of a name.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    /// The key and the accept of RFC 6455, section 1.3.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    async fn answer(changes: &[(&str, Option<&str>)]) -> Response {
        let mut headers = vec![
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-protocol", "other, eddy.v1.json"),
        ];
        for (name, value) in changes {
            headers.retain(|(existing, _)| existing != name);
            headers.extend(value.map(|value| (*name, value)));
        }
        let builder = headers.iter().fold(Request::builder(), |b, (name, value)| {
            b.header(*name, *value)
        });
        upgrade(builder.body(Body::empty()).expect("a request")).await
    }

    #[tokio::test]
    async fn a_right_handshake_is_accepted_with_the_key_of_the_standard() {
        let answer = answer(&[]).await;
        assert_eq!(answer.status(), 101);
        assert_eq!(answer.headers()["sec-websocket-accept"], ACCEPT);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "eddy.v1.json");
        assert_eq!(answer.extensions().get(), Some(&Accepted(Form::Json)));
    }

    #[tokio::test]
    async fn the_clients_first_known_subprotocol_is_taken() {
        let answer = answer(&[("sec-websocket-protocol", Some("eddy.v1,eddy.v1.json"))]).await;
        assert_eq!(answer.extensions().get(), Some(&Accepted(Form::Binary)));
    }

    #[tokio::test]
    async fn a_header_that_must_be_there_once_is_refused_twice_and_an_older_http_altogether() {
        let right = || {
            Request::builder()
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-version", "13")
                .header("sec-websocket-key", KEY)
                .header("sec-websocket-protocol", "eddy.v1")
        };
        let answered = async |request: axum::http::request::Builder| {
            upgrade(request.body(Body::empty()).expect("a request"))
                .await
                .status()
        };
        assert_eq!(answered(right()).await, 101);
        for (name, value) in [("sec-websocket-key", KEY), ("sec-websocket-version", "13")] {
            assert_eq!(answered(right().header(name, value)).await, 400, "{name}");
        }
        assert_eq!(answered(right().version(Version::HTTP_10)).await, 400);
    }

    #[tokio::test]
    async fn a_wrong_handshake_is_refused_with_its_reason() {
        for (name, value, status) in [
            ("upgrade", None, 426),
            ("connection", Some("close"), 426),
            ("sec-websocket-version", Some("8"), 426),
            ("sec-websocket-key", None, 400),
            ("sec-websocket-key", Some(""), 400),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25j"), 400),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZSE="), 400),
            ("sec-websocket-key", Some("dGhlIHNhbXBsZSBub25jZQ"), 400),
            ("sec-websocket-key", Some("dGhl*HNhbXBsZSBub25jZQ=="), 400),
            ("sec-websocket-protocol", None, 400),
            ("sec-websocket-protocol", Some("mqtt"), 400),
        ] {
            let answer = answer(&[(name, value)]).await;
            assert_eq!(answer.status(), status, "{name}: {value:?}");
            assert!(answer.extensions().get::<Accepted>().is_none());
        }
    }
}
