//! A cursor: where one subscriber is in one partition of a stream. It is asked
//! what comes next and never waits; what takes a while is a [`Load`].

use std::future::Future;
use std::mem::take;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eddy_protocol::frame::{Gap, Position, Progress};
use eddy_protocol::{ErrorCode, Form, WireError};

use super::Stream;
use super::chunk::{Chunk, Encoded};
use super::source::{Lookup, Source};
use crate::broker::epoch::{LostHistory, StoredPosition};
use crate::broker::filter::Filter;
use crate::broker::frame::{self, Frame};
use crate::broker::notify::{ListenGuard, Listener};
use crate::broker::refusal;
use crate::metrics as names;

/// One subscriber in one partition of a stream.
pub struct Cursor {
    stream: Arc<Stream>,
    source: Arc<Source>,
    next: u64,
    /// As far as the subscriber knows.
    told: u64,
    gap: Option<Gap>,
    /// Waits until the subscriber has been told what lies before it.
    held: Option<Arc<Chunk>>,
    /// Since when its filter finds no place for an instance.
    crowded_since: Option<Instant>,
    /// How many reads have failed one after the other.
    failed_reads: u32,
}

/// How long a cursor rests when something is in its way.
const PAUSE: Duration = Duration::from_millis(500);
/// How often that is doubled at the most while its reads fail, which is 32 seconds.
const DOUBLINGS_MAX: u32 = 6;

/// What a cursor has for its subscriber.
pub enum Next {
    /// A message to send.
    Frame(Arc<Frame>),
    /// Records that the subscriber will never get.
    Gap(Gap),
    /// The cursor has moved past what a filter left out.
    Progress(Progress),
    /// Nothing until the partition changes.
    Idle,
    /// Something that takes a while: await it, hand the result to [`Cursor::arrived`].
    Load(Load),
    /// Something is in the way that may pass: poll again after so long.
    Retry(Duration),
    /// The stream has ended here, and why.
    Ended(WireError),
}

/// A read, an evaluation or an encoding under way.
pub type Load = Pin<Box<dyn Future<Output = Result<Loaded, WireError>> + Send>>;

/// What a [`Load`] brought.
pub struct Loaded(Arc<Chunk>);

impl Cursor {
    pub(super) fn new(
        stream: &Arc<Stream>,
        source: Arc<Source>,
        next: u64,
        gap: Option<Gap>,
    ) -> Cursor {
        Cursor {
            stream: stream.clone(),
            source,
            next,
            told: next,
            gap,
            held: None,
            crowded_since: None,
            failed_reads: 0,
        }
    }

    /// The partition's number.
    pub fn partition(&self) -> u32 {
        self.source.partition.number()
    }

    /// Where the cursor stands.
    pub fn position(&self) -> Position {
        Position {
            partition: self.partition(),
            offset: self.next,
            epoch: self.source.epoch,
        }
    }

    /// Calls `listener` whenever there may be something new.
    pub fn listen(&self, listener: Arc<dyn Listener>) -> ListenGuard {
        let notifier = &self.stream.shared.notifier;
        notifier.listen(&self.source.partition, listener)
    }

    /// What comes next. Never blocks.
    pub fn poll(&mut self, form: Form) -> Next {
        loop {
            if let Some(next) = self.step(form) {
                return next;
            }
        }
    }

    /// `None`: the cursor moved, but there is nothing to send for it.
    fn step(&mut self, form: Form) -> Option<Next> {
        if let Some(gap) = self.gap.take() {
            metrics::counter!(names::GAPS).increment(1);
            return Some(Next::Gap(gap));
        }
        if self.source.is_outdated() {
            return self.go_over().map(Next::Gap);
        }
        if let Some(chunk) = self.held.take() {
            return self.take(&chunk, form);
        }
        if self.stream.topic.deleted() {
            return Some(Next::Ended(refusal::unknown_topic(
                self.stream.topic.name(),
            )));
        }
        if let Some(failure) = self.filter().and_then(|filter| filter.failure()) {
            return Some(Next::Ended(failure.clone()));
        }
        let next = self.source.partition.next_from(self.next);
        if self.next < next {
            return Some(Next::Gap(self.jump(next)));
        }
        if self.next >= self.source.partition.end() {
            let stopped = self.source.partition.stopped();
            return Some(stopped.map_or(Next::Idle, |reason| {
                Next::Ended(refusal::stopped(&*self.source.partition, &reason))
            }));
        }
        match self.source.find(self.next, self.filter().is_some()) {
            Lookup::Chunk(chunk) => self.take(&chunk, form),
            Lookup::AtEnd => Some(Next::Idle),
            Lookup::Nothing => Some(Next::Load(self.load(form))),
        }
    }

    /// Takes what a [`Load`] brought. `None`: there is nothing to send for it,
    /// and [`poll`](Cursor::poll) says how to go on.
    pub fn arrived(&mut self, loaded: Result<Loaded, WireError>, form: Form) -> Option<Next> {
        let crowded_since = self.crowded_since.take();
        let failed_reads = take(&mut self.failed_reads);
        match loaded {
            // It is of lost history.
            _ if self.source.is_outdated() => None,
            Ok(Loaded(chunk)) => self.take(&chunk, form),
            // Retention has overtaken the read.
            Err(error)
                if error.code == ErrorCode::OffsetOutOfRange
                    && self.next < self.source.partition.start() =>
            {
                None
            }
            Err(error) if error.code == ErrorCode::TooMany => {
                let since = *self
                    .crowded_since
                    .insert(crowded_since.unwrap_or_else(Instant::now));
                match since.elapsed() < self.stream.shared.instance_wait_max {
                    true => Some(Next::Retry(PAUSE)),
                    false => Some(Next::Ended(error)),
                }
            }
            // It would be in the way of whoever subscribes anew, too.
            Err(error) if error.code == ErrorCode::ReadFailed => {
                let (topic, partition) = (self.stream.topic.name(), self.partition());
                self.failed_reads = failed_reads.saturating_add(1);
                let pause = PAUSE * 2_u32.pow(failed_reads.min(DOUBLINGS_MAX));
                tracing::debug!(%topic, partition, %error, "a subscriber waits for {pause:?}");
                if failed_reads == DOUBLINGS_MAX {
                    tracing::warn!(%topic, partition, %error, "reading for a subscriber goes on to fail");
                }
                Some(Next::Retry(pause))
            }
            Err(error) => Some(Next::Ended(error)),
        }
    }

    /// Whether the cursor has moved without the subscriber knowing.
    pub fn is_ahead(&self) -> bool {
        self.told != self.next
    }

    /// Where the cursor has got to without the subscriber knowing.
    pub fn untold_progress(&mut self) -> Option<Progress> {
        if !self.is_ahead() {
            return None;
        }
        self.told = self.next;
        Some(Progress {
            stream: self.stream.id,
            partition: self.partition(),
            epoch: self.source.epoch,
            next: self.next,
        })
    }

    /// Goes over to the partition's present history, from where the reader's own ends.
    fn go_over(&mut self) -> Option<Gap> {
        let stored = StoredPosition {
            offset: self.next,
            epoch: Some(self.source.epoch),
        };
        let next = stored
            .lost(&*self.source.partition)
            .map_or(self.next, LostHistory::next);
        self.held = None;
        self.source = self.stream.source(self.partition())?;
        Some(self.jump(next))
    }

    fn filter(&self) -> Option<&Arc<Filter>> {
        self.stream.filter.as_ref()
    }

    fn jump(&mut self, next: u64) -> Gap {
        metrics::counter!(names::GAPS).increment(1);
        let expected = std::mem::replace(&mut self.next, next);
        self.told = next;
        Gap {
            stream: self.stream.id,
            partition: self.partition(),
            epoch: self.source.epoch,
            expected,
            next,
        }
    }

    fn load(&self, form: Form) -> Load {
        let made = self.source.make(self.next, self.filter());
        let (from, stream, partition, epoch) = (
            self.next,
            self.stream.id,
            self.partition(),
            self.source.epoch,
        );
        Box::pin(async move {
            let chunk = made.await?;
            let position = frame::DeliverHead {
                stream,
                partition,
                epoch,
                next: chunk.next,
            };
            ready_to_send(chunk, from, position, form).await
        })
    }

    fn take(&mut self, chunk: &Arc<Chunk>, form: Form) -> Option<Next> {
        if chunk.next <= self.next {
            return None;
        }
        if chunk.batches.is_empty() {
            self.next = chunk.next;
            return None;
        }
        if let Some(progress) = self.untold_progress() {
            // A frame must begin where the subscriber believes to be.
            self.held = Some(chunk.clone());
            return Some(Next::Progress(progress));
        }
        let position = frame::DeliverHead {
            stream: self.stream.id,
            partition: self.partition(),
            epoch: self.source.epoch,
            next: chunk.next,
        };
        let is_whole = form == Form::Binary || !chunk.begins_before(self.next);
        let frame = is_whole.then(|| chunk.frame(&position, form)).flatten();
        let Some(frame) = frame else {
            let ready = ready_to_send(chunk.clone(), self.next, position, form);
            return Some(Next::Load(Box::pin(ready)));
        };
        self.next = chunk.next;
        self.told = self.next;
        Some(self.send(frame, chunk.records))
    }

    fn send(&self, frame: Encoded, records: u64) -> Next {
        match frame {
            Ok(frame) => {
                let meters = self.source.partition.meters();
                meters.delivered(records, frame.len() as u64);
                Next::Frame(frame)
            }
            Err(error) => Next::Ended(error),
        }
    }
}

/// The chunk for a cursor at `from`, its frame written.
async fn ready_to_send(
    mut chunk: Arc<Chunk>,
    from: u64,
    position: frame::DeliverHead,
    form: Form,
) -> Result<Loaded, WireError> {
    if form == Form::Json && chunk.begins_before(from) {
        chunk = chunk.trimmed(from).await?;
    }
    chunk.encode(position, form).await?;
    Ok(Loaded(chunk))
}
