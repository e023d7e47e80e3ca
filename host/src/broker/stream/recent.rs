//! What was delivered last, kept for those who come next. Each source keeps a
//! little; all of them together keep no more than the budget allows, frames
//! included; and what nobody made anew for a while is let go.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::chunk::Chunk;

/// What one source keeps at most.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Whoever comes later than this reads again.
const AGE_MAX: Duration = Duration::from_secs(5);

/// The chunks of many sources, in the order in which they were made.
pub(super) struct ChunkBudget {
    bytes_max: usize,
    /// Of all chunks that are alive, kept here or held by a cursor.
    bytes: Arc<AtomicUsize>,
    order: Mutex<VecDeque<Entry>>,
}

struct Entry {
    made: Instant,
    kept: Weak<Mutex<Kept>>,
    chunk: Weak<Chunk>,
}

/// What a chunk holds, counted for as long as it lives.
pub(super) struct Charge {
    total: Arc<AtomicUsize>,
    bytes: AtomicUsize,
}

/// The newest chunks of one source.
pub(super) struct Recent {
    budget: Arc<ChunkBudget>,
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    by_start: BTreeMap<u64, Arc<Chunk>>,
    /// Where the chunks begin and what they were worth, in the order in which they came.
    order: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl ChunkBudget {
    pub(super) fn new(bytes_max: usize) -> Arc<ChunkBudget> {
        Arc::new(ChunkBudget {
            bytes_max,
            bytes: Arc::default(),
            order: Mutex::default(),
        })
    }

    /// What the chunks of all sources hold.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn charge(&self) -> Charge {
        Charge::to(self.bytes.clone())
    }

    /// Lets go of what has been there for long.
    pub(super) fn tidy(&self) {
        self.make_room(&mut self.order.lock(), Instant::now());
    }

    fn note(&self, kept: &Arc<Mutex<Kept>>, chunk: &Arc<Chunk>) {
        let made = Instant::now();
        let mut order = self.order.lock();
        order.push_back(Entry {
            made,
            kept: Arc::downgrade(kept),
            chunk: Arc::downgrade(chunk),
        });
        self.make_room(&mut order, made);
    }

    fn make_room(&self, order: &mut VecDeque<Entry>, now: Instant) {
        while let Some(oldest) = order.front() {
            let is_gone = oldest.chunk.strong_count() == 0;
            let is_old = now.duration_since(oldest.made) > AGE_MAX;
            if !is_gone && !is_old && self.bytes.load(Ordering::Relaxed) <= self.bytes_max {
                break;
            }
            if let (Some(kept), Some(chunk)) = (oldest.kept.upgrade(), oldest.chunk.upgrade()) {
                kept.lock().remove(&chunk);
            }
            order.pop_front();
        }
        // A burst may have grown it.
        if order.is_empty() {
            order.shrink_to_fit();
        }
    }
}

impl Charge {
    fn to(total: Arc<AtomicUsize>) -> Charge {
        Charge {
            total,
            bytes: AtomicUsize::new(0),
        }
    }

    /// A charge on the same account.
    pub(super) fn another(&self) -> Charge {
        Charge::to(self.total.clone())
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}

impl Recent {
    pub(super) fn new(budget: &Arc<ChunkBudget>) -> Recent {
        Recent {
            budget: budget.clone(),
            kept: Arc::default(),
        }
    }

    pub(super) fn charge(&self) -> Charge {
        self.budget.charge()
    }

    /// The chunk that begins at `offset`.
    pub(super) fn at(&self, offset: u64) -> Option<Arc<Chunk>> {
        self.kept.lock().by_start.get(&offset).cloned()
    }

    /// The chunk that `offset` lies in.
    pub(super) fn holding(&self, offset: u64) -> Option<Arc<Chunk>> {
        let kept = self.kept.lock();
        let (_, chunk) = kept.by_start.range(..=offset).next_back()?;
        (offset < chunk.next).then(|| chunk.clone())
    }

    /// Whether everything here lies behind `offset`.
    pub(super) fn is_past(&self, offset: u64) -> bool {
        let kept = self.kept.lock();
        let first = kept.by_start.first_key_value();
        first.is_some_and(|(start, _)| offset < *start)
    }

    /// The chunk that begins at `offset`; if there is none, the one that `make` gives.
    pub(super) fn at_or<E>(
        &self,
        offset: u64,
        make: impl FnOnce(Charge) -> Result<Chunk, E>,
    ) -> Result<Arc<Chunk>, E> {
        let mut kept = self.kept.lock();
        if let Some(chunk) = kept.by_start.get(&offset) {
            return Ok(chunk.clone());
        }
        let chunk = Arc::new(make(self.charge())?);
        let is_new = kept.insert(&chunk);
        drop(kept);
        if is_new {
            self.budget.note(&self.kept, &chunk);
        }
        Ok(chunk)
    }

    pub(super) fn keep(&self, chunk: &Arc<Chunk>) {
        let is_new = self.kept.lock().insert(chunk);
        if is_new {
            self.budget.note(&self.kept, chunk);
        }
    }
}

impl Kept {
    fn insert(&mut self, chunk: &Arc<Chunk>) -> bool {
        if chunk.next <= chunk.start || self.by_start.contains_key(&chunk.start) {
            return false;
        }
        let bytes = chunk.bytes();
        self.by_start.insert(chunk.start, chunk.clone());
        self.order.push_back((chunk.start, bytes));
        self.bytes += bytes;
        while self.bytes > SOURCE_BYTES_MAX && self.order.len() > 1 {
            self.drop_oldest();
        }
        true
    }

    /// Drops the chunk and what came before it.
    fn remove(&mut self, chunk: &Arc<Chunk>) {
        let found = self.by_start.get(&chunk.start);
        if !found.is_some_and(|found| Arc::ptr_eq(found, chunk)) {
            return;
        }
        while self.by_start.contains_key(&chunk.start) {
            self.drop_oldest();
        }
        if self.order.is_empty() {
            self.order.shrink_to_fit();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((start, bytes)) = self.order.pop_front() {
            self.bytes -= bytes;
            self.by_start.remove(&start);
        }
    }
}

#[cfg(test)]
mod tests {
    use eddy_protocol::{Batch, BatchBuilder, Compression};

    use super::*;

    const VALUE: usize = 64 << 10;

    fn chunk(recent: &Recent, offset: u64) -> Arc<Chunk> {
        let mut batch = BatchBuilder::default();
        batch
            .push(0, None, Some(&[0; VALUE]), &[])
            .expect("it fits");
        let batch: Batch = batch.finish(Compression::None, None).expect("a batch");
        let batches = vec![batch.with_base_offset(offset)];
        Arc::new(Chunk::new(offset, batches, recent.charge()))
    }

    #[test]
    fn all_sources_together_keep_no_more_than_the_budget_allows_and_the_oldest_goes_first() {
        let budget = ChunkBudget::new(10 * VALUE);
        let sources: Vec<_> = (0..20).map(|_| Recent::new(&budget)).collect();
        for source in &sources {
            for offset in 0..5 {
                source.keep(&chunk(source, offset));
                assert!(budget.bytes() <= 10 * VALUE, "{}", budget.bytes());
            }
        }
        assert!(sources[0].at(4).is_none());
        assert!(sources[19].at(4).is_some());
    }

    #[test]
    fn a_source_keeps_its_newest_and_frees_everything_when_it_goes() {
        let budget = ChunkBudget::new(usize::MAX);
        let source = Recent::new(&budget);
        for offset in 0..100 {
            source.keep(&chunk(&source, offset));
        }
        assert!(source.at(0).is_none());
        assert!(source.holding(99).is_some_and(|chunk| chunk.start == 99));
        assert!(source.is_past(0) && !source.is_past(99));
        assert!(budget.bytes() <= SOURCE_BYTES_MAX, "{}", budget.bytes());
        drop(source);
        assert_eq!(budget.bytes(), 0);
        budget.tidy();
        assert!(budget.order.lock().is_empty());
    }
}
