//! Repair: a stopped partition serves again with what of it is whole.
//!
//! What that is, is found out before the commit that says so, outside of the
//! writer's lock: nothing comes to a stopped partition meanwhile. What the last
//! checkpoint does not cover is written to segments again from where it is whole,
//! the journal and what was kept [aside]; the rest may have holes.
//! Recovery does the same when it meets the repair in the journal.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::applier::Applied;
use super::aside;
use super::checkpoint::Checkpoints;
use super::committer::Committer;
use super::context::Context;
use super::partition::Partition;
use super::partition::segments::Segments;
use super::partition::stop::{Cause, Repair, Stop};
use super::segment::append::Run;
use super::segment::{self, AppendFault, Fault, Segment};
use crate::log::{CatalogChange, Commit, CommitError, Partition as _, TopicId};

/// Finds out what repairs do.
pub(crate) struct Repairs {
    checkpoints: Arc<Checkpoints>,
}

impl Repairs {
    pub(crate) fn new(checkpoints: Arc<Checkpoints>) -> Repairs {
        Repairs { checkpoints }
    }

    fn committer(&self) -> &Committer {
        &self.checkpoints.committer
    }

    fn context(&self) -> &Context {
        &self.committer().context
    }

    /// Finds out what the repairs that this commit asks for would do, so that
    /// [`write`](Committer::write) can make them. May take long. Not beside a checkpoint.
    pub(crate) fn prepare(&self, commit: &Commit) -> Result<(), CommitError> {
        let _alone = self.checkpoints.pause();
        for change in &commit.catalog {
            if let CatalogChange::Repair { topic, partition } = change {
                self.prepare_repair(*topic, *partition)?;
            }
        }
        Ok(())
    }

    fn prepare_repair(&self, topic: TopicId, number: u32) -> Result<(), CommitError> {
        let partition = self.context().catalog.partition(topic, number);
        // The writer says what is wrong with a commit for a partition that is not there.
        let Some(partition) =
            partition.filter(|partition| partition.service.stop_state().is_some())
        else {
            return Ok(());
        };
        let keys: Vec<_> = partition.segments().iter().map(|it| it.key).collect();
        let files = &self.context().shared.files;
        let cleared = files.clear_way(partition.key(), &keys);
        cleared.map_err(|error| {
            let folder = files.disk().describe(&segment::folder(partition.key()));
            CommitError::Unreadable(format!("cannot clear the way to {folder}: {error}"))
        })?;
        self.wait_for_records(&partition)?;
        let Some(stop) = partition.service.stop_state() else {
            return Ok(());
        };
        let acknowledged = partition.end();
        if self.must_write_again(&partition, &stop)? {
            self.write_again(&partition)?;
        }
        let holes = self.survey(&partition, &stop)?;
        // Where the end may have been lost, its offsets are given again, which readers must know.
        let is_end_lost = stop.cause == Cause::Lost || partition.end() < acknowledged;
        let epoch = partition.epoch().wrapping_add(u32::from(is_end_lost));
        partition.service.set_repair(Repair { epoch, holes });
        Ok(())
    }

    /// Waits until everything of a stopped partition is where it should be: from
    /// then on nothing of it changes.
    fn wait_for_records(&self, partition: &Partition) -> Result<(), CommitError> {
        // What is being written for it is in the journal when the writer is free.
        drop(self.committer().writer.lock());
        self.committer()
            .sync_all()
            .map_err(CommitError::StorageFailed)?;
        while partition.applied_end() < partition.end() && !partition.service.is_unwritable() {
            match self.committer().applier.apply() {
                Applied::Some => {}
                Applied::Full => return Err(CommitError::DiskFull),
                Applied::Nothing | Applied::Again | Applied::Failed => {
                    let reason = "the partition's segments cannot be written now";
                    return Err(CommitError::Unreadable(reason.to_owned()));
                }
            }
        }
        Ok(())
    }

    /// Whether something is not whole that the journal has.
    fn must_write_again(&self, partition: &Partition, stop: &Stop) -> Result<bool, CommitError> {
        let covered_end = partition.covered().0.end;
        match stop.cause {
            Cause::Unwritable => Ok(true),
            Cause::Lost | Cause::Deleted => Ok(false),
            Cause::Segment(base) => {
                let segments = partition.segments_state();
                let holes = segments.survey(
                    &self.context().shared.files,
                    base,
                    segments.end(),
                    Vec::new(),
                );
                let holes = holes.map_err(|fault| unreadable(&fault))?;
                Ok(holes.iter().any(|hole| hole.to > covered_end))
            }
        }
    }

    /// Writes what the last checkpoint does not cover to segments again.
    fn write_again(&self, partition: &Arc<Partition>) -> Result<(), CommitError> {
        let _applier_waits = self.committer().applier.pause();
        let (covered, aside) = partition.covered();
        let mut segments = partition.segments_state();
        segments
            .cut(&self.context().shared.files, &covered)
            .map_err(|fault| unreadable(&fault))?;
        let key = partition.key();
        self.context().shared.files.forget_folder(key);
        let mut run = self.committer().applier.run(partition, None);
        if let Some(aside) = aside {
            let batches = aside.read(&*self.context().disk, key);
            let batches = batches.map_err(|fault| unreadable(&fault))?;
            append(&mut run, &mut segments, &batches)?;
        }
        let groups = self.checkpoints.covered()..=u64::MAX;
        let mut appended = Ok(());
        let read = aside::journalled(
            &*self.context().disk,
            self.context().salt,
            groups,
            |of| of == key,
            |_, batches| {
                if appended.is_ok() {
                    appended = append(&mut run, &mut segments, &batches);
                }
                Ok(())
            },
        );
        read.map_err(|error| CommitError::Unreadable(format!("cannot read the journal: {error}")))?;
        appended?;
        partition.wrote_again(segments);
        self.committer().touch(partition);
        Ok(())
    }

    /// What of the partition is given up from then on.
    fn survey(
        &self,
        partition: &Partition,
        stop: &Stop,
    ) -> Result<Vec<segment::Hole>, CommitError> {
        let segments = partition.segments_state();
        let covered = partition.covered().0;
        let missing = covered.missing.iter();
        let mut bases: BTreeSet<u64> = missing.map(|(base, _)| *base).collect();
        match stop.cause {
            Cause::Segment(base) => drop(bases.insert(base)),
            Cause::Unwritable => {
                let is_gone = |segment: &&Arc<Segment>| {
                    segment.require(&self.context().shared.files).is_err()
                };
                let gone = segments.list().iter().filter(is_gone);
                bases.extend(gone.map(|segment| segment.key.base));
                bases.extend((covered.length > 0).then_some(covered.segment));
            }
            Cause::Lost | Cause::Deleted => {}
        }
        let mut holes = partition.holes();
        for base in bases {
            let found = segments.survey(&self.context().shared.files, base, segments.end(), holes);
            holes = found.map_err(|fault| unreadable(&fault))?;
            if let Some(segment) = segments.list().iter().find(|it| it.key.base == base)
                && let Err(error) = self.context().shared.files.mend(segment.key, segment.len())
            {
                tracing::warn!(%error, path = segment.key.path(), "could not mend a segment");
            }
        }
        Ok(holes)
    }
}

fn unreadable(fault: &Fault) -> CommitError {
    CommitError::Unreadable(fault.to_string())
}

/// Appends those of the batches that go on where the segments end.
fn append(
    run: &mut Run<'_>,
    segments: &mut Segments,
    batches: &[eddy_protocol::Batch],
) -> Result<(), CommitError> {
    let new: Vec<_> = aside::follow(segments.end(), batches)
        .into_iter()
        .cloned()
        .collect();
    let written = run.append(&new, |segment| segments.push(segment));
    if let Some(last) = new[..written.batches].last() {
        segments.set_end(last.end_offset());
    }
    match written.fault {
        None => Ok(()),
        Some(AppendFault::Full(_)) => Err(CommitError::DiskFull),
        Some(fault) => Err(CommitError::Unreadable(fault.to_string())),
    }
}
