//! Cursors of groups.

use eddy_protocol::frame::{self, Cursors, DeleteGroup, ExpectedCursor, Reset};

use super::*;

fn cursor(topic: &str, partition: u32, offset: u64) -> frame::CursorMove {
    frame::CursorMove {
        topic: name(topic),
        partition,
        offset,
        epoch: None,
        expect: ExpectedCursor::Any,
    }
}

fn expecting(expect: ExpectedCursor, offset: u64) -> frame::CursorMove {
    frame::CursorMove {
        expect,
        ..cursor("t", 0, offset)
    }
}

fn moving(group: Option<&str>, cursors: &[frame::CursorMove]) -> frame::Commit {
    frame::Commit {
        appends: Vec::new(),
        group: group.map(str::to_owned),
        cursors: cursors.to_vec(),
    }
}

fn cursors_of(group: &str, topic: Option<&str>) -> Cursors {
    Cursors {
        group: group.to_owned(),
        topic: topic.map(name),
        reset: Reset::Earliest,
    }
}

/// Where the group's cursors are, as far as a commit says it.
async fn of(broker: &Broker, group: &str, topic: Option<&str>) -> Vec<frame::CursorMove> {
    let request = cursors_of(group, topic);
    let cursors = within("reading", broker.cursors(&request)).await;
    let cursors = cursors.expect("cursors").into_iter();
    cursors
        .map(|it| cursor(it.topic.as_ref(), it.partition, it.offset))
        .collect()
}

async fn try_move(
    broker: &Arc<Broker>,
    group: &str,
    cursors: &[frame::CursorMove],
) -> Result<Vec<Produced>, WireError> {
    let pending = broker.commit(moving(Some(group), cursors));
    within("moving", pending.expect("accepted").answer()).await
}

async fn move_to(broker: &Arc<Broker>, group: &str, cursors: &[frame::CursorMove]) {
    try_move(broker, group, cursors).await.expect("durable");
}

async fn delete_group(
    broker: &Arc<Broker>,
    group: &str,
    topic: Option<&str>,
) -> Result<(), WireError> {
    let request = DeleteGroup {
        group: group.to_owned(),
        topic: topic.map(name),
    };
    within("deleting", broker.delete_group(request)).await
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
    let ground = ground();
    let broker = ground.broker(config()).await;
    for topic in ["t", "other"] {
        broker.with_topic(topic, 1, TopicSettings::default()).await;
    }
    for group in ["a", "b", "a"] {
        move_to(&broker, group, &[cursor("t", 0, 0)]).await;
    }
    move_to(&broker, "c", &[cursor("other", 0, 0)]).await;
    within("closing", broker.close()).await;
    drop(broker);
    ground.crash();
    let broker = ground.broker(config()).await;
    refused(
        broker.commit(moving(Some("c"), &[cursor("t", 0, 0)])),
        ErrorCode::TooMany,
        "broker.groups_max",
    );
    within("deleting", broker.delete_topic(&name("t")))
        .await
        .expect("deleted");
    let rows = broker.state.scan(crate::log::Table::Cursors, b"").await;
    assert_eq!(rows.expect("rows").len(), 1);
    broker.with_topic("t", 1, TopicSettings::default()).await;
    move_to(&broker, "c", &[cursor("t", 0, 0)]).await;
}

#[tokio::test]
async fn a_commit_is_refused_where_the_cursor_is_not_as_expected_and_says_where_it_is() {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    broker.append("t", &["1", "2", "3", "4"]).await;
    let at = ExpectedCursor::Offset;
    for (expect, offset, refusal) in [
        (at(0), 1, Some("nowhere, the commit expects it at offset 0")),
        (ExpectedCursor::None, 2, None),
        (
            ExpectedCursor::None,
            3,
            Some("at offset 2, the commit expects it nowhere"),
        ),
        (
            at(1),
            3,
            Some("at offset 2, the commit expects it at offset 1"),
        ),
        (at(2), 3, None),
        // Whoever was thought dead comes back with what it had.
        (
            at(2),
            3,
            Some("at offset 3, the commit expects it at offset 2"),
        ),
        (ExpectedCursor::Any, 0, None),
        (at(0), 4, None),
    ] {
        let outcome = try_move(&broker, "g", &[expecting(expect, offset)]).await;
        match refusal {
            None => drop(outcome.expect("as expected")),
            Some(words) => refused(outcome, ErrorCode::CursorMoved, words),
        }
    }
    assert_eq!(of(&broker, "g", None).await, [cursor("t", 0, 4)]);
    // Handed over at once: of two that expect the same, one is too late.
    let commits = [2, 3].map(|offset| {
        let commit = moving(Some("g"), &[expecting(at(4), offset)]);
        broker.commit(commit).expect("accepted")
    });
    let [first, second] = commits;
    first.answer().await.expect("as expected");
    refused(second.answer().await, ErrorCode::CursorMoved, "at offset 2");
}

#[tokio::test]
async fn what_a_commit_appends_is_not_there_where_its_cursor_is_not_as_expected() {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    let mut commit = moving(Some("g"), &[expecting(ExpectedCursor::Offset(7), 0)]);
    let mut batch = BatchBuilder::default();
    batch.push(1, None, Some(b"x"), &[]).expect("small");
    commit.appends = vec![Produce {
        topic: name("t"),
        partition: Some(0),
        batch: batch
            .finish(Compression::None, None)
            .expect("a batch")
            .into(),
    }];
    let pending = broker.commit(commit).expect("accepted");
    refused(pending.answer().await, ErrorCode::CursorMoved, "nowhere");
    assert_eq!(broker.values("t", 0).await, Vec::<String>::new());
    let twice = [cursor("t", 0, 0), cursor("t", 0, 0)];
    refused(
        broker.commit(moving(Some("g"), &twice)),
        ErrorCode::Inconsistent,
        "twice",
    );
}

#[tokio::test]
async fn only_groups_that_have_committed_count_against_the_limit() {
    let config = Config {
        groups_max: 1,
        ..Config::default()
    };
    let broker = broker_with(config).await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    for group in ["a", "b", "c"] {
        let failing = [expecting(ExpectedCursor::Offset(1), 0)];
        let outcome = try_move(&broker, group, &failing).await;
        refused(outcome, ErrorCode::CursorMoved, "nowhere");
    }
    // Nobody waits for the answer.
    drop(broker.commit(moving(
        Some("d"),
        &[expecting(ExpectedCursor::Offset(1), 0)],
    )));
    eventually("the failed commit counts no more", || {
        broker.groups.is_empty()
    })
    .await;
    move_to(&broker, "e", &[cursor("t", 0, 0)]).await;
    refused(
        broker.commit(moving(Some("f"), &[cursor("t", 0, 0)])),
        ErrorCode::TooMany,
        "broker.groups_max",
    );
}

#[tokio::test]
async fn a_deleted_group_is_gone_with_its_cursors_and_makes_room_for_another() {
    let config = || Config {
        groups_max: 2,
        ..Config::default()
    };
    let ground = ground();
    let mut broker = ground.broker(config()).await;
    for topic in ["t", "u"] {
        broker.with_topic(topic, 2, TopicSettings::default()).await;
    }
    for group in ["a", "ab"] {
        move_to(
            &broker,
            group,
            &[cursor("t", 0, 0), cursor("t", 1, 0), cursor("u", 0, 0)],
        )
        .await;
    }
    for is_restarted in [false, true] {
        if is_restarted {
            within("closing", broker.close()).await;
            drop(broker);
            broker = ground.broker(config()).await;
        }
        let groups = broker.list_groups();
        let names: Vec<_> = groups.iter().map(|it| it.group.as_str()).collect();
        assert_eq!(names, ["a", "ab"]);
        assert_eq!(groups[0].topics, [name("t"), name("u")]);
    }
    delete_group(&broker, "a", Some("t"))
        .await
        .expect("it was there");
    assert_eq!(of(&broker, "a", None).await, [cursor("u", 0, 0)]);
    move_to(&broker, "b", &[cursor("t", 0, 0)]).await;
    refused(
        broker.commit(moving(Some("a"), &[cursor("t", 0, 0)])),
        ErrorCode::TooMany,
        "broker.groups_max",
    );
    delete_group(&broker, "a", None)
        .await
        .expect("it was there");
    refused(
        delete_group(&broker, "a", None).await,
        ErrorCode::UnknownGroup,
        "`a`",
    );
    assert_eq!(of(&broker, "ab", None).await.len(), 3);
}

#[tokio::test]
async fn cursors_of_the_first_release_are_there_fenced_and_deleted_like_others() {
    let ground = ground();
    let broker = ground.broker(Config::default()).await;
    broker.with_topic("t", 300, TopicSettings::default()).await;
    broker.append("t", &["1", "2"]).await;
    let topic = broker.topic(&name("t")).expect("it exists").id();
    let row = |topic: u64, partition: u32, offset: u64| crate::log::Change::Put {
        table: crate::log::Table::Cursors,
        key: [b"group\0t\0", &partition.to_be_bytes()[..]]
            .concat()
            .into(),
        value: [offset.to_le_bytes(), topic.to_le_bytes()].concat().into(),
    };
    // One is in a topic that is no more.
    let rows = vec![row(topic.0, 0, 2), row(topic.0, 256, 0), row(99, 7, 0)];
    broker.change(rows).await.expect("there is room");
    within("closing", broker.close()).await;
    drop(broker);
    let broker = ground.broker(Config::default()).await;
    let all = [cursor("t", 0, 2), cursor("t", 256, 0)];
    assert_eq!(of(&broker, "group", None).await, all);
    assert_eq!(broker.list_groups().len(), 1);
    let moved = expecting(ExpectedCursor::Offset(2), 1);
    move_to(&broker, "group", &[moved]).await;
    delete_group(&broker, "group", None)
        .await
        .expect("it was there");
    let left = broker.state.scan(crate::log::Table::Cursors, b"").await;
    assert_eq!(left, Ok(Vec::new()));
}
