//! Segments in service: what reads cost, what faults of single files do, and how
//! a stopped partition goes on.

mod store_kit;

use std::collections::BTreeMap;
use std::sync::Arc;

use eddy::io::{Call, CrashKind, Disk, Faults, FaultyDisk};
use eddy::log::{
    Append, CatalogChange, Commit, CommitError, Committed, Health, Log as _, Partition, ReadError,
    Topic,
};
use eddy::store::Store;
use eddy_protocol::frame::TopicSettings;
use eddy_protocol::{Batch, BatchBuilder, Compression};
use store_kit::*;

const NOT_FOUND: i32 = 2;
const IO: i32 = 5;
const NO_ACCESS: i32 = 13;
const TOO_MANY_OPEN: i32 = 24;

/// The topic of these tests.
fn topic(store: &Store) -> Arc<Topic> {
    store.topics().by_name(&name_of("t")).expect("it was made")
}

/// Values that tell where they belong.
fn numbered(partition: u32, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{partition}/{n}")).collect()
}

/// Appends the values of `numbered` from the partition's end up to `count`.
fn append_up_to(store: &Store, partition: u32, count: usize) {
    let topic = topic(store);
    let end = topic.partitions()[partition as usize].end();
    for value in &numbered(partition, count)[usize::try_from(end).expect("it is small")..] {
        append(store, topic.id(), partition, &[value]).expect("it is acknowledged");
    }
}

/// A closed store with three partitions of so many records.
fn closed(count: usize) -> FaultyDisk {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    create(&store, "t", 3, TopicSettings::default());
    (0..3).for_each(|partition| append_up_to(&store, partition, count));
    wait(store.close());
    disk
}

/// A partition's segments: path and length, the oldest first.
fn segments(disk: &FaultyDisk, partition: u32) -> Vec<(String, u64)> {
    let folder = format!("topics/1/{partition}/");
    let is_segment = |path: &str| path.starts_with(&folder) && path.ends_with(".log");
    disk.files()
        .into_iter()
        .filter(|(path, _)| is_segment(path))
        .collect()
}

fn newest_segment(disk: &FaultyDisk, partition: u32) -> (String, u64) {
    segments(disk, partition).pop().expect("there is one")
}

/// The record at an offset.
fn value_at(partition: &dyn Partition, offset: u64) -> Result<String, ReadError> {
    let read = partition.read(offset, 1)?;
    let records = read.batches[0].records().expect("it is whole");
    let record = records
        .iter()
        .find(|record| record.offset == offset)
        .expect("it is there");
    Ok(String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned())
}

#[test]
fn damage_at_the_newest_segments_end_takes_no_record_that_is_acknowledged_behind_it() {
    let disk = closed(30);
    let (path, bytes) = newest_segment(&disk, 1);
    let last = batch(&["1/29"], 0, None).len() as u64;
    disk.corrupt(&path, bytes - last, &[0xff; 8]);
    for closes in [true, false] {
        let disk = disk.fork();
        let store = open(&disk);
        append_up_to(&store, 1, 31);
        let partition = topic(&store).partitions()[1].clone();
        eventually("the damage is found", || partition.stopped().is_some());
        if closes {
            wait(store.close());
        }
        drop(store);
        disk.crash(CrashKind::Machine);
        let store = open(&disk);
        let partition = topic(&store).partitions()[1].clone();
        assert_eq!(partition.end(), 31);
        if !closes {
            // Recovery met the damage as well.
            assert!(partition.stopped().is_some());
            continue;
        }
        assert_eq!(value_at(&*partition, 30).as_deref(), Ok("1/30"));
        assert_eq!(value_at(&*partition, 28).as_deref(), Ok("1/28"));
        assert!(matches!(
            value_at(&*partition, 29),
            Err(ReadError::Stopped(_))
        ));
    }
}

#[test]
fn what_the_system_cannot_do_for_a_segment_now_is_done_later() {
    for (call, code) in [
        (Call::Read, IO),
        (Call::Write, IO),
        (Call::Open, IO),
        (Call::Open, TOO_MANY_OPEN),
    ] {
        let disk = closed(30);
        disk.break_files(call, "topics/1/1/", code);
        let store = open(&disk);
        (0..3).for_each(|partition| append_up_to(&store, partition, 35));
        assert_eq!(store.health(), Health::Ok);
        disk.set_faults(Faults::default());
        let partition = topic(&store).partitions()[1].clone();
        assert_eq!(partition.stopped(), None, "{call:?} {code}");
        wait(store.close());
        drop(store);
        let store = open(&disk);
        for partition in topic(&store).partitions().iter() {
            assert_eq!(values(&**partition), numbered(partition.number(), 35));
        }
    }
}

#[test]
fn a_segment_that_cannot_be_had_stops_its_partition_alone_and_the_journal_keeps_its_records() {
    for code in [NOT_FOUND, NO_ACCESS] {
        for recovers in [false, true] {
            let disk = closed(30);
            if recovers {
                // The records are in the journal when the fault begins.
                let store = open(&disk);
                append_up_to(&store, 1, 31);
                drop(store);
                disk.crash(CrashKind::Machine);
            }
            disk.break_files(Call::Open, "topics/1/1/", code);
            let store = open(&disk);
            if !recovers {
                append_up_to(&store, 1, 31);
            }
            let partition = topic(&store).partitions()[1].clone();
            eventually("it is stopped", || partition.stopped().is_some());
            append_up_to(&store, 0, 35);
            append_up_to(&store, 2, 35);
            assert_eq!(store.health(), Health::Ok);
            wait(store.close());
            drop(store);
            disk.set_faults(Faults::default());
            let store = open(&disk);
            let partitions = topic(&store).partitions();
            assert_eq!(values(&*partitions[0]), numbered(0, 35));
            assert_eq!(
                values(&*partitions[1]),
                numbered(1, 31),
                "{code} {recovers}"
            );
            append_up_to(&store, 1, 32);
        }
    }
}

/// A batch of one record that compresses to next to nothing.
fn squeezed(bytes: usize) -> Batch {
    let mut builder = BatchBuilder::new();
    builder
        .push(0, None, Some(&vec![0; bytes]), &[])
        .expect("the record is small");
    builder
        .finish(Compression::Zstd, None)
        .expect("the batch is small")
}

#[test]
fn a_read_is_limited_by_what_its_batches_become_expanded() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    let topic = create(&store, "t", 1, TopicSettings::default());
    for _ in 0..200 {
        let append = Append {
            topic: topic.id(),
            partition: 0,
            batch: squeezed(100_000),
        };
        wait(store.commit(Commit {
            appends: vec![append],
            ..Commit::default()
        }))
        .expect("there is room");
    }
    let partition = topic.partitions()[0].clone();
    let mut offset = 0;
    while offset < partition.end() {
        let read = partition.read(offset, 250_000).expect("it is whole");
        let expanded: usize = read.batches.iter().map(Batch::raw_len).sum();
        assert!(
            !read.batches.is_empty() && expanded <= 350_100,
            "{expanded} bytes in {} batches at {offset}",
            read.batches.len()
        );
        offset += read.batches.len() as u64;
    }
}

#[test]
fn an_index_that_is_wrong_with_right_checksums_is_made_anew() {
    let disk = closed(30);
    let (path, _) = newest_segment(&disk, 1);
    let path = path.replace(".log", ".index");
    let mut index = disk.content(&path).expect("it was saved");
    assert!(index.len() >= 64, "there is more than the first entry");
    let last = index.len() - 32;
    index[last + 8] += 1;
    let crc = crc32c::crc32c(&index[last..last + 24]);
    index[last + 24..last + 28].copy_from_slice(&crc.to_le_bytes());
    disk.insert(&path, index);
    for appends in [false, true] {
        let disk = disk.fork();
        let store = open(&disk);
        let partition = topic(&store).partitions()[1].clone();
        if appends {
            append_up_to(&store, 1, 31);
        }
        assert_eq!(partition.offset_at_time(0), Ok(0));
        assert_eq!(value_at(&*partition, 29).as_deref(), Ok("1/29"));
        wait(store.close());
        drop(store);
        let store = open(&disk);
        let partition = topic(&store).partitions()[1].clone();
        assert_eq!(values(&*partition), numbered(1, 30 + usize::from(appends)));
        assert_eq!(partition.stopped(), None);
    }
}

#[test]
fn a_segment_of_another_partition_is_not_served() {
    let disk = closed(30);
    let (ours, theirs) = (newest_segment(&disk, 1).0, newest_segment(&disk, 2).0);
    let (our_bytes, their_bytes) = (disk.content(&ours), disk.content(&theirs));
    disk.insert(&ours, their_bytes.expect("it is there"));
    disk.insert(&theirs, our_bytes.expect("it is there"));
    let store = open(&disk);
    let partitions = topic(&store).partitions();
    let error = value_at(&*partitions[1], 0)
        .expect_err("it is partition 2's")
        .to_string();
    assert!(error.contains("another segment"), "{error}");
    assert_eq!(values(&*partitions[0]), numbered(0, 30));
}

fn repair(store: &Store, partition: u32) -> Result<Committed, CommitError> {
    let topic = topic(store).id();
    wait(store.commit(Commit {
        catalog: vec![CatalogChange::Repair { topic, partition }],
        ..Commit::default()
    }))
}

/// Every record that a reader gets who is told of what is lost.
fn survivors(partition: &dyn Partition) -> Result<BTreeMap<u64, String>, ReadError> {
    let mut found = BTreeMap::new();
    let mut next = partition.next_from(0);
    while next < partition.end() {
        let read = partition.read(next, 700)?;
        for batch in &read.batches {
            assert!(batch.base_offset() <= next && next < batch.end_offset());
            next = batch.end_offset();
            for record in batch.records().expect("it is whole").iter() {
                let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                found.insert(record.offset, value);
            }
        }
        next = partition.next_from(next);
    }
    Ok(found)
}

/// Reads and repairs until everything that is left can be read.
fn repair_all(store: &Store, partition: u32) -> BTreeMap<u64, String> {
    let serving = topic(store).partitions()[partition as usize].clone();
    for _ in 0..20 {
        match survivors(&*serving) {
            Ok(found) => return found,
            Err(error) => {
                assert!(matches!(error, ReadError::Stopped(_)), "{error}");
                repair(store, partition).expect("it is stopped");
            }
        }
    }
    panic!("twenty repairs are not enough")
}

/// Lets damage of partition 1 be repaired and checks that what is left stays,
/// in its place, whatever comes then. Returns how many records are lost.
fn check_repair(disk: &FaultyDisk, count: usize, what: &str) -> usize {
    let store = open(disk);
    let left = repair_all(&store, 1);
    for (offset, value) in &left {
        assert_eq!(*value, format!("1/{offset}"), "{what}");
    }
    let partition = topic(&store).partitions()[1].clone();
    assert_eq!(
        partition.end(),
        count as u64,
        "{what}: no offset is given twice"
    );
    append_up_to(&store, 1, count + 1);
    drop(store);
    for kind in [CrashKind::Process, CrashKind::Machine] {
        disk.crash(kind);
        let store = open(disk);
        let partition = topic(&store).partitions()[1].clone();
        let later = survivors(&*partition).unwrap_or_else(|error| panic!("{what}: {error}"));
        let mut expected = left.clone();
        expected.insert(count as u64, format!("1/{count}"));
        assert_eq!(later, expected, "{what} {kind:?}");
        if kind == CrashKind::Process {
            wait(store.close());
        }
    }
    let store = open(disk);
    append_up_to(&store, 1, count + 30);
    let partition = topic(&store).partitions()[1].clone();
    let expected = left.len() + 30;
    assert_eq!(
        survivors(&*partition).map(|found| found.len()),
        Ok(expected)
    );
    wait(store.close());
    count - left.len()
}

#[test]
fn a_repair_gives_up_what_is_damaged_and_serves_the_rest_for_good() {
    let disk = closed(150);
    let first = segments(&disk, 1)[0].0.clone();
    let content = disk.content(&first).expect("it is there");
    let within = |value: &[u8]| {
        let at = content.windows(value.len()).position(|w| w == value);
        at.expect("the record is in it") as u64
    };
    let body = disk.fork();
    body.corrupt(&first, within(b"1/17"), b"x");
    assert_eq!(check_repair(&body, 150, "a body"), 1);
    let length = batch(&["1/17"], 0, None).len() as u64;
    let head = disk.fork();
    head.corrupt(&first, within(b"1/17") + 4 - length, &[0xff; 30]);
    let lost = check_repair(&head, 150, "a header");
    assert!((1..20).contains(&lost), "{lost}");
    let file = disk.fork();
    file.corrupt(&first, 20, b"x");
    assert_eq!(check_repair(&file, 150, "the file's header"), 0);
    let (newest, bytes) = newest_segment(&disk, 1);
    let end = disk.fork();
    end.corrupt(&newest, bytes - length, &[0xff; 8]);
    assert_eq!(check_repair(&end, 150, "the end"), 1);
}

#[test]
fn a_repair_of_a_segment_that_was_cut_keeps_what_is_left_of_it() {
    let disk = closed(150);
    let all = segments(&disk, 1);
    assert!(all.len() > 2);
    for (path, bytes) in &all {
        let content = disk.content(path).expect("it is there");
        for cut in [1, 30] {
            let fork = disk.fork();
            fork.insert(path, content[..(bytes - cut) as usize].to_vec());
            let what = format!("{path} less {cut}");
            assert_eq!(check_repair(&fork, 150, &what), 1, "{what}");
        }
    }
}

#[test]
fn a_repair_goes_on_without_a_segment_that_is_gone() {
    let disk = closed(150);
    let all = segments(&disk, 1);
    assert!(all.len() > 2);
    for (path, bytes) in &all[1..] {
        for length in [None, Some(0), Some(30), Some(64), Some(bytes / 2)] {
            let fork = disk.fork();
            match length {
                None => fork.remove(path).expect("it is there"),
                Some(length) => {
                    let content = fork.content(path).expect("it is there");
                    fork.insert(path, content[..length as usize].to_vec());
                }
            }
            let lost = check_repair(&fork, 150, &format!("{path} {length:?}"));
            assert!((1..80).contains(&lost), "{lost}");
        }
    }
}

#[test]
fn a_repair_of_any_damage_leaves_right_records_in_their_places() {
    let disk = closed(150);
    let all = segments(&disk, 1);
    let indexes = disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.starts_with("topics/1/1/") && path.ends_with(".index"));
    let files: Vec<(String, u64)> = all.iter().cloned().chain(indexes).collect();
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let fork = disk.fork();
        for _ in 0..random.u8(1..4) {
            let (path, bytes) = &files[random.usize(..files.len())];
            let length = [1, 40, 700][random.usize(..3)];
            let junk: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            fork.corrupt(path, random.u64(..*bytes), &junk);
        }
        check_repair(&fork, 150, &format!("seed {seed}"));
    }
}

#[test]
fn a_repair_that_is_acknowledged_outlives_a_crash_before_the_next_checkpoint() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    create(&store, "t", 3, TopicSettings::default());
    (0..3).for_each(|partition| append_up_to(&store, partition, 30));
    drop(store);
    let journal = disk
        .files()
        .into_iter()
        .filter(|(path, _)| path.starts_with("journal/"))
        .max_by_key(|(_, bytes)| *bytes)
        .expect("there is one")
        .0;
    let content = disk.content(&journal).expect("it is there");
    let at = content
        .windows(4)
        .position(|window| window == b"1/15")
        .expect("the record is in it");
    disk.corrupt(&journal, at as u64 - 600, &[0x5a; 700]);
    for (path, _) in segments(&disk, 1) {
        disk.remove(&path).expect("it is there");
    }
    let store = open(&disk);
    let partition = topic(&store).partitions()[1].clone();
    assert!(partition.stopped().is_some());
    repair(&store, 1).expect("it is stopped");
    let left = values(&*partition);
    drop(store);
    disk.crash(CrashKind::Process);
    let store = open(&disk);
    let partition = topic(&store).partitions()[1].clone();
    assert_eq!(partition.stopped(), None);
    assert_eq!((partition.epoch(), values(&*partition)), (2, left));
    assert!(matches!(
        repair(&store, 1),
        Err(CommitError::NothingToRepair { .. })
    ));
}
