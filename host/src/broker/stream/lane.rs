//! One partition of a stream: what was made of it last, and how more is made,
//! once for all who want the same.
//!
//! Cursors that are near the partition's end share evaluations and chunks. Those
//! that are far behind have a place of their own for both, so that a long
//! catch-up neither delays the others nor takes their chunks away; among
//! themselves they share too, where they are at the same offset.

use std::future::Future;
use std::sync::{Arc, Weak};

use eddy_protocol::{Batch, WireError};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::OnceCell;

use super::Shelves;
use super::chunk::Chunk;
use super::recent::{Charge, Recent};
use crate::broker::fetch;
use crate::broker::filter::{Filter, Seat};
use crate::store::{Partition, TailRead};

/// One partition of a stream.
pub(super) struct Lane {
    pub(super) partition: Arc<Partition>,
    /// The partition's when this was made: of another one nothing is kept here.
    pub(super) epoch: u32,
    shelves: Arc<Shelves>,
    near: Place,
    far: Place,
    /// What is being made, by the offset that it is made for.
    flights: Mutex<FxHashMap<u64, Weak<Flight>>>,
}

struct Place {
    recent: Recent,
    seat: Seat,
}

type Flight = OnceCell<Arc<Chunk>>;

/// What there is without a wait.
pub(super) enum Found {
    Chunk(Arc<Chunk>),
    AtEnd,
    /// It must be [made](Lane::make).
    Nothing,
}

impl Lane {
    pub(super) fn new(partition: Arc<Partition>, shelves: &Arc<Shelves>, filtered: bool) -> Lane {
        let place = |shelf, seat| Place {
            recent: Recent::new(shelf),
            seat,
        };
        let stays = match filtered {
            true => shelves.seats.add(),
            false => Seat::default(),
        };
        Lane {
            epoch: partition.epoch(),
            partition,
            near: place(&shelves.near, stays),
            far: place(&shelves.far, Seat::default()),
            shelves: shelves.clone(),
            flights: Mutex::default(),
        }
    }

    /// Whether the partition has lost history since this was made.
    pub(super) fn is_outdated(&self) -> bool {
        self.partition.epoch() != self.epoch
    }

    /// What lies at `offset`, or with a filter the chunk that holds it.
    pub(super) fn find(&self, offset: u64, filtered: bool) -> Found {
        if filtered {
            return self.holding(offset).map_or(Found::Nothing, Found::Chunk);
        }
        if let Some(chunk) = self.near.recent.at(offset) {
            return Found::Chunk(chunk);
        }
        let from_tail = |charge: Charge| match self.read_tail(offset) {
            TailRead::Batches(batches) => Ok(Chunk::new(offset, batches, charge)),
            TailRead::AtEnd => Err(Found::AtEnd),
            _ => Err(Found::Nothing),
        };
        let place = self.place(offset);
        let found = place.recent.at_or(offset, from_tail);
        match found.map_or_else(|found| found, Found::Chunk) {
            Found::Nothing => {
                let far = self.far.recent.at(offset);
                far.map_or(Found::Nothing, Found::Chunk)
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
        let (lane, flight, filter) = (self.clone(), self.flight(offset), filter.cloned());
        async move {
            let made = flight.get_or_try_init(|| async {
                match filter {
                    None => lane.load(offset).await,
                    Some(filter) => lane.evaluate(offset, &filter).await,
                }
            });
            made.await.cloned()
        }
    }

    fn flight(&self, offset: u64) -> Arc<Flight> {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get(&offset).and_then(Weak::upgrade) {
            return flight;
        }
        flights.retain(|_, flight| flight.strong_count() > 0);
        let flight = Arc::default();
        flights.insert(offset, Arc::downgrade(&flight));
        flight
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
        let place = if is_far { &self.far } else { &self.near };
        let mut seat = place.seat.take().await;
        if let Some(chunk) = self.holding(offset) {
            return Ok(chunk);
        }
        let batches = self.read(offset).await?;
        let charge = place.recent.charge();
        let (Some(first), Some(last)) = (batches.first(), batches.last()) else {
            return Ok(Arc::new(Chunk::new(offset, batches, charge)));
        };
        let (start, end) = (first.base_offset(), last.end_offset());
        let kept = filter.evaluate(&mut seat, &self.partition, batches).await;
        if is_far {
            // Who catches up comes by rarely; an instance should not wait for that.
            *seat = None;
        }
        let chunk = Arc::new(Chunk::covering(start, end, kept?, charge));
        place.recent.keep(&chunk);
        Ok(chunk)
    }

    async fn read(&self, offset: u64) -> Result<Vec<Batch>, WireError> {
        fetch::read(&self.partition, offset, self.shelves.frame_bytes_target).await
    }

    fn read_tail(&self, offset: u64) -> TailRead {
        let bytes_max = self.shelves.frame_bytes_target as u64;
        self.partition.read_tail(offset, bytes_max)
    }

    fn holding(&self, offset: u64) -> Option<Arc<Chunk>> {
        let near = self.near.recent.holding(offset);
        near.or_else(|| self.far.recent.holding(offset))
    }

    /// Where the chunks for `offset` are kept, as far as they come from memory.
    fn place(&self, offset: u64) -> &Place {
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
