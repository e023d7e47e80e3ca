//! Retention: the oldest segments go, by age and by size. Only whole segments
//! that a checkpoint covers, so that recovery never misses one; without a byte
//! of journal, so that a full disk can free itself.

use std::io;
use std::sync::Arc;

use eddy_protocol::frame::TopicSettings;

use super::committer::Committer;
use super::context::Context;
use super::partition::Partition;
use super::segment::{Fault, Segment, topic_folder};
use crate::log::{Partition as _, TopicId};

/// A deleted topic whose files go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeletedTopic {
    /// Once this group is synced.
    pub(crate) sequence: u64,
    topic: TopicId,
    /// Whether it was tried in vain, and said.
    has_failed: bool,
}

impl DeletedTopic {
    /// A topic that the group `sequence` deletes.
    pub(crate) fn new(topic: TopicId, sequence: u64) -> DeletedTopic {
        DeletedTopic {
            sequence,
            topic,
            has_failed: false,
        }
    }
}

/// Deletes segments that no topic's settings keep, and the files of deleted topics.
pub(crate) struct Retention {
    committer: Arc<Committer>,
}

impl Retention {
    pub(crate) fn new(committer: Arc<Committer>) -> Retention {
        Retention { committer }
    }

    fn context(&self) -> &Context {
        &self.committer.context
    }

    /// Deletes what no topic's settings keep. Returns how many segments went.
    pub(crate) fn retain(&self) -> usize {
        let mut removed = 0;
        for topic in self.context().catalog.topics.all() {
            let settings = topic.settings();
            if settings.retention_ms.is_none() && settings.retention_bytes.is_none() {
                continue;
            }
            for partition in self.context().catalog.partitions(topic.id()) {
                match self.retain_partition(&partition, &settings) {
                    Ok(count) => removed += count,
                    Err(error) => {
                        tracing::warn!(%error, topic = %topic.name(), partition = partition.number(), "retention could not delete a segment");
                    }
                }
            }
        }
        removed
    }

    fn retain_partition(
        &self,
        partition: &Arc<Partition>,
        settings: &TopicSettings,
    ) -> io::Result<usize> {
        let mut removed = 0;
        if partition.stop_reason().is_some() {
            // Whoever repairs it should find everything.
            return Ok(0);
        }
        let mut fault = None;
        while let Some(oldest) = self.expired(partition, settings) {
            if partition.remove_first_segment().is_none() {
                break;
            }
            // Where it begins has changed, whether or not the file goes.
            self.committer.touch(partition);
            match self.context().shared.files.remove(oldest.key) {
                Ok(()) => removed += 1,
                Err(error) => fault = Some(error),
            }
        }
        if self.newest_is_expired(partition, settings) && self.begin_anew(partition)? {
            self.committer.touch(partition);
        }
        fault.map_or(Ok(removed), Err)
    }

    /// Begins a segment, if everything visible is in the older ones.
    fn begin_anew(&self, partition: &Arc<Partition>) -> io::Result<bool> {
        let _alone = self.committer.applier.pause();
        let end = partition.applied_end();
        if end != partition.end() || partition.service.stop_state().is_some() {
            return Ok(false);
        }
        self.committer.applier.begin_segment(partition, end)?;
        Ok(true)
    }

    /// The oldest segment, if it may and should go.
    fn expired(&self, partition: &Partition, settings: &TopicSettings) -> Option<Arc<Segment>> {
        let segments = partition.segments();
        let oldest = segments.first()?;
        if segments.len() < 2 || segments[1].key.base > partition.covered().0.segment {
            return None;
        }
        let is_surplus = settings
            .retention_bytes
            .is_some_and(|max| partition.bytes() > max);
        (is_surplus || self.is_old(partition, &segments, settings)).then(|| oldest.clone())
    }

    /// Whether the segment that is written to holds nothing but old records:
    /// another one must begin before it can go.
    fn newest_is_expired(&self, partition: &Partition, settings: &TopicSettings) -> bool {
        let segments = partition.segments();
        let newest = segments.len().saturating_sub(1)..;
        let is_used = segments.last().is_some_and(|newest| !newest.is_empty());
        is_used && self.is_old(partition, &segments[newest], settings)
    }

    /// Whether everything in the first of these segments, which are the partition's
    /// newest ones, was appended longer ago than the settings keep.
    fn is_old(
        &self,
        partition: &Partition,
        segments: &[Arc<Segment>],
        settings: &TopicSettings,
    ) -> bool {
        let Some(age_ms) = settings.retention_ms else {
            return false;
        };
        let oldest_kept = self
            .context()
            .clock
            .now_ms()
            .saturating_sub_unsigned(age_ms);
        match self.appended_by(partition, segments) {
            Ok(Some(newest)) => newest < oldest_kept,
            Ok(None) | Err(_) => false,
        }
    }

    /// When the records in the first of these segments were appended, at the latest:
    /// before the next one was begun. Where the first release wrote that, the records'
    /// own timestamps count as well, of which one from the future says nothing.
    fn appended_by(
        &self,
        partition: &Partition,
        segments: &[Arc<Segment>],
    ) -> Result<Option<i64>, Fault> {
        let mut earliest = partition.extent.appended_ms();
        let mut is_known = segments.len() == 1 && earliest.is_some();
        for later in segments.iter().skip(1) {
            if let Some(begun) = later.begun_ms(&self.context().shared.files)? {
                earliest = Some(earliest.map_or(begun, |known| known.min(begun)));
                is_known |= later.key == segments[1].key;
                break;
            }
        }
        if is_known {
            return Ok(earliest);
        }
        let claimed = match segments.first() {
            Some(segment) => segment.timestamp_max(&self.context().shared.files)?,
            None => None,
        };
        Ok(claimed.into_iter().chain(earliest).min())
    }

    /// Removes the files of topics whose deletion is durable.
    pub(crate) fn remove_deleted(&self) {
        let synced = self.committer.sync_queue.synced();
        let ready: Vec<_> = {
            let mut deleted = self.committer.deleted_topics.lock();
            let ready = deleted
                .iter()
                .filter(|topic| topic.sequence <= synced)
                .copied()
                .collect();
            deleted.retain(|topic| topic.sequence > synced);
            ready
        };
        for deleted in ready {
            let topic = deleted.topic;
            // After this no turn of the applier writes to the topic: its partitions know.
            drop(self.committer.applier.pause());
            self.context().shared.files.forget_topic(topic);
            if let Err(error) = self.remove_folder(&topic_folder(topic)) {
                if !deleted.has_failed {
                    tracing::warn!(%error, %topic, "could not remove the files of a deleted topic; this is tried again");
                }
                self.committer.deleted_topics.lock().push(DeletedTopic {
                    has_failed: true,
                    ..deleted
                });
            }
        }
    }

    fn remove_folder(&self, folder: &str) -> io::Result<()> {
        for entry in self.context().disk.list(folder)? {
            let path = format!("{folder}/{}", entry.name);
            if entry.is_dir {
                self.remove_folder(&path)?;
            } else {
                self.context().disk.remove(&path)?;
            }
        }
        match self.context().disk.remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}
