//! A partition's newest records, in memory: *pending* ones are in the journal and
//! not visible yet; visible ones are shared by all readers and stay at least
//! until they are in a segment.

use std::collections::VecDeque;

use eddy_protocol::Batch;

/// The newest records.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    pending: VecDeque<(u64, Batch)>,
    visible: VecDeque<Batch>,
    /// Of the visible batches.
    bytes: u64,
    /// How many visible batches, from the oldest on, are in segments.
    applied: usize,
    /// Whether the applier knows that there is something for it.
    is_queued: bool,
}

/// What a publication did.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Published {
    pub(crate) records: u64,
    pub(crate) batches: u64,
    pub(crate) bytes: u64,
    /// Whether the applier must be told.
    pub(crate) must_queue: bool,
}

impl Tail {
    /// Adds a batch that becomes visible once the group `needs` is synced.
    pub(crate) fn push(&mut self, needs: u64, batch: Batch) {
        self.pending.push_back((needs, batch));
    }

    /// Makes visible what may be, in order; calls `end` with each new end.
    pub(crate) fn publish(&mut self, synced: u64, mut end: impl FnMut(u64)) -> Published {
        let mut published = Published::default();
        let is_ready = |(needs, _): &mut (u64, Batch)| *needs <= synced;
        while let Some((_, batch)) = self.pending.pop_front_if(is_ready) {
            published.records += u64::from(batch.count());
            published.batches += 1;
            published.bytes += batch.len() as u64;
            end(batch.end_offset());
            self.visible.push_back(batch);
        }
        self.bytes += published.bytes;
        published.must_queue = published.bytes > 0 && !self.is_queued;
        self.is_queued |= published.must_queue;
        published
    }

    /// The next batches for a segment; stops after the one that passes `bytes_max`.
    pub(crate) fn unapplied(&self, bytes_max: u64) -> Vec<Batch> {
        let size = |batch: &Batch| batch.len() as u64;
        take(self.visible.range(self.applied..), bytes_max, size)
    }

    /// The batches from `offset` on, whose first is at or before it; stops after
    /// the one that passes `bytes_max`, expanded. `None` if the tail begins behind.
    pub(crate) fn read(&self, offset: u64, bytes_max: u64) -> Option<Vec<Batch>> {
        self.visible
            .front()
            .filter(|first| first.base_offset() <= offset)?;
        let is_before = |batch: &Batch| batch.end_offset() <= offset;
        let from = self.visible.partition_point(is_before);
        let size = |batch: &Batch| batch.expanded_len() as u64;
        Some(take(self.visible.range(from..), bytes_max.max(1), size))
    }

    /// Takes note that the next `count` batches are in a segment.
    pub(crate) fn applied(&mut self, count: usize) {
        self.applied += count;
    }

    /// Lets the oldest batches go that are in segments, as long as `must_go` says
    /// so of the oldest one and the bytes there are; returns how many bytes went.
    pub(crate) fn trim(&mut self, must_go: impl Fn(&Batch, u64) -> bool) -> u64 {
        let before = self.bytes;
        while self.applied > 0 {
            let bytes = self.bytes;
            let Some(oldest) = self.visible.pop_front_if(|batch| must_go(batch, bytes)) else {
                break;
            };
            self.applied -= 1;
            self.bytes -= oldest.len() as u64;
        }
        before - self.bytes
    }

    /// Lets go what is in no segment; returns how many bytes went.
    pub(crate) fn drop_unapplied(&mut self) -> u64 {
        let dropped = self.visible.drain(self.applied..);
        let bytes: u64 = dropped.map(|batch| batch.len() as u64).sum();
        self.bytes -= bytes;
        self.is_queued = false;
        bytes
    }

    /// Whether everything visible is in segments; if so, the applier must be told
    /// of what comes.
    pub(crate) fn leave_queue(&mut self) -> bool {
        let is_done = self.applied == self.visible.len();
        self.is_queued = !is_done;
        is_done
    }
}

fn take<'a>(
    batches: impl Iterator<Item = &'a Batch>,
    bytes_max: u64,
    size: impl Fn(&Batch) -> u64,
) -> Vec<Batch> {
    let mut bytes = 0;
    let within = batches.take_while(|batch| {
        let is_within = bytes < bytes_max;
        bytes += size(batch);
        is_within
    });
    within.cloned().collect()
}
