//! The native async client of Eddy, over tokio.
//!
//! - [`Client`]: a connection to a broker, with the calls for topics, fetching
//!   and committing; from it come producers and subscriptions
//! - [`Producer`]: batches with a linger, several of them in flight, each record
//!   in the log once, whatever happens to connections and brokers
//! - [`Subscription`]: records as they come, resumed after a lost connection
//!   without a gap or a repeat
//! - [`Admin`]: plugins and deployments, over HTTP
//!
//! ```no_run
//! use eddy_client::{Client, Config, Event, NewRecord, ProducerConfig, SubscribeOptions};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(Config::default()).await?;
//! let topic = "quakes".parse()?;
//! let mut strong = client.subscribe(&topic, SubscribeOptions::default()).await?;
//!
//! let producer = client.producer(&topic, ProducerConfig::default()).await?;
//! producer.push(&NewRecord::new(b"{\"mag\":5.3}").key(b"us2000crkq")).await?;
//! producer.flush().await?;
//!
//! if let Event::Data(record) = strong.next().await? {
//!     println!("{} {:?}", record.offset, record.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Knows nothing of retries, sequences and cursors: `eddy_protocol::session`
//! does, and this crate brings it sockets and time.

mod admin;
mod calls;
mod client;
mod config;
mod driver;
mod error;
mod pipe;
mod producer;
mod producers;
mod record;
mod server;
mod socket;
mod subscription;

pub use admin::Admin;
pub use client::{Client, Status};
pub use config::{Config, ProducerConfig};
pub use error::ClientError;
pub use producer::{Ack, Acknowledged, Counts, Producer, PushError};
pub use record::{NewRecord, Record, RecordBatch};
pub use server::{AddressError, DEFAULT_PORT, ServerAddress};
pub use subscription::{Event, Gap, SubscribeOptions, Subscription};
