//! The producers of a connection: takes batches out of their buffers, gives
//! them to the session, and tells the buffers what became of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use eddy_protocol::WireError;
use eddy_protocol::frame::{Produced, Request};
use eddy_protocol::session::{ProduceId, ProduceRefused, ProducerHandle, Session};
use tokio::time::Instant;

use crate::ClientError;
use crate::calls::Calls;
use crate::producer::{Sealed, Served, Shared, Ticket};

/// How often a producer asks whether its topic has more partitions.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// Names a producer among those of its connection.
pub(crate) type Key = ProducerHandle;

#[derive(Debug)]
struct Producing {
    shared: Served,
    /// Its last handle is gone: it goes once everything is acknowledged.
    leaving: bool,
    /// Why its batches wait, as the broker last said.
    delayed: Option<WireError>,
    /// It was asked how many partitions the topic has.
    refreshing: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    all: HashMap<Key, Producing>,
    batches: HashMap<ProduceId, (Key, Ticket)>,
    refresh_at: Option<Instant>,
}

impl Producers {
    pub(crate) fn add(&mut self, session: &mut Session, shared: Served, name: Option<String>) {
        let key = session.open_producer(name);
        self.all.insert(
            key,
            Producing {
                shared,
                leaving: false,
                delayed: None,
                refreshing: false,
            },
        );
    }

    pub(crate) fn drop_when_done(&mut self, shared: &Arc<Shared>) {
        for producing in self
            .all
            .values_mut()
            .filter(|producing| Arc::ptr_eq(&producing.shared.0, shared))
        {
            producing.leaving = true;
            shared.buffer().seal_all();
        }
    }

    /// Gives the session every batch whose turn has come; when the next linger ends.
    pub(crate) fn hand_over(&mut self, session: &mut Session, now: Instant) -> Option<Instant> {
        let mut next = None;
        let mut failed = Vec::new();
        for (key, producing) in &self.all {
            let due = producing.shared.buffer().linger(now);
            next = [next, due].into_iter().flatten().min();
            loop {
                let Some(Sealed { ticket, batch }) = producing.shared.buffer().next(now) else {
                    break;
                };
                match session.produce(*key, producing.shared.topic(), ticket.partition, batch) {
                    Ok(id) => drop(self.batches.insert(id, (*key, ticket))),
                    Err(ProduceRefused::ProducerFailed(error)) => {
                        failed.push((*key, ClientError::from(error)));
                        break;
                    }
                    // The session was given no limit of its own.
                    Err(error @ ProduceRefused::Full(_)) => unreachable!("{error}"),
                }
            }
        }
        for (key, error) in failed {
            self.failed(session, key, &error);
        }
        next
    }

    /// Asks how many partitions each topic has by now.
    pub(crate) fn refresh(&mut self, session: &mut Session, calls: &mut Calls, now: Instant) {
        for (key, producing) in &mut self.all {
            // The session keeps the question over lost connections.
            if std::mem::replace(&mut producing.refreshing, true) {
                continue;
            }
            let topic = producing.shared.topic().clone();
            calls.ask_partitions(session, Request::DescribeTopic { topic }, *key);
        }
        self.refresh_at = Some(now + REFRESH_EVERY);
    }

    /// Whether it is time to ask again.
    pub(crate) fn refresh_due(&self, now: Instant) -> bool {
        !self.all.is_empty() && self.refresh_at.is_some_and(|at| at <= now)
    }

    /// The answer to that, if there was one.
    pub(crate) fn refreshed(&mut self, key: Key, partitions: Option<u32>) {
        let Some(producing) = self.all.get_mut(&key) else {
            return;
        };
        producing.refreshing = false;
        if let Some(partitions) = partitions {
            producing.shared.buffer().set_partitions(partitions);
        }
    }

    /// A batch is in the log, or was refused for good.
    pub(crate) fn answered(
        &mut self,
        batch: ProduceId,
        result: Result<Produced, WireError>,
        now: Instant,
    ) {
        let Some((key, ticket)) = self.batches.remove(&batch) else {
            return;
        };
        if let Some(producing) = self.all.get_mut(&key) {
            producing.delayed = None;
            let result = result.map_err(ClientError::from);
            producing.shared.answered(ticket, result, now);
        }
    }

    pub(crate) fn batch_delayed(&mut self, batch: ProduceId, error: WireError) {
        if let Some((key, _)) = self.batches.get(&batch).copied() {
            self.delayed(key, Some(error));
        }
    }

    /// Why the producer has to wait, or that it does not any more.
    pub(crate) fn delayed(&mut self, key: Key, error: Option<WireError>) {
        if let Some(producing) = self.all.get_mut(&key) {
            producing.delayed = error;
        }
    }

    /// The end of a producer. What it had not finished is given up.
    pub(crate) fn failed(&mut self, session: &mut Session, key: Key, error: &ClientError) {
        if let Some(producing) = self.all.remove(&key) {
            producing.shared.fail(error);
            self.forget(session, key);
        }
    }

    fn forget(&mut self, session: &mut Session, key: Key) {
        self.batches.retain(|_, (of, _)| *of != key);
        session.close_producer(key);
    }

    /// Gives up the producers for which nothing moved for longer than the
    /// deadline, and lets those go that are done.
    pub(crate) fn sweep(
        &mut self,
        session: &mut Session,
        now: Instant,
        deadline: Option<Duration>,
        error: impl Fn() -> ClientError,
    ) {
        let done: Vec<Key> = self
            .all
            .iter()
            .filter(|(_, producing)| producing.leaving && producing.shared.buffer().is_empty())
            .map(|(key, _)| *key)
            .collect();
        for key in done {
            self.all.remove(&key);
            self.forget(session, key);
        }
        let Some(deadline) = deadline else { return };
        let stuck: Vec<(Key, ClientError)> = self
            .all
            .iter()
            .filter(|(_, producing)| {
                producing
                    .shared
                    .buffer()
                    .stuck_since()
                    .is_some_and(|since| now - since >= deadline)
            })
            .map(|(key, producing)| {
                (
                    *key,
                    producing
                        .delayed
                        .clone()
                        .map_or_else(&error, ClientError::from),
                )
            })
            .collect();
        for (key, error) in stuck {
            self.failed(session, key, &error);
        }
    }

    /// When to [`sweep`](Self::sweep) or to [`refresh`](Self::refresh) at the latest.
    pub(crate) fn due(&self, deadline: Option<Duration>) -> Option<Instant> {
        let stuck = self
            .all
            .values()
            .filter_map(|producing| producing.shared.buffer().stuck_since())
            .min();
        let stuck_until = stuck.and_then(|since| since.checked_add(deadline?));
        let refresh_at = self.refresh_at.filter(|_| !self.all.is_empty());
        [stuck_until, refresh_at].into_iter().flatten().min()
    }

    pub(crate) fn fail_all(&mut self, session: &mut Session, error: &ClientError) {
        let keys: Vec<Key> = self.all.keys().copied().collect();
        for key in keys {
            self.failed(session, key, error);
        }
    }
}
