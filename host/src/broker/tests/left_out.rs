//! An engine that keeps offsets for itself, as Kafka's markers of transactions do: no reader takes
//! that for a loss, and nobody waits for what will not come.

use eddy_protocol::Form;
use eddy_protocol::frame::{self, Subscribe};

use super::deploying::*;
use super::reading::*;
use super::*;

/// The broker over an engine that keeps two offsets behind each commit.
async fn leaving_out() -> Arc<Broker> {
    let (ground, memory) = Ground::memory();
    memory.leave_out(2);
    world_on(&ground, config()).await
}

/// The values from the cursor to the partition's end, and their offsets. What is delivered must leave
/// no offset out, which is what a client checks.
async fn read_on(cursor: &mut Cursor, end: u64) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    let mut told = cursor.position().offset;
    while cursor.position().offset < end {
        match next(cursor, Form::Binary).await {
            Next::Frame(frame) => {
                let delivered = deliver(&frame, Form::Binary);
                for batch in batches(&delivered) {
                    assert!(batch.base_offset() <= told && told < batch.end_offset());
                    told = batch.end_offset();
                    let records = batch.records().expect("records");
                    found.extend(records.iter().map(|record| {
                        let value = record.value.unwrap_or_default();
                        (record.offset, String::from_utf8_lossy(value).into_owned())
                    }));
                }
                assert_eq!(told, delivered.next);
            }
            other => panic!("a frame was expected: {}", describe(&other)),
        }
    }
    found
}

#[tokio::test]
async fn a_subscriber_is_told_of_no_gap_where_no_record_is_lost() {
    let broker = leaving_out().await;
    broker.with_plugin("later", FROM_THE_SECOND_ON).await;
    let mut expected = Vec::new();
    for value in numbered(0..20) {
        let produced = broker.append("in", &[&value, "and more"]).await;
        let offset = produced.offset.expect("it is new");
        expected.extend([(offset, value), (offset + 1, "and more".to_owned())]);
    }
    assert!(expected.windows(2).any(|pair| pair[0].0 + 1 < pair[1].0));
    let (_, partition) = broker.partition(&name("in"), 0).expect("it is there");
    let end = partition.end();
    assert_eq!(end, expected[39].0 + 1, "a reader that is at the end waits");
    let reading = |from, filter: Option<&str>| Subscribe {
        topic: name("in"),
        ..filter.map_or(subscribe(from), through)
    };
    let mut cursor = broker.reader(&reading(Start::Earliest, None)).await;
    assert_eq!(read_on(&mut cursor, end).await, expected);
    assert!(matches!(next(&mut cursor, Form::Binary).await, Next::Idle));
    // In the middle of what was left out, too.
    let (begin, rest) = (expected[1].0 + 1, &expected[2..]);
    assert!(begin < rest[0].0);
    let mut cursor = broker.reader(&reading(Start::Offset(begin), None)).await;
    assert_eq!(read_on(&mut cursor, end).await, rest);
    let mut cursor = broker.reader(&reading(Start::Earliest, Some("all"))).await;
    assert_eq!(read_on(&mut cursor, end).await, expected);
    let json = frame(
        &mut broker.reader(&reading(Start::Offset(begin), None)).await,
        Form::Json,
    )
    .await;
    assert_eq!(offsets(&deliver(&json, Form::Json))[0], rest[0].0);
}

#[tokio::test]
async fn a_fetch_a_deployment_and_a_group_come_to_the_end() {
    let broker = leaving_out().await;
    broker.with_deployment("all").await;
    for value in numbered(0..30) {
        broker.append("in", &[&value]).await;
    }
    let info = broker.caught_up().await;
    assert_eq!(
        (info.partitions[0].records_in, info.partitions[0].missed),
        (30, 0)
    );
    for topic in ["in", "out"] {
        assert_eq!(broker.values(topic, 0).await, numbered(0..30));
    }
    let (_, partition) = broker.partition(&name("in"), 0).expect("it is there");
    let moving = |offset| frame::Commit {
        appends: Vec::new(),
        group: Some("g".to_owned()),
        cursors: vec![frame::CursorMove {
            topic: name("in"),
            partition: 0,
            offset,
            epoch: None,
            expect: frame::ExpectedCursor::Any,
        }],
    };
    let moved = broker.commit(moving(partition.end())).expect("its end");
    within("moving", moved.answer()).await.expect("durable");
    let beyond = broker.commit(moving(partition.end() + 1));
    refused(beyond, ErrorCode::OffsetOutOfRange, "ends at offset");
}
