//! What depends on the store's files: a full disk, damage and repairs, records that only the disk
//! has. These run over the store alone.

use eddy_protocol::Form;
use eddy_protocol::admin::{DeploymentInfo, DeploymentState};
use eddy_protocol::frame::{self, Subscribe};

use super::deploying::*;
use super::reading::*;
use super::*;
use crate::io::{Disk, Faults};

#[tokio::test]
async fn a_full_disk_with_commits_under_way_loses_and_repeats_nothing() {
    let ground = Ground::store();
    let disk = ground.disk.clone();
    let broker = world_on(&ground, config()).await;
    broker.with_deployment("all").await;
    let mut produced = Vec::new();
    for round in 0..5 {
        disk.set_faults(Faults {
            bytes_max: Some(disk.used_bytes() + 6_000),
            ..Faults::default()
        });
        for number in 0.. {
            let value = format!("{round}-{number}");
            match broker.try_append("in", &value).await {
                Ok(_) => produced.push(value),
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::DiskFull, "{error}");
                    break;
                }
            }
        }
        disk.set_faults(Faults::default());
        let room = || broker.health() == Health::Ok;
        eventually("room", room).await;
        broker.caught_up().await;
        assert_eq!(broker.values("out", 0).await, produced, "round {round}");
    }
}

#[tokio::test]
async fn a_deletion_that_the_disk_has_no_room_for_leaves_the_deployment_at_work() {
    let ground = Ground::store();
    let disk = ground.disk.clone();
    let broker = world_on(&ground, config()).await;
    broker.with_deployment("all").await;
    disk.set_faults(Faults {
        bytes_max: Some(disk.used_bytes()),
        ..Faults::default()
    });
    let mut outcome = Ok(());
    while outcome.is_ok() {
        outcome = broker.try_append("in", "filler").await.map(drop);
    }
    refused(
        within("deleting", broker.delete_deployment("d")).await,
        ErrorCode::DiskFull,
        "full",
    );
    disk.set_faults(Faults::default());
    eventually("room", || broker.health() == Health::Ok).await;
    broker.append("in", &["last"]).await;
    broker.caught_up().await;
    let (input, output) = (broker.values("in", 0).await, broker.values("out", 0).await);
    assert_eq!(input, output);
    within("deleting", broker.delete_deployment("d"))
        .await
        .expect("there is room");
    assert_eq!(broker.deployments(), []);
}

#[tokio::test]
async fn a_deployment_goes_on_when_its_partition_is_repaired() {
    let ground = Ground::store();
    let disk = ground.disk.clone();
    let broker = world_on(&ground, config()).await;
    let values: Vec<String> = (10..60).map(|n| format!("value {n}")).collect();
    for value in &values {
        broker.append("in", &[value]).await;
    }
    damage_record(&disk, b"value 15").await;
    broker.with_deployment("all").await;
    let stopped = |info: &DeploymentInfo| info.partitions[0].state == DeploymentState::Stopped;
    broker.until("the damage", stopped).await;
    within("repairing", broker.repair_partition(&name("in"), 0))
        .await
        .expect("it is stopped");
    let info = broker.caught_up().await;
    assert_eq!((info.reason, info.partitions[0].missed), (None, 1));
    let mut rest = values.clone();
    rest.remove(5);
    assert_eq!(broker.values("out", 0).await, rest);
}

#[tokio::test]
async fn nothing_is_left_out_where_a_repaired_partition_ends_before_a_stored_position() {
    let ground = Ground::store();
    let disk = ground.disk.clone();
    let broker = world_on(&ground, config()).await;
    let values: Vec<String> = (10..22).map(|n| format!("value {n}")).collect();
    for value in &values {
        broker.append("in", &[value]).await;
    }
    broker.with_deployment("all").await;
    broker.caught_up().await;
    let commit = |offset, epoch| frame::Commit {
        appends: Vec::new(),
        group: Some("g".to_owned()),
        cursors: vec![frame::CursorMove {
            topic: name("in"),
            partition: 0,
            offset,
            epoch,
            expect: frame::ExpectedCursor::Any,
        }],
    };
    let moved = broker.commit(commit(12, Some(1))).expect("accepted");
    within("moving", moved.answer()).await.expect("durable");
    // The journal is damaged where "value 15" came, and no segment has it.
    let ground = Ground {
        disk: disk.fork(),
        memory: None,
    };
    let disk = &ground.disk;
    ground.crash();
    for (path, _) in disk.files() {
        if path.starts_with("topics/1/0/") {
            disk.remove(&path).expect("it is there");
        }
        let content = disk.content(&path).unwrap_or_default();
        let found = content.windows(8).position(|window| window == b"value 15");
        if let Some(at) = found.filter(|_| path.starts_with("journal/")) {
            disk.corrupt(&path, at as u64, b"XX");
        }
    }
    let broker = ground.broker(config()).await;
    let stopped = |info: &DeploymentInfo| info.partitions[0].state == DeploymentState::Stopped;
    broker.until("the damage", stopped).await;
    within("repairing", broker.repair_partition(&name("in"), 0))
        .await
        .expect("it is stopped");
    let (_, partition) = broker.partition(&name("in"), 0).expect("it is there");
    assert_eq!((partition.epoch(), partition.end()), (2, 5));

    let cursors = |reset| {
        let broker = broker.clone();
        let request = frame::Cursors {
            group: "g".to_owned(),
            topic: None,
            reset,
        };
        async move { within("reading", broker.cursors(&request)).await }
    };
    let again = |offset| frame::Cursor {
        topic: name("in"),
        partition: 0,
        offset,
        epoch: Some(2),
        lost: Some(frame::LostPosition {
            offset: 12,
            epoch: Some(1),
        }),
    };
    broker.append("in", &["new 1"]).await;
    assert_eq!(cursors(frame::Reset::Earliest).await, Ok(vec![again(5)]));
    assert_eq!(cursors(frame::Reset::Latest).await, Ok(vec![again(6)]));
    let words = "what was from offset 5 on is gone";
    refused(
        cursors(frame::Reset::Fail).await,
        ErrorCode::HistoryLost,
        words,
    );
    refused(
        broker.commit(commit(12, Some(1))),
        ErrorCode::HistoryLost,
        words,
    );
    let moved = broker.commit(commit(4, Some(1))).expect("before they part");
    within("moving", moved.answer()).await.expect("durable");
    let cursor = frame::Cursor {
        lost: None,
        ..again(4)
    };
    assert_eq!(cursors(frame::Reset::Fail).await, Ok(vec![cursor]));

    let info = broker.caught_up().await;
    let lost = info.partitions[0].lost.expect("it is said");
    assert_eq!((lost.position, lost.resumed), (12, 5));
    broker.append("in", &["new 2"]).await;
    broker.caught_up().await;
    let mut expected = values.clone();
    expected.extend(["new 1".to_owned(), "new 2".to_owned()]);
    assert_eq!(broker.values("out", 0).await, expected);
}

/// Appends until the first records are nowhere but on disk.
async fn with_old_records(broker: &Broker) {
    let value = "x".repeat(400);
    for _ in 0..20 {
        broker.append("t", &[&value]).await;
    }
    let (_, partition) = broker.partition(&name("t"), 0).expect("it is there");
    eventually("the first records should leave the memory", || {
        matches!(partition.read_tail(0, 1), crate::log::TailRead::OnDisk)
    })
    .await;
}

#[tokio::test]
async fn subscribers_that_catch_up_from_the_same_place_share_the_read_and_the_frame() {
    let broker = Ground::store().broker(Config::default()).await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    with_old_records(&broker).await;
    broker.with_plugin("all", Guest::default()).await;
    for request in [subscribe(Start::Earliest), through("all")] {
        let form = Form::Binary;
        let mut cursors = [broker.reader(&request).await, broker.reader(&request).await];
        let loads = cursors.each_mut().map(|cursor| load(cursor.poll(form)));
        let mut frames = Vec::new();
        for (cursor, load) in cursors.iter_mut().zip(loads) {
            match cursor.arrived(within("a load", load).await, form) {
                Some(Next::Frame(frame)) => frames.push(frame),
                other => panic!("a frame was expected: {}", describe(&other.expect("it"))),
            }
        }
        assert!(Arc::ptr_eq(&frames[0], &frames[1]));
        // Who comes soon afterwards shares it, too.
        let mut later = broker.reader(&request).await;
        assert!(Arc::ptr_eq(&frames[0], &frame(&mut later, form).await));
    }
}

#[tokio::test]
async fn a_subscriber_that_catches_up_leaves_the_others_their_filter_and_their_chunks() {
    let broker = Ground::store().broker(Config::default()).await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    broker.with_plugin("later", FROM_THE_SECOND_ON).await;
    with_old_records(&broker).await;
    let latest = Subscribe {
        from: Start::Latest,
        ..through("later")
    };
    let mut live = broker.reader(&latest).await;
    broker.append("t", &["live"]).await;
    // Its instance drops what it is called with first.
    assert!(matches!(next(&mut live, Form::Binary).await, Next::Idle));
    let mut behind = broker.reader(&through("later")).await;
    let loaded = within("a load", load(behind.poll(Form::Binary))).await;
    let arrived = behind.arrived(loaded, Form::Binary);
    assert!(arrived.is_none(), "another instance drops its first, too");
    assert!(behind.is_ahead());
    broker.append("t", &["live"]).await;
    let progress = next(&mut live, Form::Binary).await;
    assert!(
        matches!(progress, Next::Progress(_)),
        "{}",
        describe(&progress)
    );
    let delivered = deliver(&*frame(&mut live, Form::Binary).await, Form::Binary);
    assert_eq!(offsets(&delivered), [21]);
}

#[tokio::test]
async fn a_reader_is_told_what_a_repair_gave_up_and_gets_the_rest() {
    let ground = Ground::store();
    let disk = ground.disk.clone();
    let broker = ground.broker(Config::default()).await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    let values: Vec<String> = (10..60).map(|n| format!("value {n}")).collect();
    for value in &values {
        broker.append("t", &[value]).await;
    }
    let (_, partition) = broker.partition(&name("t"), 0).expect("it is there");
    damage_record(&disk, b"value 15").await;
    let mut cursor = broker.reader(&subscribe(Start::Earliest)).await;
    let seen = offsets(&deliver(
        &*frame(&mut cursor, Form::Binary).await,
        Form::Binary,
    ));
    assert_eq!(seen, [0, 1, 2, 3, 4], "what is whole comes first");
    match next(&mut cursor, Form::Binary).await {
        Next::Ended(error) => assert_eq!(error.code, ErrorCode::PartitionStopped),
        other => panic!("an end was expected: {}", describe(&other)),
    }
    let since = subscribe(Start::Time(0));
    let subscribed = within("subscribing", broker.subscribe(&since)).await;
    let mut late = subscribed.expect("the others could be read").1;
    match next(&mut late[0], Form::Binary).await {
        Next::Ended(error) => assert_eq!(error.code, ErrorCode::PartitionStopped),
        other => panic!("an end was expected: {}", describe(&other)),
    }
    let info = within("repairing", broker.repair_partition(&name("t"), 0)).await;
    assert_eq!(info.expect("it is stopped").partitions[0].stopped, None);
    let mut cursor = broker.reader(&subscribe(Start::Offset(4))).await;
    let mut seen = offsets(&deliver(
        &*frame(&mut cursor, Form::Binary).await,
        Form::Binary,
    ));
    match next(&mut cursor, Form::Binary).await {
        Next::Gap(gap) => {
            assert_eq!((gap.expected, gap.next), (5, 6));
            assert_eq!(gap.epoch, partition.epoch());
        }
        other => panic!("a gap was expected: {}", describe(&other)),
    }
    while cursor.position().offset < 50 {
        seen.extend(offsets(&deliver(
            &*frame(&mut cursor, Form::Binary).await,
            Form::Binary,
        )));
    }
    let expected: Vec<u64> = [4].into_iter().chain(6..50).collect();
    assert_eq!(seen, expected);
    let mut rest = values.clone();
    rest.remove(5);
    assert_eq!(
        broker.values("t", 0).await,
        rest,
        "a fetch goes on behind it"
    );
    refused(
        within("repairing", broker.repair_partition(&name("t"), 0)).await,
        ErrorCode::Inconsistent,
        "nothing to repair",
    );
}
