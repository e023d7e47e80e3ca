//! What the broker refuses, and how it says so: each limit has its own code, and
//! a sentence that names the thing and the limit.

use std::net::TcpStream;
use std::process::Command;

use eddy_protocol::batch::Batches;
use eddy_protocol::frame::{
    AlterTopic, CreateTopic, Fetch, Filter, Position, Produce, Request, SUBPROTOCOL_BINARY, Start,
    Subscribe, TopicSettings,
};
use eddy_protocol::{BatchBuilder, Compression, ErrorCode, Form, ProducerStamp};
use eddy_tests::log::topic;
use eddy_tests::refusal::{assert_error, assert_refused};
use eddy_tests::wait::LIMIT;
use eddy_tests::{Broker, Process, Wire, artefact, http, wait_until};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

const FORMS: [Form; 2] = [Form::Binary, Form::Json];

fn batch(values: &[&[u8]], stamp: Option<ProducerStamp>) -> Batches {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder
            .push(1_700_000_000_000, None, Some(value), &[])
            .expect("there is room");
    }
    builder
        .finish(Compression::None, stamp)
        .expect("a batch")
        .into()
}

fn produce(name: &str, partition: Option<u32>, batch: Batches) -> Request {
    Request::Produce(Produce {
        topic: topic(name),
        partition,
        batch,
    })
}

fn subscribe(name: &str) -> Subscribe {
    Subscribe {
        topic: topic(name),
        partitions: Vec::new(),
        from: Start::Latest,
        resume: Vec::new(),
        filter: None,
    }
}

fn fetch(name: &str, partition: u32, from: Start) -> Request {
    Request::Fetch(Fetch {
        topic: topic(name),
        partition,
        from,
        bytes_max: 1024,
        wait_ms: 0,
    })
}

fn spaces(form: Form, length: usize) -> Message {
    let bytes = vec![b' '; length];
    match form {
        Form::Binary => Message::binary(bytes),
        Form::Json => Message::text(String::from_utf8(bytes).expect("spaces are text")),
    }
}

#[tokio::test]
async fn a_frame_that_is_too_large_ends_the_connection_with_the_limit() {
    let broker = Broker::start_with(&[
        "--set",
        "ws.frame_bytes_max=64KiB",
        "--set",
        "broker.batch_bytes_max=32KiB",
    ]);
    for form in FORMS {
        // The error must reach also a peer that is still sending.
        for length in [(64 << 10) + 1, 1 << 20] {
            let mut wire = Wire::greeted(broker.address(), form).await;
            wire.send(spaces(form, length)).await;
            let error = wire.last_error().await;
            assert_error(
                &error,
                ErrorCode::FrameTooLarge,
                &[&length.to_string(), "65536", "ws.frame_bytes_max"],
            );
        }
        let mut wire = Wire::silent(broker.address(), form).await;
        wire.send(spaces(form, 32 << 10)).await;
        let error = wire.last_error().await;
        assert_error(&error, ErrorCode::FrameTooLarge, &["hello", "8192"]);
    }
}

#[tokio::test]
async fn a_batch_that_is_too_large_is_refused_as_encoded_and_as_expanded() {
    let broker = Broker::start_with(&["--set", "broker.batch_bytes_max=16KiB"]);
    broker.eddy(&["topic", "create", "t"]).ok();
    let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
    let value = vec![b'x'; 20_000];
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let mut builder = BatchBuilder::new();
        builder
            .push(0, None, Some(&value), &[])
            .expect("there is room");
        let batch = builder.finish(compression, None).expect("a batch");
        let refused = wire.ask(produce("t", Some(0), batch.into())).await;
        let error = refused.expect_err("it is too large");
        assert_error(
            &error,
            ErrorCode::BatchTooLarge,
            &["batch", "16384", "broker.batch_bytes_max"],
        );
    }
    let body = json!({"records": [{"value": String::from_utf8(value).expect("text")}]});
    let refused = broker.post("/v1/topics/t/records", &body);
    assert_refused(&refused, 413, "batch_too_large", &["16384"]);
    wire.ask(produce("t", Some(0), batch(&[b"small"], None)))
        .await
        .expect("the connection lives on");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_with_the_limit() {
    let broker = Broker::start_with(&[
        "--set",
        "http.body_bytes_max=1KiB",
        "--set",
        "plugin.plugin_bytes_max=2KiB",
    ]);
    broker.eddy(&["topic", "create", "t"]).ok();
    let body = json!({"records": [{"value": "x".repeat(2000)}]});
    let refused = broker.post("/v1/topics/t/records", &body);
    assert_refused(
        &refused,
        413,
        "batch_too_large",
        &["1024", "http.body_bytes_max"],
    );
    let refused = http::request(broker.address(), "PUT", "/v1/plugins/p", &[], &[0; 3000]);
    assert_refused(
        &refused,
        413,
        "plugin_too_large",
        &["2048", "plugin.plugin_bytes_max"],
    );
    let plugin = artefact::plugin("json-filter");
    let pushed = broker.eddy(&["--json", "plugin", "push", &plugin.to_string_lossy()]);
    assert_eq!(pushed.code, Some(1));
    assert!(
        pushed.stderr.contains("plugin_too_large") && pushed.stderr.contains("2048"),
        "{}",
        pushed.stderr
    );
}

#[tokio::test]
async fn a_connection_holds_so_many_subscriptions_and_each_stream_once() {
    let broker = Broker::start_with(&["--set", "ws.subscriptions_max=2"]);
    for name in ["a", "b", "c"] {
        broker.eddy(&["topic", "create", name]).ok();
    }
    let mut wire = Wire::greeted(broker.address(), Form::Json).await;
    wire.ask(Request::Subscribe(subscribe("a")))
        .await
        .expect("the first");
    let twice = wire.ask(Request::Subscribe(subscribe("a"))).await;
    assert_error(
        &twice.expect_err("it has it"),
        ErrorCode::AlreadySubscribed,
        &["`a`"],
    );
    wire.ask(Request::Subscribe(subscribe("b")))
        .await
        .expect("the second");
    let third = wire.ask(Request::Subscribe(subscribe("c"))).await;
    assert_error(
        &third.expect_err("one too many"),
        ErrorCode::TooMany,
        &["2 subscriptions", "ws.subscriptions_max"],
    );
    let unknown = wire.ask(Request::Unsubscribe { stream: 4711 }).await;
    assert_error(
        &unknown.expect_err("never heard of it"),
        ErrorCode::UnknownStream,
        &["4711"],
    );
}

#[tokio::test]
async fn one_connection_too_many_is_answered_and_the_next_is_taken_when_one_left() {
    let broker = Broker::start_with(&["--set", "server.connections_max=2"]);
    let first = Wire::greeted(broker.address(), Form::Binary).await;
    let _second = Wire::greeted(broker.address(), Form::Binary).await;
    let refused = broker.get("/v1/topics");
    assert_refused(
        &refused,
        503,
        "too_many",
        &["2 connections", "server.connections_max"],
    );
    // Nobody should restart a broker because it has much to do.
    assert_eq!(broker.get("/health").ok().json()["status"], "alive");
    let ready = broker.get("/ready");
    assert_eq!((ready.status, &ready.json()["ready"]), (503, &json!(false)));
    let refused = Wire::handshake(broker.address(), SUBPROTOCOL_BINARY, &[]).await;
    assert!(matches!(refused, Err(Error::Http(answer)) if answer.status() == 503));
    drop(first);
    wait_until(LIMIT, "a place should be free again", || {
        (broker.get("/v1/topics").status == 200).then_some(())
    });
}

/// Descriptors that the system gives.
const DESCRIPTORS: u32 = 128;

#[test]
fn a_broker_with_few_descriptors_serves_more_topics_and_refuses_more_clients_than_it_has() {
    let broker = Broker::start_with_descriptors(DESCRIPTORS);
    assert!(
        broker.log().contains("the limit on open files leaves"),
        "{}",
        broker.log()
    );
    let topics = || (0..150).map(|number| format!("t{number}"));
    let produce_everywhere = || {
        for name in topics() {
            let body = json!({"records": [{"value": "x"}]});
            broker
                .post(&format!("/v1/topics/{name}/records"), &body)
                .ok();
        }
    };
    for name in topics() {
        broker.post("/v1/topics", &json!({"topic": name})).ok();
    }
    produce_everywhere();
    let mut clients = Vec::new();
    let refused = wait_until(LIMIT, "a client should be one too many", || {
        clients.push(TcpStream::connect(broker.address()).expect("the queue takes it"));
        let answer = http::try_request(broker.address(), "GET", "/v1/topics", &[], b"");
        answer.ok().filter(|answer| answer.status != 200)
    });
    assert_refused(
        &refused,
        503,
        "too_many",
        &["128 open files", "server.connections_max"],
    );
    // More than there are descriptors.
    while clients.len() < 3 * DESCRIPTORS as usize {
        clients.push(TcpStream::connect(broker.address()).expect("the queue takes it"));
    }
    wait_until(LIMIT, "who asks for health should be told", || {
        let answer = http::try_request(broker.address(), "GET", "/health", &[], b"");
        answer.ok().filter(|answer| answer.status == 200)
    });
    drop(clients);
    wait_until(LIMIT, "clients should be served again", || {
        (broker.get("/ready").status == 200).then_some(())
    });
    produce_everywhere();
    for name in topics() {
        let path = format!("/v1/topics/{name}/partitions/0/records");
        let records = broker.get(&path).ok().json();
        assert_eq!(
            records["records"].as_array().map(Vec::len),
            Some(2),
            "{name}"
        );
    }
    assert!(broker.log().lines().count() < 20, "{}", broker.log());
}

#[tokio::test]
async fn topics_have_1_to_1024_partitions_and_never_fewer_than_before() {
    let broker = Broker::start();
    for form in FORMS {
        let mut wire = Wire::greeted(broker.address(), form).await;
        let create = |name: &str, partitions| {
            Request::CreateTopic(CreateTopic {
                topic: topic(name),
                partitions,
                settings: TopicSettings::default(),
            })
        };
        for partitions in [0, 1025, u32::MAX] {
            let refused = wire
                .ask(create("t", partitions))
                .await
                .expect_err("out of range");
            assert_error(
                &refused,
                ErrorCode::InvalidArgument,
                &["1 to 1024", &partitions.to_string(), "`t`"],
            );
        }
        let name = format!("many-{form:?}");
        wire.ask(create(&name, 1024))
            .await
            .expect("as many as there may be");
        let again = wire.ask(create(&name, 1)).await.expect_err("it is there");
        assert_error(&again, ErrorCode::TopicExists, &[&name]);
        let fewer = AlterTopic {
            topic: topic(&name),
            partitions: Some(1023),
            durability: None,
            retention_ms: None,
            retention_bytes: None,
            timestamps: None,
            timestamp_ahead_ms: None,
            timestamp_behind_ms: None,
            out_of_bounds: None,
        };
        let fewer = wire
            .ask(Request::AlterTopic(fewer))
            .await
            .expect_err("never fewer");
        assert_error(&fewer, ErrorCode::Inconsistent, &["1024", "1023", &name]);
    }
    let refused = broker.post("/v1/topics", &json!({"topic": "t", "partitions": 1025}));
    assert_refused(&refused, 400, "invalid_argument", &["1025", "1024"]);
    let refused = broker.post("/v1/topics", &json!({"topic": "a b", "partitions": 1}));
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert_refused(
        &broker.get("/v1/topics/a%2Fb"),
        400,
        "invalid_name",
        &["a/b"],
    );
}

#[tokio::test]
async fn topics_partitions_and_offsets_that_are_not_there_are_named() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t", "-p", "2"]).ok();
    broker
        .eddy_with_input(&["pub", "t", "--partition", "1"], "a\nb\n")
        .ok();
    for form in FORMS {
        let mut wire = Wire::greeted(broker.address(), form).await;
        let nowhere = [
            produce("nowhere", Some(0), batch(&[b"x"], None)),
            Request::Subscribe(subscribe("nowhere")),
            fetch("nowhere", 0, Start::Earliest),
            Request::DescribeTopic {
                topic: topic("nowhere"),
            },
            Request::DeleteTopic {
                topic: topic("nowhere"),
            },
        ];
        for request in nowhere {
            let error = wire.ask(request).await.expect_err("there is no such topic");
            assert_error(&error, ErrorCode::UnknownTopic, &["`nowhere`"]);
        }
        let third = [
            produce("t", Some(2), batch(&[b"x"], None)),
            Request::Subscribe(Subscribe {
                partitions: vec![0, 2],
                ..subscribe("t")
            }),
            fetch("t", 2, Start::Earliest),
        ];
        for request in third {
            let error = wire
                .ask(request)
                .await
                .expect_err("there is no such partition");
            assert_error(
                &error,
                ErrorCode::UnknownPartition,
                &["`t`", "2 partitions"],
            );
        }
        let beyond = [
            fetch("t", 1, Start::Offset(3)),
            Request::Subscribe(Subscribe {
                partitions: vec![1],
                from: Start::Offset(3),
                ..subscribe("t")
            }),
            Request::Subscribe(Subscribe {
                resume: vec![Position {
                    partition: 1,
                    offset: 3,
                    epoch: epoch(&broker),
                }],
                ..subscribe("t")
            }),
        ];
        for request in beyond {
            let error = wire.ask(request).await.expect_err("beyond the end");
            assert_error(
                &error,
                ErrorCode::OffsetOutOfRange,
                &["partition 1", "offset 2", "3"],
            );
        }
        let filter = Filter {
            plugin: "nothing".into(),
            params: Default::default(),
        };
        let unknown = Subscribe {
            filter: Some(filter),
            ..subscribe("t")
        };
        let error = wire
            .ask(Request::Subscribe(unknown))
            .await
            .expect_err("there is no such plugin");
        assert_error(&error, ErrorCode::UnknownPlugin, &["`nothing`"]);
    }
    assert_refused(
        &broker.get("/v1/topics/t/partitions/1/records?offset=3"),
        416,
        "offset_out_of_range",
        &["3"],
    );
    assert_refused(
        &broker.get("/v1/topics/t/partitions/2/records"),
        404,
        "unknown_partition",
        &["`t`"],
    );
    assert_refused(&broker.get("/v1/nothing"), 404, "not_found", &[]);
}

fn epoch(broker: &Broker) -> u32 {
    let info = broker.get("/v1/topics/t").ok().json();
    let epoch = info["partitions"][1]["epoch"].as_u64().expect("a number");
    u32::try_from(epoch).expect("an epoch")
}

#[tokio::test]
async fn a_batch_that_is_damaged_or_stamped_wrongly_is_refused_and_nothing_is_appended() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t", "-p", "2"]).ok();
    let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
    let good = batch(&[b"one", b"two"], None).0;
    for at in 12..good.len() {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        let refused = wire.ask(produce("t", Some(0), Batches(bytes.into()))).await;
        let error = refused.expect_err("one bit is wrong");
        assert_error(&error, ErrorCode::CorruptBatch, &[]);
    }
    let two = [&good[..], &good[..]].concat();
    let refused = wire.ask(produce("t", Some(0), Batches(two.into()))).await;
    assert_error(
        &refused.expect_err("one batch at a time"),
        ErrorCode::CorruptBatch,
        &[],
    );
    let stamp = ProducerStamp {
        id: 4711,
        epoch: 0,
        sequence: 0,
    };
    let refused = wire
        .ask(produce("t", None, batch(&[b"x"], Some(stamp))))
        .await;
    assert_error(
        &refused.expect_err("where to?"),
        ErrorCode::InvalidArgument,
        &["partition", "`t`"],
    );
    let refused = wire
        .ask(produce("t", Some(0), batch(&[b"x"], Some(stamp))))
        .await;
    assert_error(
        &refused.expect_err("who?"),
        ErrorCode::UnknownProducer,
        &["4711"],
    );
    let info = broker.get("/v1/topics/t").ok().json();
    let ends = [0, 1].map(|partition| info["partitions"][partition]["end"].clone());
    assert_eq!(ends, [Value::from(0), Value::from(0)]);
}

#[test]
fn a_second_broker_on_the_same_port_says_which_port_is_taken() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let setting = format!("server.listen={}", broker.address());
    let mut second = Process::start(
        Command::new(artefact::eddy())
            .args(["serve", "--set", &setting, "--data"])
            .arg(folder.path()),
    );
    let code = wait_until(LIMIT, "it should give up", || second.ended());
    let said = second.stderr().text();
    assert_eq!(code, Some(1), "{said}");
    let named = format!("cannot listen on {} (server.listen)", broker.address());
    assert!(said.contains(&named), "{said}");
    broker.get("/health").ok();
}

#[tokio::test]
async fn a_message_that_does_not_come_to_its_end_ends_the_connection() {
    let broker = Broker::start_with(&["--set", "ws.message_timeout=1s"]);
    let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
    let part = Frame::message(vec![0; 1 << 10], OpCode::Data(Data::Binary), false);
    wire.send(Message::Frame(part)).await;
    // A sign of life is no part of it.
    wire.send(Message::Ping("there".into())).await;
    let error = wire.last_error().await;
    assert_error(&error, ErrorCode::TimedOut, &["1s", "ws.message_timeout"]);
}

#[tokio::test]
async fn fetches_that_wait_leave_other_requests_their_turn_and_are_all_answered() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    for form in FORMS {
        let mut wire = Wire::greeted(broker.address(), form).await;
        let mut waiting = Vec::new();
        for _ in 0..100 {
            let request = Request::Fetch(Fetch {
                topic: topic("t"),
                partition: 0,
                from: Start::Latest,
                bytes_max: u32::MAX,
                wait_ms: 60_000,
            });
            waiting.push(wire.request(request).await);
        }
        wire.ask(Request::Ping {}).await.expect("a pong");
        let record = produce("t", Some(0), batch(&[b"a"], None));
        wire.ask(record).await.expect("appended");
        for id in waiting {
            wire.answer(id).await.expect("a record");
        }
    }
}
