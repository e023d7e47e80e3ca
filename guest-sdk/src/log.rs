//! Lines for the broker's log. In `cargo test` they go to standard error.

use crate::bindings::eddy::plugin::log as raw;

/// Of use to the plugin's author.
pub fn debug(line: &str) {
    write(raw::Level::Debug, line);
}

/// Of use to who runs the deployment.
pub fn info(line: &str) {
    write(raw::Level::Info, line);
}

/// Something is not as it should be, and the plugin goes on.
pub fn warn(line: &str) {
    write(raw::Level::Warn, line);
}

/// Something failed.
pub fn error(line: &str) {
    write(raw::Level::Error, line);
}

#[cfg(target_arch = "wasm32")]
fn write(level: raw::Level, line: &str) {
    raw::write(level, line);
}

#[cfg(not(target_arch = "wasm32"))]
fn write(level: raw::Level, line: &str) {
    eprintln!("{level:?}: {line}");
}
