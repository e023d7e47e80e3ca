//! WebAssembly: compiles plugins, runs their instances, and lets none of them hurt anybody else.
//!
//! Promises: whatever an artefact is and whatever it does, the answer is a value (a [`Verdict`] that
//! has been checked, or a [`PluginError`] that says what went wrong), within the [`Limits`] on memory,
//! time and output, on threads of its own. Must not know: topics, the store, the wire. It is the only
//! module that names wasmtime.
//!
//! The way of a plugin: [`Engine::compile`] turns an artefact into a [`Plugin`], [`Engine::instantiate`]
//! makes an [`Instance`] of it for one partition, and [`Instance::process`] gives it batch after batch,
//! inside a task of [`Engine::spawn`].

mod bindings;
mod cache;
mod compile;
mod config;
mod digest;
mod engine;
mod error;
mod inspect;
mod instance;
mod limits;
mod log;
mod runtime;
mod ticker;
mod verdict;
mod wasi;
mod words;

pub use cache::{CodeCache, NoCache};
pub use config::{Config, Limits};
pub use digest::{Digest, DigestError};
pub use engine::{Context, Engine, Plugin, Reservation};
pub use error::PluginError;
pub use instance::Instance;
pub use verdict::{Output, PORT_OUT, Verdict};
