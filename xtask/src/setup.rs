//! `cargo xtask setup`: what the other commands need besides Rust.
//!
//! Installs what it may (compiler targets always, Debian packages as root) and
//! otherwise says what to install. Does nothing where nothing is missing.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step;

/// Plugins are components; the page is a module for a browser.
const WASM_TARGETS: [&str; 2] = ["wasm32-wasip2", "wasm32-unknown-unknown"];

/// Where the browser's program may be, by name.
const BROWSERS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// Everything.
pub(crate) fn run() -> Result<()> {
    wasm_targets()?;
    browser().map(|_| ())
}

/// The compiler's parts for WebAssembly.
pub(crate) fn wasm_targets() -> Result<()> {
    let libraries = sysroot()?.join("lib").join("rustlib");
    let missing: Vec<_> = WASM_TARGETS
        .into_iter()
        .filter(|target| !libraries.join(target).is_dir())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    step::step(
        &format!("installing the Rust targets {}", missing.join(" and ")),
        || {
            step::run(Command::new("rustup").args(["target", "add"]).args(&missing).current_dir(step::root()))
            .context("install them as your Rust came: with rustup, `rustup target add wasm32-wasip2 wasm32-unknown-unknown`")
        },
    )
}

fn sysroot() -> Result<PathBuf> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .args(["--print", "sysroot"])
        .current_dir(step::root())
        .output()?;
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

/// A Chromium for the browser tests; `EDDY_CHROMIUM` names another.
pub(crate) fn browser() -> Result<PathBuf> {
    if let Some(named) = env::var_os("EDDY_CHROMIUM") {
        return Ok(named.into());
    }
    if let Some(found) = BROWSERS.into_iter().find_map(program) {
        return Ok(found);
    }
    if !may_install() {
        bail!(
            "the browser tests need Chromium: install it (Debian: `apt-get install chromium`) or set EDDY_CHROMIUM to its path"
        );
    }
    step::step(
        "installing Chromium for the browser tests (Debian package chromium)",
        || {
            step::run(Command::new("apt-get").arg("update"))?;
            step::run(
                Command::new("apt-get")
                    .args([
                        "install",
                        "--yes",
                        "--no-install-recommends",
                        "chromium",
                        "fonts-dejavu-core",
                    ])
                    .env("DEBIAN_FRONTEND", "noninteractive"),
            )
        },
    )?;
    program("chromium").context("apt-get installed Chromium, but there is no program `chromium`")
}

/// Whether packages can be installed without asking anybody: root, on Debian.
fn may_install() -> bool {
    Path::new("/etc/debian_version").exists()
        && program("apt-get").is_some()
        && rustix::process::geteuid().is_root()
}

/// The full path of a program.
fn program(name: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| fs::metadata(path).is_ok_and(|file| file.is_file()))
}
