//! Batches whose body is Kafka's: kept as they came, read as columns.

use eddy_protocol::frame::Deliver;
use eddy_protocol::{Batch, Form};

use super::*;
use crate::broker::tests::reading::*;

/// Twenty records, compressed with zstd, written by other people's code.
const ZSTD: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../protocol/golden-kafka/zstd.bin"
));
/// Three records with nulls and headers.
const NULLS: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../protocol/golden-kafka/nulls.bin"
));
const TRANSACTIONAL: &[u8] = include_bytes!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../protocol/golden-kafka/transactional.bin"
));

async fn append_kafka(broker: &Broker, bytes: &[u8]) -> Result<Produced, WireError> {
    let batch = Batch::from_kafka(bytes).expect("a batch of Kafka's");
    let pending = broker.produce(Produce {
        topic: name("t"),
        partition: Some(0),
        batch: batch.into(),
    })?;
    within("producing", pending.answer()).await
}

fn values(deliver: &Deliver) -> Vec<Option<Vec<u8>>> {
    let batches = batches(deliver);
    let records = batches
        .iter()
        .map(|batch| batch.records().expect("records"));
    let values = records.flat_map(|records| {
        let values = records
            .iter()
            .map(|record| record.value.map(<[u8]>::to_vec));
        values.collect::<Vec<_>>()
    });
    values.collect()
}

#[tokio::test]
async fn a_batch_of_kafka_s_is_kept_as_it_came_and_delivered_as_columns() {
    let ground = ground();
    let broker = ground.broker(Config::default()).await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    let mut one = broker.reader(&subscribe(Start::Earliest)).await;
    let mut two = broker.reader(&subscribe(Start::Earliest)).await;
    broker.append("t", &["ours"]).await;
    let produced = append_kafka(&broker, NULLS).await.expect("durable");
    assert_eq!((produced.offset, produced.count), (Some(1), 3));
    append_kafka(&broker, ZSTD).await.expect("durable");

    let mut seen = Vec::new();
    while one.position().offset < 24 {
        let (a, b) = (
            frame(&mut one, Form::Binary).await,
            frame(&mut two, Form::Binary).await,
        );
        assert!(Arc::ptr_eq(&a, &b), "one frame for both");
        let delivered = deliver(&a, Form::Binary);
        assert!(
            batches(&delivered)
                .iter()
                .all(|batch| !batch.header().is_kafka())
        );
        assert_eq!(offsets(&delivered).last(), Some(&(delivered.next - 1)));
        seen.extend(values(&delivered));
    }
    let text = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!(seen[..4], [text("ours"), text("no key"), text(""), None]);
    assert_eq!(seen[4..], vec![text(&"x".repeat(50)); 20]);

    let json = frame(
        &mut broker.reader(&subscribe(Start::Offset(1))).await,
        Form::Json,
    )
    .await;
    let json = String::from_utf8(json.pieces().concat()).expect("text");
    assert!(
        json.contains(r#""key":"","value":"","headers":[["a","1"],["null",null],["",""]]"#),
        "{json}"
    );

    // In the tail, in the segment and after a restart they are Kafka's own bytes.
    let others: Vec<String> = (0..40).map(|n| format!("{n:0100}")).collect();
    for other in &others {
        broker.append("t", &[other]).await;
    }
    within("closing", broker.close()).await;
    drop(broker);
    let broker = ground.broker(Config::default()).await;
    let (_, partition) = broker.partition(&name("t"), 0).expect("it is there");
    let reading = partition.clone();
    let read = tokio::task::spawn_blocking(move || reading.read(1, 1));
    let kept = within("reading", read).await.expect("no panic");
    let kept = &kept.expect("records").batches[0];
    assert_eq!(kept.base_offset(), 1);
    let sent = kept
        .to_kafka(3, Compression::None)
        .expect("it is Kafka's")
        .to_vec();
    assert_eq!(
        (&sent[..8], &sent[17..]),
        (&1_u64.to_be_bytes()[..], &NULLS[17..])
    );
    let values = broker.values("t", 0).await;
    assert_eq!((values.len(), &values[1][..]), (63, "no key"));
    assert_eq!(values[23..], others);
}

#[tokio::test]
async fn a_filter_and_a_placement_read_the_columns_of_a_batch_of_kafka_s() {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    broker.with_plugin("later", FROM_THE_SECOND_ON).await;
    let mut cursor = broker.reader(&through("later")).await;
    append_kafka(&broker, ZSTD).await.expect("durable");
    while cursor.position().offset < 20 {
        match next(&mut cursor, Form::Binary).await {
            Next::Idle | Next::Progress(_) => {}
            Next::Frame(_) => panic!("the filter drops the first batch"),
            _ => panic!("nothing else happens"),
        }
    }
    append_kafka(&broker, NULLS).await.expect("durable");
    let delivered = loop {
        match next(&mut cursor, Form::Binary).await {
            Next::Frame(frame) => break deliver(&frame, Form::Binary),
            Next::Progress(_) => {}
            _ => panic!("a frame was expected"),
        }
    };
    assert_eq!(offsets(&delivered), [20, 21, 22]);
    assert!(!batches(&delivered)[0].header().is_kafka());

    broker
        .with_topic("spread", 4, TopicSettings::default())
        .await;
    let batch = Batch::from_kafka(NULLS).expect("a batch of Kafka's");
    let pending = broker.produce(Produce {
        topic: name("spread"),
        partition: None,
        batch: batch.into(),
    });
    let placed = within("producing", pending.expect("accepted").answer()).await;
    assert_eq!(placed.expect("durable").count, 3);
}

#[tokio::test]
async fn what_only_the_broker_says_of_a_batch_is_refused_from_others() {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    let transactional = append_kafka(&broker, TRANSACTIONAL).await;
    refused(transactional, ErrorCode::InvalidArgument, "transaction");
    let batch = Batch::from_kafka(NULLS).expect("a batch of Kafka's");
    let appended = broker.produce(Produce {
        topic: name("t"),
        partition: Some(0),
        batch: batch.with_append_time(5).into(),
    });
    refused(appended.map(drop), ErrorCode::InvalidArgument, "append");
}
