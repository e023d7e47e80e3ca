//! Cursors of groups.

use eddy_protocol::frame::{self, Cursors};

use super::*;

fn cursor(topic: &str, partition: u32, offset: u64) -> frame::Cursor {
    frame::Cursor {
        topic: name(topic),
        partition,
        offset,
    }
}

fn moving(group: Option<&str>, cursors: &[frame::Cursor]) -> frame::Commit {
    frame::Commit {
        appends: Vec::new(),
        group: group.map(str::to_owned),
        cursors: cursors.to_vec(),
    }
}

async fn of(broker: &Broker, group: &str, topic: Option<&str>) -> Vec<frame::Cursor> {
    let request = Cursors {
        group: group.to_owned(),
        topic: topic.map(name),
    };
    within("reading", broker.cursors(&request))
        .await
        .expect("cursors")
}

async fn move_to(broker: &Broker, group: &str, cursors: &[frame::Cursor]) {
    let pending = broker.commit(moving(Some(group), cursors));
    within("moving", pending.expect("accepted").answer())
        .await
        .expect("durable");
}

#[tokio::test]
async fn a_group_sees_its_own_cursors_in_the_order_of_topic_and_partition() {
    let broker = broker().await;
    broker.with_topic("b", 300, TopicSettings::default()).await;
    broker.with_topic("a", 1, TopicSettings::default()).await;
    broker.append("a", &["1", "2"]).await;
    let all = [cursor("a", 0, 2), cursor("b", 1, 0), cursor("b", 256, 0)];
    let shuffled = [all[2].clone(), all[0].clone(), all[1].clone()];
    move_to(&broker, "g", &shuffled).await;
    move_to(&broker, "g2", &[cursor("a", 0, 1)]).await;
    assert_eq!(of(&broker, "g", None).await, all);
    assert_eq!(of(&broker, "g", Some("b")).await, all[1..]);
    assert_eq!(of(&broker, "g2", None).await, [cursor("a", 0, 1)]);
    assert_eq!(of(&broker, "nobody", None).await, []);
    // Also backwards: a group may read again.
    move_to(&broker, "g", &[cursor("a", 0, 0)]).await;
    assert_eq!(of(&broker, "g", Some("a")).await, [cursor("a", 0, 0)]);
}

#[tokio::test]
async fn a_cursor_stays_within_what_there_is() {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    broker.append("t", &["only"]).await;
    for (cursors, code, words) in [
        (
            [cursor("t", 0, 2)],
            ErrorCode::OffsetOutOfRange,
            "ends at offset 1",
        ),
        (
            [cursor("t", 1, 0)],
            ErrorCode::UnknownPartition,
            "has 1 partitions",
        ),
        (
            [cursor("missing", 0, 0)],
            ErrorCode::UnknownTopic,
            "`missing`",
        ),
    ] {
        refused(broker.commit(moving(Some("g"), &cursors)), code, words);
    }
    assert_eq!(of(&broker, "g", None).await, []);
}

#[tokio::test]
async fn a_group_needs_a_name_that_fits() {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    let cursors = [cursor("t", 0, 0)];
    for bad in ["", "two\nlines", "nul\0", &"g".repeat(256)] {
        let outcome = broker.commit(moving(Some(bad), &cursors));
        refused(outcome, ErrorCode::InvalidName, "1 to 255 bytes");
    }
    refused(
        broker.commit(moving(None, &cursors)),
        ErrorCode::InvalidArgument,
        "needs a `group`",
    );
    move_to(&broker, &"g".repeat(255), &cursors).await;
}

#[tokio::test]
async fn cursors_of_a_deleted_topic_are_gone_with_it() {
    let broker = broker().await;
    for topic in ["gone", "kept"] {
        broker.with_topic(topic, 1, TopicSettings::default()).await;
    }
    broker.append("gone", &["1"]).await;
    move_to(&broker, "g", &[cursor("gone", 0, 1), cursor("kept", 0, 0)]).await;
    within("deleting", broker.delete_topic(&name("gone")))
        .await
        .expect("deleted");
    assert_eq!(of(&broker, "g", None).await, [cursor("kept", 0, 0)]);
    // A new topic of the name has other records: the old place says nothing of them.
    broker.with_topic("gone", 1, TopicSettings::default()).await;
    assert_eq!(of(&broker, "g", Some("gone")).await, []);
}

#[tokio::test]
async fn a_topics_groups_are_limited_and_forgotten_with_it() {
    let config = || Config {
        groups_max: 2,
        ..Config::default()
    };
    let disk = FaultyDisk::new(7);
    let broker = broker_on(&disk, config()).await;
    for topic in ["t", "other"] {
        broker.with_topic(topic, 1, TopicSettings::default()).await;
    }
    for group in ["a", "b", "a"] {
        move_to(&broker, group, &[cursor("t", 0, 0)]).await;
    }
    move_to(&broker, "c", &[cursor("other", 0, 0)]).await;
    within("closing", broker.close()).await;
    drop(broker);
    disk.crash(crate::io::CrashKind::Process);
    let broker = broker_on(&disk, config()).await;
    refused(
        broker.commit(moving(Some("c"), &[cursor("t", 0, 0)])),
        ErrorCode::TooMany,
        "broker.groups_max",
    );
    within("deleting", broker.delete_topic(&name("t")))
        .await
        .expect("deleted");
    let rows = broker.store.scan(crate::store::Table::Cursors, b"");
    assert_eq!(rows.expect("rows").len(), 1);
    broker.with_topic("t", 1, TopicSettings::default()).await;
    move_to(&broker, "c", &[cursor("t", 0, 0)]).await;
}
