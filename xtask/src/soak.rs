//! `cargo xtask simulate` and `cargo xtask fuzz`: what takes an hour rather than
//! a minute, run by hand before a change to the store or to a parser is done.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::step;

/// How long, and from where.
#[derive(clap::Args)]
pub(crate) struct Simulate {
    /// For how many seconds each kind of history is run
    #[arg(long, default_value_t = 900)]
    seconds: u64,
    /// The first seed; each next history has the next one
    #[arg(long, default_value_t = 0)]
    first_seed: u64,
}

/// Which targets, and how long.
#[derive(clap::Args)]
pub(crate) struct Fuzz {
    /// For how many seconds each target is run
    #[arg(long, default_value_t = 1800)]
    seconds: u64,
    /// The targets; all if none is named
    targets: Vec<String>,
}

/// The seeded simulations of the store, and of the broker over an engine that refuses, optimised,
/// with their assertions.
pub(crate) fn simulate(options: &Simulate) -> Result<()> {
    step::step("simulating the store", || {
        let mut cargo = step::cargo();
        cargo.args(["test", "--profile", "soak", "--package", "eddy", "--lib"]);
        cargo.args([
            "--",
            "store::simulation",
            "broker::tests::taken_over",
            "--nocapture",
        ]);
        cargo.env("EDDY_SIMULATION_SECONDS", options.seconds.to_string());
        cargo.env("EDDY_SIMULATION_FIRST", options.first_seed.to_string());
        step::run(&mut cargo)
    })
}

/// The fuzz targets, one after the other.
pub(crate) fn fuzz(options: &Fuzz) -> Result<()> {
    let has_fuzz = cargo_fuzz().arg("--version").stdout(Stdio::null()).status();
    ensure!(
        has_fuzz.is_ok_and(|status| status.success()),
        "this needs a nightly compiler and cargo-fuzz: `rustup toolchain install nightly` and `cargo install cargo-fuzz`"
    );
    let listed = cargo_fuzz().arg("list").output()?;
    let known = String::from_utf8(listed.stdout).context("names of targets")?;
    for named in &options.targets {
        ensure!(
            known.lines().any(|target| target == named),
            "there is no fuzz target `{named}`; there are: {}",
            known.trim().replace('\n', ", ")
        );
    }
    let is_wanted = |target: &&str| {
        options.targets.is_empty() || options.targets.iter().any(|named| named == target)
    };
    for target in known.lines().filter(is_wanted) {
        step::step(&format!("fuzzing {target}"), || {
            let mut cargo = cargo_fuzz();
            cargo.args(["run", target, &format!("fuzz/corpus/{target}")]);
            cargo.args(["protocol/golden", "--"]);
            cargo.arg(format!("-max_total_time={}", options.seconds));
            step::run(&mut cargo)
        })?;
    }
    Ok(())
}

/// `cargo +nightly fuzz`, in the repository: through rustup, which knows the toolchains.
fn cargo_fuzz() -> Command {
    let mut cargo = Command::new("rustup");
    cargo.args(["run", "nightly", "cargo", "fuzz"]);
    cargo.current_dir(step::root());
    cargo
}
