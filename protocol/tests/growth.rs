//! A peer of one release meets a peer of another. What the other one writes is
//! made here, field by field, and held by files: `golden/growth/newer-*` has
//! fields, variants and frames that this release does not know, `older-*` has
//! only those of the first release.

use std::path::PathBuf;

use bincode::config::standard;
use bincode::enc::write::Writer;
use bincode::enc::{Encode, Encoder};
use bincode::error::EncodeError;
use eddy_protocol::codec::{Form, decode_client, decode_server, encode_client, encode_server};
use eddy_protocol::error::{ErrorCode, WireError};
use eddy_protocol::frame::{
    Answer, ClientFrame, CreateTopic, Deliver, Durability, Hello, Position, Request, ServerFrame,
    Start, Subscribe, TopicSettings, Welcome, broker_capabilities, client_capabilities,
};
use eddy_protocol::{FrameError, TopicName};
use serde::{Deserialize, Serialize};

/// Bytes as they are.
struct Raw(Vec<u8>);

impl Encode for Raw {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        encoder.writer().write(&self.0)
    }
}

fn bytes(fields: impl Encode) -> Vec<u8> {
    bincode::encode_to_vec(fields, standard()).expect("it can be written to memory")
}

/// Fields with their length before them.
fn block(fields: impl Encode) -> Raw {
    let fields = bytes(fields);
    Raw([bytes(fields.len() as u64), fields].concat())
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("a name")
}

/// Compares with the file, or writes it with `EDDY_WRITE_GOLDEN=1`.
fn held(file: &str, message: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/growth");
    let path = path.join(file);
    if std::env::var_os("EDDY_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, message).expect("the golden folder can be written to");
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(golden == message, "{file} differs");
}

fn from_client(name: &str, binary: &[u8], json: &str, expected: Result<ClientFrame, Refusal>) {
    held(&format!("{name}.bin"), binary);
    held(&format!("{name}.json"), json.as_bytes());
    for (message, form) in [(binary, Form::Binary), (json.as_bytes(), Form::Json)] {
        let read = decode_client(message, form, 0).map_err(Refusal::from);
        assert_eq!(read, expected, "{name}, {form:?}");
    }
}

fn from_broker(name: &str, binary: &[u8], json: &str, expected: Result<ServerFrame, Refusal>) {
    held(&format!("{name}.bin"), binary);
    held(&format!("{name}.json"), json.as_bytes());
    for (message, form) in [(binary, Form::Binary), (json.as_bytes(), Form::Json)] {
        let read = decode_server(message, form).map_err(Refusal::from);
        assert_eq!(read, expected, "{name}, {form:?}");
    }
}

/// A [`FrameError`] without its sentence.
#[derive(Debug, PartialEq)]
struct Refusal(Option<u32>, ErrorCode);

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Refusal {
        assert!(!error.message.is_empty());
        Refusal(error.id, error.code)
    }
}

fn subscribe() -> Request {
    Request::Subscribe(Subscribe {
        topic: topic("t"),
        partitions: vec![1],
        from: Start::Offset(9),
        resume: vec![
            Position {
                partition: 1,
                offset: 300,
                epoch: 2,
            };
            2
        ],
        filter: None,
    })
}

#[test]
fn fields_of_a_newer_client_are_passed_over() {
    let position = || block((1u32, 300u64, 2u32, "added", 5u8));
    let fields = (
        ("t", vec![1u32], 2u32, 9u64),
        (2u8, position(), position(), 0u8),
        (Some("added"), vec![(1u64, true)]),
    );
    from_client(
        "newer-client-subscribe",
        &bytes((7u32, 4u32, block(fields))),
        r#"{"id":7,"added":[],"subscribe":{"topic":"t","partitions":[1],"from":{"offset":9},"added":{"a":1},
            "resume":[{"partition":1,"offset":300,"epoch":2,"added":5},{"partition":1,"offset":300,"epoch":2}]}}"#,
        Ok(ClientFrame {
            id: 7,
            request: subscribe(),
        }),
    );
    // Where the first release had no fields at all.
    from_client(
        "newer-client-list_topics",
        &bytes((7u32, 13u32, block(("added", 1u8)))),
        r#"{"id":7,"list_topics":{"added":1},"also":[]}"#,
        Ok(ClientFrame {
            id: 7,
            request: Request::ListTopics {},
        }),
    );
}

#[test]
fn a_request_of_a_newer_client_is_refused_by_its_id_with_a_code_of_its_own() {
    from_client(
        "newer-client-request",
        &bytes((7u32, 1000u32, block(("t", 1u8)))),
        r#"{"id":7,"take_over":{"topic":"t"}}"#,
        Err(Refusal(Some(7), ErrorCode::Unsupported)),
    );
    from_client(
        "newer-client-variant",
        &bytes((7u32, 6u32, block(("t", 0u32, 9u32, 1u32, 0u32)))),
        r#"{"id":7,"fetch":{"topic":"t","partition":0,"from":"yesterday","bytes_max":1}}"#,
        Err(Refusal(Some(7), ErrorCode::Unsupported)),
    );
}

#[test]
fn a_request_of_an_older_client_gets_what_it_leaves_out_as_its_default() {
    from_client(
        "older-client-hello",
        &bytes((1u32, 0u32, block(("example 0.9",)))),
        r#"{"id":1,"hello":{"client":"example 0.9"}}"#,
        Ok(ClientFrame {
            id: 1,
            request: Request::Hello(Hello {
                client: "example 0.9".to_owned(),
                capabilities: Vec::new(),
            }),
        }),
    );
}

#[test]
fn fields_of_a_newer_broker_are_passed_over() {
    let deliver = Deliver {
        stream: 3,
        partition: 0,
        epoch: 1,
        next: 8,
        batches: Default::default(),
    };
    let fields = (3u64, 0u32, 1u32, 8u64, 0u64, "added", 1u8);
    from_broker(
        "newer-server-deliver",
        &bytes((2u32, block(fields))),
        r#"{"deliver":{"stream":3,"partition":0,"epoch":1,"next":8,"records":[],"added":"a"},"also":1}"#,
        Ok(ServerFrame::Deliver(deliver)),
    );
    // Behind the answer, in the answer, and a setting's value that is new.
    let times = (0u32, Some(3_600_000u64), None::<u64>, 0u32);
    let settings = block(((7u32, None::<u64>, Some(5u64)), times, "added"));
    let partition = block((0u32, 1u32, 2u64, 3u64, 4u64, None::<String>, "added"));
    let info = block(("t", settings, (1u8, partition), "uuid", "added"));
    let answer = (11u32, block(((1u8, info), "added")));
    let Ok(ServerFrame::Answer {
        id: 7,
        answer: Answer::Topics { topics },
    }) = decode_server(&bytes((0u32, block((7u32, answer, "added")))), Form::Binary)
    else {
        panic!("it is an answer")
    };
    let settings = TopicSettings {
        durability: Durability::Unknown,
        retention_ms: None,
        retention_bytes: Some(5),
        ..TopicSettings::default()
    };
    assert_eq!(topics[0].settings, settings);
    assert_eq!(topics[0].partitions[0].end, 3);
    let json =
        br#"{"answer":{"id":7,"added":1,"topics":{"topics":[{"topic":"t","durability":"replicated",
        "retention_ms":null,"retention_bytes":5,"added":{},"partitions":[
        {"partition":0,"epoch":1,"start":2,"end":3,"bytes":4,"added":1}],"uuid":"uuid"}]}}}"#;
    let in_json = decode_server(json, Form::Json);
    let answer = Answer::Topics { topics };
    assert_eq!(in_json, Ok(ServerFrame::Answer { id: 7, answer }));
}

#[test]
fn a_frame_of_a_newer_broker_is_told_apart_from_a_broken_one() {
    from_broker(
        "newer-server-frame",
        &bytes((99u32, block(("added", 1u8)))),
        r#"{"rebalanced":{"generation":4}}"#,
        Err(Refusal(None, ErrorCode::Unsupported)),
    );
    from_broker(
        "newer-server-answer",
        &bytes((0u32, block((7u32, 99u32, block(("added", 1u8)))))),
        r#"{"answer":{"id":7,"taken_over":{"generation":4}}}"#,
        Err(Refusal(Some(7), ErrorCode::Unsupported)),
    );
}

#[test]
fn an_error_of_a_newer_broker_keeps_its_number_and_whether_to_retry() {
    for retryable in [true, false] {
        let error = block((777u16, "from the future", retryable, "added"));
        let code = ErrorCode::Unknown {
            number: 777,
            retryable,
        };
        from_broker(
            &format!("newer-server-error-{retryable}"),
            &bytes((1u32, block((Some(7u32), error, "added")))),
            &format!(
                r#"{{"error":{{"id":7,"code":"rebalancing","number":777,"message":"from the future","retryable":{retryable},"added":1}}}}"#
            ),
            Ok(ServerFrame::Error {
                id: Some(7),
                error: code.because("from the future"),
            }),
        );
        assert_eq!((code.number(), code.retryable()), (777, retryable));
    }
}

#[test]
fn an_older_brokers_frames_get_what_they_leave_out_as_its_default() {
    let welcome = Welcome {
        server: "eddy/0.0".to_owned(),
        incarnation: 9,
        frame_bytes_max: 100,
        batch_bytes_max: 50,
        subscriptions_max: 3,
        idle_timeout_ms: 1000,
        capabilities: Vec::new(),
    };
    let fields = ("eddy/0.0", 9u64, 100u64, 50u64, 3u32, 1000u64);
    from_broker(
        "older-server-welcome",
        &bytes((0u32, block((1u32, 0u32, block(fields))))),
        r#"{"answer":{"id":1,"welcome":{"server":"eddy/0.0","incarnation":9,"frame_bytes_max":100,"batch_bytes_max":50,"subscriptions_max":3,"idle_timeout_ms":1000}}}"#,
        Ok(ServerFrame::Answer {
            id: 1,
            answer: Answer::Welcome(welcome),
        }),
    );
    for (number, code, retryable) in [(18u16, "disk_full", true), (777, "rebalancing", false)] {
        let error = WireError {
            code: ErrorCode::from_number(number, false),
            message: "m".to_owned(),
        };
        assert_eq!(error.code.retryable(), retryable);
        from_broker(
            &format!("older-server-error-{code}"),
            &bytes((1u32, block((Some(7u32), block((number, "m")))))),
            &format!(r#"{{"error":{{"id":7,"code":"{code}","number":{number},"message":"m"}}}}"#),
            Ok(ServerFrame::Error { id: Some(7), error }),
        );
    }
}

/// A `subscribe` as another release has it, with fewer fields and with more.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct OlderSubscribe {
    topic: String,
    partitions: Vec<u32>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct NewerSubscribe {
    topic: String,
    partitions: Vec<u32>,
    from: Start,
    #[serde(default)]
    rate_max: Option<u32>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Asked<T> {
    id: u32,
    subscribe: T,
}

#[test]
fn peers_of_other_releases_read_what_this_one_writes_in_json() {
    let request = subscribe();
    let ours = encode_client(&ClientFrame { id: 7, request }, Form::Json).expect("no batch");
    let older: Asked<OlderSubscribe> = serde_json::from_slice(&ours).expect("an older reader");
    assert_eq!(older.subscribe.partitions, [1]);
    let newer: Asked<NewerSubscribe> = serde_json::from_slice(&ours).expect("a newer reader");
    assert_eq!(newer.subscribe.rate_max, None);

    let newer = serde_json::to_vec(&Asked {
        id: 7,
        subscribe: NewerSubscribe {
            topic: "t".to_owned(),
            partitions: vec![1],
            from: Start::Earliest,
            rate_max: Some(3),
        },
    });
    let older = serde_json::to_vec(&older);
    for (theirs, from) in [(newer, Start::Earliest), (older, Start::Latest)] {
        let read = decode_client(&theirs.expect("JSON"), Form::Json, 0).expect("a frame");
        let Request::Subscribe(read) = read.request else {
            panic!("it is a subscribe")
        };
        assert_eq!((&read.partitions[..], read.from), (&[1][..], from));
    }
}

#[test]
fn what_is_said_of_capabilities_is_what_there_is() {
    let broker = broker_capabilities();
    let client = client_capabilities();
    assert!(broker.iter().any(|name| name == "produce"));
    assert!(client.iter().any(|name| name == "deliver"));
    let welcome = Welcome {
        capabilities: broker,
        ..Welcome::default()
    };
    assert!(welcome.has("hello.capabilities") && !welcome.has("take_over"));
    let frame = ServerFrame::Answer {
        id: 1,
        answer: Answer::Welcome(welcome),
    };
    for form in [Form::Binary, Form::Json] {
        let message = encode_server(&frame, form).expect("no batch");
        assert_eq!(decode_server(&message, form), Ok(frame.clone()));
    }
}

/// What an absent field means is the same in both forms, also where it is not zero.
#[test]
fn a_topic_of_an_older_client_gets_the_settings_that_it_does_not_know() {
    let settings = block((0u32, None::<u64>, Some(5u64)));
    from_client(
        "older-client-create_topic",
        &bytes((7u32, 9u32, block(("t", 1u32, settings)))),
        r#"{"id":7,"create_topic":{"topic":"t","partitions":1,"retention_bytes":5}}"#,
        Ok(ClientFrame {
            id: 7,
            request: Request::CreateTopic(CreateTopic {
                topic: topic("t"),
                partitions: 1,
                settings: TopicSettings {
                    retention_bytes: Some(5),
                    ..TopicSettings::default()
                },
            }),
        }),
    );
}
