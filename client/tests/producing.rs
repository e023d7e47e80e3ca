//! What a producer promises, against a broker that loses connections.

mod broker;

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use broker::{Broker, PATIENCE};
use eddy_client::{Client, ClientError, Config, NewRecord, ProducerConfig, PushError};
use eddy_protocol::frame::{Commit, Produce};
use eddy_protocol::{BatchBuilder, Compression, ErrorCode};
use tokio::time::timeout;

fn small_batches() -> ProducerConfig {
    ProducerConfig {
        batch_bytes: 1000,
        linger: Duration::from_millis(1),
        ..ProducerConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_in_the_log_once_and_in_order_though_answers_are_lost() {
    let (broker, config) = Broker::start(3).await;
    broker.drop_every.store(7, Ordering::SeqCst);
    let client = Client::connect(config).await.expect("a broker");
    let producer = client
        .producer(&broker.topic, small_batches())
        .await
        .expect("a topic");
    let mut expected: HashMap<u32, Vec<Vec<u8>>> = HashMap::new();
    for number in 0..5000u32 {
        let (key, value) = (format!("key {}", number % 10), number.to_string());
        let record = NewRecord::new(value.as_bytes()).key(key.as_bytes());
        timeout(PATIENCE, producer.push(&record))
            .await
            .expect("in time")
            .expect("it is taken");
        let partition = eddy_protocol::partitioner::partition_for_key(key.as_bytes(), 3);
        expected
            .entry(partition)
            .or_default()
            .push(value.into_bytes());
    }
    timeout(PATIENCE, producer.flush())
        .await
        .expect("in time")
        .expect("all is acknowledged");
    assert_eq!(producer.counts().acknowledged, 5000);
    assert!(
        broker.connections.load(Ordering::SeqCst) > 3,
        "connections were lost"
    );
    for (partition, values) in expected {
        assert_eq!(
            broker.values(partition as usize),
            values,
            "partition {partition}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_names_the_records_own_offset() {
    let (broker, config) = Broker::start(1).await;
    let client = Client::connect(config).await.expect("a broker");
    let producer = client
        .producer(&broker.topic, ProducerConfig::default())
        .await
        .expect("a topic");
    let mut acks = Vec::new();
    for number in 0..100u64 {
        acks.push((
            number,
            producer
                .send(&NewRecord::new(b"x"))
                .await
                .expect("it is taken"),
        ));
    }
    for (number, ack) in acks {
        let acknowledged = timeout(PATIENCE, ack.wait())
            .await
            .expect("in time")
            .expect("it is in the log");
        assert_eq!(
            (acknowledged.partition, acknowledged.offset),
            (0, Some(number))
        );
    }
    assert!(broker.batches(0) < 100, "records travel together");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_buffer_refuses_records_until_something_is_acknowledged() {
    let (broker, config) = Broker::start(1).await;
    broker.disk_full.store(true, Ordering::SeqCst);
    let client = Client::connect(config).await.expect("a broker");
    let bounded = ProducerConfig {
        buffer_bytes: 10_000,
        ..small_batches()
    };
    let producer = client
        .producer(&broker.topic, bounded)
        .await
        .expect("a topic");
    let record = NewRecord::new(&[7; 500]);
    let mut taken = 0;
    while producer.try_push(&record).is_ok() {
        taken += 1;
        assert!(taken < 20, "10,000 bytes hold no 20 records of 500");
    }
    assert_eq!(producer.try_push(&record), Err(PushError::Full));
    broker.disk_full.store(false, Ordering::SeqCst);
    timeout(PATIENCE, producer.push(&record))
        .await
        .expect("there is room again")
        .expect("it is taken");
    timeout(PATIENCE, producer.flush())
        .await
        .expect("in time")
        .expect("the disk has room again");
    assert_eq!(broker.values(0).len(), taken + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_deadline_a_producer_fails_with_the_brokers_own_reason() {
    let (broker, config) = Broker::start(1).await;
    broker.disk_full.store(true, Ordering::SeqCst);
    let config = Config {
        deadline: Some(Duration::from_millis(200)),
        ..config
    };
    let client = Client::connect(config).await.expect("a broker");
    let producer = client
        .producer(&broker.topic, small_batches())
        .await
        .expect("a topic");
    let ack = producer
        .send(&NewRecord::new(b"x"))
        .await
        .expect("it is taken");
    let error = timeout(PATIENCE, producer.flush())
        .await
        .expect("in time")
        .expect_err("the disk is full");
    assert_eq!(error.code(), Some(ErrorCode::DiskFull));
    assert_eq!(ack.wait().await, Err(error.clone()));
    assert_eq!(producer.push(&NewRecord::new(b"y")).await, Err(error));
    assert_eq!(producer.counts().acknowledged, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_leaves_the_producer_and_the_other_partitions_alone() {
    // Refused whenever it is seen; and such that it may be in the log, so that the identity has to change.
    for code in [ErrorCode::InvalidArgument, ErrorCode::StorageFailed] {
        let (broker, config) = Broker::start(2).await;
        let client = Client::connect(config).await.expect("a broker");
        let producer = client
            .producer(&broker.topic, small_batches())
            .await
            .expect("a topic");
        let send = async |value: &'static [u8], partition| {
            let record = NewRecord::new(value).partition(partition);
            producer.send(&record).await.expect("it is taken")
        };
        *broker.refuse_partition.lock().expect("whole") = Some((1, code));
        let refused = send(b"refused", 1).await;
        let taken = send(b"taken", 0).await;
        let error = timeout(PATIENCE, refused.wait())
            .await
            .expect("in time")
            .expect_err("it is refused");
        assert_eq!(error.code(), Some(code));
        let told = timeout(PATIENCE, producer.refused()).await;
        assert_eq!(told.expect("in time"), error);
        let taken = timeout(PATIENCE, taken.wait()).await.expect("in time");
        assert_eq!(taken.expect("another partition").offset, Some(0));
        let flushed = timeout(PATIENCE, producer.flush()).await;
        assert_eq!(flushed.expect("in time"), Err(error));

        *broker.refuse_partition.lock().expect("whole") = None;
        let later = [send(b"later", 1).await, send(b"later", 0).await];
        let flushed = timeout(PATIENCE, producer.flush()).await;
        assert_eq!(flushed.expect("in time"), Ok(()), "it was told once");
        for ack in later {
            ack.wait().await.expect("it goes on");
        }
        assert_eq!(broker.values(0), [&b"taken"[..], b"later"]);
        assert_eq!(broker.values(1), [b"later"]);
        let counts = producer.counts();
        assert_eq!((counts.acknowledged, counts.refused), (3, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_reported_after_the_deadline() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = free
        .local_addr()
        .expect("an address")
        .to_string()
        .parse()
        .expect("an address");
    drop(free);
    let config = Config {
        server,
        deadline: Some(Duration::from_millis(100)),
        ..Config::default()
    };
    let error = timeout(PATIENCE, Client::connect(config))
        .await
        .expect("in time")
        .expect_err("nobody listens");
    assert!(
        matches!(&error, ClientError::Unreachable { reason, .. } if reason.contains("refused")),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_refused_at_once_and_the_producer_goes_on() {
    let (broker, config) = Broker::start(2).await;
    let client = Client::connect(config).await.expect("a broker");
    let unknown = "other".parse().expect("a name");
    let error = client
        .producer(&unknown, ProducerConfig::default())
        .await
        .expect_err("no such topic");
    assert_eq!(error.code(), Some(ErrorCode::UnknownTopic));
    let producer = client
        .producer(&broker.topic, ProducerConfig::default())
        .await
        .expect("a topic");
    let error = producer
        .push(&NewRecord::new(b"x").partition(2))
        .await
        .expect_err("there are two");
    assert!(
        matches!(
            error,
            ClientError::NoSuchPartition {
                partition: 2,
                partitions: 2,
                ..
            }
        ),
        "{error}"
    );
    let error = producer
        .push(&NewRecord::new(&vec![0; 1 << 20]))
        .await
        .expect_err("too large");
    assert!(
        matches!(error, ClientError::RecordTooLarge { .. }),
        "{error}"
    );
    let largest = vec![1; producer.record_bytes_max() - 32];
    producer
        .push(&NewRecord::new(&largest).partition(1))
        .await
        .expect("exactly as large as allowed");
    timeout(PATIENCE, producer.flush())
        .await
        .expect("in time")
        .expect("it is acknowledged");
    assert_eq!(broker.values(1), [largest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_key_are_spread_over_the_partitions() {
    let (broker, config) = Broker::start(4).await;
    let client = Client::connect(config).await.expect("a broker");
    let producer = client
        .producer(&broker.topic, small_batches())
        .await
        .expect("a topic");
    for _ in 0..1000 {
        producer
            .push(&NewRecord::new(&[0; 100]))
            .await
            .expect("it is taken");
    }
    timeout(PATIENCE, producer.flush())
        .await
        .expect("in time")
        .expect("it is acknowledged");
    for partition in 0..4 {
        let records = broker.values(partition).len();
        assert!(
            (150..350).contains(&records),
            "partition {partition} got {records} of 1000"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_fails_what_waits() {
    let (broker, config) = Broker::start(1).await;
    broker.disk_full.store(true, Ordering::SeqCst);
    let client = Client::connect(config).await.expect("a broker");
    let producer = client
        .producer(&broker.topic, small_batches())
        .await
        .expect("a topic");
    let ack = producer
        .send(&NewRecord::new(b"x"))
        .await
        .expect("it is taken");
    timeout(PATIENCE, client.close()).await.expect("in time");
    assert_eq!(ack.wait().await, Err(ClientError::Closed));
    assert_eq!(producer.flush().await, Err(ClientError::Closed));
    assert_eq!(client.list_topics().await, Err(ClientError::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_gets_no_identity_fails_with_the_brokers_own_reason() {
    let (broker, config) = Broker::start(1).await;
    *broker.refuse_open.lock().expect("whole") = Some(ErrorCode::DiskFull);
    let config = Config {
        deadline: Some(Duration::from_millis(200)),
        ..config
    };
    let client = Client::connect(config).await.expect("a broker");
    let producer = client
        .producer(&broker.topic, small_batches())
        .await
        .expect("a topic");
    producer
        .push(&NewRecord::new(b"x"))
        .await
        .expect("it is taken");
    let error = timeout(PATIENCE, producer.flush())
        .await
        .expect("in time")
        .expect_err("the disk is full");
    assert_eq!(error.code(), Some(ErrorCode::DiskFull));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_never_wants_this_client_is_believed() {
    let (broker, config) = Broker::start(1).await;
    *broker.refuse_hello.lock().expect("whole") = Some(ErrorCode::InvalidArgument);
    let error = timeout(PATIENCE, Client::connect(config))
        .await
        .expect("at once, though there is no deadline")
        .expect_err("it is refused");
    assert_eq!(error.code(), Some(ErrorCode::InvalidArgument));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_of_all_durations_may_be_configured() {
    let (broker, config) = Broker::start(1).await;
    let config = Config {
        connect_timeout: Duration::MAX,
        deadline: Some(Duration::MAX),
        backoff_max: Duration::MAX,
        ..config
    };
    let client = Client::connect(config.clone()).await.expect("a broker");
    let patient = ProducerConfig {
        linger: Duration::MAX,
        ..ProducerConfig::default()
    };
    let producer = client
        .producer(&broker.topic, patient)
        .await
        .expect("a topic");
    producer
        .push(&NewRecord::new(b"x"))
        .await
        .expect("it is taken");
    timeout(PATIENCE, producer.flush())
        .await
        .expect("in time")
        .expect("it is acknowledged");
    broker.kick();
    timeout(PATIENCE, client.list_topics())
        .await
        .expect("in time")
        .expect_err("the broker of the tests has no list, but it answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_too_large_to_be_sent_is_refused_at_once() {
    let (broker, config) = Broker::start(1).await;
    let client = Client::connect(config).await.expect("a broker");
    let mut batch = BatchBuilder::new();
    batch
        .push(1, None, Some(&vec![7; 3 << 20]), &[])
        .expect("it fits");
    let batch = batch.finish(Compression::None, None).expect("a batch");
    let commit = Commit {
        appends: vec![Produce {
            topic: broker.topic.clone(),
            partition: Some(0),
            batch: batch.into(),
        }],
        group: None,
        cursors: Vec::new(),
    };
    // Long before anything else wakes the connection's task.
    let error = timeout(Duration::from_secs(10), client.commit(commit))
        .await
        .expect("in time")
        .expect_err("no broker takes it");
    assert_eq!(error.code(), Some(ErrorCode::FrameTooLarge));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buffer_full_of_records_for_many_partitions_neither_stops_nor_sends_them_singly() {
    const PARTITIONS: usize = 64;
    const RECORDS: usize = 20_000;
    let (broker, config) = Broker::start(PARTITIONS).await;
    let client = Client::connect(config).await.expect("a broker");
    // As much as a record for each partition and some; no linger ever ends.
    let config = ProducerConfig {
        buffer_bytes: 100_000,
        linger: Duration::MAX,
        in_flight_max: 1,
        ..ProducerConfig::default()
    };
    let producer = client
        .producer(&broker.topic, config)
        .await
        .expect("a topic");
    for number in 0..RECORDS {
        let key = number.to_string();
        let record = NewRecord::new(&[7; 100]).key(key.as_bytes());
        timeout(PATIENCE, producer.push(&record))
            .await
            .expect("there is room in time")
            .expect("it is taken");
    }
    timeout(PATIENCE, producer.flush())
        .await
        .expect("in time")
        .expect("all is acknowledged");
    assert_eq!(producer.counts().acknowledged, RECORDS as u64);
    let batches: usize = (0..PARTITIONS).map(|number| broker.batches(number)).sum();
    assert!(batches < RECORDS / 3, "{batches} batches");
}
