//! The options that every command of a client shares, and what they lead to.

use std::time::Duration;

use eddy_client::{Admin, Client, Config, ServerAddress, Status};
use tokio::sync::watch;

use super::value::{describe_duration, parse_duration};
use super::{Failure, Output};

/// How long one-shot commands wait, unless told otherwise.
const ONE_SHOT: Duration = Duration::from_secs(5);

/// Where the broker is and how long to be patient with it.
#[derive(Debug, clap::Args)]
pub(crate) struct Connection {
    /// The broker: host:port, http://host:port or ws://host:port
    #[arg(
        long,
        global = true,
        env = "EDDY_SERVER",
        default_value_t,
        value_name = "ADDRESS"
    )]
    server: ServerAddress,
    /// How long to ride out a broker that cannot be reached or does not answer
    /// [default: 30s for pub, for ever for sub, 5s for topics,
    /// 60s for plugins and deployments]
    #[arg(long, global = true, value_parser = parse_duration, value_name = "DURATION")]
    timeout: Option<Duration>,
}

impl Connection {
    /// `--timeout`, or this command's own default.
    pub(crate) fn timeout_or(&self, default: Duration) -> Duration {
        self.timeout.unwrap_or(default)
    }

    /// Where the broker is.
    pub(crate) fn server(&self) -> &ServerAddress {
        &self.server
    }

    /// How a subscription connects: it tries for ever unless `--timeout` was given.
    pub(crate) fn endless(&self) -> Config {
        self.config(self.timeout)
    }

    /// A connected client that gives calls up after the timeout and says when
    /// it has to wait.
    pub(crate) async fn client(
        &self,
        timeout: Duration,
        output: &Output,
    ) -> Result<Client, Failure> {
        let client = Client::open(self.config(Some(timeout)));
        tokio::spawn(tell(client.status(), self.server.clone(), *output));
        client.ready().await?;
        Ok(client)
    }

    /// The same for one request and its answer.
    pub(crate) async fn one_shot(&self, output: &Output) -> Result<Client, Failure> {
        self.client(self.timeout_or(ONE_SHOT), output).await
    }

    /// Plugins and deployments. Compiling a plugin takes a while, so that the
    /// default is more patient.
    pub(crate) fn admin(&self) -> Admin {
        Admin::new(
            self.server.clone(),
            self.timeout_or(Duration::from_secs(60)),
        )
    }

    fn config(&self, deadline: Option<Duration>) -> Config {
        let name = concat!("eddy/", env!("CARGO_PKG_VERSION")).into();
        Config {
            server: self.server.clone(),
            name,
            deadline,
            ..Config::default()
        }
    }
}

/// Says once for each interruption that the broker is away, and once that it is back.
pub(crate) async fn tell(
    mut status: watch::Receiver<Status>,
    server: ServerAddress,
    output: Output,
) {
    let mut away = false;
    loop {
        let now = status.borrow_and_update().clone();
        match now {
            Status::Away { reason } if !away => {
                away = true;
                output.note(&format!("waiting for the broker at {server}: {reason}"));
            }
            Status::Connected if away => {
                away = false;
                output.note(&format!("connected to {server}"));
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
