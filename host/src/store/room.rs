//! Room on the disk: commits are refused before it is used up, because what is
//! in the journal needs as much again in segments, and a checkpoint, which alone
//! can give room back, needs some too. A file of a few hundred kilobytes is the
//! last resort: it is removed when everything else is stuck.

use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;

use super::engine::{Engine, Work};
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

impl Engine {
    /// Looks whether commits will be refused, before the first one is.
    pub(crate) fn look_whether_full(&self) {
        if !self.has_room(0) {
            let _refused = self.refuse_for_room(0);
        }
        // The first commit looks again.
        self.room.store(0, Ordering::Relaxed);
    }

    /// Looks whether there is room again.
    pub(crate) fn look_for_room(&self) {
        self.room.store(0, Ordering::Relaxed);
        let wanted = self.awaited_bytes();
        if self.write_full.load(Ordering::Relaxed) && self.has_room(wanted) {
            self.write_full.store(false, Ordering::Relaxed);
        }
    }

    /// Whether so much can be written, into the journal and again into
    /// segments, and a checkpoint still has room to work.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let unapplied = self.unapplied_bytes.load(Ordering::Relaxed);
        // A checkpoint copies the pages that it changes, and the pages above them.
        let unwritten = self.tables.unwritten_bytes() + self.states.unwritten_bytes();
        let tables = unwritten.saturating_mul(3);
        // A segment may be begun before the last one is half full.
        let segments = unapplied / (self.config.segment_bytes / 2).max(1) + 1;
        let needed = bytes
            .saturating_mul(2)
            .saturating_add(unapplied)
            .saturating_add(segments.saturating_mul(SEGMENT_ENDS_BYTES))
            .saturating_add(tables)
            .saturating_add(self.config.headroom_bytes);
        let needed = i64::try_from(needed).unwrap_or(i64::MAX);
        let taken = i64::try_from(bytes.saturating_mul(2)).unwrap_or(i64::MAX);
        let known = self.room.fetch_sub(taken, Ordering::Relaxed);
        if known > needed.saturating_add(ROOM_BYTES) {
            return true;
        }
        // A system that does not tell gets the benefit of the doubt: the write itself will tell.
        let free = self.disk.free_bytes().unwrap_or(u64::MAX);
        // Asking again after a while notices what others write.
        let free = i64::try_from(free)
            .unwrap_or(i64::MAX)
            .min(needed.saturating_add(4 * ROOM_BYTES));
        self.room
            .store(free.saturating_sub(taken), Ordering::Relaxed);
        free >= needed
    }

    /// So much was written. A disk on which only less than what was refused has
    /// room is still full for those who wait.
    pub(super) fn had_room(&self, bytes: u64) {
        if self.write_full.load(Ordering::Relaxed) && bytes >= self.awaited_bytes() {
            self.write_full.store(false, Ordering::Relaxed);
        }
    }

    /// Room for what was refused last: less would be full again at once. But who
    /// gave up must not make the disk look full for ever.
    fn awaited_bytes(&self) -> u64 {
        let since_ms = self.refused_ms.load(Ordering::Relaxed);
        if self.clock.now_ms().abs_diff(since_ms) > REFUSED_MS.unsigned_abs() {
            return 0;
        }
        self.refused_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn refuse_for_room(&self, bytes: u64) -> CommitError {
        self.room.store(0, Ordering::Relaxed);
        self.refused_bytes.store(bytes, Ordering::Relaxed);
        self.refused_ms
            .store(self.clock.now_ms(), Ordering::Relaxed);
        if !self.write_full.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                bytes,
                "the disk is full; commits are refused until there is room"
            );
        }
        (self.wake)(Work::Keep);
        CommitError::DiskFull
    }

    /// Makes the reserve, if there is none and room enough.
    pub(crate) fn make_reserve(&self) {
        let bytes = self.config.reserve_bytes;
        let free = self.disk.free_bytes().unwrap_or(0);
        if bytes == 0 || self.disk.open_read(RESERVE).is_ok() || free / 4 < bytes {
            return;
        }
        let filler = vec![0xed; usize::try_from(bytes).unwrap_or(0)];
        let made = self
            .disk
            .create(RESERVE)
            .and_then(|file| file.write_at(&mut [IoSlice::new(&filler)], 0));
        if let Err(error) = made {
            tracing::debug!(%error, "could not make the reserve");
            release_reserve(&*self.disk);
        }
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
