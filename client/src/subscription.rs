//! A subscription: records as they come, over connections that come and go.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use eddy_protocol::frame::{Filter, Position, Start, Subscribe};
use eddy_protocol::{TopicName, WireError};
use futures_util::Stream;
use tokio::sync::{mpsc, watch};

use crate::client::Handle;
use crate::driver::Driver;
use crate::{ClientError, Config, Record, RecordBatch, Status};

/// What to read and from where.
#[derive(Debug, Clone)]
pub struct SubscribeOptions {
    /// Where to begin in the partitions that `resume` does not name.
    pub from: Start,
    /// Which partitions; empty: all of them, and those that are added later.
    pub partitions: Vec<u32>,
    /// Positions of an earlier subscription, from
    /// [`Subscription::positions`], to go on there.
    pub resume: Vec<Position>,
    /// A plugin that decides what comes through.
    pub filter: Option<Filter>,
    /// Once so many bytes wait to be taken, nothing more is read from the
    /// connection, until half of them are gone.
    pub buffer_bytes: usize,
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        SubscribeOptions {
            from: Start::default(),
            partitions: Vec::new(),
            resume: Vec::new(),
            filter: None,
            buffer_bytes: 4 << 20,
        }
    }
}

/// What a subscription brings; `T` is one record or a batch of them.
#[derive(Debug, Clone)]
pub enum Event<T> {
    /// Records, in the order of their offsets within a partition, none missing
    /// and none twice.
    Data(T),
    /// Records that will never come.
    Gap(Gap),
    /// A filter left out the records before this position.
    Advanced(Position),
    /// The connection was lost and stands again; it goes on where it was. If
    /// records are gone meanwhile, a [`Gap`] says so next.
    Reconnected,
    /// One partition brings nothing any more; the others go on.
    PartitionEnded {
        /// Which.
        partition: u32,
        /// Why.
        error: WireError,
    },
}

/// Records that the reader will never get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The partition.
    pub partition: u32,
    /// The offset that should have come.
    pub expected: u64,
    /// The offset that comes next. Lower than `expected`, or the same, where the
    /// broker lost history: nobody knows where the new one parts from the one
    /// that was read, so that reading begins anew at the partition's start, and
    /// records may come again.
    pub next: u64,
}

/// Something on its way to the reader.
#[derive(Debug)]
pub(crate) enum Item {
    /// Where a subscription that has just begun stands.
    Begun(Vec<Position>),
    /// For the reader's eyes.
    Event {
        event: Event<RecordBatch>,
        /// Where the reader is once he has it.
        position: Option<Position>,
        /// What it takes in memory.
        bytes: usize,
    },
}

/// An event, and where the reader is once he has it.
type Placed = (Event<RecordBatch>, Option<Position>);

/// How full the way to the reader is.
#[derive(Debug)]
struct Flow {
    queued_bytes: AtomicUsize,
    limit_bytes: usize,
}

/// The connection's end of the way to the reader.
#[derive(Debug)]
pub(crate) struct Sink {
    pub(crate) request: Subscribe,
    items: mpsc::UnboundedSender<Result<Item, ClientError>>,
    flow: Arc<Flow>,
    begun: watch::Sender<bool>,
}

impl Sink {
    /// Hands something to the reader, who may have gone; `held_bytes` is what the
    /// event keeps in memory beside itself. Even one that keeps nothing counts:
    /// a reader who takes none may be sent any number of them.
    pub(crate) fn send(
        &self,
        event: Event<RecordBatch>,
        position: Option<Position>,
        held_bytes: usize,
    ) {
        let bytes = held_bytes + size_of::<Item>();
        self.flow.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let _ = self.items.send(Ok(Item::Event {
            event,
            position,
            bytes,
        }));
    }

    /// The last word.
    pub(crate) fn fail(&self, error: ClientError) {
        let _ = self.items.send(Err(error));
        self.begun.send_replace(true);
    }

    /// The broker has confirmed the subscription, for the first time or again.
    pub(crate) fn begun(&self, positions: Vec<Position>) {
        let again = *self.begun.borrow();
        let _ = self.items.send(Ok(Item::Begun(positions)));
        if again {
            self.send(Event::Reconnected, None, 0);
        }
        self.begun.send_replace(true);
    }

    /// Whether the reader is behind by as much as may be.
    pub(crate) fn is_full(&self) -> bool {
        self.flow.queued_bytes.load(Ordering::Relaxed) >= self.flow.limit_bytes
    }
}

/// Records of one topic, over a connection of its own that a background task
/// keeps up for as long as the subscription lives.
///
/// When the connection is lost, the task connects again, for ever or up to the
/// configured deadline, and goes on where the last record was. An error is the
/// last thing that a subscription brings. Dropping it ends it.
///
/// Also a [`Stream`] of single records.
#[derive(Debug)]
pub struct Subscription {
    items: mpsc::UnboundedReceiver<Result<Item, ClientError>>,
    flow: Arc<Flow>,
    handle: Handle,
    begun: watch::Receiver<bool>,
    /// The first item was taken.
    confirmed: bool,
    positions: BTreeMap<u32, Position>,
    /// Of which [`next`](Self::next) takes records one by one, and where the
    /// reader is behind it.
    current: Option<(RecordBatch, Option<Position>)>,
    ended: Option<ClientError>,
}

impl Subscription {
    /// A subscription that begins to connect, without waiting for it. Must be
    /// called within a tokio runtime.
    pub fn open(config: Config, topic: &TopicName, options: SubscribeOptions) -> Subscription {
        let (sender, items) = mpsc::unbounded_channel();
        let flow = Arc::new(Flow {
            queued_bytes: AtomicUsize::new(0),
            limit_bytes: options.buffer_bytes.max(1),
        });
        let (begun_sender, begun) = watch::channel(false);
        let SubscribeOptions {
            from,
            partitions,
            resume,
            filter,
            ..
        } = options;
        let request = Subscribe {
            topic: topic.clone(),
            partitions,
            from,
            resume,
            filter,
        };
        let sink = Sink {
            request,
            items: sender,
            flow: Arc::clone(&flow),
            begun: begun_sender,
        };
        let handle = Driver::spawn(config, Some(sink));
        Subscription {
            items,
            flow,
            handle,
            begun,
            confirmed: false,
            positions: BTreeMap::new(),
            current: None,
            ended: None,
        }
    }

    /// Waits until the broker has confirmed the subscription: what is appended
    /// from then on will come, wherever it begins.
    pub async fn ready(&mut self) -> Result<(), ClientError> {
        // The task reports its end through the items.
        let _ = self.begun.wait_for(|begun| *begun).await;
        if !std::mem::replace(&mut self.confirmed, true) {
            // The confirmation is the first of the items; or a refusal is.
            match self.items.try_recv() {
                Ok(Ok(item)) => drop(self.take(item)),
                Ok(Err(error)) => self.ended = Some(error),
                Err(_) => self.ended = Some(ClientError::Closed),
            }
        }
        match &self.ended {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// The next records, as many as came together, or what else happened. Losing
    /// the future loses nothing. After an error it is always that error again.
    pub async fn next_batch(&mut self) -> Result<Event<RecordBatch>, ClientError> {
        std::future::poll_fn(|cx| self.poll_batch(cx)).await
    }

    /// The same, if it is there already.
    pub fn try_next_batch(&mut self) -> Option<Result<Event<RecordBatch>, ClientError>> {
        if let Some((batch, position)) = self.current.take() {
            self.moved(position);
            return Some(Ok(Event::Data(batch)));
        }
        loop {
            match self.items.try_recv() {
                Ok(result) => match self.received(result) {
                    Ok(Some((event, position))) => {
                        self.moved(position);
                        return Some(Ok(event));
                    }
                    Ok(None) => continue,
                    Err(error) => return Some(Err(error)),
                },
                Err(mpsc::error::TryRecvError::Empty) => return None,
                Err(mpsc::error::TryRecvError::Disconnected) => return Some(Err(self.end())),
            }
        }
    }

    /// The next record, or what else happened. Losing the future loses nothing.
    pub async fn next(&mut self) -> Result<Event<Record>, ClientError> {
        std::future::poll_fn(|cx| self.poll_record(cx)).await
    }

    /// The next offset of each partition that is known, after what was taken.
    pub fn positions(&self) -> impl Iterator<Item = &Position> {
        self.positions.values()
    }

    /// How the connection is, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.handle.status()
    }

    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Event<RecordBatch>, ClientError>> {
        let Poll::Ready((event, position)) = (match self.current.take() {
            Some((batch, position)) => Poll::Ready((Event::Data(batch), position)),
            None => self.poll_item(cx)?,
        }) else {
            return Poll::Pending;
        };
        self.moved(position);
        Poll::Ready(Ok(event))
    }

    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event<Record>, ClientError>> {
        loop {
            if let Some((batch, end)) = &mut self.current {
                if let Some(record) = batch.take_first() {
                    let position = Position {
                        partition: batch.partition(),
                        offset: record.offset + 1,
                        epoch: batch.epoch(),
                    };
                    let end = end.filter(|_| batch.is_empty());
                    self.moved(Some(end.unwrap_or(position)));
                    return Poll::Ready(Ok(Event::Data(record)));
                }
                self.current = None;
            }
            let Poll::Ready((event, position)) = self.poll_item(cx)? else {
                return Poll::Pending;
            };
            let event = match event {
                Event::Data(batch) => {
                    self.current = Some((batch, position));
                    continue;
                }
                Event::Gap(gap) => Event::Gap(gap),
                Event::Advanced(position) => Event::Advanced(position),
                Event::Reconnected => Event::Reconnected,
                Event::PartitionEnded { partition, error } => {
                    Event::PartitionEnded { partition, error }
                }
            };
            self.moved(position);
            return Poll::Ready(Ok(event));
        }
    }

    /// The next event, and where the reader is once he has it.
    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<Placed, ClientError>> {
        loop {
            let Poll::Ready(result) = self.items.poll_recv(cx) else {
                return Poll::Pending;
            };
            let received = match result {
                Some(result) => self.received(result),
                None => Err(self.end()),
            };
            if let Some(result) = received.transpose() {
                return Poll::Ready(result);
            }
        }
    }

    fn moved(&mut self, position: Option<Position>) {
        if let Some(position) = position {
            self.positions.insert(position.partition, position);
        }
    }

    fn received(
        &mut self,
        result: Result<Item, ClientError>,
    ) -> Result<Option<Placed>, ClientError> {
        self.confirmed = true;
        match result {
            Ok(item) => Ok(self.take(item)),
            Err(error) => {
                self.ended = Some(error.clone());
                Err(error)
            }
        }
    }

    fn take(&mut self, item: Item) -> Option<Placed> {
        let (event, position, bytes) = match item {
            Item::Event {
                event,
                position,
                bytes,
            } => (event, position, bytes),
            Item::Begun(positions) => {
                for position in positions {
                    self.positions.entry(position.partition).or_insert(position);
                }
                return None;
            }
        };
        let before = self.flow.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let half = self.flow.limit_bytes / 2;
        if before > half && before - bytes <= half {
            self.handle.wake();
        }
        Some((event, position))
    }

    fn end(&self) -> ClientError {
        self.ended.clone().unwrap_or(ClientError::Closed)
    }
}

impl Stream for Subscription {
    type Item = Result<Event<Record>, ClientError>;

    /// Ends after an error.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended.is_some() {
            return Poll::Ready(None);
        }
        self.poll_record(cx).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;
    use tokio::sync::Notify;

    fn pair(limit_bytes: usize) -> (Sink, Subscription) {
        let (sender, items) = mpsc::unbounded_channel();
        let (begun_sender, begun) = watch::channel(true);
        let (commands, _) = mpsc::unbounded_channel();
        let (_, status) = watch::channel(Status::Connected);
        let flow = Arc::new(Flow {
            queued_bytes: AtomicUsize::new(0),
            limit_bytes,
        });
        let sink = Sink {
            request: Subscribe {
                topic: "t".parse().expect("a name"),
                partitions: Vec::new(),
                from: Start::default(),
                resume: Vec::new(),
                filter: None,
            },
            items: sender,
            flow: Arc::clone(&flow),
            begun: begun_sender,
        };
        let wake = Arc::new(Notify::new());
        let subscription = Subscription {
            items,
            flow,
            handle: Handle::new(commands, wake, status, Arc::new(OnceLock::new())),
            begun,
            confirmed: true,
            positions: BTreeMap::new(),
            current: None,
            ended: None,
        };
        (sink, subscription)
    }

    #[test]
    fn what_is_no_record_also_fills_the_way_to_a_reader_who_takes_nothing() {
        let (sink, mut subscription) = pair(100 * size_of::<Item>());
        for offset in 1..=100 {
            assert!(!sink.is_full(), "before position {offset}");
            let position = Position {
                partition: 0,
                offset,
                epoch: 1,
            };
            sink.send(Event::Advanced(position), Some(position), 0);
        }
        assert!(sink.is_full());
        while subscription.try_next_batch().is_some() {
            if subscription.positions().any(|at| at.offset == 100) {
                break;
            }
        }
        assert_eq!(sink.flow.queued_bytes.load(Ordering::Relaxed), 0);
    }
}
