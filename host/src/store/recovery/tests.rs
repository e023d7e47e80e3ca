//! What recovery says of what a newer release wrote, and what it keeps.

use bytes::Bytes;
use eddy_protocol::frame::Durability;

use crate::io::{Broken, Call, Faults, FaultyDisk};
use crate::log::TopicId;
use crate::store::checkpoint::CheckpointOutcome;
use crate::store::config::Config;
use crate::store::core::Core;
use crate::store::error::OpenError;
use crate::store::journal::group::{self, Header};
use crate::store::kit::{create, open, record, write};
use crate::store::state::Collected;
use crate::store::table::{Changes, full_key};

fn core(disk: &FaultyDisk) -> Result<Core, OpenError> {
    open(Config::default(), disk)
}

/// A folder whose journal has a group with this directory.
fn folder(directory: &[u8], needs: u32) -> FaultyDisk {
    let disk = FaultyDisk::new(1);
    let core = core(&disk).expect("the folder is new");
    let mut writer = core.committer.writer.lock();
    let header = Header {
        salt: core.context.salt,
        sequence: writer.sequence + 1,
        directory_bytes: u32::try_from(directory.len()).expect("it is short"),
        operations: 1,
        needs,
        ..Header::default()
    };
    let frame = group::encode(&header, directory);
    writer.journal.append(&frame, &[]).expect("there is room");
    drop(writer);
    disk
}

fn refused(disk: &FaultyDisk) -> String {
    let error = core(disk).expect_err("it is newer");
    assert!(matches!(error, OpenError::Newer { .. }), "{error}");
    error.to_string()
}

#[test]
fn a_group_of_a_newer_eddy_is_refused_with_its_file_and_stays() {
    let disk = folder(&[60, 0, 1, 0, 0, 0, 99], 0);
    let said = refused(&disk);
    assert!(
        said.contains(".journal") && said.contains("kind 60"),
        "{said}"
    );
    assert_eq!(refused(&disk), said, "nothing was cut");
    let said = refused(&folder(&[], 3));
    assert!(said.contains("groups that need 3"), "{said}");
}

#[test]
fn what_may_be_skipped_is() {
    let disk = folder(&[200, 0, 1, 0, 0, 0, 99], 0);
    assert_eq!(
        core(&disk)
            .expect("it may be skipped")
            .committer
            .writer
            .lock()
            .changes,
        1
    );
}

#[test]
fn a_row_of_a_newer_eddy_is_refused_with_its_file() {
    let disk = FaultyDisk::new(1);
    let before = core(&disk).expect("the folder is new");
    let row = Bytes::from_static(&[4, 0, 0, 0, 0]);
    let own = Changes::from([(full_key(205, &[0; 8]), Some(row))]);
    before
        .context
        .tables
        .write(&Changes::new(), &own, &Collected::default())
        .expect("there is room");
    drop(before);
    let said = refused(&disk);
    assert!(
        said.contains("tables.redb") && said.contains("needs 4"),
        "{said}"
    );
}

#[test]
fn an_unwritable_partition_keeps_when_a_record_was_appended_last() {
    let disk = FaultyDisk::new(1);
    let before = core(&disk).expect("the folder is new");
    drop(write(&before, create(1, Durability::Disk)));
    drop(write(&before, record(0)));
    before.committer.sync();
    before.applier.apply_all();
    assert_eq!(before.checkpoints.make(), CheckpointOutcome::Done);
    disk.set_faults(Faults {
        broken: vec![Broken {
            call: Call::Open,
            path: "topics/1/0/".to_owned(),
            errno: 13,
        }],
        ..Faults::default()
    });
    drop(write(&before, record(0)));
    before.committer.sync();
    before.applier.apply_all();
    assert_eq!(before.checkpoints.make(), CheckpointOutcome::Done);
    let partition = before.context.catalog.partition(TopicId(1), 0);
    assert!(partition.is_some_and(|it| it.service.is_unwritable()));
    drop(before);
    disk.set_faults(Faults::default());
    let after = core(&disk).expect("the folder can be used again");
    let partition = after.context.catalog.partition(TopicId(1), 0);
    let partition = partition.expect("it is in the checkpoint");
    assert_eq!(partition.extent.appended_ms(), Some(1_000));
}
