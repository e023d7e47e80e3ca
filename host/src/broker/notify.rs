//! Wakes those who wait for a partition to change.
//!
//! The store rings once for each partition that changed, whoever waits for it. A task of the broker
//! then calls the partition's listeners, some at a time, and lets others have their turn in
//! between: neither a commit nor another partition's listeners wait for ten thousand subscribers.
//!
//! Many listeners keep all threads busy for as long as their round takes. So a long round rests as
//! long as it has worked: half of the machine's time stays with those who produce
//! (`bench subscribers`). What is new meanwhile is delivered with what comes next, in larger pieces.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::log::{Partition, TopicId, WatchGuard, Watcher};

/// How many listeners are called before others have their turn.
const CALLS_AT_ONCE: usize = 32;

/// A round rests once it has worked for so long: timers are no finer.
const WORK_MIN: Duration = Duration::from_millis(1);

/// Somebody who waits for a partition to change.
pub trait Listener: Send + Sync {
    /// The partition's end, start or state has changed. Must be quick, must not wait, and must
    /// neither begin nor end to listen.
    fn changed(&self);
}

/// All who listen, and the task that calls them.
pub(super) struct Notifier {
    pub(super) by_partition: DashMap<(TopicId, u32), Weak<Listeners>>,
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

/// The partitions whose listeners are to be called.
#[derive(Default)]
struct Queue {
    rounds: Mutex<VecDeque<Round>>,
    filled: Notify,
}

/// One call of each listener of a partition.
struct Round {
    listeners: Weak<Listeners>,
    /// The place of the next one to call.
    next: usize,
    /// How long those that were called have kept the threads busy since the last rest.
    worked: Duration,
}

/// Those who listen to one partition.
pub(super) struct Listeners {
    partition: (TopicId, u32),
    notifier: Arc<Notifier>,
    list: Mutex<List>,
    pub(super) bell: Arc<Bell>,
    watch: OnceLock<WatchGuard>,
}

/// Places, some of them free to be taken again.
#[derive(Default)]
struct List {
    places: Vec<Option<Arc<dyn Listener>>>,
    free: Vec<usize>,
}

/// What the store rings. Holds nobody who listens: it is rung where nothing may be dropped.
pub(super) struct Bell {
    listeners: Weak<Listeners>,
    state: AtomicU8,
    queue: Arc<Queue>,
}

/// There is no round.
const IDLE: u8 = 0;
/// There is a round, which began after the newest change.
const CALLING: u8 = 1;
/// There is a round to come, or to follow the one that has begun.
const CHANGED: u8 = 2;

/// Ends the listening when dropped.
#[must_use = "dropping the guard ends the listening"]
pub struct ListenGuard {
    pub(super) listeners: Arc<Listeners>,
    place: usize,
}

impl Notifier {
    /// Its task runs for as long as this lives.
    pub(super) fn start() -> Arc<Notifier> {
        let queue = Arc::<Queue>::default();
        Arc::new(Notifier {
            by_partition: DashMap::new(),
            task: tokio::spawn(queue.clone().work()),
            queue,
        })
    }

    /// Calls `listener` after every change of the partition, until the guard is dropped.
    pub(super) fn listen(
        self: &Arc<Self>,
        partition: &Arc<dyn Partition>,
        listener: Arc<dyn Listener>,
    ) -> ListenGuard {
        let key = (partition.topic(), partition.number());
        let mut known = self.by_partition.entry(key).or_default();
        let listeners = known.upgrade().unwrap_or_else(|| {
            let listeners = Listeners::new(self, partition);
            *known = Arc::downgrade(&listeners);
            listeners
        });
        drop(known);
        let place = listeners.list.lock().add(listener);
        ListenGuard { listeners, place }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listeners {
    fn new(notifier: &Arc<Notifier>, partition: &Arc<dyn Partition>) -> Arc<Listeners> {
        let listeners = Arc::new_cyclic(|listeners| Listeners {
            partition: (partition.topic(), partition.number()),
            notifier: notifier.clone(),
            list: Mutex::default(),
            bell: Arc::new(Bell {
                listeners: listeners.clone(),
                state: AtomicU8::new(IDLE),
                queue: notifier.queue.clone(),
            }),
            watch: OnceLock::new(),
        });
        let bell: Arc<dyn Watcher> = listeners.bell.clone();
        listeners.watch.get_or_init(|| partition.watch(&bell));
        listeners
    }

    /// Calls some of the listeners from the place `next` on: how many places that were, and the
    /// next one, if there is any.
    fn call(&self, next: usize) -> (usize, Option<usize>) {
        let list = self.list.lock();
        let end = list.places.len().min(next + CALLS_AT_ONCE);
        let places = list.places.get(next..end).unwrap_or_default();
        places.iter().flatten().for_each(|it| it.changed());
        (places.len(), (end < list.places.len()).then_some(end))
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        let is_gone = |_: &_, listeners: &Weak<Listeners>| listeners.strong_count() == 0;
        self.notifier
            .by_partition
            .remove_if(&self.partition, is_gone);
    }
}

impl Drop for ListenGuard {
    fn drop(&mut self) {
        let removed = self.listeners.list.lock().remove(self.place);
        // Whatever the listener holds may be dropped with it.
        drop(removed);
    }
}

impl List {
    fn add(&mut self, listener: Arc<dyn Listener>) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(listener);
        place
    }

    fn remove(&mut self, place: usize) -> Option<Arc<dyn Listener>> {
        self.free.push(place);
        self.places[place].take()
    }
}

impl Watcher for Bell {
    fn changed(&self, _topic: TopicId, _partition: u32) {
        if self.state.swap(CHANGED, Ordering::AcqRel) == IDLE {
            self.queue.push(Round {
                listeners: self.listeners.clone(),
                next: 0,
                worked: Duration::ZERO,
            });
            self.queue.filled.notify_one();
        }
    }
}

impl Queue {
    fn push(&self, round: Round) {
        self.rounds.lock().push_back(round);
    }

    fn pop(&self) -> Option<Round> {
        self.rounds.lock().pop_front()
    }

    async fn work(self: Arc<Self>) {
        let mut resting = VecDeque::<(Instant, Round)>::new();
        let mut calls = 0;
        loop {
            let now = Instant::now();
            while let Some((_, rested)) = resting.pop_front_if(|(due, _)| *due <= now) {
                self.push(rested);
            }
            let Some(round) = self.pop() else {
                let due = resting.front().map(|(due, _)| *due);
                self.wait(due).await;
                continue;
            };
            let (called, rest) = round.go_on();
            calls += called;
            if calls >= CALLS_AT_ONCE {
                calls = 0;
                tokio::task::yield_now().await;
            }
            let Some(mut rest) = rest else {
                continue;
            };
            rest.worked += now.elapsed();
            if rest.worked < WORK_MIN {
                self.push(rest);
                continue;
            }
            let due = Instant::now() + std::mem::take(&mut rest.worked);
            let place = resting.partition_point(|(other, _)| *other <= due);
            resting.insert(place, (due, rest));
        }
    }

    /// Until there is a round, or until one has rested.
    async fn wait(&self, due: Option<Instant>) {
        match due {
            None => self.filled.notified().await,
            Some(due) => {
                // A round that comes meanwhile goes first.
                let _ = tokio::time::timeout_at(due, self.filled.notified()).await;
            }
        }
    }
}

impl Round {
    /// Calls the next listeners and says how many places that were; what is left of the round goes
    /// behind those of other partitions.
    fn go_on(mut self) -> (usize, Option<Round>) {
        let Some(listeners) = self.listeners.upgrade() else {
            return (0, None);
        };
        let state = &listeners.bell.state;
        if self.next == 0 {
            state.store(CALLING, Ordering::Release);
        }
        let (called, next) = listeners.call(self.next);
        self.next = match next {
            Some(next) => next,
            None => {
                let ended =
                    state.compare_exchange(CALLING, IDLE, Ordering::AcqRel, Ordering::Acquire);
                if ended.is_ok() {
                    return (called, None);
                }
                // It changed again meanwhile.
                0
            }
        };
        (called, Some(self))
    }
}
