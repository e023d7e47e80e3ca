//! `cargo xtask build`: the page, the plugins and the binary, as one would
//! ship them.

use std::path::PathBuf;

use anyhow::Result;

use crate::{plugins, setup, step, web};

/// How the binary is built.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// As one ships it.
    Release,
    /// As the tests use it.
    Debug,
}

/// Builds everything that runs.
pub(crate) fn run(profile: Profile) -> Result<()> {
    setup::wasm_targets()?;
    web::run()?;
    plugins::run()?;
    eddy(profile)
}

/// Builds the binary alone.
pub(crate) fn eddy(profile: Profile) -> Result<()> {
    let what = match profile {
        Profile::Release => "building target/release/eddy (some minutes the first time)",
        Profile::Debug => "building the tests, and target/debug/eddy with them",
    };
    step::step(what, || {
        let mut cargo = step::cargo();
        match profile {
            // As anybody would: other packages beside it would change features of what it shares
            // with them, and the same binary would be built a second time.
            Profile::Release => cargo.args(["build", "--release"]),
            // `cargo build` would choose other features of shared dependencies than the tests
            // have, and build wasmtime twice.
            Profile::Debug => cargo.args(["test", "--workspace", "--no-run"]),
        };
        step::run(&mut cargo)
    })
}

/// The binary that [`eddy`] made.
pub(crate) fn binary(profile: Profile) -> PathBuf {
    let folder = match profile {
        Profile::Release => "release",
        Profile::Debug => "debug",
    };
    step::target().join(folder).join("eddy")
}
