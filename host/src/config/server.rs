//! The settings of the process itself: where it listens and keeps its data,
//! whom it lets in, how it logs. They are here and not in `server`, so that
//! `server` knows `config` and never the other way round.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The port, the data folder and the life of connections.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Where to listen; port 0 means any that is free.
    pub listen: SocketAddr,
    /// The folder of everything that the broker keeps.
    pub data: PathBuf,
    /// Connections of all kinds together.
    pub connections_max: usize,
    /// The time for a new connection to send its first request's head.
    pub handshake_timeout: Duration,
    /// The time for a kept-alive connection to send its next request's head.
    pub idle_timeout: Duration,
    /// The time for a peer to take some bytes of an answer.
    pub stall_timeout: Duration,
    /// The time for requests in flight when the broker is told to stop.
    pub drain_timeout: Duration,
    /// A request's line and headers.
    pub header_bytes_max: usize,
}

impl Default for Server {
    fn default() -> Server {
        Server {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7117)),
            data: PathBuf::from("eddy-data"),
            connections_max: 10_000,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            header_bytes_max: 16 << 10,
        }
    }
}

/// What [`parse_listen`] reads.
pub(super) const LISTEN: &str = "an address and a port such as \"127.0.0.1:7117\", \"0.0.0.0:7117\" or \"[::]:7117\" (port 0: any that is free)";

/// Where to listen, as people write it: an address or `localhost`, and a port.
pub fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    let address = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}").parse(),
        None => text.parse(),
    };
    address.map_err(|_| format!("expected {LISTEN}"))
}

/// What goes to standard error.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// A level, or directives such as `info,eddy::store=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Log {
        Log {
            level: "info".to_owned(),
            format: LogFormat::Text,
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
