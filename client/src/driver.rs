//! The background task of a connection: brings the session messages and time,
//! carries what it says to the socket and to those who wait.
//!
//! Knows nothing of retries, sequences or cursors: those are the session's.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eddy_protocol::frame::Position;
use eddy_protocol::session::{self, Delivery, Event as SessionEvent, Session};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::calls::Calls;
use crate::client::{Command, Handle, Status};
use crate::producers::Producers;
use crate::socket::{Lost, Reading, Socket};
use crate::subscription::Sink;
use crate::{ClientError, Config, Event, Gap, RecordBatch};

/// Encoded messages wait up to here before the session is asked for more.
const OUTBOX_BYTES_MAX: usize = 1 << 20;
/// How often those who wait are looked at.
const SWEEP_EVERY: Duration = Duration::from_millis(50);
/// A goodbye takes no longer.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

type Connecting = Pin<Box<dyn Future<Output = Result<Socket, Lost>> + Send>>;

/// Where the connection is, from this side.
enum Link {
    None,
    Connecting(Connecting),
    Up(Box<Socket>),
}

/// What the task woke up for.
enum Woken {
    Command(Option<Command>),
    Connected(Result<Socket, Lost>),
    Message(Result<Bytes, Lost>),
    Nudge,
}

/// See the module.
pub(crate) struct Driver {
    config: Config,
    session: Session,
    /// The session counts time from here.
    epoch: Instant,
    link: Link,
    outbox: VecDeque<Bytes>,
    commands: mpsc::UnboundedReceiver<Command>,
    wake: Arc<Notify>,
    status: watch::Sender<Status>,
    calls: Calls,
    producers: Producers,
    sink: Option<Sink>,
    /// Since when there is no connection, and why.
    away: Option<Away>,
    ended: bool,
}

/// See [`Driver::away`].
pub(crate) struct Away {
    since: Instant,
    pub(crate) reason: String,
}

impl Driver {
    /// Starts the task, which ends with the last handle. With a sink it keeps up
    /// one subscription.
    pub(crate) fn spawn(config: Config, sink: Option<Sink>) -> Handle {
        let (sender, commands) = mpsc::unbounded_channel();
        let wake = Arc::new(Notify::new());
        let (status, status_receiver) = watch::channel(Status::Connecting);
        let handle = Handle::new(sender, Arc::clone(&wake), status_receiver);
        let mut session = Session::new(session_config(&config));
        if let Some(sink) = &sink {
            session.subscribe(sink.request.clone());
        }
        let epoch = Instant::now();
        let driver = Driver {
            config,
            session,
            epoch,
            link: Link::None,
            outbox: VecDeque::new(),
            commands,
            wake,
            status,
            calls: Calls::default(),
            producers: Producers::default(),
            sink,
            away: Some(Away {
                since: epoch,
                reason: "it does not answer".into(),
            }),
            ended: false,
        };
        tokio::spawn(driver.run());
        handle
    }

    async fn run(mut self) {
        let mut closed = None;
        while !self.ended {
            let timer = self.turn();
            if self.ended {
                break;
            }
            match self.wait(timer).await {
                Woken::Nudge => {}
                Woken::Command(Some(Command::Close(answer))) => {
                    closed = Some(answer);
                    break;
                }
                Woken::Command(None) => break,
                Woken::Command(Some(command)) => self.command(command),
                Woken::Connected(result) => self.connected(result),
                Woken::Message(Ok(message)) => {
                    let now = self.now();
                    self.session.handle_message(&message, now);
                }
                Woken::Message(Err(lost)) => self.disconnected(lost),
            }
        }
        self.end(closed).await;
    }

    /// Everything that needs no waiting; when to come back at the latest.
    fn turn(&mut self) -> Instant {
        let now = Instant::now();
        if self.reading() == Reading::Paused {
            self.session.excuse_silence(now - self.epoch);
        }
        self.session.handle_timeout(now - self.epoch);
        self.sweep(now);
        let mut next = now + SWEEP_EVERY;
        loop {
            if let Some(due) = self.producers.hand_over(&mut self.session, now) {
                next = next.min(due);
            }
            let Some(event) = self.session.poll_event() else {
                break;
            };
            self.event(event, now);
        }
        self.fill_outbox();
        match self.session.poll_timeout() {
            Some(timeout) => next.min(self.epoch + timeout),
            None => next,
        }
    }

    fn fill_outbox(&mut self) {
        let mut bytes: usize = self.outbox.iter().map(Bytes::len).sum();
        while bytes < OUTBOX_BYTES_MAX {
            let Some(message) = self.session.poll_transmit() else {
                break;
            };
            bytes += message.len();
            self.outbox.push_back(message);
        }
    }

    async fn wait(&mut self, timer: Instant) -> Woken {
        let reading = self.reading();
        let link = async {
            match &mut self.link {
                Link::None => std::future::pending().await,
                Link::Connecting(attempt) => Woken::Connected(attempt.await),
                Link::Up(socket) => {
                    Woken::Message(socket.exchange(&mut self.outbox, reading).await)
                }
            }
        };
        tokio::select! {
            biased;
            command = self.commands.recv() => Woken::Command(command),
            woken = link => woken,
            () = self.wake.notified() => Woken::Nudge,
            () = sleep_until(timer) => Woken::Nudge,
        }
    }

    /// A reader who is behind by as much as may be slows the broker down.
    fn reading(&self) -> Reading {
        match &self.sink {
            Some(sink) if sink.is_full() => Reading::Paused,
            _ => Reading::On,
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Call {
                request,
                patience,
                answer,
            } => {
                let until = self.deadline(patience);
                self.calls.begin(&mut self.session, request, until, answer);
            }
            Command::Ready(answer) => self.ready(answer),
            Command::AddProducer { shared, name } => {
                self.producers.add(&mut self.session, shared, name);
            }
            Command::DropProducer(shared) => self.producers.drop_when_done(&shared),
            // Handled where the loop can end.
            Command::Close(_) => self.ended = true,
        }
    }

    fn ready(
        &mut self,
        answer: oneshot::Sender<Result<eddy_protocol::frame::Welcome, ClientError>>,
    ) {
        match self.session.welcome() {
            // Whoever asked may have gone meanwhile.
            Some(welcome) => drop(answer.send(Ok(welcome.clone()))),
            None => {
                let until = self.deadline(Duration::ZERO);
                self.calls.wait_for_connection(until, answer);
            }
        }
    }

    fn deadline(&self, patience: Duration) -> Option<Instant> {
        self.config
            .deadline
            .map(|deadline| Instant::now() + deadline + patience)
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn connected(&mut self, result: Result<Socket, Lost>) {
        match result {
            Ok(socket) => {
                self.link = Link::Up(Box::new(socket));
                let now = self.now();
                self.session.handle_connected(now);
            }
            Err(lost) => self.disconnected(lost),
        }
    }

    fn disconnected(&mut self, lost: Lost) {
        self.link = Link::None;
        self.outbox.clear();
        match lost {
            Lost::ForNow(reason) => {
                self.went_away(reason);
                let now = self.now();
                self.session.handle_disconnected(now);
            }
            Lost::ForGood(error) => self.fail_all(&error),
        }
    }

    fn went_away(&mut self, reason: String) {
        let since = self
            .away
            .as_ref()
            .map_or_else(Instant::now, |away| away.since);
        self.status.send_replace(Status::Away {
            reason: reason.clone(),
        });
        self.away = Some(Away { since, reason });
    }

    fn event(&mut self, event: SessionEvent, now: Instant) {
        match event {
            SessionEvent::Connect => {
                let config = self.config.clone();
                self.link =
                    Link::Connecting(Box::pin(async move { Socket::connect(&config).await }));
            }
            SessionEvent::Close { reason } => {
                if !matches!(self.link, Link::None) {
                    self.disconnected(Lost::ForNow(reason));
                }
            }
            SessionEvent::Connected(welcome) => {
                self.away = None;
                self.status.send_replace(Status::Connected);
                self.calls.connection_stands(&welcome);
                self.producers
                    .refresh(&mut self.session, &mut self.calls, now);
            }
            SessionEvent::Answered { request, result } => {
                self.calls.answered(request, result, &self.producers);
            }
            SessionEvent::Produced { batch, produced } => {
                self.producers.produced(batch, produced, now);
            }
            SessionEvent::ProduceFailed { batch, error, .. } => {
                self.producers.batch_failed(&mut self.session, batch, error);
            }
            SessionEvent::ProducerFailed { producer, error } => {
                self.producers
                    .failed(&mut self.session, producer, &error.into());
            }
            SessionEvent::ProduceDelayed { batch, error } => self.producers.delayed(batch, error),
            SessionEvent::Refused(error) => {
                tracing::debug!(%error, "the broker refuses the connection");
            }
            SessionEvent::Violation { message } => {
                tracing::warn!(message, "the broker broke the protocol");
            }
            SessionEvent::Closing { reason } => {
                tracing::debug!(reason, "the broker closes the connection");
            }
            SessionEvent::Disconnected { .. } | SessionEvent::ProducerOpened { .. } => {}
            other => self.subscription_event(other),
        }
    }

    fn subscription_event(&mut self, event: SessionEvent) {
        let Some(sink) = &self.sink else { return };
        match event {
            SessionEvent::Subscribed { positions, .. } => sink.begun(positions),
            SessionEvent::Delivered(delivery) => deliver(sink, &delivery),
            SessionEvent::Gap {
                subscription,
                partition,
                expected,
                next,
            } => {
                let position = self
                    .session
                    .positions(subscription)
                    .into_iter()
                    .find(|at| at.partition == partition);
                let position = position.map(|position| Position {
                    offset: next,
                    ..position
                });
                sink.send(
                    Event::Gap(Gap {
                        partition,
                        expected,
                        next,
                    }),
                    position,
                    0,
                );
            }
            SessionEvent::Progress {
                subscription,
                partition,
                next,
            } => {
                let position = self
                    .session
                    .positions(subscription)
                    .into_iter()
                    .find(|at| at.partition == partition);
                if let Some(position) = position {
                    let position = Position {
                        offset: next,
                        ..position
                    };
                    sink.send(Event::Advanced(position), Some(position), 0);
                }
            }
            SessionEvent::PartitionEnded {
                partition, error, ..
            } => {
                sink.send(Event::PartitionEnded { partition, error }, None, 0);
            }
            SessionEvent::Ended { error, .. } => {
                sink.fail(error.into());
                self.ended = true;
            }
            _ => {}
        }
    }

    /// Gives those up whose deadline has passed.
    fn sweep(&mut self, now: Instant) {
        if self.producers.refresh_due(now) && self.away.is_none() {
            self.producers
                .refresh(&mut self.session, &mut self.calls, now);
        }
        let limit = self.config.deadline;
        let deadline = limit.unwrap_or(Duration::MAX);
        let away = self.away.as_ref();
        let error = match away {
            Some(away) => ClientError::Unreachable {
                server: self.config.server.clone(),
                reason: away.reason.clone(),
            },
            None => self.timed_out("answer", deadline),
        };
        self.calls.sweep(&mut self.session, now, &error);
        let stuck = match away {
            Some(_) => error.clone(),
            None => self.timed_out("acknowledge a record", deadline),
        };
        self.producers.sweep(&mut self.session, now, limit, &stuck);
        if let (Some(sink), Some(away)) = (&self.sink, away)
            && now - away.since >= deadline
        {
            sink.fail(error);
            self.ended = true;
        }
    }

    fn timed_out(&self, what: &'static str, limit: Duration) -> ClientError {
        ClientError::TimedOut {
            server: self.config.server.clone(),
            what,
            limit,
        }
    }

    fn fail_all(&mut self, error: &ClientError) {
        self.calls.fail_all(error);
        self.producers.fail_all(&mut self.session, error);
        if let Some(sink) = &self.sink {
            sink.fail(error.clone());
        }
        self.ended = true;
    }

    /// Says goodbye, and fails what still waits, or comes before the handles know.
    async fn end(mut self, closed: Option<oneshot::Sender<()>>) {
        self.status.send_replace(Status::Closed);
        self.fail_all(&ClientError::Closed);
        if let Link::Up(socket) = std::mem::replace(&mut self.link, Link::None) {
            // A broker that does not listen is left without a goodbye.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, socket.close()).await;
        }
        self.commands.close();
        while let Some(command) = self.commands.recv().await {
            // The other answers are dropped, which says "closed".
            if let Command::AddProducer { shared, .. } = command {
                shared.fail(&ClientError::Closed);
            }
        }
        if let Some(closed) = closed {
            let _ = closed.send(());
        }
    }
}

fn session_config(config: &Config) -> session::Config {
    session::Config {
        client: config.name.clone(),
        hello_timeout: config.connect_timeout,
        backoff_min: config.backoff_min,
        backoff_max: config.backoff_max,
        seed: fastrand::u64(..),
        // The producers' own limits come first.
        in_flight_max: usize::MAX,
        pending_batches_max: usize::MAX,
        pending_bytes_max: usize::MAX,
        ..session::Config::default()
    }
}

/// Cuts a delivery into its batches, each from the reader's cursor on.
fn deliver(sink: &Sink, delivery: &Delivery) {
    let Delivery {
        partition,
        epoch,
        first,
        next,
        ..
    } = *delivery;
    let last = delivery.batches().len().saturating_sub(1);
    for (index, records) in delivery.batches().iter().enumerate() {
        let skip = records
            .offsets()
            .take_while(|offset| *offset < first)
            .count();
        let batch = RecordBatch {
            topic: sink.request.topic.clone(),
            partition,
            epoch,
            records: records.clone(),
            rows: skip..records.len(),
        };
        let offset = if index == last {
            next
        } else {
            records.header().end_offset()
        };
        let bytes = records.header().raw_len();
        sink.send(
            Event::Data(batch),
            Some(Position {
                partition,
                offset,
                epoch,
            }),
            bytes,
        );
    }
}
