//! A journal whose end is lost: its newest file was cut, be it where a group
//! ends, or emptied. The journal itself does not show that. But whatever is in a
//! segment was in the journal before, and synced if its topic asks for that, so
//! what a segment has beyond the journal's end proves it; and no crash leaves a
//! file without its header. Those records stay, and are journalled again. As
//! more may be lost, of whichever partition, all of them begin another epoch.

use super::{Recovery, salvage};
use crate::store::error::OpenError;
use crate::store::journal;
use crate::store::producer::PartitionKey;
use crate::store::segment::HEADER_BYTES;

/// Ids that may have been handed out in what is lost are not handed out again.
const TOPICS_LOST_MAX: u64 = 1 << 10;
const PRODUCERS_LOST_MAX: u64 = 1 << 20;

impl Recovery {
    /// Looks whether the journal's end is lost, and keeps what segments have of it.
    pub(super) fn keep_lost_end(&mut self) -> Result<(), OpenError> {
        let beyond = self.beyond();
        if beyond.is_empty() && self.events.headless.is_none() {
            return Ok(());
        }
        let files = self.replay.shared.files.clone();
        let mut records = 0;
        for key in beyond {
            let part = self.replay.part(key);
            let batches = part.map(|part| salvage::rest(&files, part, u64::MAX));
            let batches = batches.unwrap_or_default();
            records += batches
                .iter()
                .map(|batch| u64::from(batch.span()))
                .sum::<u64>();
            let again = batches.iter().map(|batch| (key, batch.clone()));
            self.again.extend(again);
            self.replay.salvaged(key, batches)?;
        }
        for part in self.replay.parts() {
            if self.lost.insert(part.key()) {
                part.begin_epoch();
            }
        }
        self.replay.next_topic += TOPICS_LOST_MAX;
        self.replay.producers.next_id += PRODUCERS_LOST_MAX;
        if let Some(tail) = &mut self.tail {
            tail.is_torn = false;
        }
        let notice = format!(
            "the journal's end is lost behind group {} ({}): {records} records that segments have of it are kept; others and \
             changes of topics, groups and deployments may be lost, and deployments may repeat some work; all \
             partitions begin another epoch",
            self.sequence,
            files.disk().describe(&journal::path_of(self.newest_file)),
        );
        tracing::error!("{notice}");
        self.notices.push(notice);
        Ok(())
    }

    /// The partitions that have whole batches in segments beyond what the journal says.
    fn beyond(&mut self) -> Vec<PartitionKey> {
        // A stop of the machine takes records that were not synced, and leaves them where it likes.
        let has_stopped = self.has_machine_stopped();
        let files = self.replay.shared.files.clone();
        let topics = self.replay.topics.values();
        topics
            .filter(|topic| !(has_stopped && topic.was_memory))
            .flat_map(|topic| &topic.parts)
            .filter(|part| !part.is_lost() && !part.is_unwritable())
            .filter(|part| part.found.values().any(|bytes| *bytes > HEADER_BYTES))
            .filter(|part| salvage::has_more(&files, part))
            .map(|part| part.key())
            .collect()
    }
}
