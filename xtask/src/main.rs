//! `cargo xtask …`: the project's only automation.
//!
//! One file per command. Each installs or names what it lacks, says what it is
//! doing and how long it took, and lets the output of the tools through. It
//! must not know how the broker works inside: it drives cargo and the binary
//! `eddy` as a person would.

mod bench;
mod broker;
mod build;
mod demo;
mod openapi;
mod plugins;
mod process;
mod setup;
mod soak;
mod step;
mod test;
mod web;

use std::process::ExitCode;

use build::Profile;
use clap::{Parser, Subcommand};

/// Builds, tests and shows Eddy.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build everything and watch a week of real earthquakes in the browser
    Demo(demo::Options),
    /// Run every check and every test
    Test,
    /// Measure, each against its baseline; arguments are names of measures
    #[command(disable_help_flag = true)]
    Bench(bench::Options),
    /// Build the plugins into target/plugins/NAME.wasm
    Plugins,
    /// Build the page and the browser client into target/web
    Web,
    /// Build the page, the plugins and target/release/eddy
    Build,
    /// Run the store's simulation for long
    Simulate(soak::Simulate),
    /// Run the fuzz targets
    Fuzz(soak::Fuzz),
    /// Ask a broker for all that /openapi.json describes, with schemathesis (needs Python 3)
    Openapi(openapi::Options),
    /// Install what the other commands need, or say what to install
    Setup,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test => test::run(),
        Command::Bench(options) => bench::run(&options),
        Command::Plugins => setup::wasm_targets().and_then(|()| plugins::run()),
        Command::Web => setup::wasm_targets().and_then(|()| web::run()),
        Command::Build => build::run(Profile::Release),
        Command::Simulate(options) => soak::simulate(&options),
        Command::Fuzz(options) => soak::fuzz(&options),
        Command::Openapi(options) => openapi::run(&options),
        Command::Setup => setup::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            step::failed(&error);
            ExitCode::FAILURE
        }
    }
}
