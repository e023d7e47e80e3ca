//! Where a partition stands: its offsets, its epochs and what it takes on disk.
//! Everybody may look without a lock.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::log::{Epochs, Resume};

/// Where a partition stands.
#[derive(Debug)]
pub(crate) struct Extent {
    epoch: AtomicU32,
    epochs: Mutex<Epochs>,
    start: AtomicU64,
    end: AtomicU64,
    /// What its segments take on disk.
    pub(super) bytes: AtomicU64,
    /// When a record was appended last; the least there is: not known.
    appended_ms: AtomicI64,
    pub(super) has_holes: AtomicBool,
}

impl Extent {
    /// From the offset `start` on and before `end`.
    pub(super) fn new(epochs: Epochs, start: u64, end: u64, appended_ms: Option<i64>) -> Extent {
        Extent {
            epoch: AtomicU32::new(epochs.current()),
            epochs: Mutex::new(epochs),
            start: AtomicU64::new(start),
            end: AtomicU64::new(end),
            bytes: AtomicU64::new(0),
            appended_ms: AtomicI64::new(appended_ms.unwrap_or(i64::MIN)),
            has_holes: AtomicBool::new(false),
        }
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(crate) fn epochs(&self) -> Epochs {
        self.epochs.lock().clone()
    }

    /// See [`resume`](crate::log::Partition::resume).
    pub(super) fn resume(&self, epoch: Option<u32>, offset: u64) -> Resume {
        self.epochs.lock().resume(epoch, offset)
    }

    /// Another epoch begins, if it is another one, at the offset `from`.
    pub(crate) fn set_epoch(&self, epoch: u32, from: u64) {
        self.epochs.lock().begin(epoch, from);
        self.epoch.store(epoch, Ordering::Release);
    }

    /// The oldest offset.
    pub(crate) fn start(&self) -> u64 {
        self.start.load(Ordering::Acquire)
    }

    pub(crate) fn set_start(&self, start: u64) {
        self.start.store(start, Ordering::Release);
    }

    /// Behind the newest visible record.
    pub(crate) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    /// When a record was appended last; `None`: not known.
    pub(crate) fn appended_ms(&self) -> Option<i64> {
        let time_ms = self.appended_ms.load(Ordering::Relaxed);
        (time_ms != i64::MIN).then_some(time_ms)
    }

    pub(super) fn set_appended_ms(&self, time_ms: i64) {
        self.appended_ms.store(time_ms, Ordering::Relaxed);
    }
}
