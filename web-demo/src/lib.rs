//! The browser client of Eddy: the same session as the native client's, over
//! the browser's own WebSocket and timers, with an interface for JavaScript and
//! TypeScript.
//!
//! Promises: a subscription survives lost connections without a record missing
//! or repeated; records cross into JavaScript a batch at a time, as columns;
//! errors are `Error` objects with a stable `code`. It must not know the page
//! that uses it, and nothing of the protocol that the session does not tell it.

mod batch;
mod browser;
mod client;
mod driver;
mod error;
mod option;
mod produce;
mod subscription;
mod typescript;

pub use client::EddyClient;
