//! Producing once, whatever happens to answers, connections and brokers.

use std::time::Duration;

use eddy_client::{ClientError, NewRecord, ProducerConfig};
use eddy_protocol::frame::{Answer, OpenProducer, Produce, Produced, Producer, Request};
use eddy_protocol::{
    Batch, BatchBuilder, Compression, ErrorCode, Form, ProducerStamp, WireError, partitioner,
};
use eddy_tests::log::{read_partition, read_topic, topic};
use eddy_tests::refusal::{assert_error, assert_refused};
use eddy_tests::wait::LIMIT;
use eddy_tests::{Broker, Wire, http, wait_until};
use serde_json::{Value, json};
use tokio::time::timeout;

const DURABILITIES: [&str; 2] = ["disk", "memory"];

/// Three records, stamped as a producer of this identity numbers them.
fn batch(producer: Producer, sequence: u32) -> Batch {
    let mut builder = BatchBuilder::new();
    for number in sequence..sequence + 3 {
        let value = format!("record {number}");
        builder
            .push(1_700_000_000_000, None, Some(value.as_bytes()), &[])
            .expect("there is room");
    }
    let stamp = ProducerStamp {
        id: producer.id,
        epoch: producer.epoch,
        sequence,
    };
    builder
        .finish(Compression::None, Some(stamp))
        .expect("a batch")
}

fn produce(name: &str, batch: Batch) -> Request {
    Request::Produce(Produce {
        topic: topic(name),
        partition: Some(0),
        batch: batch.into(),
    })
}

async fn open(wire: &mut Wire, name: Option<&str>) -> Producer {
    let request = OpenProducer {
        name: name.map(str::to_owned),
        current: None,
    };
    identify(wire, request).await
}

async fn identify(wire: &mut Wire, request: OpenProducer) -> Producer {
    match wire.ask(Request::OpenProducer(request)).await {
        Ok(Answer::Producer(producer)) => producer,
        other => panic!("no identity but {other:?}"),
    }
}

async fn send(wire: &mut Wire, name: &str, batch: Batch) -> Result<Produced, WireError> {
    match wire.ask(produce(name, batch)).await {
        Ok(Answer::Produced(produced)) => Ok(produced),
        Ok(other) => panic!("another question was answered: {other:?}"),
        Err(error) => Err(error),
    }
}

#[tokio::test]
async fn what_was_given_up_can_not_come_once_the_next_epoch_is_there() {
    let mut broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let mut late = Wire::greeted(broker.address(), Form::Binary).await;
    let first = open(&mut late, None).await;
    send(&mut late, "t", batch(first, 0)).await.expect("new");
    let next = OpenProducer {
        name: None,
        current: Some(first),
    };
    let second = Producer {
        id: first.id,
        epoch: first.epoch + 1,
    };
    let mut wire = Wire::greeted(broker.address(), Form::Json).await;
    // Asked again, as after an answer that got lost, also in another life of the broker.
    assert_eq!(identify(&mut wire, next.clone()).await, second);
    assert_eq!(identify(&mut wire, next.clone()).await, second);
    let fenced = send(&mut late, "t", batch(first, 3))
        .await
        .expect_err("late");
    assert_error(&fenced, ErrorCode::FencedProducer, &["epoch 0"]);
    broker.kill9();
    broker.restart();
    let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
    assert_eq!(identify(&mut wire, next.clone()).await, second);
    let produced = send(&mut wire, "t", batch(second, 0)).await.expect("new");
    assert_eq!((produced.offset, produced.duplicate), (Some(3), false));
    let fenced = send(&mut wire, "t", batch(first, 3))
        .await
        .expect_err("late");
    assert_error(&fenced, ErrorCode::FencedProducer, &["epoch 0"]);
    let again = wire
        .ask(Request::OpenProducer(next))
        .await
        .expect_err("late");
    assert_error(&again, ErrorCode::FencedProducer, &["epoch 0"]);
    let both = OpenProducer {
        name: Some("n".into()),
        current: Some(second),
    };
    let both = wire
        .ask(Request::OpenProducer(both))
        .await
        .expect_err("which?");
    assert_error(&both, ErrorCode::Inconsistent, &["`current`", "`name`"]);
    let produced = send(&mut wire, "t", batch(second, 3)).await.expect("new");
    assert_eq!(produced.offset, Some(6));
}

#[tokio::test]
async fn a_batch_that_comes_again_is_recognised_on_any_connection_and_after_a_kill() {
    let mut broker = Broker::start();
    for durability in DURABILITIES {
        broker
            .eddy(&["topic", "create", durability, "--durability", durability])
            .ok();
    }
    for durability in DURABILITIES {
        let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
        let producer = open(&mut wire, None).await;
        for sequence in [0, 3] {
            let produced = send(&mut wire, durability, batch(producer, sequence))
                .await
                .expect("it is new");
            let expected = (Some(u64::from(sequence)), 3, false);
            assert_eq!(
                (produced.offset, produced.count, produced.duplicate),
                expected
            );
        }
        for round in [
            "the same connection",
            "another connection",
            "another life of the broker",
        ] {
            match round {
                "another connection" => wire = Wire::greeted(broker.address(), Form::Json).await,
                "another life of the broker" => {
                    broker.kill9();
                    broker.restart();
                    wire = Wire::greeted(broker.address(), Form::Binary).await;
                }
                _ => {}
            }
            for sequence in [0, 3, 0] {
                let again = send(&mut wire, durability, batch(producer, sequence))
                    .await
                    .expect("a repeat");
                let expected = (Some(u64::from(sequence)), 3, true);
                assert_eq!(
                    (again.offset, again.count, again.duplicate),
                    expected,
                    "{round}"
                );
            }
        }
        let next = send(&mut wire, durability, batch(producer, 6))
            .await
            .expect("the next");
        assert_eq!((next.offset, next.duplicate), (Some(6), false));
        let entries = read_partition(&broker.client().await, &topic(durability), 0)
            .await
            .expect("it serves");
        let values: Vec<_> = entries.into_iter().map(|entry| entry.value).collect();
        assert_eq!(
            values,
            (0..9)
                .map(|number| format!("record {number}"))
                .collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn a_batch_before_which_one_is_missing_is_refused_until_that_one_came() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
    let producer = open(&mut wire, None).await;
    let early = send(&mut wire, "t", batch(producer, 3))
        .await
        .expect_err("the first is missing");
    assert_error(
        &early,
        ErrorCode::OutOfOrderSequence,
        &[&producer.id.to_string(), "sequence 0", "3"],
    );
    assert!(early.code.retryable());
    // Several under way: the broker takes them in the order in which they came.
    let mut asked = Vec::new();
    for sequence in [0, 3, 9, 6] {
        asked.push((
            sequence,
            wire.request(produce("t", batch(producer, sequence))).await,
        ));
    }
    for (sequence, id) in asked {
        let answer = wire.answer(id).await;
        match sequence {
            9 => assert_error(
                &answer.expect_err("6 is missing"),
                ErrorCode::OutOfOrderSequence,
                &["sequence 6", "9"],
            ),
            _ => assert!(
                matches!(answer, Ok(Answer::Produced(_))),
                "{sequence}: {answer:?}"
            ),
        }
    }
    send(&mut wire, "t", batch(producer, 9))
        .await
        .expect("nothing is missing now");
    // A batch that is half a repeat is no batch that was ever sent.
    let half = send(&mut wire, "t", batch(producer, 10)).await;
    assert!(half.is_err(), "{half:?}");
    let entries = read_partition(&broker.client().await, &topic("t"), 0)
        .await
        .expect("it serves");
    assert_eq!(entries.len(), 12);
}

#[tokio::test]
async fn a_name_opened_again_shuts_out_its_older_holder_for_good() {
    let mut broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
    let old = open(&mut wire, Some("sensor")).await;
    send(&mut wire, "t", batch(old, 0))
        .await
        .expect("it is alone");
    let new = open(&mut wire, Some("sensor")).await;
    assert_eq!((new.id, new.epoch), (old.id, old.epoch + 1));
    for life in ["the first", "the second"] {
        let fenced = send(&mut wire, "t", batch(old, 3))
            .await
            .expect_err("it is shut out");
        assert_error(
            &fenced,
            ErrorCode::FencedProducer,
            &[&old.id.to_string(), "epoch"],
        );
        assert!(!fenced.code.retryable(), "{life}");
        broker.kill9();
        broker.restart();
        wire = Wire::greeted(broker.address(), Form::Binary).await;
    }
    send(&mut wire, "t", batch(new, 0))
        .await
        .expect("a new epoch begins at 0");
    let third = open(&mut wire, Some("sensor")).await;
    assert_eq!((third.id, third.epoch), (old.id, new.epoch + 1));

    let named = ProducerConfig {
        name: Some("sensor".into()),
        ..ProducerConfig::default()
    };
    let client = broker.client().await;
    let first = client
        .producer(&topic("t"), named.clone())
        .await
        .expect("a producer");
    first
        .send(&NewRecord::new(b"1"))
        .await
        .expect("taken")
        .wait()
        .await
        .expect("acknowledged");
    let second = client
        .producer(&topic("t"), named)
        .await
        .expect("a producer");
    second
        .send(&NewRecord::new(b"2"))
        .await
        .expect("taken")
        .wait()
        .await
        .expect("acknowledged");
    let shut_out = match first.send(&NewRecord::new(b"3")).await {
        Ok(ack) => ack.wait().await.expect_err("it is shut out"),
        Err(error) => error,
    };
    assert_eq!(
        shut_out.code(),
        Some(ErrorCode::FencedProducer),
        "{shut_out}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_batches_in_flight_keep_their_order_over_connections_and_brokers_that_come_and_go()
{
    const RECORDS: usize = 3_000;
    const LIVES: usize = 4;
    let mut broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let client = broker.client().await;
    let config = ProducerConfig {
        batch_bytes: 512,
        linger: Duration::ZERO,
        in_flight_max: 8,
        ..ProducerConfig::default()
    };
    let producer = client
        .producer(&topic("t"), config)
        .await
        .expect("the topic is there");
    let pushing = tokio::spawn({
        let producer = producer.clone();
        async move {
            let mut acks = Vec::new();
            for number in 0..RECORDS {
                let value = number.to_string();
                acks.push(
                    producer
                        .send(&NewRecord::new(value.as_bytes()))
                        .await
                        .expect("taken"),
                );
                tokio::task::yield_now().await;
            }
            acks
        }
    });
    for life in 1..LIVES {
        let passed = (life * RECORDS / LIVES) as u64;
        wait_until(LIMIT, "records should be acknowledged", || {
            (producer.counts().acknowledged >= passed).then_some(())
        });
        broker.kill9();
        broker.restart();
    }
    let acks = timeout(LIMIT, pushing)
        .await
        .expect("in time")
        .expect("no panic");
    for (offset, ack) in acks.into_iter().enumerate() {
        let place = timeout(LIMIT, ack.wait())
            .await
            .expect("in time")
            .expect("acknowledged");
        assert!(
            place.offset.is_none_or(|found| found == offset as u64),
            "{offset}: {place:?}"
        );
    }
    let entries = read_partition(&client, &topic("t"), 0)
        .await
        .expect("it serves");
    let values: Vec<_> = entries.into_iter().map(|entry| entry.value).collect();
    assert_eq!(
        values,
        (0..RECORDS)
            .map(|number| number.to_string())
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_deleted_topic_fails_its_producer_with_the_brokers_reason() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let client = broker.client().await;
    let producer = client
        .producer(&topic("t"), ProducerConfig::default())
        .await
        .expect("a producer");
    producer
        .send(&NewRecord::new(b"1"))
        .await
        .expect("taken")
        .wait()
        .await
        .expect("acknowledged");
    broker.eddy(&["topic", "delete", "t"]).ok();
    let ack = producer.send(&NewRecord::new(b"2")).await.expect("taken");
    let error = timeout(LIMIT, ack.wait())
        .await
        .expect("in time")
        .expect_err("the topic is gone");
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopic), "{error}");
    assert!(matches!(
        producer.flush().await,
        Err(ClientError::Refused(_))
    ));
}

#[test]
fn a_request_over_http_can_be_repeated_too() {
    let mut broker = Broker::start();
    broker.eddy(&["topic", "create", "t", "-p", "2"]).ok();
    let producer = broker.post("/v1/producers", &json!({})).ok().json();
    let post = |broker: &Broker, sequence: u32| {
        let path = format!(
            "/v1/topics/t/records?partition=1&producer_id={}&producer_epoch={}&sequence={sequence}",
            producer["id"], producer["epoch"]
        );
        broker.post(
            &path,
            &json!({"records": [{"value": sequence}, {"value": sequence + 1}]}),
        )
    };
    let produced = |answer: http::Response| answer.ok().json()["produced"][0].clone();
    let expected = |offset: u32, duplicate: bool| -> Value {
        json!({"partition": 1, "offset": offset, "count": 2, "duplicate": duplicate})
    };
    assert_eq!(produced(post(&broker, 0)), expected(0, false));
    assert_eq!(produced(post(&broker, 0)), expected(0, true));
    assert_eq!(produced(post(&broker, 2)), expected(2, false));
    broker.kill9();
    broker.restart();
    assert_eq!(produced(post(&broker, 2)), expected(2, true));
    assert_eq!(produced(post(&broker, 0)), expected(0, true));
    assert_refused(
        &post(&broker, 6),
        409,
        "out_of_order_sequence",
        &["sequence 4", "6"],
    );
    assert_eq!(produced(post(&broker, 4)), expected(4, false));
    let read = broker.get("/v1/topics/t/partitions/1/records").ok().json();
    let values: Vec<_> = read["records"]
        .as_array()
        .expect("records")
        .iter()
        .map(|record| &record["value"])
        .collect();
    assert_eq!(json!(values), json!(["0", "1", "2", "3", "4", "5"]));
    let alone = broker.post(
        "/v1/topics/t/records?sequence=1",
        &json!({"records": [{"value": 1}]}),
    );
    assert_refused(&alone, 409, "inconsistent", &["producer_id"]);
}

/// From Kafka's own `UtilsTest.testMurmur2`; a partition is the hash without
/// its sign, modulo the number of partitions.
const KAFKA: [(&str, i32); 6] = [
    ("21", -973_932_308),
    ("foobar", -790_332_482),
    ("a-little-bit-long-string", -985_981_536),
    ("a-little-bit-longer-string", -1_486_304_829),
    (
        "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
        -58_897_971,
    ),
    ("abc", 479_470_107),
];

#[tokio::test]
async fn keys_land_where_kafka_puts_them_whoever_places_them() {
    const PARTITIONS: u32 = 7;
    let broker = Broker::start();
    broker
        .eddy(&["topic", "create", "t", "-p", &PARTITIONS.to_string()])
        .ok();
    let client = broker.client().await;
    let producer = client
        .producer(&topic("t"), ProducerConfig::default())
        .await
        .expect("a producer");
    let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
    for (key, _) in KAFKA {
        producer
            .push(&NewRecord::new(b"client").key(key.as_bytes()))
            .await
            .expect("taken");
        broker
            .post(
                "/v1/topics/t/records",
                &json!({"records": [{"key": key, "value": "http"}]}),
            )
            .ok();
        broker
            .eddy_with_input(&["pub", "t", "--key", key], "command line\n")
            .ok();
        let mut builder = BatchBuilder::new();
        builder
            .push(0, Some(key.as_bytes()), Some(b"wire"), &[])
            .expect("there is room");
        let batch = builder.finish(Compression::None, None).expect("a batch");
        let unplaced = Produce {
            topic: topic("t"),
            partition: None,
            batch: batch.into(),
        };
        wire.ask(Request::Produce(unplaced))
            .await
            .expect("the broker places it");
    }
    producer.flush().await.expect("acknowledged");
    let partitions = read_topic(&client, &topic("t")).await;
    for (key, hash) in KAFKA {
        let expected = (hash as u32 & 0x7fff_ffff) % PARTITIONS;
        assert_eq!(
            partitioner::partition_for_key(key.as_bytes(), PARTITIONS),
            expected
        );
        let mut found = Vec::new();
        for (number, entries) in partitions.iter().enumerate() {
            let of_key = entries.iter().filter(|entry| entry.key == key);
            found.extend(of_key.map(|entry| (number as u32, entry.value.as_str())));
        }
        found.sort_unstable();
        assert_eq!(
            found,
            ["client", "command line", "http", "wire"].map(|by| (expected, by)),
            "{key}"
        );
    }
}
