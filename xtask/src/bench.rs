//! `cargo xtask bench`: hands its arguments to the measuring program, built
//! with optimisation.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::step;

/// What follows `bench` on the command line.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Names of measures, or options of the measuring program
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds what is measured, then measures.
pub(crate) fn run(options: &Options) -> Result<()> {
    build::run(Profile::Release)?;
    step::step("measuring", || {
        let mut cargo = step::cargo();
        cargo.args([
            "run",
            "--release",
            "--package",
            "eddy-tests",
            "--bin",
            "bench",
            "--",
        ]);
        // What is measured is what was just built, not what tests use.
        cargo.env("EDDY_BIN", step::target().join("release").join("eddy"));
        cargo.env("EDDY_PLUGINS", step::target().join("plugins"));
        step::run(cargo.args(&options.arguments))
    })
}
