//! A producer as clients do it: numbered batches, several in flight, retries in
//! order from the first that is not acknowledged.

use std::collections::VecDeque;

use eddy_protocol::{Batch, BatchBuilder, Compression, ProducerStamp};

use crate::log::{Append, Commit, CommitError, Committed, Producer, Ticket, TopicId, ticket};
use crate::store::request::Request;

const IN_FLIGHT_MAX: usize = 5;

/// A batch that is not acknowledged.
#[derive(Debug)]
pub(super) struct Unacknowledged {
    pub(super) sequence: u32,
    pub(super) values: Vec<String>,
    ticket: Option<Ticket<Committed>>,
}

/// A client with one producer.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) name: String,
    pub(super) partition: u32,
    producer: Option<Producer>,
    opening: Option<Ticket<Producer>>,
    next: u32,
    unacknowledged: VecDeque<Unacknowledged>,
    must_resend: bool,
}

/// What an answer taught.
#[derive(Debug)]
pub(super) struct Acknowledged {
    pub(super) offset: Option<u64>,
    pub(super) values: Vec<String>,
}

impl Client {
    pub(super) fn new(name: String, partition: u32) -> Client {
        Client {
            name,
            partition,
            producer: None,
            opening: None,
            next: 0,
            unacknowledged: VecDeque::new(),
            must_resend: false,
        }
    }

    /// The next request, if the client has one to make.
    pub(super) fn step(
        &mut self,
        topic: TopicId,
        random: &mut fastrand::Rng,
        now_ms: i64,
    ) -> Vec<Request> {
        let Some(producer) = self.producer else {
            if self.opening.is_some() {
                return Vec::new();
            }
            let (reply, ticket) = ticket();
            self.opening = Some(ticket);
            return vec![Request::OpenProducer {
                name: Some(self.name.clone()),
                current: None,
                reply,
            }];
        };
        if self.must_resend {
            let is_waiting = self.unacknowledged.iter().any(|sent| sent.ticket.is_some());
            if is_waiting && random.u8(..4) > 0 {
                return Vec::new();
            }
            self.must_resend = false;
            let partition = self.partition;
            return self
                .unacknowledged
                .iter_mut()
                .map(|sent| sent.request(topic, partition, producer, now_ms))
                .collect();
        }
        if self.unacknowledged.len() >= IN_FLIGHT_MAX {
            return Vec::new();
        }
        let count = random.u32(1..5);
        let values = (self.next..self.next + count)
            .map(|n| format!("{}:{n}", self.name))
            .collect();
        let mut sent = Unacknowledged {
            sequence: self.next,
            values,
            ticket: None,
        };
        self.next += count;
        let request = sent.request(topic, self.partition, producer, now_ms);
        self.unacknowledged.push_back(sent);
        vec![request]
    }

    /// Forgets an answer that may come, as a lost connection does.
    pub(super) fn lose_answers(&mut self) {
        self.opening = None;
        for sent in &mut self.unacknowledged {
            sent.ticket = None;
        }
        self.must_resend = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        self.unacknowledged.is_empty() && self.producer.is_some()
    }

    /// Whether everything may be sent again.
    pub(super) fn wants_to_finish(&mut self) {
        if self.unacknowledged.iter().all(|sent| sent.ticket.is_none()) {
            self.must_resend = !self.unacknowledged.is_empty();
        }
    }

    pub(super) fn poll(&mut self) -> Vec<Acknowledged> {
        if let Some(answer) = self.opening.as_mut().and_then(Ticket::try_take) {
            self.opening = None;
            // Under a name the identity stays; the client goes on with its numbers only under the
            // same epoch, so it opens once and keeps what it got.
            self.producer = self.producer.or(answer.ok());
        }
        let mut taught = Vec::new();
        for sent in &mut self.unacknowledged {
            let Some(answer) = sent.ticket.as_mut().and_then(Ticket::try_take) else {
                continue;
            };
            sent.ticket = None;
            match answer {
                Ok(committed) => {
                    let values = std::mem::take(&mut sent.values);
                    taught.push(Acknowledged {
                        offset: committed.appends[0].offset,
                        values,
                    });
                }
                Err(
                    CommitError::DiskFull
                    | CommitError::Stopped { .. }
                    | CommitError::OutOfOrder { .. }
                    | CommitError::StorageFailed(_)
                    | CommitError::Closed,
                ) => {
                    self.must_resend = true;
                }
                Err(error) => panic!("{}: {error}", self.name),
            }
        }
        self.unacknowledged.retain(|sent| !sent.values.is_empty());
        taught
    }
}

impl Unacknowledged {
    fn request(
        &mut self,
        topic: TopicId,
        partition: u32,
        producer: Producer,
        now_ms: i64,
    ) -> Request {
        let stamp = ProducerStamp {
            id: producer.id,
            epoch: producer.epoch,
            sequence: self.sequence,
        };
        let append = Append {
            topic,
            partition,
            batch: batch(&self.values, Some(stamp), now_ms),
        };
        let (reply, ticket) = ticket();
        self.ticket = Some(ticket);
        Request::Commit {
            commit: Commit {
                appends: vec![append],
                ..Commit::default()
            },
            reply,
        }
    }
}

/// A batch of these values.
pub(super) fn batch(values: &[String], stamp: Option<ProducerStamp>, now_ms: i64) -> Batch {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder
            .push(now_ms, None, Some(value.as_bytes()), &[])
            .expect("a small record fits");
    }
    builder
        .finish(Compression::None, stamp)
        .expect("a small batch can be encoded")
}
