//! What a fetch answers, and how it says that it can't.

use eddy_protocol::frame::{AlterTopic, Limit};

use super::*;

fn fetch(from: Start, wait_ms: u32) -> Fetch {
    Fetch {
        topic: name("t"),
        partition: 0,
        from,
        bytes_max: 1 << 20,
        wait_ms,
    }
}

#[tokio::test]
async fn a_fetch_that_waits_gets_the_first_record_that_comes() {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    let waiting = broker.fetch(fetch(Start::Latest, u32::MAX));
    let (fetched, _) = within(
        "fetching",
        futures_util::future::join(waiting, async {
            tokio::task::yield_now().await;
            broker.append("t", &["a"]).await
        }),
    )
    .await;
    assert_eq!(fetched.expect("a record").next, 1);
    let empty = within("fetching", broker.fetch(fetch(Start::Latest, 1))).await;
    assert!(empty.expect("nothing").batches.is_empty());
}

#[tokio::test]
async fn a_fetch_that_waits_on_a_topic_that_is_deleted_is_told_so() {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    let topic = name("t");
    let waiting = broker.fetch(fetch(Start::Latest, u32::MAX));
    let (fetched, deleted) = within(
        "fetching",
        futures_util::future::join(waiting, async {
            tokio::task::yield_now().await;
            broker.delete_topic(&topic).await
        }),
    )
    .await;
    deleted.expect("deleted");
    refused(fetched, ErrorCode::UnknownTopic, "`t`");
}

#[tokio::test]
async fn a_fetch_outside_of_what_there_is_is_told_where_that_begins_and_ends() {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    let alter = AlterTopic {
        topic: name("t"),
        partitions: None,
        durability: None,
        retention_ms: None,
        retention_bytes: Some(Limit::AtMost(1)),
        timestamps: None,
        timestamp_ahead_ms: None,
        timestamp_behind_ms: None,
        out_of_bounds: None,
    };
    within("altering", broker.alter_topic(alter))
        .await
        .expect("altered");
    let value = "x".repeat(1 << 10);
    for _ in 0..20 {
        broker.append("t", &[&value]).await;
    }
    let (_, partition) = broker.partition(&name("t"), 0).expect("it is there");
    eventually("retention", || partition.start() > 0).await;
    let below = within("fetching", broker.fetch(fetch(Start::Offset(0), 0))).await;
    refused(
        below,
        ErrorCode::OffsetOutOfRange,
        "partition 0 of topic `t` begins at offset",
    );
    let beyond = within("fetching", broker.fetch(fetch(Start::Offset(21), 0))).await;
    refused(
        beyond,
        ErrorCode::OffsetOutOfRange,
        "partition 0 of topic `t` ends at offset 20, 21",
    );
}
