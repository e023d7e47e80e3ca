//! Calls that wait for an answer or for a connection, each with its own deadline.

use std::collections::HashMap;

use eddy_protocol::frame::{Answer, Request, Welcome};
use eddy_protocol::session::{RequestError, RequestId, Session};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::ClientError;
use crate::producers::{Key, Producers};

type Answering = oneshot::Sender<Result<Answer, ClientError>>;

#[derive(Debug)]
enum Asker {
    Call {
        until: Option<Instant>,
        answer: Answering,
    },
    /// Asked by the task itself: how many partitions a producer's topic has.
    Partitions(Key),
}

#[derive(Debug)]
struct Waiter {
    until: Option<Instant>,
    answer: oneshot::Sender<Result<Welcome, ClientError>>,
}

/// See the module. An answer that nobody waits for any more is dropped.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    asked: HashMap<RequestId, Asker>,
    waiting: Vec<Waiter>,
}

impl Calls {
    pub(crate) fn begin(
        &mut self,
        session: &mut Session,
        request: Request,
        until: Option<Instant>,
        answer: Answering,
    ) {
        self.asked
            .insert(session.request(request), Asker::Call { until, answer });
    }

    pub(crate) fn ask_partitions(
        &mut self,
        session: &mut Session,
        request: Request,
        producer: Key,
    ) {
        self.asked
            .insert(session.request(request), Asker::Partitions(producer));
    }

    pub(crate) fn wait_for_connection(
        &mut self,
        until: Option<Instant>,
        answer: oneshot::Sender<Result<Welcome, ClientError>>,
    ) {
        self.waiting.push(Waiter { until, answer });
    }

    pub(crate) fn connection_stands(&mut self, welcome: &Welcome) {
        for waiter in self.waiting.drain(..) {
            let _ = waiter.answer.send(Ok(welcome.clone()));
        }
    }

    pub(crate) fn answered(
        &mut self,
        request: RequestId,
        result: Result<Answer, RequestError>,
        producers: &mut Producers,
    ) {
        match self.asked.remove(&request) {
            Some(Asker::Call { answer, .. }) => {
                let _ = answer.send(result.map_err(ClientError::from));
            }
            Some(Asker::Partitions(producer)) => {
                let partitions = match result {
                    Ok(Answer::Topic(info)) => Some(info.partitions.len() as u32),
                    // It will be asked again.
                    _ => None,
                };
                producers.refreshed(producer, partitions);
            }
            None => {}
        }
    }

    /// Fails the calls whose deadline has passed, and forgets those that nobody waits for.
    pub(crate) fn sweep(
        &mut self,
        session: &mut Session,
        now: Instant,
        error: impl Fn() -> ClientError,
    ) {
        let passed = |until: &Option<Instant>| until.is_some_and(|until| until <= now);
        let late = self.asked.extract_if(|_, asker| match asker {
            Asker::Call { until, answer } => passed(until) || answer.is_closed(),
            Asker::Partitions(_) => false,
        });
        for (request, asker) in late {
            session.cancel(request);
            if let Asker::Call { answer, .. } = asker {
                let _ = answer.send(Err(error()));
            }
        }
        for waiter in self.waiting.extract_if(.., |waiter| {
            passed(&waiter.until) || waiter.answer.is_closed()
        }) {
            let _ = waiter.answer.send(Err(error()));
        }
    }

    /// When to [`sweep`](Self::sweep) at the latest.
    pub(crate) fn due(&self) -> Option<Instant> {
        let asked = self.asked.values().filter_map(|asker| match asker {
            Asker::Call { until, .. } => *until,
            Asker::Partitions(_) => None,
        });
        let waiting = self.waiting.iter().filter_map(|waiter| waiter.until);
        asked.chain(waiting).min()
    }

    pub(crate) fn fail_all(&mut self, error: &ClientError) {
        for (_, asker) in self.asked.drain() {
            if let Asker::Call { answer, .. } = asker {
                let _ = answer.send(Err(error.clone()));
            }
        }
        for waiter in self.waiting.drain(..) {
            let _ = waiter.answer.send(Err(error.clone()));
        }
    }
}

impl From<RequestError> for ClientError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(error) => ClientError::Refused(error),
            RequestError::ConnectionLost => ClientError::ConnectionLost,
        }
    }
}
