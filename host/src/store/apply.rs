//! From memory into segments: what is visible is written to its partition's
//! newest segment, unsynced, in large pieces.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use eddy_protocol::Batch;
use eddy_protocol::frame::TopicSettings;

use super::config::Config;
use super::engine::{Engine, Work};
use super::partition::Partition;
use super::partition::stop::Cause;
use super::segment::append::{Run, Written};
use super::segment::{AppendFault, Fault, Lasts};
use crate::log::Partition as _;

/// What one turn writes at most.
const TURN_BYTES: u64 = 1 << 20;
/// A segment that retention asks to be small is at least so large.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// How many of the newest pieces of all tails are remembered in their order.
const TAIL_ORDER_MAX: usize = 16 << 10;

/// What a turn did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// Some records went to a segment.
    Some,
    /// There was nothing to do.
    Nothing,
    /// The disk is full; the records stay in memory.
    Full,
    /// The system could not write for this partition; its records stay in
    /// memory, and another try after a while may do.
    Again,
    /// The store has failed, or is closed.
    Failed,
}

impl Engine {
    /// Gives one partition a turn.
    pub(crate) fn apply(&self) -> Applied {
        let _alone = self.applying.lock();
        if self.failure().is_some() || self.is_unlocked.load(Ordering::Relaxed) {
            return Applied::Failed;
        }
        let has_applied = self.states.apply_pending();
        if self.states.is_full() {
            (self.wake)(Work::Keep);
        }
        let Some(partition) = self.apply_queue.lock().pop_front() else {
            return if has_applied {
                Applied::Some
            } else {
                Applied::Nothing
            };
        };
        if partition.service.is_unwritable() {
            self.drop_unapplied(&partition);
            return Applied::Some;
        }
        let batches = partition.unapplied(TURN_BYTES);
        let written = self.write_segments(&partition, &batches);
        let applied = &batches[..written.batches];
        let bytes: u64 = applied.iter().map(|batch| batch.len() as u64).sum();
        partition.applied(applied, self.config.tail_bytes);
        self.unapplied_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some((segment, damage)) = written.damaged {
            partition.stop(damage.to_string(), Cause::Segment(segment));
        }
        if let Some(fault) = written.fault {
            return self.not_applied(partition, fault);
        }
        self.apply_full.store(false, Ordering::Relaxed);
        self.apply_waits.store(false, Ordering::Relaxed);
        self.bound_tails(&partition);
        if !partition.leave_queue() {
            self.apply_queue.lock().push_back(partition);
        }
        Applied::Some
    }

    /// The partition's next batches are in no segment: that is nobody else's business, unless there
    /// is no room.
    fn not_applied(&self, partition: Arc<Partition>, fault: AppendFault) -> Applied {
        let lasts = match &fault {
            AppendFault::Full(_) => {
                self.apply_queue.lock().push_front(partition);
                if !self.apply_full.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the disk is full; appends are refused until there is room");
                }
                return Applied::Full;
            }
            AppendFault::System(_, lasts) => Some(*lasts),
            AppendFault::Damaged(_) => Some(Lasts::UntilChanged),
        };
        if self.rests(&partition, &fault, lasts) {
            self.drop_unapplied(&partition);
            return Applied::Some;
        }
        self.apply_queue.lock().push_back(partition);
        if !self.apply_waits.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason = %fault, "segments cannot be written now; this is tried again");
        }
        Applied::Again
    }

    /// Something did not work for a partition's segments; says whether it comes
    /// to rest for that: its records stay in the journal, whole, and from there
    /// are kept aside, until a restart or a repair finds its files in order. The
    /// caller holds the applier off.
    fn rests(&self, partition: &Partition, why: &dyn fmt::Display, lasts: Option<Lasts>) -> bool {
        let is_over = match lasts {
            Some(Lasts::AMoment) => false,
            Some(Lasts::Maybe) => partition.failed_again() >= self.config.segment_retry_time,
            Some(Lasts::UntilChanged) | None => true,
        };
        if is_over {
            let reason = format!("its segments cannot be written: {why}");
            partition.stop(reason, Cause::Unwritable);
            self.apply_waits.store(false, Ordering::Relaxed);
        } else {
            tracing::debug!(%why, topic = %partition.topic_name(), partition = partition.number(), "cannot use a partition's segments now");
        }
        is_over
    }

    /// As [`rests`](Engine::rests), for a segment that was written and cannot be synced.
    pub(crate) fn not_written(&self, partition: &Partition, fault: &Fault) -> bool {
        let _applier_waits = self.applying.lock();
        let rests = self.rests(partition, fault, fault.lasts());
        if rests {
            self.drop_unapplied(partition);
        }
        rests
    }

    fn drop_unapplied(&self, partition: &Partition) {
        let bytes = partition.drop_unapplied();
        self.unapplied_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Applies all there is.
    #[cfg(test)]
    pub(crate) fn apply_all(&self) -> Applied {
        loop {
            match self.apply() {
                Applied::Some => {}
                other => return other,
            }
        }
    }

    fn write_segments(&self, partition: &Arc<Partition>, batches: &[Batch]) -> Written {
        if partition.is_deleted() {
            // Its files are about to go, and no checkpoint looks at it.
            return Written {
                batches: batches.len(),
                ..Written::default()
            };
        }
        self.run(partition)
            .append(batches, |segment| partition.add_segment(segment))
    }

    /// Closes the newest segment and begins the one that has `base` first. The
    /// caller holds the applier off.
    pub(crate) fn begin_segment(&self, partition: &Arc<Partition>, base: u64) -> io::Result<()> {
        partition.add_segment(self.run(partition).begin(base)?);
        Ok(())
    }

    fn run<'a>(&'a self, partition: &Partition) -> Run<'a> {
        Run {
            files: &self.files,
            partition: (partition.topic(), partition.number()),
            segment_bytes: self.segment_bytes(partition),
            now_ms: self.clock.now_ms(),
            newest: partition.segments().last().cloned(),
        }
    }

    pub(crate) fn segment_bytes(&self, partition: &Partition) -> u64 {
        let settings = self
            .catalog
            .topics
            .by_id(partition.topic())
            .map(|topic| topic.settings());
        segment_bytes(&self.config, settings)
    }

    /// Lets the oldest batches in memory go while there are too many.
    fn bound_tails(&self, partition: &Arc<Partition>) {
        let mut order = self.tail_order.lock();
        order.push_back((partition.clone(), partition.applied_end()));
        while order.len() > TAIL_ORDER_MAX
            || self.shared.tails_bytes.load(Ordering::Relaxed) > self.config.tail_bytes_total
        {
            let Some((oldest, end)) = order.pop_front() else {
                break;
            };
            oldest.trim_tail(end);
        }
    }
}

/// How large a topic's segments become: retention by size can only delete whole ones.
pub(crate) fn segment_bytes(config: &Config, settings: Option<TopicSettings>) -> u64 {
    let retained = settings
        .and_then(|settings| settings.retention_bytes)
        .unwrap_or(u64::MAX);
    config
        .segment_bytes
        .min((retained / 4).max(SEGMENT_BYTES_MIN))
}
