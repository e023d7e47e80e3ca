//! The Eddy broker as a library. The map, top to bottom; arrows point downward only:
//!
//! - [`server`] builds everything, binds, drains and stops; [`config`] turns a file, the environment
//!   and flags into checked settings; [`cli`] is the commands of the binary
//! - fronts: [`ws`] (the wire over WebSocket) and [`http`]
//! - domain: [`broker`] (topics, subscriptions, deployments)
//! - [`log`]: what the broker asks of an engine that keeps records, and nothing of how it does that
//! - engines: [`store`] (journal, segments, tables, recovery) and [`plugin`] (WebAssembly)
//! - ground: [`io`] (disk and clock, the only seams) and [`metrics`] (what is counted)

pub mod broker;
pub mod cli;
pub mod config;
pub mod http;
pub mod io;
pub mod log;
pub mod metrics;
pub mod plugin;
pub mod server;
pub mod store;
pub mod ws;

/// Plugins written as text, for tests of several modules.
#[cfg(test)]
#[path = "../tests/plugin_support/guest.rs"]
mod guest;
