//! `cargo xtask bench`: hands its arguments to the measuring program, built
//! with optimisation.

use std::process::Command;

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
    step::step("building what measures", || {
        // Named together with the broker, it takes the broker's dependencies as they are built.
        step::run(step::cargo().args([
            "build",
            "--release",
            "--package",
            "eddy",
            "--package",
            "eddy-tests",
            "--bin",
            "eddy",
            "--bin",
            "bench",
        ]))
    })?;
    step::step("measuring", || {
        let release = step::target().join("release");
        let mut bench = Command::new(release.join("bench"));
        bench.env("EDDY_BIN", release.join("eddy"));
        bench.env("EDDY_PLUGINS", step::target().join("plugins"));
        step::run(bench.args(&options.arguments))
    })
}
