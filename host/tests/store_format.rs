//! Data folders that earlier versions wrote are read by this one. The folder of
//! the current version is written anew with `EDDY_WRITE_FIXTURES=1`; older ones
//! are never touched.

mod store_kit;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use eddy::io::{Disk, RealDisk};
use eddy::store::{Append, Commit, Store, Table};
use eddy_protocol::ProducerStamp;
use eddy_protocol::frame::{Durability, TopicSettings};
use store_kit::*;

/// Every format there was; the last one is the current.
const FORMATS: &[&str] = &["store-format-1"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn open_folder(folder: &Path) -> Store {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder).expect("the folder can be used"));
    open_with(small(), disk).expect("the folder is whole")
}

fn settings() -> TopicSettings {
    TopicSettings {
        durability: Durability::Disk,
        retention_ms: Some(u64::MAX / 4),
        retention_bytes: Some(1 << 30),
    }
}

/// One round of writing; the second one stays in the journal.
fn fill(store: &Store, round: u32) {
    let topic = store
        .topic(&name_of("quakes"))
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

fn write_fixture(folder: &Path) {
    drop(fs::remove_dir_all(folder));
    let store = open_folder(folder);
    fill(&store, 0);
    store
        .blobs()
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
        let topic = store.topic(&name_of("quakes")).expect("it was made");
        assert_eq!(
            (topic.partitions().len(), topic.settings()),
            (2, settings())
        );
        let expected: Vec<String> = (0..2)
            .flat_map(|round| {
                (0..40).flat_map(move |n| ["a", "b"].map(|which| format!("{round}/{n}/{which}")))
            })
            .collect();
        assert_eq!(values(&topic.partitions()[1]), expected);
        assert_eq!(topic.partitions()[0].end(), 0);
        assert_eq!(topic.partitions()[1].epoch(), 1);
        assert_eq!(topic.partitions()[1].offset_at_time(1005), Ok(90));
        assert_eq!(
            store.get(Table::Progress, b"position"),
            Ok(Some(Bytes::from("1/39")))
        );
        assert_eq!(
            store.blobs().read("plugin").expect("it is whole"),
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
    let current = fixtures().join("store-format-1");
    if std::env::var_os("EDDY_WRITE_FIXTURES").is_some() {
        write_fixture(&current);
    }
    for format in FORMATS {
        let folder = tempfile::tempdir().expect("a folder");
        copy(&fixtures().join(format), folder.path());
        verify(folder.path());
    }
}
