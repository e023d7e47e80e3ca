//! Who wants to know when a partition changes.

use std::fmt;
use std::sync::Arc;

use parking_lot::RwLock;

use super::id::TopicId;

/// Is told that a partition's end, start or state changed.
pub trait Watcher: Send + Sync {
    /// Called once for each change, from the engine's threads, after the change can be seen and after
    /// the commits that made it were answered. Must be quick, must not wait, and must neither begin
    /// nor end a watching: whoever has many to tell does that elsewhere.
    fn changed(&self, topic: TopicId, partition: u32);
}

/// The watchers of one partition: few, because the broker has one for all of its readers.
#[derive(Default)]
pub(crate) struct Watchers(RwLock<Vec<Arc<dyn Watcher>>>);

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watchers")
            .field(&self.0.read().len())
            .finish()
    }
}

impl Watchers {
    fn remove(&self, watcher: &Arc<dyn Watcher>) {
        let mut watchers = self.0.write();
        let place = watchers.iter().position(|it| Arc::ptr_eq(it, watcher));
        let removed = place.map(|place| watchers.swap_remove(place));
        drop(watchers);
        // Whatever the watcher holds may be dropped with it.
        drop(removed);
    }

    pub(crate) fn notify(&self, topic: TopicId, partition: u32) {
        for watcher in self.0.read().iter() {
            watcher.changed(topic, partition);
        }
    }
}

/// Ends the watching when dropped.
#[must_use = "dropping the guard ends the watching"]
pub struct WatchGuard {
    watchers: Arc<Watchers>,
    watcher: Arc<dyn Watcher>,
}

impl WatchGuard {
    pub(crate) fn new(watchers: &Arc<Watchers>, watcher: &Arc<dyn Watcher>) -> WatchGuard {
        watchers.0.write().push(watcher.clone());
        WatchGuard {
            watchers: watchers.clone(),
            watcher: watcher.clone(),
        }
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.watchers.remove(&self.watcher);
    }
}
