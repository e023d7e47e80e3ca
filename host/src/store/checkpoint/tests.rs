//! A checkpoint beside commits, and a crash behind it.

use bytes::Bytes;
use eddy_protocol::frame::Durability;

use super::{CheckpointOutcome, Frozen};
use crate::io::{CrashKind, FaultyDisk};
use crate::log::{Change, Commit, Partition as _, Table, TopicId};
use crate::store::core::Core;
use crate::store::journal;
use crate::store::kit::{core, create, record, write};

const DONE: &[u8] = b"done";

/// A record, and the note that its work is done.
fn output() -> Commit {
    Commit {
        changes: vec![Change::Put {
            table: Table::Progress,
            key: Bytes::from_static(DONE),
            value: Bytes::from_static(DONE),
        }],
        ..record(0)
    }
}

/// A `memory` topic with a record, and a checkpoint that begins. Then comes
/// another record, which is visible at once: it may go to its segment before the
/// checkpoint looks at that, and is in no group that it covers.
fn begin_checkpoint(core: &Core, partitions: u32, meanwhile: Commit) -> Frozen {
    drop(write(core, create(partitions, Durability::Memory)));
    core.committer.sync();
    drop(write(core, record(0)));
    let frozen = {
        let mut writer = core.committer.writer.lock();
        core.committer.rotate(&mut writer).expect("the disk works");
        core.checkpoints.freeze(&mut writer, false)
    };
    core.committer.sync_all().expect("the disk works");
    drop(write(core, meanwhile));
    core.applier.apply_all();
    assert_eq!(
        core.checkpoints.write_frozen(&frozen),
        CheckpointOutcome::Done
    );
    frozen
}

#[test]
fn damage_behind_a_checkpoint_stops_no_partition_whose_segments_were_further() {
    let disk = FaultyDisk::new(1);
    let before = core(&disk);
    let frozen = begin_checkpoint(&before, 2, record(0));
    let damaged = before.committer.writer.lock().journal.bytes();
    for _ in 0..2 {
        drop(write(&before, record(1)));
        before.committer.sync_all().expect("the disk works");
    }
    let path = journal::path_of(frozen.state.sequence + 1);
    let header = journal::FILE_HEADER_BYTES as u64;
    disk.corrupt(&path, header, &vec![0x5a; (damaged - header) as usize]);
    disk.crash(CrashKind::Process);
    drop(before);
    let after = core(&disk);
    let partitions = after.context.catalog.partitions(TopicId(1));
    let ends = partitions.iter().map(|it| (it.end(), it.stopped()));
    assert_eq!(ends.collect::<Vec<_>>(), [(2, None), (2, None)]);
}

#[test]
fn a_checkpoint_keeps_no_record_without_the_rest_of_its_commit() {
    for seed in 0..50 {
        let disk = FaultyDisk::new(seed);
        let before = core(&disk);
        begin_checkpoint(&before, 1, output());
        disk.crash(CrashKind::Machine);
        drop(before);
        let after = core(&disk);
        let has_output = after.context.catalog.partitions(TopicId(1))[0].end() > 1;
        let noted = after.context.tables.get(Table::Progress, DONE);
        let is_noted = noted.expect("it is whole").is_some();
        assert_eq!(has_output, is_noted, "seed {seed}");
    }
}
