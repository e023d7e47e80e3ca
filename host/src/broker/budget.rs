//! The memory for what is made for peers and not taken by them yet: records that
//! were read for an answer, and its bytes, whatever their form and their front.
//!
//! One budget for all connections, counted by what things take in memory. What
//! holds a part of it should hold little while it waits for its peer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eddy_protocol::{ErrorCode, WireError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Whole messages have one part of so many of the budget.
const WHOLE_SHARE: usize = 2;

/// The budget. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Budget {
    bytes_max: usize,
    wait_max: Duration,
    free: Arc<Semaphore>,
    /// What of it whole messages may take.
    for_whole: Arc<Semaphore>,
}

/// A part of the budget; given back when dropped.
#[derive(Debug)]
pub struct Held {
    permit: OwnedSemaphorePermit,
    whole: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// So many bytes; who waits for some longer than `wait_max` is refused.
    pub fn new(bytes_max: usize, wait_max: Duration) -> Budget {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS);
        Budget {
            bytes_max,
            wait_max,
            free: Arc::new(Semaphore::new(bytes_max)),
            for_whole: Arc::new(Semaphore::new(bytes_max / WHOLE_SHARE)),
        }
    }

    /// A part that is free now.
    pub fn try_take(&self, bytes: usize) -> Result<Held, WireError> {
        let permit = self.free.clone().try_acquire_many_owned(self.part(bytes));
        let whole = None;
        match permit {
            Ok(permit) => Ok(Held { permit, whole }),
            Err(_) => Err(self.used_up()),
        }
    }

    /// As [`take`](Budget::take), for a message that can't be made in pieces: few peers that don't
    /// read theirs would have all, so such messages together have only a part of the budget.
    pub async fn take_for_whole(&self, bytes: usize) -> Result<Held, WireError> {
        let bytes = bytes.min(self.bytes_max / WHOLE_SHARE);
        let permit = self.for_whole.clone().acquire_many_owned(self.part(bytes));
        match timeout(self.wait_max, permit).await {
            Ok(Ok(whole)) => Ok(Held {
                whole: Some(whole),
                ..self.take(bytes).await?
            }),
            Ok(Err(_)) | Err(_) => Err(self.used_up()),
        }
    }

    /// A part, once it is free, in the order of asking.
    pub async fn take(&self, bytes: usize) -> Result<Held, WireError> {
        let permit = self.free.clone().acquire_many_owned(self.part(bytes));
        match timeout(self.wait_max, permit).await {
            Ok(Ok(permit)) => Ok(Held {
                permit,
                whole: None,
            }),
            // Nobody closes the semaphore.
            Ok(Err(_)) | Err(_) => Err(self.used_up()),
        }
    }

    /// What is held at this moment.
    pub fn held_bytes(&self) -> usize {
        self.bytes_max - self.free.available_permits()
    }

    /// What needs more than there is gets all of it.
    fn part(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.bytes_max)).unwrap_or(u32::MAX)
    }

    fn used_up(&self) -> WireError {
        ErrorCode::TooMany.because(format!(
            "answers that their peers have not taken yet use up the memory for them: {} bytes (setting `broker.answers_bytes_max`)",
            self.bytes_max
        ))
    }
}

impl Held {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Gives back all but so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes().saturating_sub(bytes);
        for permit in [Some(&mut self.permit), self.whole.as_mut()] {
            drop(permit.and_then(|permit| permit.split(surplus)));
        }
    }

    /// So many bytes of it, or all, as a part of its own.
    pub fn split(&mut self, bytes: usize) -> Held {
        let bytes = bytes.min(self.bytes());
        let part = |permit: &mut OwnedSemaphorePermit| {
            permit.split(bytes).expect("no more than there are")
        };
        Held {
            permit: part(&mut self.permit),
            whole: self.whole.as_mut().map(part),
        }
    }
}

/// Bytes that give back what is held for them when nobody has them any more.
pub fn owned<H: Send + 'static>(bytes: impl AsRef<[u8]> + Send + 'static, held: H) -> Bytes {
    struct Owner<T, H>(T, H);
    impl<T: AsRef<[u8]>, H> AsRef<[u8]> for Owner<T, H> {
        fn as_ref(&self) -> &[u8] {
            self.0.as_ref()
        }
    }
    Bytes::from_owner(Owner(bytes, held))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_memory_gets_it_when_it_is_free_and_is_refused_with_the_settings_name() {
        let budget = Budget::new(1000, Duration::from_millis(20));
        let mut all = budget.take(5000).await.expect("all that there is");
        assert_eq!((all.bytes(), budget.held_bytes()), (1000, 1000));
        let refused = budget.take(1).await.expect_err("nothing is free");
        assert_eq!(refused.code, ErrorCode::TooMany);
        for part in ["1000 bytes", "broker.answers_bytes_max"] {
            assert!(refused.message.contains(part), "{refused}");
        }
        let part = all.split(300);
        all.shrink_to(100);
        assert_eq!(budget.held_bytes(), 400);
        assert!(budget.try_take(601).is_err());
        let patient = Budget {
            wait_max: Duration::from_secs(20),
            ..budget.clone()
        };
        let (taken, ()) = tokio::join!(patient.take(900), async { drop((part, all)) });
        assert_eq!(taken.expect("it is free by now").bytes(), 900);
        assert_eq!(budget.held_bytes(), 0);
    }

    #[tokio::test]
    async fn whole_messages_leave_a_part_of_the_budget_to_the_others() {
        let budget = Budget::new(1000, Duration::from_millis(20));
        let mut most = budget.take_for_whole(900).await.expect("a part");
        assert_eq!((most.bytes(), budget.held_bytes()), (500, 500));
        assert!(budget.take_for_whole(1).await.is_err());
        assert!(budget.try_take(500).is_ok(), "the others have theirs");
        most.shrink_to(100);
        let message = owned(vec![0; 100], most);
        let other = budget.take_for_whole(400).await.expect("it is free again");
        assert_eq!(budget.held_bytes(), 500);
        let slice = message.slice(1..2);
        drop((message, other));
        assert_eq!(budget.held_bytes(), 100, "a part of the message is there");
        drop(slice);
        assert_eq!(budget.held_bytes(), 0);
    }
}
