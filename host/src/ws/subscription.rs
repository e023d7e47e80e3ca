//! A connection's subscriptions: their cursors, taken in turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use eddy_protocol::frame::{Ended, Position, Progress};
use eddy_protocol::{ErrorCode, Form, ServerFrame, WireError};

use tokio::time::Instant;

use super::signal::{CursorKey, CursorSignal, Signal};
use crate::broker::{Cursor, FollowGuard, Frame, ListenGuard, Load, Loaded, Next, Stream};
use crate::metrics::{self as names, Present};

/// All subscriptions of a connection.
pub(super) struct Subscriptions {
    signal: Arc<Signal>,
    by_number: BTreeMap<u32, Subscription>,
    next_number: u32,
    /// Cursors that may have something to deliver.
    ready: VecDeque<CursorKey>,
    /// Cursors that something was in the way of, and when each is polled again,
    /// in that order.
    resting: VecDeque<(Instant, CursorKey)>,
    /// A cursor may have moved without its subscriber being told.
    is_untold: bool,
}

/// One subscription.
pub(super) struct Subscription {
    stream: Arc<Stream>,
    /// How many partitions the topic had when it was looked at last, for a
    /// subscription that named none: it gets those that are added later too.
    partitions: Option<u32>,
    cursors: BTreeMap<u32, Reader>,
    _follow: FollowGuard,
    _open: Present,
}

struct Reader {
    cursor: Cursor,
    signal: Arc<CursorSignal>,
    _listening: ListenGuard,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Waiting,
    Ready,
    Loading,
    /// Whatever is new meanwhile, it is not polled before its rest is over.
    Resting,
}

/// What a turn of a cursor asks the connection to do.
pub(super) enum Turn {
    Send(Arc<Frame>),
    Tell(ServerFrame),
    Load(CursorKey, Load),
}

impl Subscriptions {
    pub(super) fn new() -> Subscriptions {
        Subscriptions {
            signal: Arc::default(),
            by_number: BTreeMap::new(),
            next_number: 0,
            ready: VecDeque::new(),
            resting: VecDeque::new(),
            is_untold: false,
        }
    }

    pub(super) fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    pub(super) fn len(&self) -> usize {
        self.by_number.len()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whether there may be something for [`untold`](Subscriptions::untold) to tell.
    pub(super) fn is_untold(&self) -> bool {
        self.is_untold
    }

    /// Begins to deliver. A connection can hold a stream once.
    pub(super) fn add(
        &mut self,
        stream: Arc<Stream>,
        cursors: Vec<Cursor>,
        all_partitions: bool,
    ) -> Result<Vec<Position>, WireError> {
        if self
            .by_number
            .values()
            .any(|subscription| subscription.stream.id() == stream.id())
        {
            return Err(ErrorCode::AlreadySubscribed.because(format!(
                "this connection is subscribed to topic `{}` with the same filter already (stream {})",
                stream.topic().name(),
                stream.id()
            )));
        }
        let positions = cursors.iter().map(Cursor::position).collect();
        let number = self.next_number;
        self.next_number += 1;
        self.by_number.insert(
            number,
            Subscription {
                _follow: stream.follow(self.signal.clone()),
                stream,
                partitions: all_partitions.then_some(cursors.len() as u32),
                cursors: BTreeMap::new(),
                _open: Present::new(metrics::gauge!(names::SUBSCRIPTIONS)),
            },
        );
        cursors
            .into_iter()
            .for_each(|cursor| self.add_cursor(number, cursor));
        // The topic may have grown while its cursors were made.
        self.grow();
        Ok(positions)
    }

    /// Adds a partition to a subscription that is still there.
    fn add_cursor(&mut self, subscription: u32, cursor: Cursor) {
        let Some(held) = self.by_number.get_mut(&subscription) else {
            return;
        };
        let key = CursorKey {
            subscription,
            partition: cursor.partition(),
        };
        let signal = CursorSignal::new(key, &self.signal);
        let listening = cursor.listen(signal.clone());
        held.cursors.insert(
            key.partition,
            Reader {
                cursor,
                signal,
                _listening: listening,
                state: State::Ready,
            },
        );
        self.ready.push_back(key);
    }

    /// Ends a subscription; `false` if there is none.
    pub(super) fn remove(&mut self, stream: u64) -> bool {
        let before = self.by_number.len();
        self.by_number
            .retain(|_, subscription| subscription.stream.id() != stream);
        self.by_number.len() < before
    }

    /// Queues the cursors whose partitions have changed.
    pub(super) fn wake(&mut self) {
        for key in self.signal.take_changed() {
            self.make_ready(key);
        }
    }

    /// When the first cursor has rested.
    pub(super) fn rested_at(&self) -> Option<Instant> {
        self.resting.front().map(|(due, _)| *due)
    }

    /// Queues the cursors that have rested.
    pub(super) fn end_rests(&mut self, now: Instant) {
        while let Some((_, key)) = self.resting.pop_front_if(|(due, _)| *due <= now) {
            if let Some(reader) = self.reader(key)
                && reader.state == State::Resting
            {
                reader.state = State::Waiting;
                self.make_ready(key);
            }
        }
    }

    /// Adds the partitions that subscriptions to whole topics lack, from their first record on.
    pub(super) fn grow(&mut self) {
        let mut added = Vec::new();
        for (&number, subscription) in &mut self.by_number {
            let Some(known) = subscription.partitions else {
                continue;
            };
            let partitions = subscription.stream.topic().partitions().len() as u32;
            subscription.partitions = Some(partitions);
            let earliest = (known..partitions).filter_map(|new| subscription.stream.earliest(new));
            added.extend(earliest.map(|cursor| (number, cursor)));
        }
        added
            .into_iter()
            .for_each(|(number, cursor)| self.add_cursor(number, cursor));
    }

    /// Takes a turn of the cursor that waits longest; `None` if it had nothing to say.
    pub(super) fn turn(&mut self, form: Form) -> Option<Turn> {
        let key = self.ready.pop_front()?;
        let reader = self.reader(key)?;
        if reader.state != State::Ready {
            return None;
        }
        reader.state = State::Waiting;
        reader.signal.rearm();
        let next = reader.cursor.poll(form);
        let is_ahead = reader.cursor.is_ahead();
        self.is_untold |= is_ahead;
        self.act(key, next)
    }

    /// Takes what a load brought.
    pub(super) fn arrived(
        &mut self,
        key: CursorKey,
        loaded: Result<Loaded, WireError>,
        form: Form,
    ) -> Option<Turn> {
        let reader = self.reader(key)?;
        reader.state = State::Waiting;
        let next = reader.cursor.arrived(loaded, form);
        let is_ahead = reader.cursor.is_ahead();
        self.is_untold |= is_ahead;
        let Some(next) = next else {
            // Behind the others: a filter that keeps nothing must not shut them out.
            self.make_ready(key);
            return None;
        };
        self.act(key, next)
    }

    /// Cursors that have moved without their subscriber being told.
    pub(super) fn untold(&mut self) -> Vec<Progress> {
        self.is_untold = false;
        let readers = self
            .by_number
            .values_mut()
            .flat_map(|subscription| subscription.cursors.values_mut());
        readers
            .filter_map(|reader| reader.cursor.untold_progress())
            .collect()
    }

    fn act(&mut self, key: CursorKey, next: Next) -> Option<Turn> {
        match next {
            Next::Idle => None,
            Next::Frame(frame) => {
                self.make_ready(key);
                Some(Turn::Send(frame))
            }
            Next::Gap(gap) => {
                self.make_ready(key);
                Some(Turn::Tell(ServerFrame::Gap(gap)))
            }
            Next::Progress(progress) => {
                self.make_ready(key);
                Some(Turn::Tell(ServerFrame::Progress(progress)))
            }
            Next::Load(load) => {
                self.reader(key)?.state = State::Loading;
                Some(Turn::Load(key, load))
            }
            Next::Retry(pause) => {
                self.reader(key)?.state = State::Resting;
                let due = Instant::now() + pause;
                let place = self.resting.partition_point(|(other, _)| *other <= due);
                self.resting.insert(place, (due, key));
                None
            }
            Next::Ended(error) => Some(Turn::Tell(self.end(key, error)?)),
        }
    }

    /// A partition that ended ends alone; a subscription without partitions is over.
    fn end(&mut self, key: CursorKey, error: WireError) -> Option<ServerFrame> {
        let subscription = self.by_number.get_mut(&key.subscription)?;
        let stream = subscription.stream.id();
        if error.code == ErrorCode::PartitionStopped {
            subscription.cursors.remove(&key.partition);
            if !subscription.cursors.is_empty() {
                return Some(ServerFrame::Ended(Ended {
                    stream,
                    partition: Some(key.partition),
                    error,
                }));
            }
        }
        self.by_number.remove(&key.subscription);
        Some(ServerFrame::Ended(Ended {
            stream,
            partition: None,
            error,
        }))
    }

    fn make_ready(&mut self, key: CursorKey) {
        if let Some(reader) = self.reader(key)
            && reader.state == State::Waiting
        {
            reader.state = State::Ready;
            self.ready.push_back(key);
        }
    }

    fn reader(&mut self, key: CursorKey) -> Option<&mut Reader> {
        self.by_number
            .get_mut(&key.subscription)?
            .cursors
            .get_mut(&key.partition)
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use eddy_protocol::TopicName;
    use eddy_protocol::frame::{CreateTopic, Start, Subscribe, TopicSettings};

    use super::*;
    use crate::broker::Broker;

    const FORM: Form = Form::Binary;

    async fn subscribed() -> (Arc<Broker>, Subscriptions, CursorKey) {
        let broker = Broker::in_memory().await;
        let topic = TopicName::parse("t").expect("a name");
        let create = CreateTopic {
            topic: topic.clone(),
            partitions: 1,
            settings: TopicSettings::default(),
        };
        broker.create_topic(create).await.expect("a topic");
        let request = Subscribe {
            topic,
            partitions: Vec::new(),
            from: Start::Earliest,
            resume: Vec::new(),
            filter: None,
        };
        let (stream, cursors) = broker.subscribe(&request).await.expect("a stream");
        let mut subscriptions = Subscriptions::new();
        subscriptions.add(stream, cursors, true).expect("the first");
        let key = CursorKey {
            subscription: 0,
            partition: 0,
        };
        while subscriptions.has_ready() {
            assert!(subscriptions.turn(FORM).is_none(), "there are no records");
        }
        (broker, subscriptions, key)
    }

    fn is_signalled(subscriptions: &Subscriptions) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        matches!(subscriptions.signal().poll(&mut cx), Poll::Ready(()))
    }

    #[tokio::test]
    async fn a_cursor_that_rests_is_not_polled_early_however_often_it_is_rung() {
        let (_broker, mut subscriptions, key) = subscribed().await;
        let failed = || Err(ErrorCode::ReadFailed.because("not now"));
        let signal = subscriptions.reader(key).expect("a reader").signal.clone();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let failed_at = Instant::now();
            let turn = subscriptions.arrived(key, failed(), FORM);
            assert!(turn.is_none());
            let due = subscriptions.rested_at().expect("it rests");
            pauses.push((due - failed_at).as_secs());
            for _ in 0..10 {
                signal.ring();
                subscriptions.wake();
                assert!(!subscriptions.has_ready(), "it was rung");
                assert!(!is_signalled(&subscriptions));
            }
            subscriptions.end_rests(due - Duration::from_millis(1));
            assert!(!subscriptions.has_ready(), "it is too early");
            subscriptions.end_rests(due);
            assert!(subscriptions.has_ready(), "it has rested");
            assert_eq!(subscriptions.rested_at(), None, "one rest, one end");
            assert!(subscriptions.turn(FORM).is_none());
            signal.ring();
            assert!(is_signalled(&subscriptions), "it is heard again");
            subscriptions.wake();
            subscriptions.turn(FORM);
        }
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 32, 32]);
    }

    #[tokio::test]
    async fn a_subscription_that_ends_while_it_rests_is_forgotten() {
        let (_broker, mut subscriptions, key) = subscribed().await;
        let failed = Err(ErrorCode::ReadFailed.because("not now"));
        assert!(subscriptions.arrived(key, failed, FORM).is_none());
        let stream = subscriptions.by_number[&0].stream.id();
        assert!(subscriptions.remove(stream));
        let due = subscriptions.rested_at().expect("the rest goes on");
        subscriptions.end_rests(due);
        assert!(!subscriptions.has_ready() && subscriptions.rested_at().is_none());
    }
}
