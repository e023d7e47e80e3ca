//! What is under test: the binary `eddy`, the plugins and the page, from the
//! usual target folder.
//!
//! `cargo xtask test` builds them first and says where they are (`EDDY_BIN`,
//! `EDDY_PLUGINS`). Without that they are built on demand, once for
//! each test program, so that a single `cargo test -p eddy-tests` just works.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The binary, with the page inside.
pub fn eddy() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        named("EDDY_BIN").unwrap_or_else(|| {
            if !target().join("web").join("index.html").is_file() {
                built(&["xtask", "web"], "web");
            }
            // As it is built for `cargo test --workspace`: alone it would have other features, and
            // wasmtime be compiled a second time, for minutes in which no test says a word.
            built(&["test", "--workspace", "--no-run"], "debug/eddy")
        })
    })
}

/// A plugin of this name, as `cargo xtask plugins` builds it.
pub fn plugin(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        named("EDDY_PLUGINS").unwrap_or_else(|| built(&["xtask", "plugins"], "plugins"))
    });
    let path = folder.join(format!("{name}.wasm"));
    assert!(path.is_file(), "there is no plugin at {}", path.display());
    path
}

/// Where tests leave what people may want to look at.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// The folder of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests lie in the repository")
}

fn named(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from)
}

/// Lets cargo make something, and says where it then is.
fn built(arguments: &[&str], path: &str) -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(arguments)
        .current_dir(root())
        .status()
        .expect("cargo can be started");
    assert!(
        status.success(),
        "`cargo {}` ended with {status}",
        arguments.join(" ")
    );
    target().join(path)
}
