//! `cargo xtask web`: the browser client as WebAssembly, its JavaScript and
//! TypeScript side, and the page's files, together in `target/web`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use wasm_bindgen_cli_support::Bindgen;

use crate::step;

/// What the Rust compiler calls a browser.
const TARGET: &str = "wasm32-unknown-unknown";

/// Builds the page.
pub(crate) fn run() -> Result<()> {
    step::step(
        "building the page and the browser client into target/web",
        || {
            let mut cargo = step::cargo();
            cargo.args([
                "build",
                "--profile",
                "wasm",
                "--target",
                TARGET,
                "--package",
                "eddy-web",
                "--lib",
            ]);
            // The names go in `bind`; all stripped, wasm-bindgen could not see what the module needs.
            step::run(cargo.env("CARGO_PROFILE_WASM_STRIP", "debuginfo"))?;
            let built = step::target()
                .join(TARGET)
                .join("wasm")
                .join("eddy_web.wasm");
            let fresh = step::target().join("web-fresh");
            remove(&fresh)?;
            bind(&built, &fresh)?;
            let into = step::target().join("web");
            let sources = [fresh.clone(), step::root().join("web-demo").join("page")];
            place(&sources, &into)?;
            remove(&fresh)?;
            sizes(&into)
        },
    )
}

/// Writes `eddy.js`, `eddy.d.ts` and `eddy_bg.wasm`.
fn bind(built: &Path, into: &Path) -> Result<()> {
    Bindgen::new()
        .input_path(built)
        .out_name("eddy")
        .web(true)?
        .typescript(true)
        .omit_default_module_path(false)
        .remove_name_section(true)
        .remove_producers_section(true)
        .generate(into)
        .context("wasm-bindgen could not make the JavaScript side")
}

/// Makes a folder hold the files of others and nothing else. What is the same
/// already is not touched, or the binary that carries the page would be built
/// anew each time.
fn place(sources: &[PathBuf], into: &Path) -> Result<()> {
    let mut wanted = BTreeMap::new();
    for source in sources {
        for file in files(source)? {
            wanted.insert(file.strip_prefix(source)?.to_owned(), fs::read(&file)?);
        }
    }
    fs::create_dir_all(into)?;
    for file in files(into)? {
        if !wanted.contains_key(file.strip_prefix(into)?) {
            fs::remove_file(file)?;
        }
    }
    for (name, bytes) in wanted {
        let path = into.join(name);
        if fs::read(&path).is_ok_and(|there| there == bytes) {
            continue;
        }
        fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        fs::write(path, bytes)?;
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).context("removing what was built before")
    } else {
        Ok(())
    }
}

/// Says how large each file is, as it lies there and as it travels.
fn sizes(folder: &Path) -> Result<()> {
    for path in files(folder)? {
        let name = path.strip_prefix(folder)?.display().to_string();
        let bytes = fs::metadata(&path)?.len();
        let packed = gzipped(&path).map_or_else(String::new, |packed| {
            format!(", {} gzipped", kilobytes(packed))
        });
        step::note(&format!("{name:<28} {:>9}{packed}", kilobytes(bytes)));
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The size after `gzip -9`, where there is a gzip.
fn gzipped(path: &Path) -> Option<u64> {
    let output = Command::new("gzip")
        .args(["-9", "--stdout", "--"])
        .arg(path)
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then_some(output.stdout.len() as u64)
}

fn kilobytes(bytes: u64) -> String {
    format!("{}.{} KB", bytes / 1000, bytes % 1000 / 100)
}
