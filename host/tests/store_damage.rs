//! Bad bytes anywhere in the data folder: the store serves the right records or
//! says what is wrong. It never serves wrong ones and never panics.

mod store_kit;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use bytes::Bytes;
use eddy::io::FaultyDisk;
use eddy::store::{Append, Commit, Table};
use eddy_protocol::frame::TopicSettings;
use store_kit::*;

const PARTITIONS: u32 = 3;

/// What was acknowledged.
#[derive(Default)]
struct Written {
    records: BTreeMap<u32, Vec<String>>,
    positions: Vec<String>,
}

/// A folder with closed segments, a checkpoint, a journal behind it and tables.
fn folder(disk: &FaultyDisk) -> Written {
    let mut written = Written::default();
    let mut bytes = 0;
    for round in 0..3 {
        let store = open(disk);
        let topic = store
            .topic(&name_of("t"))
            .unwrap_or_else(|| create(&store, "t", PARTITIONS, TopicSettings::default()));
        for n in 0..60u32 {
            let partition = n % PARTITIONS;
            let values = [format!("{round}/{n}/a"), format!("{round}/{n}/b")];
            let append = Append {
                topic: topic.id(),
                partition,
                batch: batch(&[&values[0], &values[1]], i64::from(n), None),
            };
            bytes += append.batch.len() as u64;
            let position = format!("{round}/{n}");
            let changes = vec![put(Table::Progress, "position", &position)];
            wait(store.commit(Commit {
                appends: vec![append],
                changes,
                ..Commit::default()
            }))
            .expect("there is room");
            written.records.entry(partition).or_default().extend(values);
            written.positions.push(position);
        }
        if round < 2 {
            wait(store.close());
        }
        let applied = || {
            topic
                .partitions()
                .iter()
                .map(|partition| partition.bytes())
                .sum::<u64>()
        };
        eventually("the segments have everything", || {
            applied() >= bytes + 64 * u64::from(PARTITIONS)
        });
    }
    written
}

/// Opens what is there, reads all of it, and writes on.
fn check(disk: &FaultyDisk, written: &Written) -> &'static str {
    let Ok(store) = try_open(disk) else {
        return "not opened";
    };
    let Some(topic) = store.topic(&name_of("t")) else {
        panic!("the topic is gone and nobody says so")
    };
    let mut outcome = "whole";
    for partition in topic.partitions().iter() {
        let expected = &written.records[&partition.number()];
        match read_all(partition) {
            Err(_) => outcome = "stopped",
            Ok(found) => {
                let found: Vec<String> = found.into_values().collect();
                if found != *expected {
                    assert!(expected.starts_with(&found), "wrong records: {found:?}");
                    assert!(
                        partition.epoch() > 1,
                        "a tail is gone and the epoch does not tell"
                    );
                    outcome = "cut";
                }
                let appended = append(&store, topic.id(), partition.number(), &["x"]);
                let offset = appended
                    .expect("a partition that serves takes records")
                    .appends[0]
                    .offset;
                assert_eq!(offset, Some(found.len() as u64));
            }
        }
    }
    if let Ok(position) = store.get(Table::Progress, b"position") {
        let position = position.map(|value| String::from_utf8_lossy(&value).into_owned());
        let is_known = position
            .as_ref()
            .is_none_or(|position| written.positions.contains(position));
        assert!(is_known, "a value that was never written: {position:?}");
        assert!(
            position == written.positions.last().cloned() || outcome != "whole",
            "an old value: {position:?}"
        );
    }
    outcome
}

#[test]
fn bad_bytes_anywhere_give_an_error_or_the_right_records() {
    let disk = FaultyDisk::new(1);
    let written = folder(&disk);
    assert_eq!(check(&disk.fork(), &written), "whole");
    let files: Vec<(String, u64)> = disk
        .files()
        .into_iter()
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    let seed: Option<u64> = std::env::var("EDDY_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let mut outcomes: BTreeMap<&str, u32> = BTreeMap::new();
    let begin = Instant::now();
    for history in seed.map_or(0..100_000, |seed| seed..seed + 1) {
        let mut random = fastrand::Rng::with_seed(history);
        let fork = disk.fork();
        for _ in 0..random.u8(1..4) {
            let (path, bytes) = &files[random.usize(..files.len())];
            let at = random.u64(..*bytes);
            let length = [1, 4, 40, 700][random.usize(..4)];
            let junk: Vec<u8> = match random.u8(..3) {
                0 => vec![0; length],
                1 => (0..length).map(|_| random.u8(..)).collect(),
                _ => fork.content(path).unwrap_or_default()[at as usize..]
                    .iter()
                    .map(|byte| byte ^ 1)
                    .take(length)
                    .collect(),
            };
            fork.corrupt(path, at, &junk);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&fork, &written)));
        let outcome = outcome.unwrap_or_else(|panic| {
            eprintln!("EDDY_SEED={history} failed");
            std::panic::resume_unwind(panic)
        });
        *outcomes.entry(outcome).or_default() += 1;
        if begin.elapsed() > Duration::from_secs(10) {
            break;
        }
    }
    println!("{outcomes:?}");
    assert!(
        seed.is_some() || outcomes.len() > 2,
        "the damage is too one-sided to prove anything: {outcomes:?}"
    );
}

#[test]
fn files_that_are_cut_short_or_gone_give_an_error_or_the_right_records() {
    let disk = FaultyDisk::new(1);
    let written = folder(&disk);
    for (path, bytes) in disk.files() {
        for length in [
            None,
            Some(0),
            Some(10),
            Some(bytes / 2),
            Some(bytes.saturating_sub(1)),
        ] {
            let fork = disk.fork();
            match length {
                None => eddy::io::Disk::remove(&fork, &path).expect("it is there"),
                Some(length) => {
                    let content = fork.content(&path).expect("it is there");
                    fork.insert(&path, content[..length as usize].to_vec());
                }
            }
            check_cut(&fork, &written, &format!("{path} {length:?}"));
        }
    }
}

/// As [`check`], but a missing oldest segment cannot be told from retention.
fn check_cut(disk: &FaultyDisk, written: &Written, what: &str) {
    let Ok(store) = try_open(disk) else { return };
    let topic = store
        .topic(&name_of("t"))
        .unwrap_or_else(|| panic!("{what}: the topic is gone"));
    for partition in topic.partitions().iter() {
        let Ok(found) = read_all(partition) else {
            continue;
        };
        if partition.stopped().is_some() {
            continue;
        }
        let expected = &written.records[&partition.number()];
        for (offset, value) in &found {
            assert_eq!(
                expected.get(*offset as usize),
                Some(value),
                "{what}: offset {offset}"
            );
        }
        let is_complete = partition.end() == expected.len() as u64;
        assert!(
            is_complete || partition.epoch() > 1 || what.starts_with("journal/"),
            "{what}: a tail is gone"
        );
    }
    let position: Option<Bytes> = store.get(Table::Progress, b"position").unwrap_or_default();
    let known = position.is_none_or(|value| {
        written
            .positions
            .iter()
            .any(|known| known.as_bytes() == value)
    });
    assert!(known, "{what}: a value that was never written");
}
