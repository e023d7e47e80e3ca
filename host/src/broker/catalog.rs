//! Topics: create, describe, alter, delete.

use std::sync::Arc;

use eddy_protocol::frame::{
    AlterTopic, CreateTopic, Durability, Limit, OutOfBounds, PartitionInfo, Timestamps, TopicInfo,
    TopicSettings,
};
use eddy_protocol::{ErrorCode, TopicName, WireError};

use super::{Broker, refusal, whole};
use crate::log::{CatalogChange, Commit, Partition, Topic};

/// A topic has at least 1 and at most this many partitions.
const PARTITIONS_MAX: u32 = 1024;

impl Broker {
    /// Makes a topic.
    pub async fn create_topic(
        self: &Arc<Self>,
        request: CreateTopic,
    ) -> Result<TopicInfo, WireError> {
        let CreateTopic {
            topic: name,
            partitions,
            settings,
        } = request;
        check_partitions(&name, partitions)?;
        check_settings(&name, &settings)?;
        let broker = self.clone();
        whole(async move {
            let _turn = broker.catalog.lock().await;
            broker.check_room(&name, partitions as usize, 1)?;
            let change = CatalogChange::Create {
                name: name.clone(),
                partitions,
                settings,
            };
            broker.change_catalog(change).await?;
            broker.describe_topic(&name)
        })
        .await
    }

    /// Changes a topic's settings; what is absent stays.
    pub async fn alter_topic(
        self: &Arc<Self>,
        request: AlterTopic,
    ) -> Result<TopicInfo, WireError> {
        let broker = self.clone();
        whole(async move {
            let _turn = broker.catalog.lock().await;
            let change = broker.alteration(&request)?;
            broker.change_catalog(change).await?;
            broker.describe_topic(&request.topic)
        })
        .await
    }

    fn alteration(&self, request: &AlterTopic) -> Result<CatalogChange, WireError> {
        let topic = self.topic(&request.topic)?;
        let now = topic.partitions().len();
        if let Some(partitions) = request.partitions {
            check_partitions(&request.topic, partitions)?;
            if (partitions as usize) < now {
                return Err(ErrorCode::Inconsistent.because(format!(
                    "topic `{}` has {now} partitions, {partitions} was asked for: partitions can only be added",
                    request.topic
                )));
            }
            self.check_room(&request.topic, partitions as usize - now, 0)?;
        }
        let mut settings = topic.settings();
        settings.durability = request.durability.unwrap_or(settings.durability);
        apply_limit(&mut settings.retention_ms, request.retention_ms);
        apply_limit(&mut settings.retention_bytes, request.retention_bytes);
        settings.timestamps = request.timestamps.unwrap_or(settings.timestamps);
        apply_limit(&mut settings.timestamp_ahead_ms, request.timestamp_ahead_ms);
        apply_limit(
            &mut settings.timestamp_behind_ms,
            request.timestamp_behind_ms,
        );
        settings.out_of_bounds = request.out_of_bounds.unwrap_or(settings.out_of_bounds);
        check_settings(&request.topic, &settings)?;
        Ok(CatalogChange::Alter {
            topic: topic.id(),
            partitions: request.partitions,
            settings,
        })
    }

    /// Lets a stopped partition serve again with what of it is whole.
    pub async fn repair_partition(
        &self,
        name: &TopicName,
        partition: u32,
    ) -> Result<TopicInfo, WireError> {
        let (topic, _) = self.partition(name, partition)?;
        self.change_catalog(CatalogChange::Repair {
            topic: topic.id(),
            partition,
        })
        .await?;
        self.describe_topic(name)
    }

    /// Ends a topic and frees its files. Refused while a deployment uses it.
    pub async fn delete_topic(self: &Arc<Self>, name: &TopicName) -> Result<(), WireError> {
        let (broker, name) = (self.clone(), name.clone());
        whole(async move {
            // No deployment may come between.
            let _admission = broker.deployments.admission.lock().await;
            let _turn = broker.catalog.lock().await;
            let topic = broker.topic(&name)?;
            if let Some(deployment) = broker.deployments.using(&name) {
                return Err(ErrorCode::TopicInUse.because(format!(
                    "topic `{name}` is used by deployment `{deployment}`; delete that first"
                )));
            }
            broker
                .change_catalog(CatalogChange::Delete { topic: topic.id() })
                .await?;
            broker.forget_cursors(topic.id()).await;
            Ok(())
        })
        .await
    }

    /// One topic as it is.
    pub fn describe_topic(&self, name: &TopicName) -> Result<TopicInfo, WireError> {
        self.topic(name).map(|topic| describe(&topic))
    }

    /// All topics, in the order of their names.
    pub fn list_topics(&self) -> Vec<TopicInfo> {
        let names = self.topic_names();
        // One may have been deleted meanwhile.
        let topics = names
            .iter()
            .filter_map(|name| self.describe_topic(name).ok());
        topics.collect()
    }

    /// The names of all topics, in order.
    pub fn topic_names(&self) -> Vec<TopicName> {
        let topics = self.log.topics().all();
        let mut names: Vec<_> = topics.iter().map(|topic| topic.name().clone()).collect();
        names.sort_unstable();
        names
    }

    pub(super) fn topic(&self, name: &TopicName) -> Result<Arc<Topic>, WireError> {
        self.log
            .topics()
            .by_name(name)
            .ok_or_else(|| refusal::unknown_topic(name))
    }

    pub(super) fn partition(
        &self,
        name: &TopicName,
        number: u32,
    ) -> Result<(Arc<Topic>, Arc<dyn Partition>), WireError> {
        let topic = self.topic(name)?;
        let partitions = topic.partitions();
        let partition = partitions
            .get(number as usize)
            .cloned()
            .ok_or_else(|| refusal::unknown_partition(name, number, partitions.len()))?;
        Ok((topic, partition))
    }

    async fn change_catalog(&self, change: CatalogChange) -> Result<(), WireError> {
        let commit = Commit {
            catalog: vec![change],
            ..Commit::default()
        };
        self.log
            .commit(commit)
            .await
            .map_err(|error| refusal::of_commit(&error))?;
        Ok(())
    }

    fn check_room(
        &self,
        name: &TopicName,
        partitions: usize,
        topics: usize,
    ) -> Result<(), WireError> {
        let existing = self.log.topics().all();
        let topic_count = existing.len();
        let partition_count: usize = existing.iter().map(|topic| topic.partitions().len()).sum();
        if topic_count + topics > self.config.topics_max {
            return Err(ErrorCode::TooMany.because(format!(
                "there are {topic_count} topics and the limit is {}: topic `{name}` can't be added",
                self.config.topics_max
            )));
        }
        if partition_count + partitions > self.config.partitions_max {
            return Err(ErrorCode::TooMany.because(format!(
                "there are {partition_count} partitions and the limit is {}: {partitions} more for topic `{name}` are too many",
                self.config.partitions_max
            )));
        }
        Ok(())
    }
}

fn check_partitions(name: &TopicName, partitions: u32) -> Result<(), WireError> {
    if (1..=PARTITIONS_MAX).contains(&partitions) {
        return Ok(());
    }
    Err(ErrorCode::InvalidArgument.because(format!(
        "a topic has 1 to {PARTITIONS_MAX} partitions, {partitions} was asked for topic `{name}`"
    )))
}

fn check_settings(name: &TopicName, settings: &TopicSettings) -> Result<(), WireError> {
    if settings.durability == Durability::Unknown {
        return Err(ErrorCode::Unsupported.because(format!(
            "`durability` of topic `{name}` is none that this broker knows, which are `disk` and `memory`"
        )));
    }
    if settings.timestamps == Timestamps::Unknown || settings.out_of_bounds == OutOfBounds::Unknown
    {
        return Err(ErrorCode::Unsupported.because(format!(
            "`timestamps` of topic `{name}` is `create` or `append`, `out_of_bounds` is `refuse` or `append`; this broker knows no others"
        )));
    }
    for (limit, what) in [
        (settings.retention_ms, "retention_ms"),
        (settings.retention_bytes, "retention_bytes"),
    ] {
        if limit == Some(0) {
            return Err(ErrorCode::InvalidArgument.because(format!(
                "`{what}` of topic `{name}` is 0; it must be at least 1, or absent for no limit"
            )));
        }
    }
    Ok(())
}

fn apply_limit(setting: &mut Option<u64>, change: Option<Limit>) {
    match change {
        None => {}
        Some(Limit::None) => *setting = None,
        Some(Limit::AtMost(limit)) => *setting = Some(limit),
    }
}

fn describe(topic: &Topic) -> TopicInfo {
    let partitions = topic.partitions();
    let partitions = partitions.iter().map(|partition| PartitionInfo {
        partition: partition.number(),
        epoch: partition.epoch(),
        start: partition.start(),
        end: partition.end(),
        bytes: partition.bytes(),
        stopped: partition.stopped(),
    });
    TopicInfo {
        topic: topic.name().clone(),
        settings: topic.settings(),
        partitions: partitions.collect(),
        uuid: topic.uuid().to_string(),
    }
}
