//! Who may ask: the rule for pages of other origins, and CORS for those that
//! the configuration allows.
//!
//! A browser lets any page send requests to a broker on the same machine, so
//! every write and every WebSocket that names an origin must come from the
//! broker's own page or from an allowed one. Reads need no refusal: without
//! CORS headers the page cannot see the answer. A name that some attacker's DNS
//! points at this machine would make a foreign page look like our own
//! (rebinding): so a page is our own only under a name that is known to be ours,
//! and a broker on loopback answers to no other name at all.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use eddy_protocol::{ErrorCode, WireError};

use super::websocket;

/// How long a browser may remember the answer to a preflight.
const PREFLIGHT_SECONDS: &str = "600";
const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";
/// Headers of answers that a page of another origin may see.
const EXPOSED: &str = "etag, retry-after, eddy-epoch, eddy-start, eddy-end, eddy-next";

/// Where a page comes from: scheme, host and port, as `https://a.example:8443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    authority: Authority,
}

impl Origin {
    /// Reads the serialisation of RFC 6454, section 6.1; `null` is not an origin.
    pub(super) fn parse(text: &str) -> Option<Origin> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let authority = Authority::parse(authority, default_port(&scheme)?)?;
        Some(Origin { scheme, authority })
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        // Pages inside native shells (`tauri://localhost`); there is no port to leave out.
        _ if !scheme.is_empty()
            && scheme
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) =>
        {
            Some(0)
        }
        _ => None,
    }
}

/// A host and a port, as `Host` has them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authority {
    host: String,
    port: u16,
}

impl Authority {
    fn parse(text: &str, default_port: u16) -> Option<Authority> {
        let (host, port) = match text.rfind(':') {
            Some(colon) if !text.ends_with(']') => {
                let (host, port) = text.split_at(colon);
                (host, port.strip_prefix(':')?.parse().ok()?)
            }
            _ => (text, default_port),
        };
        is_host(host).then(|| Authority {
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
pub fn is_host(host: &str) -> bool {
    match host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        }
    }
}

/// What a configuration may list as an allowed origin.
pub fn is_allowed_origin(text: &str) -> bool {
    text == "*" || text == "null" || Origin::parse(text).is_some()
}

/// The rule, made from the configuration once.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    any: bool,
    null: bool,
    origins: Vec<Origin>,
    hosts: Vec<String>,
    /// Whether `Host` must be an address, a loopback name or a listed name also
    /// where no page asks.
    guards_host: bool,
}

/// What an answer says to a page of another origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cors {
    /// Nothing.
    Silent,
    /// That this origin may read it.
    Allowed(HeaderValue),
}

impl Rule {
    pub(super) fn new(
        allowed_origins: &[String],
        allowed_hosts: &[String],
        listens_on: IpAddr,
    ) -> Rule {
        Rule {
            any: allowed_origins.iter().any(|origin| origin == "*"),
            null: allowed_origins.iter().any(|origin| origin == "null"),
            origins: allowed_origins
                .iter()
                .filter_map(|origin| Origin::parse(origin))
                .collect(),
            hosts: allowed_hosts
                .iter()
                .map(|host| host.to_ascii_lowercase())
                .collect(),
            guards_host: listens_on.is_loopback() || !allowed_hosts.is_empty(),
        }
    }

    /// Whether the request may be answered, and what its answer says about it.
    pub(super) fn check(&self, request: &Parts) -> Result<Cors, WireError> {
        let host = host(request)?;
        if let Some(host) = host.filter(|_| self.guards_host) {
            self.check_host(host)?;
        }
        let mut origins = request.headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else {
            return Ok(Cors::Silent);
        };
        let text = origin.to_str().unwrap_or_default();
        if origins.next().is_none() {
            if self.allows(text) {
                return Ok(Cors::Allowed(origin.clone()));
            }
            if let Some(host) = host.filter(|host| is_same(text, host)) {
                return self.check_host(host).map(|()| Cors::Silent);
            }
        }
        if is_read(&request.method)
            && !websocket::is_upgrade(&request.headers)
            && !is_preflight(request)
        {
            return Ok(Cors::Silent);
        }
        Err(ErrorCode::ForbiddenOrigin.because(format!(
            "a page of origin `{text}` may not do this; the setting `http.allowed_origins` lists the origins that may"
        )))
    }

    fn check_host(&self, host: &str) -> Result<(), WireError> {
        let named = Authority::parse(host, 0).map(|authority| authority.host);
        let known = named.is_some_and(|name| {
            is_address(&name) || is_loopback_name(&name) || self.hosts.contains(&name)
        });
        if known {
            return Ok(());
        }
        Err(ErrorCode::ForbiddenOrigin.because(format!(
            "this broker does not answer to the name `{host}`; the setting `http.allowed_hosts` lists the names it has"
        )))
    }

    fn allows(&self, origin: &str) -> bool {
        match origin {
            "null" => self.null || self.any,
            _ => {
                self.any
                    || Origin::parse(origin).is_some_and(|origin| self.origins.contains(&origin))
            }
        }
    }
}

/// The name that the broker is asked by. A request of HTTP/1.1 has one, and no
/// request has two (RFC 9112, section 3.2).
fn host(request: &Parts) -> Result<Option<&str>, WireError> {
    let wrong = |sentence: String| Err(ErrorCode::InvalidArgument.because(sentence));
    let mut hosts = request.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version < Version::HTTP_11 => Ok(None),
        (None, _) => wrong("the request has no `host` header".to_owned()),
        (Some(_), Some(_)) => wrong("the request has more than one `host` header".to_owned()),
        (Some(host), None) => match host.to_str() {
            Ok(text) if Authority::parse(text, 0).is_some() => Ok(Some(text)),
            _ => wrong(format!("the `host` header names no host: {host:?}")),
        },
    }
}

/// Whether the origin is the one that the request was sent to. The scheme is
/// not compared: a proxy before the broker may have taken TLS away.
fn is_same(origin: &str, host: &str) -> bool {
    Origin::parse(origin).is_some_and(|origin| {
        default_port(&origin.scheme)
            .and_then(|port| Authority::parse(host, port))
            .as_ref()
            == Some(&origin.authority)
    })
}

fn is_address(host: &str) -> bool {
    host.starts_with('[') || host.parse::<IpAddr>().is_ok()
}

fn is_loopback_name(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a browser asks if it may send another request.
pub(super) fn is_preflight(request: &Parts) -> bool {
    request.method == Method::OPTIONS
        && request.headers.contains_key(header::ORIGIN)
        && request
            .headers
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to an allowed preflight; [`Cors::apply`] adds for whom.
pub(super) fn preflight(request: &HeaderMap) -> Response {
    let mut answer = StatusCode::NO_CONTENT.into_response();
    let headers = answer.headers_mut();
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static(METHODS),
    );
    headers.insert(
        header::ACCESS_CONTROL_MAX_AGE,
        HeaderValue::from_static(PREFLIGHT_SECONDS),
    );
    if let Some(asked) = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    // A public page that reaches into a private network asks for this as well.
    if request.contains_key("access-control-request-private-network") {
        let name = HeaderName::from_static("access-control-allow-private-network");
        headers.insert(name, HeaderValue::from_static("true"));
    }
    answer
}

impl Cors {
    /// Adds the headers that let the page see the answer.
    pub(super) fn apply(self, answer: &mut Response) {
        let Cors::Allowed(origin) = self else { return };
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(EXPOSED),
        );
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use axum::http::Request;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

    fn rule(origins: &[&str], hosts: &[&str], listens_on: IpAddr) -> Rule {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        Rule::new(&owned(origins), &owned(hosts), listens_on)
    }

    fn request(method: &str, headers: &[(&str, &str)]) -> Parts {
        let builder = Request::builder().method(method).uri("/v1/topics");
        let builder = headers.iter().fold(builder, |builder, (name, value)| {
            builder.header(*name, *value)
        });
        builder.body(()).expect("a request").into_parts().0
    }

    #[track_caller]
    fn check(
        rule: &Rule,
        method: &str,
        headers: &[(&str, &str)],
        expected: Result<Option<&str>, &str>,
    ) {
        let got = rule
            .check(&request(method, headers))
            .map(|cors| match cors {
                Cors::Silent => None,
                Cors::Allowed(origin) => Some(origin.to_str().expect("text").to_owned()),
            });
        match (&got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got.as_deref(), expected),
            (Err(error), Err(part)) => {
                assert_eq!(error.code, ErrorCode::ForbiddenOrigin);
                assert!(
                    error.message.contains(part),
                    "{} lacks {part}",
                    error.message
                );
            }
            _ => panic!("{method} {headers:?}: {got:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_write_from_a_page_of_another_origin_is_refused_and_both_it_and_the_setting_are_named() {
        let rule = rule(&[], &[], LOOPBACK);
        for origin in [
            "http://evil.example",
            "http://127.0.0.1:8000",
            "http://localhost:7117",
            "null",
            "garbage",
        ] {
            for method in ["POST", "PUT", "PATCH", "DELETE"] {
                let headers = [("host", "127.0.0.1:7117"), ("origin", origin)];
                check(&rule, method, &headers, Err(origin));
                check(&rule, method, &headers, Err("http.allowed_origins"));
            }
        }
    }

    #[test]
    fn programs_and_our_own_page_may_do_everything() {
        let rule = rule(&[], &[], LOOPBACK);
        for (host, origin) in [
            ("127.0.0.1:7117", "http://127.0.0.1:7117"),
            ("localhost:7117", "http://LOCALHOST:7117"),
            ("[::1]:7117", "http://[::1]:7117"),
            ("localhost", "https://localhost"),
            ("localhost:80", "http://localhost"),
        ] {
            check(&rule, "POST", &[("host", host)], Ok(None));
            check(
                &rule,
                "POST",
                &[("host", host), ("origin", origin)],
                Ok(None),
            );
        }
    }

    #[test]
    fn reads_of_other_origins_are_answered_without_cors() {
        let rule = rule(&["http://friend.example"], &[], LOOPBACK);
        for method in ["GET", "HEAD"] {
            check(
                &rule,
                method,
                &[
                    ("host", "localhost:7117"),
                    ("origin", "http://evil.example"),
                ],
                Ok(None),
            );
        }
    }

    #[test]
    fn a_websocket_of_another_origin_is_refused() {
        let headers = [
            ("host", "localhost:7117"),
            ("origin", "http://evil.example"),
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ];
        check(
            &rule(&[], &[], LOOPBACK),
            "GET",
            &headers,
            Err("evil.example"),
        );
        check(
            &rule(&["http://evil.example"], &[], LOOPBACK),
            "GET",
            &headers,
            Ok(Some("http://evil.example")),
        );
    }

    #[test]
    fn allowed_origins_may_write_and_are_named_in_the_answer() {
        let rule = rule(
            &["https://a.example", "http://b.example:8080"],
            &[],
            LOOPBACK,
        );
        for origin in [
            "https://a.example",
            "https://a.example:443",
            "http://b.example:8080",
        ] {
            check(
                &rule,
                "POST",
                &[("host", "localhost:7117"), ("origin", origin)],
                Ok(Some(origin)),
            );
        }
        for origin in [
            "http://a.example",
            "https://a.example.evil",
            "http://b.example",
            "null",
        ] {
            check(
                &rule,
                "POST",
                &[("host", "localhost:7117"), ("origin", origin)],
                Err(origin),
            );
        }
    }

    #[test]
    fn a_star_allows_everybody_and_null_only_itself() {
        let headers = |origin| [("host", "localhost:7117"), ("origin", origin)];
        for origin in ["null", "https://x.example"] {
            check(
                &rule(&["*"], &[], LOOPBACK),
                "POST",
                &headers(origin),
                Ok(Some(origin)),
            );
        }
        check(
            &rule(&["null"], &[], LOOPBACK),
            "POST",
            &headers("null"),
            Ok(Some("null")),
        );
        check(
            &rule(&["null"], &[], LOOPBACK),
            "POST",
            &headers("https://x.example"),
            Err("x.example"),
        );
    }

    #[test]
    fn a_broker_on_loopback_answers_to_no_foreign_name() {
        let foreign = [
            ("host", "rebound.example:7117"),
            ("origin", "http://rebound.example:7117"),
        ];
        let guarded = rule(&[], &["edge.local"], LOOPBACK);
        check(&guarded, "GET", &foreign, Err("http.allowed_hosts"));
        check(&guarded, "POST", &foreign, Err("rebound.example"));
        for host in [
            "localhost",
            "127.0.0.1:7117",
            "[::1]:7117",
            "10.0.0.3",
            "edge.local:7117",
            "eddy.localhost",
        ] {
            check(&guarded, "GET", &[("host", host)], Ok(None));
        }
    }

    #[test]
    fn a_broker_on_the_network_guards_its_name_once_names_are_listed() {
        check(
            &rule(&[], &[], ANY),
            "GET",
            &[("host", "edge.local")],
            Ok(None),
        );
        check(
            &rule(&[], &["edge.local"], ANY),
            "GET",
            &[("host", "edge.local")],
            Ok(None),
        );
        check(
            &rule(&[], &["edge.local"], ANY),
            "GET",
            &[("host", "other.local")],
            Err("other.local"),
        );
    }

    #[test]
    fn a_page_is_our_own_only_under_a_name_that_is_known_to_be_ours() {
        let page = |host| {
            [
                ("host", host),
                ("origin", "http://edge.example:7117"),
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
            ]
        };
        let rebound = page("edge.example:7117");
        for method in ["GET", "POST", "DELETE"] {
            check(
                &rule(&[], &[], ANY),
                method,
                &rebound,
                Err("http.allowed_hosts"),
            );
            check(
                &rule(&[], &["edge.example"], ANY),
                method,
                &rebound,
                Ok(None),
            );
            // Programs have no origin, and may come by any name.
            check(&rule(&[], &[], ANY), method, &rebound[..1], Ok(None));
        }
        for host in ["192.168.1.7:7117", "localhost:7117", "[fe80::1]:7117"] {
            let origin = format!("http://{host}");
            let headers = [("host", host), ("origin", origin.as_str())];
            check(&rule(&[], &[], ANY), "POST", &headers, Ok(None));
        }
        let allowed = rule(&["http://edge.example:7117"], &[], ANY);
        let origin = "http://edge.example:7117";
        check(&allowed, "POST", &page("other.example"), Ok(Some(origin)));
    }

    #[test]
    fn two_origins_in_one_request_are_nobody() {
        let headers = [
            ("host", "localhost"),
            ("origin", "http://localhost"),
            ("origin", "http://localhost"),
        ];
        check(
            &rule(&["*"], &[], LOOPBACK),
            "POST",
            &headers,
            Err("localhost"),
        );
    }

    #[test]
    fn a_preflight_is_answered_for_allowed_origins_only() {
        let headers = [
            ("host", "localhost"),
            ("origin", "http://a.example"),
            ("access-control-request-method", "POST"),
        ];
        check(
            &rule(&[], &[], LOOPBACK),
            "OPTIONS",
            &headers,
            Err("a.example"),
        );
        check(
            &rule(&["http://a.example"], &[], LOOPBACK),
            "OPTIONS",
            &headers,
            Ok(Some("http://a.example")),
        );
    }

    #[test]
    fn what_may_stand_in_allowed_origins() {
        for (text, right) in [
            ("*", true),
            ("null", true),
            ("https://a.example", true),
            ("http://[::1]:8080", true),
            ("tauri://localhost", true),
            ("a.example", false),
            ("https://a.example/", false),
            ("https://a.example/path", false),
            ("https://*.example", false),
            ("https://", false),
            ("https://a:99999", false),
            ("", false),
        ] {
            assert_eq!(is_allowed_origin(text), right, "{text:?}");
        }
    }
}
