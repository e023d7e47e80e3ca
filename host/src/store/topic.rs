//! A topic as the rest of the broker sees it, and the list of all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eddy_protocol::TopicName;
use eddy_protocol::frame::TopicSettings;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use tokio::sync::watch;
use uuid::Uuid;

use super::commit::TopicId;
use super::partition::Partition;
use super::partition::stop::Cause;

/// A topic. Stays what it is after its deletion, which [`Topic::deleted`] tells.
#[derive(Debug)]
pub struct Topic {
    id: TopicId,
    name: TopicName,
    uuid: Uuid,
    settings: RwLock<TopicSettings>,
    partitions: RwLock<Arc<[Arc<Partition>]>>,
    deleted: AtomicBool,
}

impl Topic {
    pub(crate) fn new(
        id: TopicId,
        (name, uuid): (TopicName, Uuid),
        settings: TopicSettings,
        partitions: Vec<Arc<Partition>>,
    ) -> Topic {
        Topic {
            id,
            name,
            uuid,
            settings: RwLock::new(settings),
            partitions: RwLock::new(partitions.into()),
            deleted: AtomicBool::new(false),
        }
    }

    /// Its id.
    pub fn id(&self) -> TopicId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &TopicName {
        &self.name
    }

    /// What names it for ever, also outside of this folder.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// How it is kept.
    pub fn settings(&self) -> TopicSettings {
        *self.settings.read()
    }

    /// Its partitions, in the order of their numbers.
    pub fn partitions(&self) -> Arc<[Arc<Partition>]> {
        self.partitions.read().clone()
    }

    /// The partition with this number.
    pub fn partition(&self, number: u32) -> Option<Arc<Partition>> {
        self.partitions
            .read()
            .get(usize::try_from(number).ok()?)
            .cloned()
    }

    /// Whether the topic was deleted.
    pub fn deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn alter(
        &self,
        settings: TopicSettings,
        added: impl IntoIterator<Item = Arc<Partition>>,
    ) {
        *self.settings.write() = settings;
        let mut partitions = self.partitions.write();
        let all: Vec<_> = partitions.iter().cloned().chain(added).collect();
        *partitions = all.into();
    }

    pub(crate) fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        for partition in self.partitions().iter() {
            partition.stop(format!("topic `{}` was deleted", self.name), Cause::Deleted);
        }
    }
}

/// The UUID of a topic that is new.
pub(crate) fn new_uuid() -> Uuid {
    uuid::Builder::from_random_bytes(fastrand::u128(..).to_le_bytes()).into_uuid()
}

/// All topics.
#[derive(Debug)]
pub(crate) struct Catalog {
    topics: RwLock<Topics>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Topics {
    by_id: FxHashMap<TopicId, Arc<Topic>>,
    by_name: BTreeMap<TopicName, Arc<Topic>>,
}

impl Catalog {
    pub(crate) fn new(topics: Vec<Arc<Topic>>) -> Catalog {
        let catalog = Catalog {
            topics: RwLock::default(),
            changes: watch::Sender::new(0),
        };
        for topic in topics {
            catalog.insert(topic);
        }
        catalog
    }

    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        self.topics.read().by_name.values().cloned().collect()
    }

    pub(crate) fn by_name(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.topics.read().by_name.get(name).cloned()
    }

    pub(crate) fn by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.topics.read().by_id.get(&id).cloned()
    }

    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn insert(&self, topic: Arc<Topic>) {
        let mut topics = self.topics.write();
        topics.by_name.insert(topic.name.clone(), topic.clone());
        topics.by_id.insert(topic.id, topic);
        drop(topics);
        self.tick();
    }

    pub(crate) fn remove(&self, id: TopicId) -> Option<Arc<Topic>> {
        let mut topics = self.topics.write();
        let topic = topics.by_id.remove(&id)?;
        topics.by_name.remove(&topic.name);
        drop(topics);
        topic.delete();
        self.tick();
        Some(topic)
    }

    pub(crate) fn tick(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}
