//! What a session tells its driver and its user.

use std::time::Duration;

use crate::batch::{RecordRef, Records};
use crate::error::WireError;
use crate::frame::{Answer, Position, Produced, Producer, Welcome};

macro_rules! handles {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub(super) u64);)*
    };
}

handles! {
    /// Names a one-shot request of a session.
    RequestId;
    /// Names a subscription of a session; the same before and after a lost connection.
    SubscriptionId;
    /// Names a producer of a session; the same whatever identities the broker gives it.
    ProducerHandle;
    /// Names a batch that was given to a session.
    ProduceId;
}

/// What happened, in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// For the driver: open a connection, and say how that went.
    Connect,
    /// For the driver: drop the connection, then say that it is gone.
    Close {
        /// For logs.
        reason: String,
    },
    /// The broker answered `hello`.
    Connected(Welcome),
    /// The connection is gone (or could not be opened); the next attempt comes
    /// after `retry_in`, unless the session was closed.
    Disconnected {
        /// How long the session waits.
        retry_in: Option<Duration>,
    },
    /// The broker refused the connection or is about to close it. If it refused
    /// `hello` with an error that no retry mends, the session closes itself.
    Refused(WireError),
    /// The broker says that it is about to close the connection.
    Closing {
        /// For people.
        reason: String,
    },
    /// The broker broke the protocol; the connection is dropped, and what was
    /// going on is taken up again on the next.
    Violation {
        /// For people.
        message: String,
    },
    /// The broker sent a frame that only a newer release knows; it was passed over.
    Skipped {
        /// For people.
        message: String,
        /// How many there were by now, on all connections.
        skipped: u64,
    },
    /// The answer to a one-shot request.
    Answered {
        /// Which.
        request: RequestId,
        /// What came.
        result: Result<Answer, RequestError>,
    },
    /// The broker gave a producer its identity, for the first time or anew.
    ProducerOpened {
        /// Which.
        producer: ProducerHandle,
        /// Its identity from now on.
        identity: Producer,
    },
    /// A producer will be asked for again later; for those who want to show why
    /// its batches are not sent.
    ProducerDelayed {
        /// Which.
        producer: ProducerHandle,
        /// What the broker said.
        error: WireError,
    },
    /// A producer is of no more use; its batches are reported one by one.
    ProducerFailed {
        /// Which.
        producer: ProducerHandle,
        /// Why.
        error: WireError,
    },
    /// A batch is in the log, once.
    Produced {
        /// Which.
        batch: ProduceId,
        /// Where it went.
        produced: Produced,
    },
    /// A batch will be sent again later; for those who want to show why it takes so long.
    ProduceDelayed {
        /// Which.
        batch: ProduceId,
        /// What the broker said.
        error: WireError,
    },
    /// A batch was given up.
    ProduceFailed {
        /// Which.
        batch: ProduceId,
        /// Why.
        error: WireError,
        /// Whether it may be in the log all the same: it was sent on a
        /// connection that was lost before the answer. It may then still get there,
        /// once, behind later batches, unless the producer has a name.
        maybe_appended: bool,
    },
    /// A subscription stands, for the first time or again.
    Subscribed {
        /// Which.
        subscription: SubscriptionId,
        /// Its next offsets.
        positions: Vec<Position>,
    },
    /// The broker does not take up a subscription now; it will be asked again
    /// later. Whoever does not want to wait unsubscribes.
    SubscribeDelayed {
        /// Which.
        subscription: SubscriptionId,
        /// What the broker said.
        error: WireError,
    },
    /// Records of a subscription.
    Delivered(Delivery),
    /// Records that will never come.
    Gap {
        /// Of which subscription.
        subscription: SubscriptionId,
        /// The partition.
        partition: u32,
        /// The offset that should have been next.
        expected: u64,
        /// The offset that is next; lower than `expected` where history was lost.
        next: u64,
    },
    /// A filter left records out; the cursor is here now.
    Progress {
        /// Of which subscription.
        subscription: SubscriptionId,
        /// The partition.
        partition: u32,
        /// The next offset.
        next: u64,
    },
    /// One partition of a subscription brings nothing any more.
    PartitionEnded {
        /// Of which subscription.
        subscription: SubscriptionId,
        /// The partition.
        partition: u32,
        /// Why.
        error: WireError,
    },
    /// A subscription is over, though nobody asked for that.
    Ended {
        /// Which.
        subscription: SubscriptionId,
        /// Why.
        error: WireError,
    },
}

/// Records of one partition: those from `first` up to `next` that there are,
/// none twice and none missing.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Of which subscription.
    pub subscription: SubscriptionId,
    /// The partition.
    pub partition: u32,
    /// The partition's epoch.
    pub epoch: u32,
    /// Where the cursor was.
    pub first: u64,
    /// Where the cursor is now.
    pub next: u64,
    pub(super) batches: Vec<Records>,
}

impl Delivery {
    /// The records, in order.
    pub fn records(&self) -> impl Iterator<Item = RecordRef<'_>> + '_ {
        let first = self.first;
        self.batches
            .iter()
            .flat_map(Records::iter)
            .filter(move |record| record.offset >= first)
    }

    /// The batches, of which the first may begin before `first`: for those who
    /// want the columns.
    pub fn batches(&self) -> &[Records] {
        &self.batches
    }
}

/// Why a one-shot request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The broker (or the session, before sending) refused it.
    #[error(transparent)]
    Refused(#[from] WireError),
    /// The connection was lost after the request was sent and before its
    /// answer; it may or may not have been carried out.
    #[error("the connection was lost before the answer; the request may have been carried out")]
    ConnectionLost,
}
