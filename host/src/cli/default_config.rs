//! `eddy default-config`

use super::{Failure, Output};

/// Print a configuration file with every setting, its default and what it does
#[derive(Debug, clap::Args)]
pub(crate) struct DefaultConfig {}

impl DefaultConfig {
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        output.raw(crate::config::default_text().as_bytes())
    }
}
