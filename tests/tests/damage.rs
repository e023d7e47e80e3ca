//! Bad bytes in the data folder: the broker serves exactly the right records of
//! a partition, or says what is damaged. Never wrong data, never a panic.

use std::collections::HashSet;
use std::env;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use eddy_client::{Client, NewRecord, ProducerConfig};
use eddy_protocol::ErrorCode;
use eddy_tests::log::{Entry, read_partition, topic};
use eddy_tests::wait::LIMIT;
use eddy_tests::{Broker, wait_until};
use tempfile::TempDir;

/// Repeats a run of [`bad_bytes_over_random_places`] exactly.
const SEED_VARIABLE: &str = "EDDY_DAMAGE_SEED";

/// Small files, so that there are several of each kind.
const SMALL: [&str; 6] = [
    "--set",
    "store.segment_bytes=1MiB",
    "--set",
    "store.journal_file_bytes=1MiB",
    "--set",
    "store.checkpoint_bytes=1MiB",
];
const PARTITIONS: u32 = 3;
const RECORDS: u64 = 2_000;
/// A journal file without a group is not longer.
const JOURNAL_HEADER_BYTES: u64 = 64;
/// Damaged copies of each kind of folder.
const COPIES: usize = 12;

/// What each record says: where it is, so that a wrong place is seen, and some
/// hundred bytes that nothing compresses.
fn value(partition: u32, offset: u64) -> String {
    let mut random = fastrand::Rng::with_seed(u64::from(partition) << 32 | offset);
    let filler: String = (0..600).map(|_| random.alphanumeric()).collect();
    let word = if random.bool() { "keep" } else { "drop" };
    format!("{partition}/{offset} {word} {filler}")
}

/// What a whole partition of the input holds.
fn whole(partition: u32) -> &'static [String] {
    static WHOLE: OnceLock<Vec<Vec<String>>> = OnceLock::new();
    let values = |partition| {
        (0..RECORDS)
            .map(|offset| value(partition, offset))
            .collect()
    };
    &WHOLE.get_or_init(|| (0..PARTITIONS).map(values).collect())[partition as usize]
}

/// What a whole partition of the output holds.
fn kept(partition: u32) -> Vec<String> {
    let kept = whole(partition)
        .iter()
        .filter(|value| value.contains(" keep "));
    kept.cloned().collect()
}

/// A folder of a broker that has ended, with a topic, a deployment and its output.
struct Template {
    folder: TempDir,
}

impl Template {
    /// After a kill the journal is there; after a stop everything is in segments and tables.
    async fn new(killed: bool) -> Template {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut broker = Broker::start_in(folder.path(), &SMALL);
        for name in ["in", "out"] {
            broker
                .eddy(&["topic", "create", name, "-p", &PARTITIONS.to_string()])
                .ok();
        }
        broker.push_byte_filter();
        broker.deploy_byte_filter("d", ("in", "out"), " keep ");
        produce(&broker.client().await, 0..PARTITIONS, 0..RECORDS).await;
        wait_until(LIMIT, "the deployment should read everything", || {
            let info = broker.get("/v1/deployments/d").ok().json();
            let partitions = info["partitions"].as_array().expect("a list");
            partitions
                .iter()
                .all(|partition| partition["position"] == RECORDS)
                .then_some(())
        });
        if killed {
            // A checkpoint may just have begun another journal file; a tail to tear needs a group.
            let mut looks = 0;
            wait_until(LIMIT, "the journal should hold something", || {
                looks += 1;
                broker
                    .eddy(&["topic", "create", &format!("more-{looks}")])
                    .ok();
                let (_, length) = newest_journal(folder.path())?;
                (length > JOURNAL_HEADER_BYTES).then_some(())
            });
            broker.kill9();
        } else {
            broker.terminate();
        }
        Template { folder }
    }

    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a temporary folder can be made");
        for (path, _) in files(self.folder.path()) {
            let inside = path
                .strip_prefix(self.folder.path())
                .expect("it lies inside");
            let target = copy.path().join(inside);
            fs::create_dir_all(target.parent().expect("a folder")).expect("it can be made");
            fs::copy(&path, target).expect("it can be copied");
        }
        copy
    }
}

async fn produce(client: &Client, partitions: Range<u32>, offsets: Range<u64>) {
    let config = ProducerConfig {
        batch_bytes: 16 << 10,
        ..ProducerConfig::default()
    };
    let producer = client
        .producer(&topic("in"), config)
        .await
        .expect("the topic is there");
    for offset in offsets {
        for partition in partitions.clone() {
            let value = value(partition, offset);
            let record = NewRecord::new(value.as_bytes()).partition(partition);
            producer.push(&record).await.expect("taken");
        }
    }
    producer.flush().await.expect("acknowledged");
}

/// All files below a folder and their lengths, in the order of their names.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("it can be listed").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let length = fs::metadata(&path).expect("it is there").len();
            found.push((path, length));
        }
    }
    found.sort();
    found
}

/// The journal file that is written to, in a data folder.
fn newest_journal(folder: &Path) -> Option<(PathBuf, u64)> {
    let mut found = files(&folder.join("journal"));
    found.retain(|(path, _)| path.extension().is_some_and(|it| it == "journal"));
    found.pop()
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let mut content = fs::read(path).expect("it can be read");
    let at = at as usize;
    let end = content.len().min(at + bytes.len());
    content[at..end].copy_from_slice(&bytes[..end - at]);
    fs::write(path, content).expect("it can be written");
}

/// Bad bytes at some place of some file: of any byte with the same chance, or
/// of any file, so that the small ones get their share.
fn damage(folder: &Path, random: &mut fastrand::Rng) -> String {
    let files: Vec<_> = files(folder)
        .into_iter()
        .filter(|(_, length)| *length > 0)
        .collect();
    let (path, at) = if random.bool() {
        let (path, length) = &files[random.usize(..files.len())];
        (path, random.u64(..*length))
    } else {
        let total: u64 = files.iter().map(|(_, length)| length).sum();
        let mut at = random.u64(..total);
        let hit = files.iter().find(|(_, length)| {
            let is_hit = at < *length;
            at -= if is_hit { 0 } else { *length };
            is_hit
        });
        (&hit.expect("the place lies within the files").0, at)
    };
    let bytes: Vec<u8> = (0..random.usize(1..64)).map(|_| random.u8(..)).collect();
    overwrite(path, at, &bytes);
    format!("{} bytes at {at} of {}", bytes.len(), path.display())
}

#[tokio::test]
async fn bad_bytes_over_random_places_never_become_wrong_data() {
    let given = env::var(SEED_VARIABLE).ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |text| text.parse().expect("a number"));
    println!("{SEED_VARIABLE}={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut outcomes = [0; 4];
    for killed in [false, true] {
        let template = Template::new(killed).await;
        for _ in 0..COPIES {
            let copy = template.copy();
            let mut what = damage(copy.path(), &mut random);
            while random.bool() {
                what += &format!(", {}", damage(copy.path(), &mut random));
            }
            println!("killed: {killed}; {what}");
            let outcome = examine(copy.path(), &what).await;
            assert!(
                killed || !matches!(outcome, Outcome::Cut),
                "{what}: after an orderly stop nothing can be torn"
            );
            outcomes[outcome as usize] += 1;
        }
    }
    let [whole, cut, stopped, refused] = outcomes;
    assert!(
        cut + stopped + refused > 0,
        "nothing that was damaged was ever noticed"
    );
    println!("whole {whole}, cut {cut}, stopped {stopped}, refused to start {refused}");
}

/// What became of a damaged folder.
enum Outcome {
    Whole,
    Cut,
    Stopped,
    Refused,
}

async fn examine(folder: &Path, what: &str) -> Outcome {
    let broker = match Broker::try_start_in(folder, &SMALL) {
        Ok(broker) => broker,
        Err(ended) => {
            assert_eq!(ended.code, Some(1), "{what}: {}", ended.stderr);
            assert!(
                !ended.stderr.contains("panicked"),
                "{what}: {}",
                ended.stderr
            );
            let named = ended.stderr.contains(&*folder.to_string_lossy());
            assert!(named, "{what}: no file is named in: {}", ended.stderr);
            return Outcome::Refused;
        }
    };
    let client = broker.client().await;
    let (mut stopped, mut short) = (0, 0);
    for partition in 0..PARTITIONS {
        for (name, expected) in [("in", whole(partition).to_vec()), ("out", kept(partition))] {
            match read_partition(&client, &topic(name), partition).await {
                Ok(entries) => {
                    assert_prefix(&format!("{what}: {name}/{partition}"), &entries, &expected);
                    short += usize::from(entries.len() < expected.len());
                }
                Err(error) => {
                    assert_eq!(
                        error.code(),
                        Some(ErrorCode::PartitionStopped),
                        "{what}: {error}"
                    );
                    stopped += 1;
                }
            }
        }
    }
    let log = broker.log();
    assert!(!log.contains("panicked"), "{what}: {log}");
    assert!(
        short == 0 || log.contains("cut "),
        "{what}: records are missing and nobody says so:\n{log}"
    );
    match (stopped, short) {
        (0, 0) => Outcome::Whole,
        (0, _) => Outcome::Cut,
        _ => Outcome::Stopped,
    }
}

#[track_caller]
fn assert_prefix(what: &str, entries: &[Entry], expected: &[String]) {
    assert!(
        entries.len() <= expected.len(),
        "{what}: {} records",
        entries.len()
    );
    for (offset, (entry, expected)) in entries.iter().zip(expected).enumerate() {
        assert_eq!(
            (entry.offset, &entry.value),
            (offset as u64, expected),
            "{what}"
        );
    }
}

/// The folder of a topic's partition: the topic `in` was made first.
fn partition_folder(data: &Path, partition: u32) -> PathBuf {
    data.join("topics").join("1").join(partition.to_string())
}

#[tokio::test]
async fn a_segment_that_is_damaged_in_the_middle_stops_its_partition_and_no_other() {
    let template = Template::new(false).await;
    let data = template.folder.path();
    let segments: Vec<_> = files(&partition_folder(data, 1))
        .into_iter()
        .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    assert!(
        segments.len() > 1,
        "there should be a first and a last segment: {segments:?}"
    );
    let (path, length) = &segments[0];
    overwrite(path, length / 2, b"bad bytes");
    let mut broker = Broker::start_in(data, &SMALL);
    for life in ["first", "second"] {
        let client = broker.client().await;
        let error = read_partition(&client, &topic("in"), 1)
            .await
            .expect_err("it is damaged");
        assert_eq!(error.code(), Some(ErrorCode::PartitionStopped), "{error}");
        let file = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert!(
            error.to_string().contains(&file),
            "the {life} time: `{error}` does not name {file}"
        );
        let described = client
            .describe_topic(&topic("in"))
            .await
            .expect("it is there");
        let stopped: Vec<_> = described
            .partitions
            .iter()
            .map(|partition| partition.stopped.is_some())
            .collect();
        assert_eq!(stopped, [false, true, false]);
        assert_eq!(broker.metric("eddy_partitions_stopped"), 1.0);
        let shown = broker.eddy(&["topic", "describe", "in"]).ok();
        assert!(shown.contains(&file), "{shown}");
        let refused = broker.eddy_with_input(
            &[
                "--json",
                "pub",
                "in",
                "--partition",
                "1",
                "--input",
                "value",
            ],
            "x\n",
        );
        assert!(
            refused.code == Some(1) && refused.stderr.contains("partition_stopped"),
            "{refused:?}"
        );
        for partition in [0, 2] {
            let entries = read_partition(&client, &topic("in"), partition)
                .await
                .expect("it serves");
            let whole = whole(partition);
            assert_eq!(entries.len(), whole.len());
            assert_prefix("beside", &entries, whole);
        }
        broker.terminate();
        broker.restart();
    }
    produce(&broker.client().await, 0..1, RECORDS..RECORDS + 10).await;
    let entries = read_partition(&broker.client().await, &topic("in"), 0)
        .await
        .expect("it serves");
    assert_eq!(entries.len() as u64, RECORDS + 10);
}

#[tokio::test]
async fn a_stopped_partition_is_told_of_by_who_wants_all_of_it_and_is_repaired_by_command() {
    let template = Template::new(false).await;
    let data = template.folder.path();
    let first = files(&partition_folder(data, 1))
        .into_iter()
        .find(|(path, _)| path.extension().is_some_and(|extension| extension == "log"));
    let (path, length) = first.expect("a segment");
    overwrite(&path, length / 2, b"bad bytes");
    let broker = Broker::start_in(data, &SMALL);
    read_partition(&broker.client().await, &topic("in"), 1)
        .await
        .expect_err("it is damaged");
    let whole = broker.eddy(&["sub", "in", "--until-end"]);
    assert_eq!(whole.code, Some(1), "{}", whole.stderr);
    assert!(
        whole.stderr.contains("stopped in partition 1"),
        "{}",
        whole.stderr
    );
    // As many as were wanted came: whatever else is damaged is of no concern.
    let some = broker.eddy(&["sub", "in", "--until-end", "--count", "5"]);
    assert_eq!(some.ok().lines().count(), 5);

    let repair = |partition| {
        let arguments = ["topic", "repair", "in", "--partition", partition];
        broker.eddy(&[&["--json"], &arguments[..]].concat())
    };
    let needless = repair("0");
    assert_eq!(needless.code, Some(1), "{needless:?}");
    let repaired = repair("1").json();
    assert!(repaired["partitions"][1]["stopped"].is_null(), "{repaired}");
    let rest = broker.eddy(&["sub", "in", "--until-end", "--partition", "1"]);
    assert!(rest.stderr.contains("are gone"), "{}", rest.stderr);
    let rest = rest.ok();
    let count = rest.lines().count() as u64;
    assert!(0 < count && count < RECORDS, "{count} records are left");
    let right: HashSet<&String> = self::whole(1).iter().collect();
    assert!(rest.lines().all(|line| right.contains(&line.to_owned())));
}

#[tokio::test]
async fn a_torn_journal_is_cut_and_the_log_says_how_much() {
    let template = Template::new(true).await;
    for torn in [Torn::Garbage, Torn::Truncated] {
        let copy = template.copy();
        let (journal, _) = newest_journal(copy.path()).expect("a kill leaves a journal");
        let mut content = fs::read(&journal).expect("it can be read");
        match torn {
            Torn::Garbage => content.extend([0xa5; 1234]),
            Torn::Truncated => content.truncate(content.len() - 10),
        }
        fs::write(&journal, content).expect("it can be written");
        let broker = Broker::start_in(copy.path(), &SMALL);
        let log = broker.log();
        let line = log.lines().find(|line| line.contains("cut "));
        let line = line.unwrap_or_else(|| panic!("nobody says what was cut:\n{log}"));
        assert!(line.contains("WARN") && line.contains("bytes"), "{line}");
        assert!(line.contains(".journal"), "{line}");
        if matches!(torn, Torn::Garbage) {
            assert!(line.contains("cut 1234 bytes"), "{line}");
        }
        let client = broker.client().await;
        let mut missing = 0;
        for partition in 0..PARTITIONS {
            let entries = read_partition(&client, &topic("in"), partition)
                .await
                .expect("it serves");
            let whole = whole(partition);
            assert_prefix("what is left", &entries, whole);
            missing += whole.len() - entries.len();
        }
        if matches!(torn, Torn::Garbage) {
            assert_eq!(missing, 0, "nothing but garbage was cut");
        }
    }
}

enum Torn {
    Garbage,
    Truncated,
}

#[test]
fn a_folder_that_a_broker_uses_is_refused_to_a_second_one() {
    let mut broker = Broker::start();
    let folder = broker.data().to_owned();
    let second = Broker::try_start_in(&folder, &[])
        .err()
        .expect("the folder is taken");
    assert_eq!(second.code, Some(1), "{}", second.stderr);
    let pid = format!("pid {}", broker.process().id());
    for part in [&*folder.to_string_lossy(), "used by another process", &pid] {
        assert!(
            second.stderr.contains(part),
            "`{}` does not name {part}",
            second.stderr
        );
    }
    broker.get("/health").ok();
    broker.kill9();
    broker.restart();
}
