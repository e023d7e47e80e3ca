//! Answers to connections that never get as far as HTTP: one too many, or one
//! that asks for nothing, for nothing that can be read, or too early. Short, whole, and
//! without waiting for the peer.

use std::sync::Arc;
use std::time::Duration;

use eddy_protocol::{ErrorCode, WireError};
use metrics::counter;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::descriptor::Shares;
use super::glance::{Asked, glance};
use super::socket::linger;
use crate::http::{self, health};
use crate::metrics as names;

/// As many headers are read of a request.
pub(super) const HEADERS_MAX: usize = 100;
/// How long a refused peer can ask, and read its answer.
const LINGER: Duration = Duration::from_millis(500);

/// The connections too many whose peers are told so.
pub(super) struct Refusals {
    /// More of them at one time are cut off.
    most: usize,
    peers: JoinSet<()>,
    sentence: Arc<str>,
}

impl Refusals {
    pub(super) fn new(shares: &Shares) -> Refusals {
        let Shares {
            connections, limit, ..
        } = shares;
        Refusals {
            most: shares.refused,
            peers: JoinSet::new(),
            sentence: format!("there are {connections} connections, which is the limit ({limit})")
                .into(),
        }
    }

    /// Answers one connection too many. Who asks for health is told that, so
    /// that nobody restarts a broker because it has much to do.
    pub(super) fn refuse(&mut self, stream: TcpStream) {
        counter!(names::CONNECTIONS_REFUSED).increment(1);
        while self.peers.try_join_next().is_some() {}
        let sentence = self.sentence.clone();
        if self.peers.len() >= self.most {
            return too_many(&stream, &sentence);
        }
        self.peers.spawn(async move {
            match timeout(LINGER, glance(&stream)).await {
                Ok(None) => return,
                Ok(Some(Asked::Health)) => alive(&stream),
                Ok(Some(Asked::Ready)) => unready(&stream, &sentence),
                Ok(Some(Asked::Other)) | Err(_) => too_many(&stream, &sentence),
            }
            linger(stream, LINGER).await;
        });
    }

    /// Answers one connection too many, and waits for nothing.
    pub(super) fn cut_off(&self, stream: &TcpStream) {
        counter!(names::CONNECTIONS_REFUSED).increment(1);
        too_many(stream, &self.sentence);
    }
}

fn too_many(stream: &TcpStream, sentence: &str) {
    let error = ErrorCode::TooMany.because(sentence);
    say(stream, "503 Service Unavailable", &error);
}

/// The answer of `/health`.
pub(super) fn alive(stream: &TcpStream) {
    answer(stream, "200 OK", "", &health::alive());
}

/// The answer of `/ready` where that is no.
pub(super) fn unready(stream: &TcpStream, reason: &str) {
    let body = health::unready(reason);
    answer(stream, "503 Service Unavailable", "", &body);
}

/// Answers a connection whose first request did not come in time.
pub(super) fn late(stream: &TcpStream, timeout: Duration) {
    let error = ErrorCode::TimedOut.because(format!(
        "no request came within {timeout:?} of the connection (server.handshake_timeout)"
    ));
    say(stream, "408 Request Timeout", &error);
}

/// Answers what is no request, in place of hyper, which gave it this status.
pub(super) fn unread(stream: &TcpStream, status: u16, head: &[u8], header_bytes_max: usize) {
    // The request's line is none of them.
    let headers = head.iter().filter(|byte| **byte == b'\n').count();
    let limit = format!(
        "(the limit for line and headers is {header_bytes_max} bytes, server.header_bytes_max)"
    );
    let (status, error) = match status {
        414 => (
            "414 URI Too Long",
            ErrorCode::FrameTooLarge.because(format!("the request's path is too long {limit}")),
        ),
        431 if headers > HEADERS_MAX && head.len() < header_bytes_max => (
            "431 Request Header Fields Too Large",
            ErrorCode::FrameTooLarge.because(format!(
                "the request has more than {HEADERS_MAX} headers, which is the limit"
            )),
        ),
        431 => (
            "431 Request Header Fields Too Large",
            ErrorCode::FrameTooLarge.because(format!(
                "the request's line and headers are too large {limit}"
            )),
        ),
        _ => (
            "400 Bad Request",
            ErrorCode::InvalidArgument.because("this is not an HTTP/1.1 request"),
        ),
    };
    say(stream, status, &error);
}

/// Writes an answer as far as the socket takes it, which is all of it where
/// nothing was written before.
fn say(stream: &TcpStream, status: &str, error: &WireError) {
    let retry = if error.code.retryable() {
        "retry-after: 1\r\n"
    } else {
        ""
    };
    answer(stream, status, retry, &http::error::body(error));
}

/// As [`say`], any body.
fn answer(stream: &TcpStream, status: &str, headers: &str, body: &[u8]) {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}connection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    // A peer that is gone needs no answer.
    let _ = stream.try_write(&answer);
}
