//! Subscriptions over the real port: where they begin, how they catch up and
//! go over to live, and what happens to them when the topic changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eddy_client::{
    Client, Event, NewRecord, Producer, ProducerConfig, Record, SubscribeOptions, Subscription,
};
use eddy_protocol::frame::{Answer, Filter, Request, Start, Subscribe};
use eddy_protocol::{ErrorCode, Form, ServerFrame};
use eddy_tests::log::topic;
use eddy_tests::wait::LIMIT;
use eddy_tests::{Broker, Wire, artefact, eventually};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::timeout;

fn options(from: Start) -> SubscribeOptions {
    SubscribeOptions {
        from,
        ..SubscribeOptions::default()
    }
}

async fn subscribe(client: &Client, name: &str, options: SubscribeOptions) -> Subscription {
    client
        .subscribe(&topic(name), options)
        .await
        .expect("the topic is there")
}

/// The next record; anything else is a failure.
async fn next(subscription: &mut Subscription) -> Record {
    match event(subscription).await {
        Event::Data(record) => record,
        other => panic!("a record should come, not {other:?}"),
    }
}

async fn event(subscription: &mut Subscription) -> Event<Record> {
    let event = timeout(LIMIT, subscription.next()).await;
    event
        .expect("something comes in time")
        .expect("the subscription goes on")
}

async fn producer(client: &Client, name: &str) -> Producer {
    let config = ProducerConfig {
        batch_bytes: 4 << 10,
        ..ProducerConfig::default()
    };
    client
        .producer(&topic(name), config)
        .await
        .expect("the topic is there")
}

async fn push(producer: &Producer, partition: u32, values: std::ops::Range<u64>) {
    for value in values {
        let value = value.to_string();
        let record = NewRecord::new(value.as_bytes()).partition(partition);
        producer.push(&record).await.expect("taken");
    }
    producer.flush().await.expect("acknowledged");
}

/// Reads until `count` records came; the offsets of each partition must have no
/// hole and no repeat. Gives where each partition begins and ends.
async fn read(subscription: &mut Subscription, count: u64) -> BTreeMap<u32, (u64, u64)> {
    let mut ranges: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for _ in 0..count {
        let record = next(subscription).await;
        let offset = record.offset;
        let range = ranges.entry(record.partition).or_insert((offset, offset));
        assert_eq!(range.1, offset, "of partition {}", record.partition);
        range.1 += 1;
    }
    ranges
}

#[tokio::test]
async fn a_subscription_begins_where_it_is_told_in_the_partitions_that_it_names() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t", "-p", "3"]).ok();
    let client = broker.client().await;
    let producer = producer(&client, "t").await;
    for partition in 0..3 {
        for number in 0..10 {
            let record = NewRecord::new(b"old")
                .partition(partition)
                .timestamp(1_000 + number * 10);
            producer.push(&record).await.expect("taken");
        }
    }
    producer.flush().await.expect("acknowledged");
    let mut end = 10;
    for (from, first) in [
        (Start::Earliest, 0),
        (Start::Offset(4), 4),
        (Start::Offset(10), 10),
        (Start::Time(0), 0),
        (Start::Time(1_035), 4),
        (Start::Time(1_040), 4),
        (Start::Time(1_091), 10),
        (Start::Time(i64::MAX), u64::MAX),
        (Start::Latest, u64::MAX),
    ] {
        let first = first.min(end);
        let mut options = options(from);
        options.partitions = vec![2, 0];
        let mut subscription = subscribe(&client, "t", options).await;
        for partition in 0..3 {
            push(&producer, partition, 0..1).await;
        }
        end += 1;
        let ranges = read(&mut subscription, 2 * (end - first)).await;
        assert_eq!(
            ranges,
            BTreeMap::from([(0, (first, end)), (2, (first, end))]),
            "{from:?}"
        );
    }
}

/// Pushes batches of ten until it is told to stop, and says how many.
fn push_until(stop: &Arc<AtomicBool>, producer: Producer, partition: u32) -> JoinHandle<u64> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let mut pushed = 0;
        while !stop.load(Ordering::Relaxed) {
            push(&producer, partition, pushed..pushed + 10).await;
            pushed += 10;
        }
        pushed
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_go_over_from_the_disk_to_live_without_gap_or_repeat_while_a_producer_runs() {
    const READERS: u64 = 8;
    // Nearly nothing in memory: whoever is behind reads from the disk.
    let broker = Broker::start_with(&["--set", "store.tail_bytes=2KiB"]);
    broker
        .eddy(&["topic", "create", "t", "-p", "2", "--durability", "memory"])
        .ok();
    let client = broker.client().await;
    let stop = Arc::new(AtomicBool::new(false));
    let pushing =
        [0, 1].map(async |partition| push_until(&stop, producer(&client, "t").await, partition));
    let [first, second] = pushing;
    let pushing = [first.await, second.await];
    let mut readers = Vec::new();
    for number in 1..=READERS {
        let enough = number * 200;
        eventually(LIMIT, "the producer should go on", async || {
            let info = client
                .describe_topic(&topic("t"))
                .await
                .expect("it is there");
            (info
                .partitions
                .iter()
                .map(|partition| partition.end)
                .sum::<u64>()
                >= enough)
                .then_some(())
        })
        .await;
        readers.push(subscribe(&client, "t", options(Start::Earliest)).await);
    }
    stop.store(true, Ordering::Relaxed);
    let [first, second] = pushing;
    let pushed = [
        first.await.expect("no panic"),
        second.await.expect("no panic"),
    ];
    let expected = BTreeMap::from([(0, (0, pushed[0])), (1, (0, pushed[1]))]);
    for mut reader in readers {
        assert_eq!(read(&mut reader, pushed[0] + pushed[1]).await, expected);
    }
}

fn request(name: &str, from: Start, filter: Option<Filter>) -> Request {
    Request::Subscribe(Subscribe {
        topic: topic(name),
        partitions: Vec::new(),
        from,
        resume: Vec::new(),
        filter,
    })
}

#[tokio::test]
async fn subscribers_of_a_topic_get_the_same_bytes() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    for form in [Form::Binary, Form::Json] {
        let mut wires = Vec::new();
        for _ in 0..5 {
            let mut wire = Wire::greeted(broker.address(), form).await;
            let answer = wire.ask(request("t", Start::Latest, None)).await;
            assert!(matches!(answer, Ok(Answer::Subscribed(_))), "{answer:?}");
            wires.push(wire);
        }
        for round in 0..10 {
            broker
                .post(
                    "/v1/topics/t/records",
                    &json!({"records": [{"value": round}]}),
                )
                .ok();
            let mut messages = Vec::new();
            for wire in &mut wires {
                messages.push(wire.message().await.expect("it is delivered"));
            }
            assert!(
                messages.iter().all(|message| *message == messages[0]),
                "{messages:?}"
            );
        }
    }
}

/// A value that fills a socket's buffers soon.
const LARGE: usize = 64 << 10;

async fn push_large(producer: &Producer, count: u64) {
    let value = vec![b'x'; LARGE];
    for _ in 0..count {
        producer.push(&NewRecord::new(&value)).await.expect("taken");
    }
    producer.flush().await.expect("acknowledged");
}

#[tokio::test]
async fn a_reader_that_does_not_read_slows_nobody_and_finds_everything_later() {
    const RECORDS: u64 = 300;
    let broker = Broker::start();
    broker
        .eddy(&["topic", "create", "t", "--durability", "memory"])
        .ok();
    let client = broker.client().await;
    let mut slow = Wire::greeted(broker.address(), Form::Binary).await;
    slow.ask(request("t", Start::Earliest, None))
        .await
        .expect("the topic is there");
    let mut quick = subscribe(&client, "t", options(Start::Earliest)).await;
    let producer = producer(&client, "t").await;
    for round in 1..=3 {
        push_large(&producer, RECORDS / 3).await;
        let first = (round - 1) * RECORDS / 3;
        let expected = BTreeMap::from([(0, (first, round * RECORDS / 3))]);
        assert_eq!(read(&mut quick, RECORDS / 3).await, expected);
    }
    let mut expected = 0;
    while expected < RECORDS {
        expected = delivered(&slow.frame().await, expected);
    }
}

/// The reader's next offset after a frame, which must go on where it was.
#[track_caller]
fn delivered(frame: &ServerFrame, expected: u64) -> u64 {
    let ServerFrame::Deliver(deliver) = frame else {
        panic!("records should come, not {frame:?}");
    };
    let first = deliver
        .batches
        .iter()
        .next()
        .expect("at least one")
        .expect("a good batch");
    assert!(
        first.base_offset() <= expected && expected < deliver.next,
        "{expected}: {deliver:?}"
    );
    deliver.next
}

#[tokio::test]
async fn a_reader_that_retention_overtakes_is_told_both_offsets_and_goes_on() {
    let broker = Broker::start_with(&[
        "--set",
        "store.segment_bytes=1MiB",
        "--set",
        "store.checkpoint_bytes=1MiB",
        "--set",
        "store.retention_interval=10ms",
    ]);
    broker
        .eddy(&[
            "topic",
            "create",
            "t",
            "--retention-bytes",
            "2MiB",
            "--durability",
            "memory",
        ])
        .ok();
    let client = broker.client().await;
    let producer = producer(&client, "t").await;
    let mut slow = Wire::greeted(broker.address(), Form::Binary).await;
    slow.ask(request("t", Start::Earliest, None))
        .await
        .expect("the topic is there");
    // More than the sockets' buffers hold, so that the slow one is overtaken.
    for _ in 0..8 {
        push_large(&producer, 100).await;
    }
    let info = eventually(LIMIT, "retention should delete segments", async || {
        let info = client
            .describe_topic(&topic("t"))
            .await
            .expect("it is there");
        (info.partitions[0].bytes <= 4 << 20).then_some(info)
    })
    .await;
    let end = info.partitions[0].end;
    assert_eq!(end, 800);

    let (mut expected, mut gaps) = (0, 0);
    while expected < end {
        match slow.frame().await {
            ServerFrame::Gap(gap) => {
                assert_eq!(gap.expected, expected, "{gap:?}");
                let info = client.describe_topic(&topic("t")).await;
                let start = info.expect("it is there").partitions[0].start;
                assert!(
                    expected < gap.next && gap.next <= start,
                    "{gap:?}, the topic begins at {start}"
                );
                (expected, gaps) = (gap.next, gaps + 1);
            }
            frame => expected = delivered(&frame, expected),
        }
    }
    assert!(gaps > 0, "the reader was not overtaken");
    assert!(
        broker.metric("eddy_gaps_total") >= f64::from(gaps),
        "the metric counts gaps"
    );

    let mut late = subscribe(&client, "t", options(Start::Offset(3))).await;
    let Event::Gap(gap) = event(&mut late).await else {
        panic!("a gap comes first")
    };
    assert_eq!((gap.partition, gap.expected), (0, 3));
    assert!(gap.next >= info.partitions[0].start, "{gap:?}");
    assert_eq!(next(&mut late).await.offset, gap.next);
}

#[tokio::test]
async fn partitions_that_are_added_reach_those_who_read_the_whole_topic() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let client = broker.client().await;
    let mut whole = subscribe(&client, "t", options(Start::Latest)).await;
    let mut part = subscribe(
        &client,
        "t",
        SubscribeOptions {
            partitions: vec![0],
            ..options(Start::Latest)
        },
    )
    .await;
    broker.eddy(&["topic", "alter", "t", "-p", "3"]).ok();
    let producer = producer(&client, "t").await;
    for partition in [1, 2, 0] {
        push(&producer, partition, 0..5).await;
    }
    let expected = BTreeMap::from([(0, (0, 5)), (1, (0, 5)), (2, (0, 5))]);
    assert_eq!(read(&mut whole, 15).await, expected);
    assert_eq!(read(&mut part, 5).await, BTreeMap::from([(0, (0, 5))]));
}

#[tokio::test]
async fn a_deleted_topic_ends_its_subscriptions_and_a_new_one_of_the_name_begins_anew() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    broker.eddy_with_input(&["pub", "t"], "old\n").ok();
    let client = broker.client().await;
    let mut subscription = subscribe(&client, "t", options(Start::Earliest)).await;
    next(&mut subscription).await;
    let command = broker.eddy_running(&["sub", "t", "--from", "earliest"]);
    command.stdout().wait_for("old", 0);
    broker.eddy(&["topic", "delete", "t"]).ok();
    let ended = timeout(LIMIT, subscription.next())
        .await
        .expect("in time")
        .expect_err("it ends");
    assert_eq!(ended.code(), Some(ErrorCode::UnknownTopic), "{ended}");
    assert!(ended.to_string().contains("`t`"), "{ended}");
    let command = command.wait(LIMIT);
    assert!(
        command.code == Some(1) && command.stderr.contains("`t`"),
        "{command:?}"
    );

    broker.eddy(&["topic", "create", "t"]).ok();
    broker.eddy_with_input(&["pub", "t"], "new\n").ok();
    let mut subscription = subscribe(&client, "t", options(Start::Earliest)).await;
    let record = next(&mut subscription).await;
    assert_eq!(
        (record.offset, record.value.as_deref()),
        (0, Some(&b"new"[..]))
    );
}

fn contains(word: &str) -> Filter {
    let params = BTreeMap::from([("contains".to_owned(), word.to_owned())]);
    Filter {
        plugin: "byte-filter".into(),
        params,
    }
}

#[tokio::test]
async fn a_filter_is_evaluated_once_for_all_who_ask_for_the_same() {
    const RECORDS: u64 = 50;
    let broker = Broker::start();
    let plugin = artefact::plugin("byte-filter");
    broker
        .eddy(&["plugin", "push", &plugin.to_string_lossy()])
        .ok();
    broker.eddy(&["topic", "create", "t"]).ok();
    let client = broker.client().await;
    let mut readers = Vec::new();
    for word in ["7", "7", "7", "8"] {
        let options = SubscribeOptions {
            filter: Some(contains(word)),
            ..options(Start::Latest)
        };
        readers.push((word, subscribe(&client, "t", options).await));
    }
    push(&producer(&client, "t").await, 0, 0..RECORDS).await;
    for (word, reader) in &mut readers {
        for number in (0..RECORDS).filter(|number| number.to_string().contains(*word)) {
            let record = loop {
                match event(reader).await {
                    Event::Data(record) => break record,
                    Event::Advanced(_) => {}
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(
                (record.offset, record.value),
                (number, Some(number.to_string().into_bytes()))
            );
        }
    }
    // Four readers, two filters.
    assert_eq!(
        broker.metric("eddy_filter_records_total"),
        2.0 * RECORDS as f64
    );
}

#[tokio::test]
async fn a_filter_that_keeps_nothing_lets_its_reader_know_how_far_it_is() {
    let broker = Broker::start();
    let plugin = artefact::plugin("byte-filter");
    broker
        .eddy(&["plugin", "push", &plugin.to_string_lossy()])
        .ok();
    broker.eddy(&["topic", "create", "t"]).ok();
    let client = broker.client().await;
    let options = SubscribeOptions {
        filter: Some(contains("nothing")),
        ..options(Start::Earliest)
    };
    let mut reader = subscribe(&client, "t", options).await;
    let producer = producer(&client, "t").await;
    for round in 1..=2 {
        push(&producer, 0, 0..5).await;
        loop {
            match event(&mut reader).await {
                Event::Advanced(position) if position.offset == round * 5 => break,
                Event::Advanced(position) => assert!(position.offset < round * 5, "{position:?}"),
                other => panic!("{other:?}"),
            }
        }
    }
    let arguments = ["sub", "t", "--from", "earliest", "--until-end"];
    let filter = ["--filter", "byte-filter", "--param", "contains=nothing"];
    let nothing = broker.eddy(&[&arguments[..], &filter[..]].concat()).ok();
    assert_eq!(nothing, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filtered_subscription_goes_on_after_a_kill_without_gap_or_repeat() {
    const ROUNDS: u64 = 4;
    const ROUND_RECORDS: u64 = 100;
    let mut broker = Broker::start();
    let plugin = artefact::plugin("byte-filter");
    broker
        .eddy(&["plugin", "push", &plugin.to_string_lossy()])
        .ok();
    broker.eddy(&["topic", "create", "t"]).ok();
    let client = broker.client().await;
    let options = SubscribeOptions {
        filter: Some(contains("3")),
        ..options(Start::Earliest)
    };
    let mut reader = subscribe(&client, "t", options).await;
    let producer = producer(&client, "t").await;
    for round in 0..ROUNDS {
        push(
            &producer,
            0,
            round * ROUND_RECORDS..(round + 1) * ROUND_RECORDS,
        )
        .await;
        broker.kill9();
        broker.restart();
    }
    for number in (0..ROUNDS * ROUND_RECORDS).filter(|number| number.to_string().contains('3')) {
        let record = loop {
            match event(&mut reader).await {
                Event::Data(record) => break record,
                Event::Advanced(_) | Event::Reconnected => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(record.offset, number);
    }
}

/// The conversation of SPEC.md, section 9, with nothing but JSON.
#[tokio::test]
async fn the_conversation_of_the_specification_takes_place_as_it_is_written() {
    let broker = Broker::start();
    let mut wire = Wire::silent(broker.address(), Form::Json).await;
    wire.say(&json!({"id": 1, "hello": {"client": "example 1.0"}}))
        .await;
    let welcome = wire.hear().await;
    let limits = &welcome["answer"]["welcome"];
    assert_eq!(welcome["answer"]["id"], 1);
    for name in [
        "incarnation",
        "frame_bytes_max",
        "batch_bytes_max",
        "subscriptions_max",
        "idle_timeout_ms",
    ] {
        assert!(limits[name].is_u64(), "{welcome} has no {name}");
    }
    wire.say(&json!({"id": 2, "create_topic": {"topic": "quakes", "partitions": 1}}))
        .await;
    let created = wire.hear().await;
    let epoch = created["answer"]["topic"]["partitions"][0]["epoch"].clone();
    assert_eq!(
        created,
        json!({"answer": {"id": 2, "topic": {
            "topic": "quakes", "durability": "disk", "retention_ms": null, "retention_bytes": null,
            "timestamps": "create", "timestamp_ahead_ms": 3_600_000, "timestamp_behind_ms": null,
            "out_of_bounds": "refuse", "uuid": created["answer"]["topic"]["uuid"],
            "partitions": [{"partition": 0, "epoch": epoch, "start": 0, "end": 0, "bytes": created["answer"]["topic"]["partitions"][0]["bytes"]}],
        }}})
    );
    wire.say(&json!({"id": 3, "subscribe": {"topic": "quakes", "from": "earliest"}}))
        .await;
    let subscribed = wire.hear().await;
    let stream = subscribed["answer"]["subscribed"]["stream"].clone();
    let position = |offset: u64| json!({"partition": 0, "offset": offset, "epoch": epoch});
    assert_eq!(
        subscribed,
        json!({"answer": {"id": 3, "subscribed": {"stream": stream, "positions": [position(0)]}}})
    );
    wire.say(&json!({"id": 4, "open_producer": {}})).await;
    let producer = wire.hear().await["answer"]["producer"].clone();
    let stamp = json!({"id": producer["id"], "epoch": producer["epoch"], "sequence": 0});
    let produce = json!({"topic": "quakes", "partition": 0, "producer": stamp, "records": [
        {"key": "ak024", "value": {"mag": 4.6, "place": "Alaska"}, "timestamp": 1_700_000_000_000_i64},
        {"key": "us70", "value": {"mag": 1.2}, "timestamp": 1_700_000_000_000_i64},
    ]});
    wire.say(&json!({"id": 5, "produce": produce})).await;
    // Which of the two comes first is not promised.
    let mut heard = [wire.hear().await, wire.hear().await];
    heard.sort_by_key(|frame| frame.get("deliver").is_none());
    assert_eq!(
        heard[0]["deliver"]["records"],
        json!([
            {"offset": 0, "timestamp": 1_700_000_000_000_i64, "key": "ak024", "value": "{\"mag\":4.6,\"place\":\"Alaska\"}"},
            {"offset": 1, "timestamp": 1_700_000_000_000_i64, "key": "us70", "value": "{\"mag\":1.2}"},
        ])
    );
    let delivered = &heard[0]["deliver"];
    assert_eq!(
        (
            &delivered["stream"],
            &delivered["epoch"],
            &delivered["next"]
        ),
        (&stream, &epoch, &json!(2))
    );
    let produced = |id: u32, duplicate: bool| json!({"answer": {"id": id, "produced": {"partition": 0, "offset": 0, "count": 2, "duplicate": duplicate}}});
    assert_eq!(heard[1], produced(5, false));
    drop(wire);

    let mut wire = Wire::silent(broker.address(), Form::Json).await;
    wire.say(&json!({"id": 1, "hello": {"client": "example 1.0"}}))
        .await;
    wire.hear().await;
    wire.say(&json!({"id": 2, "subscribe": {"topic": "quakes", "from": "earliest", "resume": [position(2)]}})).await;
    let resumed = wire.hear().await;
    assert_eq!(
        resumed["answer"]["subscribed"]["positions"],
        json!([position(2)])
    );
    let stream = &resumed["answer"]["subscribed"]["stream"];
    wire.say(&json!({"id": 3, "produce": produce})).await;
    assert_eq!(wire.hear().await, produced(3, true));
    wire.say(&json!({"id": 4, "produce": {"topic": "nowhere", "partition": 0, "records": [{"value": 1}]}})).await;
    let refused = wire.hear().await["error"].clone();
    assert_eq!(
        (&refused["id"], &refused["code"], &refused["retryable"]),
        (&json!(4), &json!("unknown_topic"), &json!(false))
    );
    assert!(
        refused["message"]
            .as_str()
            .is_some_and(|message| message.contains("nowhere")),
        "{refused}"
    );
    wire.say(&json!({"id": 5, "unsubscribe": {"stream": stream}}))
        .await;
    assert_eq!(
        wire.hear().await,
        json!({"answer": {"id": 5, "unsubscribed": {}}})
    );
    // Nothing more of the stream follows.
    broker.eddy_with_input(&["pub", "quakes"], "later\n").ok();
    wire.say(&json!({"id": 6, "ping": {}})).await;
    assert_eq!(wire.hear().await, json!({"answer": {"id": 6, "pong": {}}}));
}
