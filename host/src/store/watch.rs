//! Who wants to know when a partition changes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::commit::TopicId;
use super::partition::Partition;

/// Is told that a partition's end, start or state changed.
pub trait Watcher: Send + Sync {
    /// Called from the store's threads after the change can be seen; must be
    /// quick and must not wait.
    fn changed(&self, topic: TopicId, partition: u32);
}

type List = Vec<(u64, Arc<dyn Watcher>)>;

/// The watchers of one partition.
#[derive(Default)]
pub(crate) struct Watchers {
    next: AtomicU64,
    list: ArcSwap<List>,
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchers")
            .field("count", &self.list.load().len())
            .finish()
    }
}

impl Watchers {
    pub(crate) fn add(&self, watcher: &Arc<dyn Watcher>) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.list.rcu(|list| {
            let mut list = List::clone(list);
            list.push((id, watcher.clone()));
            list
        });
        id
    }

    fn remove(&self, id: u64) {
        self.list.rcu(|list| {
            list.iter()
                .filter(|(of, _)| *of != id)
                .cloned()
                .collect::<List>()
        });
    }

    pub(crate) fn notify(&self, topic: TopicId, partition: u32) {
        for (_, watcher) in self.list.load().iter() {
            watcher.changed(topic, partition);
        }
    }
}

/// Ends the watching when dropped.
#[derive(Debug)]
#[must_use = "dropping the guard ends the watching"]
pub struct WatchGuard {
    pub(crate) partition: Arc<Partition>,
    pub(crate) id: u64,
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.partition.watchers.remove(self.id);
    }
}
