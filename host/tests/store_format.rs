//! Data folders that earlier releases wrote are read by this one. The folder of
//! the current format is written anew with `EDDY_WRITE_FIXTURES=1`; older ones
//! are never touched.

mod store_kit;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use eddy::broker::Blobs;
use eddy::io::{CrashKind, Disk, Faults, FaultyDisk, RealDisk};
use eddy::log::{
    Append, CatalogChange, Change, Commit, Log as _, Partition, Producer, ReadError, State as _,
    Table, TopicId,
};
use eddy::store::Store;
use eddy_protocol::ProducerStamp;
use eddy_protocol::frame::{Durability, TopicSettings};
use store_kit::*;

/// Every format there was; the last one is the current.
const FORMATS: &[&str] = &["store-format-1", "store-format-2"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn disk(folder: &Path) -> Arc<dyn Disk> {
    Arc::new(RealDisk::new(folder).expect("the folder can be used"))
}

fn open_folder(folder: &Path) -> Store {
    open_with(small(), disk(folder)).expect("the folder is whole")
}

/// The broker keeps its plugins there.
fn blobs(folder: &Path) -> Blobs {
    Blobs::new(disk(folder))
}

fn settings() -> TopicSettings {
    TopicSettings {
        durability: Durability::Disk,
        retention_ms: Some(u64::MAX / 4),
        retention_bytes: Some(1 << 30),
        ..TopicSettings::default()
    }
}

/// One round of writing; the second one stays in the journal.
fn fill(store: &Store, round: u32) {
    let topic = store
        .topics()
        .by_name(&name_of("quakes"))
        .unwrap_or_else(|| create(store, "quakes", 2, settings()));
    let producer = wait(store.open_producer(Some("fixture"))).expect("there is room");
    for n in 0..40u32 {
        let values = [format!("{round}/{n}/a"), format!("{round}/{n}/b")];
        let stamp = ProducerStamp {
            id: producer.id,
            epoch: producer.epoch,
            sequence: n * 2,
        };
        let batch = batch(
            &[&values[0], &values[1]],
            i64::from(1000 * round + n),
            Some(stamp),
        );
        let commit = Commit {
            appends: vec![Append {
                topic: topic.id(),
                partition: 1,
                batch,
            }],
            changes: vec![put(Table::Progress, "position", &format!("{round}/{n}"))],
            ..Commit::default()
        };
        wait(store.commit(commit)).expect("there is room");
    }
}

/// Damages the middle of a partition's oldest segment, so that reading stops the
/// partition, and repairs it.
fn damage_and_repair(folder: &Path, store: &Store, topic: TopicId, partition: u32) {
    let path = folder.join(format!("topics/{topic}/{partition}/{:020}.log", 0));
    let mut bytes = fs::read(&path).expect("the segment is there");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0x55);
    fs::write(&path, bytes).expect("it can be written");
    let damaged = store
        .topics()
        .by_id(topic)
        .and_then(|topic| topic.partition(partition))
        .expect("it was made");
    let found = read_all(&*damaged);
    assert!(matches!(found, Err(ReadError::Stopped(_))), "{found:?}");
    change(store, CatalogChange::Repair { topic, partition });
}

fn change(store: &Store, change: CatalogChange) {
    let commit = Commit {
        catalog: vec![change],
        ..Commit::default()
    };
    wait(store.commit(commit)).expect("there is room");
}

fn delete(table: Table, key: &str) -> Change {
    Change::Delete {
        table,
        key: Bytes::copy_from_slice(key.as_bytes()),
    }
}

/// Appends as a producer does, a record at a time, beginning with `sequence`.
fn send(store: &Store, to: (TopicId, u32), producer: Producer, sequences: std::ops::Range<u32>) {
    let (topic, partition) = to;
    for sequence in sequences {
        let stamp = ProducerStamp {
            id: producer.id,
            epoch: producer.epoch,
            sequence,
        };
        let value = format!("{partition}/{sequence:03}/{}", "x".repeat(100));
        let append = Append {
            topic,
            partition,
            batch: batch(&[&value], i64::from(sequence), Some(stamp)),
        };
        let commit = Commit {
            appends: vec![append],
            changes: vec![put(Table::Progress, "d", &sequence.to_string())],
            ..Commit::default()
        };
        wait(store.commit(commit)).expect("there is room");
    }
}

/// How many records a partition of `many` gets before and behind the checkpoint.
const BEFORE: u32 = 120;
const AFTER: u32 = 60;

/// A folder with something of every kind that the store keeps, of which half is
/// behind the last checkpoint, and whose newest group was torn.
fn write_all_kinds(folder: &Path) {
    drop(fs::remove_dir_all(folder));
    let store = open_folder(folder);
    let many = create(&store, "many", 3, settings()).id();
    let live = create(&store, "live", 1, kept(Durability::Memory)).id();
    let gone = create(&store, "gone", 1, TopicSettings::default()).id();
    let named = wait(store.open_producer(Some("named"))).expect("there is room");
    let other = wait(store.open_producer(None)).expect("there is room");
    for partition in 0..3 {
        send(&store, (many, partition), named, 0..BEFORE);
    }
    send(&store, (many, 1), other, 0..10);
    send(&store, (live, 0), other, 0..10);
    send(&store, (gone, 0), other, 0..10);
    let rows = vec![
        put(Table::Cursors, "group", "cursor"),
        put(Table::Cursors, "left", "cursor"),
        put(Table::Deployments, "d", r#"{"spec":{}}"#),
        put(Table::Plugins, "p", r#"{"digest":""}"#),
    ];
    let commit = Commit {
        changes: rows,
        ..Commit::default()
    };
    wait(store.commit(commit)).expect("there is room");
    eventually("its segments are written", || {
        many_segments(folder, many, 2) > 4
    });
    damage_and_repair(folder, &store, many, 2);
    wait(store.close());
    drop(store);

    let store = open_folder(folder);
    let named = wait(store.open_producer(Some("named"))).expect("there is room");
    for partition in 0..3 {
        send(&store, (many, partition), named, 0..AFTER);
    }
    send(&store, (live, 0), other, 10..20);
    change(&store, CatalogChange::Delete { topic: gone });
    change(
        &store,
        CatalogChange::Alter {
            topic: live,
            partitions: Some(2),
            settings: kept(Durability::Memory),
        },
    );
    create(&store, "late", 1, settings());
    damage_and_repair(folder, &store, many, 0);
    let commit = Commit {
        changes: vec![
            put(Table::Cursors, "group", "moved"),
            delete(Table::Cursors, "left"),
        ],
        ..Commit::default()
    };
    wait(store.commit(commit)).expect("there is room");
    let commit = Commit {
        changes: vec![put(Table::Cursors, "torn", "torn")],
        ..Commit::default()
    };
    wait(store.commit(commit)).expect("there is room");
    drop(store);
    tear_journal(folder);
    drop(fs::remove_file(folder.join("LOCK")));
    drop(fs::remove_file(folder.join("RESERVE")));
}

fn many_segments(folder: &Path, topic: TopicId, partition: u32) -> usize {
    let files = fs::read_dir(folder.join(format!("topics/{topic}/{partition}")));
    let names = files.into_iter().flatten().flatten();
    names
        .filter(|entry| entry.path().extension().is_some_and(|it| it == "log"))
        .count()
}

/// Cuts the newest group short, as a write does that a kill interrupts.
fn tear_journal(folder: &Path) {
    let files = fs::read_dir(folder.join("journal")).expect("it is there");
    let paths = files.flatten().map(|entry| entry.path());
    let newest = paths.filter(|path| path.extension().is_some_and(|it| it == "journal"));
    let newest = newest.max().expect("there is one");
    let bytes = fs::read(&newest).expect("it can be read");
    fs::write(newest, &bytes[..bytes.len() - 20]).expect("it can be written");
}

/// Every record that is left, with its offset.
fn left(partition: &dyn Partition) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    let mut next = partition.next_from(0);
    while next < partition.end() {
        for batch in partition.read(next, 1000).expect("it is repaired").batches {
            next = batch.end_offset();
            for record in batch.records().expect("it is whole").iter() {
                let value = String::from_utf8_lossy(record.value.unwrap_or_default());
                found.push((record.offset, value[..5].to_owned()));
            }
        }
        next = partition.next_from(next);
    }
    found
}

fn verify_all_kinds(folder: &Path) {
    let mut uuids = Vec::new();
    for round in 0..3 {
        let store = open_folder(folder);
        let found: Vec<String> = store
            .topics()
            .all()
            .iter()
            .map(|it| it.uuid().to_string())
            .collect();
        assert!(found[0] != found[1] && found[1] != found[2]);
        if round > 0 {
            assert_eq!(found, uuids, "a topic keeps its UUID");
        }
        uuids = found;
        let names: Vec<String> = store
            .topics()
            .all()
            .iter()
            .map(|topic| topic.name().to_string())
            .collect();
        assert_eq!(names, ["late", "live", "many"]);
        let many = store
            .topics()
            .by_name(&name_of("many"))
            .expect("it was made");
        assert_eq!(many.settings().retention_bytes, settings().retention_bytes);
        for (number, partition) in (0u32..).zip(many.partitions().iter()) {
            let others = if number == 1 { 10 } else { 0 };
            assert_eq!(partition.end(), u64::from(BEFORE + others + AFTER));
            assert_eq!((partition.start(), partition.stopped()), (0, None));
            let all: Vec<String> = (0..BEFORE)
                .chain(0..others)
                .chain(0..AFTER)
                .map(|n| format!("{number}/{n:03}"))
                .collect();
            let found = left(&**partition);
            let lost = all.len() - found.len();
            // What the journal still had when the damage was repaired is not lost.
            assert!(
                number != 1 || lost == 0,
                "partition {number} was not damaged"
            );
            assert!(lost < 10, "partition {number} lost {lost} records");
            for (offset, value) in found {
                assert_eq!(value, all[usize::try_from(offset).expect("it is small")]);
            }
            let newest = partition.offset_at_time(i64::from(BEFORE));
            assert_eq!(newest, Ok(partition.end()), "no record is so new");
        }
        let live = store
            .topics()
            .by_name(&name_of("live"))
            .expect("it was made");
        assert_eq!(live.partitions().len(), 2);
        assert_eq!(live.partitions()[0].end(), 20);
        verify_rows(&store);
        verify_producers(&store, many.id(), live.id());
        if round == 0 {
            continue;
        }
        wait(store.close());
    }
}

fn verify_rows(store: &Store) {
    let row = |table, key: &str| {
        let found = wait(store.get(table, key.as_bytes())).expect("it is whole");
        found.map(|value| String::from_utf8_lossy(&value).into_owned())
    };
    assert_eq!(row(Table::Cursors, "group").as_deref(), Some("moved"));
    assert_eq!(row(Table::Cursors, "left"), None);
    assert_eq!(row(Table::Cursors, "torn"), None);
    let deployment = row(Table::Deployments, "d");
    assert_eq!(deployment.as_deref(), Some(r#"{"spec":{}}"#));
    assert!(row(Table::Plugins, "p").is_some());
    assert_eq!(row(Table::Progress, "d").as_deref(), Some("19"));
}

fn verify_producers(store: &Store, many: TopicId, live: TopicId) {
    // Named: the second identity under the name; the other one was never given up.
    for (to, id, epoch, sequence, offset) in [
        ((many, 0), 1, 1, AFTER - 1, BEFORE + AFTER - 1),
        ((many, 1), 2, 0, 9, BEFORE + 9),
        ((live, 0), 2, 0, 19, 19),
    ] {
        let stamp = ProducerStamp {
            id,
            epoch,
            sequence,
        };
        let append = Append {
            topic: to.0,
            partition: to.1,
            batch: batch(&["again"], 0, Some(stamp)),
        };
        let commit = Commit {
            appends: vec![append],
            ..Commit::default()
        };
        let repeat = wait(store.commit(commit)).expect("it is known").appends[0];
        assert!(repeat.duplicate && repeat.offset == Some(u64::from(offset)));
    }
}

fn write_fixture(folder: &Path) {
    drop(fs::remove_dir_all(folder));
    let store = open_folder(folder);
    fill(&store, 0);
    blobs(folder)
        .write("plugin", b"not really one")
        .expect("there is room");
    wait(store.close());
    drop(store);
    let store = open_folder(folder);
    fill(&store, 1);
    drop(store);
    drop(fs::remove_file(folder.join("LOCK")));
    drop(fs::remove_file(folder.join("RESERVE")));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder can be made");
    for entry in fs::read_dir(from).expect("the folder is there") {
        let entry = entry.expect("it can be listed");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("it can be copied");
        }
    }
}

fn verify(folder: &Path) {
    for _ in 0..2 {
        let store = open_folder(folder);
        let topic = store
            .topics()
            .by_name(&name_of("quakes"))
            .expect("it was made");
        assert_eq!(
            (topic.partitions().len(), topic.settings()),
            (2, settings())
        );
        let expected: Vec<String> = (0..2)
            .flat_map(|round| {
                (0..40).flat_map(move |n| ["a", "b"].map(|which| format!("{round}/{n}/{which}")))
            })
            .collect();
        assert_eq!(values(&*topic.partitions()[1]), expected);
        assert_eq!(topic.partitions()[0].end(), 0);
        assert_eq!(topic.partitions()[1].epoch(), 1);
        assert_eq!(topic.partitions()[1].offset_at_time(1005), Ok(90));
        assert_eq!(
            wait(store.get(Table::Progress, b"position")),
            Ok(Some(Bytes::from("1/39")))
        );
        assert_eq!(
            blobs(folder).read("plugin").expect("it is whole"),
            Some(Bytes::from("not really one"))
        );
        let stamp = ProducerStamp {
            id: 1,
            epoch: 1,
            sequence: 78,
        };
        let append = Append {
            topic: topic.id(),
            partition: 1,
            batch: batch(&["1/39/a", "1/39/b"], 1039, Some(stamp)),
        };
        let repeat = wait(store.commit(Commit {
            appends: vec![append],
            ..Commit::default()
        }))
        .expect("it is known");
        assert!(repeat.appends[0].duplicate && repeat.appends[0].offset == Some(158));
        wait(store.close());
    }
}

#[test]
fn a_folder_of_every_format_is_read_whole() {
    let current = fixtures().join(FORMATS[FORMATS.len() - 1]);
    if std::env::var_os("EDDY_WRITE_FIXTURES").is_some() {
        write_fixture(&current);
    }
    for format in FORMATS {
        let folder = tempfile::tempdir().expect("a folder");
        copy(&fixtures().join(format), folder.path());
        verify(folder.path());
    }
}

#[test]
fn everything_that_a_store_of_any_format_kept_is_there() {
    let all = ["store-format-1-all", "store-format-2-all"];
    if std::env::var_os("EDDY_WRITE_FIXTURES").is_some() {
        write_all_kinds(&fixtures().join(all[all.len() - 1]));
    }
    for format in all {
        let folder = tempfile::tempdir().expect("a folder");
        copy(&fixtures().join(format), folder.path());
        verify_all_kinds(folder.path());
    }
}

/// Puts a folder's files on a disk in memory.
fn load(disk: &FaultyDisk, folder: &Path, below: &str) {
    for entry in fs::read_dir(folder).expect("the folder is there").flatten() {
        let path = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            disk.create_dir(&path).expect("the disk works");
            load(disk, &entry.path(), &format!("{path}/"));
        } else {
            disk.insert(&path, fs::read(entry.path()).expect("it can be read"));
        }
    }
}

#[test]
fn a_crash_while_an_old_folder_is_renewed_loses_nothing() {
    let folder = fixtures().join("store-format-1");
    for stop in (1..).step_by(2) {
        let disk = FaultyDisk::new(stop);
        load(&disk, &folder, "");
        disk.set_faults(Faults {
            stop_at_operation: Some(disk.operations() + stop),
            ..Faults::default()
        });
        let opened = try_open(&disk);
        let is_over = opened.is_ok();
        drop(opened);
        disk.crash(CrashKind::Machine);
        disk.set_faults(Faults::default());
        let store = try_open(&disk).unwrap_or_else(|error| panic!("stopped at {stop}: {error}"));
        let topic = store
            .topics()
            .by_name(&name_of("quakes"))
            .expect("it was made");
        assert_eq!(
            values(&*topic.partitions()[1]).len(),
            160,
            "stopped at {stop}"
        );
        assert_eq!(
            wait(store.get(Table::Progress, b"position")),
            Ok(Some(Bytes::from("1/39")))
        );
        if is_over {
            return;
        }
    }
}
