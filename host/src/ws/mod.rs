//! The wire over WebSocket: one task per connection, which reads requests,
//! answers them, and delivers from its cursors as fast as its peer takes it.
//!
//! `eddy.v1` (bincode) and `eddy.v1.json` differ only in the codec. The
//! handshake is HTTP's; this module begins with the upgraded socket.

mod connection;
mod envelope;
mod request;
mod signal;
mod socket;
mod subscription;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eddy_protocol::Form;
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::broker::Broker;

/// A connection's limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// The largest message that is read.
    pub frame_bytes_max: usize,
    /// How many subscriptions a connection may hold.
    pub subscriptions_max: usize,
    /// How many requests may be unanswered before reading pauses.
    pub requests_in_flight_max: usize,
    /// How many bytes of requests may be unanswered before reading pauses; and
    /// how many bytes of records fetches may have read that are not on their
    /// way to the socket yet.
    pub request_bytes_in_flight_max: usize,
    /// How long a new connection may take to say hello.
    pub hello_timeout: Duration,
    /// A peer from which nothing was heard for so long is gone. It is pinged at
    /// half of that. Time in which the broker puts off reading does not count.
    pub idle_timeout: Duration,
    /// How long a message may take to arrive, not counting time in which the
    /// broker puts off reading.
    pub message_timeout: Duration,
    /// How many bytes wait for a peer's socket before its cursors, its answers
    /// and reading from it pause.
    pub write_bytes_target: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            frame_bytes_max: 16 << 20,
            subscriptions_max: 100,
            requests_in_flight_max: 256,
            request_bytes_in_flight_max: 16 << 20,
            hello_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            message_timeout: Duration::from_secs(60),
            write_bytes_target: 256 << 10,
        }
    }
}

/// Serves one connection until its peer leaves, breaks a limit, or `shutdown`
/// turns true; then what was asked is answered before it is closed.
/// `read_ahead` is what came behind the handshake.
pub async fn serve(
    stream: TcpStream,
    read_ahead: Bytes,
    form: Form,
    broker: Arc<Broker>,
    config: Arc<Config>,
    shutdown: watch::Receiver<bool>,
) {
    connection::Connection::new(stream, read_ahead, form, broker, config, shutdown)
        .run()
        .await;
}
