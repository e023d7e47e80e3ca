//! How a client behaves, with defaults that suit most.

use std::time::Duration;

use eddy_protocol::Compression;

use crate::ServerAddress;

/// How to reach a broker.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the broker is.
    pub server: ServerAddress,
    /// Name and version of your software, for the broker's log; at most 128 bytes.
    pub name: String,
    /// One attempt to connect, with its handshake, ends after this.
    pub connect_timeout: Duration,
    /// The pause after the first failed attempt; it doubles with each further one…
    pub backoff_min: Duration,
    /// …up to this. Up to half of it less, at random, so that many clients don't
    /// come back at once. A connection that lived so long begins with the first again.
    pub backoff_max: Duration,
    /// How long calls wait while the broker can't be reached, a producer while
    /// nothing is acknowledged, and a subscription while it does not stand.
    /// `None`: for ever.
    pub deadline: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            server: ServerAddress::default(),
            name: concat!("eddy-client/", env!("CARGO_PKG_VERSION")).into(),
            connect_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            deadline: None,
        }
    }
}

/// How a producer gathers and sends.
#[derive(Debug, Clone)]
pub struct ProducerConfig {
    /// With a name, the broker gives the same identity again and shuts out any
    /// older producer of this name.
    pub name: Option<String>,
    /// A batch is sent once it holds this many bytes of records. Never more
    /// than the broker takes.
    pub batch_bytes: usize,
    /// A batch that is not full is sent after this.
    pub linger: Duration,
    /// Batches on their way for each partition.
    pub in_flight_max: usize,
    /// Bytes of records that are not acknowledged yet; beyond it `push` and
    /// `send` wait.
    pub buffer_bytes: usize,
    /// How batches are compressed.
    pub compression: Compression,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        ProducerConfig {
            name: None,
            batch_bytes: 256 << 10,
            linger: Duration::from_millis(5),
            in_flight_max: 8,
            buffer_bytes: 32 << 20,
            compression: Compression::None,
        }
    }
}
