//! The broker over a disk in memory, without a front: the same tests over each engine, and those
//! that only one of them can be put to.

mod deploying;
mod files;
mod left_out;
#[path = "tests/memory.rs"]
mod over_memory;
#[path = "tests/store.rs"]
mod over_store;
mod reading;
mod taken_over;

use std::collections::BTreeMap;
use std::time::Duration;

use eddy_protocol::batch::BatchBuilder;
use eddy_protocol::frame::{CreateTopic, Fetch, Produce, Produced, Start, TopicSettings};
use eddy_protocol::{Compression, ErrorCode, TopicName, WireError};

use super::*;
use crate::guest::Guest;
use crate::io::{CrashKind, FaultyDisk, ManualClock};
use crate::log::Memory;
use crate::store::Store;

/// What time it is.
const NOW_MS: i64 = 1_700_000_000_000;

/// Nothing here takes longer on the slowest machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Small files, so that little data makes many of them and retention is quick.
fn small_files() -> crate::store::Config {
    crate::store::Config {
        segment_bytes: 4 << 10,
        journal_file_bytes: 16 << 10,
        checkpoint_bytes: 16 << 10,
        tail_bytes: 512,
        tail_bytes_total: 4 << 10,
        reserve_bytes: 0,
        headroom_bytes: 0,
        retention_interval: Duration::from_millis(1),
        ..Default::default()
    }
}

/// What outlasts a broker: a disk, and where the records are kept elsewhere, that.
struct Ground {
    disk: FaultyDisk,
    memory: Option<Memory>,
}

impl Ground {
    /// The store has the records.
    fn store() -> Ground {
        Ground {
            disk: FaultyDisk::new(7),
            memory: None,
        }
    }

    /// The engine in memory has them.
    fn memory() -> (Ground, Memory) {
        let memory = Memory::new(NOW_MS);
        let ground = Ground {
            memory: Some(memory.clone()),
            ..Ground::store()
        };
        (ground, memory)
    }

    /// The broker over what there is.
    async fn broker(&self, config: Config) -> Arc<Broker> {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW_MS));
        let disk = Arc::new(self.disk.clone());
        let (log, state): (Arc<dyn Log>, Arc<dyn State>) = match &self.memory {
            Some(memory) => {
                memory.reopen();
                let memory = Arc::new(memory.clone());
                (memory.clone(), memory)
            }
            None => {
                let store = Store::open(small_files(), disk.clone(), clock.clone());
                let store = Arc::new(store.expect("a store"));
                (store.clone(), store)
            }
        };
        let plugins = crate::plugin::Config {
            threads: 1,
            instances_max: 16,
            ..Default::default()
        };
        let blobs = Blobs::new(disk);
        let cache = Arc::new(StoredCode(blobs.clone()));
        let plugins = Engine::new(plugins, cache).expect("an engine");
        let engines = Engines {
            log,
            state,
            blobs,
            plugins,
        };
        let broker = Broker::open(config, engines, clock).await;
        broker.expect("a broker")
    }

    /// The broker's process has ended.
    fn crash(&self) {
        self.disk.crash(CrashKind::Process);
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {LIMIT:?}"))
}

async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    within(what, async {
        while !done() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Changes a byte of a record of partition 0 of the first topic, once it is in its segment.
async fn damage_record(disk: &FaultyDisk, value: &[u8]) {
    let path = "topics/1/0/00000000000000000000.log";
    let find = || {
        let content = disk.content(path)?;
        content
            .windows(value.len())
            .position(|window| window == value)
    };
    eventually("the segment", || find().is_some()).await;
    disk.corrupt(path, find().expect("it is there") as u64, b"x");
}

fn name(name: &str) -> TopicName {
    TopicName::parse(name).expect("a name")
}

impl Broker {
    /// A broker over a disk in memory, for the tests of the fronts.
    pub(crate) async fn in_memory() -> Arc<Broker> {
        Ground::store().broker(Config::default()).await
    }

    async fn with_topic(self: &Arc<Self>, topic: &str, partitions: u32, settings: TopicSettings) {
        let request = CreateTopic {
            topic: name(topic),
            partitions,
            settings,
        };
        within("creating", self.create_topic(request))
            .await
            .expect("a topic");
    }

    /// One batch of these values for partition 0.
    async fn append(&self, topic: &str, values: &[&str]) -> Produced {
        self.append_to(topic, 0, values).await
    }

    async fn append_to(&self, topic: &str, partition: u32, values: &[&str]) -> Produced {
        let appended = self.try_append_to(topic, partition, values).await;
        appended.expect("durable")
    }

    /// One batch of this value for partition 0.
    async fn try_append(&self, topic: &str, value: &str) -> Result<Produced, WireError> {
        self.try_append_to(topic, 0, &[value]).await
    }

    async fn try_append_to(
        &self,
        topic: &str,
        partition: u32,
        values: &[&str],
    ) -> Result<Produced, WireError> {
        let mut batch = BatchBuilder::default();
        for value in values {
            batch
                .push(1, None, Some(value.as_bytes()), &[])
                .expect("small");
        }
        let batch = batch.finish(Compression::None, None).expect("a batch");
        let pending = self.produce(Produce {
            topic: name(topic),
            partition: Some(partition),
            batch: batch.into(),
        });
        within("producing", pending.expect("accepted").answer()).await
    }

    /// The values of a partition, from its oldest record on.
    async fn values(&self, topic: &str, partition: u32) -> Vec<String> {
        let (mut values, mut from) = (Vec::new(), Start::Earliest);
        loop {
            let fetched = within(
                "fetching",
                self.fetch(Fetch {
                    topic: name(topic),
                    partition,
                    from,
                    bytes_max: 1 << 20,
                    wait_ms: 0,
                }),
            )
            .await
            .expect("records");
            for batch in fetched.batches.iter() {
                let batch = batch.expect("a batch");
                let records = batch.records().expect("records");
                let texts = records.iter().filter_map(|record| record.value);
                values.extend(texts.map(|text| String::from_utf8_lossy(text).into_owned()));
            }
            if fetched.next >= fetched.end {
                return values;
            }
            from = Start::Offset(fetched.next);
        }
    }

    async fn with_plugin(self: &Arc<Self>, plugin: &str, guest: Guest<'_>) {
        within("pushing", self.push_plugin(plugin, guest.component()))
            .await
            .expect("a plugin");
    }
}

/// What was refused must say so with this code and these words.
#[track_caller]
fn refused<T>(outcome: Result<T, WireError>, code: ErrorCode, words: &str) {
    let Err(error) = outcome else {
        panic!("it was not refused: {words}");
    };
    assert_eq!(error.code, code, "{}", error.message);
    assert!(error.message.contains(words), "{}", error.message);
}
