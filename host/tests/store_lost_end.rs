//! A journal whose newest file was cut after a kill, as if nobody had written
//! what is missing: at every boundary of a group, in and before the file's
//! header, and within groups.

mod store_kit;

use std::sync::Arc;

use eddy::io::{CrashKind, Disk, FaultyDisk};
use eddy::log::{Log as _, Partition};
use eddy::store::Store;
use eddy::store::inspect::{Folder, inspect};
use eddy_protocol::frame::{Durability, TopicSettings};
use store_kit::*;

const ROUNDS: u32 = 12;
const NAMES: [&str; 2] = ["d", "m"];

/// A folder after a kill: each partition of two topics, which a checkpoint knows,
/// has `ROUNDS` records in a segment and in the journal.
fn killed() -> FaultyDisk {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    create(&store, "d", 2, TopicSettings::default());
    create(&store, "m", 1, kept(Durability::Memory));
    wait(store.close());
    drop(store);
    let store = open(&disk);
    append_up_to(&store, ROUNDS);
    let values = (0..ROUNDS).map(|n| batch(&[&value("d", 0, n)], 0, None).len() as u64);
    let bytes = values.sum::<u64>() + 64;
    for partition in partitions(&store) {
        eventually("it is in a segment", || partition.bytes() >= bytes);
    }
    disk.fork()
}

fn value(name: &str, partition: u32, n: u32) -> String {
    format!("{name}/{partition}/{n:03}")
}

fn partitions(store: &Store) -> Vec<Arc<dyn Partition>> {
    let topics = NAMES.map(|name| store.topics().by_name(&name_of(name)).expect("it was made"));
    let partitions = topics.iter().flat_map(|topic| topic.partitions().to_vec());
    partitions.collect()
}

fn append_up_to(store: &Store, count: u32) {
    let from = partitions(store)[0].end();
    for n in u32::try_from(from).expect("it is small")..count {
        for partition in partitions(store) {
            let value = value(partition.topic_name().as_ref(), partition.number(), n);
            append(store, partition.topic(), partition.number(), &[&value]).expect("it serves");
        }
    }
}

fn look(disk: &FaultyDisk) -> Folder {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    inspect(&disk).expect("the folder can be read")
}

fn damages(folder: &Folder) -> Vec<String> {
    let files = folder.journal.iter().flat_map(|file| &file.damage);
    files.map(|damage| damage.reason.clone()).collect()
}

/// Checks that everything is there, in another epoch, and stays so.
fn check(disk: &FaultyDisk, what: &str) {
    assert_ne!(
        damages(&look(disk)),
        [""; 0],
        "{what}: inspect says nothing"
    );
    let mut count = ROUNDS;
    for kind in [CrashKind::Process, CrashKind::Machine, CrashKind::Process] {
        let store = open(disk);
        assert_eq!(store.notices().is_empty(), count > ROUNDS, "{what}");
        for partition in partitions(&store) {
            let (name, number) = (partition.topic_name().to_string(), partition.number());
            let expected: Vec<String> = (0..count).map(|n| value(&name, number, n)).collect();
            assert_eq!(partition.stopped(), None, "{what}");
            assert_eq!(values(&*partition), expected, "{what} {kind:?}");
            let is_memory = name == "m";
            let epochs = partition.epoch() - first_epoch(&*partition);
            let once = if is_memory { 1..=2 } else { 1..=1 };
            assert!(once.contains(&epochs), "{what} {kind:?}: {epochs} epochs");
        }
        count += 1;
        append_up_to(&store, count);
        if kind == CrashKind::Process {
            drop(store);
        } else {
            wait(store.close());
        }
        disk.crash(kind);
    }
}

/// The epoch in which the topic's partitions began.
fn first_epoch(partition: &dyn Partition) -> u32 {
    (partition.topic().0 as u32 - 1) * 4096 + 1
}

#[test]
fn a_journal_cut_to_nothing_anywhere_loses_nothing_that_segments_have_and_is_told_of() {
    let killed = killed();
    let whole = look(&killed.fork());
    assert_eq!(damages(&whole), [""; 0]);
    let newest = whole.journal.last().expect("there is one");
    let content = killed.content(&newest.path).expect("it is there");
    let mut cuts = vec![0, 1, 63, 64];
    for group in &newest.groups {
        cuts.extend([group.at, group.at + 1, group.at + group.bytes / 2]);
    }
    assert!(newest.groups.len() > 20);
    for cut in cuts {
        let disk = killed.fork();
        disk.insert(&newest.path, content[..cut as usize].to_vec());
        check(&disk, &format!("{cut} bytes of {}", content.len()));
    }
}

#[test]
fn a_kill_that_cuts_nothing_off_changes_no_epoch() {
    let disk = killed();
    for kind in [CrashKind::Process, CrashKind::Process] {
        let store = open(&disk);
        assert!(store.notices().is_empty());
        for partition in partitions(&store) {
            assert_eq!(partition.epoch(), first_epoch(&*partition));
        }
        drop(store);
        disk.crash(kind);
    }
}

#[test]
fn inspect_says_which_journal_file_is_missing() {
    let disk = FaultyDisk::new(1);
    let store = open(&disk);
    create(&store, "d", 1, TopicSettings::default());
    let topic = store.topics().by_name(&name_of("d")).expect("it was made");
    let value = "x".repeat(1 << 10);
    for _ in 0..100 {
        append(&store, topic.id(), 0, &[&value]).expect("it serves");
    }
    let killed = disk.fork();
    let whole = look(&killed);
    assert_eq!(damages(&whole), [""; 0]);
    assert!(whole.journal.len() > 3, "{}", whole.journal.len());
    let (newest, others) = whole.journal.split_last().expect("there are some");
    for missing in others {
        let disk = killed.fork();
        Disk::remove(&disk, &missing.path).expect("it is there");
        let said = damages(&look(&disk)).join("; ");
        let first = missing.first_sequence;
        assert!(
            said.contains(&format!("group {first}"))
                || said.contains(&format!("groups {first} to")),
            "{first}: {said}"
        );
    }
    let disk = killed.fork();
    for file in whole.journal.iter() {
        Disk::remove(&disk, &file.path).expect("it is there");
    }
    let said = damages(&look(&disk)).join("; ");
    assert!(said.contains("it is missing"), "{said}");
    assert!(!newest.groups.is_empty());
}
