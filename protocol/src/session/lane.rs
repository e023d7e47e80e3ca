//! The batches of one producer for one partition, in order, until each is in
//! the log once or given up.
//!
//! Numbers: a batch gets its sequence when it is first sent, and keeps it as
//! long as the broker may have it. The broker takes a sequence only when all
//! before it are taken; from that everything here follows:
//!
//! - After a lost connection, or a refusal that will pass, all batches without
//!   an answer are sent again in order with the sequences they had.
//! - After any refusal nothing more is sent until every batch in flight has its
//!   answer (`Settling`): those behind the refused one are out of order.
//! - A batch that is refused for good leaves a hole. If no copy of it or of
//!   those behind it can still be under way on a lost connection, they are
//!   numbered anew from the hole on. Otherwise they wait (behind the `barrier`)
//!   for a new identity of the producer, which shuts old copies out: it is the
//!   next epoch of the present one.
//! - A batch that may be in the log is given up, not repeated under a new
//!   number, unless a batch before it is known never to get there: because the
//!   broker refuses it whenever it sees it, or lost what came before it.

use std::collections::VecDeque;
use std::time::Duration;

use super::event::{Event, ProduceId};
use crate::batch::{Batch, ProducerStamp, Unstamped, sequence_after};
use crate::error::{ErrorCode, WireError};
use crate::frame::{Produced, Producer, Welcome};
use crate::name::TopicName;

#[derive(Debug)]
struct Pending {
    id: ProduceId,
    /// Whole once it has a sequence: the checksum is made with the stamp.
    batch: Batch,
    sequence: Option<u32>,
    /// Sent on this connection, without an answer yet.
    outstanding: bool,
    /// A copy may be in the log: it was sent, and there was no answer that says otherwise.
    maybe_appended: bool,
    refusal: Option<WireError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Something was refused; the answers to the rest are awaited.
    Settling,
    /// Goes on later.
    Waiting {
        until: Duration,
    },
}

/// What the next batch to send is.
#[derive(Debug)]
pub(super) enum Next {
    Send {
        id: ProduceId,
        batch: Batch,
    },
    /// It would be refused; it was given up instead.
    GivenUp,
    Nothing,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) topic: TopicName,
    pub(super) partition: u32,
    queue: VecDeque<Pending>,
    /// So many at the front of the queue were sent on this connection.
    sent: usize,
    next_sequence: u32,
    state: State,
    /// So many at the front may be sent; the others wait for a new identity.
    barrier: Option<usize>,
    attempts: u32,
}

impl Lane {
    pub(super) fn new(topic: TopicName, partition: u32) -> Lane {
        Lane {
            topic,
            partition,
            queue: VecDeque::new(),
            sent: 0,
            next_sequence: 0,
            state: State::Open,
            barrier: None,
            attempts: 0,
        }
    }

    pub(super) fn push(&mut self, id: ProduceId, batch: Unstamped) {
        let (sequence, refusal) = (None, None);
        self.queue.push_back(Pending {
            id,
            batch: batch.into_unsealed(),
            sequence,
            outstanding: false,
            maybe_appended: false,
            refusal,
        });
    }

    /// Whether there is something to send now.
    pub(super) fn is_ready(&self, in_flight_max: usize) -> bool {
        let end = self
            .barrier
            .unwrap_or(usize::MAX)
            .min(self.queue.len())
            .min(in_flight_max);
        self.state == State::Open && self.sent < end
    }

    pub(super) fn next(
        &mut self,
        identity: Producer,
        welcome: &Welcome,
        in_flight_max: usize,
        freed: &mut Freed<'_>,
    ) -> Next {
        if !self.is_ready(in_flight_max) {
            return Next::Nothing;
        }
        let at = self.sent;
        let Some(pending) = self.queue.get_mut(at) else {
            return Next::Nothing;
        };
        if pending.sequence.is_none() {
            if let Some(error) = too_large(&pending.batch, welcome) {
                // It never had a sequence, so it leaves no hole.
                if let Some(pending) = self.queue.remove(at) {
                    freed.give_up(&pending, error);
                }
                return Next::GivenUp;
            }
            let sequence = self.next_sequence;
            let stamp = ProducerStamp {
                id: identity.id,
                epoch: identity.epoch,
                sequence,
            };
            pending.batch.set_producer(Some(stamp));
            pending.sequence = Some(sequence);
            self.next_sequence = sequence_after(sequence, pending.batch.count());
        }
        pending.outstanding = true;
        self.sent += 1;
        Next::Send {
            id: pending.id,
            batch: pending.batch.clone(),
        }
    }

    /// The broker has the batch.
    pub(super) fn produced(&mut self, id: ProduceId, produced: Produced, freed: &mut Freed<'_>) {
        let Some(at) = self.outstanding(id) else {
            return;
        };
        let Some(pending) = self.queue.remove(at) else {
            return;
        };
        self.sent -= 1;
        self.barrier = self.barrier.map(|barrier| barrier.saturating_sub(1));
        self.attempts = 0;
        freed.bytes(&pending);
        freed.events.push_back(Event::Produced {
            batch: id,
            produced,
        });
    }

    /// The broker refused the batch.
    pub(super) fn refused(&mut self, id: ProduceId, error: WireError) {
        let Some(at) = self.outstanding(id) else {
            return;
        };
        let pending = &mut self.queue[at];
        pending.outstanding = false;
        pending.maybe_appended |= may_have_appended(error.code);
        pending.refusal = Some(error);
        self.state = State::Settling;
    }

    fn outstanding(&self, id: ProduceId) -> Option<usize> {
        self.queue
            .iter()
            .take(self.sent)
            .position(|pending| pending.id == id && pending.outstanding)
    }

    /// Whether all answers are there after a refusal, so that [`settle`](Self::settle) can decide.
    pub(super) fn is_settled(&self) -> bool {
        self.state == State::Settling
            && !self
                .queue
                .iter()
                .take(self.sent)
                .any(|pending| pending.outstanding)
    }

    /// Decides what becomes of the batches after a refusal. True: the producer
    /// needs a new identity.
    pub(super) fn settle(
        &mut self,
        retry_at: impl FnOnce(u32) -> Duration,
        freed: &mut Freed<'_>,
    ) -> bool {
        let sequenced = self.sequenced();
        let mut settling = Settling::default();
        for pending in self.queue.drain(..sequenced) {
            settling.judge(pending, freed);
        }
        let Settling {
            kept,
            barrier,
            hole,
            delayed,
            ..
        } = settling;
        let renumber = hole.filter(|hole| barrier.is_none() && hole.clean);
        let blocked = barrier.or_else(|| hole.filter(|hole| !hole.clean).map(|hole| hole.at));

        for pending in kept.into_iter().rev() {
            self.queue.push_front(pending);
        }
        self.sent = 0;
        if let Some(hole) = renumber {
            self.number_anew(hole.at, hole.sequence);
        }
        if let Some(blocked) = blocked {
            self.barrier = Some(self.barrier.map_or(blocked, |barrier| barrier.min(blocked)));
        } else if let Some(barrier) = self.barrier {
            self.barrier = Some(barrier.min(self.sequenced()));
        }
        self.attempts += 1;
        self.state = if delayed {
            State::Waiting {
                until: retry_at(self.attempts),
            }
        } else {
            State::Open
        };
        blocked.is_some()
    }

    /// How many at the front of the queue have a sequence.
    fn sequenced(&self) -> usize {
        self.queue
            .iter()
            .take_while(|pending| pending.sequence.is_some())
            .count()
    }

    fn number_anew(&mut self, from: usize, sequence: u32) {
        for pending in self.queue.iter_mut().skip(from) {
            pending.sequence = None;
        }
        self.next_sequence = sequence;
    }

    /// From now on only what has a sequence is sent.
    pub(super) fn stop_before_unsequenced(&mut self) {
        if self.barrier.is_none() {
            self.barrier = Some(self.sequenced());
        }
    }

    /// Nothing is under way or will be before the new identity.
    pub(super) fn is_quiet(&self) -> bool {
        self.barrier == Some(0) && self.sent == 0
    }

    /// The producer has a new identity, for which all sequences begin anew.
    pub(super) fn begin_anew(&mut self, retry_at: impl FnOnce(u32) -> Duration) {
        self.number_anew(0, 0);
        for pending in &mut self.queue {
            pending.maybe_appended = false;
        }
        self.barrier = None;
        self.sent = 0;
        // The first refusal is answered at once; a broker that refuses again is given time.
        self.state = if self.attempts > 1 {
            State::Waiting {
                until: retry_at(self.attempts),
            }
        } else {
            State::Open
        };
    }

    /// The connection is gone: whatever has no answer may be in the log.
    pub(super) fn disconnected(&mut self) {
        for pending in self.queue.iter_mut().take(self.sent) {
            pending.maybe_appended |= pending.outstanding;
            pending.outstanding = false;
        }
        if self.state != State::Settling {
            self.sent = 0;
        }
    }

    /// All batches are given up.
    pub(super) fn fail(&mut self, error: &WireError, freed: &mut Freed<'_>) {
        for mut pending in self.queue.drain(..) {
            pending.maybe_appended |= pending.outstanding;
            freed.give_up(&pending, error.clone());
        }
        self.sent = 0;
        self.state = State::Open;
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Open | State::Settling => None,
        }
    }

    /// Whether the wait is over.
    pub(super) fn handle_timeout(&mut self, now: Duration) -> bool {
        let over = matches!(self.state, State::Waiting { until } if until <= now);
        if over {
            self.state = State::Open;
        }
        over
    }
}

/// Where the sequences have a hole, by its place among the batches that are kept.
#[derive(Debug, Clone, Copy)]
struct Hole {
    at: usize,
    sequence: u32,
    /// No copy of it or of a batch behind it can be under way any more.
    clean: bool,
}

/// Goes through the batches that have a sequence, in order, with their refusals.
#[derive(Debug, Default)]
struct Settling {
    kept: Vec<Pending>,
    hole: Option<Hole>,
    /// From here on a new identity is needed.
    barrier: Option<usize>,
    /// Why batches from here on that may be in the log have to be given up.
    uncertain: Option<WireError>,
    delayed: bool,
    /// A batch before this one was not taken.
    blocked: bool,
}

impl Settling {
    fn judge(&mut self, mut pending: Pending, freed: &mut Freed<'_>) {
        let refusal = pending.refusal.take();
        match refusal {
            Some(error) if is_about_identity(error.code) => {
                self.barrier.get_or_insert(self.kept.len());
                self.uncertain.get_or_insert(error);
            }
            // Behind a batch that was not taken this is what must happen.
            Some(error) if error.code == ErrorCode::OutOfOrderSequence && self.blocked => {}
            // At the very front it means that the broker lost what it had acknowledged.
            Some(error) if error.code == ErrorCode::OutOfOrderSequence => {
                self.barrier.get_or_insert(self.kept.len());
                freed.delay(&pending, error);
            }
            Some(error) if error.code.retryable() => {
                self.delayed = true;
                freed.delay(&pending, error);
            }
            Some(error) => {
                self.blocked = true;
                let (at, sequence) = (self.kept.len(), pending.sequence.unwrap_or(0));
                let hole = self.hole.get_or_insert(Hole {
                    at,
                    sequence,
                    clean: true,
                });
                hole.clean &= !pending.maybe_appended;
                if !is_refused_always(error.code) {
                    self.uncertain.get_or_insert(error.clone());
                }
                freed.give_up(&pending, error);
                return;
            }
            None => {}
        }
        self.blocked = true;
        // Also of a batch that is given up here a copy may be under way.
        if let Some(hole) = &mut self.hole {
            hole.clean &= !pending.maybe_appended;
        }
        if let Some(error) = self.uncertain.clone().filter(|_| pending.maybe_appended) {
            freed.give_up(&pending, error);
            return;
        }
        self.kept.push(pending);
    }
}

/// Where batches go that are done with.
#[derive(Debug)]
pub(super) struct Freed<'a> {
    pub(super) events: &'a mut VecDeque<Event>,
    pub(super) pending_batches: &'a mut usize,
    pub(super) pending_bytes: &'a mut usize,
}

impl Freed<'_> {
    fn bytes(&mut self, pending: &Pending) {
        *self.pending_batches -= 1;
        *self.pending_bytes -= pending.batch.len();
    }

    fn give_up(&mut self, pending: &Pending, error: WireError) {
        self.bytes(pending);
        let maybe_appended = pending.maybe_appended;
        self.events.push_back(Event::ProduceFailed {
            batch: pending.id,
            error,
            maybe_appended,
        });
    }

    fn delay(&mut self, pending: &Pending, error: WireError) {
        self.events.push_back(Event::ProduceDelayed {
            batch: pending.id,
            error,
        });
    }
}

/// Whether the broker does not take the producer's identity (any more).
fn is_about_identity(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::UnknownProducer | ErrorCode::FencedProducer)
}

/// Whether every copy of the batch is refused, also one that came before or is
/// still under way. A topic, on the other hand, may come to be before that one
/// arrives, and a limit may have been another.
fn is_refused_always(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::MalformedFrame
            | ErrorCode::InvalidArgument
            | ErrorCode::InvalidName
            | ErrorCode::CorruptBatch
    )
}

/// Whether a batch that was refused with this may be in the log all the same.
fn may_have_appended(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::TimedOut
            | ErrorCode::StorageFailed
            | ErrorCode::Internal
            | ErrorCode::ShuttingDown
            // Of a newer broker; nobody here knows what the error, or the answer, means.
            | ErrorCode::Unknown { .. }
            | ErrorCode::Unsupported
    )
}

fn too_large(batch: &Batch, welcome: &Welcome) -> Option<WireError> {
    let bytes = batch.len().max(batch.raw_len()) as u64;
    let limit = welcome.batch_bytes_max;
    (bytes > limit).then(|| {
        ErrorCode::BatchTooLarge.because(format!(
            "the batch has {bytes} bytes, at most {limit} are allowed"
        ))
    })
}
