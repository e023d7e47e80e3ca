//! What a subscription promises, against a broker that loses connections.

mod broker;

use std::sync::atomic::Ordering;
use std::time::Duration;

use broker::{Broker, PATIENCE};
use eddy_client::{
    Client, Config, Event, NewRecord, Producer, ProducerConfig, Status, SubscribeOptions,
    Subscription,
};
use eddy_protocol::frame::Start;
use tokio::time::timeout;

/// A broker that may write does so within this.
const QUIET: Duration = Duration::from_millis(300);

fn earliest() -> SubscribeOptions {
    SubscribeOptions {
        from: Start::Earliest,
        ..SubscribeOptions::default()
    }
}

async fn produce(producer: &Producer, numbers: std::ops::Range<u32>) {
    for number in numbers {
        producer
            .push(&NewRecord::new(number.to_string().as_bytes()))
            .await
            .expect("it is taken");
    }
    timeout(PATIENCE, producer.flush())
        .await
        .expect("in time")
        .expect("it is acknowledged");
}

async fn read(subscription: &mut Subscription, count: usize) -> Vec<u32> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let event = timeout(PATIENCE, subscription.next())
            .await
            .expect("in time")
            .expect("no end");
        if let Event::Data(record) = event {
            let value = String::from_utf8(record.value.expect("a value")).expect("a number");
            numbers.push(value.parse().expect("a number"));
        }
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_neither_skip_nor_repeat_a_record() {
    let (broker, config) = Broker::start(1).await;
    let client = Client::connect(config.clone()).await.expect("a broker");
    let config = ProducerConfig {
        batch_bytes: 500,
        ..ProducerConfig::default()
    };
    let producer = client
        .producer(&broker.topic, config)
        .await
        .expect("a topic");
    let mut subscription = client
        .subscribe(&broker.topic, earliest())
        .await
        .expect("a topic");
    for round in 0..20u32 {
        let numbers = round * 100..round * 100 + 100;
        produce(&producer, numbers.clone()).await;
        // In the middle of what is delivered, and before the rest.
        assert_eq!(
            read(&mut subscription, 30).await,
            numbers.clone().take(30).collect::<Vec<_>>()
        );
        broker.kick();
        assert_eq!(
            read(&mut subscription, 70).await,
            numbers.skip(30).collect::<Vec<_>>()
        );
    }
    let offsets: Vec<u64> = subscription
        .positions()
        .map(|position| position.offset)
        .collect();
    assert_eq!(offsets, [2000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn latest_begins_with_what_is_appended_after_it_is_ready() {
    let (broker, config) = Broker::start(1).await;
    let client = Client::connect(config).await.expect("a broker");
    let producer = client
        .producer(&broker.topic, ProducerConfig::default())
        .await
        .expect("a topic");
    produce(&producer, 0..10).await;
    let mut subscription = client
        .subscribe(&broker.topic, SubscribeOptions::default())
        .await
        .expect("a topic");
    produce(&producer, 10..20).await;
    assert_eq!(
        read(&mut subscription, 10).await,
        (10..20).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_goes_on_from_positions_that_were_kept() {
    let (broker, config) = Broker::start(1).await;
    let client = Client::connect(config).await.expect("a broker");
    let producer = client
        .producer(&broker.topic, ProducerConfig::default())
        .await
        .expect("a topic");
    produce(&producer, 0..10).await;
    let mut first = client
        .subscribe(&broker.topic, earliest())
        .await
        .expect("a topic");
    assert_eq!(read(&mut first, 10).await.len(), 10);
    let resume = first.positions().copied().collect();
    drop(first);
    produce(&producer, 10..15).await;
    let options = SubscribeOptions {
        resume,
        ..SubscribeOptions::default()
    };
    let mut second = client
        .subscribe(&broker.topic, options)
        .await
        .expect("a topic");
    assert_eq!(read(&mut second, 5).await, [10, 11, 12, 13, 14]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_takes_nothing_stops_the_reading() {
    let (broker, config) = Broker::start(1).await;
    let client = Client::connect(config).await.expect("a broker");
    let producer = client
        .producer(&broker.topic, ProducerConfig::default())
        .await
        .expect("a topic");
    let total = 64 << 20;
    for _ in 0..total / 100_000 {
        producer
            .push(&NewRecord::new(&[7; 100_000]))
            .await
            .expect("it is taken");
    }
    timeout(PATIENCE, producer.flush())
        .await
        .expect("in time")
        .expect("it is acknowledged");
    let options = SubscribeOptions {
        buffer_bytes: 1 << 20,
        ..earliest()
    };
    let mut subscription = client
        .subscribe(&broker.topic, options)
        .await
        .expect("a topic");
    // What the broker could hand over settles at the buffers' size (the client's, the
    // network's); that it has settled shows only in time.
    let mut before = usize::MAX;
    timeout(PATIENCE, async {
        while before != broker.delivered_bytes.load(Ordering::SeqCst) {
            before = broker.delivered_bytes.load(Ordering::SeqCst);
            tokio::time::sleep(QUIET).await;
        }
    })
    .await
    .expect("it settles");
    assert!(
        before < total / 2,
        "{before} of {total} bytes were handed over to nobody"
    );
    let mut records = 0;
    while records < total / 100_000 {
        if let Event::Data(batch) = timeout(PATIENCE, subscription.next_batch())
            .await
            .expect("in time")
            .expect("no end")
        {
            records += batch.len();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_to_a_broker_that_stays_away_ends_after_the_deadline() {
    let (broker, config) = Broker::start(1).await;
    let server = config.server.clone();
    let config = Config {
        deadline: Some(Duration::from_millis(200)),
        ..config
    };
    let mut subscription = Subscription::open(config, &broker.topic, earliest());
    timeout(PATIENCE, subscription.ready())
        .await
        .expect("in time")
        .expect("a topic");
    let mut status = subscription.status();
    assert_eq!(*status.borrow_and_update(), Status::Connected);
    broker.refuse.store(true, Ordering::SeqCst);
    broker.kick();
    let error = timeout(PATIENCE, subscription.next())
        .await
        .expect("in time")
        .expect_err("it ends");
    assert!(error.to_string().contains(&server.to_string()), "{error}");
    assert!(
        subscription.next().await.is_err(),
        "an error is the last thing"
    );
}
