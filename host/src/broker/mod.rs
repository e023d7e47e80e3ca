//! The domain: topics, producers, subscriptions, groups, plugins and deployments.
//!
//! Fronts call it and nothing else; every refusal is a [`WireError`] with a code
//! of the public table. It knows nothing of sockets and HTTP, and keeps nothing
//! itself but artefacts of plugins: what else must last goes through the log.

mod blob;
mod budget;
mod catalog;
mod deployment;
mod epoch;
mod feed;
mod fetch;
mod filter;
mod frame;
mod group;
mod notify;
mod plugin;
mod produce;
mod refusal;
mod stream;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use dashmap::DashMap;
use eddy_protocol::WireError;

use crate::io::Clock;
pub use crate::log::Health;
use crate::log::{Log, State};
use crate::plugin::{Digest, Engine, Plugin};

pub use blob::Blobs;
pub use budget::{Budget, Held, owned};
pub use deployment::Config as DeploymentConfig;
pub use fetch::{Awaited, Bounds};
pub use frame::Frame;
pub use notify::{ListenGuard, Listener};
pub use plugin::StoredCode;
pub use produce::{PendingCommit, PendingProduce, PlacedRecord, PlacedRecords, Placement};
pub use stream::{Cursor, FollowGuard, Follower, Load, Loaded, Next, Stream};

use deployment::Deployments;
use group::Groups;
use notify::Notifier;
use stream::Streams;

/// The broker's limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// The largest batch that is appended, as encoded and as expanded.
    pub batch_bytes_max: usize,
    /// How many topics there may be.
    pub topics_max: usize,
    /// How many partitions all topics may have together.
    pub partitions_max: usize,
    /// How many groups may have cursors in one topic.
    pub groups_max: usize,
    /// A delivered frame takes no further batch once it holds so many bytes of
    /// records.
    pub frame_bytes_target: usize,
    /// The longest that a fetch waits for a record.
    pub fetch_wait_max: std::time::Duration,
    /// What is read and made for peers that have not taken it yet, all of them together.
    pub answers_bytes_max: usize,
    /// How long a subscription's filter waits for an instance before the subscription ends.
    pub instance_wait_max: std::time::Duration,
    /// Deployments' settings.
    pub deployment: DeploymentConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            batch_bytes_max: 8 << 20,
            topics_max: 10_000,
            partitions_max: 100_000,
            groups_max: 10_000,
            frame_bytes_target: 256 << 10,
            fetch_wait_max: std::time::Duration::from_secs(60),
            answers_bytes_max: 128 << 20,
            instance_wait_max: std::time::Duration::from_secs(10),
            deployment: DeploymentConfig::default(),
        }
    }
}

/// How long an answer waits for memory before it is refused.
const ANSWER_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(5);

/// What the broker works with.
pub struct Engines {
    /// Takes commits.
    pub log: Arc<dyn Log>,
    /// Has what they changed besides records.
    pub state: Arc<dyn State>,
    /// Where artefacts of plugins are.
    pub blobs: Blobs,
    /// Runs plugins.
    pub plugins: Engine,
}

/// The broker. Shared as an `Arc` by every front.
pub struct Broker {
    config: Config,
    log: Arc<dyn Log>,
    state: Arc<dyn State>,
    blobs: Blobs,
    engine: Engine,
    clock: Arc<dyn Clock>,
    notifier: Arc<Notifier>,
    answers: Budget,
    streams: Streams,
    deployments: Deployments,
    /// Held while topics are created, altered or deleted: each change rests on the ones before.
    catalog: tokio::sync::Mutex<()>,
    /// Who has cursors, to keep it within the limit.
    groups: Groups,
    /// What was compiled since the start.
    compiled: DashMap<Digest, Plugin>,
    /// Where the next records without a key go.
    spread: AtomicU64,
    /// Random, new at every start; below 2^53, because JavaScript reads it.
    incarnation: u64,
}

impl Broker {
    /// The broker over open engines. Deployments go on where they were.
    pub async fn open(
        config: Config,
        engines: Engines,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Arc<Broker>> {
        let Engines {
            log,
            state,
            blobs,
            plugins,
        } = engines;
        let notifier = Notifier::start();
        let broker = Arc::new(Broker {
            streams: Streams::new(&config, notifier.clone()),
            notifier,
            deployments: Deployments::default(),
            catalog: tokio::sync::Mutex::default(),
            groups: Groups::default(),
            compiled: DashMap::new(),
            spread: AtomicU64::new(fastrand::u64(..)),
            incarnation: fastrand::u64(1..1 << 53),
            answers: Budget::new(config.answers_bytes_max, ANSWER_WAIT_MAX),
            config,
            log,
            state,
            blobs,
            engine: plugins,
            clock,
        });
        let topics = broker.log.topics().changed();
        tokio::spawn(stream::tend(Arc::downgrade(&broker), topics));
        broker.find_groups().await?;
        broker.resume_deployments().await?;
        broker.sweep_plugins().await;
        Ok(broker)
    }

    /// The limits.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The memory for what is made for peers, on every front.
    pub fn answers(&self) -> &Budget {
        &self.answers
    }

    /// Random, new at every start of the broker.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Milliseconds since 1970 UTC.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Whether the store accepts commits.
    pub fn health(&self) -> Health {
        self.log.health()
    }

    /// Stops the deployments, answers what waits, syncs everything.
    pub async fn close(&self) {
        self.deployments.stop_all().await;
        self.log.close().await;
    }
}

/// Runs to its end even if who asked goes away: half of a change would leave a row without its work,
/// and the next change would begin before this one is in effect.
async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, WireError>> + Send + 'static,
) -> Result<T, WireError> {
    let done = tokio::spawn(work).await;
    done.unwrap_or_else(|error| Err(refusal::of_join(&error)))
}

#[cfg(test)]
mod tests;
