//! One connection: a loop over what can happen to it.
//!
//! The peer's slowness stops only its own cursors: while more than
//! `write_bytes_target` waits for its socket, none of them is polled. Then, and
//! while too much is unanswered, nothing more is read, which is back-pressure
//! over TCP.

use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use eddy_protocol::frame::ClientFrame;
use eddy_protocol::{ErrorCode, Form, ServerFrame, WireError, codec};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::Config;
use super::request::{FetchRoom, RequestOutcome, writes};
use super::signal::CursorKey;
use super::socket::Socket;
use super::subscription::{Subscriptions, Turn};
use crate::broker::{Broker, Loaded};
use crate::metrics::{self as names, Present};

/// What an idle peer's reader keeps.
const READ_BUFFER_BYTES: usize = 1 << 10;
/// What a peer may send before it is greeted.
const HELLO_BYTES_MAX: usize = 8 << 10;
/// What a ping's or a pong's bytes come with.
const CONTROL_HEADER_BYTES: usize = 6;
/// How many reads from disk a connection has under way at most.
const LOADS_MAX: usize = 4;
/// How soon a filtered subscriber learns that its cursor has moved, at the latest.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How long a peer may take to read the last words.
const FAREWELL: Duration = Duration::from_secs(2);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A connection at work.
pub(super) struct Connection {
    pub(super) broker: Arc<Broker>,
    pub(super) config: Arc<Config>,
    pub(super) subscriptions: Subscriptions,
    requests: FuturesUnordered<Boxed<Answered>>,
    /// Turns true when the broker stops.
    pub(super) stopping: watch::Receiver<bool>,
    ws: WebSocketStream<Socket>,
    form: Form,
    loads: FuturesUnordered<Boxed<Arrived>>,
    request_bytes: usize,
    pub(super) fetch_room: FetchRoom,
    /// A request to write that came while the store had as much to do as it takes on.
    held: Option<Held>,
    phase: Phase,
    heard: Instant,
    pinged: bool,
    /// Since when the message that comes in is not whole; time in which nothing is read left out.
    unfinished: Option<Instant>,
    progress_due: Option<Instant>,
    /// Wakes the connection no later than at its [deadline](Connection::deadline).
    timer: Pin<Box<Sleep>>,
    shutdown: Boxed<()>,
    reads_first: bool,
}

/// How far a connection has come.
enum Phase {
    /// Until then the peer must have said hello.
    New(Instant),
    Greeted,
    /// What was asked is answered until then, and the connection closed.
    Ending(CloseCode, Instant),
}

/// A request's outcome, and what it held in flight.
struct Answered {
    outcome: RequestOutcome,
    bytes: usize,
    /// Of a fetch, until its records wait for the socket.
    _taken: Option<OwnedSemaphorePermit>,
}

/// A request that waits for room in the store.
struct Held {
    room: Boxed<()>,
    frame: ClientFrame,
    bytes: usize,
}

struct Arrived(CursorKey, Result<Loaded, WireError>);

enum Event {
    Message(Message),
    /// The peer is gone, or its socket failed.
    Gone,
    TooLarge(String),
    /// The peer does not keep to the WebSocket protocol, and what RFC 6455 calls that.
    Broken(String, CloseCode),
    Answered(Answered),
    Arrived(Arrived),
    Ready,
    Signalled,
    Room,
    Timer,
    Shutdown,
    Drained,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        read_ahead: Bytes,
        form: Form,
        broker: Arc<Broker>,
        config: Arc<Config>,
        stopping: watch::Receiver<bool>,
    ) -> Connection {
        let limits = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(config.frame_bytes_max))
            .max_frame_size(Some(config.frame_bytes_max));
        let socket = Socket::new(stream, read_ahead, form, HELLO_BYTES_MAX);
        let ws = WebSocketStream::from_raw_socket(socket, Role::Server, Some(limits));
        let ws = ws
            .now_or_never()
            .expect("making a stream of a socket does no I/O");
        let now = Instant::now();
        let hello_due = now + config.hello_timeout;
        let mut shutdown = stopping.clone();
        Connection {
            subscriptions: Subscriptions::new(),
            requests: FuturesUnordered::new(),
            stopping,
            ws,
            form,
            loads: FuturesUnordered::new(),
            request_bytes: 0,
            fetch_room: FetchRoom::new(config.request_bytes_in_flight_max),
            held: None,
            phase: Phase::New(hello_due),
            heard: now,
            pinged: false,
            unfinished: None,
            progress_due: None,
            timer: Box::pin(tokio::time::sleep_until(hello_due)),
            shutdown: Box::pin(async move {
                // A sender that is gone means the same.
                shutdown.wait_for(|stop| *stop).await.ok();
            }),
            reads_first: false,
            broker,
            config,
        }
    }

    pub(super) async fn run(mut self) {
        let _open = Present::new(metrics::gauge!(names::WS_CONNECTIONS));
        loop {
            let event = poll_fn(|cx| self.poll_event(cx)).await;
            if self.handle(event).is_break() {
                break;
            }
        }
        let farewell = async {
            if let Phase::Ending(code, _) = self.phase {
                self.say_goodbye(code).await;
            }
            // The answer to the peer's own close may wait still.
            self.hang_up().await;
        };
        tokio::time::timeout(FAREWELL, farewell).await.ok();
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let event = self.poll_next(cx);
        if self.ws.get_mut().take_alive() {
            self.heard = Instant::now();
            self.pinged = false;
        }
        if let Poll::Ready(Event::Message(message)) = &event {
            self.finished(message);
        } else if self.ws.get_ref().is_unfinished() && self.unfinished.is_none() {
            self.unfinished = Some(Instant::now());
            if event.is_pending() {
                // The timer knows of a new deadline only once it is looked at again.
                cx.waker().wake_by_ref();
            }
        }
        event
    }

    /// A message has come: what comes next has its own time. A ping may come amid the parts of another
    /// message, and says nothing of that.
    fn finished(&mut self, message: &Message) {
        let bytes = match message {
            Message::Binary(_) | Message::Text(_) => usize::MAX,
            control => control.len() + CONTROL_HEADER_BYTES,
        };
        self.ws.get_mut().finished(bytes);
        if !self.ws.get_ref().is_unfinished() {
            self.unfinished = None;
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let drained = match self.ws.get_mut().poll_drain(cx) {
            Poll::Ready(Err(_)) => return Poll::Ready(Event::Gone),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        // What is answered while the peer takes nothing would wait for it in memory.
        if !self.is_backed_up()
            && let Poll::Ready(Some(answered)) = self.requests.poll_next_unpin(cx)
        {
            return Poll::Ready(Event::Answered(answered));
        }
        if self.is_ending() {
            let quiet = self.requests.is_empty() && drained;
            return if quiet {
                Poll::Ready(Event::Drained)
            } else {
                self.poll_timer(cx)
            };
        }
        if self.shutdown.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Event::Shutdown);
        }
        // In turn, so that neither a long catch-up nor a flood of requests shuts out the other.
        self.reads_first = !self.reads_first;
        if self.reads_first
            && let Poll::Ready(event) = self.poll_read(cx)
        {
            return Poll::Ready(event);
        }
        if let Poll::Ready(event) = self.poll_deliver(cx) {
            return Poll::Ready(event);
        }
        if !self.reads_first
            && let Poll::Ready(event) = self.poll_read(cx)
        {
            return Poll::Ready(event);
        }
        self.poll_timer(cx)
    }

    fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if self.wants_deliveries() && self.subscriptions.has_ready() {
            return Poll::Ready(Event::Ready);
        }
        if let Poll::Ready(Some(arrived)) = self.loads.poll_next_unpin(cx) {
            return Poll::Ready(Event::Arrived(arrived));
        }
        self.subscriptions
            .signal()
            .poll(cx)
            .map(|()| Event::Signalled)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(held) = &mut self.held {
            return held.room.as_mut().poll(cx).map(|()| Event::Room);
        }
        if self.owes_much() || self.is_backed_up() {
            return Poll::Pending;
        }
        let message = std::task::ready!(self.ws.poll_next_unpin(cx));
        Poll::Ready(match message {
            Some(Ok(message)) => Event::Message(message),
            Some(Err(WsError::Capacity(error))) => {
                let limit = self.config.frame_bytes_max;
                Event::TooLarge(format!(
                    "{error}; the limit is {limit} bytes (`ws.frame_bytes_max`)"
                ))
            }
            Some(Err(_)) if self.ws.get_ref().is_exhausted() => Event::TooLarge(format!(
                "`hello` must come within the first {HELLO_BYTES_MAX} bytes"
            )),
            Some(Err(WsError::Protocol(error))) => {
                Event::Broken(error.to_string(), CloseCode::Protocol)
            }
            Some(Err(WsError::Utf8(_))) => Event::Broken(
                "the text of a message or of a close frame is not UTF-8".into(),
                CloseCode::Invalid,
            ),
            Some(Err(_)) | None => Event::Gone,
        })
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        // Reading may have queued a pong.
        if let Poll::Ready(Err(_)) = self.ws.get_mut().poll_drain(cx) {
            return Poll::Ready(Event::Gone);
        }
        let due = self.deadline();
        if due < self.timer.deadline() {
            self.timer.as_mut().reset(due);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            // What it was set for may have moved meanwhile.
            let due = self.deadline();
            if due <= Instant::now() {
                return Poll::Ready(Event::Timer);
            }
            self.timer.as_mut().reset(due);
        }
        Poll::Pending
    }

    /// When something must be done although nothing happens.
    fn deadline(&self) -> Instant {
        match self.phase {
            Phase::New(due) | Phase::Ending(_, due) => due,
            Phase::Greeted => {
                let idle_timeout = self.config.idle_timeout;
                let silence_max = if self.pinged {
                    idle_timeout
                } else {
                    idle_timeout / 2
                };
                let silent = self.heard + silence_max;
                let late = self.unfinished.map(|at| at + self.config.message_timeout);
                let rested = self.subscriptions.rested_at();
                let others = self.progress_due.into_iter().chain(late).chain(rested);
                others.fold(silent, Instant::min)
            }
        }
    }

    pub(super) fn is_greeted(&self) -> bool {
        matches!(self.phase, Phase::Greeted)
    }

    fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending(..))
    }

    /// Whether as much is unanswered as may be.
    fn owes_much(&self) -> bool {
        self.requests.len() >= self.config.requests_in_flight_max
            || self.request_bytes >= self.config.request_bytes_in_flight_max
    }

    /// Whether as much waits for the peer's socket as may.
    fn is_backed_up(&self) -> bool {
        self.ws.get_ref().queued_bytes() >= self.config.write_bytes_target
    }

    fn wants_deliveries(&self) -> bool {
        !self.is_backed_up() && self.loads.len() < LOADS_MAX
    }

    fn handle(&mut self, event: Event) -> ControlFlow<()> {
        match event {
            Event::Gone | Event::Drained => return ControlFlow::Break(()),
            Event::Message(message) => self.message(message),
            Event::TooLarge(sentence) => {
                self.end(ErrorCode::FrameTooLarge.because(sentence), CloseCode::Size);
            }
            Event::Broken(sentence, code) => {
                self.end(ErrorCode::MalformedFrame.because(sentence), code);
            }
            Event::Answered(answered) => self.answered(answered),
            Event::Arrived(Arrived(key, loaded)) => {
                let turn = self.subscriptions.arrived(key, loaded, self.form);
                self.act(turn);
            }
            Event::Ready => self.deliver(),
            Event::Signalled => {
                self.subscriptions.wake();
                if self.subscriptions.signal().take_grown() {
                    self.subscriptions.grow();
                }
            }
            Event::Room => {
                if let Some(held) = self.held.take() {
                    self.begin(held.frame, held.bytes);
                }
            }
            // The peer has had its time to read the last answers.
            Event::Timer if self.is_ending() => return ControlFlow::Break(()),
            Event::Timer => self.tick(),
            Event::Shutdown => {
                self.send(&ServerFrame::Closing {
                    reason: "the broker is stopping; come back soon".into(),
                });
                if let Some(held) = self.held.take() {
                    let error = ErrorCode::ShuttingDown.because("the broker is stopping");
                    self.conclude(RequestOutcome::Answer(held.frame.id, Err(error)));
                }
                self.end_quietly(CloseCode::Away);
            }
        }
        ControlFlow::Continue(())
    }

    /// Answers, and goes on with what is ready too, so that the acknowledgements of one sync share
    /// a write.
    fn answered(&mut self, first: Answered) {
        let mut next = Some(first);
        while let Some(Answered { outcome, bytes, .. }) = next {
            self.request_bytes -= bytes;
            self.conclude(outcome);
            next = match self.is_backed_up() {
                true => None,
                false => self.requests.next().now_or_never().flatten(),
            };
        }
    }

    /// Queues what the cursors have until enough waits for the socket.
    fn deliver(&mut self) {
        while self.wants_deliveries() && self.subscriptions.has_ready() {
            let turn = self.subscriptions.turn(self.form);
            self.act(turn);
        }
    }

    fn act(&mut self, turn: Option<Turn>) {
        if self.progress_due.is_none() && self.subscriptions.is_untold() {
            // Subscribers of one stream get ahead together; told together, thousands of them would
            // keep everybody else waiting.
            let wait = PROGRESS_INTERVAL.mul_f32(0.5 + fastrand::f32() / 2.0);
            self.progress_due = Some(Instant::now() + wait);
        }
        match turn {
            None => {}
            Some(Turn::Send(frame)) => self.ws.get_mut().push_frame(&frame),
            Some(Turn::Tell(frame)) => self.send(&frame),
            Some(Turn::Load(key, load)) => self
                .loads
                .push(Box::pin(async move { Arrived(key, load.await) })),
        }
    }

    fn message(&mut self, message: Message) {
        let payload = match (message, self.form) {
            (Message::Binary(payload), Form::Binary) => payload,
            (Message::Text(text), Form::Json) => text.into(),
            (Message::Binary(_) | Message::Text(_), form) => {
                let sentence = match form {
                    Form::Binary => "subprotocol eddy.v1 takes binary messages, this one was text",
                    Form::Json => {
                        "subprotocol eddy.v1.json takes text messages, this one was binary"
                    }
                };
                return self.end(
                    ErrorCode::MalformedFrame.because(sentence),
                    CloseCode::Unsupported,
                );
            }
            // tungstenite answers pings and closes by itself.
            _ => return,
        };
        let bytes = payload.len();
        match codec::decode_client(&payload, self.form, self.broker.now_ms()) {
            Ok(frame) => self.begin(frame, bytes),
            Err(error) => match error.id {
                Some(id) => self.send(&ServerFrame::Error {
                    id: Some(id),
                    error: error.into(),
                }),
                // Nobody would know which of the requests is the one that gets no answer.
                None => self.end(error.into(), CloseCode::Invalid),
            },
        }
    }

    /// Begins what was asked, or holds it back, and with it what comes after it, while the store
    /// takes no more.
    fn begin(&mut self, frame: ClientFrame, bytes: usize) {
        if writes(&frame.request) && !self.broker.has_room() {
            let room = Box::pin(self.broker.room());
            self.held = Some(Held { room, frame, bytes });
            return;
        }
        if let Some(outcome) = self.request(frame, bytes) {
            self.conclude(outcome);
        }
    }

    /// Answers later; `bytes` count as in flight until then.
    pub(super) fn answer_later(
        &mut self,
        bytes: usize,
        work: impl Future<Output = (RequestOutcome, Option<OwnedSemaphorePermit>)> + Send + 'static,
    ) {
        self.request_bytes += bytes;
        self.requests.push(Box::pin(async move {
            let (outcome, taken) = work.await;
            Answered {
                outcome,
                bytes,
                _taken: taken,
            }
        }));
    }

    pub(super) fn send(&mut self, frame: &ServerFrame) {
        self.send_message(encode(frame, self.form));
    }

    pub(super) fn send_message(&mut self, message: Bytes) {
        self.ws.get_mut().push_message(message);
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Says why, and closes once everything asked before is answered.
    pub(super) fn end(&mut self, error: WireError, code: CloseCode) {
        tracing::debug!(%error, "connection closed");
        self.send(&ServerFrame::Error { id: None, error });
        self.end_quietly(code);
    }

    /// Closes once everything asked before is answered.
    pub(super) fn end_quietly(&mut self, code: CloseCode) {
        self.phase = Phase::Ending(code, Instant::now() + self.config.idle_timeout);
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if !self.is_greeted() {
            let sentence = format!(
                "no hello came within {:?} (`ws.hello_timeout`)",
                self.config.hello_timeout
            );
            return self.end(ErrorCode::TimedOut.because(sentence), CloseCode::Policy);
        }
        if self.progress_due.is_some_and(|due| due <= now) {
            self.progress_due = None;
            for progress in self.subscriptions.untold() {
                self.send(&ServerFrame::Progress(progress));
            }
        }
        self.subscriptions.end_rests(now);
        if self.held.is_some() || self.owes_much() {
            // It may have said something that was not read yet.
            self.heard = now;
            self.unfinished = self.unfinished.and(Some(now));
        }
        let limit = self.config.message_timeout;
        if self.unfinished.is_some_and(|at| now - at >= limit) {
            if !self.is_backed_up() {
                let sentence =
                    format!("a message did not arrive within {limit:?} (`ws.message_timeout`)");
                return self.end(ErrorCode::TimedOut.because(sentence), CloseCode::Policy);
            }
            self.unfinished = Some(now);
        }
        let silence = now - self.heard;
        if silence >= self.config.idle_timeout {
            let limit = self.config.idle_timeout;
            let sentence = format!(
                "nothing was heard for {silence:?}; the limit is {limit:?} (`ws.idle_timeout`)"
            );
            return self.end(ErrorCode::TimedOut.because(sentence), CloseCode::Policy);
        }
        if silence >= self.config.idle_timeout / 2 && !self.pinged {
            self.pinged = true;
            self.ws.start_send_unpin(Message::Ping(Bytes::new())).ok();
        }
    }

    /// Closes as RFC 6455 has it: our close, the peer's, the end of the stream.
    async fn say_goodbye(&mut self, code: CloseCode) {
        let frame = CloseFrame {
            code,
            reason: "".into(),
        };
        self.ws.start_send_unpin(Message::Close(Some(frame))).ok();
        poll_fn(|cx| self.ws.get_mut().poll_drain(cx)).await.ok();
        while let Some(Ok(_)) = self.ws.next().await {}
    }

    async fn hang_up(&mut self) {
        let socket = self.ws.get_mut();
        poll_fn(|cx| socket.poll_drain(cx)).await.ok();
        poll_fn(|cx| socket.poll_close(cx)).await.ok();
        poll_fn(|cx| socket.poll_discard(cx)).await;
    }

    pub(super) fn greet(&mut self) {
        self.phase = Phase::Greeted;
        self.ws.get_mut().lift();
    }
}

/// A frame as a message.
pub(super) fn encode(frame: &ServerFrame, form: Form) -> Bytes {
    match codec::encode_server(frame, form) {
        Ok(message) => message,
        // Only records that can't be read can't be written; an error always can.
        Err(error) => encode(&failed(frame, &error), form),
    }
}

fn failed(frame: &ServerFrame, error: &codec::EncodeError) -> ServerFrame {
    let id = match frame {
        ServerFrame::Answer { id, .. } => Some(*id),
        _ => None,
    };
    ServerFrame::Error {
        id,
        error: ErrorCode::Internal.because(error.to_string()),
    }
}
