//! Records that the broker places.

use bytes::Bytes;
use eddy_protocol::batch::Batches;
use eddy_protocol::{frame, partitioner};

use super::*;

const BATCH_BYTES_MAX: usize = 400;

async fn narrow() -> Arc<Broker> {
    let broker = broker_with(Config {
        batch_bytes_max: BATCH_BYTES_MAX,
        ..Config::default()
    })
    .await;
    broker.with_topic("t", 2, TopicSettings::default()).await;
    broker
}

fn record(partition: u32, value: String) -> PlacedRecord {
    PlacedRecord {
        partition: Some(partition),
        timestamp_ms: 1,
        value: Some(value.into()),
        headers: vec![("unit".to_owned(), Some(Bytes::from_static(b"K")))],
        ..PlacedRecord::default()
    }
}

fn produce(broker: &Broker, records: &[PlacedRecord]) -> Result<PendingCommit, WireError> {
    let mut placement = broker.placement(&name("t"))?;
    for record in records {
        placement.push(record)?;
    }
    broker.produce_placed(placement.finish()?)
}

#[tokio::test]
async fn what_exceeds_a_batch_becomes_several_in_one_commit() {
    let broker = narrow().await;
    let values: Vec<String> = (0..40)
        .map(|number| format!("{number:-<width$}", width = number * 5 + 2))
        .collect();
    let records: Vec<_> = (values.iter().zip(0u32..))
        .map(|(value, number)| record(number % 2, value.clone()))
        .collect();
    let pending = produce(&broker, &records);
    let produced = within("producing", pending.expect("accepted").answer())
        .await
        .expect("durable");
    assert!(produced.len() > 4, "{produced:?}");
    assert!(produced.is_sorted_by_key(|batch| (batch.partition, batch.offset)));
    assert_eq!(produced.iter().map(|batch| batch.count).sum::<u32>(), 40);
    for partition in 0..2 {
        let expected: Vec<_> = values.iter().skip(partition).step_by(2).cloned().collect();
        assert_eq!(broker.values("t", partition as u32).await, expected);
    }
}

#[tokio::test]
async fn no_batch_exceeds_the_limit_and_a_record_may_reach_it_exactly() {
    let broker = narrow().await;
    let mut lone = 0;
    for length in 1..BATCH_BYTES_MAX {
        let records: Vec<_> = (0..3).map(|_| record(0, "x".repeat(length))).collect();
        let Ok(pending) = produce(&broker, &records) else {
            lone = length;
            break;
        };
        within("producing", pending.answer())
            .await
            .expect("durable");
    }
    let mut read = Vec::new();
    let (_, partition) = broker.partition(&name("t"), 0).expect("it is there");
    let mut next = 0;
    while next < partition.end() {
        let batches = partition.read(next, 1 << 16).expect("records").batches;
        next = batches.last().expect("not at the end").end_offset();
        read.extend(batches.iter().map(eddy_protocol::Batch::len));
    }
    assert_eq!(read.iter().max(), Some(&BATCH_BYTES_MAX));
    assert!(lone > 0, "a record of {BATCH_BYTES_MAX} bytes was taken");
}

#[tokio::test]
async fn a_record_that_no_batch_can_hold_is_named_and_nothing_is_appended() {
    let broker = narrow().await;
    let records = [
        record(0, "fits".into()),
        record(0, "x".repeat(BATCH_BYTES_MAX)),
        record(1, "fits".into()),
    ];
    let outcome = produce(&broker, &records);
    refused(
        outcome,
        ErrorCode::BatchTooLarge,
        "record 1 (they count from 0)",
    );
    let outcome = produce(&broker, &records);
    refused(outcome, ErrorCode::BatchTooLarge, "the limit is 400");
    assert!(broker.values("t", 0).await.is_empty());
}

fn batch_of(values: &[(Option<&str>, &[u8])], compression: Compression) -> Batches {
    let mut batch = BatchBuilder::default();
    for (key, value) in values {
        let key = key.map(str::as_bytes);
        batch.push(1, key, Some(value), &[]).expect("it fits");
    }
    batch.finish(compression, None).expect("a batch").into()
}

fn request(partition: Option<u32>, batch: Batches) -> Produce {
    Produce {
        topic: name("t"),
        partition,
        batch,
    }
}

#[tokio::test]
async fn a_batch_that_the_broker_places_is_answered_with_its_first_record_and_the_count_of_all() {
    let broker = broker().await;
    broker.with_topic("t", 4, TopicSettings::default()).await;
    let keys: Vec<_> = (0..20).map(|number| format!("k{number}")).collect();
    let last = (keys.iter()).max_by_key(|key| partitioner::partition_for_key(key.as_bytes(), 4));
    let last = last.expect("a key");
    let partition = partitioner::partition_for_key(last.as_bytes(), 4);
    assert!(partition > 0);
    let already = broker.append_to("t", partition, &["a", "b", "c"]).await;
    let mut records = vec![(Some(last.as_str()), &b"first"[..])];
    records.extend(keys.iter().map(|key| (Some(key.as_str()), &b"later"[..])));
    let pending = broker.produce(request(None, batch_of(&records, Compression::None)));
    let produced = within("producing", pending.expect("accepted").answer())
        .await
        .expect("durable");
    assert_eq!((produced.partition, produced.count), (partition, 21));
    assert_eq!(produced.offset, already.offset.map(|offset| offset + 3));
    let values = broker.values("t", partition).await;
    assert_eq!(values[3], "first");
}

#[tokio::test]
async fn a_batch_that_expands_to_too_much_is_refused_by_its_header_alone() {
    let broker = narrow().await;
    let zeros = vec![0; 1 << 20];
    let mut bytes = batch_of(&[(None, &zeros)], Compression::Zstd).0.to_vec();
    assert!(bytes.len() < BATCH_BYTES_MAX);
    // Whoever looks at the body finds that it is damaged.
    *bytes.last_mut().expect("a body") ^= 1;
    let batch = Batches(bytes.into());
    for partition in [Some(0), None] {
        refused(
            broker.produce(request(partition, batch.clone())),
            ErrorCode::BatchTooLarge,
            "the limit is 400",
        );
    }
}

#[tokio::test]
async fn a_commit_of_batches_that_expand_to_too_much_is_refused_before_any_is_expanded() {
    let broker = broker().await;
    broker.with_topic("t", 1, TopicSettings::default()).await;
    let zeros = vec![0; 7 << 20];
    let batch = batch_of(&[(None, &zeros)], Compression::Zstd);
    let commit = |batches: usize, partition| frame::Commit {
        appends: vec![request(partition, batch.clone()); batches],
        group: None,
        cursors: Vec::new(),
    };
    refused(
        broker.commit(commit(40, Some(0))),
        ErrorCode::BatchTooLarge,
        "store.commit_bytes_max",
    );
    refused(
        broker.commit(commit(1, None)),
        ErrorCode::InvalidArgument,
        "must name its partition",
    );
    let pending = broker.commit(commit(2, Some(0)));
    let answer = within("committing", pending.expect("accepted").answer()).await;
    assert_eq!(answer.expect("durable").len(), 2);
}
