//! How those who wait for a partition are woken.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Mutex, mpsc};

use super::*;
use crate::log::{TopicId, Watcher};

#[derive(Default)]
struct Count(AtomicUsize);

impl Listener for Count {
    fn changed(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Holds up whoever calls it, until it is released.
struct HoldsUp(Mutex<mpsc::Receiver<()>>);

impl Listener for HoldsUp {
    fn changed(&self) {
        let _released = self.0.lock().expect("no panic").recv();
    }
}

fn listener(broker: &Broker, topic: &str, partition: u32) -> (Arc<Count>, ListenGuard) {
    let (_, partition) = broker
        .partition(&name(topic), partition)
        .expect("it exists");
    let count = Arc::<Count>::default();
    let guard = broker.notifier.listen(&partition, count.clone());
    (count, guard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_does_not_wait_for_those_who_are_woken() {
    let broker = broker().await;
    for durability in [
        eddy_protocol::frame::Durability::Disk,
        eddy_protocol::frame::Durability::Memory,
    ] {
        let topic = format!("{durability:?}");
        let settings = TopicSettings {
            durability,
            ..TopicSettings::default()
        };
        broker.with_topic(&topic, 1, settings).await;
        let (_, partition) = broker.partition(&name(&topic), 0).expect("it exists");
        let (release, held) = mpsc::channel();
        let holds_up = Arc::new(HoldsUp(Mutex::new(held)));
        let _guard = broker.notifier.listen(&partition, holds_up);
        for value in ["1", "2", "3"] {
            broker.append(&topic, &[value]).await;
        }
        drop(release);
    }
}

#[tokio::test]
async fn all_who_listen_hear_of_the_newest_change_and_those_who_left_of_none() {
    let broker = broker().await;
    broker.with_topic("t", 2, TopicSettings::default()).await;
    let mut listening: Vec<_> = (0..500).map(|_| listener(&broker, "t", 0)).collect();
    let (other, _other) = listener(&broker, "t", 1);
    let (left, guard) = listening.swap_remove(17);
    drop(guard);
    for round in 1..=5 {
        let heard = |(count, _): &(Arc<Count>, ListenGuard)| count.0.swap(0, SeqCst) > 0;
        broker.append("t", &["x"]).await;
        let mut waiting: Vec<_> = listening.iter().collect();
        eventually(&format!("round {round}"), || {
            waiting.retain(|it| !heard(it));
            waiting.is_empty()
        })
        .await;
    }
    assert_eq!((left.0.load(SeqCst), other.0.load(SeqCst)), (0, 0));
    drop(listening);
    let known = &broker.notifier.by_partition;
    assert_eq!(known.len(), 1, "nobody listens to partition 0 any more");
}

#[tokio::test]
async fn the_listeners_of_one_partition_wait_for_no_whole_round_of_another() {
    let broker = broker().await;
    broker.with_topic("t", 2, TopicSettings::default()).await;
    let crowd: Vec<_> = (0..10_000).map(|_| listener(&broker, "t", 0)).collect();
    let (alone, guard) = listener(&broker, "t", 1);
    for (partition, guard) in [(0, &crowd[0].1), (1, &guard)] {
        guard.listeners.bell.changed(TopicId(1), partition);
    }
    eventually("the one hears of it", || alone.0.load(SeqCst) > 0).await;
    let heard = |(count, _): &&(Arc<Count>, ListenGuard)| count.0.load(SeqCst) > 0;
    let reached = crowd.iter().filter(heard).count();
    assert!(0 < reached && reached < crowd.len(), "{reached}");
    eventually("the crowd has heard", || crowd.iter().all(|it| heard(&it))).await;
}
