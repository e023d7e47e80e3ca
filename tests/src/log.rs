//! What is in a topic, as a client finds it by fetching from the beginning.

use eddy_client::{Client, ClientError};
use eddy_protocol::TopicName;
use eddy_protocol::frame::{Fetch, Start};

/// What one fetch asks for.
const FETCH_BYTES: u32 = 1 << 20;

/// A record as tests compare it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its place.
    pub offset: u64,
    /// Its key as text, empty if it has none.
    pub key: String,
    /// Its value as text.
    pub value: String,
}

/// A topic's name that is written in the test.
#[track_caller]
pub fn topic(name: &str) -> TopicName {
    name.parse().expect("tests use good names")
}

/// All records of a partition; panics if their offsets have a hole.
pub async fn read_partition(
    client: &Client,
    topic: &TopicName,
    partition: u32,
) -> Result<Vec<Entry>, ClientError> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut from = Start::Earliest;
    loop {
        let fetched = client
            .fetch(Fetch {
                topic: topic.clone(),
                partition,
                from,
                bytes_max: FETCH_BYTES,
                wait_ms: 0,
            })
            .await?;
        for opened in fetched.batches.iter_opened() {
            let (_, records) = opened.expect("the broker sends whole batches");
            for record in records.iter() {
                let last = entries.last().map(|entry| entry.offset);
                assert!(
                    last.is_none_or(|last| record.offset == last + 1),
                    "after offset {last:?} of {topic}/{partition} comes {}",
                    record.offset
                );
                entries.push(Entry {
                    offset: record.offset,
                    key: text(record.key),
                    value: text(record.value),
                });
            }
        }
        if fetched.next >= fetched.end {
            return Ok(entries);
        }
        from = Start::Offset(fetched.next);
    }
}

/// The same for every partition of a topic that works.
pub async fn read_topic(client: &Client, topic: &TopicName) -> Vec<Vec<Entry>> {
    let info = client
        .describe_topic(topic)
        .await
        .expect("the topic is there");
    let mut partitions = Vec::new();
    for partition in &info.partitions {
        let entries = read_partition(client, topic, partition.partition).await;
        partitions.push(entries.expect("the partition serves"));
    }
    partitions
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}
