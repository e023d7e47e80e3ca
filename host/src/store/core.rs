//! The store without its threads: parts with a job each, which
//! [`driver`](super::driver) calls from threads and the simulation in an order
//! that a seed gives.
//!
//! The way of a record:
//!
//! 1. [`Committer::write`](super::committer::Committer::write) takes requests. Each is checked and
//!    noted in a [draft](super::draft), which gives it its offset.
//! 2. The draft becomes a group in the journal.
//! 3. [`Committer::sync`](super::committer::Committer::sync) makes groups durable. What waited for
//!    that (the [sync queue](super::sync_queue)) becomes visible and is answered.
//! 4. [`Applier::apply`](super::applier::Applier::apply) writes what is visible to segments.
//! 5. [`Checkpoints::make`](super::checkpoint::Checkpoints::make) syncs segments and tables, and
//!    lets the journal's head go. [`Retention`](super::retention) deletes old segments.
//!
//! A failed write undoes its group; a failed sync ends the store: what the
//! kernel dropped cannot be written again with any hope.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashSet;

use super::applier::Applier;
use super::catalog::Catalog;
use super::checkpoint::Checkpoints;
use super::committer::{Committer, Journaled};
use super::config::Config;
use super::context::{Context, Wake};
use super::meter::Meters;
use super::partition::Shared;
use super::repair::Repairs;
use super::retention::Retention;
use super::state::States;
use super::table::Tables;
use crate::io::{Clock, Disk, Lock};
use crate::log::Health;

/// The store without its threads.
pub(crate) struct Core {
    pub(crate) context: Arc<Context>,
    pub(crate) committer: Arc<Committer>,
    pub(crate) applier: Arc<Applier>,
    pub(crate) checkpoints: Arc<Checkpoints>,
    pub(crate) retention: Retention,
    pub(crate) repairs: Repairs,
    /// What recovery found that an operator should know.
    pub(crate) notices: Vec<String>,
    lock: Mutex<Option<Box<dyn Lock>>>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").finish_non_exhaustive()
    }
}

/// What recovery hands over.
pub(crate) struct Recovered {
    pub(crate) config: Config,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) salt: u64,
    pub(crate) shared: Shared,
    pub(crate) tables: Tables,
    pub(crate) states: States,
    pub(crate) catalog: Catalog,
    pub(crate) journaled: Journaled,
    /// The newest group that the last checkpoint covers.
    pub(crate) checkpointed: u64,
    pub(crate) has_asides: bool,
    pub(crate) notices: Vec<String>,
    /// First sequences of journal files with damage.
    pub(crate) damaged_journal: FxHashSet<u64>,
    pub(crate) lock: Box<dyn Lock>,
}

impl Core {
    /// The store as recovery left it; `wake` wakes its threads.
    pub(crate) fn new(parts: Recovered, wake: Wake) -> Core {
        let context = Arc::new(Context {
            config: parts.config,
            disk: parts.disk,
            clock: parts.clock,
            salt: parts.salt,
            shared: parts.shared,
            tables: parts.tables,
            states: parts.states,
            catalog: parts.catalog,
            meters: Meters::new(),
            wake,
            failed: Mutex::default(),
        });
        let applier = Arc::new(Applier::new(context.clone()));
        let committer = Committer::new(context.clone(), applier.clone(), parts.journaled);
        let committer = Arc::new(committer);
        let checkpoints = Arc::new(Checkpoints::new(
            committer.clone(),
            parts.checkpointed,
            parts.has_asides,
            parts.damaged_journal,
        ));
        Core {
            retention: Retention::new(committer.clone()),
            repairs: Repairs::new(checkpoints.clone()),
            context,
            committer,
            applier,
            checkpoints,
            notices: parts.notices,
            lock: Mutex::new(Some(parts.lock)),
        }
    }

    /// Lets another process have the data folder. Nothing may be written any more.
    pub(crate) fn unlock(&self) {
        self.applier.close();
        // They write when they close, so not after the lock is gone.
        self.context.tables.close();
        self.lock.lock().take();
    }

    pub(crate) fn health(&self) -> Health {
        if let Some(reason) = self.context.failure() {
            return Health::Failed(reason);
        }
        if self.committer.is_full() {
            return Health::DiskFull;
        }
        let accepts = self.applier.accepts();
        match accepts.and_then(|()| self.committer.check_backlog()) {
            Err(error) => Health::Behind(error.to_string().into()),
            Ok(()) => Health::Ok,
        }
    }
}
