//! Answers to connections that never get as far as HTTP: one too many, or one
//! that asks for nothing, for nothing that can be read, or too early. Short, whole, and
//! without waiting for the peer.

use std::time::Duration;

use eddy_protocol::{ErrorCode, WireError};
use metrics::counter;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::socket::linger;
use crate::http;
use crate::metrics as names;

/// How many refused peers are waited for at one time; more are just cut off.
const LINGERING_MAX: usize = 64;
/// How long a refused peer can read its answer.
const LINGER: Duration = Duration::from_millis(500);

/// The refused connections whose peers are still reading.
#[derive(Default)]
pub(super) struct Refusals(JoinSet<()>);

impl Refusals {
    /// Answers one connection too many.
    pub(super) fn refuse(&mut self, stream: TcpStream, connections_max: usize) {
        counter!(names::CONNECTIONS_REFUSED).increment(1);
        while self.0.try_join_next().is_some() {}
        let error = ErrorCode::TooMany.because(format!(
            "there are {connections_max} connections, which is the limit (server.connections_max)"
        ));
        say(&stream, "503 Service Unavailable", &error);
        if self.0.len() < LINGERING_MAX {
            self.0.spawn(linger(stream, LINGER));
        }
    }
}

/// Answers a connection whose first request did not come in time.
pub(super) fn late(stream: &TcpStream, timeout: Duration) {
    let error = ErrorCode::TimedOut.because(format!(
        "no request came within {timeout:?} of the connection (server.handshake_timeout)"
    ));
    say(stream, "408 Request Timeout", &error);
}

/// Answers what is no request, in place of hyper, which gave it this status.
pub(super) fn unread(stream: &TcpStream, status: u16, header_bytes_max: usize) {
    let limit = format!(
        "(the limit for line and headers is {header_bytes_max} bytes, server.header_bytes_max)"
    );
    let (status, error) = match status {
        414 => (
            "414 URI Too Long",
            ErrorCode::FrameTooLarge.because(format!("the request's path is too long {limit}")),
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
pub(super) fn answer(stream: &TcpStream, status: &str, headers: &str, body: &[u8]) {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{headers}connection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    answer.extend_from_slice(body);
    // A peer that is gone needs no answer.
    let _ = stream.try_write(&answer);
}
