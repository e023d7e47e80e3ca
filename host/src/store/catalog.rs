//! The store's topics: as everybody sees them, and with the partitions behind that.

use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::partition::Partition;
use super::partition::stop::Cause;
use crate::log::{Partition as _, Topic, TopicId, Topics};

/// All topics.
#[derive(Debug)]
pub(crate) struct Catalog {
    pub(crate) topics: Topics,
    partitions: RwLock<FxHashMap<TopicId, Vec<Arc<Partition>>>>,
}

impl Catalog {
    pub(crate) fn new(topics: Vec<(Arc<Topic>, Vec<Arc<Partition>>)>) -> Catalog {
        let catalog = Catalog {
            topics: Topics::new([]),
            partitions: RwLock::default(),
        };
        for (topic, partitions) in topics {
            catalog.insert(topic, partitions);
        }
        catalog
    }

    /// The partitions of a topic, in the order of their numbers.
    pub(crate) fn partitions(&self, topic: TopicId) -> Vec<Arc<Partition>> {
        let partitions = self.partitions.read();
        partitions.get(&topic).cloned().unwrap_or_default()
    }

    pub(crate) fn partition(&self, topic: TopicId, number: u32) -> Option<Arc<Partition>> {
        let partitions = self.partitions.read();
        let number = usize::try_from(number).ok()?;
        partitions.get(&topic)?.get(number).cloned()
    }

    pub(crate) fn insert(&self, topic: Arc<Topic>, partitions: Vec<Arc<Partition>>) {
        self.partitions.write().insert(topic.id(), partitions);
        self.topics.insert(topic);
    }

    /// Adds partitions to a topic, behind those that it has.
    pub(crate) fn add(&self, topic: TopicId, added: &[Arc<Partition>]) {
        let mut partitions = self.partitions.write();
        partitions
            .entry(topic)
            .or_default()
            .extend_from_slice(added);
    }

    pub(crate) fn remove(&self, id: TopicId) -> Option<Arc<Topic>> {
        let topic = self.topics.remove(id)?;
        let partitions = self.partitions.write().remove(&id);
        for partition in partitions.into_iter().flatten() {
            let reason = format!("topic `{}` was deleted", partition.topic_name());
            partition.stop(reason, Cause::Deleted);
        }
        self.topics.tick();
        Some(topic)
    }
}

/// Partitions as everybody sees them.
pub(crate) fn seen(partitions: &[Arc<Partition>]) -> Vec<Arc<dyn crate::log::Partition>> {
    let partitions = partitions.iter().cloned();
    partitions
        .map(|it| it as Arc<dyn crate::log::Partition>)
        .collect()
}
