//! What the end-to-end tests share: the real binary in a fresh folder on a port
//! of its own, its commands, a small HTTP client, and a real browser.
//!
//! Promises: everything started is ended when its handle is dropped; every wait
//! has a named limit and nothing sleeps blindly; when a test fails, the
//! broker's log is printed and its data folder is kept. Failures are panics, so
//! that the handles notice them. It must not know the inside of the broker:
//! only its command line, its port and its log.

pub mod artefact;
pub mod broker;
pub mod browser;
pub mod http;
pub mod log;
pub mod process;
pub mod refusal;
pub mod wait;
pub mod wire;

pub use broker::Broker;
pub use browser::Browser;
pub use process::{Finished, Lines, Process};
pub use wait::{eventually, wait_until};
pub use wire::Wire;
