//! The options that every command of a client shares, and what they lead to.

use std::time::Duration;

use eddy_client::{Admin, Client, Config, ServerAddress, Status};
use tokio::sync::watch;

use super::value::{describe_duration, parse_duration};
use super::{Failure, Output};

/// How long one-shot commands wait, unless told otherwise.
const ONE_SHOT: Duration = Duration::from_secs(5);
/// How long a plugin may take to be compiled and started, unless told otherwise.
pub(super) const DEPLOYING: Duration = Duration::from_secs(60);

/// Where the broker is and how long to be patient with it.
#[derive(Debug, clap::Args)]
pub(crate) struct Connection {
    /// The broker: host:port, http://host:port or ws://host:port/v1/ws; the port is 7117 unless given
    /// [env: EDDY_SERVER] [default: 127.0.0.1:7117]
    #[arg(long, global = true, value_name = "ADDRESS")]
    server: Option<ServerAddress>,
    /// How long to ride out a broker that cannot be reached or does not answer
    /// [default: 30s for pub, for ever for sub, else 5s; an answer about plugins
    /// and deployments may take 60s]
    #[arg(long, global = true, value_parser = parse_duration, value_name = "DURATION")]
    timeout: Option<Duration>,
}

impl Connection {
    /// `--timeout`, or this command's own default.
    pub(crate) fn timeout_or(&self, default: Duration) -> Duration {
        self.timeout.unwrap_or(default)
    }

    /// Where the broker is: `--server`, or `EDDY_SERVER` unless it is empty.
    pub(crate) fn server(&self) -> Result<ServerAddress, Failure> {
        if let Some(server) = &self.server {
            return Ok(server.clone());
        }
        match std::env::var("EDDY_SERVER") {
            Err(_) => Ok(ServerAddress::default()),
            Ok(text) if text.is_empty() => Ok(ServerAddress::default()),
            Ok(text) => text
                .parse()
                .map_err(|error| Failure::usage(format!("EDDY_SERVER is `{text}`: {error}"))),
        }
    }

    /// How a subscription connects: it tries for ever unless `--timeout` was given.
    pub(crate) fn endless(&self) -> Result<Config, Failure> {
        self.config(self.timeout)
    }

    /// A connected client that gives calls up after the timeout and says when
    /// it has to wait.
    pub(crate) async fn client(
        &self,
        timeout: Duration,
        output: &Output,
    ) -> Result<Client, Failure> {
        connect(self.config(Some(timeout))?, output).await
    }

    /// The same with the patience of a subscription.
    pub(crate) async fn endless_client(&self, output: &Output) -> Result<Client, Failure> {
        connect(self.endless()?, output).await
    }

    /// The same for one request and its answer.
    pub(crate) async fn one_shot(&self, output: &Output) -> Result<Client, Failure> {
        self.client(self.timeout_or(ONE_SHOT), output).await
    }

    /// Plugins and deployments. Compiling a plugin takes a while, so that the
    /// default is more patient with a broker that is there.
    pub(crate) fn admin(&self) -> Result<Admin, Failure> {
        Ok(Admin::new(
            self.server()?,
            self.timeout_or(ONE_SHOT),
            self.timeout_or(DEPLOYING),
        ))
    }

    fn config(&self, deadline: Option<Duration>) -> Result<Config, Failure> {
        let name = concat!("eddy/", env!("CARGO_PKG_VERSION")).into();
        Ok(Config {
            server: self.server()?,
            name,
            deadline,
            ..Config::default()
        })
    }
}

async fn connect(config: Config, output: &Output) -> Result<Client, Failure> {
    let server = config.server.clone();
    let client = Client::open(config);
    tokio::spawn(tell(client.status(), server, *output));
    client.ready().await?;
    Ok(client)
}

/// Says once for each interruption that the broker is away, or lets a subscription
/// wait, and once that it goes on.
pub(crate) async fn tell(
    mut status: watch::Receiver<Status>,
    server: ServerAddress,
    output: Output,
) {
    let (mut away, mut delayed) = (false, false);
    loop {
        let now = status.borrow_and_update().clone();
        match now {
            Status::Away { reason } if !away => {
                away = true;
                output.note(&format!("waiting for the broker at {server}: {reason}"));
            }
            Status::Delayed { reason } if !delayed => {
                delayed = true;
                output.note(&format!("the broker lets this wait: {reason}"));
            }
            Status::Connected if away => {
                away = false;
                output.note(&format!("connected to {server}"));
            }
            Status::Connected if delayed => {
                delayed = false;
                output.note("the wait is over");
            }
            Status::Closed => return,
            _ => {}
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// For a sentence about what was waited for.
pub(crate) fn waited(timeout: Duration) -> String {
    format!("gave up after {}", describe_duration(timeout))
}
