//! Producers: an identity from the broker and a lane for each partition; and
//! the change to a new identity, for which all lanes must first be quiet.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use super::event::{Event, ProduceId, ProducerHandle};
use super::lane::{Freed, Lane, Next};
use crate::batch::{Batch, Unstamped};
use crate::error::{ErrorCode, WireError};
use crate::frame::{OpenProducer, Produced, Producer, Welcome};
use crate::name::TopicName;

/// A lane, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LaneId {
    pub(super) producer: ProducerHandle,
    lane: usize,
}

/// Lanes one after the other, none twice.
#[derive(Debug, Default)]
struct Turns {
    queue: VecDeque<LaneId>,
    queued: HashSet<LaneId>,
}

impl Turns {
    fn add(&mut self, lane: LaneId) {
        if self.queued.insert(lane) {
            self.queue.push_back(lane);
        }
    }

    fn take(&mut self) -> Option<LaneId> {
        let lane = self.queue.pop_front()?;
        self.queued.remove(&lane);
        Some(lane)
    }
}

#[derive(Debug)]
enum Identity {
    /// To be asked for on this connection.
    Wanted,
    /// Asked for.
    Asked,
    /// To be asked for later.
    Waiting {
        until: Duration,
    },
    Held(Producer),
    /// There will be none.
    Failed(WireError),
}

#[derive(Debug)]
struct Producing {
    name: Option<String>,
    identity: Identity,
    /// The newest identity that it had.
    current: Option<Producer>,
    /// A new identity will be asked for once all lanes are quiet.
    changing: bool,
    lanes: Vec<Lane>,
    places: BTreeMap<TopicName, BTreeMap<u32, usize>>,
    attempts: u32,
    /// Requests for the name's identity whose answers were lost. Each of them
    /// may raise the epoch and shut this producer itself out.
    lost_opens: VecDeque<LostOpen>,
}

/// See [`Producing::lost_opens`].
#[derive(Debug)]
struct LostOpen {
    /// Until then the broker may go on reading the connection that it was sent on.
    read_until: Duration,
    /// A later batch than this was sent after that time: if it is taken, the
    /// request has shut nobody out and never will.
    decided_after: Option<ProduceId>,
}

impl Producing {
    fn lane(&mut self, topic: &TopicName, partition: u32) -> usize {
        if let Some(place) = self
            .places
            .get(topic)
            .and_then(|lanes| lanes.get(&partition))
        {
            return *place;
        }
        let place = self.lanes.len();
        let mut lane = Lane::new(topic.clone(), partition);
        if self.changing {
            lane.stop_before_unsequenced();
        }
        self.lanes.push(lane);
        self.places
            .entry(topic.clone())
            .or_default()
            .insert(partition, place);
        place
    }

    /// A batch was taken under the present epoch.
    fn taken(&mut self, batch: ProduceId, newest: ProduceId, now: Duration) {
        self.lost_opens
            .retain(|lost| lost.decided_after.is_none_or(|after| batch <= after));
        for lost in &mut self.lost_opens {
            if lost.read_until <= now {
                lost.decided_after.get_or_insert(newest);
            }
        }
    }

    fn change_identity(&mut self) {
        self.changing = true;
        for lane in &mut self.lanes {
            lane.stop_before_unsequenced();
        }
    }

    /// Asks for the new identity once nothing is under way under the old one.
    fn change_when_quiet(&mut self) {
        let quiet = || self.lanes.iter().all(Lane::is_quiet);
        if self.changing && matches!(self.identity, Identity::Held(_)) && quiet() {
            self.identity = Identity::Wanted;
        }
    }
}

/// Why a session does not take a batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProduceRefused {
    /// The session holds as many batches or bytes as it may; there is room
    /// again after the next [`Event::Produced`] or [`Event::ProduceFailed`]. The
    /// batch comes back.
    #[error("the session holds as many batches as it may")]
    Full(Unstamped),
    /// The producer failed, or was closed.
    #[error("the producer is of no more use: {0}")]
    ProducerFailed(WireError),
}

#[derive(Debug, Default)]
pub(super) struct Producers {
    all: BTreeMap<ProducerHandle, Producing>,
    /// Lanes that may have something to send, each once.
    ready: Turns,
    last_producer: u64,
    last_batch: u64,
    /// How long the broker goes on with a connection of which it hears nothing.
    idle_timeout: Duration,
    pending_batches: usize,
    pending_bytes: usize,
}

impl Producers {
    pub(super) fn open(&mut self, name: Option<String>) -> ProducerHandle {
        self.last_producer += 1;
        let handle = ProducerHandle(self.last_producer);
        let producing = Producing {
            name,
            identity: Identity::Wanted,
            current: None,
            changing: false,
            lanes: Vec::new(),
            places: BTreeMap::new(),
            attempts: 0,
            lost_opens: VecDeque::new(),
        };
        self.all.insert(handle, producing);
        handle
    }

    /// What the broker says of itself on a new connection.
    pub(super) fn welcomed(&mut self, welcome: &Welcome) {
        self.idle_timeout = Duration::from_millis(welcome.idle_timeout_ms);
    }

    pub(super) fn pending(&self) -> (usize, usize) {
        (self.pending_batches, self.pending_bytes)
    }

    pub(super) fn push(
        &mut self,
        handle: ProducerHandle,
        topic: &TopicName,
        partition: u32,
        batch: Unstamped,
    ) -> Result<ProduceId, ProduceRefused> {
        let Some(producing) = self.all.get_mut(&handle) else {
            let error = ErrorCode::UnknownProducer.because("the session has no such producer");
            return Err(ProduceRefused::ProducerFailed(error));
        };
        if let Identity::Failed(error) = &producing.identity {
            return Err(ProduceRefused::ProducerFailed(error.clone()));
        }
        self.last_batch += 1;
        let id = ProduceId(self.last_batch);
        self.pending_batches += 1;
        self.pending_bytes += batch.len();
        let lane = producing.lane(topic, partition);
        producing.lanes[lane].push(id, batch);
        self.ready.add(LaneId {
            producer: handle,
            lane,
        });
        Ok(id)
    }

    /// The batches of the producer are given up.
    pub(super) fn close(&mut self, handle: ProducerHandle, events: &mut VecDeque<Event>) {
        let error = ErrorCode::UnknownProducer.because("the producer was closed");
        self.fail(handle, &error, events);
        self.all.remove(&handle);
    }

    /// A producer that wants an identity.
    pub(super) fn next_open(&mut self) -> Option<(ProducerHandle, OpenProducer)> {
        let wanted = |producing: &&mut Producing| matches!(producing.identity, Identity::Wanted);
        let (handle, producing) = self
            .all
            .iter_mut()
            .find_map(|(handle, producing)| Some((*handle, Some(producing).filter(wanted)?)))?;
        producing.identity = Identity::Asked;
        let name = producing.name.clone();
        // A name says it already, to whoever holds it.
        let current = producing.current.filter(|_| name.is_none());
        Some((handle, OpenProducer { name, current }))
    }

    pub(super) fn opened(
        &mut self,
        handle: ProducerHandle,
        identity: Producer,
        mut retry_at: impl FnMut(u32) -> Duration,
        events: &mut VecDeque<Event>,
    ) {
        let Some(producing) = self.all.get_mut(&handle) else {
            return;
        };
        producing.identity = Identity::Held(identity);
        producing.current = Some(identity);
        producing.attempts = 0;
        if std::mem::take(&mut producing.changing) {
            producing
                .lanes
                .iter_mut()
                .for_each(|lane| lane.begin_anew(&mut retry_at));
        }
        events.push_back(Event::ProducerOpened {
            producer: handle,
            identity,
        });
        self.wake(handle);
    }

    pub(super) fn open_refused(
        &mut self,
        handle: ProducerHandle,
        error: &WireError,
        retry_at: impl FnOnce(u32) -> Duration,
        events: &mut VecDeque<Event>,
    ) {
        let Some(producing) = self.all.get_mut(&handle) else {
            return;
        };
        if error.code.retryable() {
            producing.attempts += 1;
            producing.identity = Identity::Waiting {
                until: retry_at(producing.attempts),
            };
            events.push_back(Event::ProducerDelayed {
                producer: handle,
                error: error.clone(),
            });
        } else {
            self.fail(handle, error, events);
        }
    }

    /// The next batch to send, fairly among the lanes.
    pub(super) fn next(
        &mut self,
        welcome: &Welcome,
        in_flight_max: usize,
        events: &mut VecDeque<Event>,
    ) -> Option<(LaneId, ProduceId, TopicName, u32, Batch)> {
        while let Some(id) = self.ready.take() {
            let Some(producing) = self.all.get_mut(&id.producer) else {
                continue;
            };
            let Identity::Held(identity) = producing.identity else {
                continue;
            };
            let Some(lane) = producing.lanes.get_mut(id.lane) else {
                continue;
            };
            let mut freed = Freed {
                events,
                pending_batches: &mut self.pending_batches,
                pending_bytes: &mut self.pending_bytes,
            };
            match lane.next(identity, welcome, in_flight_max, &mut freed) {
                Next::Nothing => {}
                Next::GivenUp => self.ready.add(id),
                Next::Send {
                    id: batch_id,
                    batch,
                } => {
                    let (topic, partition) = (lane.topic.clone(), lane.partition);
                    if lane.is_ready(in_flight_max) {
                        self.ready.add(id);
                    }
                    return Some((id, batch_id, topic, partition, batch));
                }
            }
        }
        None
    }

    pub(super) fn produced(
        &mut self,
        id: LaneId,
        batch: ProduceId,
        result: Result<Produced, WireError>,
        now: Duration,
        retry_at: impl FnMut(u32) -> Duration,
        events: &mut VecDeque<Event>,
    ) {
        let Some(producing) = self.all.get_mut(&id.producer) else {
            return;
        };
        let Some(lane) = producing.lanes.get_mut(id.lane) else {
            return;
        };
        match result {
            Ok(produced) => {
                let mut freed = Freed {
                    events,
                    pending_batches: &mut self.pending_batches,
                    pending_bytes: &mut self.pending_bytes,
                };
                lane.produced(batch, produced, &mut freed);
                producing.taken(batch, ProduceId(self.last_batch), now);
            }
            Err(error) if error.code == ErrorCode::FencedProducer && !producing.changing => {
                lane.refused(batch, error.clone());
                if producing.lost_opens.pop_front().is_none() {
                    self.fail(id.producer, &error, events);
                    return;
                }
                // At once: the other lanes will hear the same.
                producing.change_identity();
            }
            Err(error) => lane.refused(batch, error),
        }
        self.settle(id, retry_at, events);
        self.ready.add(id);
    }

    fn settle(
        &mut self,
        id: LaneId,
        retry_at: impl FnMut(u32) -> Duration,
        events: &mut VecDeque<Event>,
    ) {
        let Some(producing) = self.all.get_mut(&id.producer) else {
            return;
        };
        let Some(lane) = producing.lanes.get_mut(id.lane) else {
            return;
        };
        if lane.is_settled() {
            let mut freed = Freed {
                events,
                pending_batches: &mut self.pending_batches,
                pending_bytes: &mut self.pending_bytes,
            };
            if lane.settle(retry_at, &mut freed) {
                producing.change_identity();
            }
        }
        producing.change_when_quiet();
    }

    fn fail(&mut self, handle: ProducerHandle, error: &WireError, events: &mut VecDeque<Event>) {
        let Some(producing) = self.all.get_mut(&handle) else {
            return;
        };
        if matches!(producing.identity, Identity::Failed(_)) {
            return;
        }
        producing.identity = Identity::Failed(error.clone());
        events.push_back(Event::ProducerFailed {
            producer: handle,
            error: error.clone(),
        });
        let mut freed = Freed {
            events,
            pending_batches: &mut self.pending_batches,
            pending_bytes: &mut self.pending_bytes,
        };
        producing
            .lanes
            .iter_mut()
            .for_each(|lane| lane.fail(error, &mut freed));
    }

    /// Everything without an answer is to be sent again.
    pub(super) fn disconnected(
        &mut self,
        now: Duration,
        mut retry_at: impl FnMut(u32) -> Duration,
        events: &mut VecDeque<Event>,
    ) {
        let handles: Vec<ProducerHandle> = self.all.keys().copied().collect();
        for producer in handles {
            let Some(producing) = self.all.get_mut(&producer) else {
                continue;
            };
            if matches!(producing.identity, Identity::Asked) {
                producing.identity = Identity::Wanted;
                if producing.name.is_some() {
                    producing.lost_opens.push_back(LostOpen {
                        read_until: now.saturating_add(self.idle_timeout),
                        decided_after: None,
                    });
                }
            }
            producing.lanes.iter_mut().for_each(Lane::disconnected);
            for lane in 0..producing.lanes.len() {
                self.settle(LaneId { producer, lane }, &mut retry_at, events);
            }
            self.wake(producer);
        }
    }

    pub(super) fn timeout(&self) -> Option<Duration> {
        let of_producer = |producing: &Producing| {
            let identity = match producing.identity {
                Identity::Waiting { until } => Some(until),
                _ => None,
            };
            producing
                .lanes
                .iter()
                .filter_map(Lane::timeout)
                .chain(identity)
                .min()
        };
        self.all.values().filter_map(of_producer).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Duration) {
        for (producer, producing) in &mut self.all {
            if matches!(producing.identity, Identity::Waiting { until } if until <= now) {
                producing.identity = Identity::Wanted;
            }
            for (place, lane) in producing.lanes.iter_mut().enumerate() {
                if lane.handle_timeout(now) {
                    self.ready.add(LaneId {
                        producer: *producer,
                        lane: place,
                    });
                }
            }
        }
    }

    /// Looks at every lane of a producer again.
    fn wake(&mut self, producer: ProducerHandle) {
        let lanes = self
            .all
            .get(&producer)
            .map_or(0, |producing| producing.lanes.len());
        for lane in 0..lanes {
            self.ready.add(LaneId { producer, lane });
        }
    }
}
