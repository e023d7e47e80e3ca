//! Partitions at rest, whose segments cannot be written: checkpoints go on, the
//! journal keeps its bound, nothing that it had is lost, and a repair works
//! while the broker runs.

mod store_kit;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use eddy::io::{Call, CrashKind, Disk, Faults, FaultyDisk, RealDisk};
use eddy::log::{CatalogChange, Commit, CommitError, Committed, Health, Log as _, Partition};
use eddy::store::{Config, Store};
use eddy_protocol::frame::TopicSettings;
use store_kit::*;

const NOT_FOUND: i32 = 2;
const NO_ACCESS: i32 = 13;
const CHECKPOINT_BYTES: u64 = 64 << 10;
/// The partition that the tests bring to rest.
const FOLDER: &str = "topics/1/1";

fn config() -> Config {
    Config {
        checkpoint_bytes: CHECKPOINT_BYTES,
        ..small()
    }
}

fn open_small(disk: &FaultyDisk) -> Store {
    open_with(config(), Arc::new(disk.clone())).expect("the folder is whole")
}

fn partition(store: &Store, number: u32) -> Arc<dyn Partition> {
    let topic = store.topics().by_name(&name_of("t")).expect("it was made");
    topic.partition(number).expect("it has two")
}

fn number_of(n: u64) -> String {
    format!("1/{n}")
}

/// Appends numbers to partition 1 until it is stopped.
fn append_until_stopped(store: &Store) {
    let partition = partition(store, 1);
    eventually("it is stopped", || {
        let number = number_of(partition.end());
        match append(store, partition.topic(), 1, &[&number]) {
            Ok(_) => false,
            Err(error) => {
                assert!(matches!(error, CommitError::Stopped { .. }), "{error}");
                true
            }
        }
    });
}

/// Appends numbers to partition 1 up to `count`.
fn append_up_to(store: &Store, count: u64) {
    let partition = partition(store, 1);
    for n in partition.end()..count {
        append(store, partition.topic(), 1, &[&number_of(n)]).expect("it is acknowledged");
    }
}

/// A store with 30 records in partition 1 that a checkpoint covers.
fn filled(disk: Arc<dyn Disk>) -> Store {
    let store = open_with(config(), disk.clone()).expect("the folder is new");
    create(&store, "t", 2, TopicSettings::default());
    append_up_to(&store, 30);
    wait(store.close());
    drop(store);
    open_with(config(), disk).expect("the folder is whole")
}

/// Brings as much as ten checkpoints to partition 0, and waits for the journal
/// to be small again.
fn press(store: &Store, journal_bytes: impl Fn() -> u64) {
    let partition = partition(store, 0);
    let large = "x".repeat(16 << 10);
    for _ in 0..40 {
        append(store, partition.topic(), 0, &[&large]).expect("the other partition serves");
    }
    eventually("the journal keeps its bound", || {
        journal_bytes() <= 2 * CHECKPOINT_BYTES
    });
    assert_eq!(store.health(), Health::Ok);
}

fn journal_bytes(disk: &dyn Disk) -> u64 {
    let files = disk.list("journal").expect("it is there");
    files.iter().map(|file| file.bytes).sum()
}

fn repair(store: &Store) -> Result<Committed, CommitError> {
    let topic = partition(store, 1).topic();
    wait(store.commit(Commit {
        catalog: vec![CatalogChange::Repair {
            topic,
            partition: 1,
        }],
        ..Commit::default()
    }))
}

/// What a reader gets of partition 1 who is told of what is lost.
fn left(store: &Store) -> BTreeMap<u64, String> {
    let partition = partition(store, 1);
    let mut found = BTreeMap::new();
    let mut next = partition.next_from(0);
    while next < partition.end() {
        let read = partition.read(next, 700).expect("it serves");
        for batch in &read.batches {
            next = batch.end_offset();
            for record in batch.records().expect("it is whole").iter() {
                let value = String::from_utf8_lossy(record.value.unwrap_or_default());
                found.insert(record.offset, value.into_owned());
            }
        }
        next = partition.next_from(next);
    }
    found
}

fn numbers(range: std::ops::Range<u64>) -> BTreeMap<u64, String> {
    range.map(|n| (n, number_of(n))).collect()
}

#[test]
fn a_partition_at_rest_stops_no_checkpoint_and_loses_nothing_that_the_journal_had() {
    for code in [NOT_FOUND, NO_ACCESS] {
        for (rounds, closes) in [(0, true), (1, false), (2, true)] {
            let disk = FaultyDisk::new(1);
            let store = filled(Arc::new(disk.clone()));
            append_up_to(&store, 35);
            disk.break_files(Call::Open, FOLDER, code);
            // Its newest file is open; another one is begun at last.
            append_until_stopped(&store);
            let end = partition(&store, 1).end();
            (0..rounds).for_each(|_| press(&store, || journal_bytes(&disk)));
            if closes {
                wait(store.close());
            }
            drop(store);
            disk.crash(CrashKind::Machine);
            // It is still so at the next start, and the one after.
            for kind in [CrashKind::Process, CrashKind::Machine] {
                disk.break_files(Call::Open, FOLDER, code);
                let store = open_small(&disk);
                assert!(partition(&store, 1).stopped().is_some());
                press(&store, || journal_bytes(&disk));
                drop(store);
                disk.crash(kind);
            }
            let store = open_small(&disk);
            assert_eq!(partition(&store, 1).stopped(), None);
            assert_eq!(left(&store), numbers(0..end), "{code} {rounds} {closes}");
            append_up_to(&store, end + 5);
            press(&store, || journal_bytes(&disk));
            assert!(
                !disk
                    .files()
                    .iter()
                    .any(|(path, _)| path.starts_with("aside/")),
                "nothing is kept aside any more"
            );
        }
    }
}

#[test]
fn a_repair_while_running_brings_back_what_the_journal_had_and_serves() {
    for rounds in 0..3 {
        for is_gone in [false, true] {
            let disk = FaultyDisk::new(1);
            let store = filled(Arc::new(disk.clone()));
            append_up_to(&store, 35);
            match is_gone {
                true => disk.remove_all(FOLDER),
                false => disk.break_files(Call::Open, FOLDER, NO_ACCESS),
            }
            match is_gone {
                // Its newest file is open; a checkpoint looks whether it is there.
                true => press_until_stopped(&store),
                false => append_until_stopped(&store),
            }
            let end = partition(&store, 1).end();
            (0..rounds).for_each(|_| press(&store, || journal_bytes(&disk)));
            if !is_gone {
                let error = repair(&store).expect_err("nothing can be written yet");
                assert!(matches!(error, CommitError::Unreadable(_)), "{error}");
            }
            disk.set_faults(Faults::default());
            repair(&store).expect("it is stopped");
            assert_eq!(partition(&store, 1).stopped(), None);
            let first = if is_gone { 30 } else { 0 };
            assert_eq!(left(&store), numbers(first..end), "{rounds} {is_gone}");
            append_up_to(&store, end + 10);
            let (mut store, mut kinds) =
                (Some(store), vec![CrashKind::Process, CrashKind::Machine]);
            while let Some(kind) = kinds.pop() {
                drop(store.take());
                disk.crash(kind);
                let again = open_small(&disk);
                assert_eq!(partition(&again, 1).stopped(), None);
                assert_eq!(
                    left(&again),
                    numbers(first..end + 10),
                    "{rounds} {is_gone} {kind:?}"
                );
                press(&again, || journal_bytes(&disk));
                store = Some(again);
            }
        }
    }
}

/// Brings records to partition 0 until partition 1 is stopped.
fn press_until_stopped(store: &Store) {
    let other = partition(store, 0);
    let large = "x".repeat(16 << 10);
    eventually("it is stopped", || {
        append(store, other.topic(), 0, &[&large]).expect("the other partition serves");
        partition(store, 1).stopped().is_some()
    });
}

#[test]
fn a_store_with_few_descriptors_goes_on_and_one_without_any_waits() {
    let disk = FaultyDisk::new(1);
    let config = || Config {
        open_files_max: 1000,
        segment_retry_time: Duration::ZERO,
        unapplied_bytes_max: 8 << 10,
        ..config()
    };
    let open = || open_with(config(), Arc::new(disk.clone())).expect("the folder is whole");
    let store = open();
    let topic = create(&store, "many", 150, TopicSettings::default());
    let append_round = |store: &Store, round: u32| {
        for number in 0..150 {
            let value = format!("{number}/{round}");
            append(store, topic.id(), number, &[&value]).expect("it is acknowledged");
        }
    };
    let files_max = |files_max| {
        disk.set_faults(Faults {
            files_max,
            ..Faults::default()
        });
    };
    files_max(Some(16));
    (0..3).for_each(|round| append_round(&store, round));
    // Not even one: what is read or acknowledged before waits for its segment.
    files_max(Some(0));
    let large = "x".repeat(3000);
    let refused = (0..100).find_map(|n| append(&store, topic.id(), n, &[&large]).err());
    assert!(
        matches!(refused, Some(CommitError::Behind { .. })),
        "{refused:?}"
    );
    files_max(Some(16));
    eventually("it takes records again", || {
        append(&store, topic.id(), 149, &["again"]).is_ok()
    });
    assert_eq!(store.health(), Health::Ok);
    wait(store.close());
    drop(store);
    let store = open();
    let topic = store
        .topics()
        .by_name(&name_of("many"))
        .expect("it was made");
    for partition in topic.partitions().iter() {
        assert_eq!(partition.stopped(), None);
        let rounds: Vec<String> = (0..3)
            .map(|n| format!("{}/{n}", partition.number()))
            .collect();
        assert_eq!(values(&**partition)[..3], rounds);
    }
}

#[test]
fn what_fails_for_longer_than_it_may_brings_one_partition_to_rest() {
    let disk = FaultyDisk::new(1);
    let store = filled(Arc::new(disk.clone()));
    drop(store);
    let config = Config {
        segment_retry_time: Duration::ZERO,
        ..config()
    };
    let store = open_with(config, Arc::new(disk.clone())).expect("the folder is whole");
    disk.break_files(Call::Write, FOLDER, 5);
    append_until_stopped(&store);
    press(&store, || journal_bytes(&disk));
    disk.set_faults(Faults::default());
    let end = partition(&store, 1).end();
    repair(&store).expect("it is stopped");
    assert_eq!(left(&store), numbers(0..end));
}

#[test]
fn tables_that_cannot_be_written_are_waited_for_and_the_journal_keeps_its_bound() {
    let disk = FaultyDisk::new(1);
    let store = filled(Arc::new(disk.clone()));
    for _ in 0..2 {
        disk.break_files(Call::Write, "tables.redb", 5);
        let topic = partition(&store, 0).topic();
        let large = "x".repeat(16 << 10);
        let mut acknowledged = 0;
        let refused = loop {
            match append(&store, topic, 0, &[&large]) {
                Ok(_) => acknowledged += 1,
                Err(error) => break error,
            }
            assert!(acknowledged < 1000, "the journal grows without end");
        };
        assert!(
            matches!(refused, CommitError::JournalFull { .. }),
            "{refused}"
        );
        let before = journal_bytes(&disk);
        for _ in 0..50 {
            append(&store, topic, 0, &[&large]).expect_err("it is still so");
        }
        assert!(journal_bytes(&disk) <= before + CHECKPOINT_BYTES);
        assert!(matches!(store.health(), Health::Behind(_)));
        disk.set_faults(Faults::default());
        eventually("it takes records again", || {
            append(&store, topic, 0, &[&large]).is_ok()
        });
        press(&store, || journal_bytes(&disk));
    }
    let end = partition(&store, 0).end();
    wait(store.close());
    drop(store);
    disk.crash(CrashKind::Machine);
    let store = open_small(&disk);
    assert_eq!(partition(&store, 0).end(), end);
    assert_eq!(values(&*partition(&store, 0)).len() as u64, end);
}

#[test]
fn a_disk_that_is_full_at_the_start_is_known_as_full() {
    let disk = FaultyDisk::new(1);
    drop(filled(Arc::new(disk.clone())));
    disk.set_faults(Faults {
        bytes_max: Some(disk.used_bytes()),
        ..Faults::default()
    });
    let store = open_small(&disk);
    assert_eq!(store.health(), Health::DiskFull);
    disk.set_faults(Faults::default());
    eventually("there is room", || store.health() == Health::Ok);
}

/// Lets something be done to the segments' folder of partition 1 under a running store, and repairs
/// it, before or after a restart.
fn check_harm(harm: impl Fn(&Path), is_restarted: bool) {
    let folder = tempfile::tempdir().expect("a folder");
    let open_disk = || -> Arc<dyn Disk> {
        Arc::new(RealDisk::new(folder.path()).expect("the folder can be used"))
    };
    let disk = open_disk();
    let mut store = filled(disk.clone());
    append_up_to(&store, 40);
    harm(&folder.path().join(FOLDER));
    press_until_stopped(&store);
    for _ in 0..3 {
        press(&store, || journal_bytes(&*disk));
    }
    if is_restarted {
        drop(store);
        store = open_with(config(), open_disk()).expect("one partition's folder is no other's");
        assert!(partition(&store, 1).stopped().is_some());
    }
    repair(&store).expect("it is stopped");
    assert_eq!(left(&store), numbers(30..40));
    assert_eq!(
        partition(&store, 1).start(),
        30,
        "what was given up is no start"
    );
    append_up_to(&store, 50);
    wait(store.close());
    drop(store);
    let store = open_with(config(), open_disk()).expect("the folder is whole");
    assert_eq!(partition(&store, 1).stopped(), None);
    assert_eq!(left(&store), numbers(30..50));
}

#[test]
fn a_segment_folder_removed_under_a_running_store_lets_the_journal_keep_its_bound() {
    for is_restarted in [false, true] {
        let remove = |segments: &Path| std::fs::remove_dir_all(segments).expect("it is there");
        check_harm(remove, is_restarted);
    }
}

#[test]
fn something_else_in_the_place_of_a_partitions_files_is_put_aside_by_a_repair() {
    for is_restarted in [false, true] {
        check_harm(
            |segments| {
                std::fs::remove_dir_all(segments).expect("it is there");
                std::fs::write(segments, "no folder").expect("there is room");
            },
            is_restarted,
        );
        check_harm(
            |segments| {
                let newest = segments.join(format!("{:020}.log", 0));
                std::fs::remove_file(&newest).expect("it is there");
                std::fs::create_dir(&newest).expect("there is room");
            },
            is_restarted,
        );
    }
}
