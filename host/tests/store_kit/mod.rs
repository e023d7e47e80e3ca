//! What the tests of the store share: opening one, filling it, reading it back.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eddy::io::{Disk, FaultyDisk, ManualClock};
use eddy::log::{
    Append, CatalogChange, Change, Commit, CommitError, Committed, Log as _, Partition, Table,
    Topic, TopicId,
};
use eddy::store::{Config, OpenError, Store};
use eddy_protocol::frame::{Durability, TopicSettings};
use eddy_protocol::{Batch, BatchBuilder, Compression, ProducerStamp, TopicName};

/// What time it is in the tests.
pub const NOW_MS: i64 = 1_700_000_000_000;

/// Small files, so that little data makes many of them.
pub fn small() -> Config {
    Config {
        segment_bytes: 4 << 10,
        journal_file_bytes: 16 << 10,
        tail_bytes: 512,
        tail_bytes_total: 4 << 10,
        headroom_bytes: 128 << 10,
        reserve_bytes: 0,
        index_interval_bytes: 512,
        open_files_max: 4,
        table_cache_bytes: 1 << 16,
        checkpoint_interval: Duration::from_secs(3600),
        ..Config::default()
    }
}

/// A store on a disk in memory.
pub fn open(disk: &FaultyDisk) -> Store {
    try_open(disk).expect("the folder is whole")
}

/// As [`open`], where that may fail.
pub fn try_open(disk: &FaultyDisk) -> Result<Store, OpenError> {
    open_with(small(), Arc::new(disk.clone()))
}

/// A store on any disk.
pub fn open_with(config: Config, disk: Arc<dyn Disk>) -> Result<Store, OpenError> {
    Store::open(config, disk, Arc::new(ManualClock::new(NOW_MS)))
}

/// Waits for what the store answers; 10 seconds are more than any of it takes.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be built");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), future)
            .await
            .expect("an answer within a minute")
    })
}

/// Waits until `done`, at most half a minute.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "not within 30 s: {what}"
        );
        std::thread::yield_now();
    }
}

/// Makes a topic.
pub fn create(store: &Store, name: &str, partitions: u32, settings: TopicSettings) -> Arc<Topic> {
    let create = CatalogChange::Create {
        name: name_of(name),
        partitions,
        settings,
    };
    let committed = wait(store.commit(Commit {
        catalog: vec![create],
        ..Commit::default()
    }));
    committed.expect("the topic is new").created[0].clone()
}

/// A topic's name.
pub fn name_of(name: &str) -> TopicName {
    TopicName::parse(name).expect("the name keeps the rules")
}

/// Settings with this durability.
pub fn kept(durability: Durability) -> TopicSettings {
    TopicSettings {
        durability,
        ..TopicSettings::default()
    }
}

/// A batch of these values, all with the same timestamp.
pub fn batch(values: &[&str], timestamp: i64, stamp: Option<ProducerStamp>) -> Batch {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder
            .push(timestamp, None, Some(value.as_bytes()), &[])
            .expect("the record is small");
    }
    builder
        .finish(Compression::None, stamp)
        .expect("the batch is small")
}

/// Commits one batch and waits.
pub fn append(
    store: &Store,
    topic: TopicId,
    partition: u32,
    values: &[&str],
) -> Result<Committed, CommitError> {
    let append = Append {
        topic,
        partition,
        batch: batch(values, 0, None),
    };
    wait(store.commit(Commit {
        appends: vec![append],
        ..Commit::default()
    }))
}

/// A change of a table.
pub fn put(table: Table, key: &str, value: &str) -> Change {
    Change::Put {
        table,
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

/// Every record of a partition; an error where one cannot be read.
pub fn read_all(partition: &dyn Partition) -> Result<BTreeMap<u64, String>, eddy::log::ReadError> {
    let mut found = BTreeMap::new();
    let mut offset = partition.start();
    while offset < partition.end() {
        let read = partition.read(offset, 1000)?;
        assert!(
            !read.batches.is_empty(),
            "nothing at {offset} although the end is {}",
            partition.end()
        );
        for batch in read.batches {
            assert!(
                batch.base_offset() <= offset && offset < batch.end_offset(),
                "a hole at {offset}"
            );
            offset = batch.end_offset();
            for record in batch
                .records()
                .expect("batches that are read are whole")
                .iter()
            {
                let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                assert!(
                    found.insert(record.offset, value).is_none(),
                    "offset {} twice",
                    record.offset
                );
            }
        }
    }
    Ok(found)
}

/// The values of a partition in their order.
pub fn values(partition: &dyn Partition) -> Vec<String> {
    read_all(partition)
        .expect("the partition is whole")
        .into_values()
        .collect()
}
