//! What readers get: from memory where it is there, else from segments.
//!
//! Readers never wait on the writer: no lock is held over a read. Only who is
//! the first to need a segment's index waits for it, with the others who need
//! it then.

use std::sync::Arc;

use eddy_protocol::Batch;

use super::Partition;
use super::stop::Cause;
use crate::log::{Partition as _, Read, ReadError, TailRead};
use crate::store::segment::read::{self, Position};
use crate::store::segment::{Fault, Segment};

impl Partition {
    /// See [`read_tail`](crate::log::Partition::read_tail).
    pub(super) fn read_memory(&self, offset: u64, bytes_max: u64) -> TailRead {
        if let Some(reason) = self.stop_reason() {
            return TailRead::Stopped(reason);
        }
        let records = self.records.lock();
        let (start, end) = (self.extent.start(), self.end());
        if offset < start {
            return TailRead::BelowStart { start };
        }
        let offset = records.segments.over_holes(offset);
        match records.tail.read(offset, bytes_max) {
            _ if offset == end => TailRead::AtEnd,
            _ if offset > end => TailRead::BeyondEnd { end },
            Some(batches) => TailRead::Batches(batches),
            None => TailRead::OnDisk,
        }
    }

    /// See [`read`](crate::log::Partition::read); stops at a segment's end, too.
    pub(super) fn read_on(&self, offset: u64, bytes_max: u64) -> Result<Read, ReadError> {
        loop {
            match self.read_memory(offset, bytes_max) {
                TailRead::Batches(batches) => return Ok(Read { batches }),
                TailRead::AtEnd => return Ok(Read::default()),
                TailRead::BelowStart { start } => return Err(ReadError::BelowStart { start }),
                TailRead::BeyondEnd { end } => return Err(ReadError::BeyondEnd { end }),
                TailRead::Stopped(reason) => return Err(ReadError::Stopped(reason)),
                TailRead::OnDisk => {}
            }
            let offset = self.over_holes(offset);
            match self.read_segment(offset, bytes_max) {
                Ok(batches) => return Ok(Read { batches }),
                // Retention was faster; the next round says so.
                Err((_, Fault::Missing { .. })) if offset < self.extent.start() => {}
                Err((segment, fault)) => return Err(self.fail(&fault, segment)),
            }
        }
    }

    /// See [`offset_at_time`](crate::log::Partition::offset_at_time).
    pub(super) fn find_time(&self, time_ms: i64) -> Result<u64, ReadError> {
        if let Some(reason) = self.stop_reason() {
            return Err(ReadError::Stopped(reason));
        }
        let (segments, tail, applied) = {
            let records = self.records.lock();
            let segments = records.segments.list().clone();
            let unapplied = records.tail.unapplied(u64::MAX);
            (segments, unapplied, records.segments.end())
        };
        for segment in segments.iter() {
            let found = self.look(segment, || self.time_in_segment(segment, time_ms, applied));
            match found {
                Ok(None) => {}
                Ok(Some(offset)) => return Ok(offset.max(self.extent.start())),
                Err(Fault::Missing { .. }) if segment.key.base < self.extent.start() => {}
                Err(fault) => return Err(self.fail(&fault, segment.key.base)),
            }
        }
        let found = tail.iter().find(|batch| batch.timestamp_max() >= time_ms);
        Ok(found.map_or_else(|| self.end(), |batch| first_at(batch, time_ms)))
    }

    fn time_in_segment(
        &self,
        segment: &Arc<Segment>,
        time_ms: i64,
        applied: u64,
    ) -> Result<Option<u64>, Fault> {
        if segment
            .timestamp_max(&self.shared.files)?
            .is_none_or(|newest| newest < time_ms)
        {
            return Ok(None);
        }
        let mut from = segment.locate_time(&self.shared.files, time_ms)?;
        loop {
            let found = segment.read(&self.shared.files, from, from.offset, 1 << 18)?;
            self.shared.files.watch(segment);
            if let Some(batch) = found
                .batches
                .iter()
                .find(|batch| batch.timestamp_max() >= time_ms)
            {
                return Ok(Some(first_at(batch, time_ms)));
            }
            if found.batches.is_empty() || found.next.offset >= applied {
                return Ok(None);
            }
            from = found.next;
        }
    }

    /// The batches from `offset` on; a fault comes with its segment's base.
    fn read_segment(&self, offset: u64, bytes_max: u64) -> Result<Vec<Batch>, (u64, Fault)> {
        let (segment, mut position) = {
            let segments = &self.records.lock().segments;
            let Some(segment) = segments.of(offset).cloned() else {
                let path = self.shared.files.path(segments.key_of(offset));
                return Err((offset, Fault::Missing { path }));
            };
            let position = segments.position(&segment, offset);
            (segment, position)
        };
        let look = || self.read_at(&segment, offset, bytes_max, position.take());
        let found = self
            .look(&segment, look)
            .map_err(|fault| (segment.key.base, fault))?;
        self.shared.files.watch(&segment);
        if found.batches.is_empty() {
            let reason = format!(
                "it ends at offset {}, offset {offset} should be in it",
                found.next.offset
            );
            let fault = self
                .shared
                .files
                .damaged(segment.key, found.next.at, reason);
            return Err((segment.key.base, fault));
        }
        self.records.lock().segments.remember(&segment, &found);
        Ok(found.batches)
    }

    /// A wrong index sends readers to a wrong position; only a second look, with an index made from
    /// the segment itself, tells that from a damaged segment.
    fn look<T>(
        &self,
        segment: &Segment,
        mut look: impl FnMut() -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match look() {
            Err(Fault::Damaged { .. }) => {
                segment.rebuild_index(&self.shared.files)?;
                look()
            }
            other => other,
        }
    }

    fn read_at(
        &self,
        segment: &Segment,
        offset: u64,
        bytes_max: u64,
        position: Option<Position>,
    ) -> Result<read::Fetched, Fault> {
        let position = match position {
            Some(position) => position,
            None => segment.locate(&self.shared.files, offset)?,
        };
        segment.read(&self.shared.files, position, offset, bytes_max)
    }

    /// Damage stops the partition; what the system could not do may work the next time.
    fn fail(&self, fault: &Fault, segment: u64) -> ReadError {
        match fault {
            Fault::Io { path, reason, .. } => ReadError::Io {
                path: path.clone(),
                reason: reason.clone(),
            },
            Fault::Missing { .. } | Fault::Damaged { .. } => {
                ReadError::Stopped(self.stop(fault.to_string(), Cause::Segment(segment)))
            }
        }
    }
}

/// The first record of `batch` that is not older than `time_ms`; there is one.
fn first_at(batch: &Batch, time_ms: i64) -> u64 {
    let found = batch.records().ok().and_then(|records| {
        records
            .iter()
            .find(|record| record.timestamp >= time_ms)
            .map(|record| record.offset)
    });
    found.unwrap_or_else(|| batch.base_offset())
}
