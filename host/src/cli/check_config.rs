//! `eddy check-config`

use std::path::PathBuf;

use serde_json::json;

use super::{Failure, Output};
use crate::config::Config;

/// Check a configuration as `serve` would read it, and name every problem at once
#[derive(Debug, clap::Args)]
pub(crate) struct CheckConfig {
    /// The file to check; without one, the environment and --set are checked
    file: Option<PathBuf>,
    /// A setting, as for `serve`
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl CheckConfig {
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        load(self.file.as_deref(), &self.set)?;
        output.result(&json!({"valid": true}), || {
            "the configuration is valid\n".into()
        })
    }
}

/// The configuration, or one failure that lists every problem.
pub(super) fn load(file: Option<&std::path::Path>, sets: &[String]) -> Result<Config, Failure> {
    Config::load(file, sets).map_err(|problems| {
        let problems = problems.iter().map(ToString::to_string).collect();
        Failure::problems("the configuration", problems)
    })
}
