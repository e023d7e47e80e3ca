//! What is visible, compared with what is known, and with itself after a restart.

use super::deployment::{DEPLOYMENTS, state_lines};
use super::model::read_all;
use super::world::{TOPICS, World};
use crate::log::{Partition as _, Table};
use crate::store::core::Core;

impl World {
    /// Compares everything that is visible with what is known.
    pub(super) fn check(&mut self) {
        for (name, partitions, ..) in TOPICS {
            for number in 0..partitions {
                let partition = self.partition(name, number);
                let key = (name.to_owned(), number);
                let (topic, number) = partition.key();
                let folder = format!("topics/{topic}/{number}/");
                let is_broken = self.broken.iter().any(|broken| broken.path == folder);
                if is_broken || partition.stopped().is_some() {
                    assert!(
                        self.plan.unwritable_percent > 0,
                        "seed {}: {name}",
                        self.seed
                    );
                    self.learnt.entry(key).or_default();
                    continue;
                }
                let may_lose = self.doubtful.remove(&key);
                self.learnt
                    .entry(key)
                    .or_default()
                    .check(&partition, may_lose, name);
            }
        }
        for (topic, client) in &self.clients {
            let learnt = &self.learnt[&(TOPICS[*topic].0.to_owned(), client.partition)];
            let prefix = format!("{}:", client.name);
            let numbers: Vec<u32> = learnt
                .values()
                .filter_map(|value| value.strip_prefix(&prefix)?.parse().ok())
                .collect();
            let first = if learnt.starts_at() == Some(0) {
                0
            } else {
                numbers.first().copied().unwrap_or(0)
            };
            let expected: Vec<u32> = (first..).take(numbers.len()).collect();
            assert_eq!(
                numbers, expected,
                "seed {}: {} repeats, reorders or misses",
                self.seed, client.name
            );
        }
    }
}

/// Everything that can be seen of a store.
pub(super) fn dump(core: &Core) -> Vec<String> {
    let mut lines = Vec::new();
    for topic in core.context.catalog.topics.all() {
        lines.push(format!(
            "{} {} {:?}",
            topic.id(),
            topic.name(),
            topic.settings()
        ));
        for partition in core.context.catalog.partitions(topic.id()) {
            let records = partition.stopped().is_none().then(|| read_all(&partition));
            let (number, epoch) = (partition.number(), partition.epoch());
            lines.push(format!(
                "{number} epoch {epoch} stopped {:?}: {records:?}",
                partition.stopped()
            ));
        }
    }
    for table in Table::ALL {
        lines.push(format!(
            "{:?}",
            core.context
                .tables
                .scan(*table, b"")
                .expect("the tables can be read")
        ));
    }
    for (input, _) in DEPLOYMENTS {
        lines.extend(state_lines(core, input));
    }
    let writer = core.committer.writer.lock();
    lines.push(format!(
        "{} {}",
        writer.next_topic, writer.producers.next_id
    ));
    for id in 0..writer.producers.next_id {
        if let Some(identity) = writer.producers.get(id) {
            let mut windows: Vec<_> = identity.windows.iter().collect();
            windows.sort_by_key(|(key, _)| **key);
            lines.push(format!(
                "{id} {} {:?} {windows:?}",
                identity.epoch, identity.name
            ));
        }
    }
    lines
}
