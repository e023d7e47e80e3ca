//! What all parts of the core work with: the settings, the disk and the clock,
//! the topics and the tables. And whether the store has failed.

use std::fmt::Display;
use std::sync::Arc;

use parking_lot::Mutex;

use super::catalog::Catalog;
use super::config::Config;
use super::meter::Meters;
use super::partition::Shared;
use super::state::States;
use super::table::Tables;
use crate::io::{Clock, Disk};

/// A thread of the store that may have to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Worker {
    Syncer,
    Applier,
    Keeper,
}

/// Wakes a thread, if it sleeps.
pub(crate) type Wake = Box<dyn Fn(Worker) + Send + Sync>;

/// See the module.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) salt: u64,
    pub(crate) shared: Shared,
    pub(crate) tables: Tables,
    pub(crate) states: States,
    pub(crate) catalog: Catalog,
    pub(crate) meters: Meters,
    pub(crate) wake: Wake,
    pub(crate) failed: Mutex<Option<Arc<str>>>,
}

impl Context {
    /// Why the store has failed; `None` while it works.
    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.failed.lock().clone()
    }

    /// Takes note that the store has failed, unless it had before; returns why, and
    /// whether that is new.
    pub(crate) fn set_failed(&self, action: &str, error: &dyn Display) -> (Arc<str>, bool) {
        let mut failed = self.failed.lock();
        if let Some(reason) = &*failed {
            return (reason.clone(), false);
        }
        let reason: Arc<str> = format!("could not {action}: {error}").into();
        tracing::error!(%reason, "the storage failed; commits are refused until a restart");
        *failed = Some(reason.clone());
        (reason, true)
    }
}
