//! Streams and cursors: how records reach subscribers.
//!
//! A **stream** is a topic seen through a filter, or through none. All who
//! subscribe to the same topic with the same plugin and parameters share one:
//! its batches are filtered once and its frames encoded once. A **cursor** is
//! where one subscriber is in one partition of a stream. A slow subscriber is
//! a cursor that lags; nothing waits for it and nothing is queued for it.

mod chunk;
mod cursor;
mod recent;
mod source;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use dashmap::DashMap;
use eddy_protocol::frame::{Filter as Asked, Gap, Position, Start, Subscribe};
use eddy_protocol::{ErrorCode, WireError};
use futures_util::future::try_join_all;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::epoch::{LostHistory, StoredPosition};
use super::filter::{Filter, FilterKey, InstanceSlots};
use super::notify::Notifier;
use super::{Broker, Config, refusal};
use crate::log::{Partition, Topic, TopicId};

pub(super) use chunk::count;
pub use cursor::{Cursor, Load, Loaded, Next};
use recent::ChunkBudget;
use source::Source;

/// What the newest chunks of all streams may hold for subscribers to share.
const NEAR_BYTES_MAX: usize = 64 << 20;
/// The same for those that are read by subscribers that catch up.
const FAR_BYTES_MAX: usize = 32 << 20;
/// How many partitions are searched for a point in time at once.
const LOOK_UPS_MAX: usize = 16;
/// How often is looked for what nobody reads any more.
const TIDY_INTERVAL: Duration = Duration::from_secs(5);

/// All streams that somebody reads.
pub(super) struct Streams {
    shared: Arc<Shared>,
    by_key: DashMap<StreamKey, Weak<Stream>>,
    next_id: AtomicU64,
}

/// Where all sources keep what they made last and what they make it with, and how large they make it.
struct Shared {
    near: Arc<ChunkBudget>,
    /// Of subscribers that catch up.
    far: Arc<ChunkBudget>,
    /// Where instances stay between calls.
    slots: Arc<InstanceSlots>,
    notifier: Arc<Notifier>,
    frame_bytes_target: usize,
    /// How long a cursor waits for an instance of its filter.
    instance_wait_max: Duration,
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
    filter: Option<Arc<Filter>>,
    shared: Arc<Shared>,
    sources: RwLock<Vec<Arc<Source>>>,
    followers: Mutex<FxHashMap<u64, Arc<dyn Follower>>>,
    next_follower: AtomicU64,
    /// How many partitions the followers know of.
    partitions_told: AtomicUsize,
}

/// Who wants to know that a stream has more partitions.
pub trait Follower: Send + Sync {
    /// The topic has grown. Must be quick.
    fn grown(&self);
}

/// Ends the following when dropped.
#[must_use = "dropping the guard ends the following"]
pub struct FollowGuard {
    stream: Arc<Stream>,
    id: u64,
}

impl Drop for FollowGuard {
    fn drop(&mut self) {
        self.stream.followers.lock().remove(&self.id);
    }
}

/// Where a subscriber begins in one partition.
#[derive(Debug, Clone, Copy)]
enum CursorStart {
    /// As the subscription says.
    From(Start),
    /// Where it was before its connection was lost.
    Resume(Position),
}

impl Streams {
    pub(super) fn new(config: &Config, notifier: Arc<Notifier>) -> Streams {
        Streams {
            shared: Arc::new(Shared {
                near: ChunkBudget::new(NEAR_BYTES_MAX),
                far: ChunkBudget::new(FAR_BYTES_MAX),
                slots: Arc::default(),
                notifier,
                frame_bytes_target: config.frame_bytes_target,
                instance_wait_max: config.instance_wait_max,
            }),
            by_key: DashMap::new(),
            next_id: AtomicU64::new(1),
        }
    }

    /// Where instances of filters stay between calls.
    pub(super) fn slots(&self) -> Arc<InstanceSlots> {
        self.shared.slots.clone()
    }

    /// The stream, if somebody reads it and it works.
    fn running(&self, key: &StreamKey) -> Option<Arc<Stream>> {
        let stream = self.by_key.get(key)?.upgrade()?;
        (!stream.has_failed()).then_some(stream)
    }

    fn share(
        &self,
        key: StreamKey,
        topic: &Arc<Topic>,
        filter: Option<Arc<Filter>>,
    ) -> Arc<Stream> {
        let mut entry = self.by_key.entry(key).or_default();
        if let Some(stream) = entry.upgrade().filter(|stream| !stream.has_failed()) {
            return stream;
        }
        let stream = Arc::new(Stream {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            topic: topic.clone(),
            filter,
            shared: self.shared.clone(),
            sources: RwLock::default(),
            followers: Mutex::default(),
            next_follower: AtomicU64::new(0),
            partitions_told: AtomicUsize::new(topic.partitions().len()),
        });
        *entry = Arc::downgrade(&stream);
        stream
    }

    /// Tells the readers of topics that have more partitions than they know of.
    fn tell_grown(&self) {
        let streams = self.by_key.iter();
        streams
            .filter_map(|entry| entry.value().upgrade())
            .for_each(|stream| stream.tell_grown());
    }

    /// Forgets what nobody reads any more.
    fn tidy(&self) {
        self.by_key.retain(|_, stream| stream.strong_count() > 0);
        self.shared.near.tidy();
        self.shared.far.tidy();
        self.shared.slots.tidy();
    }
}

/// Looks after the streams for as long as there is a broker.
pub(super) async fn tend(broker: Weak<Broker>, mut topics: watch::Receiver<u64>) {
    let mut tidying = tokio::time::interval(TIDY_INTERVAL);
    tidying.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_changed = tokio::select! {
            // The store is gone.
            changed = topics.changed() => match changed {
                Ok(()) => true,
                Err(_) => return,
            },
            _ = tidying.tick() => false,
        };
        let Some(broker) = broker.upgrade() else {
            return;
        };
        if is_changed {
            broker.streams.tell_grown();
        } else {
            broker.streams.tidy();
        }
    }
}

impl Broker {
    /// The stream that a subscription reads, and its cursors.
    pub async fn subscribe(
        &self,
        request: &Subscribe,
    ) -> Result<(Arc<Stream>, Vec<Cursor>), WireError> {
        let topic = self.topic(&request.topic)?;
        let starts = starts(request, topic.partitions().len())?;
        let stream = self.stream(&topic, request.filter.as_ref()).await?;
        // Who names the one partition hears that it has no such place.
        let is_lenient = request.partitions.len() != 1;
        let mut cursors = Vec::with_capacity(starts.len());
        for starts in starts.chunks(LOOK_UPS_MAX) {
            let begun = starts
                .iter()
                .map(|(number, start)| self.cursor(&stream, *number, *start, is_lenient));
            cursors.extend(try_join_all(begun).await?);
        }
        Ok((stream, cursors))
    }

    /// The stream of a topic that runs already, or a new one; refused here if
    /// its plugin refuses the parameters.
    async fn stream(
        &self,
        topic: &Arc<Topic>,
        asked: Option<&Asked>,
    ) -> Result<Arc<Stream>, WireError> {
        let filter = match asked {
            None => None,
            Some(asked) => Some(Arc::new(self.filter(topic, asked).await?)),
        };
        let key = StreamKey {
            topic: topic.id(),
            filter: filter.as_ref().map(|filter| filter.key().clone()),
        };
        if let Some(stream) = self.streams.running(&key) {
            return Ok(stream);
        }
        if let Some(filter) = &filter {
            filter.try_out().await?;
        }
        Ok(self.streams.share(key, topic, filter))
    }

    /// A cursor of a stream.
    async fn cursor(
        &self,
        stream: &Arc<Stream>,
        number: u32,
        start: CursorStart,
        is_lenient: bool,
    ) -> Result<Cursor, WireError> {
        let source = stream.source(number).ok_or_else(|| {
            refusal::unknown_partition(stream.topic.name(), number, stream.topic.partitions().len())
        })?;
        let (next, gap) = match start {
            CursorStart::From(from) => {
                let end = source.partition.end();
                let next = match self.resolve(&source.partition, from).await {
                    // The cursor ends there by itself, and none of the others with it.
                    Err(error) if error.code == ErrorCode::PartitionStopped => end,
                    // Partitions differ in length.
                    Err(error) if error.code == ErrorCode::OffsetOutOfRange && is_lenient => end,
                    next => next?,
                };
                (next, None)
            }
            CursorStart::Resume(position) => resume(stream.id, &*source.partition, &position)?,
        };
        Ok(Cursor::new(stream, source, next, gap))
    }
}

/// The partitions that a subscription is for, and where it begins in each: all
/// of `partitions` where it names none.
fn starts(request: &Subscribe, partitions: usize) -> Result<Vec<(u32, CursorStart)>, WireError> {
    let topic = &request.topic;
    let unknown = |number| refusal::unknown_partition(topic, number, partitions);
    let mut is_wanted = vec![request.partitions.is_empty(); partitions];
    for &number in request.partitions.iter().take(partitions + 1) {
        *is_wanted
            .get_mut(number as usize)
            .ok_or_else(|| unknown(number))? = true;
    }
    if request.partitions.len() > partitions {
        return Err(ErrorCode::InvalidArgument.because(format!(
            "topic `{topic}` has {partitions} partitions, the subscription names {}",
            request.partitions.len()
        )));
    }
    let mut starts = vec![CursorStart::From(request.from); partitions];
    for position in &request.resume {
        let number = position.partition;
        let start = starts
            .get_mut(number as usize)
            .ok_or_else(|| unknown(number))?;
        if matches!(start, CursorStart::Resume(_)) {
            return Err(ErrorCode::InvalidArgument.because(format!(
                "`resume` names partition {number} of topic `{topic}` twice"
            )));
        }
        *start = CursorStart::Resume(*position);
    }
    let numbered = (0..).zip(starts).zip(is_wanted);
    Ok(numbered
        .filter_map(|(start, is_wanted)| is_wanted.then_some(start))
        .collect())
}

/// Where a reader goes on, and what it has lost for good.
fn resume(
    stream: u64,
    partition: &dyn Partition,
    position: &Position,
) -> Result<(u64, Option<Gap>), WireError> {
    let (epoch, end) = (partition.epoch(), partition.end());
    let stored = StoredPosition {
        offset: position.offset,
        epoch: Some(position.epoch),
    };
    let next = stored
        .lost(partition)
        .map_or(position.offset, LostHistory::next);
    if position.epoch != epoch && next <= end {
        // Nothing may be missing, but the epoch is another one, which only a gap says.
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

    /// Calls `follower` whenever the topic has grown, until the guard is dropped.
    pub fn follow(self: &Arc<Self>, follower: Arc<dyn Follower>) -> FollowGuard {
        let id = self.next_follower.fetch_add(1, Ordering::Relaxed);
        self.followers.lock().insert(id, follower);
        FollowGuard {
            stream: self.clone(),
            id,
        }
    }

    /// A cursor at the oldest record of a partition.
    pub fn earliest(self: &Arc<Self>, number: u32) -> Option<Cursor> {
        let source = self.source(number)?;
        let start = source.partition.start();
        Some(Cursor::new(self, source, start, None))
    }

    fn tell_grown(&self) {
        let partitions = self.topic.partitions().len();
        if self.partitions_told.swap(partitions, Ordering::AcqRel) != partitions {
            let followers = self.followers.lock();
            followers.values().for_each(|follower| follower.grown());
        }
    }

    fn has_failed(&self) -> bool {
        let failed = |filter: &Arc<Filter>| filter.failure().is_some();
        self.topic.deleted() || self.filter.as_ref().is_some_and(failed)
    }

    fn source(&self, number: u32) -> Option<Arc<Source>> {
        if let Some(source) = self.sources.read().get(number as usize)
            && !source.is_outdated()
        {
            return Some(source.clone());
        }
        let mut sources = self.sources.write();
        let new = |partition: &Arc<dyn Partition>| {
            let is_filtered = self.filter.is_some();
            Arc::new(Source::new(partition.clone(), &self.shared, is_filtered))
        };
        for partition in self.topic.partitions().iter().skip(sources.len()) {
            sources.push(new(partition));
        }
        let source = sources.get_mut(number as usize)?;
        if source.is_outdated() {
            // What it keeps is of lost history.
            *source = new(&source.partition);
        }
        Some(source.clone())
    }
}
