//! Fetch: some records of one partition, once, with an optional wait.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use eddy_protocol::batch::Batches;
use eddy_protocol::frame::{Fetch, Fetched, Start};
use eddy_protocol::{Batch, BatchError, WireError};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{Broker, ListenGuard, Listener, refusal};
use crate::log::{Partition, ReadError, TailRead};

/// What a fetch returns at the most, whatever was asked for, unless a single batch is larger.
const FETCH_BYTES_MAX: u32 = 4 << 20;

/// A fetch that waits no longer: it has yet to read.
pub struct Awaited {
    partition: Arc<dyn Partition>,
    offset: u64,
    bytes_max: usize,
    /// The largest batch that there should be.
    batch_bytes_max: usize,
}

/// Where a partition's records are.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Its epoch.
    pub epoch: u32,
    /// Its oldest offset.
    pub start: u64,
    /// The offset that its next record will get.
    pub end: u64,
}

impl Awaited {
    /// What [`read`](Awaited::read) holds at the most.
    pub fn bytes_max(&self) -> usize {
        // The last batch may begin just below the limit.
        self.bytes_max.saturating_add(self.batch_bytes_max)
    }

    /// The offset at which it begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Where the partition's records are now.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            epoch: self.partition.epoch(),
            start: self.partition.start(),
            end: self.partition.end(),
        }
    }

    /// How many bytes of records, expanded, were asked for.
    pub fn bytes_wanted(&self) -> usize {
        self.bytes_max
    }

    /// What [`read_at`](Awaited::read_at) of so many bytes takes at the most, with its batches
    /// expanded.
    pub fn read_bytes_max(&self, bytes: usize) -> usize {
        bytes + 2 * self.batch_bytes_max
    }

    /// As [`read_at`](Awaited::read_at), of what the store has in memory anyhow.
    pub fn read_in_memory(&self, offset: u64, bytes_max: usize) -> Option<Vec<Batch>> {
        match self.partition.read_tail(offset, bytes_max as u64) {
            TailRead::Batches(batches) => Some(batches),
            TailRead::AtEnd => Some(Vec::new()),
            _ => None,
        }
    }

    /// For those who read piece by piece: batches from `offset` on, up to the one that passes so
    /// many bytes; none at the end.
    pub async fn read_at(&self, offset: u64, bytes_max: usize) -> Result<Vec<Batch>, WireError> {
        read(&self.partition, offset, bytes_max).await
    }

    /// Counts what was read and is given to the peer.
    pub fn delivered(&self, records: u64, bytes: u64) {
        self.partition.meters().delivered(records, bytes);
    }

    /// Reads what is there, perhaps nothing.
    pub async fn read(&self) -> Result<Fetched, WireError> {
        let (partition, offset) = (&self.partition, self.offset);
        let batches = read_on(partition, offset, self.bytes_max).await?;
        let batches = match batches.iter().any(|batch| batch.header().is_kafka()) {
            true => {
                let make = move |_: &dyn Partition| match as_columns(&batches) {
                    Ok(columns) => Ok(columns.into_owned()),
                    Err(error) => Err(ReadError::Stopped(error.to_string().into())),
                };
                blocking(partition, offset, make).await?
            }
            false => batches,
        };
        Ok(Fetched {
            epoch: partition.epoch(),
            start: partition.start(),
            end: partition.end(),
            next: batches.last().map_or(offset, Batch::end_offset),
            batches: Batches(concatenate(&batches)),
        })
    }
}

impl Broker {
    /// Reads from one partition; waits up to `wait_ms` for a first record.
    pub async fn fetch(&self, request: Fetch) -> Result<Fetched, WireError> {
        self.await_records(&request).await?.read().await
    }

    /// The wait of a [`fetch`](Broker::fetch) without its read: it holds no records, however long
    /// it lasts.
    pub async fn await_records(&self, request: &Fetch) -> Result<Awaited, WireError> {
        let (_, partition) = self.partition(&request.topic, request.partition)?;
        let offset = self.resolve(&partition, request.from).await?;
        let wait = Duration::from_millis(request.wait_ms.into()).min(self.config.fetch_wait_max);
        if !wait.is_zero() && is_at_end(&*partition, offset) {
            let until = Instant::now() + wait;
            self.wait_for_more(&partition, offset, until).await;
        }
        Ok(Awaited {
            partition,
            offset,
            bytes_max: request.bytes_max.clamp(1, FETCH_BYTES_MAX) as usize,
            batch_bytes_max: self.config.batch_bytes_max,
        })
    }

    /// Until there is something to read at `offset`, or it is too late.
    async fn wait_for_more(&self, partition: &Arc<dyn Partition>, offset: u64, until: Instant) {
        let (change, _listening) = self.listen(partition);
        while is_at_end(&**partition, offset) {
            if timeout_at(until, change.came()).await.is_err() {
                return;
            }
        }
    }

    /// From now on, what says that the partition has changed.
    pub(super) fn listen(
        &self,
        partition: &Arc<dyn Partition>,
    ) -> (Arc<PartitionChange>, ListenGuard) {
        let change = Arc::<PartitionChange>::default();
        let guard = self.notifier.listen(partition, change.clone());
        (change, guard)
    }

    /// The offset at which a reader begins.
    pub(super) async fn resolve(
        &self,
        partition: &Arc<dyn Partition>,
        from: Start,
    ) -> Result<u64, WireError> {
        match from {
            Start::Earliest => Ok(partition.start()),
            Start::Latest => Ok(partition.end()),
            Start::Offset(offset) if offset > partition.end() => {
                let end = partition.end();
                let error = ReadError::BeyondEnd { end };
                Err(refusal::of_read(&**partition, offset, &error))
            }
            Start::Offset(offset) => Ok(offset),
            Start::Time(time_ms) => {
                let find = move |partition: &dyn Partition| partition.offset_at_time(time_ms);
                blocking(partition, partition.start(), find).await
            }
        }
    }
}

/// Whether there is nothing to read, and nothing in the way of reading it, once it comes.
fn is_at_end(partition: &dyn Partition, offset: u64) -> bool {
    matches!(partition.read_tail(offset, 1), TailRead::AtEnd)
}

/// What is there from `offset` on, from as many segments as `bytes_max` wants;
/// nothing at the end.
async fn read_on(
    partition: &Arc<dyn Partition>,
    offset: u64,
    bytes_max: usize,
) -> Result<Vec<Batch>, WireError> {
    let mut batches = read(partition, offset, bytes_max).await?;
    while let Some(last) = batches.last() {
        let taken: usize = batches.iter().map(Batch::expanded_len).sum();
        if taken >= bytes_max {
            break;
        }
        // What was read stands, whatever comes behind it.
        match read(partition, last.end_offset(), bytes_max - taken).await {
            Ok(more) if !more.is_empty() => batches.extend(more),
            _ => break,
        }
    }
    Ok(batches)
}

/// What is there from `offset` on, up to the end of a segment at the furthest;
/// nothing at the end.
pub(super) async fn read(
    partition: &Arc<dyn Partition>,
    offset: u64,
    bytes_max: usize,
) -> Result<Vec<Batch>, WireError> {
    match partition.read_tail(offset, bytes_max as u64) {
        TailRead::Batches(batches) => Ok(batches),
        TailRead::AtEnd => Ok(Vec::new()),
        _ => {
            let read = move |partition: &dyn Partition| partition.read(offset, bytes_max as u64);
            blocking(partition, offset, read)
                .await
                .map(|read| read.batches)
        }
    }
}

async fn blocking<T: Send + 'static>(
    partition: &Arc<dyn Partition>,
    asked: u64,
    work: impl FnOnce(&dyn Partition) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, WireError> {
    let reading = partition.clone();
    match tokio::task::spawn_blocking(move || work(&*reading)).await {
        Ok(result) => result.map_err(|error| refusal::of_read(&**partition, asked, &error)),
        Err(error) => Err(refusal::of_join(&error)),
    }
}

/// The batches as those read them who know nothing of Kafka's.
pub(super) fn as_columns(batches: &[Batch]) -> Result<Cow<'_, [Batch]>, BatchError> {
    if batches.iter().any(|batch| batch.header().is_kafka()) {
        batches.iter().map(Batch::as_columns).collect()
    } else {
        Ok(Cow::Borrowed(batches))
    }
}

/// The batches one after the other.
pub(super) fn concatenate(batches: &[Batch]) -> Bytes {
    match batches {
        [] => Bytes::new(),
        [only] => only.bytes().clone(),
        several => {
            let mut bytes =
                BytesMut::with_capacity(several.iter().map(|batch| batch.bytes().len()).sum());
            several
                .iter()
                .for_each(|batch| bytes.extend_from_slice(batch.bytes()));
            bytes.freeze()
        }
    }
}

/// Wakes a single waiter when a partition changes.
#[derive(Default)]
pub(super) struct PartitionChange(Notify);

impl PartitionChange {
    /// Returns once something has changed since the last return.
    pub(super) async fn came(&self) {
        self.0.notified().await;
    }
}

impl Listener for PartitionChange {
    fn changed(&self) {
        self.0.notify_one();
    }
}
