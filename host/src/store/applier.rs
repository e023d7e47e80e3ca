//! From memory into segments: what is visible is written to its partition's
//! newest segment, unsynced, in large pieces. And from deltas into states.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use eddy_protocol::Batch;
use eddy_protocol::frame::TopicSettings;
use parking_lot::{Mutex, MutexGuard};

use super::config::Config;
use super::context::{Context, Worker};
use super::partition::Partition;
use super::partition::stop::Cause;
use super::segment::append::{Run, Written};
use super::segment::{AppendFault, Fault, Lasts, Segment};
use crate::log::{CommitError, Partition as _};

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

/// See the module.
pub(crate) struct Applier {
    context: Arc<Context>,
    /// Held over a turn; says whether there will be no more.
    turn: Mutex<Turns>,
    /// Partitions with records that are in no segment.
    queue: Mutex<VecDeque<Arc<Partition>>>,
    /// What the tails have that is in segments, oldest first: partition and end.
    tail_order: Mutex<VecDeque<(Arc<Partition>, u64)>>,
    /// What is in the journal and in no segment.
    unapplied_bytes: AtomicU64,
    is_full: AtomicBool,
    /// Whether it waits for what the system cannot do now.
    is_waiting: AtomicBool,
}

/// Whether turns may be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turns {
    Open,
    /// The data folder is somebody else's now.
    Closed,
}

impl Applier {
    pub(crate) fn new(context: Arc<Context>) -> Applier {
        Applier {
            context,
            turn: Mutex::new(Turns::Open),
            queue: Mutex::default(),
            tail_order: Mutex::default(),
            unapplied_bytes: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
            is_waiting: AtomicBool::new(false),
        }
    }

    /// So many bytes will become visible.
    pub(crate) fn expect(&self, bytes: u64) {
        self.unapplied_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A partition has records that are in no segment.
    pub(crate) fn queue(&self, partition: Arc<Partition>) {
        self.queue.lock().push_back(partition);
        (self.context.wake)(Worker::Applier);
    }

    pub(crate) fn unapplied_bytes(&self) -> u64 {
        self.unapplied_bytes.load(Ordering::Relaxed)
    }

    /// Whether it has got far enough for more to be written.
    pub(crate) fn is_ahead(&self) -> bool {
        let pending = self.context.states.pending_bytes();
        self.unapplied_bytes() + pending <= self.context.config.unapplied_bytes_max
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Relaxed)
    }

    /// Whether more records may come.
    pub(crate) fn accepts(&self) -> Result<(), CommitError> {
        if self.is_full() {
            return Err(CommitError::DiskFull);
        }
        if self.is_waiting() && !self.is_ahead() {
            let bytes_max = self.context.config.unapplied_bytes_max;
            return Err(CommitError::Behind { bytes_max });
        }
        Ok(())
    }

    /// Waits for the end of a turn; there is no other one while the guard lives.
    /// Taken after the writer's lock, if both are.
    pub(crate) fn pause(&self) -> MutexGuard<'_, Turns> {
        self.turn.lock()
    }

    /// Nothing is written to segments any more.
    pub(crate) fn close(&self) {
        *self.turn.lock() = Turns::Closed;
    }

    /// Gives one partition a turn.
    pub(crate) fn apply(&self) -> Applied {
        let turn = self.turn.lock();
        let context = &self.context;
        if context.failure().is_some() || *turn == Turns::Closed {
            return Applied::Failed;
        }
        let has_applied = context.states.apply_pending();
        if context.states.is_full() {
            (context.wake)(Worker::Keeper);
        }
        let Some(partition) = self.queue.lock().pop_front() else {
            return match has_applied {
                true => Applied::Some,
                false => Applied::Nothing,
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
        partition.applied(applied, context.config.tail_bytes);
        self.unapplied_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some((segment, damage)) = written.damaged {
            partition.stop(damage.to_string(), Cause::Segment(segment));
        }
        if let Some(fault) = written.fault {
            return self.not_applied(partition, fault);
        }
        self.is_full.store(false, Ordering::Relaxed);
        self.is_waiting.store(false, Ordering::Relaxed);
        self.bound_tails(&partition);
        if !partition.leave_queue() {
            self.queue.lock().push_back(partition);
        }
        Applied::Some
    }

    /// The partition's next batches are in no segment: that is nobody else's business, unless there
    /// is no room.
    fn not_applied(&self, partition: Arc<Partition>, fault: AppendFault) -> Applied {
        let lasts = match &fault {
            AppendFault::Full(_) => {
                self.queue.lock().push_front(partition);
                if !self.is_full.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the disk is full; appends are refused until there is room");
                }
                return Applied::Full;
            }
            AppendFault::System(_, lasts) => Some(*lasts),
            AppendFault::Damaged(_) => Some(Lasts::UntilChanged),
        };
        if self.stop_unwritable(&partition, &fault, lasts) {
            return Applied::Some;
        }
        self.queue.lock().push_back(partition);
        if !self.is_waiting.swap(true, Ordering::Relaxed) {
            tracing::warn!(reason = %fault, "segments cannot be written now; this is tried again");
        }
        Applied::Again
    }

    /// Something did not work for a partition's segments. Stops it if that has
    /// lasted too long: its records stay in the journal, whole, and from there are
    /// kept aside, until a restart or a repair finds its files in order. Says
    /// whether it is stopped. The caller has the turn.
    fn stop_unwritable(
        &self,
        partition: &Partition,
        why: &dyn fmt::Display,
        lasts: Option<Lasts>,
    ) -> bool {
        let is_over = match lasts {
            Some(Lasts::AMoment) => false,
            Some(Lasts::Maybe) => {
                partition.failed_again() >= self.context.config.segment_retry_time
            }
            Some(Lasts::UntilChanged) | None => true,
        };
        if is_over {
            let reason = format!("its segments cannot be written: {why}");
            partition.stop(reason, Cause::Unwritable);
            self.is_waiting.store(false, Ordering::Relaxed);
            self.drop_unapplied(partition);
        } else {
            tracing::debug!(%why, topic = %partition.topic_name(), partition = partition.number(), "cannot use a partition's segments now");
        }
        is_over
    }

    /// Stops a partition if a segment that was written cannot be synced for long;
    /// says whether it is stopped.
    pub(crate) fn cannot_sync(&self, partition: &Partition, fault: &Fault) -> bool {
        let _turn = self.pause();
        self.stop_unwritable(partition, fault, fault.lasts())
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
        let newest = partition.segments().last().cloned();
        self.run(partition, newest)
            .append(batches, |segment| partition.add_segment(segment))
    }

    /// Closes the newest segment and begins the one that has `base` first. The
    /// caller has the turn.
    pub(crate) fn begin_segment(&self, partition: &Arc<Partition>, base: u64) -> io::Result<()> {
        let newest = partition.segments().last().cloned();
        partition.add_segment(self.run(partition, newest).begin(base)?);
        Ok(())
    }

    /// The run of a partition's segments that goes on in `newest`.
    pub(crate) fn run(&self, partition: &Partition, newest: Option<Arc<Segment>>) -> Run<'_> {
        let context = &self.context;
        let topic = context.catalog.topics.by_id(partition.topic());
        let settings = topic.map(|topic| topic.settings());
        Run {
            files: &context.shared.files,
            partition: partition.key(),
            segment_bytes: segment_bytes(&context.config, settings),
            now_ms: context.clock.now_ms(),
            newest,
        }
    }

    /// Lets the oldest batches in memory go while there are too many.
    fn bound_tails(&self, partition: &Arc<Partition>) {
        let tails_bytes = &self.context.shared.tails_bytes;
        let bytes_max = self.context.config.tail_bytes_total;
        let mut order = self.tail_order.lock();
        order.push_back((partition.clone(), partition.applied_end()));
        while order.len() > TAIL_ORDER_MAX || tails_bytes.load(Ordering::Relaxed) > bytes_max {
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
