//! Batches to segments: into the newest one while it has room, then into the next.

use std::sync::Arc;

use eddy_protocol::Batch;

use super::files::Files;
use super::{AppendFault, Key, Segment};
use crate::store::producer::PartitionKey;

/// The run of segments that is written to.
pub(crate) struct Run<'a> {
    pub(crate) files: &'a Files,
    pub(crate) partition: PartitionKey,
    /// A segment that would grow past this is followed by another one.
    pub(crate) segment_bytes: u64,
    /// The newest one.
    pub(crate) newest: Option<Arc<Segment>>,
}

impl Run<'_> {
    /// Appends all batches; `begun` gets every segment that is new. After a
    /// fault the batches before it are there; the fault comes with their number.
    pub(crate) fn append(
        &mut self,
        batches: &[Batch],
        mut begun: impl FnMut(Arc<Segment>),
    ) -> Result<(), (usize, AppendFault)> {
        let mut rest = batches;
        while let Some(first) = rest.first() {
            let done = batches.len() - rest.len();
            let segment = match &self.newest {
                Some(segment) if self.has_room(segment, first) => segment.clone(),
                _ => {
                    let begin = self.begin(first.base_offset());
                    let segment = begin.map_err(|error| (done, AppendFault::Io(error)))?;
                    begun(segment.clone());
                    segment
                }
            };
            let room = self.segment_bytes.saturating_sub(segment.len());
            let fits = count_that_fits(rest, room);
            let (now, later) = rest.split_at(fits.max(1));
            segment
                .append(self.files, now)
                .map_err(|fault| (done, fault))?;
            rest = later;
        }
        Ok(())
    }

    /// Closes the newest segment and begins the one that has `base` first.
    pub(crate) fn begin(&mut self, base: u64) -> std::io::Result<Arc<Segment>> {
        let (topic, partition) = self.partition;
        let segment = Arc::new(Segment::create(
            self.files,
            Key {
                topic,
                partition,
                base,
            },
        )?);
        if let Some(closed) = self.newest.replace(segment.clone()) {
            closed.close(self.files);
        }
        self.files.watch(&segment);
        Ok(segment)
    }

    fn has_room(&self, segment: &Segment, first: &Batch) -> bool {
        segment.is_empty() || segment.len() + first.len() as u64 <= self.segment_bytes
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
