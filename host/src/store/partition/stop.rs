//! Why a partition is stopped, and what lets it go on. A stopped partition
//! takes no records and gives none; the others go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use crate::store::segment::Hole;

/// The state of a partition that is stopped.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) reason: Arc<str>,
    pub(crate) cause: Cause,
    /// What a repair would do, once that is found out.
    pub(crate) repair: Option<Repair>,
}

/// Whether a partition serves, which its readers see without a lock.
#[derive(Debug, Default)]
pub(crate) struct Service {
    is_stopped: AtomicBool,
    stop: RwLock<Option<Stop>>,
}

impl Service {
    /// One that is stopped already.
    pub(crate) fn stopped(stop: Option<Stop>) -> Service {
        Service {
            is_stopped: AtomicBool::new(stop.is_some()),
            stop: RwLock::new(stop),
        }
    }

    /// The stop, if the partition is stopped.
    pub(crate) fn stop_state(&self) -> Option<Stop> {
        if !self.is_stopped.load(Ordering::Acquire) {
            return None;
        }
        self.stop.read().clone()
    }

    pub(crate) fn is_stopped_by(&self, cause: Cause) -> bool {
        self.stop_state().is_some_and(|stop| stop.cause == cause)
    }

    /// Whether what the journal alone has of the partition can come into no segment.
    pub(crate) fn is_unwritable(&self) -> bool {
        self.is_stopped_by(Cause::Unwritable)
    }

    /// Stops. `Err`: it is stopped for a graver cause already, with that one's reason.
    pub(crate) fn stop(
        &self,
        reason: impl Into<Arc<str>>,
        cause: Cause,
    ) -> Result<Arc<str>, Arc<str>> {
        let mut stop = self.stop.write();
        if let Some(now) = stop.as_ref().filter(|now| !cause.outranks(now.cause)) {
            return Err(now.reason.clone());
        }
        let reason = reason.into();
        *stop = Some(Stop {
            reason: reason.clone(),
            cause,
            repair: None,
        });
        self.is_stopped.store(true, Ordering::Release);
        Ok(reason)
    }

    /// Serves again.
    pub(crate) fn resume(&self) {
        *self.stop.write() = None;
        self.is_stopped.store(false, Ordering::Release);
    }

    /// Says what a repair would do. Nothing may come to the partition meanwhile.
    pub(crate) fn set_repair(&self, repair: Repair) {
        if let Some(stop) = &mut *self.stop.write() {
            stop.repair = Some(repair);
        }
    }

    /// It is stopped for another cause now, if it was for `before`.
    pub(crate) fn change_cause(&self, before: Cause, now: Cause) {
        if let Some(stop) = self.stop.write().as_mut().filter(|it| it.cause == before) {
            stop.cause = now;
        }
    }
}

/// How a partition goes on.
#[derive(Debug, Clone)]
pub(crate) struct Repair {
    pub(crate) epoch: u32,
    /// All that it has from then on.
    pub(crate) holes: Vec<Hole>,
}

/// What kind of stop it is: it says what a checkpoint keeps and what a repair does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The segment with this base is damaged or gone. Its records behind it are
    /// in other segments. A repair gives up what of it cannot be read.
    Segment(u64),
    /// Its segments cannot be written. What the journal alone has of it
    /// is kept [aside](crate::store::aside); a repair or a restart writes it to
    /// segments again.
    Unwritable,
    /// Acknowledged records at its end are lost. The files don't show it, so
    /// checkpoints keep the reason. A repair gives the offsets anew, in another epoch.
    Lost,
    /// Its topic was deleted.
    Deleted,
}

impl Cause {
    /// Whether this takes the place of the cause for which a partition is stopped already.
    pub(crate) fn outranks(self, now: Cause) -> bool {
        match self {
            Cause::Deleted => true,
            Cause::Unwritable | Cause::Lost => matches!(now, Cause::Segment(_)),
            Cause::Segment(_) => false,
        }
    }
}
