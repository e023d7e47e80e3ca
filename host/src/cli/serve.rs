//! `eddy serve`

use std::net::SocketAddr;
use std::path::PathBuf;

use super::check_config;
use super::interrupt::Interrupt;
use super::{Failure, Output};
use crate::config::LogFormat;

/// Run the broker
///
/// Settings come from their defaults, then the file, then the environment, then
/// --set and the flags; later wins. `eddy default-config` lists them all. On
/// SIGINT, SIGTERM or SIGHUP the broker answers what is under way, tells its readers,
/// syncs and ends; at the second signal it ends at once. With --json its log is
/// JSON, a document a line.
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// The folder for everything that the broker keeps
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where to listen; port 0 takes any free one
    #[arg(long, value_name = "ADDR", value_parser = crate::config::parse_listen)]
    listen: Option<SocketAddr>,
    /// A configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting, for example server.drain_timeout=5s; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Serve {
    pub(crate) async fn run(self, output: &Output) -> Result<(), Failure> {
        let mut config = check_config::load(self.config.as_deref(), &self.set)?;
        if let Some(data) = self.data {
            config.server.data = data;
        }
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        if output.is_json() {
            config.log.format = LogFormat::Json;
        }
        let mut interrupt = Interrupt::catch()?;
        Interrupt::end_at_second(output)?;
        Interrupt::survive_file_limit()?;
        let shutdown = async move { interrupt.next().await };
        Ok(crate::server::run(config, shutdown).await?)
    }
}
