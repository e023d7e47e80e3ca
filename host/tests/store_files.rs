//! The store and its files: what is kept, what damage does, who may open them.

mod store_kit;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use bytes::Bytes;
use eddy::io::{CrashKind, Disk, Faults, FaultyDisk, ManualClock, RealDisk};
use eddy::log::{
    Append, CatalogChange, Commit, CommitError, Expect, ExpectedValue, Health, Log as _, ReadError,
    State as _, Table, TailRead, Topic, TopicId, Watcher,
};
use eddy::store::inspect::inspect;
use eddy::store::{Config, OpenError, Store};
use eddy_protocol::ProducerStamp;
use eddy_protocol::frame::{Durability, TopicSettings};
use store_kit::*;

#[test]
fn a_second_store_on_one_folder_refuses_to_start_and_names_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = || -> Arc<dyn Disk> {
        Arc::new(RealDisk::new(folder.path()).expect("the folder is there"))
    };
    let first = open_with(small(), disk()).expect("the first may");
    let refused = open_with(small(), disk())
        .expect_err("the second may not")
        .to_string();
    assert!(
        refused.contains(&format!("pid {}", std::process::id())),
        "{refused}"
    );
    wait(first.close());
    open_with(small(), disk()).expect("after the first is closed");
}

#[test]
fn what_was_committed_is_there_after_closing_and_after_dropping() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = || -> Arc<dyn Disk> {
        Arc::new(RealDisk::new(folder.path()).expect("the folder is there"))
    };
    let mut expected = Vec::new();
    for round in 0..6 {
        let store = open_with(small(), disk()).expect("the folder is whole");
        let topic = store
            .topics()
            .by_name(&name_of("t"))
            .unwrap_or_else(|| create(&store, "t", 2, TopicSettings::default()));
        for n in 0..40 {
            let value = format!("{round}/{n}");
            append(&store, topic.id(), 1, &[&value]).expect("the disk has room");
            expected.push(value);
        }
        let change = put(Table::Cursors, "round", &round.to_string());
        wait(store.commit(Commit {
            changes: vec![change],
            ..Commit::default()
        }))
        .expect("the disk has room");
        assert_eq!(values(&*topic.partitions()[1]), expected);
        if round % 2 == 0 {
            wait(store.close());
            assert_eq!(
                append(&store, topic.id(), 0, &["late"]).expect_err("it is closed"),
                CommitError::Closed
            );
        }
        drop((topic, store));
        let store = open_with(small(), disk()).expect("the folder is whole");
        let topic = store.topics().by_name(&name_of("t")).expect("it was made");
        assert_eq!(values(&*topic.partitions()[1]), expected);
        assert_eq!(
            wait(store.get(Table::Cursors, b"round")),
            Ok(Some(Bytes::from(round.to_string())))
        );
    }
}

/// A store with three partitions of `count` batches each, all of it only in the
/// journal and in unsynced segments.
fn filled(disk: &FaultyDisk, count: usize) -> (Store, TopicId) {
    let store = open(disk);
    let topic = create(&store, "t", 3, TopicSettings::default());
    for n in 0..count {
        for partition in 0..3 {
            append(
                &store,
                topic.id(),
                partition,
                &[&format!("{partition}/{n}")],
            )
            .expect("the disk has room");
        }
    }
    let id = topic.id();
    for partition in topic.partitions().iter() {
        let batches: usize = expected(partition.number(), count)
            .iter()
            .map(|value| batch(&[value], 0, None).len())
            .sum();
        eventually("the segments have everything", || {
            partition.bytes() >= batches as u64 + 64
        });
    }
    (store, id)
}

fn expected(partition: u32, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{partition}/{n}")).collect()
}

fn journal_file(disk: &FaultyDisk) -> (String, u64) {
    let files = disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.starts_with("journal/"));
    files
        .max_by_key(|(_, bytes)| *bytes)
        .expect("there is a journal")
}

#[test]
fn a_torn_tail_is_cut_and_everything_before_it_is_there() {
    let disk = FaultyDisk::new(1);
    let (store, _) = filled(&disk, 10);
    drop(store);
    let (path, bytes) = journal_file(&disk);
    for cut in [1, 40, 100, 150] {
        let fork = disk.fork();
        // What was not written to its end is in no segment.
        fork.remove_all("topics");
        let content = fork.content(&path).expect("the journal is there");
        fork.insert(&path, content[..(bytes - cut) as usize].to_vec());
        let store = open(&fork);
        let topic = store.topics().by_name(&name_of("t")).expect("it was made");
        assert_eq!(values(&*topic.partitions()[0]), expected(0, 10));
        assert_eq!(values(&*topic.partitions()[1]), expected(1, 10));
        assert_eq!(
            values(&*topic.partitions()[2]),
            expected(2, 9),
            "the group that was cut is gone"
        );
        assert_eq!(
            append(&store, topic.id(), 2, &["2/9"])
                .expect("it goes on")
                .appends[0]
                .offset,
            Some(9)
        );
        drop((topic, store));
        let store = open(&fork);
        assert_eq!(
            values(
                &*store
                    .topics()
                    .by_name(&name_of("t"))
                    .expect("it was made")
                    .partitions()[2]
            ),
            expected(2, 10)
        );
    }
}

#[test]
fn a_corrupted_tail_is_cut_and_the_epoch_tells() {
    let disk = FaultyDisk::new(1);
    let (store, _) = filled(&disk, 10);
    drop(store);
    let (path, bytes) = journal_file(&disk);
    disk.corrupt(&path, bytes - 300, &[0xee; 290]);
    disk.remove_all("topics");
    let store = open(&disk);
    let topic = store.topics().by_name(&name_of("t")).expect("it was made");
    let partitions = topic.partitions();
    assert_eq!(values(&*partitions[0]), expected(0, 10));
    assert!(values(&*partitions[2]).len() < 10);
    assert_eq!(
        partitions[2].epoch(),
        2,
        "readers must learn that records are gone"
    );
}

#[test]
fn damage_in_the_middle_of_the_journal_loses_nothing_while_segments_have_it() {
    let disk = FaultyDisk::new(1);
    let (store, _) = filled(&disk, 30);
    drop(store);
    let (path, bytes) = journal_file(&disk);
    for (at, length) in [
        (bytes / 2, 1),
        (bytes / 2, 40),
        (bytes / 3, 200),
        (bytes / 3, 900),
        (4000, 3000),
    ] {
        let fork = disk.fork();
        fork.corrupt(&path, at, &vec![0x5a; length]);
        for _ in 0..2 {
            let store = open(&fork);
            let topic = store.topics().by_name(&name_of("t")).expect("it was made");
            for partition in topic.partitions().iter() {
                assert_eq!(partition.stopped(), None, "{length} bytes at {at}");
                assert_eq!(
                    values(&**partition),
                    expected(partition.number(), 30),
                    "{length} bytes at {at}"
                );
            }
        }
    }
}

#[test]
fn damage_in_the_middle_that_no_segment_heals_stops_one_partition_until_it_is_repaired() {
    let disk = FaultyDisk::new(1);
    let (store, id) = filled(&disk, 30);
    drop(store);
    let (path, _) = journal_file(&disk);
    let journal = disk.content(&path).expect("the journal is there");
    let at = journal
        .windows(4)
        .position(|window| window == b"1/15")
        .expect("the record is in the journal");
    disk.corrupt(&path, at as u64, b"XX");
    let segments: Vec<String> = disk
        .files()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.starts_with(&format!("topics/{id}/1/")))
        .collect();
    segments
        .iter()
        .for_each(|path| disk.remove(path).expect("the segment is there"));
    for round in 0..3 {
        let store = open(&disk);
        let topic = store.topics().by_name(&name_of("t")).expect("it was made");
        let partitions = topic.partitions();
        assert_eq!(values(&*partitions[0])[..30], expected(0, 30));
        assert_eq!(values(&*partitions[2]), expected(2, 30));
        let reason = partitions[1].stopped().expect("offset 15 is lost");
        assert!(reason.contains("offset 15"), "{reason}");
        assert!(matches!(
            partitions[1].read(3, 1),
            Err(ReadError::Stopped(_))
        ));
        assert!(matches!(
            append(&store, id, 1, &["x"]),
            Err(CommitError::Stopped { partition: 1, .. })
        ));
        append(&store, id, 0, &["more"]).expect("the others serve");
        if round == 1 {
            // A checkpoint must keep it, though the journal goes.
            wait(store.close());
            assert!(
                disk.files()
                    .iter()
                    .any(|(path, _)| path.ends_with(".damaged")),
                "the file is kept aside"
            );
        }
        if round == 2 {
            let repair = CatalogChange::Repair {
                topic: id,
                partition: 1,
            };
            let commit = Commit {
                catalog: vec![repair],
                ..Commit::default()
            };
            wait(store.commit(commit)).expect("it is stopped");
            assert_eq!(
                append(&store, id, 1, &["new"])
                    .expect("it serves again")
                    .appends[0]
                    .offset,
                Some(15)
            );
            assert_eq!(partitions[1].epoch(), 2);
        }
    }
    let store = open(&disk);
    let partition = store
        .topics()
        .by_name(&name_of("t"))
        .expect("it was made")
        .partitions()[1]
        .clone();
    assert_eq!((partition.epoch(), values(&*partition).len()), (2, 16));
}

#[test]
fn damage_in_a_segment_stops_its_partition_when_it_is_read_and_leaves_the_others_serving() {
    let disk = FaultyDisk::new(1);
    let (store, id) = filled(&disk, 60);
    wait(store.close());
    drop(store);
    let path = format!("topics/{id}/1/{:020}.log", 0);
    disk.corrupt(&path, 1000, &[1, 2, 3]);
    let store = open(&disk);
    let topic = store.topics().by_name(&name_of("t")).expect("it was made");
    let partitions = topic.partitions();
    let error = read_all(&*partitions[1])
        .expect_err("it is damaged")
        .to_string();
    assert!(error.contains(&path) && error.contains("byte"), "{error}");
    assert!(matches!(
        partitions[1].read_tail(0, 1),
        TailRead::Stopped(_)
    ));
    assert!(matches!(
        append(&store, id, 1, &["x"]),
        Err(CommitError::Stopped { .. })
    ));
    assert_eq!(values(&*partitions[0]), expected(0, 60));
    append(&store, id, 2, &["x"]).expect("the others serve");
}

#[test]
fn a_missing_or_damaged_index_is_made_anew() {
    let disk = FaultyDisk::new(1);
    let (store, _) = filled(&disk, 100);
    wait(store.close());
    drop(store);
    let indexes: Vec<_> = disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.ends_with(".index"))
        .collect();
    assert!(indexes.len() > 3);
    for (n, (path, bytes)) in indexes.iter().enumerate() {
        match n % 3 {
            0 => disk.remove(path).expect("it is there"),
            1 => disk.corrupt(path, bytes / 2, &[0xff; 9]),
            _ => disk.insert(path, disk.content(&indexes[0].0).unwrap_or_default()),
        }
    }
    let store = open(&disk);
    let topic = store.topics().by_name(&name_of("t")).expect("it was made");
    for partition in topic.partitions().iter() {
        assert_eq!(values(&**partition), expected(partition.number(), 100));
        for offset in 0..100 {
            let read = partition.read(offset, 1).expect("it can be read");
            assert_eq!(read.batches[0].base_offset(), offset);
        }
    }
}

#[test]
fn a_full_disk_refuses_with_a_clear_error_serves_reads_and_recovers_by_itself() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    let topic = create(&store, "t", 1, TopicSettings::default());
    for hide_free_bytes in [false, true] {
        let before = values(&*topic.partitions()[0]);
        let bytes_max = Some(disk.used_bytes() + (160 << 10));
        disk.set_faults(Faults {
            bytes_max,
            hide_free_bytes,
            ..Faults::default()
        });
        let large = "x".repeat(900);
        let mut accepted = 0;
        let refusal = loop {
            match append(&store, topic.id(), 0, &[&large]) {
                Ok(_) => accepted += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refusal, CommitError::DiskFull);
        assert_eq!(store.health(), Health::DiskFull);
        assert_eq!(
            values(&*topic.partitions()[0]).len(),
            before.len() + accepted
        );
        disk.set_faults(Faults::default());
        eventually("the store works again", || {
            append(&store, topic.id(), 0, &["again"]).is_ok()
        });
        eventually("the store is well", || store.health() == Health::Ok);
        let count = values(&*topic.partitions()[0]).len();
        drop(open(&{
            let fork = disk.fork();
            fork.crash(CrashKind::Machine);
            fork
        }));
        assert_eq!(values(&*topic.partitions()[0]).len(), count);
    }
}

#[test]
fn a_disk_that_others_fill_is_noticed_before_a_commit_is_refused() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    disk.set_faults(Faults {
        bytes_max: Some(disk.used_bytes()),
        ..Faults::default()
    });
    eventually("it says that the disk is full", || {
        store.health() == Health::DiskFull
    });
    disk.set_faults(Faults::default());
    eventually("the store is well", || store.health() == Health::Ok);
}

#[test]
fn a_full_disk_frees_itself_by_retention() {
    let disk = FaultyDisk::new(1);
    let config = Config {
        reserve_bytes: 64 << 10,
        ..small()
    };
    let store = open_with(config, Arc::new(disk.clone())).expect("the folder is new");
    let settings = TopicSettings {
        retention_bytes: Some(100 << 10),
        ..TopicSettings::default()
    };
    // Before the first write, which takes a look at how much room there is.
    disk.set_faults(Faults {
        bytes_max: Some(disk.used_bytes() + (800 << 10)),
        ..Faults::default()
    });
    let topic = create(&store, "t", 1, settings);
    let large = "x".repeat(3000);
    for n in 0..300 {
        eventually("there is room", || {
            append(&store, topic.id(), 0, &[&large]).is_ok()
        });
        assert_eq!(topic.partitions()[0].end(), n + 1);
    }
    assert!(topic.partitions()[0].start() > 100);
}

#[test]
fn retention_by_age_goes_by_the_time_of_append_also_over_a_restart() {
    let disk = FaultyDisk::new(1);
    let clock = Arc::new(ManualClock::new(NOW_MS));
    let config = || Config {
        retention_interval: Duration::from_millis(1),
        checkpoint_interval: Duration::from_millis(1),
        ..small()
    };
    let store = Store::open(config(), Arc::new(disk.clone()), clock.clone());
    let store = store.expect("the folder is new");
    let settings = TopicSettings {
        retention_ms: Some(60_000),
        timestamp_ahead_ms: None,
        ..TopicSettings::default()
    };
    let topic = create(&store, "t", 1, settings);
    let kept = create(&store, "kept", 1, TopicSettings::default());
    let claim = |timestamp| Commit {
        appends: vec![Append {
            topic: topic.id(),
            partition: 0,
            batch: batch(&["one whose clock is wrong"], timestamp, None),
        }],
        ..Commit::default()
    };
    for n in 0..50 {
        // Neither does one from the future pin the others nor do those of 1970 go at once.
        let timestamp = if n % 10 == 0 { 9_000_000_000_000 } else { 0 };
        wait(store.commit(claim(timestamp))).expect("there is room");
        append(&store, kept.id(), 0, &["an old one, of 1970"]).expect("there is room");
    }
    clock.advance(59_000);
    let partition = topic.partitions()[0].clone();
    for _ in 0..50 {
        append(&store, topic.id(), 0, &["an old one, of 1970"]).expect("there is room");
        append(&store, kept.id(), 0, &["an old one, of 1970"]).expect("there is room");
    }
    assert_eq!(partition.start(), 0, "nothing is older than a minute");
    clock.advance(60_001);
    eventually("all old records are gone", || partition.start() == 100);
    assert!(matches!(
        partition.read(7, 1),
        Err(ReadError::BelowStart { start: 100 })
    ));
    assert!(matches!(
        partition.read_tail(7, 1),
        TailRead::BelowStart { start: 100 }
    ));
    let young = batch(&["young"], NOW_MS - 59_000, None);
    let append_young = Append {
        topic: topic.id(),
        partition: 0,
        batch: young,
    };
    wait(store.commit(Commit {
        appends: vec![append_young],
        ..Commit::default()
    }))
    .expect("there is room");
    let files = || {
        disk.files()
            .into_iter()
            .filter(|(path, _)| path.starts_with(&format!("topics/{}/", topic.id())))
    };
    eventually("the old files are gone", || {
        files().filter(|(path, _)| path.ends_with(".log")).count() == 1
    });
    drop(store);
    disk.crash(CrashKind::Machine);
    let store = open_with(config(), Arc::new(disk.clone())).expect("the folder is whole");
    let partition = store
        .topics()
        .by_name(&name_of("t"))
        .expect("it was made")
        .partitions()[0]
        .clone();
    assert_eq!(
        (partition.start(), values(&*partition)),
        (100, vec!["young".to_owned()])
    );
    let kept = store
        .topics()
        .by_name(&name_of("kept"))
        .expect("it was made")
        .partitions()[0]
        .clone();
    assert_eq!(
        (kept.start(), kept.end(), values(&*kept).len()),
        (0, 100, 100)
    );
}

#[test]
fn a_claim_from_the_future_is_refused_with_the_bound_that_it_breaks() {
    let store = open(&FaultyDisk::new(1));
    let topic = create(&store, "t", 1, TopicSettings::default());
    let claim = |timestamp| {
        let append = Append {
            topic: topic.id(),
            partition: 0,
            batch: batch(&["a"], timestamp, None),
        };
        wait(store.commit(Commit {
            appends: vec![append],
            ..Commit::default()
        }))
    };
    let hour = 3_600_000;
    claim(NOW_MS + hour).expect("an hour is allowed");
    let error = claim(NOW_MS + hour + 1).expect_err("more is not");
    assert!(matches!(error, CommitError::Timestamp { .. }), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("topic `t`") && said.contains("`timestamp_ahead_ms`"),
        "{said}"
    );
    assert!(said.contains("more than 3600000 ms ahead"), "{said}");
    assert_eq!(topic.partitions()[0].end(), 1);
}

/// A store with one record, whose next sync fails.
fn before_a_failing_sync(disk: &FaultyDisk) -> (Store, Arc<Topic>) {
    let store = open(disk);
    let topic = create(&store, "t", 1, TopicSettings::default());
    append(&store, topic.id(), 0, &["good"]).expect("the disk works");
    disk.set_faults(Faults {
        fail_sync: Some(disk.syncs() + 1),
        ..Faults::default()
    });
    (store, topic)
}

#[test]
fn a_failed_sync_fails_the_store_and_never_acknowledges() {
    let (store, topic) = before_a_failing_sync(&FaultyDisk::new(1));
    assert!(matches!(
        append(&store, topic.id(), 0, &["bad"]),
        Err(CommitError::StorageFailed(_))
    ));
    assert!(matches!(
        append(&store, topic.id(), 0, &["later"]),
        Err(CommitError::StorageFailed(_))
    ));
    assert!(matches!(store.health(), Health::Failed(_)));
    assert_eq!(values(&*topic.partitions()[0]), ["good"]);
}

#[test]
fn what_is_there_after_a_failed_sync_and_a_restart_is_there_after_a_power_cut() {
    let found = |disk: &FaultyDisk| {
        let topic = open(disk)
            .topics()
            .by_name(&name_of("t"))
            .expect("it was made");
        values(&*topic.partitions()[0])
    };
    for seed in 0..20 {
        let disk = FaultyDisk::new(seed);
        let (store, topic) = before_a_failing_sync(&disk);
        append(&store, topic.id(), 0, &["perhaps"]).expect_err("it is not synced");
        disk.crash(CrashKind::Process);
        drop(store);
        let seen = found(&disk);
        disk.crash(CrashKind::Machine);
        assert_eq!(seen, found(&disk), "seed {seed}");
    }
}

#[test]
fn a_repeat_gets_its_first_offset_also_after_a_restart_and_an_older_epoch_is_refused() {
    let disk = FaultyDisk::new(1);
    let mut store = open(&disk);
    let id = create(&store, "t", 1, TopicSettings::default()).id();
    let producer = wait(store.open_producer(Some("sensor"))).expect("there is room");
    let send = |store: &Store, epoch: u16, sequence: u32| {
        let stamp = ProducerStamp {
            id: producer.id,
            epoch,
            sequence,
        };
        let append = Append {
            topic: id,
            partition: 0,
            batch: batch(&["a", "b"], 0, Some(stamp)),
        };
        wait(store.commit(Commit {
            appends: vec![append],
            ..Commit::default()
        }))
        .map(|committed| committed.appends[0])
    };
    for restart in 0..4 {
        for n in 0..10u32 {
            let answer = send(&store, producer.epoch, n * 2).expect("it is known or next");
            assert_eq!(answer.duplicate, restart > 0);
            assert!(answer.offset == Some(u64::from(n) * 2) || (answer.offset.is_none() && n < 2));
        }
        if restart == 1 {
            wait(store.close());
        }
        drop(store);
        disk.crash(if restart == 2 {
            CrashKind::Machine
        } else {
            CrashKind::Process
        });
        store = open(&disk);
    }
    assert_eq!(
        store
            .topics()
            .by_name(&name_of("t"))
            .expect("it was made")
            .partitions()[0]
            .end(),
        20
    );
    let next = wait(store.open_producer(Some("sensor"))).expect("there is room");
    assert_eq!((next.id, next.epoch), (producer.id, producer.epoch + 1));
    assert!(matches!(
        send(&store, producer.epoch, 20),
        Err(CommitError::Fenced { .. })
    ));
    assert!(matches!(
        send(&store, next.epoch, 2),
        Err(CommitError::OutOfOrder { expected: 0, .. })
    ));
    assert_eq!(
        send(&store, next.epoch, 0)
            .expect("numbers begin anew")
            .offset,
        Some(20)
    );
    let other = wait(store.open_producer(None)).expect("there is room");
    assert!(other.id > producer.id);
}

#[test]
fn memory_records_survive_a_kill_and_a_lost_machine_changes_the_epoch() {
    let disk = FaultyDisk::new(3);
    let store = open(&disk);
    let id = create(&store, "t", 1, kept(Durability::Memory)).id();
    let syncs = disk.syncs();
    for n in 0..20 {
        append(&store, id, 0, &[&n.to_string()]).expect("there is room");
    }
    assert_eq!(disk.syncs(), syncs, "a memory topic waits for no sync");
    drop(store);
    disk.crash(CrashKind::Process);
    let store = open(&disk);
    let partition = store
        .topics()
        .by_name(&name_of("t"))
        .expect("it was made")
        .partitions()[0]
        .clone();
    assert_eq!((partition.end(), partition.epoch()), (20, 1));
    append(&store, id, 0, &["20"]).expect("there is room");
    drop(store);
    disk.crash(CrashKind::Machine);
    let store = open(&disk);
    let partition = store
        .topics()
        .by_name(&name_of("t"))
        .expect("it was made")
        .partitions()[0]
        .clone();
    assert_eq!(partition.epoch(), 2);
    let found = values(&*partition);
    assert_eq!(
        found,
        (0..found.len()).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    drop(store);
    disk.crash(CrashKind::Process);
    assert_eq!(
        open(&disk)
            .topics()
            .by_name(&name_of("t"))
            .expect("it was made")
            .partitions()[0]
            .epoch(),
        2
    );
}

#[test]
fn a_commit_is_refused_as_a_whole_when_a_value_or_an_append_is_not_as_expected() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    let id = create(&store, "t", 1, TopicSettings::default()).id();
    let key = Bytes::from_static(b"position");
    let commit = |expect: Option<&'static str>, next: &str, partition: u32| Commit {
        appends: vec![
            Append {
                topic: id,
                partition: 0,
                batch: batch(&[next], 0, None),
            },
            Append {
                topic: id,
                partition,
                batch: batch(&[next], 0, None),
            },
        ],
        changes: vec![put(Table::Progress, "position", next)],
        expect: vec![Expect {
            table: Table::Progress,
            key: key.clone(),
            value: expect.map_or(ExpectedValue::Absent, |value| {
                ExpectedValue::Exactly(Bytes::from(value))
            }),
        }],
        ..Commit::default()
    };
    // Submitted at once: each rests on the one before, which may not be durable yet.
    let tickets = [
        store.submit(commit(None, "1", 0)),
        store.submit(commit(Some("1"), "2", 0)),
    ];
    let stale = store.submit(commit(Some("1"), "3", 0));
    let nowhere = store.submit(commit(Some("2"), "3", 9));
    for ticket in tickets {
        wait(ticket).expect("it rests on what is so");
    }
    assert_eq!(
        wait(stale).expect_err("2 is there"),
        CommitError::Conflict {
            table: Table::Progress,
            key: Bytes::from("position"),
            found: Some(Bytes::from("2")),
        }
    );
    assert!(matches!(
        wait(nowhere),
        Err(CommitError::UnknownPartition {
            partition: 9,
            partitions: 1,
            ..
        })
    ));
    assert_eq!(
        values(
            &*store
                .topics()
                .by_name(&name_of("t"))
                .expect("it was made")
                .partitions()[0]
        ),
        ["1", "1", "2", "2"]
    );
    assert_eq!(
        wait(store.get(Table::Progress, b"position")),
        Ok(Some(Bytes::from("2")))
    );
}

#[test]
fn tables_are_read_in_order_over_memory_and_disk() {
    let disk = FaultyDisk::new(1);
    let mut store = open(&disk);
    let mut model = std::collections::BTreeMap::new();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..300 {
        let key = format!("{}/{}", random.u8(..3), random.u8(..20));
        let change = if random.u8(..4) == 0 {
            model.remove(&key);
            eddy::log::Change::Delete {
                table: Table::Deployments,
                key: Bytes::from(key),
            }
        } else {
            model.insert(key.clone(), round.to_string());
            put(Table::Deployments, &key, &round.to_string())
        };
        wait(store.commit(Commit {
            changes: vec![change],
            ..Commit::default()
        }))
        .expect("there is room");
        if round % 40 == 39 {
            if round % 80 == 39 {
                wait(store.close());
            }
            drop(store);
            disk.crash(CrashKind::Machine);
            store = open(&disk);
        }
        let prefix = format!("{}/", random.u8(..3));
        let found: Vec<_> =
            wait(store.scan(Table::Deployments, prefix.as_bytes())).expect("the tables are whole");
        let found: Vec<_> = found
            .into_iter()
            .map(|(key, value)| {
                (
                    String::from_utf8_lossy(&key).into_owned(),
                    String::from_utf8_lossy(&value).into_owned(),
                )
            })
            .collect();
        let wanted: Vec<_> = model
            .iter()
            .filter(|(key, _)| key.starts_with(&prefix))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(found, wanted);
        assert_eq!(
            wait(store.scan(Table::Cursors, b"")).expect("the tables are whole"),
            []
        );
    }
}

#[test]
fn a_deleted_topic_frees_its_files_and_its_id_is_not_given_again() {
    let disk = FaultyDisk::new(1);
    let (store, id) = filled(&disk, 20);
    let topic = store.topics().by_name(&name_of("t")).expect("it was made");
    let delete = || Commit {
        catalog: vec![CatalogChange::Delete { topic: id }],
        ..Commit::default()
    };
    wait(store.commit(delete())).expect("it is there");
    assert_eq!(
        wait(store.commit(delete())).expect_err("it is gone"),
        CommitError::UnknownTopic(id)
    );
    assert!(topic.deleted() && topic.partitions()[0].stopped().is_some());
    eventually("its files are gone", || {
        !disk
            .files()
            .iter()
            .any(|(path, _)| path.starts_with("topics/"))
    });
    let again = create(&store, "t", 1, TopicSettings::default());
    assert!(again.id() > id);
    append(&store, again.id(), 0, &["x"]).expect("it is another topic");
    wait(store.close());
    drop(store);
    let store = open(&disk);
    assert_eq!(
        values(
            &*store
                .topics()
                .by_name(&name_of("t"))
                .expect("it was made")
                .partitions()[0]
        ),
        ["x"]
    );
}

#[test]
fn a_topic_grows_and_keeps_what_it_has() {
    let disk = FaultyDisk::new(1);
    let (store, id) = filled(&disk, 5);
    let alter = |partitions| CatalogChange::Alter {
        topic: id,
        partitions: Some(partitions),
        settings: kept(Durability::Memory),
    };
    let fewer = wait(store.commit(Commit {
        catalog: vec![alter(2)],
        ..Commit::default()
    }));
    assert!(matches!(
        fewer,
        Err(CommitError::InvalidPartitions {
            partitions: 3,
            asked: 2,
            ..
        })
    ));
    wait(store.commit(Commit {
        catalog: vec![alter(1024)],
        ..Commit::default()
    }))
    .expect("it may grow");
    append(&store, id, 1023, &["last"]).expect("it is there");
    drop(store);
    let store = open(&disk);
    let topic = store.topics().by_name(&name_of("t")).expect("it was made");
    assert_eq!(
        (topic.partitions().len(), topic.settings().durability),
        (1024, Durability::Memory)
    );
    assert_eq!(values(&*topic.partitions()[1]), expected(1, 5));
    assert_eq!(values(&*topic.partitions()[1023]), ["last"]);
}

#[derive(Default)]
struct Count(AtomicU64);

impl Watcher for Count {
    fn changed(&self, _topic: TopicId, _partition: u32) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn watchers_hear_of_every_publication_until_their_guard_is_dropped() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    let topic = create(&store, "t", 2, TopicSettings::default());
    let count = Arc::new(Count::default());
    let watcher: Arc<dyn Watcher> = count.clone();
    let guard = topic.partitions()[0].watch(&watcher);
    append(&store, topic.id(), 0, &["x"]).expect("there is room");
    append(&store, topic.id(), 1, &["x"]).expect("there is room");
    let heard = || count.0.load(Ordering::SeqCst);
    eventually("the watcher was told", || heard() > 0);
    drop(guard);
    append(&store, topic.id(), 0, &["x"]).expect("there is room");
    assert_eq!(heard(), 1);
}

/// Holds up whoever tells it.
struct HoldsUp(Mutex<mpsc::Receiver<()>>);

impl Watcher for HoldsUp {
    fn changed(&self, _topic: TopicId, _partition: u32) {
        let _released = self.0.lock().expect("no panic").recv();
    }
}

#[test]
fn a_commit_is_answered_before_watchers_are_told() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    let (release, held) = mpsc::channel();
    let watcher: Arc<dyn Watcher> = Arc::new(HoldsUp(Mutex::new(held)));
    for durability in [Durability::Disk, Durability::Memory] {
        let name = format!("{durability:?}");
        let topic = create(&store, &name, 1, kept(durability));
        let _guard = topic.partitions()[0].watch(&watcher);
        // Something to expect, so that the store's own thread writes it.
        let expect = Expect {
            table: Table::Cursors,
            key: Bytes::from("none"),
            value: ExpectedValue::Absent,
        };
        let mut ticket = store.submit(Commit {
            appends: vec![Append {
                topic: topic.id(),
                partition: 0,
                batch: batch(&["x"], NOW_MS, None),
            }],
            expect: vec![expect],
            ..Commit::default()
        });
        let mut answer = None;
        eventually(
            "an answer, although the watcher holds its caller up",
            || {
                answer = ticket.try_take();
                answer.is_some()
            },
        );
        answer.expect("an answer").expect("there is room");
        release.send(()).expect("the watcher waits");
    }
}

#[test]
fn a_folder_of_a_newer_eddy_or_without_its_format_is_not_touched() {
    let disk = FaultyDisk::new(1);
    let (store, _) = filled(&disk, 2);
    drop(store);
    let text = String::from_utf8(disk.content("FORMAT").expect("it is there")).expect("it is text");
    disk.insert("FORMAT", text.replace("format 2", "format 3").into_bytes());
    assert!(matches!(
        try_open(&disk).expect_err("it is newer"),
        OpenError::Format { found: 3, .. }
    ));
    disk.remove("FORMAT").expect("it is there");
    assert!(matches!(
        try_open(&disk).expect_err("it is gone"),
        OpenError::Damaged { .. }
    ));
    disk.insert("FORMAT", text.into_bytes());
    open(&disk);
}

#[test]
fn inspect_shows_segments_journal_and_damage_without_a_lock() {
    let disk = FaultyDisk::new(1);
    let (store, id) = filled(&disk, 40);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let folder = inspect(&shared).expect("the folder is whole");
    assert_eq!(folder.topics.len(), 1);
    let partition = &folder.topics[0].partitions[2];
    assert_eq!(
        partition
            .segments
            .iter()
            .map(|segment| segment.records)
            .sum::<u64>(),
        40
    );
    assert_eq!(
        partition.segments.last().map(|segment| segment.end),
        Some(40)
    );
    let groups: Vec<_> = folder
        .journal
        .iter()
        .flat_map(|file| &file.groups)
        .collect();
    assert!(
        groups
            .windows(2)
            .all(|pair| pair[0].sequence + 1 == pair[1].sequence && pair[0].is_whole)
    );
    assert_eq!(
        groups
            .iter()
            .map(|group| group.appends.len())
            .sum::<usize>(),
        120
    );
    drop(store);
    disk.corrupt(&format!("topics/{id}/0/{:020}.log", 0), 300, &[9; 20]);
    let (journal, bytes) = journal_file(&disk);
    let whole = disk.content(&journal).expect("it is there");
    // Its batches stand between the two copies of its directory.
    let group = folder.journal.last().and_then(|file| file.groups.last());
    let batch_at = group.map(|group| group.at + group.bytes / 2);
    for (place, at) in [
        ("the file's header", 30),
        ("a batch", batch_at.expect("there is a group")),
    ] {
        disk.corrupt(&journal, at, &[9; 3]);
        let folder = inspect(&shared).expect("damage is shown");
        let shown = folder.journal.iter().flat_map(|file| &file.damage);
        assert_eq!(shown.count(), 1, "three bytes of {place}");
        disk.insert(&journal, whole.clone());
    }
    disk.corrupt(&journal, bytes / 2, &[9; 2000]);
    let before = disk.files();
    let folder = inspect(&shared).expect("damage is shown");
    assert!(
        folder.topics[0].partitions[0].segments[0]
            .damage
            .as_ref()
            .is_some_and(|damage| damage.at <= 300)
    );
    assert!(folder.journal.iter().any(|file| !file.damage.is_empty()));
    assert_eq!(disk.files(), before);
    assert!(
        serde_json::to_string(&folder)
            .expect("it is plain data")
            .contains("\"first_sequence\"")
    );
}

#[test]
fn tables_that_are_missing_are_named_and_a_stray_file_in_the_journal_is_passed_over() {
    let disk = FaultyDisk::new(1);
    let (store, _) = filled(&disk, 40);
    wait(store.close());
    drop(store);
    for name in ["0.journal", "+0000000000000000001.journal", "notes.txt"] {
        disk.insert(&format!("journal/{name}"), b"not ours".to_vec());
    }
    wait(open(&disk).close());
    Disk::remove(&disk, "tables.redb").expect("it is there");
    let error = try_open(&disk)
        .expect_err("it has no checkpoint")
        .to_string();
    assert!(error.contains("tables.redb"), "{error}");
    let folder = inspect(&(Arc::new(disk) as Arc<dyn Disk>)).expect("it can be read");
    assert!(folder.journal[0].path.contains("tables.redb"));
}
