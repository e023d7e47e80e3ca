//! The console: files that were built into the binary, served at `/`.
//!
//! `build.rs` makes the table. Names with a hash of their content in them
//! would be cached forever; ours have none, so browsers ask again each time
//! and are told 304 by the ETag.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use eddy_protocol::ErrorCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::Failure;
use super::pieces::Counted;
use super::{Context, websocket};

/// One file of the console.
struct File {
    /// As in a URL: `/` and the path below the folder.
    path: &'static str,
    content_type: &'static str,
    /// Quoted, as the header has it.
    etag: &'static str,
    bytes: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// Nothing from elsewhere; WebAssembly may be compiled; styles may stand in
/// the markup (the charting library sets them); nobody may frame the page.
const POLICY: &str = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; \
                      img-src 'self' data: blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; \
                      form-action 'self'; frame-ancestors 'none'";

pub(super) fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::new().routes(routes!(index))
}

/// The console, or the WebSocket's handshake as at /v1/ws
#[utoipa::path(
    get, path = "/", tag = "operation", operation_id = "page",
    responses(
        (status = 200, description = "The page.", body = String, content_type = "text/html"),
        (status = 101, description = "The connection is a WebSocket from now on."),
        (status = 304, description = "The page has not changed since the given ETag."),
    ),
)]
async fn index(request: Request) -> Response {
    if websocket::is_upgrade(request.headers()) {
        return websocket::upgrade(request).await;
    }
    match find("/index.html") {
        Some(file) => serve(file, request.headers()),
        None => Failure::from(ErrorCode::NotFound.because("this broker was built without a page"))
            .into_response(),
    }
}

/// What no route has: a file of the console, or nothing.
pub(super) async fn fallback(request: Request) -> Response {
    let path = request.uri().path();
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match find(path).filter(|_| reads) {
        Some(file) => serve(file, request.headers()),
        None => {
            let message = format!(
                "there is nothing at {} {path}; /openapi.json lists what is",
                request.method()
            );
            Failure::from(ErrorCode::NotFound.because(message)).into_response()
        }
    }
}

fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

fn serve(file: &'static File, request: &HeaderMap) -> Response {
    let known = request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|tags| tags.to_str().ok());
    let unchanged = known
        .flat_map(|tags| tags.split(','))
        .map(str::trim)
        .any(|tag| tag == file.etag || tag == "*");
    let mut answer = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        file.bytes.into_response()
    };
    // Its bytes are a part of the program.
    answer.extensions_mut().insert(Counted);
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, file.content_type),
        (header::ETAG, file.etag),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn request(path: &str, headers: &[(&str, &str)]) -> Request {
        let builder = headers
            .iter()
            .fold(Request::builder().uri(path), |b, (name, value)| {
                b.header(*name, *value)
            });
        builder.body(Body::empty()).expect("a request")
    }

    #[tokio::test]
    async fn the_page_is_served_with_a_policy_and_a_tag_that_spares_the_second_time() {
        let first = index(request("/", &[])).await;
        assert_eq!(first.status(), 200);
        assert_eq!(first.headers()["content-type"], "text/html; charset=utf-8");
        assert!(
            first.headers()["content-security-policy"]
                .to_str()
                .expect("text")
                .contains("'wasm-unsafe-eval'")
        );
        let tag = first.headers()["etag"].to_str().expect("text").to_owned();
        for tags in [tag.clone(), format!("\"other\", {tag}"), "*".to_owned()] {
            let again = index(request("/", &[("if-none-match", &tags)])).await;
            assert_eq!(again.status(), 304, "{tags}");
            assert_eq!(again.headers()["etag"], *tag);
        }
        assert_eq!(
            index(request("/", &[("if-none-match", "\"other\"")]))
                .await
                .status(),
            200
        );
    }

    #[tokio::test]
    async fn what_is_not_in_the_table_is_not_found() {
        for path in ["/nothing", "/../Cargo.toml", "//etc/passwd", "/index.html/"] {
            assert_eq!(fallback(request(path, &[])).await.status(), 404, "{path}");
        }
        assert_eq!(fallback(request("/index.html", &[])).await.status(), 200);
    }

    #[test]
    fn every_file_has_a_type_and_a_quoted_tag() {
        for file in FILES {
            assert!(
                file.path.starts_with('/') && file.content_type.contains('/'),
                "{}",
                file.path
            );
            assert!(
                file.etag.len() > 2 && file.etag.starts_with('"') && file.etag.ends_with('"'),
                "{}",
                file.path
            );
        }
    }
}
