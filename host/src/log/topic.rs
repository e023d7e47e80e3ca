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

use super::id::TopicId;
use super::partition::Partition;

/// A topic. Stays what it is after its deletion, which [`Topic::deleted`] tells.
#[derive(Debug)]
pub struct Topic {
    id: TopicId,
    name: TopicName,
    uuid: Uuid,
    settings: RwLock<TopicSettings>,
    partitions: RwLock<Arc<[Arc<dyn Partition>]>>,
    deleted: AtomicBool,
}

impl Topic {
    pub(crate) fn new(
        id: TopicId,
        (name, uuid): (TopicName, Uuid),
        settings: TopicSettings,
        partitions: Vec<Arc<dyn Partition>>,
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
    pub fn partitions(&self) -> Arc<[Arc<dyn Partition>]> {
        self.partitions.read().clone()
    }

    /// The partition with this number.
    pub fn partition(&self, number: u32) -> Option<Arc<dyn Partition>> {
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
        added: impl IntoIterator<Item = Arc<dyn Partition>>,
    ) {
        *self.settings.write() = settings;
        let mut partitions = self.partitions.write();
        let all: Vec<_> = partitions.iter().cloned().chain(added).collect();
        *partitions = all.into();
    }

    fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
    }
}

/// The UUID of a topic that is new.
pub(crate) fn new_uuid() -> Uuid {
    uuid::Builder::from_random_bytes(fastrand::u128(..).to_le_bytes()).into_uuid()
}

/// All topics, by name and by id.
#[derive(Debug)]
pub struct Topics {
    known: RwLock<Known>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    by_id: FxHashMap<TopicId, Arc<Topic>>,
    by_name: BTreeMap<TopicName, Arc<Topic>>,
}

impl Topics {
    pub(crate) fn new(topics: impl IntoIterator<Item = Arc<Topic>>) -> Topics {
        let all = Topics {
            known: RwLock::default(),
            changes: watch::Sender::new(0),
        };
        topics.into_iter().for_each(|topic| all.insert(topic));
        all
    }

    /// All of them, in the order of their names.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.known.read().by_name.values().cloned().collect()
    }

    /// The topic of this name.
    pub fn by_name(&self, name: &TopicName) -> Option<Arc<Topic>> {
        self.known.read().by_name.get(name).cloned()
    }

    /// The topic with this id.
    pub fn by_id(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.known.read().by_id.get(&id).cloned()
    }

    /// Changes whenever a topic is created, altered or deleted.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn insert(&self, topic: Arc<Topic>) {
        let mut known = self.known.write();
        known.by_name.insert(topic.name.clone(), topic.clone());
        known.by_id.insert(topic.id, topic);
        drop(known);
        self.tick();
    }

    /// Takes a topic out of the list. The caller stops its partitions.
    pub(crate) fn remove(&self, id: TopicId) -> Option<Arc<Topic>> {
        let mut known = self.known.write();
        let topic = known.by_id.remove(&id)?;
        known.by_name.remove(&topic.name);
        drop(known);
        topic.delete();
        Some(topic)
    }

    /// Tells those who wait for [a change](Topics::changed).
    pub(crate) fn tick(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}
