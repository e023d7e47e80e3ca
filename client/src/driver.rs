//! The background task of a connection: brings the session messages and time,
//! carries what it says to the socket and to those who wait.
//!
//! Knows nothing of retries, sequences or cursors: those are the session's.

use std::collections::VecDeque;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use eddy_protocol::WireError;
use eddy_protocol::codec::Message;
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
    outbox: VecDeque<Message>,
    commands: mpsc::UnboundedReceiver<Command>,
    wake: Arc<Notify>,
    status: watch::Sender<Status>,
    calls: Calls,
    producers: Producers,
    sink: Option<Sink>,
    /// Why there is no connection.
    away: Option<String>,
    /// Why the broker does not want this connection, as it said itself.
    refusal: Option<WireError>,
    /// A broker was there once: whatever answers in its place now will pass.
    met: bool,
    /// The subscription does not stand, or not yet for certain.
    down: Option<Down>,
    ended: bool,
    /// Why, for calls that come too late to be answered.
    end: Arc<OnceLock<ClientError>>,
}

/// See [`Driver::down`].
struct Down {
    since: Instant,
    /// Since when it stands again, with nothing to show for it yet.
    stands_since: Option<Instant>,
    refusal: Option<WireError>,
}

impl Driver {
    /// Starts the task, which ends with the last handle. With a sink it keeps up
    /// one subscription.
    pub(crate) fn spawn(config: Config, sink: Option<Sink>) -> Handle {
        let (sender, commands) = mpsc::unbounded_channel();
        let wake = Arc::new(Notify::new());
        let (status, status_receiver) = watch::channel(Status::Connecting);
        let end = Arc::new(OnceLock::new());
        let handle = Handle::new(sender, Arc::clone(&wake), status_receiver, Arc::clone(&end));
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
            away: Some("it does not answer".into()),
            refusal: None,
            met: false,
            down: Some(Down {
                since: epoch,
                stands_since: None,
                refusal: None,
            }),
            ended: false,
            end,
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
                Woken::Command(None) => break,
                Woken::Command(Some(command)) => {
                    if let ControlFlow::Break(answer) = self.command(command) {
                        closed = Some(answer);
                        break;
                    }
                }
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
    fn turn(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if self.reading() == Reading::Paused {
            self.session.excuse_silence(now - self.epoch);
        }
        self.session.handle_timeout(now - self.epoch);
        self.sweep(now);
        let mut linger;
        loop {
            while let Some(event) = self.session.poll_event() {
                self.event(event, now);
            }
            // Looks at every partition: once for all the acknowledgements that came together.
            linger = self.producers.hand_over(&mut self.session, now);
            // What can't be sent is refused there, which is an event too.
            self.fill_outbox();
            match self.session.poll_event() {
                Some(event) => self.event(event, now),
                None => break,
            }
        }
        let timeout = self.session.poll_timeout();
        let timeout = timeout.and_then(|timeout| self.epoch.checked_add(timeout));
        [linger, timeout, self.sweep_due()]
            .into_iter()
            .flatten()
            .min()
    }

    fn fill_outbox(&mut self) {
        let mut bytes: usize = self.outbox.iter().map(Message::len).sum();
        while bytes < OUTBOX_BYTES_MAX {
            let Some(message) = self.session.poll_transmit() else {
                break;
            };
            bytes += message.len();
            self.outbox.push_back(message);
        }
    }

    async fn wait(&mut self, timer: Option<Instant>) -> Woken {
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
        let timer = async {
            match timer {
                Some(timer) => sleep_until(timer).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            command = self.commands.recv() => Woken::Command(command),
            woken = link => woken,
            () = self.wake.notified() => Woken::Nudge,
            () = timer => Woken::Nudge,
        }
    }

    /// A reader who is behind by as much as may be slows the broker down.
    fn reading(&self) -> Reading {
        match &self.sink {
            Some(sink) if sink.is_full() => Reading::Paused,
            _ => Reading::On,
        }
    }

    /// Does what a handle asks, unless that is the end.
    fn command(&mut self, command: Command) -> ControlFlow<oneshot::Sender<()>> {
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
            Command::Close(answer) => return ControlFlow::Break(answer),
        }
        ControlFlow::Continue(())
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
        let deadline = self.config.deadline?.checked_add(patience)?;
        Instant::now().checked_add(deadline)
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
        let reason = match lost {
            // What the broker said before it closed the connection says more.
            Lost::ForNow(reason) => match &self.refusal {
                Some(error) => error.message.clone(),
                None => reason,
            },
            Lost::ForGood(error) if self.met => error.to_string(),
            Lost::ForGood(error) => return self.fail_all(&error),
        };
        self.went_away(reason);
        let now = self.now();
        self.session.handle_disconnected(now);
    }

    fn went_away(&mut self, reason: String) {
        self.status.send_replace(Status::Away {
            reason: reason.clone(),
        });
        self.away = Some(reason);
        self.went_down(None);
    }

    /// The subscription does not stand (any more).
    fn went_down(&mut self, refusal: Option<WireError>) {
        let since = self.down.as_ref().map(|down| down.since);
        self.down = Some(Down {
            since: since.unwrap_or_else(Instant::now),
            stands_since: None,
            refusal,
        });
    }

    fn event(&mut self, event: SessionEvent, now: Instant) {
        match event {
            SessionEvent::Connect => {
                self.refusal = None;
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
                self.met = true;
                self.status.send_replace(Status::Connected);
                self.calls.connection_stands(&welcome);
                self.producers
                    .refresh(&mut self.session, &mut self.calls, now);
            }
            SessionEvent::Answered { request, result } => {
                self.calls.answered(request, result, &mut self.producers);
            }
            SessionEvent::Produced { batch, produced } => {
                self.producers.answered(batch, Ok(produced), now);
            }
            SessionEvent::ProduceFailed { batch, error, .. } => {
                self.producers.answered(batch, Err(error), now);
            }
            SessionEvent::ProducerFailed { producer, error } => {
                self.producers
                    .failed(&mut self.session, producer, &error.into());
            }
            SessionEvent::ProducerDelayed { producer, error } => {
                self.producers.delayed(producer, Some(error));
            }
            SessionEvent::ProducerOpened { producer, .. } => {
                self.producers.delayed(producer, None);
            }
            SessionEvent::ProduceDelayed { batch, error } => {
                self.producers.batch_delayed(batch, error);
            }
            SessionEvent::Refused(error) => {
                tracing::debug!(%error, "the broker refuses the connection");
                self.refusal = Some(error);
            }
            // The session has closed itself.
            SessionEvent::Disconnected { retry_in: None } => {
                let error = self.refusal.take();
                self.fail_all(&error.map_or(ClientError::Closed, ClientError::from));
            }
            SessionEvent::Disconnected { .. } => {}
            SessionEvent::Violation { message } => {
                tracing::warn!(message, "the broker broke the protocol");
            }
            SessionEvent::Skipped { message, skipped } => {
                // The first is worth a word; a newer broker may send them without end.
                match skipped {
                    1 => tracing::warn!(message, "the broker sent a frame that is not known here"),
                    _ => tracing::debug!(message, skipped, "frames were passed over"),
                }
            }
            SessionEvent::Closing { reason } => {
                tracing::debug!(reason, "the broker closes the connection");
            }
            SessionEvent::SubscribeDelayed { error, .. } => {
                self.status.send_replace(Status::Delayed {
                    reason: error.message.clone(),
                });
                self.went_down(Some(error));
            }
            SessionEvent::Subscribed { .. } => {
                self.status.send_if_modified(|status| {
                    let was_delayed = matches!(status, Status::Delayed { .. });
                    if was_delayed {
                        *status = Status::Connected;
                    }
                    was_delayed
                });
                if let Some(down) = &mut self.down {
                    down.stands_since = Some(now);
                }
                self.subscription_event(event);
            }
            other => {
                self.down = None;
                self.subscription_event(other);
            }
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
        let calls_error = || gave_up(&self.config, self.away.as_deref(), "answer");
        self.calls.sweep(&mut self.session, now, calls_error);
        let producers_error =
            || gave_up(&self.config, self.away.as_deref(), "acknowledge a record");
        let deadline = self.config.deadline;
        self.producers
            .sweep(&mut self.session, now, deadline, producers_error);
        self.sweep_subscription(now);
    }

    /// Gives the subscription up if it has not stood for too long. What is lost
    /// again as soon as it stands has not stood.
    fn sweep_subscription(&mut self, now: Instant) {
        let (Some(sink), Some(down)) = (&self.sink, &self.down) else {
            return;
        };
        if let Some(stands_since) = down.stands_since {
            if now - stands_since >= self.config.backoff_max {
                self.down = None;
            }
        } else if self
            .config
            .deadline
            .is_some_and(|deadline| now - down.since >= deadline)
        {
            let error = down.refusal.clone().map(ClientError::from);
            let error =
                error.unwrap_or_else(|| gave_up(&self.config, self.away.as_deref(), "answer"));
            sink.fail(error);
            self.ended = true;
        }
    }

    /// When to [`sweep`](Self::sweep) at the latest.
    fn sweep_due(&self) -> Option<Instant> {
        let deadline = self.config.deadline;
        let subscription = self.sink.as_ref().zip(self.down.as_ref());
        let subscription = subscription.and_then(|(_, down)| match down.stands_since {
            Some(since) => since.checked_add(self.config.backoff_max),
            None => down.since.checked_add(deadline?),
        });
        [self.calls.due(), self.producers.due(deadline), subscription]
            .into_iter()
            .flatten()
            .min()
    }

    fn fail_all(&mut self, error: &ClientError) {
        self.calls.fail_all(error);
        self.producers.fail_all(&mut self.session, error);
        if let Some(sink) = &self.sink {
            sink.fail(error.clone());
        }
        // The first reason is the one that counts.
        let _ = self.end.set(error.clone());
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
        // What comes with a command is dropped, which says "closed".
        while self.commands.recv().await.is_some() {}
        if let Some(closed) = closed {
            let _ = closed.send(());
        }
    }
}

/// What one hears whose deadline has passed while the connection was away for
/// this reason, or while it stood and the broker did not do `what`.
fn gave_up(config: &Config, away: Option<&str>, what: &'static str) -> ClientError {
    let server = config.server.clone();
    match away {
        Some(reason) => ClientError::Unreachable {
            server,
            reason: reason.into(),
        },
        None => ClientError::TimedOut {
            server,
            what,
            limit: config.deadline.unwrap_or(Duration::MAX),
        },
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
        let offset = if index == last {
            next
        } else {
            records.header().end_offset()
        };
        let position = Position {
            partition,
            offset,
            epoch,
        };
        let rows = skip..records.len();
        if rows.is_empty() {
            // All of it came before; only the last moves the cursor further.
            if index == last {
                sink.send(Event::Advanced(position), Some(position), 0);
            }
            continue;
        }
        let batch = RecordBatch {
            topic: sink.request.topic.clone(),
            partition,
            epoch,
            records: records.clone(),
            rows,
        };
        let bytes = records.header().raw_len();
        sink.send(Event::Data(batch), Some(position), bytes);
    }
}
