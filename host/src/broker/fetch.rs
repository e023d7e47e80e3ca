//! Fetch: some records of one partition, once, with an optional wait.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use eddy_protocol::batch::Batches;
use eddy_protocol::frame::{Fetch, Fetched, Start};
use eddy_protocol::{Batch, ErrorCode, WireError};
use tokio::sync::Notify;

use super::stream::count;
use super::{Broker, refusal};
use crate::store::{Partition, ReadError, TailRead, TopicId, WatchGuard, Watcher};

/// What a fetch returns at the most, whatever was asked for.
const FETCH_BYTES_MAX: u32 = 4 << 20;

impl Broker {
    /// Reads from one partition; waits up to `wait_ms` for a first record.
    pub async fn fetch(&self, request: Fetch) -> Result<Fetched, WireError> {
        let (_, partition) = self.partition(&request.topic, request.partition)?;
        let offset = self.resolve(&partition, request.from).await?;
        let bytes_max = request.bytes_max.clamp(1, FETCH_BYTES_MAX) as usize;
        let wait = Duration::from_millis(request.wait_ms.into()).min(self.config.fetch_wait_max);
        let batches =
            match tokio::time::timeout(wait, wait_and_read(&partition, offset, bytes_max)).await {
                Ok(batches) => batches?,
                Err(_) => read(&partition, offset, bytes_max).await?,
            };
        let bytes = batches.iter().map(|batch| batch.len() as u64).sum();
        partition.meters().delivered(count(&batches), bytes);
        Ok(Fetched {
            epoch: partition.epoch(),
            start: partition.start(),
            end: partition.end(),
            next: batches.last().map_or(offset, Batch::end_offset),
            batches: Batches(concatenate(&batches)),
        })
    }

    /// The offset at which a reader begins.
    pub(super) async fn resolve(
        &self,
        partition: &Arc<Partition>,
        from: Start,
    ) -> Result<u64, WireError> {
        match from {
            Start::Earliest => Ok(partition.start()),
            Start::Latest => Ok(partition.end()),
            Start::Offset(offset) if offset > partition.end() => Err(ErrorCode::OffsetOutOfRange
                .because(format!(
                    "partition {} ends at offset {}, {offset} was asked for",
                    partition.number(),
                    partition.end()
                ))),
            Start::Offset(offset) => Ok(offset),
            Start::Time(time_ms) => {
                let partition = partition.clone();
                blocking(move || partition.offset_at_time(time_ms)).await
            }
        }
    }
}

async fn wait_and_read(
    partition: &Arc<Partition>,
    offset: u64,
    bytes_max: usize,
) -> Result<Vec<Batch>, WireError> {
    let news = Arc::new(News::default());
    let _guard = news.watch(partition);
    loop {
        let batches = read(partition, offset, bytes_max).await?;
        if !batches.is_empty() {
            return Ok(batches);
        }
        news.came().await;
    }
}

/// What is there from `offset` on; nothing at the end.
pub(super) async fn read(
    partition: &Arc<Partition>,
    offset: u64,
    bytes_max: usize,
) -> Result<Vec<Batch>, WireError> {
    match partition.read_tail(offset, bytes_max as u64) {
        TailRead::Batches(batches) => Ok(batches),
        TailRead::AtEnd => Ok(Vec::new()),
        _ => {
            let partition = partition.clone();
            blocking(move || partition.read(offset, bytes_max as u64))
                .await
                .map(|read| read.batches)
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, WireError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| refusal::of_read(&error)),
        Err(_) => Err(ErrorCode::ShuttingDown.because("the broker is stopping")),
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
pub(super) struct News(Notify);

impl News {
    /// From now on, until the guard is dropped.
    pub(super) fn watch(self: &Arc<Self>, partition: &Arc<Partition>) -> WatchGuard {
        let watcher: Arc<dyn Watcher> = self.clone();
        partition.watch(&watcher)
    }

    /// Returns once something has changed since the last return.
    pub(super) async fn came(&self) {
        self.0.notified().await;
    }
}

impl Watcher for News {
    fn changed(&self, _topic: TopicId, _partition: u32) {
        self.0.notify_one();
    }
}
