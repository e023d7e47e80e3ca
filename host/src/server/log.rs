//! Where log lines go: standard error, in the form that was asked for.

use std::io::IsTerminal;

use tracing_subscriber::filter::EnvFilter;

use crate::config::{Log, LogFormat};

/// Installs the process's subscriber. The first one stays: a test may have its own.
pub(super) fn init(log: &Log) {
    // The settings were checked; a caller who made them by hand gets the default.
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // A terminal that is gone must not end the process that wrote to it.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    let installed = match log.format {
        LogFormat::Text => builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("a log subscriber was installed before");
    }
}
