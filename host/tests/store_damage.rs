//! Bad bytes anywhere in the data folder: the store serves the right records or
//! says what is wrong. It never serves wrong ones and never panics.

mod store_kit;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eddy::io::{Disk, FaultyDisk};
use eddy::log::{Append, Commit, Log as _, State as _, Table};
use eddy::store::inspect::inspect;
use eddy_protocol::frame::{Durability, TopicSettings};
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
            .topics()
            .by_name(&name_of("t"))
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
    let Some(topic) = store.topics().by_name(&name_of("t")) else {
        panic!("the topic is gone and nobody says so")
    };
    // Whatever else is lost with the journal's end, all partitions tell of it.
    let is_told = |partition: &Arc<dyn eddy::log::Partition>| partition.epoch() > 1;
    let mut outcome = match topic.partitions().iter().all(is_told) {
        true => "told",
        false => "whole",
    };
    for partition in topic.partitions().iter() {
        let expected = &written.records[&partition.number()];
        match read_all(&**partition) {
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
    if let Ok(position) = wait(store.get(Table::Progress, b"position")) {
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
fn a_damaged_end_of_the_journal_is_told_of_whatever_is_left_of_its_headers() {
    let disk = FaultyDisk::new(1);
    let written = folder(&disk);
    let shared: Arc<dyn Disk> = Arc::new(disk.fork());
    let journal = inspect(&shared).expect("it can be read").journal;
    let file = journal.last().expect("there is a journal");
    let newest = file.groups.last().expect("there are groups");
    let content = disk.content(&file.path).expect("it is there");
    for from in (0..100).chain([newest.bytes - 80, newest.bytes - 1]) {
        for (mask, has_header) in [(1, true), (0x80, true), (0xff, true), (1, false)] {
            let at = newest.at + from;
            let junk: Vec<u8> = content[at as usize..].iter().map(|b| b ^ mask).collect();
            let fork = disk.fork();
            fork.corrupt(&file.path, at, &junk);
            if !has_header {
                fork.corrupt(&file.path, 20, &[0xee]);
            }
            let outcome = check(&fork, &written);
            assert!(
                from >= 100 || outcome != "whole",
                "byte {from} with {mask}: both copies are damaged and nobody says so"
            );
        }
    }
}

/// A topic of a killed store: id, epoch, and what each partition acknowledged.
type Killed = BTreeMap<&'static str, (u64, u32, Vec<Vec<String>>)>;

/// What a kill leaves: a checkpoint, behind it a journal with a topic that no
/// checkpoint knows and whose records were never synced, tables not closed.
fn killed() -> (FaultyDisk, Killed) {
    let disk = FaultyDisk::new(1);
    let mut killed = Killed::new();
    let mut store = open(&disk);
    create(&store, "t", PARTITIONS, TopicSettings::default());
    for name in ["t", "m"] {
        if name == "m" {
            wait(store.close());
            drop(store);
            store = open(&disk);
            create(&store, "m", PARTITIONS, kept(Durability::Memory));
        }
        for n in 0..90u32 {
            for name in ["t", name] {
                let topic = store.topics().by_name(&name_of(name)).expect("it was made");
                let partition = &topic.partitions()[(n % PARTITIONS) as usize];
                let value = format!("{name}/{n}/{}", partition.end());
                append(&store, topic.id(), partition.number(), &[&value]).expect("there is room");
            }
        }
    }
    for name in ["t", "m"] {
        let topic = store.topics().by_name(&name_of(name)).expect("it was made");
        let partitions = topic.partitions();
        let records = partitions.iter().map(|partition| values(&**partition));
        killed.insert(
            name,
            (topic.id().0, partitions[0].epoch(), records.collect()),
        );
        for partition in partitions.iter() {
            let batches = values(&**partition).into_iter();
            let bytes: usize = batches.map(|value| batch(&[&value], 0, None).len()).sum();
            eventually("the segments have everything", || {
                partition.bytes() >= bytes as u64 + 64
            });
        }
    }
    (disk.fork(), killed)
}

/// Opens what is left of a killed store: what it serves, and what it says of the rest.
fn check_killed(disk: &FaultyDisk, killed: &Killed) -> Option<Vec<String>> {
    let store = try_open(disk).ok()?;
    let mut outcomes = Vec::new();
    for (name, (id, epoch, records)) in killed {
        let topic = store.topics().by_name(&name_of(name));
        let is_lost = topic.is_none();
        let topic = topic.or_else(|| store.topics().by_name(&name_of(&format!("lost-{id}"))));
        let topic = topic.unwrap_or_else(|| panic!("topic {name} is gone and nobody says so"));
        for partition in topic.partitions().iter() {
            let expected = &records[partition.number() as usize];
            let number = partition.number();
            match read_all(&**partition) {
                Err(_) => outcomes.push(format!("{name}/{number} stopped")),
                Ok(found) => {
                    let found: Vec<String> = found.into_values().collect();
                    assert!(expected.starts_with(&found), "wrong records: {found:?}");
                    assert!(
                        is_lost || partition.epoch() > *epoch || found.len() == expected.len(),
                        "a tail of {name}/{number} is gone and the epoch does not tell"
                    );
                    outcomes.push(format!(
                        "{name}/{number} {} {}",
                        found.len(),
                        partition.epoch()
                    ));
                }
            }
        }
    }
    wait(store.close());
    Some(outcomes)
}

#[test]
fn bad_bytes_in_what_a_kill_left_are_told_of_and_a_restart_changes_nothing() {
    let (disk, killed) = killed();
    let whole = check_killed(&disk.fork(), &killed).expect("it is whole");
    let files: Vec<(String, u64)> = disk
        .files()
        .into_iter()
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    let seed: Option<u64> = std::env::var("EDDY_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let mut counts = [0; 3];
    let begin = Instant::now();
    for history in seed.map_or(0..100_000, |seed| seed..seed + 1) {
        let mut random = fastrand::Rng::with_seed(history);
        let fork = disk.fork();
        for _ in 0..random.u8(1..3) {
            let (path, bytes) = &files[random.usize(..files.len())];
            let length = [1, 40, 700][random.usize(..3)];
            let junk: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            fork.corrupt(path, random.u64(..*bytes), &junk);
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let Some(first) = check_killed(&fork, &killed) else {
                return 0;
            };
            let second = check_killed(&fork, &killed).expect("it was opened before");
            assert_eq!(first, second, "another restart makes another store");
            if first == whole { 1 } else { 2 }
        }));
        let outcome = outcome.unwrap_or_else(|panic| {
            eprintln!("EDDY_SEED={history} failed");
            std::panic::resume_unwind(panic)
        });
        counts[outcome] += 1;
        if begin.elapsed() > Duration::from_secs(10) {
            break;
        }
    }
    println!("not opened, whole, told of: {counts:?}");
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
                None => Disk::remove(&fork, &path).expect("it is there"),
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
        .topics()
        .by_name(&name_of("t"))
        .unwrap_or_else(|| panic!("{what}: the topic is gone"));
    for partition in topic.partitions().iter() {
        let Ok(found) = read_all(&**partition) else {
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
    let position: Option<Bytes> = wait(store.get(Table::Progress, b"position")).unwrap_or_default();
    let known = position.is_none_or(|value| {
        written
            .positions
            .iter()
            .any(|known| known.as_bytes() == value)
    });
    assert!(known, "{what}: a value that was never written");
}
