//! Who wants to know when a partition changes.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use super::commit::TopicId;
use super::partition::Partition;

/// Is told that a partition's end, start or state changed.
pub trait Watcher: Send + Sync {
    /// Called from the store's threads after the change can be seen; must be
    /// quick, must not wait, and must neither begin nor end a watching.
    fn changed(&self, topic: TopicId, partition: u32);
}

/// The watchers of one partition.
#[derive(Default)]
pub(crate) struct Watchers {
    list: RwLock<List>,
}

/// Places, some of them free to be taken again.
#[derive(Default)]
struct List {
    places: Vec<Option<Arc<dyn Watcher>>>,
    free: Vec<usize>,
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = self.list.read();
        f.debug_struct("Watchers")
            .field("count", &(list.places.len() - list.free.len()))
            .finish()
    }
}

impl Watchers {
    pub(crate) fn add(&self, watcher: &Arc<dyn Watcher>) -> usize {
        let mut list = self.list.write();
        let place = list.free.pop().unwrap_or_else(|| {
            list.places.push(None);
            list.places.len() - 1
        });
        list.places[place] = Some(watcher.clone());
        place
    }

    fn remove(&self, place: usize) {
        let mut list = self.list.write();
        let removed = list.places[place].take();
        list.free.push(place);
        if list.free.len() == list.places.len() {
            *list = List::default();
        }
        drop(list);
        // Whatever the watcher holds may be dropped with it.
        drop(removed);
    }

    pub(crate) fn notify(&self, topic: TopicId, partition: u32) {
        for watcher in self.list.read().places.iter().flatten() {
            watcher.changed(topic, partition);
        }
    }
}

/// Ends the watching when dropped.
#[derive(Debug)]
#[must_use = "dropping the guard ends the watching"]
pub struct WatchGuard {
    pub(crate) partition: Arc<Partition>,
    pub(crate) place: usize,
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.partition.watchers.remove(self.place);
    }
}
