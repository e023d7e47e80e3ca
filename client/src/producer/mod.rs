//! Producing to a topic: records in, acknowledgements out.
//!
//! A record is copied once, into the columns of its partition's next batch;
//! there is no task, channel or allocation for each. A batch leaves when it is
//! full or has lingered, several are on their way for each partition, and each
//! carries the producer's identity and a sequence, so that a retry after a lost
//! connection or a restart of the broker neither repeats nor reorders.

mod buffer;

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use eddy_protocol::TopicName;
use eddy_protocol::frame::Produced;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

pub(crate) use self::buffer::{Buffer, Sealed, Ticket};
use self::buffer::{Outcome, Pushed, Refused, Waiting};
use crate::client::{Command, Handle};
use crate::{ClientError, NewRecord, ProducerConfig};

/// What a producer has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Records that were taken.
    pub pushed: u64,
    /// Records that are in the log.
    pub acknowledged: u64,
    /// Records of batches that the broker refused, or of which nobody knows
    /// whether they are in the log.
    pub refused: u64,
}

/// Why [`Producer::try_push`] did not take a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// As many bytes as `buffer_bytes` allows wait for their acknowledgement.
    #[error("the producer's buffer is full")]
    Full,
    /// The record can't be taken, now or later.
    #[error(transparent)]
    Failed(#[from] ClientError),
}

/// Produces to one topic. Cloning gives another handle of the same producer.
///
/// A batch that the broker refuses for good (what is in it, a stopped partition,
/// a topic that was deleted) takes nothing else with it: its records get the
/// error, the next [`flush`](Self::flush) gives it, and all others go on in their
/// order.
///
/// After an error that is about the producer itself (a newer producer of the same
/// name shut this one out, nothing was acknowledged within the deadline) the
/// producer has failed: every call returns that error, and what was not
/// acknowledged may or may not be in the log.
///
/// Dropping the last handle takes nothing back: the client sends what was
/// pushed as long as it lives itself. To be sure, [`flush`](Self::flush) first.
#[derive(Debug, Clone)]
pub struct Producer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    /// Keeps the connection alive, and tells it when the producer is dropped.
    handle: Handle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.handle
            .tell(Command::DropProducer(Arc::clone(&self.shared)));
    }
}

/// What the handles and the connection's task share.
#[derive(Debug)]
pub(crate) struct Shared {
    topic: TopicName,
    buffer: Mutex<Buffer>,
    /// Something was answered, or the producer failed.
    settled: Notify,
}

impl Shared {
    pub(crate) fn new(
        topic: TopicName,
        partitions: u32,
        record_bytes_max: usize,
        config: ProducerConfig,
    ) -> Shared {
        let buffer = Buffer::new(topic.to_string(), partitions, record_bytes_max, config);
        Shared {
            topic,
            buffer: Mutex::new(buffer),
            settled: Notify::new(),
        }
    }

    pub(crate) fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// The buffer. A panic while it was held left it whole: nothing in it panics halfway.
    pub(crate) fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn answered(
        &self,
        ticket: Ticket,
        result: Result<Produced, ClientError>,
        now: Instant,
    ) {
        self.buffer().answered(ticket, result, now);
        self.settled.notify_waiters();
    }

    pub(crate) fn fail(&self, error: &ClientError) {
        self.buffer().fail(error);
        self.settled.notify_waiters();
    }
}

/// The task's end of a producer. When it goes, for whatever reason, the
/// producer fails, so that nobody waits for what will never come.
#[derive(Debug)]
pub(crate) struct Served(pub(crate) Arc<Shared>);

impl Deref for Served {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The first reason stands, if there was one.
        self.0.fail(&ClientError::Closed);
    }
}

impl Producer {
    pub(crate) fn new(shared: Arc<Shared>, handle: Handle) -> Producer {
        Producer {
            inner: Arc::new(Inner { shared, handle }),
        }
    }

    /// The topic.
    pub fn topic(&self) -> &TopicName {
        &self.inner.shared.topic
    }

    /// Takes a record if there is room, without waiting. What becomes of it is
    /// known after the next [`flush`](Self::flush).
    pub fn try_push(&self, record: &NewRecord<'_>) -> Result<(), PushError> {
        let pushed = self.inner.shared.buffer().push(record, now_ms);
        match pushed {
            Ok(pushed) => {
                self.wake(pushed);
                Ok(())
            }
            Err(Refused::Full) => Err(PushError::Full),
            Err(Refused::Error(error)) => Err(PushError::Failed(error)),
        }
    }

    /// Takes a record as soon as there is room for it.
    pub async fn push(&self, record: &NewRecord<'_>) -> Result<(), ClientError> {
        match self.try_push(record) {
            Ok(()) => Ok(()),
            Err(PushError::Failed(error)) => Err(error),
            Err(PushError::Full) => self
                .when_room(|buffer| buffer.push(record, now_ms))
                .await
                .map(|pushed| self.wake(pushed)),
        }
    }

    /// Takes a record as soon as there is room for it, and says how to wait
    /// until it is in the log. Dropping the [`Ack`] does not take it back.
    pub async fn send(&self, record: &NewRecord<'_>) -> Result<Ack, ClientError> {
        let (pushed, (row, outcome)): (Pushed, Waiting) = self
            .when_room(|buffer| buffer.push_asking(record, now_ms))
            .await?;
        self.wake(pushed);
        Ok(Ack { row, outcome })
    }

    /// Sends what was pushed before this call without lingering, and waits until
    /// all of it is in the log. If a batch was refused since the last flush, that
    /// is the error, once everything else is in the log.
    pub async fn flush(&self) -> Result<(), ClientError> {
        let shared = &self.inner.shared;
        let marks = {
            let mut buffer = shared.buffer();
            buffer.seal_all();
            buffer.marks()
        };
        self.inner.handle.wake();
        loop {
            let settled = shared.settled.notified();
            {
                let mut buffer = shared.buffer();
                if buffer.passed(&marks) {
                    return buffer.take_refusal().map_or(Ok(()), Err);
                }
                if let Some(error) = buffer.failure() {
                    return Err(error.clone());
                }
            }
            settled.await;
        }
    }

    /// Waits until a batch is refused or the producer fails, for those who push
    /// without end; that error, which the next [`flush`](Self::flush) gives too.
    pub async fn refused(&self) -> ClientError {
        let shared = &self.inner.shared;
        loop {
            let settled = shared.settled.notified();
            {
                let buffer = shared.buffer();
                if let Some(error) = buffer.failure().or(buffer.refusal()) {
                    return error.clone();
                }
            }
            settled.await;
        }
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        self.inner.shared.buffer().counts()
    }

    /// The largest record that is taken: its key, value and headers, and some
    /// bytes for each of them.
    pub fn record_bytes_max(&self) -> usize {
        self.inner.shared.buffer().record_bytes_max()
    }

    /// Tries again whenever something was answered, until there is room.
    async fn when_room<T>(
        &self,
        mut attempt: impl FnMut(&mut Buffer) -> Result<T, Refused>,
    ) -> Result<T, ClientError> {
        let shared = &self.inner.shared;
        loop {
            let settled = shared.settled.notified();
            let result = attempt(&mut shared.buffer());
            match result {
                Ok(taken) => return Ok(taken),
                Err(Refused::Error(error)) => return Err(error),
                Err(Refused::Full) => {}
            }
            if shared.buffer().make_room() {
                self.inner.handle.wake();
            }
            settled.await;
        }
    }

    fn wake(&self, pushed: Pushed) {
        if pushed == Pushed::Wake {
            self.inner.handle.wake();
        }
    }
}

/// What becomes of one record.
#[derive(Debug)]
pub struct Ack {
    row: u32,
    outcome: watch::Receiver<Outcome>,
}

/// Where a record went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// The partition.
    pub partition: u32,
    /// Its offset. Absent where the broker recognised a repeat that is older
    /// than what it remembers; the record is in the log all the same.
    pub offset: Option<u64>,
}

impl Ack {
    /// Waits until the record is in the log, as safe as its topic's durability says.
    pub async fn wait(mut self) -> Result<Acknowledged, ClientError> {
        let outcome = self
            .outcome
            .wait_for(Option::is_some)
            .await
            .map_err(|_| ClientError::Closed)?;
        match outcome.as_ref() {
            Some(Ok(produced)) => Ok(Acknowledged {
                partition: produced.partition,
                offset: produced.offset.map(|offset| offset + u64::from(self.row)),
            }),
            Some(Err(error)) => Err(error.clone()),
            None => Err(ClientError::Closed),
        }
    }
}

fn now_ms() -> i64 {
    // A clock before 1970 gives 1970.
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Served, Shared};
    use crate::{ClientError, ProducerConfig};

    #[test]
    fn a_producer_that_the_task_lets_go_has_failed() {
        let topic = "t".parse().expect("a name");
        let shared = Arc::new(Shared::new(topic, 1, 1000, ProducerConfig::default()));
        drop(Served(Arc::clone(&shared)));
        assert_eq!(shared.buffer().failure(), Some(&ClientError::Closed));
    }
}
