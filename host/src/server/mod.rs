//! Builds everything, serves, and stops in order.
//!
//! [`run`] takes its edges as arguments: checked settings, and a future that
//! ends when it is time to stop. Then, in this order: no new connection is
//! taken, readiness turns false, readers are told, what was asked is answered
//! (for at most `server.drain_timeout`), and the broker closes, which syncs
//! everything. Nothing else in the host knows that there is a port.

mod accept;
mod connection;
mod descriptor;
mod door;
mod glance;
mod log;
mod refuse;
mod socket;
mod speaker;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

use crate::broker::{Blobs, Broker, Engines, StoredCode};
use crate::config::Config;
use crate::http::{Bodies, Context, Front};
use crate::io::{Clock, RealDisk, SystemClock};
use crate::metrics::{self as names, Metrics};
use crate::plugin::Engine;
use crate::store::Store;
use accept::Acceptor;

/// Runs a broker until `shutdown` ends, and stops it in order.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    log::init(&config.log);
    let mut shutdown = std::pin::pin!(shutdown);
    let server = tokio::select! {
        server = Server::start(config) => server?,
        // Recovery can be broken off like anything else.
        () = &mut shutdown => {
            info!("stopped before it was open");
            return Ok(());
        }
    };
    server.serve(shutdown).await;
    Ok(())
}

/// A broker that is open and bound, and takes no connections yet.
pub struct Server {
    address: SocketAddr,
    broker: Arc<Broker>,
    acceptor: Acceptor,
    stop: watch::Sender<bool>,
    drain_timeout: Duration,
}

impl Server {
    /// Binds, recovers what the data folder holds, and resumes its deployments.
    pub async fn start(config: Config) -> anyhow::Result<Server> {
        let begin = Instant::now();
        let (config, shares) = descriptor::share(config);
        let metrics = Metrics::install();
        // First of all, so that a port in use costs no recovery.
        let listen = config.server.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen} (server.listen)"))?;
        let address = listener
            .local_addr()
            .context("the listening socket has no address")?;
        let (broker, waiting) = door::keep(&listener, shares.connections, open(&config)).await;
        let (broker, notices) = broker?;
        let (stop, stopping) = watch::channel(false);
        let context = Context {
            broker: broker.clone(),
            bodies: Bodies::new(config.http.bodies_bytes_max),
            config: Arc::new(config.http),
            plugin_bytes_max: config.plugin.plugin_bytes_max,
            clock: Arc::new(SystemClock),
            metrics: metrics.clone(),
            notices,
            stopping: stopping.clone(),
        };
        let acceptor = Acceptor {
            listener,
            waiting,
            front: Front::new(context, address.ip()),
            broker: broker.clone(),
            settings: Arc::new(config.server),
            shares,
            websocket: Arc::new(config.ws),
            metrics,
            stopping,
        };
        let drain_timeout = acceptor.settings.drain_timeout;
        let took = begin.elapsed();
        ::metrics::gauge!(names::START_SECONDS).set(took.as_secs_f64());
        info!(data = %acceptor.settings.data.display(), "open after {took:?}");
        Ok(Server {
            address,
            broker,
            acceptor,
            stop,
            drain_timeout,
        })
    }

    /// Where the broker listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` ends; then answers, tells, syncs, closes.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) {
        // Tests and scripts look for this line.
        info!("listening on http://{}", self.address);
        let mut connections = self.acceptor.run(shutdown).await;
        info!(connections = connections.len(), "stopping");
        // Fails if nobody listens any more, which is as good.
        let _ = self.stop.send(true);
        let left = connections.drain(self.drain_timeout).await;
        if left > 0 {
            tracing::warn!(
                "{left} connections did not end within {:?} (server.drain_timeout)",
                self.drain_timeout
            );
        }
        self.broker.close().await;
        info!("stopped");
    }
}

/// The domain over its engines, and what an operator should know of how they were found.
async fn open(config: &Config) -> anyhow::Result<(Arc<Broker>, Arc<[String]>)> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (data, its) = (config.server.data.clone(), clock.clone());
    let (store, plugin) = (config.store.clone(), config.plugin.clone());
    let engines =
        tokio::task::spawn_blocking(move || -> anyhow::Result<(Engines, Arc<[String]>)> {
            let disk = RealDisk::new(&data)
                .with_context(|| format!("cannot use {} (server.data)", data.display()))?;
            let disk = Arc::new(disk);
            let store = Arc::new(Store::open(store, disk.clone(), its)?);
            let blobs = Blobs::new(disk);
            let notices = store.notices().into();
            let engines = Engines {
                log: store.clone(),
                state: store,
                plugins: Engine::new(plugin, Arc::new(StoredCode(blobs.clone())))?,
                blobs,
            };
            Ok((engines, notices))
        });
    let (engines, notices) = engines.await??;
    let broker = Broker::open(config.broker.clone(), engines, clock).await?;
    Ok((broker, notices))
}

#[cfg(test)]
mod tests;
