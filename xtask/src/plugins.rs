//! `cargo xtask plugins`: builds each folder of `plugins/` into
//! `target/plugins/NAME.wasm`, a component that the broker takes as it is.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::step;

/// What the Rust compiler calls the platform of components.
const TARGET: &str = "wasm32-wasip2";

/// Builds all plugins.
pub(crate) fn run() -> Result<()> {
    let names = names()?;
    step::step(
        &format!("building the plugins: {}", names.join(", ")),
        || build(&names),
    )
}

fn build(names: &[String]) -> Result<()> {
    let mut cargo = step::cargo();
    cargo.args(["build", "--profile", "wasm", "--target", TARGET]);
    step::run(cargo.args(names.iter().flat_map(|name| ["--package", name])))?;
    let into = step::target().join("plugins");
    fs::create_dir_all(&into)?;
    for name in names {
        let built = step::target()
            .join(TARGET)
            .join("wasm")
            .join(format!("{}.wasm", name.replace('-', "_")));
        let placed = into.join(format!("{name}.wasm"));
        let bytes = fs::copy(&built, &placed)
            .with_context(|| format!("no plugin at {}", built.display()))?;
        step::note(&format!(
            "{} ({} KB)",
            placed.display(),
            bytes.div_ceil(1024)
        ));
    }
    Ok(())
}

/// The folders of `plugins/`, each a package of the same name; those that are
/// libraries for plugins are left out.
fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(step::root().join("plugins"))? {
        let entry = entry?;
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml")).unwrap_or_default();
        if manifest.contains("\"cdylib\"") {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    ensure!(!names.is_empty(), "there is no plugin in plugins/");
    names.sort();
    Ok(names)
}
