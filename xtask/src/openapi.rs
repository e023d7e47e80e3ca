//! `cargo xtask openapi`: requests made of the description at `/openapi.json` against a
//! broker: what it allows must be taken, what it excludes refused, and the answers must
//! be as it says. By schemathesis, in a Python environment below `target`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::broker::{Broker, free_port};
use crate::build::{self, Profile};
use crate::{plugins, setup, step};

/// The release that the settings beside this are written for.
const SCHEMATHESIS: &str = "schemathesis==4.32.0";
/// Where ports are tried from.
const PORT: u16 = 17_117;

/// How much.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many requests each operation gets at the most in each phase
    #[arg(long, default_value_t = 50)]
    examples: u32,
    /// The first random number; the same one makes the same requests
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Builds, starts a broker in a fresh folder, and asks.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = step::target().join("openapi");
    let environment = folder.join("python");
    if !environment.join("bin/schemathesis").exists() {
        step::step("installing schemathesis below target/openapi", || {
            install(&environment)
        })?;
    }
    setup::wasm_targets()?;
    plugins::run()?;
    build::eddy(Profile::Debug)?;
    let data = folder.join("data");
    if data.exists() {
        fs::remove_dir_all(&data).context("the data of the last time can't be removed")?;
    }
    let mut broker = Broker::start(build::binary(Profile::Debug), data, free_port(PORT)?)?;
    let asked = step::step("asking for what is described", || {
        let settings = step::root().join("xtask/openapi");
        let mut schemathesis = Command::new(environment.join("bin/schemathesis"));
        schemathesis.current_dir(&settings);
        schemathesis.env(
            "EDDY_PLUGIN",
            step::target().join("plugins/byte-filter.wasm"),
        );
        schemathesis.env("PYTHONDONTWRITEBYTECODE", "1");
        schemathesis.args(["run", &format!("{}/openapi.json", broker.url())]);
        schemathesis.arg(format!("--max-examples={}", options.examples));
        schemathesis.arg(format!("--seed={}", options.seed));
        step::run(schemathesis.arg("--continue-on-failure"))
    });
    broker.stop()?;
    asked
}

fn install(environment: &Path) -> Result<()> {
    let made = step::run(
        Command::new("python3")
            .args(["-m", "venv"])
            .arg(environment),
    );
    made.context("this needs Python 3 with venv (Debian: `apt-get install python3-venv`)")?;
    let pip = environment.join("bin/pip");
    step::run(Command::new(pip).args(["install", "--quiet", SCHEMATHESIS]))
}
