//! Room on the disk: commits are refused before it is used up, because what is
//! in the journal needs as much again in segments, and a checkpoint, which alone
//! can give room back, needs some too. A file of a few hundred kilobytes is the
//! last resort: it is removed when everything else is stuck.

use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use super::context::{Context, Worker};
use crate::io::Disk;
use crate::log::CommitError;

/// Free space is asked for anew at least once per so many bytes.
const ROOM_BYTES: i64 = 64 << 20;
/// What a segment and its index may take beyond what is in them, to the ends of
/// their last blocks.
const SEGMENT_ENDS_BYTES: u64 = 2 * 4096;
/// The file that is there to be removed.
const RESERVE: &str = "RESERVE";
/// For so long a commit that was refused counts as waiting for room.
const REFUSED_MS: i64 = 5000;

/// What is known of the room on the disk.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// What was free when the system was asked last, less what was written since.
    free: AtomicI64,
    /// Whether commits are refused.
    is_full: AtomicBool,
    /// What the commit would have taken that was refused last.
    refused_bytes: AtomicU64,
    refused_ms: AtomicI64,
}

impl Room {
    pub(crate) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Whether so much can be written, into the journal and again into segments,
    /// with `unapplied` bytes that are on their way there, and a checkpoint still
    /// has room to work.
    pub(crate) fn has(&self, bytes: u64, unapplied: u64, context: &Context) -> bool {
        let config = &context.config;
        // A checkpoint copies the pages that it changes, and the pages above them.
        let unwritten = context.tables.unwritten_bytes() + context.states.unwritten_bytes();
        let tables = unwritten.saturating_mul(3);
        // A segment may be begun before the last one is half full.
        let segments = unapplied / (config.segment_bytes / 2).max(1) + 1;
        let needed = bytes
            .saturating_mul(2)
            .saturating_add(unapplied)
            .saturating_add(segments.saturating_mul(SEGMENT_ENDS_BYTES))
            .saturating_add(tables)
            .saturating_add(config.headroom_bytes);
        let needed = i64::try_from(needed).unwrap_or(i64::MAX);
        let taken = i64::try_from(bytes.saturating_mul(2)).unwrap_or(i64::MAX);
        let known = self.free.fetch_sub(taken, Ordering::Relaxed);
        if known > needed.saturating_add(ROOM_BYTES) {
            return true;
        }
        // A system that does not tell gets the benefit of the doubt: the write itself will tell.
        let free = context.disk.free_bytes().unwrap_or(u64::MAX);
        // Asking again after a while notices what others write.
        let free = i64::try_from(free)
            .unwrap_or(i64::MAX)
            .min(needed.saturating_add(4 * ROOM_BYTES));
        self.free
            .store(free.saturating_sub(taken), Ordering::Relaxed);
        free >= needed
    }

    /// Asks the system again the next time.
    pub(crate) fn forget(&self) {
        self.free.store(0, Ordering::Relaxed);
    }

    /// Looks whether there is room again.
    pub(crate) fn look(&self, unapplied: u64, context: &Context) {
        self.forget();
        let awaited = self.awaited_bytes(context);
        if self.is_full() && self.has(awaited, unapplied, context) {
            self.is_full.store(false, Ordering::Relaxed);
        }
    }

    /// So much was written. A disk on which only less than what was refused has
    /// room is still full for those who wait.
    pub(crate) fn written(&self, bytes: u64, context: &Context) {
        if self.is_full() && bytes >= self.awaited_bytes(context) {
            self.is_full.store(false, Ordering::Relaxed);
        }
    }

    /// Room for what was refused last: less would be full again at once. But a
    /// producer that gave up must not make the disk look full for ever.
    fn awaited_bytes(&self, context: &Context) -> u64 {
        let since_ms = self.refused_ms.load(Ordering::Relaxed);
        if context.clock.now_ms().abs_diff(since_ms) > REFUSED_MS.unsigned_abs() {
            return 0;
        }
        self.refused_bytes.load(Ordering::Relaxed)
    }

    /// There is no room for so much: commits are refused until there is.
    pub(crate) fn refuse(&self, bytes: u64, context: &Context) -> CommitError {
        self.forget();
        self.refused_bytes.store(bytes, Ordering::Relaxed);
        self.refused_ms
            .store(context.clock.now_ms(), Ordering::Relaxed);
        if !self.is_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                bytes,
                "the disk is full; commits are refused until there is room"
            );
        }
        (context.wake)(Worker::Keeper);
        CommitError::DiskFull
    }
}

/// Makes the reserve, if there is none and room enough.
pub(crate) fn make_reserve(disk: &dyn Disk, bytes: u64) {
    let free = disk.free_bytes().unwrap_or(0);
    if bytes == 0 || disk.open_read(RESERVE).is_ok() || free / 4 < bytes {
        return;
    }
    let filler = vec![0xed; usize::try_from(bytes).unwrap_or(0)];
    let made = disk
        .create(RESERVE)
        .and_then(|file| file.write_at(&mut [IoSlice::new(&filler)], 0));
    if let Err(error) = made {
        tracing::debug!(%error, "could not make the reserve");
        release_reserve(disk);
    }
}

/// Gives the reserve back to the disk; says whether there was one.
pub(crate) fn release_reserve(disk: &dyn Disk) -> bool {
    match disk.remove(RESERVE) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(%error, "could not remove the reserve");
            false
        }
    }
}
