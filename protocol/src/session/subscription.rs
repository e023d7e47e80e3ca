//! Subscriptions: cursors that outlive connections, and the proof that nothing
//! between two deliveries is missing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use super::event::{Delivery, Event, SubscriptionId};
use crate::error::{ErrorCode, WireError};
use crate::frame::{Deliver, Ended, Gap, Position, Progress, Start, Subscribe, Subscribed};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be asked for on this connection.
    Wanted,
    /// Asked for.
    Asked,
    /// Delivers.
    Active { stream: u64 },
    /// To be asked for again, later.
    Waiting { until: Duration },
}

#[derive(Debug)]
struct Subscription {
    request: Subscribe,
    /// The next offset wanted of each partition that is known.
    cursors: BTreeMap<u32, Position>,
    state: State,
    /// The broker has confirmed it once: `cursors` names every partition there was.
    begun: bool,
    /// Unsubscribed while asked for: to be ended as soon as its stream is known.
    dropped: bool,
    attempts: u32,
}

impl Subscription {
    /// What to ask for now: at first what the user did, later what is missing.
    fn ask(&self) -> Subscribe {
        let mut ask = self.request.clone();
        if self.begun {
            ask.resume = self.cursors.values().copied().collect();
            if ask.partitions.is_empty() {
                // A partition without a cursor was added meanwhile; all of it is missing.
                ask.from = Start::Earliest;
            }
        }
        ask
    }

    /// The cursor of a partition that the broker speaks of.
    fn cursor(&self, partition: u32, epoch: u32) -> Option<Position> {
        let known = self.cursors.get(&partition).copied();
        // A partition without a cursor was added after the subscription began.
        known.or_else(|| {
            self.request.partitions.is_empty().then_some(Position {
                partition,
                offset: 0,
                epoch,
            })
        })
    }

    fn same_stream(&self, other: &Subscribe) -> bool {
        self.request.topic == other.topic && self.request.filter == other.filter
    }
}

/// The frame broke the protocol.
pub(super) type Violation = String;

#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    all: BTreeMap<SubscriptionId, Subscription>,
    streams: HashMap<u64, SubscriptionId>,
    /// Streams to be ended on this connection.
    leaving: VecDeque<u64>,
    last_id: u64,
}

impl Subscriptions {
    pub(super) fn add(
        &mut self,
        request: Subscribe,
        events: &mut VecDeque<Event>,
    ) -> SubscriptionId {
        self.last_id += 1;
        let id = SubscriptionId(self.last_id);
        if self
            .all
            .values()
            .any(|other| !other.dropped && other.same_stream(&request))
        {
            let error = ErrorCode::AlreadySubscribed.because(format!(
                "this session has a subscription to `{}` with this filter already",
                request.topic
            ));
            events.push_back(Event::Ended {
                subscription: id,
                error,
            });
            return id;
        }
        let cursors = request
            .resume
            .iter()
            .map(|position| (position.partition, *position))
            .collect();
        let state = State::Wanted;
        self.all.insert(
            id,
            Subscription {
                request,
                cursors,
                state,
                begun: false,
                dropped: false,
                attempts: 0,
            },
        );
        id
    }

    pub(super) fn remove(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.all.get_mut(&id) else {
            return;
        };
        match subscription.state {
            State::Asked => subscription.dropped = true,
            State::Active { stream } => {
                self.streams.remove(&stream);
                self.leaving.push_back(stream);
                self.all.remove(&id);
            }
            State::Wanted | State::Waiting { .. } => {
                self.all.remove(&id);
            }
        }
    }

    /// Where a subscription stands.
    pub(super) fn positions(&self, id: SubscriptionId) -> Vec<Position> {
        self.all.get(&id).map_or_else(Vec::new, |subscription| {
            subscription.cursors.values().copied().collect()
        })
    }

    pub(super) fn next_leaving(&mut self) -> Option<u64> {
        self.leaving.pop_front()
    }

    /// The next subscription to ask for. One whose stream another that was just
    /// dropped still holds has to wait for that one's end.
    pub(super) fn next_ask(&mut self) -> Option<(SubscriptionId, Subscribe)> {
        let wanted = self
            .all
            .iter()
            .filter(|(_, subscription)| subscription.state == State::Wanted);
        let free = |request: &Subscribe| {
            !self
                .all
                .values()
                .any(|other| other.dropped && other.same_stream(request))
        };
        let id = wanted
            .filter(|(_, subscription)| free(&subscription.request))
            .map(|(id, _)| *id)
            .next()?;
        let subscription = self.all.get_mut(&id)?;
        subscription.state = State::Asked;
        Some((id, subscription.ask()))
    }

    pub(super) fn subscribed(
        &mut self,
        id: SubscriptionId,
        answer: &Subscribed,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Violation> {
        let Some(subscription) = self.all.get_mut(&id) else {
            return Ok(());
        };
        if subscription.dropped {
            self.leaving.push_back(answer.stream);
            self.all.remove(&id);
            return Ok(());
        }
        if self.streams.insert(answer.stream, id).is_some() {
            return Err(format!(
                "stream {} was given to two subscriptions",
                answer.stream
            ));
        }
        subscription.state = State::Active {
            stream: answer.stream,
        };
        subscription.begun = true;
        subscription.attempts = 0;
        for position in &answer.positions {
            // Where the session has a cursor, only frames move it: then nothing can be skipped unseen.
            subscription
                .cursors
                .entry(position.partition)
                .or_insert(*position);
        }
        let positions = subscription.cursors.values().copied().collect();
        events.push_back(Event::Subscribed {
            subscription: id,
            positions,
        });
        Ok(())
    }

    /// The broker refused: for now, or for good.
    pub(super) fn refused(
        &mut self,
        id: SubscriptionId,
        error: WireError,
        retry_at: impl FnOnce(u32) -> Duration,
        events: &mut VecDeque<Event>,
    ) {
        let Some(subscription) = self.all.get_mut(&id) else {
            return;
        };
        if !subscription.dropped && error.code.retryable() {
            subscription.attempts += 1;
            subscription.state = State::Waiting {
                until: retry_at(subscription.attempts),
            };
            events.push_back(Event::SubscribeDelayed {
                subscription: id,
                error,
            });
            return;
        }
        if !subscription.dropped {
            events.push_back(Event::Ended {
                subscription: id,
                error,
            });
        }
        self.all.remove(&id);
    }

    /// Whether the delivery brought anything new.
    pub(super) fn deliver(
        &mut self,
        frame: &Deliver,
        events: &mut VecDeque<Event>,
    ) -> Result<bool, Violation> {
        let Some((id, subscription)) = self.stream(frame.stream) else {
            return Ok(false);
        };
        let mut cursor = expected(subscription, frame.partition, frame.epoch)?;
        if frame.next <= cursor.offset {
            return Ok(false);
        }
        let mut batches = Vec::new();
        let mut end = None;
        for batch in frame.batches.iter_opened() {
            let (batch, records) = batch.map_err(|error| error.to_string())?;
            let begin = end.unwrap_or(cursor.offset);
            let fits = if end.is_none() {
                batch.base_offset() <= begin
            } else {
                batch.base_offset() == begin
            };
            if !fits {
                return Err(hole(frame, begin, batch.base_offset()));
            }
            end = Some(batch.end_offset());
            batches.push(records);
        }
        let end = end.ok_or_else(|| "a delivery has no batch".to_owned())?;
        // Only a filter leaves records out.
        if end > frame.next || (end < frame.next && subscription.request.filter.is_none()) {
            return Err(hole(frame, end, frame.next));
        }
        let first = std::mem::replace(&mut cursor.offset, frame.next);
        subscription.cursors.insert(frame.partition, cursor);
        let (partition, epoch, next) = (frame.partition, frame.epoch, frame.next);
        events.push_back(Event::Delivered(Delivery {
            subscription: id,
            partition,
            epoch,
            first,
            next,
            batches,
        }));
        Ok(true)
    }

    pub(super) fn gap(&mut self, frame: Gap, events: &mut VecDeque<Event>) {
        let Some((subscription, known)) = self.stream(frame.stream) else {
            return;
        };
        let Some(cursor) = known.cursor(frame.partition, frame.epoch) else {
            return;
        };
        if frame.epoch == cursor.epoch && frame.next <= cursor.offset {
            return;
        }
        let Gap {
            partition,
            epoch,
            next,
            ..
        } = frame;
        known.cursors.insert(
            partition,
            Position {
                partition,
                offset: next,
                epoch,
            },
        );
        events.push_back(Event::Gap {
            subscription,
            partition,
            expected: cursor.offset,
            next,
        });
    }

    pub(super) fn progress(
        &mut self,
        frame: Progress,
        events: &mut VecDeque<Event>,
    ) -> Result<(), Violation> {
        let Some((id, subscription)) = self.stream(frame.stream) else {
            return Ok(());
        };
        let mut cursor = expected(subscription, frame.partition, frame.epoch)?;
        if frame.next <= cursor.offset {
            return Ok(());
        }
        if subscription.request.filter.is_none() {
            let (from, to) = (cursor.offset, frame.next);
            return Err(format!(
                "partition {}: offsets {from} to {to} were skipped without a filter",
                frame.partition
            ));
        }
        cursor.offset = frame.next;
        subscription.cursors.insert(frame.partition, cursor);
        events.push_back(Event::Progress {
            subscription: id,
            partition: frame.partition,
            next: frame.next,
        });
        Ok(())
    }

    pub(super) fn ended(
        &mut self,
        frame: Ended,
        retry_at: impl FnOnce(u32) -> Duration,
        events: &mut VecDeque<Event>,
    ) {
        let Some(subscription) = self.streams.get(&frame.stream).copied() else {
            return;
        };
        let error = frame.error;
        if let Some(partition) = frame.partition {
            events.push_back(Event::PartitionEnded {
                subscription,
                partition,
                error,
            });
            return;
        }
        self.streams.remove(&frame.stream);
        self.refused(subscription, error, retry_at, events);
    }

    pub(super) fn disconnected(&mut self) {
        self.streams.clear();
        self.leaving.clear();
        self.all.retain(|_, subscription| !subscription.dropped);
        for subscription in self.all.values_mut() {
            subscription.state = State::Wanted;
        }
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        let untils = self
            .all
            .values()
            .filter_map(|subscription| match subscription.state {
                State::Waiting { until } => Some(until),
                _ => None,
            });
        untils.min()
    }

    pub(super) fn handle_timeout(&mut self, now: Duration) {
        for subscription in self.all.values_mut() {
            if matches!(subscription.state, State::Waiting { until } if until <= now) {
                subscription.state = State::Wanted;
            }
        }
    }

    /// The subscription behind a stream. Frames of a stream that was just left are no error.
    fn stream(&mut self, stream: u64) -> Option<(SubscriptionId, &mut Subscription)> {
        let id = *self.streams.get(&stream)?;
        Some((id, self.all.get_mut(&id)?))
    }
}

fn expected(
    subscription: &Subscription,
    partition: u32,
    epoch: u32,
) -> Result<Position, Violation> {
    let cursor = subscription
        .cursor(partition, epoch)
        .ok_or_else(|| format!("partition {partition} was not subscribed to"))?;
    if cursor.epoch != epoch {
        let known = cursor.epoch;
        return Err(format!(
            "partition {partition} changed from epoch {known} to {epoch} without a gap notice"
        ));
    }
    Ok(cursor)
}

fn hole(frame: &Deliver, expected: u64, found: u64) -> Violation {
    let partition = frame.partition;
    format!("partition {partition}: a delivery goes on at offset {found}, {expected} was expected")
}
