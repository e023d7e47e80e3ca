//! A client's session as pure state: what the native and the browser client
//! are made of. No clock, no sockets: the driver brings messages and time, and
//! takes messages and events.
//!
//! Promises, whatever happens to connections:
//! - Each batch that was taken is in the log once and in order, or reported as
//!   given up; if it may be in the log all the same, the report says so.
//! - Between two deliveries of a partition nothing is missing and nothing comes
//!   twice; where records are really gone there is an [`Event::Gap`].
//! - Each one-shot request is answered once.
//!
//! The driver's loop: give every [`Event::Connect`] exactly one
//! [`handle_connected`](Session::handle_connected) or
//! [`handle_disconnected`](Session::handle_disconnected), and every connection
//! that came about one `handle_disconnected` when it is gone (also after
//! [`Event::Close`]). After anything was handled or commanded: send all of
//! [`poll_transmit`](Session::poll_transmit) as the socket takes it, take all of
//! [`poll_event`](Session::poll_event), and call
//! [`handle_timeout`](Session::handle_timeout) at
//! [`poll_timeout`](Session::poll_timeout). Time is the span since any fixed
//! moment, and must not go backwards.
//!
//! A connection holds a stream once; therefore a session takes only one
//! subscription for the same topic and filter at a time. A second one gets an
//! [`Event::Ended`] with `already_subscribed`.

mod event;
mod lane;
mod link;
mod producer;
mod request;
mod subscription;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

pub use event::{
    Delivery, Event, ProduceId, ProducerHandle, RequestError, RequestId, SubscriptionId,
};
pub use producer::ProduceRefused;

use crate::batch::{Batches, Unstamped};
use crate::codec::{self, Form, FrameError, Message};
use crate::error::{ErrorCode, WireError};
use crate::frame::{
    self, Answer, ClientFrame, Hello, Position, Produce, Request, ServerFrame, Subscribe, Welcome,
};
use crate::name::TopicName;
use link::{Due, Link};
use producer::{LaneId, Producers};
use request::Requests;
use subscription::Subscriptions;

/// How a session behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name and version of the client's software, for the broker's log.
    pub client: String,
    /// How frames are written.
    pub form: Form,
    /// How long the broker may take to answer `hello`.
    pub hello_timeout: Duration,
    /// How often to ask whether the broker is there; more often if its own
    /// patience is short.
    pub keep_alive: Duration,
    /// A connection on which nothing was heard for so long is dropped, if the
    /// broker was asked meanwhile.
    pub silence_max: Duration,
    /// The first wait before connecting or sending again.
    pub backoff_min: Duration,
    /// The longest. A connection that lived so long begins with the first again.
    pub backoff_max: Duration,
    /// Chance in those waits; different for every client.
    pub seed: u64,
    /// How many batches for one partition may be without an answer. Of more
    /// than 8, a repeat may be answered without its offset.
    pub in_flight_max: usize,
    /// How many batches the session takes before it is full.
    pub pending_batches_max: usize,
    /// How many bytes of batches the session takes before it is full.
    pub pending_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            client: concat!("eddy ", env!("CARGO_PKG_VERSION")).to_owned(),
            form: Form::Binary,
            hello_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(10),
            silence_max: Duration::from_secs(30),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            seed: 0,
            in_flight_max: 8,
            pending_batches_max: 1024,
            pending_bytes_max: 32 << 20,
        }
    }
}

/// What a frame that is under way asked for.
#[derive(Debug, Clone, Copy)]
enum Waiting {
    Hello,
    Ping,
    Request(RequestId),
    OpenProducer(ProducerHandle),
    Produce(LaneId, ProduceId),
    Subscribe(SubscriptionId),
    Unsubscribe,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Session {
    config: Config,
    link: Link,
    requests: Requests,
    producers: Producers,
    subscriptions: Subscriptions,
    waiting: HashMap<u32, Waiting>,
    next_id: u32,
    ping: bool,
    /// Frames that only a newer release knows.
    skipped: u64,
    events: VecDeque<Event>,
}

impl Session {
    /// A session that wants to connect at once.
    pub fn new(config: Config) -> Session {
        Session {
            link: Link::new(&config),
            config,
            requests: Requests::default(),
            producers: Producers::default(),
            subscriptions: Subscriptions::default(),
            waiting: HashMap::new(),
            next_id: 0,
            ping: false,
            skipped: 0,
            events: VecDeque::from([Event::Connect]),
        }
    }

    // Commands. They are carried out when there is a connection, and outlive lost ones.

    /// Asks for something once. `subscribe` and the like have commands of their
    /// own and are refused here; a `produce` is taken, and is then neither
    /// repeated nor protected from being repeated by the caller.
    pub fn request(&mut self, request: Request) -> RequestId {
        self.requests.add(request, &mut self.events)
    }

    /// Forgets a one-shot request; it may be carried out all the same.
    pub fn cancel(&mut self, request: RequestId) {
        self.requests.cancel(request);
    }

    /// Begins a subscription.
    pub fn subscribe(&mut self, subscribe: Subscribe) -> SubscriptionId {
        self.subscriptions.add(subscribe, &mut self.events)
    }

    /// Ends a subscription; no event about it follows.
    pub fn unsubscribe(&mut self, subscription: SubscriptionId) {
        self.subscriptions.remove(subscription);
        self.events.retain(|event| !is_about(event, subscription));
    }

    /// Where a subscription stands in each partition: what to resume from, say,
    /// after a restart.
    pub fn positions(&self, subscription: SubscriptionId) -> Vec<Position> {
        self.subscriptions.positions(subscription)
    }

    /// A producer; with a name, older holders of the name are shut out.
    pub fn open_producer(&mut self, name: Option<String>) -> ProducerHandle {
        self.producers.open(name)
    }

    /// Gives up what the producer has not finished, and the producer.
    pub fn close_producer(&mut self, producer: ProducerHandle) {
        self.producers.close(producer, &mut self.events);
    }

    /// Takes a batch, whose stamp (if it has one) and offset don't matter. Batches of one
    /// producer for one partition get into the log in this order.
    pub fn produce(
        &mut self,
        producer: ProducerHandle,
        topic: &TopicName,
        partition: u32,
        batch: impl Into<Unstamped>,
    ) -> Result<ProduceId, ProduceRefused> {
        let batch = batch.into();
        if !self.has_room([batch.len()]) {
            return Err(ProduceRefused::Full(batch));
        }
        self.producers.push(producer, topic, partition, batch)
    }

    /// Whether batches of so many bytes would all be taken now. One alone always is.
    pub fn has_room(&self, sizes: impl IntoIterator<Item = usize>) -> bool {
        let (mut batches, mut bytes) = self.producers.pending();
        sizes.into_iter().all(|size| {
            bytes = bytes.saturating_add(size);
            batches += 1;
            batches == 1
                || (batches <= self.config.pending_batches_max
                    && bytes <= self.config.pending_bytes_max)
        })
    }

    /// How many batches, and how many bytes of them, are not finished.
    pub fn pending(&self) -> (usize, usize) {
        self.producers.pending()
    }

    /// What the broker said at the beginning, while there is a connection.
    pub fn welcome(&self) -> Option<&Welcome> {
        self.link.welcome()
    }

    /// How many frames of the broker were passed over because this release does not know them.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Drops the connection, and opens no other.
    pub fn close(&mut self) {
        self.link.close();
        self.drop_connection("the session was closed");
    }

    // What the driver brings.

    /// The connection is open.
    pub fn handle_connected(&mut self, now: Duration) {
        self.link.connected(now, &self.config);
    }

    /// The connection is gone, or could not be opened.
    pub fn handle_disconnected(&mut self, now: Duration) {
        self.waiting.clear();
        self.ping = false;
        let retry_in = self.link.disconnected(now);
        self.requests.disconnected(&mut self.events);
        self.subscriptions.disconnected();
        let link = &mut self.link;
        self.producers.disconnected(
            now,
            |attempts| link.retry_at(now, attempts),
            &mut self.events,
        );
        self.events.push_back(Event::Disconnected { retry_in });
    }

    /// A message came. It holds one frame.
    pub fn handle_message(&mut self, message: &[u8], now: Duration) {
        if !self.link.is_greeting() && self.link.welcome().is_none() {
            return;
        }
        self.link.heard(now);
        let handled = match codec::decode_server(message, self.config.form) {
            Ok(frame) => self.handle_frame(frame, now),
            Err(error) if error.code == ErrorCode::Unsupported => self.pass_over(error, now),
            Err(error) => Err(error.to_string()),
        };
        if let Err(message) = handled {
            self.drop_connection(&message);
            self.events.push_back(Event::Violation { message });
        }
    }

    /// The driver has left messages unread on purpose, to slow the broker down:
    /// that nothing was heard says nothing about the broker. To be called before
    /// `handle_timeout` for as long as it goes on.
    pub fn excuse_silence(&mut self, now: Duration) {
        self.link.heard(now);
    }

    /// The time that [`poll_timeout`](Self::poll_timeout) named has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.producers.handle_timeout(now);
        self.subscriptions.handle_timeout(now);
        match self.link.due(now, &self.config) {
            Some(Due::Connect) => self.events.push_back(Event::Connect),
            Some(Due::Ping) => self.ping = true,
            Some(Due::Close(reason)) => self.drop_connection(reason),
            None => {}
        }
    }

    // What the driver takes.

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Option<Duration> {
        let timeouts = [
            self.link.timeout(&self.config),
            self.producers.timeout(),
            self.subscriptions.timeout(),
        ];
        timeouts.into_iter().flatten().min()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next message to send.
    pub fn poll_transmit(&mut self) -> Option<Message> {
        loop {
            let (waiting, request) = self.next_request()?;
            let id = self.unused_id();
            match codec::encode_sharing(&ClientFrame { id, request }, self.config.form) {
                Ok(message) if !self.is_too_large(&message) => {
                    self.waiting.insert(id, waiting);
                    return Some(message);
                }
                // Batches are known to be whole and of the right size; a request is as large as its maker made it.
                Ok(message) => {
                    let bytes = message.len();
                    let error =
                        ErrorCode::FrameTooLarge.because(format!("the request has {bytes} bytes"));
                    self.refused(waiting, error, Duration::ZERO);
                }
                Err(error) => {
                    let error = ErrorCode::CorruptBatch.because(error.to_string());
                    self.refused(waiting, error, Duration::ZERO);
                }
            }
        }
    }

    fn next_request(&mut self) -> Option<(Waiting, Request)> {
        if self.link.take_hello() {
            return Some((
                Waiting::Hello,
                Request::Hello(Hello {
                    client: self.config.client.clone(),
                    capabilities: frame::client_capabilities(),
                }),
            ));
        }
        let welcome = self.link.welcome()?;
        if std::mem::take(&mut self.ping) {
            return Some((Waiting::Ping, Request::Ping {}));
        }
        if let Some(stream) = self.subscriptions.next_leaving() {
            return Some((Waiting::Unsubscribe, Request::Unsubscribe { stream }));
        }
        if let Some((id, ask)) = self.subscriptions.next_ask() {
            return Some((Waiting::Subscribe(id), Request::Subscribe(ask)));
        }
        if let Some((handle, open)) = self.producers.next_open() {
            return Some((Waiting::OpenProducer(handle), Request::OpenProducer(open)));
        }
        if let Some((id, request)) = self.requests.next() {
            return Some((Waiting::Request(id), request));
        }
        let (lane, id, topic, partition, batch) =
            self.producers
                .next(welcome, self.config.in_flight_max, &mut self.events)?;
        let produce = Produce {
            topic,
            partition: Some(partition),
            batch: Batches::from(batch),
        };
        Some((Waiting::Produce(lane, id), Request::Produce(produce)))
    }

    fn unused_id(&mut self) -> u32 {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if !self.waiting.contains_key(&self.next_id) {
                return self.next_id;
            }
        }
    }

    fn is_too_large(&self, message: &Message) -> bool {
        self.link
            .welcome()
            .is_some_and(|welcome| message.len() as u64 > welcome.frame_bytes_max)
    }

    fn drop_connection(&mut self, reason: &str) {
        if self.link.drop_connection() {
            self.events.push_back(Event::Close {
                reason: reason.to_owned(),
            });
        }
    }

    /// Passes over a frame of a newer broker. If it answers a request, that is
    /// what the request gets.
    fn pass_over(&mut self, error: FrameError, now: Duration) -> Result<(), String> {
        if let Some(id) = error.id {
            let waiting = self.take_waiting(id)?;
            self.refused(waiting, error.into(), now);
            return Ok(());
        }
        self.skipped += 1;
        self.events.push_back(Event::Skipped {
            message: error.message,
            skipped: self.skipped,
        });
        Ok(())
    }

    fn take_waiting(&mut self, id: u32) -> Result<Waiting, String> {
        let waiting = self.waiting.remove(&id);
        waiting.ok_or_else(|| format!("nothing with id {id} was asked"))
    }

    fn handle_frame(&mut self, frame: ServerFrame, now: Duration) -> Result<(), String> {
        match frame {
            ServerFrame::Answer { id, answer } => {
                let waiting = self.take_waiting(id)?;
                self.answered(waiting, answer, now)
            }
            ServerFrame::Error {
                id: Some(id),
                error,
            } => {
                let waiting = self.take_waiting(id)?;
                self.refused(waiting, error, now);
                Ok(())
            }
            ServerFrame::Error { id: None, error } => {
                self.events.push_back(Event::Refused(error));
                Ok(())
            }
            ServerFrame::Deliver(deliver) => {
                if self.subscriptions.deliver(&deliver, &mut self.events)? {
                    self.link.progressed();
                }
                Ok(())
            }
            ServerFrame::Progress(progress) => {
                self.subscriptions.progress(progress, &mut self.events)
            }
            ServerFrame::Gap(gap) => {
                self.subscriptions.gap(gap, &mut self.events);
                Ok(())
            }
            ServerFrame::Ended(ended) => {
                let link = &mut self.link;
                self.subscriptions.ended(
                    ended,
                    |attempts| link.retry_at(now, attempts),
                    &mut self.events,
                );
                Ok(())
            }
            ServerFrame::Closing { reason } => {
                self.events.push_back(Event::Closing { reason });
                Ok(())
            }
        }
    }

    fn answered(&mut self, waiting: Waiting, answer: Answer, now: Duration) -> Result<(), String> {
        let link = &mut self.link;
        match (waiting, answer) {
            (Waiting::Hello, Answer::Welcome(welcome)) => {
                self.producers.welcomed(&welcome);
                link.welcomed(welcome.clone(), now, &self.config);
                self.events.push_back(Event::Connected(welcome));
            }
            (Waiting::Ping, Answer::Pong {}) | (Waiting::Unsubscribe, Answer::Unsubscribed {}) => {}
            (Waiting::Request(id), answer) => {
                self.requests.answered(id, Ok(answer), &mut self.events);
            }
            (Waiting::OpenProducer(handle), Answer::Producer(identity)) => {
                let retry_at = |attempts| link.retry_at(now, attempts);
                self.producers
                    .opened(handle, identity, retry_at, &mut self.events);
            }
            (Waiting::Produce(lane, id), Answer::Produced(produced)) => {
                link.progressed();
                let retry_at = |attempts| link.retry_at(now, attempts);
                self.producers
                    .produced(lane, id, Ok(produced), now, retry_at, &mut self.events);
            }
            (Waiting::Subscribe(id), Answer::Subscribed(subscribed)) => {
                return self
                    .subscriptions
                    .subscribed(id, &subscribed, &mut self.events);
            }
            (waiting, _) => {
                return Err(format!(
                    "the answer does not fit the question ({waiting:?})"
                ));
            }
        }
        Ok(())
    }

    fn refused(&mut self, waiting: Waiting, error: WireError, now: Duration) {
        let link = &mut self.link;
        match waiting {
            Waiting::Hello => {
                if !error.code.retryable() {
                    self.link.close();
                }
                self.events.push_back(Event::Refused(error));
                self.drop_connection("the broker refused `hello`");
            }
            // Whatever is wrong with them, the connection goes on.
            Waiting::Ping | Waiting::Unsubscribe => {}
            Waiting::Request(id) => self
                .requests
                .answered(id, Err(error.into()), &mut self.events),
            Waiting::OpenProducer(handle) => {
                let retry_at = |attempts| link.retry_at(now, attempts);
                self.producers
                    .open_refused(handle, &error, retry_at, &mut self.events);
            }
            Waiting::Produce(lane, id) => {
                let retry_at = |attempts| link.retry_at(now, attempts);
                self.producers
                    .produced(lane, id, Err(error), now, retry_at, &mut self.events);
            }
            Waiting::Subscribe(id) => {
                let retry_at = |attempts| link.retry_at(now, attempts);
                self.subscriptions
                    .refused(id, error, retry_at, &mut self.events);
            }
        }
    }
}

fn is_about(event: &Event, id: SubscriptionId) -> bool {
    match event {
        Event::Subscribed { subscription, .. }
        | Event::Gap { subscription, .. }
        | Event::Progress { subscription, .. }
        | Event::PartitionEnded { subscription, .. }
        | Event::SubscribeDelayed { subscription, .. }
        | Event::Ended { subscription, .. } => *subscription == id,
        Event::Delivered(delivery) => delivery.subscription == id,
        _ => false,
    }
}
