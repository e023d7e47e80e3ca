//! The loop that takes connections, and the set of those that are open. Every
//! connection is one task in that set, so that the number of tasks is the
//! number of connections, and stopping knows whom to wait for.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eddy_protocol::Form;
use futures_util::FutureExt;
use metrics::{counter, gauge};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{error, warn};

use super::connection;
use super::descriptor::Shares;
use super::refuse::Refusals;
use crate::broker::Broker;
use crate::config;
use crate::http::Front;
use crate::metrics::{self as names, Metrics};
use crate::ws;

/// How long to wait when the system has no descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often it is said that no connection can be taken.
const TELL_INTERVAL: Duration = Duration::from_secs(60);
/// How often the histograms' samples are folded into their buckets.
const FOLD_INTERVAL: Duration = Duration::from_secs(5);

/// A socket that speaks Eddy's frames from now on.
pub(super) struct Upgraded {
    pub(super) stream: TcpStream,
    /// What came behind the handshake.
    pub(super) read_ahead: Bytes,
    pub(super) form: Form,
}

/// How a connection's task ended.
enum Ended {
    Http(Option<Upgraded>),
    WebSocket,
}

/// What a new connection needs.
pub(super) struct Acceptor {
    pub(super) listener: TcpListener,
    /// Who came before there was anybody to serve them.
    pub(super) waiting: Vec<TcpStream>,
    pub(super) front: Front,
    pub(super) broker: Arc<Broker>,
    pub(super) settings: Arc<config::Server>,
    pub(super) shares: Shares,
    pub(super) websocket: Arc<ws::Config>,
    pub(super) metrics: Metrics,
    pub(super) stopping: watch::Receiver<bool>,
}

impl Acceptor {
    /// Takes connections until `shutdown` ends; closes the port then, and
    /// returns the connections that are open.
    pub(super) async fn run(self, shutdown: impl Future<Output = ()>) -> Connections {
        let Acceptor {
            listener,
            waiting,
            front,
            broker,
            settings,
            shares,
            websocket,
            metrics,
            stopping,
        } = self;
        let mut connections = Connections {
            tasks: JoinSet::new(),
            broker,
            websocket,
            stopping,
        };
        let mut refusals = Refusals::new(&shares);
        let mut shortage = Shortage::new(&listener);
        let mut fold = interval(FOLD_INTERVAL);
        fold.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut shutdown = std::pin::pin!(shutdown);
        for stream in waiting {
            connections.serve(stream, &front, &settings);
        }
        loop {
            tokio::select! {
                () = &mut shutdown => return connections,
                _ = fold.tick() => metrics.fold(),
                Some(ended) = connections.tasks.join_next() => connections.ended(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if connections.len() >= shares.connections => {
                        refusals.refuse(stream);
                    }
                    Ok((stream, _)) => connections.serve(stream, &front, &settings),
                    Err(error) if is_peers(error.kind()) => {}
                    Err(error) => {
                        shortage.refuse_one(&listener, &refusals, &error);
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }
}

/// When the system has no descriptor or memory for a connection.
struct Shortage {
    /// A descriptor that can be let go, so that a peer can be told.
    spare: Option<OwnedFd>,
    told: Option<Instant>,
}

impl Shortage {
    fn new(listener: &TcpListener) -> Shortage {
        Shortage {
            spare: listener.as_fd().try_clone_to_owned().ok(),
            told: None,
        }
    }

    /// Takes the peer that waits longest, to tell it, with the spare descriptor.
    fn refuse_one(&mut self, listener: &TcpListener, refusals: &Refusals, error: &io::Error) {
        if self.told.is_none_or(|told| told.elapsed() > TELL_INTERVAL) {
            self.told = Some(Instant::now());
            warn!("cannot take connections for now: {error}");
        }
        drop(self.spare.take());
        if let Some(Ok((stream, _))) = listener.accept().now_or_never() {
            refusals.cut_off(&stream);
        }
        self.spare = listener.as_fd().try_clone_to_owned().ok();
    }
}

/// Whether only the one connection is concerned.
fn is_peers(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused
    )
}

/// The connections that are open.
pub(super) struct Connections {
    tasks: JoinSet<Ended>,
    broker: Arc<Broker>,
    websocket: Arc<ws::Config>,
    stopping: watch::Receiver<bool>,
}

impl Connections {
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    fn serve(&mut self, stream: TcpStream, front: &Front, settings: &Arc<config::Server>) {
        // Small frames should not wait for more; a socket that can't be told works all the same.
        let _ = stream.set_nodelay(true);
        let served = connection::serve(
            stream,
            front.clone(),
            settings.clone(),
            self.stopping.clone(),
        );
        self.tasks.spawn(served.map(Ended::Http));
        counter!(names::CONNECTIONS_ACCEPTED).increment(1);
        self.measure();
    }

    /// An upgraded socket goes on in a task of its own, which is smaller than
    /// the one that spoke HTTP.
    fn ended(&mut self, ended: Result<Ended, JoinError>) {
        match ended {
            Ok(Ended::Http(Some(upgraded))) => self.upgrade(upgraded),
            Ok(Ended::Http(None) | Ended::WebSocket) => {}
            Err(error) if error.is_cancelled() => {}
            Err(error) => error!("a connection's task panicked: {error}"),
        }
        self.measure();
    }

    fn upgrade(&mut self, upgraded: Upgraded) {
        let Upgraded {
            stream,
            read_ahead,
            form,
        } = upgraded;
        let (broker, config) = (self.broker.clone(), self.websocket.clone());
        let served = ws::serve(
            stream,
            read_ahead,
            form,
            broker,
            config,
            self.stopping.clone(),
        );
        // An async block would hold the future twice, and this one stays for hours.
        self.tasks.spawn(served.map(|()| Ended::WebSocket));
    }

    fn measure(&self) {
        gauge!(names::CONNECTIONS).set(self.tasks.len() as f64);
    }

    /// Waits for all to end, then ends those that have not; returns how many.
    pub(super) async fn drain(&mut self, patience: Duration) -> usize {
        let all = async {
            while let Some(ended) = self.tasks.join_next().await {
                self.ended(ended);
            }
        };
        // What is left when the time is over is counted below.
        let _ = timeout(patience, all).await;
        let left = self.tasks.len();
        self.tasks.shutdown().await;
        left
    }
}
