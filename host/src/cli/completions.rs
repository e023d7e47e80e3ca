//! `eddy completions SHELL`

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure, Output};

/// Print a script that completes `eddy` in a shell
///
/// bash: eddy completions bash > ~/.local/share/bash-completion/completions/eddy
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, output: &Output) -> Result<(), Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "eddy", &mut script);
        output.raw(&script)
    }
}
