//! The store: everything that a node must remember, in one journal.
//!
//! A [`Commit`](crate::log::Commit) is appends to any partitions, changes of key-value tables and
//! changes of the catalog; all of it becomes durable together. One writer gives
//! the offsets and writes to the journal; one sync makes many commits durable;
//! then their records are visible, and go on, unsynced, into segments. A
//! checkpoint syncs those and lets the journal's head go; recovery replays the
//! journal from the last one.
//!
//! Promises: what is acknowledged is on disk (topics with `durability =
//! "memory"`: handed to the system); records become visible in order, and only
//! when acknowledged; a retry of a producer is recognised after any restart;
//! damage is answered with an error, never with wrong records.
//!
//! Knows nothing of connections, subscriptions and plugins; nothing outside
//! knows of its files.
//!
//! From the top: [`interface`] is what the broker asks for, [`driver`] runs the
//! threads, `core` is what they do, in parts with a job each,
//! `journal`, `segment` and `table` are what is on disk, `recovery` puts it
//! together again, [`inspect`] shows it to people.

mod applier;
mod aside;
mod backend;
mod backlog;
mod catalog;
mod catalog_change;
mod checkpoint;
mod committer;
mod config;
mod context;
mod core;
mod draft;
mod driver;
mod error;
mod field;
mod format;
pub mod inspect;
mod interface;
mod journal;
#[cfg(test)]
mod kit;
mod meter;
mod partition;
mod producer;
mod recovery;
mod repair;
mod request;
mod retention;
mod room;
mod row;
mod segment;
#[cfg(test)]
pub(crate) mod simulation;
mod state;
mod sync_queue;
mod table;
mod writer;

pub use config::Config;
pub use driver::Store;
pub use error::OpenError;
