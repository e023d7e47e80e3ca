//! What subscribers get, step by step.

use eddy_protocol::Form;
use eddy_protocol::frame::{AlterTopic, Filter, Limit, Position, Subscribe};

use super::*;
use crate::broker::tests::reading::*;

async fn with_topic() -> Arc<Broker> {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    broker
}

#[tokio::test]
async fn two_subscribers_share_one_frame_and_its_memory() {
    let broker = with_topic().await;
    broker.with_plugin("all", Guest::default()).await;
    for request in [subscribe(Start::Earliest), through("all")] {
        let mut one = broker.reader(&request).await;
        let mut two = broker.reader(&request).await;
        broker.append("t", &["first", "second"]).await;
        let (a, b) = (
            frame(&mut one, Form::Binary).await,
            frame(&mut two, Form::Binary).await,
        );
        assert!(Arc::ptr_eq(&a, &b));
        for (a, b) in a.pieces().iter().zip(b.pieces()) {
            assert_eq!(a.as_ptr(), b.as_ptr());
        }
        let json = frame(&mut broker.reader(&request).await, Form::Json).await;
        assert!(!Arc::ptr_eq(&a, &json), "another form is another frame");
        assert!(matches!(next(&mut one, Form::Binary).await, Next::Idle));
    }
}

#[tokio::test]
async fn what_a_filter_left_out_is_told_before_a_frame_that_would_leave_a_hole() {
    let broker = with_topic().await;
    broker.with_plugin("later", FROM_THE_SECOND_ON).await;
    let mut cursor = broker.reader(&through("later")).await;
    broker.append("t", &["dropped", "dropped"]).await;
    assert!(matches!(next(&mut cursor, Form::Binary).await, Next::Idle));
    assert_eq!(cursor.position().offset, 2);
    broker.append("t", &["kept"]).await;
    match next(&mut cursor, Form::Binary).await {
        Next::Progress(progress) => assert_eq!(progress.next, 2),
        other => panic!("progress was expected: {}", describe(&other)),
    }
    assert!(cursor.untold_progress().is_none(), "it is told once");
    let delivered = deliver(&*frame(&mut cursor, Form::Binary).await, Form::Binary);
    assert_eq!(batches(&delivered)[0].base_offset(), 2);
    assert_eq!((offsets(&delivered), delivered.next), (vec![2], 3));
}

#[tokio::test]
async fn json_begins_at_the_cursor_and_binary_at_the_batch() {
    let broker = with_topic().await;
    broker.append("t", &["a", "b", "c"]).await;
    broker.append("t", &["d"]).await;
    for (form, first) in [(Form::Json, 1), (Form::Binary, 0)] {
        let mut cursor = broker.reader(&subscribe(Start::Offset(1))).await;
        let mut seen = Vec::new();
        while cursor.position().offset < 4 {
            seen.extend(offsets(&deliver(&*frame(&mut cursor, form).await, form)));
        }
        assert_eq!(seen, (first..4).collect::<Vec<u64>>(), "{form:?}");
    }
}

#[tokio::test]
async fn a_reader_that_retention_overtakes_gets_a_gap_with_both_offsets() {
    let broker = with_topic().await;
    let mut cursor = broker.reader(&subscribe(Start::Earliest)).await;
    let mut reading = broker.reader(&subscribe(Start::Earliest)).await;
    broker
        .alter_topic(AlterTopic {
            topic: name("t"),
            partitions: None,
            durability: None,
            retention_ms: None,
            retention_bytes: Some(Limit::AtMost(1)),
            timestamps: None,
            timestamp_ahead_ms: None,
            timestamp_behind_ms: None,
            out_of_bounds: None,
        })
        .await
        .expect("altered");
    let value = "x".repeat(1 << 10);
    for _ in 0..20 {
        broker.append("t", &[&value]).await;
    }
    let (_, partition) = broker.partition(&name("t"), 0).expect("it is there");
    eventually("retention", || partition.start() > 0).await;
    let gap = match next(&mut cursor, Form::Binary).await {
        Next::Gap(gap) => gap,
        other => panic!("a gap was expected: {}", describe(&other)),
    };
    assert_eq!(gap.expected, 0);
    assert!((1..=partition.start()).contains(&gap.next), "{gap:?}");
    assert_eq!(gap.epoch, partition.epoch());
    assert_eq!(cursor.position().offset, gap.next);
    // A read that was under way meanwhile ends in the same notice, not in an error.
    let overtaken = ErrorCode::OffsetOutOfRange.because("the records are gone");
    assert!(reading.arrived(Err(overtaken), Form::Binary).is_none());
    let answer = reading.poll(Form::Binary);
    assert!(
        matches!(&answer, Next::Gap(gap) if gap.expected == 0),
        "{}",
        describe(&answer)
    );
}

#[tokio::test]
async fn a_reader_from_another_epoch_begins_anew_with_a_gap() {
    let broker = with_topic().await;
    broker.append("t", &["a", "b"]).await;
    let (_, partition) = broker.partition(&name("t"), 0).expect("it is there");
    let resuming = |offset, epoch| Subscribe {
        resume: vec![Position {
            partition: 0,
            offset,
            epoch,
        }],
        ..subscribe(Start::Latest)
    };
    let epoch = partition.epoch();
    let mut same = broker.reader(&resuming(1, epoch)).await;
    assert_eq!(same.position().offset, 1);
    assert!(matches!(
        next(&mut same, Form::Binary).await,
        Next::Frame(_)
    ));
    refused(
        broker.subscribe(&resuming(3, epoch)).await,
        ErrorCode::OffsetOutOfRange,
        "ends at offset 2",
    );
    // Even an offset that is beyond the end: it means nothing here.
    let mut other = broker.reader(&resuming(9, epoch + 1)).await;
    match next(&mut other, Form::Binary).await {
        Next::Gap(gap) => assert_eq!((gap.expected, gap.next, gap.epoch), (9, 0, epoch)),
        other => panic!("a gap was expected: {}", describe(&other)),
    }
    let delivered = deliver(&*frame(&mut other, Form::Binary).await, Form::Binary);
    assert_eq!(offsets(&delivered), [0, 1]);
}

#[tokio::test]
async fn a_filter_that_fails_ends_its_stream_for_all_and_the_next_subscriber_gets_a_new_one() {
    let broker = with_topic().await;
    let traps = Guest {
        process: "unreachable",
        ..Guest::default()
    };
    broker.with_plugin("traps", traps).await;
    let (mut one, mut two) = (
        broker.reader(&through("traps")).await,
        broker.reader(&through("traps")).await,
    );
    let mut unfiltered = broker.reader(&subscribe(Start::Earliest)).await;
    broker.append("t", &["a"]).await;
    for cursor in [&mut one, &mut two] {
        match next(cursor, Form::Binary).await {
            Next::Ended(error) => assert_eq!(error.code, ErrorCode::PluginFailed),
            other => panic!("an end was expected: {}", describe(&other)),
        }
    }
    frame(&mut unfiltered, Form::Binary).await;
    let mut again = broker.reader(&through("traps")).await;
    assert!(matches!(again.poll(Form::Binary), Next::Load(_)));
}

#[tokio::test]
async fn a_deleted_topic_ends_its_readers() {
    let broker = with_topic().await;
    let mut cursor = broker.reader(&subscribe(Start::Earliest)).await;
    within("deleting", broker.delete_topic(&name("t")))
        .await
        .expect("deleted");
    match next(&mut cursor, Form::Binary).await {
        Next::Ended(error) => assert_eq!(error.code, ErrorCode::UnknownTopic),
        other => panic!("an end was expected: {}", describe(&other)),
    }
}

#[tokio::test]
async fn where_places_are_scarce_partitions_take_turns_with_them() {
    // Of 16, a quarter is kept for deployments.
    const INSTANCES_MAX: u32 = 12;
    let broker = broker().await;
    let partitions = INSTANCES_MAX + 1;
    broker
        .with_topic("t", partitions, TopicSettings::default())
        .await;
    broker.with_plugin("all", Guest::default()).await;
    let subscribed = broker.subscribe(&through("all")).await;
    let (_, mut cursors) = subscribed.expect("a stream");
    for cursor in &mut cursors {
        broker.append_to("t", cursor.partition(), &["a"]).await;
        frame(cursor, Form::Binary).await;
    }
    broker.append("t", &["b"]).await;
    frame(&mut cursors[0], Form::Binary).await;
    // So does who comes with other parameters.
    let (_, mut others) = broker
        .subscribe(&other_parameters())
        .await
        .expect("a stream");
    frame(&mut others[0], Form::Binary).await;
}

#[tokio::test]
async fn a_subscriber_that_finds_no_place_waits_for_one() {
    let broker = with_topic().await;
    broker.with_plugin("all", Guest::default()).await;
    let mut cursor = broker.reader(&through("all")).await;
    let places = broker.engine.reserve(16).expect("all are free");
    broker.append("t", &["a"]).await;
    assert!(matches!(
        next(&mut cursor, Form::Binary).await,
        Next::Retry(_)
    ));
    refused(
        broker.subscribe(&other_parameters()).await,
        ErrorCode::TooMany,
        "instances",
    );
    drop(places);
    frame(&mut cursor, Form::Binary).await;
}

fn other_parameters() -> Subscribe {
    Subscribe {
        filter: Some(Filter {
            plugin: "all".to_owned(),
            params: BTreeMap::from([("other".to_owned(), String::new())]),
        }),
        ..subscribe(Start::Earliest)
    }
}

#[tokio::test]
async fn a_filter_is_handed_no_more_at_once_than_a_deployment() {
    let deployment = DeploymentConfig {
        // Two records.
        chunk_bytes: 32,
        ..DeploymentConfig::default()
    };
    let broker = broker_with(Config {
        deployment,
        ..Config::default()
    })
    .await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    broker.with_plugin("later", FROM_THE_SECOND_ON).await;
    broker
        .append("t", &["a", "b", "c", "d", "e", "f", "g"])
        .await;
    let mut cursor = broker.reader(&through("later")).await;
    let delivered = deliver(&*frame(&mut cursor, Form::Binary).await, Form::Binary);
    assert_eq!(offsets(&delivered), [2, 3, 4, 5, 6]);
    assert_eq!(delivered.next, 7);
}

#[tokio::test]
async fn an_offset_beyond_one_partition_of_several_is_its_end() {
    let broker = broker().await;
    broker.with_topic("t", 2, TopicSettings::default()).await;
    broker.append_to("t", 0, &["a", "b"]).await;
    let request = subscribe(Start::Offset(1));
    let (_, cursors) = broker.subscribe(&request).await.expect("a stream");
    let offsets: Vec<u64> = cursors.iter().map(|c| c.position().offset).collect();
    assert_eq!(offsets, [1, 0]);
    let one = Subscribe {
        partitions: vec![1],
        ..request
    };
    refused(
        broker.subscribe(&one).await,
        ErrorCode::OffsetOutOfRange,
        "ends at offset 0",
    );
}

#[tokio::test]
async fn large_records_are_written_as_json_by_a_load_and_once() {
    let broker = with_topic().await;
    let mut cursors = [
        broker.reader(&subscribe(Start::Latest)).await,
        broker.reader(&subscribe(Start::Latest)).await,
    ];
    let mut batch = BatchBuilder::default();
    let zeros = vec![b'0'; 1 << 20];
    batch.push(1, None, Some(&zeros), &[]).expect("it fits");
    let batch = batch.finish(Compression::Zstd, None).expect("a batch");
    let pending = broker.produce(Produce {
        topic: name("t"),
        partition: Some(0),
        batch: batch.into(),
    });
    within("producing", pending.expect("accepted").answer())
        .await
        .expect("durable");
    let loads = cursors
        .each_mut()
        .map(|cursor| load(cursor.poll(Form::Json)));
    let mut frames = Vec::new();
    for (cursor, load) in cursors.iter_mut().zip(loads) {
        match cursor.arrived(within("a load", load).await, Form::Json) {
            Some(Next::Frame(frame)) => frames.push(frame),
            _ => panic!("a frame was expected"),
        }
    }
    assert!(Arc::ptr_eq(&frames[0], &frames[1]));
    assert_eq!(offsets(&deliver(&frames[0], Form::Json)), [0]);
}

#[derive(Default)]
struct Counting(std::sync::atomic::AtomicUsize);

impl Follower for Counting {
    fn grown(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[tokio::test]
async fn whoever_follows_a_stream_is_told_that_it_has_grown_and_no_longer_afterwards() {
    let broker = with_topic().await;
    let subscribed = broker.subscribe(&subscribe(Start::Latest)).await;
    let (stream, _) = subscribed.expect("a stream");
    let (stays, left) = (Arc::new(Counting::default()), Arc::new(Counting::default()));
    let _guard = stream.follow(stays.clone());
    drop(stream.follow(left.clone()));
    let alter = AlterTopic {
        topic: name("t"),
        partitions: Some(2),
        durability: None,
        retention_ms: None,
        retention_bytes: None,
        timestamps: None,
        timestamp_ahead_ms: None,
        timestamp_behind_ms: None,
        out_of_bounds: None,
    };
    // The caller goes away at once.
    assert!(futures_util::FutureExt::now_or_never(broker.alter_topic(alter)).is_none());
    let told = |counting: &Counting| counting.0.load(std::sync::atomic::Ordering::Relaxed);
    eventually("the follower should be told", || told(&stays) == 1).await;
    assert_eq!(told(&left), 0);
    assert!(stream.earliest(1).is_some());
}

#[tokio::test]
async fn a_subscription_names_each_partition_once() {
    let broker = with_topic().await;
    let position = |partition| Position {
        partition,
        offset: 0,
        epoch: 1,
    };
    let resuming = |positions: &[u32]| Subscribe {
        resume: positions.iter().copied().map(position).collect(),
        ..subscribe(Start::Earliest)
    };
    let naming = |partitions: &[u32]| Subscribe {
        partitions: partitions.to_vec(),
        ..subscribe(Start::Earliest)
    };
    for (request, code, words) in [
        (resuming(&[0, 0]), ErrorCode::InvalidArgument, "twice"),
        (
            resuming(&[1, 0]),
            ErrorCode::UnknownPartition,
            "1 was asked for",
        ),
        (naming(&[0, 0]), ErrorCode::InvalidArgument, "names 2"),
        (
            naming(&[0, 7]),
            ErrorCode::UnknownPartition,
            "7 was asked for",
        ),
    ] {
        refused(broker.subscribe(&request).await, code, words);
    }
}

#[tokio::test]
async fn a_filter_that_gets_no_instance_in_time_ends_its_stream_and_names_the_setting() {
    for (instance_wait_max, ends) in [(Duration::ZERO, true), (Duration::from_secs(600), false)] {
        let config = Config {
            instance_wait_max,
            ..Config::default()
        };
        let broker = broker_with(config).await;
        broker.with_topic("t", 1, TopicSettings::default()).await;
        broker.with_plugin("all", Guest::default()).await;
        let mut cursor = broker.reader(&through("all")).await;
        broker.append("t", &["a"]).await;
        let taken = broker.engine.reserve(16).expect("nobody else has one");
        match (next(&mut cursor, Form::Binary).await, ends) {
            (Next::Ended(error), true) => {
                assert_eq!(error.code, ErrorCode::TooMany);
                assert!(error.message.contains("plugin.instances_max"), "{error}");
            }
            (Next::Retry(_), false) => {
                drop(taken);
                drop(frame(&mut cursor, Form::Binary).await);
            }
            (other, _) => panic!("{}", describe(&other)),
        }
    }
}
