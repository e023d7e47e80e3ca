//! One partition of a stream: what was made of it last, and how more is made,
//! once for all who want the same.
//!
//! Cursors that are near the partition's end share evaluations and chunks. Those
//! that are far behind have a cache of their own for both, so that a long
//! catch-up neither delays the others nor takes their chunks away; among
//! themselves they share too, where they are at the same offset.

use std::future::Future;
use std::sync::{Arc, Weak};

use eddy_protocol::{Batch, WireError};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::OnceCell;

use super::Shared;
use super::chunk::Chunk;
use super::recent::{Charge, Recent};
use crate::broker::fetch;
use crate::broker::filter::{Filter, InstanceSlot};
use crate::log::{Partition, TailRead};

/// One partition of a stream.
pub(super) struct Source {
    pub(super) partition: Arc<dyn Partition>,
    /// The partition's when this was made: of another one nothing is kept here.
    pub(super) epoch: u32,
    shared: Arc<Shared>,
    near: Cache,
    far: Cache,
    /// What is being made, by the offset that it is made for.
    being_made: Mutex<FxHashMap<u64, Weak<Making>>>,
}

struct Cache {
    recent: Recent,
    slot: InstanceSlot,
}

type Making = OnceCell<Arc<Chunk>>;

/// What there is without a wait.
pub(super) enum Lookup {
    Chunk(Arc<Chunk>),
    AtEnd,
    /// It must be [made](Source::make).
    Nothing,
}

impl Source {
    pub(super) fn new(
        partition: Arc<dyn Partition>,
        shared: &Arc<Shared>,
        filtered: bool,
    ) -> Source {
        let cache = |budget, slot| Cache {
            recent: Recent::new(budget),
            slot,
        };
        let stays = match filtered {
            true => shared.slots.add(),
            false => InstanceSlot::default(),
        };
        Source {
            epoch: partition.epoch(),
            partition,
            near: cache(&shared.near, stays),
            far: cache(&shared.far, InstanceSlot::default()),
            shared: shared.clone(),
            being_made: Mutex::default(),
        }
    }

    /// Whether the partition has lost history since this was made.
    pub(super) fn is_outdated(&self) -> bool {
        self.partition.epoch() != self.epoch
    }

    /// What lies at `offset`, or with a filter the chunk that holds it.
    pub(super) fn find(&self, offset: u64, filtered: bool) -> Lookup {
        if filtered {
            return self.holding(offset).map_or(Lookup::Nothing, Lookup::Chunk);
        }
        if let Some(chunk) = self.near.recent.at(offset) {
            return Lookup::Chunk(chunk);
        }
        let from_tail = |charge: Charge| match self.read_tail(offset) {
            TailRead::Batches(batches) => Ok(Chunk::new(offset, batches, charge)),
            TailRead::AtEnd => Err(Lookup::AtEnd),
            _ => Err(Lookup::Nothing),
        };
        let cache = self.cache(offset);
        let found = cache.recent.at_or(offset, from_tail);
        match found.map_or_else(|found| found, Lookup::Chunk) {
            Lookup::Nothing => {
                let far = self.far.recent.at(offset);
                far.map_or(Lookup::Nothing, Lookup::Chunk)
            }
            found => found,
        }
    }

    /// Makes the chunk for `offset`, or waits for whoever is making it.
    pub(super) fn make(
        self: &Arc<Self>,
        offset: u64,
        filter: Option<&Arc<Filter>>,
    ) -> impl Future<Output = Result<Arc<Chunk>, WireError>> + Send + use<> {
        let (source, making, filter) = (self.clone(), self.making(offset), filter.cloned());
        async move {
            let made = making.get_or_try_init(|| async {
                match filter {
                    None => source.load(offset).await,
                    Some(filter) => source.evaluate(offset, &filter).await,
                }
            });
            made.await.cloned()
        }
    }

    fn making(&self, offset: u64) -> Arc<Making> {
        let mut being_made = self.being_made.lock();
        if let Some(making) = being_made.get(&offset).and_then(Weak::upgrade) {
            return making;
        }
        being_made.retain(|_, making| making.strong_count() > 0);
        let making = Arc::default();
        being_made.insert(offset, Arc::downgrade(&making));
        making
    }

    async fn load(&self, offset: u64) -> Result<Arc<Chunk>, WireError> {
        let batches = self.read(offset).await?;
        let recent = &self.far.recent;
        let chunk = Arc::new(Chunk::new(offset, batches, recent.charge()));
        recent.keep(&chunk);
        Ok(chunk)
    }

    async fn evaluate(&self, offset: u64, filter: &Filter) -> Result<Arc<Chunk>, WireError> {
        let is_far = self.is_far(offset);
        let cache = if is_far { &self.far } else { &self.near };
        let mut slot = cache.slot.take().await;
        if let Some(chunk) = self.holding(offset) {
            return Ok(chunk);
        }
        let batches = self.read(offset).await?;
        let charge = cache.recent.charge();
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
            return Ok(Arc::new(Chunk::new(offset, batches, charge)));
        };
        let (start, end) = (first.base_offset(), last.end_offset());
        let kept = filter.evaluate(&mut slot, &*self.partition, batches).await;
        if is_far {
            // Who catches up comes by rarely; an instance should not wait for that.
            *slot = None;
        }
        let chunk = Arc::new(Chunk::covering(start, end, kept?, charge));
        cache.recent.keep(&chunk);
        Ok(chunk)
    }

    async fn read(&self, offset: u64) -> Result<Vec<Batch>, WireError> {
        fetch::read(&self.partition, offset, self.shared.frame_bytes_target).await
    }

    fn read_tail(&self, offset: u64) -> TailRead {
        let bytes_max = self.shared.frame_bytes_target as u64;
        self.partition.read_tail(offset, bytes_max)
    }

    fn holding(&self, offset: u64) -> Option<Arc<Chunk>> {
        let near = self.near.recent.holding(offset);
        near.or_else(|| self.far.recent.holding(offset))
    }

    /// Where the chunks for `offset` are kept, as far as they come from memory.
    fn cache(&self, offset: u64) -> &Cache {
        if self.near.recent.is_past(offset) {
            &self.far
        } else {
            &self.near
        }
    }

    fn is_far(&self, offset: u64) -> bool {
        self.near.recent.is_past(offset)
            || matches!(self.partition.read_tail(offset, 1), TailRead::OnDisk)
    }
}
