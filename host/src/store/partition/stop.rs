//! Why a partition is stopped, and what lets it go on. A stopped partition
//! takes no records and gives none; the others go on.

use std::sync::Arc;

use crate::store::segment::Hole;

/// The state of a partition that is stopped.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) reason: Arc<str>,
    pub(crate) cause: Cause,
    /// What a repair would do, once that is found out.
    pub(crate) repair: Option<Repair>,
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
    /// At rest: its segments cannot be written. What the journal alone has of it
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

impl Stop {
    pub(crate) fn new(reason: impl Into<Arc<str>>, cause: Cause) -> Stop {
        Stop {
            reason: reason.into(),
            cause,
            repair: None,
        }
    }
}
