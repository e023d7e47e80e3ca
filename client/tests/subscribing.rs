//! What a subscription promises, against a broker that loses connections.

mod broker;

use std::sync::atomic::Ordering;
use std::time::Duration;

use broker::{Broker, PATIENCE};
use eddy_client::{
    Client, ClientError, Config, Event, NewRecord, Producer, ProducerConfig, Status,
    SubscribeOptions, Subscription,
};
use eddy_protocol::ErrorCode;
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
async fn positions_are_where_the_reader_is_and_not_where_the_batch_ends() {
    let (broker, config) = Broker::start(1).await;
    let client = Client::connect(config).await.expect("a broker");
    let producer = client
        .producer(&broker.topic, ProducerConfig::default())
        .await
        .expect("a topic");
    produce(&producer, 0..10).await;
    produce(&producer, 10..20).await;
    let mut expected = 0;
    let mut resume = Vec::new();
    // Each reader takes some, in the middle of a batch and at its end.
    for count in [3, 1, 6, 4] {
        let options = SubscribeOptions {
            resume: resume.clone(),
            ..earliest()
        };
        let mut reader = client
            .subscribe(&broker.topic, options)
            .await
            .expect("a topic");
        let numbers: Vec<u32> = (expected..expected + count).collect();
        assert_eq!(read(&mut reader, count as usize).await, numbers);
        expected += count;
        resume = reader.positions().copied().collect();
        assert_eq!(resume[0].offset, u64::from(expected));
    }
    let options = SubscribeOptions {
        resume,
        ..earliest()
    };
    let mut reader = client
        .subscribe(&broker.topic, options)
        .await
        .expect("a topic");
    // The rest of a batch, and nothing of the one before it in the same frame.
    let Event::Data(batch) = timeout(PATIENCE, reader.next_batch())
        .await
        .expect("in time")
        .expect("no end")
    else {
        panic!("there are records left")
    };
    let offsets: Vec<u64> = batch.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [14, 15, 16, 17, 18, 19]);
    assert_eq!(reader.positions().next().expect("one").offset, 20);
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

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_is_refused_for_now_ends_after_the_deadline_with_the_brokers_reason() {
    let (broker, config) = Broker::start(1).await;
    *broker.refuse_subscribe.lock().expect("whole") = Some(ErrorCode::TooMany);
    let config = Config {
        deadline: Some(Duration::from_millis(200)),
        ..config
    };
    let mut subscription = Subscription::open(config, &broker.topic, earliest());
    let error = timeout(PATIENCE, subscription.ready())
        .await
        .expect("in time")
        .expect_err("it is refused");
    assert_eq!(error.code(), Some(ErrorCode::TooMany));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_has_to_wait_says_for_what_and_that_it_is_over() {
    let (broker, config) = Broker::start(1).await;
    *broker.refuse_subscribe.lock().expect("whole") = Some(ErrorCode::TooMany);
    let mut subscription = Subscription::open(config, &broker.topic, earliest());
    let mut status = subscription.status();
    let delayed = status.wait_for(|status| matches!(status, Status::Delayed { .. }));
    let delayed = timeout(PATIENCE, delayed).await.expect("in time");
    let reason = "as it was told".to_owned();
    assert_eq!(*delayed.expect("it lives"), Status::Delayed { reason });
    *broker.refuse_subscribe.lock().expect("whole") = None;
    timeout(PATIENCE, subscription.ready())
        .await
        .expect("in time")
        .expect("it is taken up");
    let over = status.wait_for(|status| *status == Status::Connected);
    timeout(PATIENCE, over)
        .await
        .expect("in time")
        .expect("it lives");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_stands_only_for_moments_ends_after_the_deadline() {
    let (broker, config) = Broker::start(1).await;
    broker.drop_subscribed.store(true, Ordering::SeqCst);
    let config = Config {
        deadline: Some(Duration::from_millis(200)),
        backoff_max: Duration::from_secs(1),
        ..config
    };
    let mut subscription = Subscription::open(config, &broker.topic, earliest());
    let end = async {
        loop {
            if let Err(error) = subscription.next().await {
                return error;
            }
        }
    };
    let error = timeout(PATIENCE, end).await.expect("in time");
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_in_the_brokers_place_is_waited_out_by_who_has_met_the_broker() {
    let (broker, config) = Broker::start(1).await;
    let client = Client::connect(config.clone()).await.expect("a broker");
    let producer = client
        .producer(&broker.topic, ProducerConfig::default())
        .await
        .expect("a topic");
    let before = broker.connections.load(Ordering::SeqCst);
    *broker.refuse_handshake.lock().expect("whole") = Some((404, None));
    broker.kick();
    timeout(PATIENCE, async {
        while broker.connections.load(Ordering::SeqCst) < before + 3 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it tries again and again");
    let error = timeout(PATIENCE, Client::connect(config))
        .await
        .expect("in time")
        .expect_err("this one has never met a broker there");
    assert!(error.to_string().contains("404"), "{error}");
    *broker.refuse_handshake.lock().expect("whole") = None;
    produce(&producer, 0..1).await;
}

/// What a broker sends with a refused handshake.
fn body(code: ErrorCode, message: &str) -> Option<String> {
    Some(
        serde_json::json!({"error": {"code": code.name(), "message": message, "retryable": code.retryable()}})
            .to_string(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_refuses_the_handshake_is_heard_and_not_asked_again() {
    let (broker, config) = Broker::start(1).await;
    let sentence = "the setting `http.allowed_hosts` lists the names it has";
    let code = ErrorCode::ForbiddenOrigin;
    *broker.refuse_handshake.lock().expect("whole") = Some((403, body(code, sentence)));
    let error = timeout(PATIENCE, Client::connect(config))
        .await
        .expect("in time")
        .expect_err("it is refused");
    assert_eq!(error, ClientError::Refused(code.because(sentence)));
    assert_eq!(broker.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_full_is_asked_again_and_its_sentence_is_passed_on() {
    let (broker, config) = Broker::start(1).await;
    let sentence = "there are 3 connections, which is the limit";
    // Of a status alone that says "for good", the code says better.
    *broker.refuse_handshake.lock().expect("whole") =
        Some((400, body(ErrorCode::TooMany, sentence)));
    let client = Client::open(config);
    let mut status = client.status();
    let away = status.wait_for(|status| matches!(status, Status::Away { .. }));
    let away = timeout(PATIENCE, away).await.expect("in time");
    let reason = sentence.to_owned();
    assert_eq!(*away.expect("the client lives"), Status::Away { reason });
    *broker.refuse_handshake.lock().expect("whole") = None;
    timeout(PATIENCE, client.ready())
        .await
        .expect("in time")
        .expect("there is room again");
}
