//! Changes of the catalog: what the writer notes of them, and what they do once
//! they are in the journal.

use std::ops::Range;
use std::sync::Arc;

use eddy_protocol::TopicName;

use super::catalog::seen;
use super::committer::Committer;
use super::context::Worker;
use super::journal::operation::{Operation, TopicEntry};
use super::partition::{Opened, Partition};
use super::retention::DeletedTopic;
use super::writer::{Head, Writer};
use crate::log::{CatalogChange, CommitError, Partition as _, Topic, TopicId, Topics, new_uuid};

impl Writer {
    pub(super) fn catalog_operation(
        &self,
        change: &CatalogChange,
        catalog: &Topics,
        before: &[Operation],
    ) -> Result<Operation, CommitError> {
        match change {
            CatalogChange::Create {
                name,
                partitions,
                settings,
            } => {
                let is_new = |operation: &Operation| matches!(operation, Operation::CreateTopic { entry, .. } if entry.name == *name);
                if catalog.by_name(name).is_some() || before.iter().any(is_new) {
                    return Err(CommitError::TopicExists(name.clone()));
                }
                check_partitions(name, 0, *partitions)?;
                let created = before
                    .iter()
                    .filter(|operation| matches!(operation, Operation::CreateTopic { .. }))
                    .count();
                let topic = TopicId(self.next_topic + created as u64);
                let entry = TopicEntry {
                    partitions: *partitions,
                    name: name.clone(),
                    settings: *settings,
                    uuid: Some(new_uuid()),
                };
                Ok(Operation::CreateTopic { topic, entry })
            }
            CatalogChange::Alter {
                topic,
                partitions,
                settings,
            } => {
                let known = catalog
                    .by_id(*topic)
                    .ok_or(CommitError::UnknownTopic(*topic))?;
                let now = u32::try_from(known.partitions().len()).unwrap_or(u32::MAX);
                let partitions = partitions.unwrap_or(now);
                check_partitions(known.name(), now, partitions)?;
                Ok(Operation::AlterTopic {
                    topic: *topic,
                    partitions,
                    settings: *settings,
                })
            }
            CatalogChange::Delete { topic } => {
                catalog
                    .by_id(*topic)
                    .ok_or(CommitError::UnknownTopic(*topic))?;
                Ok(Operation::DeleteTopic { topic: *topic })
            }
            CatalogChange::Repair { topic, partition } => {
                let key = (*topic, *partition);
                let Some(head) = self.heads.get(&key) else {
                    return Err(self.no_such_partition(*topic, *partition));
                };
                let stop = head.partition.service.stop_state();
                let Some(repair) = stop.and_then(|stop| stop.repair) else {
                    return Err(CommitError::NothingToRepair {
                        topic: head.topic.name().clone(),
                        partition: *partition,
                    });
                };
                Ok(Operation::Repair {
                    key,
                    epoch: repair.epoch,
                    from: Some(head.partition.end()),
                    holes: repair.holes,
                })
            }
        }
    }

    /// Knows the partitions of a topic that it did not know. The group `needs`
    /// made or altered the topic: without it nothing that rests on it may be
    /// visible or acknowledged, however durable the topic is.
    pub(crate) fn add_heads(
        &mut self,
        topic: &Arc<Topic>,
        partitions: &[Arc<Partition>],
        needs: u64,
    ) {
        for partition in partitions {
            self.heads
                .entry(partition.key())
                .and_modify(|head| head.last_needs = needs)
                .or_insert_with(|| Head {
                    topic: topic.clone(),
                    partition: partition.clone(),
                    next: partition.end(),
                    last_needs: needs,
                });
        }
    }
}

fn check_partitions(topic: &TopicName, now: u32, asked: u32) -> Result<(), CommitError> {
    if asked == 0 || asked < now {
        return Err(CommitError::InvalidPartitions {
            topic: topic.clone(),
            partitions: now,
            asked,
        });
    }
    Ok(())
}

impl Committer {
    pub(super) fn change_catalog(
        &self,
        writer: &mut Writer,
        operation: Operation,
    ) -> Option<Arc<Topic>> {
        match operation {
            Operation::CreateTopic { topic, entry } => {
                let made = self.new_partitions(topic, &entry.name, 0..entry.partitions);
                let created = Arc::new(Topic::new(
                    topic,
                    (entry.name, entry.uuid.unwrap_or_else(new_uuid)),
                    entry.settings,
                    seen(&made),
                ));
                writer.next_topic = writer.next_topic.max(topic.0 + 1);
                writer.add_heads(&created, &made, writer.sequence);
                self.context.catalog.insert(created.clone(), made);
                writer.touched_topics.insert(topic);
                return Some(created);
            }
            Operation::AlterTopic {
                topic,
                partitions,
                settings,
            } => {
                let known = self.context.catalog.topics.by_id(topic)?;
                let now = u32::try_from(known.partitions().len()).unwrap_or(u32::MAX);
                let added = self.new_partitions(topic, known.name(), now..partitions);
                self.context.catalog.add(topic, &added);
                known.alter(settings, seen(&added));
                let all = self.context.catalog.partitions(topic);
                writer.add_heads(&known, &all, writer.sequence);
                writer.touched_topics.insert(topic);
                self.context.catalog.topics.tick();
            }
            Operation::DeleteTopic { topic } => {
                self.context.catalog.remove(topic)?;
                writer.heads.retain(|(of, _), _| *of != topic);
                writer.touched.retain(|(of, _), _| *of != topic);
                writer.producers.forget_topic(topic);
                writer.touched_topics.insert(topic);
                let deleted = DeletedTopic::new(topic, writer.sequence);
                self.deleted_topics.lock().push(deleted);
                (self.context.wake)(Worker::Keeper);
            }
            Operation::Repair {
                key,
                epoch,
                from,
                holes,
            } => {
                let head = writer.heads.get_mut(&key)?;
                head.last_needs = writer.sequence;
                head.next = head.partition.end();
                let from = from.unwrap_or(head.next);
                for lost in head.partition.repair(epoch, from, holes) {
                    self.context.shared.files.set_aside(lost);
                }
                writer.touched.insert(key, head.partition.clone());
            }
            _ => {}
        }
        None
    }

    fn new_partitions(
        &self,
        topic: TopicId,
        name: &TopicName,
        numbers: Range<u32>,
    ) -> Vec<Arc<Partition>> {
        let made = numbers.map(|number| {
            let (key, shared) = ((topic, number), self.context.shared.clone());
            Arc::new(Partition::new(
                key,
                name.clone(),
                shared,
                Opened::fresh(key),
            ))
        });
        made.collect()
    }
}
