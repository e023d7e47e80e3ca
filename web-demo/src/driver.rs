//! The session's driver: brings it the browser's messages and time, takes its
//! messages to the socket and its events to JavaScript.
//!
//! Promises: callbacks are called one at a time, in the order of events, and
//! may call the client again. No borrow of the state is held while JavaScript
//! runs.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use eddy_protocol::frame::{Answer, Request};
use eddy_protocol::session::{Config, Event, RequestId, Session};
use js_sys::{Function, JSON};
use wasm_bindgen::prelude::*;

use crate::browser::{Socket, SocketEvent, Timer, call, now, object, random};
use crate::error;
use crate::produce::Produces;
use crate::subscription::Subscriptions;

/// A page that lost its broker looks for it more often than a machine would.
const BACKOFF_MAX: Duration = Duration::from_secs(4);

/// A handle on the running client.
#[derive(Clone)]
pub(crate) struct Driver(Rc<Shared>);

struct Shared {
    state: RefCell<State>,
    /// Events are being handed out, further up the stack.
    busy: Cell<bool>,
}

/// What waits for the answer to a request.
type OnAnswer = Box<dyn FnOnce(&Driver, Result<Answer, JsValue>)>;

/// All that changes.
pub(crate) struct State {
    pub(crate) session: Session,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) produces: Produces,
    requests: HashMap<RequestId, OnAnswer>,
    url: String,
    socket: Option<Socket>,
    timer: Option<Timer>,
    /// When the timer will fire.
    armed: Option<Duration>,
    on_state: Option<Function>,
    /// What the listener was told last.
    connection: JsValue,
    /// Why the connection went or will go, if somebody said.
    reason: Option<String>,
    closed: bool,
}

impl Driver {
    /// Begins to connect.
    pub(crate) fn start(url: String) -> Driver {
        let client = concat!("eddy-web ", env!("CARGO_PKG_VERSION")).to_owned();
        let config = Config {
            client,
            backoff_max: BACKOFF_MAX,
            seed: random(),
            ..Config::default()
        };
        let state = State {
            session: Session::new(config),
            subscriptions: Subscriptions::default(),
            produces: Produces::default(),
            requests: HashMap::new(),
            url,
            socket: None,
            timer: None,
            armed: None,
            on_state: None,
            connection: object(&[("state", "connecting".into())]),
            reason: None,
            closed: false,
        };
        let driver = Driver(Rc::new(Shared {
            state: RefCell::new(state),
            busy: Cell::new(false),
        }));
        let on_timer = driver.callback(|driver, ()| {
            driver.with(|state| {
                state.armed = None;
                state.session.handle_timeout(now());
            });
        });
        driver.look(|state| state.timer = Some(Timer::new(move || on_timer(()))));
        driver.pump();
        driver
    }

    /// Changes the state, then does all that follows from it.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = self.look(change);
        self.pump();
        result
    }

    /// Looks at the state, or changes what nothing follows from.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.state.borrow_mut())
    }

    /// Sends a request; what waits for its answer may call the driver.
    pub(crate) fn request(
        &self,
        request: Request,
        on_answer: impl FnOnce(&Driver, Result<Answer, JsValue>) + 'static,
    ) {
        self.with(|state| {
            let id = state.session.request(request);
            state.requests.insert(id, Box::new(on_answer));
        });
    }

    /// Whether there is no way back.
    pub(crate) fn is_closed(&self) -> bool {
        self.look(|state| state.closed)
    }

    /// Makes `listener` the one that hears of the connection.
    pub(crate) fn listen(&self, listener: &Function) {
        let connection = self.look(|state| {
            state.on_state = Some(listener.clone());
            state.connection.clone()
        });
        call(listener, &connection);
    }

    /// Resolves to all topics.
    pub(crate) fn describe_topics(&self, resolve: Function, reject: Function) {
        if self.is_closed() {
            return call(&reject, &error::closed());
        }
        self.request(Request::ListTopics {}, move |_, answer| match answer {
            Ok(Answer::Topics { topics }) => {
                let text = serde_json::to_string(&topics).expect("topics are plain data");
                call(&resolve, &JSON::parse(&text).unwrap_or_default());
            }
            Ok(_) => call(&reject, &error::unexpected_answer()),
            Err(error) => call(&reject, &error),
        });
    }

    /// Ends everything.
    pub(crate) fn close(&self, reason: Option<String>) {
        let requests = self.look(|state| {
            state.closed = true;
            state.session.close();
            std::mem::take(&mut state.requests)
        });
        for (_, on_answer) in requests {
            on_answer(self, Err(error::closed()));
        }
        self.close_subscriptions();
        self.close_produces();
        self.pump();
        // With the callbacks goes what keeps the client alive.
        let ends = self.look(|state| (state.socket.take(), state.timer.take()));
        drop(ends);
        let reason = reason.map_or(JsValue::UNDEFINED, JsValue::from);
        self.tell(&[("state", "closed".into()), ("reason", reason)]);
    }

    /// A callback for the browser. It keeps the client alive: like a WebSocket,
    /// a client whose handle was forgotten goes on until it is closed.
    fn callback<T>(
        &self,
        handle: impl Fn(&Driver, T) + Clone + 'static,
    ) -> impl Fn(T) + Clone + 'static {
        let driver = self.clone();
        move |argument| handle(&driver, argument)
    }

    /// Sends what is to be sent and hands out what happened, until there is
    /// nothing more. Called from within a callback it leaves that to the call
    /// further up, so that the order stays.
    fn pump(&self) {
        if self.0.busy.replace(true) {
            return;
        }
        while let Some(event) = self.look(State::next) {
            self.handle(event);
        }
        self.0.busy.set(false);
        self.look(State::arm);
    }

    fn handle(&self, event: Event) {
        match event {
            Event::Connect => self.connect(),
            Event::Close { reason } => self.look(|state| {
                state.socket = None;
                state.reason.get_or_insert(reason);
                state.session.handle_disconnected(now());
            }),
            Event::Connected(welcome) => {
                self.look(|state| {
                    state.reason = None;
                    state.produces.welcomed(&welcome);
                });
                self.tell(&[
                    ("state", "connected".into()),
                    ("server", welcome.server.into()),
                ]);
            }
            Event::Disconnected { retry_in } => self.disconnected(retry_in),
            Event::Refused(error) => self.look(|state| state.reason = Some(error.to_string())),
            Event::Closing { reason } | Event::Violation { message: reason } => {
                self.look(|state| state.reason = Some(reason));
            }
            Event::Answered { request, result } => {
                if let Some(on_answer) = self.look(|state| state.requests.remove(&request)) {
                    on_answer(self, result.map_err(|error| error::request_into_js(&error)));
                }
            }
            event => self.handle_work(event),
        }
    }

    /// What belongs to a subscription or a producer.
    fn handle_work(&self, event: Event) {
        match event {
            Event::Produced { batch, produced } => self.produced(batch, &produced),
            Event::ProduceFailed {
                batch,
                error,
                maybe_appended,
            } => self.produce_failed(batch, &error, maybe_appended),
            Event::ProducerFailed { producer, .. } => {
                self.look(|state| state.forget_producer(producer));
            }
            Event::ProducerOpened { .. }
            | Event::ProducerDelayed { .. }
            | Event::ProduceDelayed { .. }
            | Event::Skipped { .. } => {}
            event => self.handle_subscription(event),
        }
    }

    fn connect(&self) {
        let url = self.look(|state| state.url.clone());
        let on_event = self.callback(|driver, event| {
            driver.with(|state| match event {
                SocketEvent::Opened => state.session.handle_connected(now()),
                SocketEvent::Message(message) => state.session.handle_message(&message, now()),
                SocketEvent::Gone => {
                    state.socket = None;
                    state.session.handle_disconnected(now());
                }
            });
        });
        match Socket::open(&url, on_event) {
            Ok(socket) => self.look(|state| state.socket = Some(socket)),
            // The browser forbids it for good, by a policy or because the address is none.
            Err(error) => self.close(Some(error::text(&error))),
        }
    }

    fn disconnected(&self, retry_in: Option<Duration>) {
        let reason = self.look(|state| {
            state.produces.forget_topics();
            state.reason.take()
        });
        let Some(wait) = retry_in else {
            // The session was closed by this side, or has closed itself.
            if !self.is_closed() {
                self.close(reason);
            }
            return;
        };
        let milliseconds = (wait.as_millis() as f64).into();
        self.tell(&[
            ("state", "reconnecting".into()),
            ("retryInMs", milliseconds),
            ("reason", reason.map_or(JsValue::UNDEFINED, JsValue::from)),
        ]);
    }

    fn tell(&self, connection: &[(&str, JsValue)]) {
        let connection = object(connection);
        let listener = self.look(|state| {
            state.connection = connection.clone();
            state.on_state.clone()
        });
        if let Some(listener) = listener {
            call(&listener, &connection);
        }
    }
}

impl State {
    /// Sends all there is to send; the next event.
    fn next(&mut self) -> Option<Event> {
        while let Some(message) = self.session.poll_transmit() {
            if let Some(socket) = &self.socket {
                socket.send(&message.into_bytes());
            }
        }
        self.session.poll_event()
    }

    /// Sets the timer. One that fires too early does no harm, so it is left
    /// alone where the time only moved away, as it does with each message.
    fn arm(&mut self) {
        let Some(wanted) = self.session.poll_timeout() else {
            return;
        };
        if self.armed.is_some_and(|armed| armed <= wanted) {
            return;
        }
        self.armed = Some(wanted);
        if let Some(timer) = &mut self.timer {
            timer.set(wanted.saturating_sub(now()));
        }
    }
}
