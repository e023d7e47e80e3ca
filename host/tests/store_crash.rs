//! Kills at bad moments, and damage that meets what they leave: nothing that
//! was acknowledged goes without a word. A kill is a fork of the disk under a
//! store that runs: nothing was closed.

mod store_kit;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eddy::io::{CrashKind, Disk, Faults, FaultyDisk, ManualClock};
use eddy::log::{
    Append, CatalogChange, Commit, CommitError, Health, Log as _, Topic, TopicId, Watcher,
};
use eddy::store::inspect::inspect;
use eddy::store::{Config, OpenError, Store};
use eddy_protocol::ProducerStamp;
use eddy_protocol::frame::{Durability, TopicSettings};
use store_kit::*;

const TABLES: &str = "tables.redb";

fn topic(store: &Store) -> Arc<Topic> {
    store.topics().by_name(&name_of("t")).expect("it was made")
}

fn expected(partition: u32, numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|n| format!("{partition}/{n}")).collect()
}

fn fill(store: &Store, numbers: std::ops::Range<u32>) {
    let topic = topic(store);
    for n in numbers {
        for partition in topic.partitions().iter() {
            let number = partition.number();
            append(store, topic.id(), number, &[&format!("{number}/{n}")])
                .expect("the disk has room");
        }
    }
}

/// Waits until segments hold everything, so that a fork has it too.
fn wait_for_segments(store: &Store, count: u32) {
    for partition in topic(store).partitions().iter() {
        let batches: usize = expected(partition.number(), 0..count)
            .iter()
            .map(|value| batch(&[value], 0, None).len())
            .sum();
        eventually("the segments have everything", || {
            partition.bytes() >= batches as u64 + 64
        });
    }
}

fn assert_whole(store: &Store, count: u32) {
    for partition in topic(store).partitions().iter() {
        assert_eq!(partition.stopped(), None);
        assert_eq!(values(&**partition), expected(partition.number(), 0..count));
    }
}

fn segments(disk: &FaultyDisk, topic: TopicId, partition: u32) -> Vec<String> {
    let folder = format!("topics/{topic}/{partition}/");
    let files = disk.files().into_iter().map(|(path, _)| path);
    files
        .filter(|path| path.starts_with(&folder) && path.ends_with(".log"))
        .collect()
}

fn journal(disk: &FaultyDisk) -> Vec<(String, u64)> {
    let files = disk.files().into_iter();
    files
        .filter(|(path, _)| path.starts_with("journal/") && path.ends_with(".journal"))
        .collect()
}

/// A store that makes a checkpoint whenever there is something to keep.
fn open_restless(disk: &FaultyDisk) -> Store {
    let config = Config {
        checkpoint_bytes: 1,
        ..small()
    };
    open_with(config, Arc::new(disk.clone())).expect("the folder is whole")
}

fn wait_for_checkpoint(disk: &FaultyDisk) {
    eventually("a checkpoint lets the journal go", || {
        let files = journal(disk);
        files.len() == 1 && files[0].1 <= 64
    });
}

/// Overwrites the journal's group `number` (from 0) as if it had never been there.
fn ruin_group(disk: &FaultyDisk, number: usize) {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let folder = inspect(&shared).expect("the folder can be read");
    let file = &folder.journal[0];
    let group = &file.groups[number];
    disk.corrupt(&file.path, group.at, &vec![0x5a; group.bytes as usize]);
}

#[test]
fn tables_of_an_earlier_checkpoint_are_refused_and_nothing_is_trimmed() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    create(&store, "t", 2, TopicSettings::default());
    fill(&store, 0..10);
    wait(store.close());
    drop(store);
    let closed = disk.content(TABLES).expect("they are there");

    let store = open_restless(&disk);
    fill(&store, 10..20);
    wait_for_checkpoint(&disk);
    let killed = disk.fork();
    let running = disk.content(TABLES).expect("they are there");
    fill(&store, 20..30);
    wait_for_checkpoint(&disk);
    let killed_later = disk.fork();
    wait(store.close());
    drop(store);

    for (folder, tables) in [
        (killed, &closed),
        (killed_later.fork(), &closed),
        (killed_later, &running),
        (disk.fork(), &closed),
        (disk.fork(), &running),
    ] {
        folder.insert(TABLES, tables.clone());
        let before = folder.files();
        let error = try_open(&folder).expect_err("the tables are too old");
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
        let segments = |files: Vec<(String, u64)>| {
            let logs = files.into_iter().filter(|(path, _)| path.ends_with(".log"));
            logs.collect::<Vec<_>>()
        };
        assert_eq!(segments(folder.files()), segments(before));
        // Also where no journal tells how old they are.
        journal(&folder)
            .iter()
            .for_each(|(path, _)| folder.remove(path).expect("it is there"));
        let error = try_open(&folder).expect_err("the tables are too old");
        assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    }
    assert_whole(&open(&disk), 30);
}

#[test]
fn a_changed_byte_in_tables_that_were_not_closed_loses_nothing_without_a_word() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    create(&store, "t", 2, TopicSettings::default());
    fill(&store, 0..10);
    wait(store.close());
    drop(store);
    let store = open_restless(&disk);
    fill(&store, 10..20);
    wait_for_checkpoint(&disk);
    let killed = disk.fork();
    assert_whole(&open(&killed.fork()), 20);

    let tables = killed.content(TABLES).expect("they are there");
    let used = (0..tables.len()).filter(|at| tables[*at] != 0);
    let mut refused = 0;
    for at in used.step_by(97) {
        let folder = killed.fork();
        folder.corrupt(TABLES, at as u64, &[tables[at] ^ 0x10]);
        match try_open(&folder) {
            Ok(store) => assert_whole(&store, 20),
            Err(error) => {
                assert!(
                    matches!(error, OpenError::Damaged { .. }),
                    "byte {at}: {error}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "no change met what is in use");
}

#[test]
fn a_partition_whose_newest_segment_is_missing_keeps_what_the_journal_has_until_it_is_back() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    let id = create(&store, "t", 3, TopicSettings::default()).id();
    fill(&store, 0..10);
    wait(store.close());
    drop(store);
    let store = open(&disk);
    fill(&store, 10..60);
    wait_for_segments(&store, 60);
    let disk = disk.fork();
    // The one that was the newest at the checkpoint.
    let missing = segments(&disk, id, 1)[0].clone();
    let content = disk.content(&missing).expect("it is there");
    disk.remove(&missing).expect("it is there");

    for close in [false, true, true] {
        let store = open(&disk);
        let partitions = topic(&store).partitions();
        let reason = partitions[1].stopped().expect("a file is missing");
        assert!(reason.contains(&missing), "{reason}");
        assert!(matches!(
            append(&store, id, 1, &["x"]),
            Err(CommitError::Stopped { .. })
        ));
        assert_eq!(values(&*partitions[0]), expected(0, 0..60));
        assert_eq!(values(&*partitions[2]), expected(2, 0..60));
        if close {
            wait(store.close());
        }
    }
    disk.insert(&missing, content);
    for n in 0..3 {
        let store = open(&disk);
        let partition = topic(&store).partitions()[1].clone();
        assert_eq!(partition.stopped(), None);
        assert_eq!(partition.epoch(), 2, "readers should look again");
        let mut all = expected(1, 0..60);
        all.extend((0..n).map(|n| format!("new/{n}")));
        assert_eq!(values(&*partition), all);
        let appended = append(&store, id, 1, &[&format!("new/{n}")]).expect("it serves");
        assert_eq!(appended.appends[0].offset, Some(60 + n));
        if n == 1 {
            wait(store.close());
        }
    }
}

#[test]
fn a_missing_oldest_segment_stops_its_partition_where_nothing_deletes_segments() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    let id = create(&store, "t", 2, TopicSettings::default()).id();
    fill(&store, 0..60);
    wait(store.close());
    drop(store);
    let oldest = segments(&disk, id, 1)[0].clone();
    let content = disk.content(&oldest).expect("it is there");
    disk.remove(&oldest).expect("it is there");
    for _ in 0..2 {
        let store = open(&disk);
        let partitions = topic(&store).partitions();
        let reason = partitions[1].stopped().expect("a file is missing");
        assert!(reason.contains(&oldest), "{reason}");
        assert_eq!(values(&*partitions[0]), expected(0, 0..60));
        wait(store.close());
    }
    disk.insert(&oldest, content);
    assert_whole(&open(&disk), 60);
}

#[test]
fn a_topic_whose_creation_is_lost_keeps_its_records_under_another_name() {
    for durability in [Durability::Disk, Durability::Memory] {
        let disk = FaultyDisk::new(1);
        let store = open(&disk);
        let id = create(&store, "t", 2, kept(durability)).id();
        fill(&store, 0..20);
        wait_for_segments(&store, 20);
        let disk = disk.fork();
        ruin_group(&disk, 0);
        for _ in 0..3 {
            let store = open(&disk);
            assert!(
                store.topics().by_name(&name_of("t")).is_none(),
                "nothing says so"
            );
            let lost = store
                .topics()
                .by_name(&name_of("lost-1"))
                .expect("its records do");
            assert_eq!(lost.id(), id);
            for partition in lost.partitions().iter() {
                assert_eq!(values(&**partition), expected(partition.number(), 0..20));
            }
            let other = create(
                &store,
                &format!("u{}", store.topics().all().len()),
                1,
                kept(durability),
            );
            assert!(other.id() > id);
            wait(store.close());
        }
    }
}

#[test]
fn partitions_whose_creation_is_lost_stop_where_records_are_missing_and_no_file_goes() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    let id = create(&store, "t", 1, TopicSettings::default()).id();
    let alter = CatalogChange::Alter {
        topic: id,
        partitions: Some(2),
        settings: TopicSettings::default(),
    };
    wait(store.commit(Commit {
        catalog: vec![alter],
        ..Commit::default()
    }))
    .expect("it may grow");
    fill(&store, 0..20);
    wait_for_segments(&store, 20);
    let disk = disk.fork();
    ruin_group(&disk, 1);
    let store = open(&disk);
    let topic = topic(&store);
    assert_eq!(topic.partitions().len(), 2, "appends prove the second one");
    assert_eq!(values(&*topic.partitions()[1]), expected(1, 0..20));
    assert_eq!(values(&*topic.partitions()[0]), expected(0, 0..20));
}

#[test]
fn damage_in_the_middle_of_what_was_written_but_not_synced_is_no_torn_tail() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    create(&store, "t", 3, kept(Durability::Memory));
    fill(&store, 0..30);
    wait_for_segments(&store, 30);
    let killed = disk.fork();
    let (path, bytes) = journal(&killed)
        .into_iter()
        .max_by_key(|(_, bytes)| *bytes)
        .expect("there is a journal");
    // Within a record: a byte that only fills up a group would be no damage.
    let content = killed.content(&path).expect("it is there");
    let middle = content.windows(4).position(|found| found == b"1/15");
    let middle = middle.expect("the record is in it") as u64;
    for (at, length) in [(middle, 1), (bytes / 3, 200), (middle, 900)] {
        let disk = killed.fork();
        disk.corrupt(&path, at, &vec![0x5a; length]);
        for kind in [CrashKind::Process, CrashKind::Machine, CrashKind::Process] {
            let store = open(&disk);
            assert_whole(&store, 30);
            // What was salvaged is durable before it is served.
            let disk = disk.fork();
            disk.crash(kind);
            assert_whole(&open(&disk), 30);
            drop(store);
            disk.crash(kind);
        }
    }
}

/// Opens the folder, killed at every operation of recovery, and then for good.
fn over_kills_in_recovery(folder: &FaultyDisk, check: impl Fn(&Store, u64)) {
    for operation in 1.. {
        let disk = folder.fork();
        disk.set_faults(Faults {
            stop_at_operation: Some(disk.operations() + operation),
            ..Faults::default()
        });
        let opened = try_open(&disk);
        let is_through = opened.is_ok() && !disk.is_stopped();
        disk.crash(CrashKind::Process);
        drop(opened);
        check(&open(&disk), operation);
        if is_through {
            return;
        }
    }
}

#[test]
fn the_epoch_tells_of_lost_records_also_when_recovery_is_killed() {
    let disk = FaultyDisk::new(5);
    let store = open(&disk);
    create(&store, "t", 2, kept(Durability::Memory));
    fill(&store, 0..10);
    let lost = disk.fork();
    lost.crash(CrashKind::Machine);
    over_kills_in_recovery(&lost, |store, operation| {
        for partition in topic(store).partitions().iter() {
            assert_eq!(partition.epoch(), 2, "killed at operation {operation}");
        }
    });

    let corrupted = disk.fork();
    corrupted.remove_all("topics");
    let (path, bytes) = journal(&corrupted).pop().expect("there is a journal");
    corrupted.corrupt(&path, bytes - 300, &[0xee; 290]);
    over_kills_in_recovery(&corrupted, |store, operation| {
        let partitions = topic(store).partitions();
        assert_eq!(partitions[1].epoch(), 2, "killed at operation {operation}");
        assert!(values(&*partitions[1]).len() < 10);
    });
}

#[test]
fn a_write_that_a_kill_cut_off_anywhere_changes_no_epoch() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    create(&store, "t", 2, TopicSettings::default());
    fill(&store, 0..3);
    let killed = disk.fork();
    // What was not written to its end is in no segment.
    killed.remove_all("topics");
    let shared: Arc<dyn Disk> = Arc::new(killed.clone());
    let folder = inspect(&shared).expect("the folder can be read");
    let file = &folder.journal[0];
    let newest = file.groups.last().expect("there are groups");
    let content = killed.content(&file.path).expect("it is there");
    for length in (newest.at + 1..newest.at + newest.bytes).step_by(7) {
        let disk = killed.fork();
        disk.insert(&file.path, content[..length as usize].to_vec());
        let store = open(&disk);
        let partitions = topic(&store).partitions();
        assert_eq!(values(&*partitions[0]), expected(0, 0..3));
        assert_eq!(values(&*partitions[1]), expected(1, 0..2));
        for partition in partitions.iter() {
            assert_eq!(partition.epoch(), 1, "cut at byte {length}");
        }
    }
}

#[test]
fn nothing_is_written_once_the_folder_is_let_go() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    create(&store, "t", 1, TopicSettings::default());
    fill(&store, 0..10);
    wait(store.close());
    let operations = disk.operations();
    let next = open(&disk);
    assert_whole(&next, 10);
    let opened = disk.operations();
    assert!(opened > operations);
    drop(store);
    assert_eq!(disk.operations(), opened, "the folder is another store's");
}

#[test]
fn a_store_opens_on_a_full_disk_with_the_room_that_was_kept() {
    let disk = FaultyDisk::new(1);
    let config = || Config {
        reserve_bytes: 64 << 10,
        ..small()
    };
    let opened = |disk: &FaultyDisk| open_with(config(), Arc::new(disk.clone()));
    let store = opened(&disk).expect("the folder is new");
    create(&store, "t", 1, TopicSettings::default());
    fill(&store, 0..10);
    eventually("the reserve is there", || disk.content("RESERVE").is_some());
    let killed = disk.fork();
    // What the journal file that was made ahead gives back is too little.
    killed.set_faults(Faults {
        bytes_max: Some(killed.used_bytes() - 512),
        ..Faults::default()
    });
    let store = opened(&killed).expect("the reserve makes room");
    assert_whole(&store, 10);
    assert!(killed.content("RESERVE").is_none());
}

#[test]
fn a_topic_can_be_deleted_on_a_full_disk_and_makes_room() {
    let disk = FaultyDisk::new(1);
    disk.set_faults(Faults {
        bytes_max: Some(4 << 20),
        ..Faults::default()
    });
    let store = open(&disk);
    create(&store, "t", 1, TopicSettings::default());
    let large = create(&store, "large", 1, TopicSettings::default());
    let value = "x".repeat(3000);
    while append(&store, large.id(), 0, &[&value]).is_ok() {}
    assert_eq!(store.health(), Health::DiskFull);
    let delete = CatalogChange::Delete { topic: large.id() };
    wait(store.commit(Commit {
        catalog: vec![delete],
        ..Commit::default()
    }))
    .expect("this makes room");
    let small = topic(&store).id();
    eventually("there is room again", || {
        append(&store, small, 0, &["0/0"]).is_ok()
    });
}

#[test]
fn a_commit_too_large_for_the_disk_does_not_make_it_look_full_for_ever() {
    let disk = FaultyDisk::new(1);
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let store =
        Store::open(small(), Arc::new(disk.clone()), clock.clone()).expect("the folder is new");
    let id = create(&store, "t", 1, TopicSettings::default()).id();
    disk.set_faults(Faults {
        bytes_max: Some(disk.used_bytes() + (300 << 10)),
        ..Faults::default()
    });
    let large = "x".repeat(400_000);
    assert!(matches!(
        append(&store, id, 0, &[&large]),
        Err(CommitError::DiskFull)
    ));
    append(&store, id, 0, &["small"]).expect("there is room for this");
    assert_eq!(store.health(), Health::DiskFull, "the large one may wait");
    clock.advance(10_000);
    eventually("the large one has given up", || {
        store.health() == Health::Ok
    });
}

struct Panics(AtomicBool);

impl Watcher for Panics {
    fn changed(&self, _topic: TopicId, _partition: u32) {
        assert!(
            !self.0.swap(false, Ordering::SeqCst),
            "as the test wants it"
        );
    }
}

#[test]
fn a_panic_in_a_thread_of_the_store_fails_it_and_leaves_nobody_waiting() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    let topic = create(&store, "t", 1, TopicSettings::default());
    // Before the first record: whoever is told of that is told after its answer.
    let watcher: Arc<dyn Watcher> = Arc::new(Panics(AtomicBool::new(true)));
    let _guard = topic.partitions()[0].watch(&watcher);
    append(&store, topic.id(), 0, &["0/1"]).expect("it is answered before anybody is told");
    eventually("the store says so", || {
        matches!(store.health(), Health::Failed(_))
    });
    assert!(matches!(
        append(&store, topic.id(), 0, &["0/2"]),
        Err(CommitError::StorageFailed(_))
    ));
    wait(store.close());
    drop((topic, store));
    assert_eq!(open(&disk).topics().all()[0].partitions()[0].end(), 1);
}

#[test]
fn a_retry_on_a_memory_topic_is_recognised_after_a_kill() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    let id = create(&store, "t", 1, kept(Durability::Memory)).id();
    let producer = wait(store.open_producer(None)).expect("there is room");
    let send = |store: &Store, sequence: u32| {
        let stamp = ProducerStamp {
            id: producer.id,
            epoch: producer.epoch,
            sequence,
        };
        let append = Append {
            topic: id,
            partition: 0,
            batch: batch(&["a"], 0, Some(stamp)),
        };
        let commit = Commit {
            appends: vec![append],
            ..Commit::default()
        };
        wait(store.commit(commit))
            .expect("it is known or next")
            .appends[0]
    };
    for sequence in 0..5 {
        assert!(!send(&store, sequence).duplicate);
    }
    let killed = disk.fork();
    for _ in 0..2 {
        let store = open(&killed);
        let again = send(&store, 4);
        assert_eq!((again.duplicate, again.offset), (true, Some(4)));
        wait(store.close());
    }
    let store = open(&killed);
    assert_eq!(send(&store, 5).offset, Some(5));
}
