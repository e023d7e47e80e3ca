//! `eddy default-config`

use super::{Failure, Output};

/// Print a configuration file with every setting, its default and what it does
///
/// With --json only the settings and their defaults.
#[derive(Debug, clap::Args)]
pub(crate) struct DefaultConfig {}

impl DefaultConfig {
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        let text = crate::config::default_text();
        let settings: toml::Table = toml::from_str(&text).map_err(anyhow::Error::from)?;
        output.result(&settings, || text)
    }
}
