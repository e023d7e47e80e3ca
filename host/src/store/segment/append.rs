//! Batches to segments: into the newest one while it has room, then into the next.

use std::io;
use std::sync::Arc;

use eddy_protocol::Batch;

use super::files::Files;
use super::{AppendFault, Fault, Key, Segment};
use crate::store::producer::PartitionKey;

/// The run of segments that is written to.
pub(crate) struct Run<'a> {
    pub(crate) files: &'a Files,
    pub(crate) partition: PartitionKey,
    /// A segment that would grow past this is followed by another one.
    pub(crate) segment_bytes: u64,
    /// The broker's time: no record in older segments was appended later.
    pub(crate) now_ms: i64,
    /// The newest one.
    pub(crate) newest: Option<Arc<Segment>>,
}

/// How far an append came.
#[derive(Debug, Default)]
#[must_use = "batches that are not in a segment must stay in the journal"]
pub(crate) struct Written {
    /// How many batches are in segments: these and no others.
    pub(crate) batches: usize,
    /// A segment (by its base) that was left because it is damaged.
    pub(crate) damaged: Option<(u64, Fault)>,
    /// Why the other batches are in none; absent: there are no others.
    pub(crate) fault: Option<AppendFault>,
}

impl Run<'_> {
    /// Appends all batches, as far as that can be done; `begun` gets every
    /// segment that is new. Nothing is written behind damage: another segment
    /// begins there.
    pub(crate) fn append(
        &mut self,
        batches: &[Batch],
        mut begun: impl FnMut(Arc<Segment>),
    ) -> Written {
        let mut written = Written::default();
        let mut must_begin = false;
        while let Some(first) = batches.get(written.batches) {
            let segment = match self.segment_for(first, must_begin, &mut begun) {
                Ok(segment) => segment,
                Err(error) => {
                    written.fault = Some(error.into());
                    break;
                }
            };
            must_begin = false;
            let rest = &batches[written.batches..];
            let room = self.segment_bytes.saturating_sub(segment.len());
            let now = &rest[..count_that_fits(rest, room).max(1)];
            match segment.append(self.files, now) {
                Ok(()) => written.batches += now.len(),
                Err(AppendFault::Damaged(fault)) if written.damaged.is_none() => {
                    written.damaged = Some((segment.key.base, fault));
                    must_begin = true;
                }
                Err(fault) => {
                    written.fault = Some(fault);
                    break;
                }
            }
        }
        written
    }

    fn segment_for(
        &mut self,
        first: &Batch,
        must_begin: bool,
        begun: &mut impl FnMut(Arc<Segment>),
    ) -> io::Result<Arc<Segment>> {
        if let Some(newest) = &self.newest
            && !must_begin
            && self.has_room(newest, first)
        {
            return Ok(newest.clone());
        }
        let segment = self.begin(first.base_offset())?;
        begun(segment.clone());
        Ok(segment)
    }

    /// Closes the newest segment and begins the one that has `base` first.
    pub(crate) fn begin(&mut self, base: u64) -> io::Result<Arc<Segment>> {
        let key = Key::of(self.partition, base);
        let segment = Arc::new(Segment::create(self.files, key, self.now_ms)?);
        if let Some(closed) = self.newest.replace(segment.clone()) {
            closed.close(self.files);
        }
        self.files.watch(&segment);
        Ok(segment)
    }

    fn has_room(&self, segment: &Segment, first: &Batch) -> bool {
        !segment.is_closed()
            && (segment.is_empty() || segment.len() + first.len() as u64 <= self.segment_bytes)
    }
}

fn count_that_fits(batches: &[Batch], room: u64) -> usize {
    let mut bytes = 0;
    batches
        .iter()
        .take_while(|batch| {
            bytes += batch.len() as u64;
            bytes <= room
        })
        .count()
}
