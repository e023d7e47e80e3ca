//! The graceful stop: what was asked is answered, readers are told, everything
//! is synced, and the next start finds it all.

use std::collections::HashMap;
use std::time::Duration;

use eddy_client::{Client, Event, NewRecord, ProducerConfig, SubscribeOptions};
use eddy_protocol::frame::{Answer, Fetch, Produce, Request, Start, Subscribe};
use eddy_protocol::{BatchBuilder, Compression, ErrorCode, Form, ServerFrame};
use eddy_tests::log::{read_partition, topic};
use eddy_tests::wait::LIMIT;
use eddy_tests::{Broker, Process, Wire, wait_until};
use tokio::time::timeout;

const DURABILITIES: [&str; 2] = ["disk", "memory"];
/// Requests that are under way when the signal comes.
const IN_FLIGHT: u64 = 200;

fn produce(name: &str, value: &str) -> Request {
    let mut builder = BatchBuilder::new();
    builder
        .push(0, None, Some(value.as_bytes()), &[])
        .expect("there is room");
    let batch = builder.finish(Compression::None, None).expect("a batch");
    Request::Produce(Produce {
        topic: topic(name),
        partition: Some(0),
        batch: batch.into(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_what_was_asked_tells_readers_and_loses_nothing() {
    let mut broker = Broker::start();
    for durability in DURABILITIES {
        broker
            .eddy(&["topic", "create", durability, "--durability", durability])
            .ok();
    }
    for durability in DURABILITIES {
        let before = end(&broker, durability);
        let mut reader = Wire::greeted(broker.address(), Form::Json).await;
        let subscribe = Subscribe {
            topic: topic(durability),
            partitions: Vec::new(),
            from: Start::Latest,
            resume: Vec::new(),
            filter: None,
        };
        reader
            .ask(Request::Subscribe(subscribe))
            .await
            .expect("the topic is there");
        let mut writer = Wire::greeted(broker.address(), Form::Binary).await;
        let mut asked = HashMap::new();
        for number in 0..IN_FLIGHT {
            let request = produce(durability, &format!("record {number}"));
            asked.insert(writer.request(request).await, before + number);
        }
        wait_until(LIMIT, "the first should be appended", || {
            (end(&broker, durability) > before).then_some(())
        });
        broker.terminate();
        assert!(broker.log().contains("stopped"), "{}", broker.log());

        let words = writer.last_words().await;
        let closings = words
            .iter()
            .filter(|frame| matches!(frame, ServerFrame::Closing { .. }));
        assert_eq!(closings.count(), 1, "the writer is told once");
        // Answers name their requests; their order is not promised.
        let mut acknowledged = 0;
        for frame in &words {
            match frame {
                ServerFrame::Answer {
                    id,
                    answer: Answer::Produced(produced),
                } => {
                    assert_eq!(produced.offset.as_ref(), asked.get(id));
                    acknowledged += 1;
                }
                ServerFrame::Error { error, .. } => {
                    assert_eq!(error.code, ErrorCode::ShuttingDown, "{error}");
                }
                ServerFrame::Closing { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(acknowledged > 0, "what was appended was not answered");
        let words = reader.last_words().await;
        let Some(ServerFrame::Closing { reason }) = words.last() else {
            panic!("the reader's last word is {:?}", words.last());
        };
        assert!(reason.contains("stopping"), "{reason}");

        broker.restart();
        let log = broker.log();
        assert!(
            !log.contains("WARN") && !log.contains("ERROR"),
            "a clean stop leaves nothing to say:\n{log}"
        );
        let entries = read_partition(&broker.client().await, &topic(durability), 0)
            .await
            .expect("it serves");
        let found = entries.len() as u64 - before;
        assert!(
            found >= acknowledged,
            "{acknowledged} were acknowledged, {found} are there"
        );
        for (number, entry) in entries[before as usize..].iter().enumerate() {
            assert_eq!(entry.value, format!("record {number}"));
        }
    }
}

fn end(broker: &Broker, name: &str) -> u64 {
    let info = broker.get(&format!("/v1/topics/{name}")).ok().json();
    info["partitions"][0]["end"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_ride_out_a_stop_and_a_start_without_noticing() {
    const ROUNDS: usize = 3;
    const ROUND_RECORDS: usize = 300;
    let mut broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let client = broker.client().await;
    let mut reader = client
        .subscribe(&topic("t"), SubscribeOptions::default())
        .await
        .expect("it is there");
    let config = ProducerConfig {
        batch_bytes: 256,
        linger: Duration::ZERO,
        ..ProducerConfig::default()
    };
    let producer = client
        .producer(&topic("t"), config)
        .await
        .expect("it is there");
    for round in 0..ROUNDS {
        for number in 0..ROUND_RECORDS {
            let value = (round * ROUND_RECORDS + number).to_string();
            producer
                .push(&NewRecord::new(value.as_bytes()))
                .await
                .expect("taken");
        }
        broker.terminate();
        broker.restart();
    }
    timeout(LIMIT, producer.flush())
        .await
        .expect("in time")
        .expect("acknowledged");
    for number in 0..ROUNDS * ROUND_RECORDS {
        let value = number.to_string();
        loop {
            match timeout(LIMIT, reader.next())
                .await
                .expect("in time")
                .expect("it goes on")
            {
                Event::Data(record) => {
                    assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
                    break;
                }
                Event::Reconnected => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn whoever_waits_for_a_record_does_not_hold_up_the_stop() {
    let mut broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let address = broker.address();
    let polling = std::thread::spawn(move || {
        eddy_tests::http::get(
            address,
            "/v1/topics/t/partitions/0/records?wait_ms=60000&from=latest",
        )
    });
    wait_until(LIMIT, "the poll should be open", || {
        (broker.metric("eddy_connections") >= 2.0).then_some(())
    });
    let silent = std::net::TcpStream::connect(address).expect("it listens");
    let mut wire = Wire::greeted(address, Form::Binary).await;
    let fetch = Request::Fetch(Fetch {
        topic: topic("t"),
        partition: 0,
        from: Start::Latest,
        bytes_max: 1 << 20,
        wait_ms: 60_000,
    });
    let asked = wire.request(fetch).await;
    // Requests are taken up in order: once this is answered, the fetch waits.
    wire.ask(Request::Ping {}).await.expect("it is served");
    broker.terminate();
    let refused = wire.answer(asked).await.expect_err("nothing came");
    assert_eq!(refused.code, ErrorCode::ShuttingDown, "{refused}");
    let answer = polling.join().expect("it is answered");
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "shutting_down");
    drop(silent);
}

#[tokio::test]
async fn the_command_line_reads_and_writes_on_after_a_stop() {
    let mut broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let lines: String = (0..2000).map(|number| format!("{number}\n")).collect();
    let reader = broker.eddy_running(&["sub", "t", "--from", "earliest", "--count", "2000"]);
    let mut publish = broker.command(&["pub", "t", "--rate", "2000", "--linger", "1ms"]);
    let writer = Process::start_with_input(&mut publish, Some(lines.clone().into_bytes()));
    reader.stdout().wait_for_count(500, LIMIT);
    broker.terminate();
    broker.restart();
    writer.wait(LIMIT).ok();
    assert_eq!(reader.wait(LIMIT).ok(), lines);
}

#[tokio::test]
async fn nothing_is_written_down_by_a_stop_that_a_second_stop_would_change() {
    let mut broker = Broker::start();
    broker.eddy(&["topic", "create", "t", "-p", "3"]).ok();
    broker.eddy_with_input(&["pub", "t"], "a\nb\nc\n").ok();
    let client: Client = broker.client().await;
    let before = client
        .describe_topic(&topic("t"))
        .await
        .expect("it is there");
    for _ in 0..3 {
        broker.terminate();
        broker.restart();
    }
    let after = broker
        .client()
        .await
        .describe_topic(&topic("t"))
        .await
        .expect("it is there");
    assert_eq!(after, before, "epochs, offsets and sizes");
}

#[test]
fn the_end_of_its_terminal_stops_a_broker_in_order() {
    let mut broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    broker.process().hang_up();
    let code = wait_until(LIMIT, "the broker should stop", || broker.process().ended());
    assert_eq!(code, Some(0), "{}", broker.log());
    assert!(broker.log().contains("stopped"), "{}", broker.log());
}
