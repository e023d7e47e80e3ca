//! Streams and cursors: how records reach subscribers.
//!
//! A **stream** is a topic seen through a filter, or through none. All who
//! subscribe to the same topic with the same plugin and parameters share one:
//! its batches are filtered once and its frames encoded once. A **cursor** is
//! where one subscriber is in one partition of a stream. A slow subscriber is
//! a cursor that lags; nothing waits for it and nothing is queued for it.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use dashmap::DashMap;
use eddy_protocol::frame::{Gap, Position, Progress, Start, Subscribe};
use eddy_protocol::{Batch, ErrorCode, Form, WireError};
use parking_lot::{Mutex, RwLock};

use super::filter::{Filter, FilterKey};
use super::frame::{self, Frame};
use super::{Broker, fetch, refusal};
use crate::metrics as names;
use crate::plugin::Engine;
use crate::store::{Partition, TailRead, Topic, TopicId, WatchGuard, Watcher};

/// How much a partition's newest frames may hold for subscribers to share.
const RECENT_BYTES_MAX: usize = 1 << 20;

/// All streams that somebody reads.
pub(super) struct Streams {
    engine: Engine,
    frame_bytes_target: usize,
    by_key: DashMap<StreamKey, Weak<Stream>>,
    next_id: AtomicU64,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct StreamKey {
    topic: TopicId,
    filter: Option<FilterKey>,
}

/// A topic, seen through a filter or through none.
pub struct Stream {
    id: u64,
    topic: Arc<Topic>,
    filter: Option<Filter>,
    frame_bytes_target: usize,
    lanes: RwLock<Vec<Arc<Lane>>>,
    followers: Mutex<Vec<Weak<dyn Follower>>>,
}

/// Who wants to know that a stream has more partitions.
pub trait Follower: Send + Sync {
    /// The topic has grown. Must be quick.
    fn grown(&self);
}

/// One partition of a stream.
struct Lane {
    partition: Arc<Partition>,
    recent: Mutex<Recent>,
    /// Held by whoever filters, so that the others wait for its result instead of filtering again.
    evaluation: super::filter::Seat,
}

/// The newest chunks, oldest first.
#[derive(Default)]
struct Recent {
    chunks: VecDeque<Arc<Chunk>>,
    bytes: usize,
}

/// What a stream delivers for a range of offsets, with its frames.
struct Chunk {
    start: u64,
    next: u64,
    records: u64,
    batches: Vec<Batch>,
    frames: [OnceLock<Encoded>; 2],
}

/// A frame, or why its records can't be written in the form.
type Encoded = Result<Arc<Frame>, WireError>;

/// Where a subscriber begins in one partition.
#[derive(Debug, Clone, Copy)]
enum CursorStart {
    /// As the subscription says.
    From(Start),
    /// Where it was before its connection was lost.
    Resume(Position),
}

/// One subscriber in one partition of a stream.
pub struct Cursor {
    stream: Arc<Stream>,
    lane: Arc<Lane>,
    epoch: u32,
    next: u64,
    /// As far as the subscriber knows.
    told: u64,
    gap: Option<Gap>,
    /// Waits until the subscriber has been told what lies before it.
    held: Option<Arc<Chunk>>,
}

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
    /// The stream has ended here, and why.
    Ended(WireError),
}

/// A read or an evaluation under way.
pub type Load = Pin<Box<dyn Future<Output = Result<Loaded, WireError>> + Send>>;

/// What a [`Load`] brought.
pub struct Loaded(Arc<Chunk>);

impl Streams {
    pub(super) fn new(engine: Engine, frame_bytes_target: usize) -> Streams {
        Streams {
            engine,
            frame_bytes_target,
            by_key: DashMap::new(),
            next_id: AtomicU64::new(1),
        }
    }

    fn share(&self, key: StreamKey, make: impl FnOnce(u64) -> Stream) -> Arc<Stream> {
        let mut entry = self.by_key.entry(key).or_default();
        if let Some(stream) = entry.upgrade().filter(|stream| !stream.has_failed()) {
            return stream;
        }
        let stream = Arc::new(make(self.next_id.fetch_add(1, Ordering::Relaxed)));
        *entry = Arc::downgrade(&stream);
        stream
    }

    /// Forgets the streams that nobody reads any more.
    fn sweep(&self) {
        self.by_key.retain(|_, stream| stream.strong_count() > 0);
    }
}

impl Broker {
    /// The stream that a subscription reads, and its cursors.
    pub async fn subscribe(
        &self,
        request: &Subscribe,
    ) -> Result<(Arc<Stream>, Vec<Cursor>), WireError> {
        let topic = self.topic(&request.topic)?;
        let partitions = topic.partitions();
        for &number in request
            .partitions
            .iter()
            .chain(request.resume.iter().map(|position| &position.partition))
        {
            if number as usize >= partitions.len() {
                return Err(refusal::unknown_partition(
                    &request.topic,
                    number,
                    partitions.len(),
                ));
            }
        }
        let filter = match &request.filter {
            None => None,
            Some(asked) => Some(self.open_filter(&topic, asked).await?),
        };
        self.streams.sweep();
        let key = StreamKey {
            topic: topic.id(),
            filter: filter.as_ref().map(|filter| filter.key().clone()),
        };
        let frame_bytes_target = self.streams.frame_bytes_target;
        let stream = self.streams.share(key, |id| Stream {
            id,
            topic: topic.clone(),
            filter,
            frame_bytes_target,
            lanes: RwLock::default(),
            followers: Mutex::default(),
        });
        let mut cursors = Vec::new();
        for number in wanted(&request.partitions, partitions.len()) {
            let resume = request
                .resume
                .iter()
                .find(|position| position.partition == number);
            let start = resume.map_or(CursorStart::From(request.from), |position| {
                CursorStart::Resume(*position)
            });
            cursors.push(self.cursor(&stream, number, start).await?);
        }
        Ok((stream, cursors))
    }

    /// A cursor of a stream.
    async fn cursor(
        &self,
        stream: &Arc<Stream>,
        number: u32,
        start: CursorStart,
    ) -> Result<Cursor, WireError> {
        let lane = stream.lane(number).ok_or_else(|| {
            refusal::unknown_partition(stream.topic.name(), number, stream.topic.partitions().len())
        })?;
        let (next, gap) = match start {
            CursorStart::From(from) => (self.resolve(&lane.partition, from).await?, None),
            CursorStart::Resume(position) => resume(stream.id, &lane.partition, &position)?,
        };
        let epoch = lane.partition.epoch();
        Ok(Cursor {
            stream: stream.clone(),
            lane,
            epoch,
            next,
            told: next,
            gap,
            held: None,
        })
    }

    /// Tells the readers of a topic that it has more partitions.
    pub(super) fn tell_grown(&self, topic: TopicId) {
        let streams = self
            .streams
            .by_key
            .iter()
            .filter(|entry| entry.key().topic == topic);
        streams
            .filter_map(|entry| entry.value().upgrade())
            .for_each(|stream| stream.tell_grown());
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.streams.engine
    }
}

/// The partitions that a subscription names, each once; all where it names none.
fn wanted(named: &[u32], partitions: usize) -> Vec<u32> {
    let mut wanted: Vec<u32> = if named.is_empty() {
        (0..partitions as u32).collect()
    } else {
        named.to_vec()
    };
    wanted.sort_unstable();
    wanted.dedup();
    wanted
}

/// Where a reader goes on, and what it has lost for good.
fn resume(
    stream: u64,
    partition: &Partition,
    position: &Position,
) -> Result<(u64, Option<Gap>), WireError> {
    let (epoch, end) = (partition.epoch(), partition.end());
    if position.epoch != epoch {
        // History was lost, or this is another topic of the same name. Where they part is not
        // known, so the reader begins anew: rather twice than never.
        let next = partition.start();
        let gap = Gap {
            stream,
            partition: position.partition,
            epoch,
            expected: position.offset,
            next,
        };
        return Ok((next, Some(gap)));
    }
    if position.offset > end {
        return Err(ErrorCode::OffsetOutOfRange.because(format!(
            "partition {} ends at offset {end}, a subscription can't resume at {}",
            position.partition, position.offset
        )));
    }
    Ok((position.offset, None))
}

impl Stream {
    /// Names the stream in frames.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The topic.
    pub fn topic(&self) -> &Arc<Topic> {
        &self.topic
    }

    /// Calls `follower` whenever the topic has grown, for as long as it lives.
    pub fn follow(&self, follower: &Arc<dyn Follower>) {
        let mut followers = self.followers.lock();
        followers.retain(|other| other.strong_count() > 0);
        followers.push(Arc::downgrade(follower));
    }

    /// A cursor at the oldest record of a partition.
    pub fn earliest(self: &Arc<Self>, number: u32) -> Option<Cursor> {
        let lane = self.lane(number)?;
        let (epoch, next) = (lane.partition.epoch(), lane.partition.start());
        Some(Cursor {
            stream: self.clone(),
            lane,
            epoch,
            next,
            told: next,
            gap: None,
            held: None,
        })
    }

    fn tell_grown(&self) {
        let followers = self.followers.lock();
        followers
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|follower| follower.grown());
    }

    fn has_failed(&self) -> bool {
        self.topic.deleted()
            || self
                .filter
                .as_ref()
                .is_some_and(|filter| filter.failure().is_some())
    }

    fn lane(&self, number: u32) -> Option<Arc<Lane>> {
        if let Some(lane) = self.lanes.read().get(number as usize) {
            return Some(lane.clone());
        }
        let mut lanes = self.lanes.write();
        for partition in self.topic.partitions().iter().skip(lanes.len()) {
            lanes.push(Arc::new(Lane {
                partition: partition.clone(),
                recent: Mutex::default(),
                evaluation: super::filter::Seat::default(),
            }));
        }
        lanes.get(number as usize).cloned()
    }
}

impl Cursor {
    /// The partition's number.
    pub fn partition(&self) -> u32 {
        self.lane.partition.number()
    }

    /// Where the cursor stands.
    pub fn position(&self) -> Position {
        Position {
            partition: self.partition(),
            offset: self.next,
            epoch: self.epoch,
        }
    }

    /// Calls `watcher` whenever there may be something new.
    pub fn watch(&self, watcher: &Arc<dyn Watcher>) -> WatchGuard {
        self.lane.partition.watch(watcher)
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
        if let Some(chunk) = self.held.take() {
            return self.take(&chunk, form);
        }
        if self.stream.topic.deleted() {
            return Some(Next::Ended(refusal::unknown_topic(
                self.stream.topic.name(),
            )));
        }
        if let Some(failure) = self.stream.filter.as_ref().and_then(Filter::failure) {
            return Some(Next::Ended(failure.clone()));
        }
        let next = self.lane.partition.next_from(self.next);
        if self.next < next {
            return Some(Next::Gap(self.jump(next)));
        }
        if self.next >= self.lane.partition.end() {
            return Some(match self.lane.partition.stopped() {
                Some(reason) => Next::Ended(ErrorCode::PartitionStopped.because(reason)),
                None => Next::Idle,
            });
        }
        match self.chunk() {
            Ok(chunk) => self.take(&chunk, form),
            Err(next) => Some(next),
        }
    }

    /// Takes what a [`Load`] brought.
    pub fn arrived(&mut self, loaded: Result<Loaded, WireError>, form: Form) -> Next {
        match loaded {
            Ok(Loaded(chunk)) => self.take(&chunk, form).unwrap_or_else(|| self.poll(form)),
            // Retention may have overtaken the read: the next poll says so.
            Err(error)
                if error.code == ErrorCode::OffsetOutOfRange
                    && self.next < self.lane.partition.start() =>
            {
                self.poll(form)
            }
            Err(error) => Next::Ended(error),
        }
    }

    /// Where the cursor has got to without the subscriber knowing.
    pub fn untold_progress(&mut self) -> Option<Progress> {
        if self.told == self.next {
            return None;
        }
        self.told = self.next;
        Some(Progress {
            stream: self.stream.id,
            partition: self.partition(),
            epoch: self.epoch,
            next: self.next,
        })
    }

    fn jump(&mut self, next: u64) -> Gap {
        metrics::counter!(names::GAPS).increment(1);
        let expected = std::mem::replace(&mut self.next, next);
        self.told = next;
        Gap {
            stream: self.stream.id,
            partition: self.partition(),
            epoch: self.epoch,
            expected,
            next,
        }
    }

    fn chunk(&self) -> Result<Arc<Chunk>, Next> {
        let filtered = self.stream.filter.is_some();
        let mut recent = self.lane.recent.lock();
        if let Some(chunk) = recent.find(self.next, filtered) {
            return Ok(chunk);
        }
        if filtered {
            return Err(Next::Load(self.load_filtered()));
        }
        match self
            .lane
            .partition
            .read_tail(self.next, self.stream.frame_bytes_target as u64)
        {
            TailRead::Batches(batches) => {
                let chunk = Arc::new(Chunk::new(self.next, batches));
                recent.remember(&chunk);
                Ok(chunk)
            }
            TailRead::AtEnd => Err(Next::Idle),
            _ => Err(Next::Load(self.load())),
        }
    }

    fn load(&self) -> Load {
        let (lane, next, bytes) = (self.lane.clone(), self.next, self.stream.frame_bytes_target);
        Box::pin(async move {
            let batches = fetch::read(&lane.partition, next, bytes).await?;
            let chunk = Arc::new(Chunk::new(next, batches));
            lane.recent.lock().remember(&chunk);
            Ok(Loaded(chunk))
        })
    }

    fn load_filtered(&self) -> Load {
        let (stream, lane, next) = (self.stream.clone(), self.lane.clone(), self.next);
        Box::pin(async move {
            let mut seat = lane.evaluation.take().await;
            if let Some(chunk) = lane.recent.lock().find(next, true) {
                return Ok(Loaded(chunk));
            }
            let batches = fetch::read(&lane.partition, next, stream.frame_bytes_target).await?;
            let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
                return Ok(Loaded(Arc::new(Chunk::new(next, batches))));
            };
            let (start, end) = (first.base_offset(), last.end_offset());
            let filter = stream
                .filter
                .as_ref()
                .expect("only a filtered stream loads through its filter");
            let kept = filter.evaluate(&mut seat, &lane.partition, batches).await?;
            let chunk = Arc::new(Chunk {
                start,
                next: end,
                ..Chunk::new(start, kept)
            });
            lane.recent.lock().remember(&chunk);
            Ok(Loaded(chunk))
        })
    }

    fn take(&mut self, chunk: &Arc<Chunk>, form: Form) -> Option<Next> {
        if chunk.next <= self.next {
            return None;
        }
        if !chunk.batches.is_empty()
            && let Some(progress) = self.untold_progress()
        {
            // A frame must begin where the subscriber believes to be.
            self.held = Some(chunk.clone());
            return Some(Next::Progress(progress));
        }
        let from = std::mem::replace(&mut self.next, chunk.next);
        if chunk.batches.is_empty() {
            return None;
        }
        self.told = self.next;
        let position = frame::Position {
            stream: self.stream.id,
            partition: self.partition(),
            epoch: self.epoch,
            next: chunk.next,
        };
        if form == Form::Json
            && chunk
                .batches
                .first()
                .is_some_and(|batch| batch.base_offset() < from)
        {
            return match trim(&chunk.batches, from) {
                Ok(batches) if batches.is_empty() => None,
                Ok(batches) => {
                    let frame = encoded(&position, &batches, form);
                    Some(self.send(frame, count(&batches)))
                }
                Err(error) => Some(Next::Ended(
                    ErrorCode::PartitionStopped.because(error.to_string()),
                )),
            };
        }
        let slot = &chunk.frames[form as usize];
        let frame = slot.get_or_init(|| encoded(&position, &chunk.batches, form));
        Some(self.send(frame.clone(), chunk.records))
    }

    fn send(&self, frame: Encoded, records: u64) -> Next {
        match frame {
            Ok(frame) => {
                let meters = self.lane.partition.meters();
                meters.delivered(records, frame.len() as u64);
                Next::Frame(frame)
            }
            Err(error) => Next::Ended(error),
        }
    }
}

fn encoded(position: &frame::Position, batches: &[Batch], form: Form) -> Encoded {
    let frame = Frame::deliver(position, batches, form);
    frame
        .map(Arc::new)
        .map_err(|error| ErrorCode::PartitionStopped.because(error.to_string()))
}

/// How many records the batches hold.
pub(super) fn count(batches: &[Batch]) -> u64 {
    batches.iter().map(|batch| u64::from(batch.count())).sum()
}

/// The batches without the records before `from`, for people who read JSON by
/// eye; a binary client skips them itself.
fn trim(batches: &[Batch], from: u64) -> Result<Vec<Batch>, eddy_protocol::BatchError> {
    let mut trimmed = Vec::new();
    for batch in batches.iter().filter(|batch| batch.end_offset() > from) {
        trimmed.extend(super::filter::keep_from(batch, from)?);
    }
    Ok(trimmed)
}

impl Chunk {
    fn new(start: u64, batches: Vec<Batch>) -> Chunk {
        let next = batches.last().map_or(start, Batch::end_offset);
        Chunk {
            start,
            next,
            records: count(&batches),
            batches,
            frames: [const { OnceLock::new() }; 2],
        }
    }

    fn bytes(&self) -> usize {
        // The fixed part keeps a run of empty chunks from growing without limit.
        256 + self
            .batches
            .iter()
            .map(|batch| batch.bytes().len())
            .sum::<usize>()
    }
}

impl Recent {
    /// The chunk that begins at `next`, or with `within`, the one that holds it.
    fn find(&self, next: u64, within: bool) -> Option<Arc<Chunk>> {
        let found = self
            .chunks
            .iter()
            .rev()
            .find(|chunk| chunk.start <= next && next < chunk.next)?;
        (within || found.start == next).then(|| found.clone())
    }

    fn remember(&mut self, chunk: &Arc<Chunk>) {
        if chunk.next <= chunk.start {
            return;
        }
        self.bytes += chunk.bytes();
        self.chunks.push_back(chunk.clone());
        while self.bytes > RECENT_BYTES_MAX && self.chunks.len() > 1 {
            let oldest = self.chunks.pop_front().map_or(0, |chunk| chunk.bytes());
            self.bytes -= oldest;
        }
    }
}
