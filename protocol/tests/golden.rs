//! The bytes on the wire, held by files: `golden/*.bin` and `golden/*.json`, one
//! pair for every request, answer and other frame, one for every error code, and
//! batches of every kind. A file changes only when the format does; run with
//! `EDDY_WRITE_GOLDEN=1` to write them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use eddy_protocol::TopicName;
use eddy_protocol::batch::{
    Batch, BatchBuilder, Batches, ColumnBuf, Compression, OffsetMode, ProducerStamp, Rows,
};
use eddy_protocol::codec::{
    Form, decode_client, decode_server, deliver_head, encode_client, encode_server, encode_sharing,
};
use eddy_protocol::error::ErrorCode;
use eddy_protocol::frame::{
    AlterTopic, Answer, ClientFrame, Commit, CreateTopic, Cursor, CursorMove, Cursors, DeleteGroup,
    Deliver, Durability, Ended, ExpectedCursor, Fetch, Fetched, Filter, Gap, GroupInfo, Hello,
    Limit, LostPosition, OpenProducer, OutOfBounds, PartitionInfo, Position, Produce, Produced,
    Producer, Progress, Request, Reset, ServerFrame, Start, Subscribe, Subscribed, Timestamps,
    TopicInfo, TopicSettings, Welcome,
};

/// 2023-11-14T22:13:20Z.
const TIME: i64 = 1_700_000_000_000;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn writing() -> bool {
    std::env::var_os("EDDY_WRITE_GOLDEN").is_some()
}

/// Compares with the file, or writes it if told to.
fn check(file: &str, bytes: &[u8]) {
    let path = folder().join(file);
    if writing() {
        std::fs::write(&path, bytes).expect("the golden folder can be written to");
    }
    let golden = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(
        golden == bytes,
        "{file} differs; now it is\n{}\n{}",
        hex(bytes),
        String::from_utf8_lossy(bytes)
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("a topic's name")
}

fn plain() -> Batch {
    let mut builder = BatchBuilder::new();
    builder
        .push(TIME, Some(b"k1"), Some(b"one"), &[])
        .expect("it fits");
    builder
        .push(TIME + 5, Some(b"k2"), Some(b"two"), &[])
        .expect("it fits");
    builder
        .finish(
            Compression::None,
            Some(ProducerStamp {
                id: 7,
                epoch: 1,
                sequence: 40,
            }),
        )
        .expect("it has records")
}

/// Keys and values that are null, empty, and not UTF-8.
fn nulls() -> Batch {
    let mut builder = BatchBuilder::new();
    builder
        .push(TIME, None, Some(b"no key"), &[])
        .expect("it fits");
    builder
        .push(TIME, Some(b""), Some(b""), &[])
        .expect("it fits");
    builder.push(TIME, Some(b"k"), None, &[]).expect("it fits");
    builder
        .push(TIME, Some(b"\xff\x00"), Some(b"\xfe"), &[])
        .expect("it fits");
    builder
        .finish(Compression::None, None)
        .expect("it has records")
}

fn headers() -> Batch {
    let mut builder = BatchBuilder::new();
    builder
        .push(TIME, None, Some(b"none"), &[])
        .expect("it fits");
    builder
        .push(
            TIME,
            None,
            Some(b"two"),
            &[("trace", Some(b"a1")), ("trace", Some(b"\xff"))],
        )
        .expect("it fits");
    builder
        .finish(Compression::None, None)
        .expect("it has records")
}

/// A header whose value is null, and one whose value is empty.
fn null_header() -> Batch {
    let mut builder = BatchBuilder::new();
    builder
        .push(
            TIME,
            None,
            Some(b"v"),
            &[("null", None), ("empty", Some(b""))],
        )
        .expect("it fits");
    builder
        .finish(Compression::None, None)
        .expect("it has records")
}

/// Offsets 100 to 109, of which 102 and 107 are left, with times far apart.
fn sparse() -> Batch {
    let mut columns = ColumnBuf::new();
    for offset in 100..110u64 {
        let time = if offset == 107 {
            TIME + (1 << 40)
        } else {
            TIME
        };
        columns
            .push(offset, time, None, Some(offset.to_string().as_bytes()), &[])
            .expect("offsets rise");
    }
    let offsets = OffsetMode::Sparse {
        base: 100,
        span: 10,
    };
    columns
        .encode(Rows::Keep(&[2, 7]), offsets, Compression::None, None)
        .expect("it has rows")
}

fn compressed(compression: Compression) -> Batch {
    let mut builder = BatchBuilder::new();
    for row in 0..20 {
        builder
            .push(TIME + row, None, Some(&[b'x'; 50]), &[])
            .expect("it fits");
    }
    builder.finish(compression, None).expect("it has records")
}

#[test]
fn batches_are_as_their_files_say() {
    check("batch-plain.bin", plain().bytes());
    check("batch-nulls.bin", nulls().bytes());
    check("batch-headers.bin", headers().bytes());
    check("batch-sparse.bin", sparse().bytes());
    check("batch-null-header.bin", null_header().bytes());
    for file in [
        "batch-plain.bin",
        "batch-nulls.bin",
        "batch-headers.bin",
        "batch-sparse.bin",
        "batch-null-header.bin",
    ] {
        let bytes = Bytes::from(std::fs::read(folder().join(file)).expect(file));
        let batch = Batch::parse(bytes.clone()).expect(file);
        let columns = batch.records().expect(file).to_columns();
        let offsets = OffsetMode::Sparse {
            base: batch.base_offset(),
            span: batch.span(),
        };
        let again = columns
            .encode(Rows::All, offsets, Compression::None, batch.producer())
            .expect(file);
        assert_eq!(again.bytes(), &bytes, "{file}");
    }
}

/// What the columns of an earlier release did not have.
#[test]
fn batches_with_attributes_or_a_body_of_kafka_s_are_as_their_files_say() {
    let append_time = plain().with_append_time(TIME + 60_000);
    check("batch-append-time.bin", append_time.bytes());
    let kafka = std::fs::read(folder().join("../golden-kafka/plain.bin")).expect("a file");
    let kafka = Batch::from_kafka(&kafka).expect("a batch of Kafka's");
    check("batch-kafka.bin", kafka.bytes());
    for (batch, time) in [(append_time, 60_000), (kafka, 0)] {
        let batch = Batch::parse(batch.bytes().clone()).expect("it is whole");
        let records = batch.records().expect("it is whole");
        let values: Vec<_> = records.iter().map(|record| record.value).collect();
        assert_eq!(values, [Some(&b"one"[..]), Some(b"two")]);
        assert_eq!(records.timestamps().next(), Some(TIME + time));
    }
}

/// A compressor may write other bytes one day; what was written must stay readable.
#[test]
fn compressed_batches_stay_readable() {
    let plain = compressed(Compression::None);
    for (file, compression) in [
        ("batch-lz4.bin", Compression::Lz4),
        ("batch-zstd.bin", Compression::Zstd),
    ] {
        let path = folder().join(file);
        if writing() {
            std::fs::write(&path, compressed(compression).bytes())
                .expect("the golden folder can be written to");
        }
        let batch = Batch::parse(std::fs::read(&path).expect(file).into()).expect(file);
        assert_eq!(batch.header().compression(), compression);
        assert!(batch.len() < plain.len());
        let (records, expected) = (
            batch.records().expect(file),
            plain.records().expect("it is whole"),
        );
        assert_eq!(records.to_columns(), expected.to_columns());
    }
}

fn requests() -> Vec<(&'static str, Request)> {
    let filter = Filter {
        plugin: "json-filter".to_owned(),
        params: BTreeMap::from([("where".to_owned(), "mag >= 4.5".to_owned())]),
    };
    let produce = |batch: Batch| Produce {
        topic: topic("quakes"),
        partition: Some(1),
        batch: batch.into(),
    };
    let unplaced = {
        let batch = plain().with_producer(None);
        Produce {
            topic: topic("quakes"),
            partition: None,
            batch: batch.into(),
        }
    };
    let subscribe = |from, filter, resume| Subscribe {
        topic: topic("quakes"),
        partitions: vec![],
        from,
        resume,
        filter,
    };
    vec![
        (
            "hello",
            Request::Hello(Hello {
                client: "example 1.0".to_owned(),
                capabilities: vec!["deliver".to_owned(), "gap".to_owned()],
            }),
        ),
        ("ping", Request::Ping {}),
        (
            "open_producer",
            Request::OpenProducer(OpenProducer::default()),
        ),
        (
            "open_producer-named",
            Request::OpenProducer(OpenProducer {
                name: Some("sensor-9".to_owned()),
                current: None,
            }),
        ),
        ("produce", Request::Produce(produce(plain()))),
        ("produce-unplaced", Request::Produce(unplaced)),
        ("produce-nulls", Request::Produce(produce(nulls()))),
        ("produce-headers", Request::Produce(produce(headers()))),
        (
            "subscribe",
            Request::Subscribe(subscribe(Start::Latest, None, vec![])),
        ),
        (
            "subscribe-earliest",
            Request::Subscribe(Subscribe {
                partitions: vec![0, 2],
                ..subscribe(Start::Earliest, None, vec![])
            }),
        ),
        (
            "subscribe-offset",
            Request::Subscribe(subscribe(Start::Offset(1000), None, vec![])),
        ),
        (
            "subscribe-time",
            Request::Subscribe(subscribe(Start::Time(TIME), Some(filter), vec![])),
        ),
        ("subscribe-resume", {
            let resume = vec![
                Position {
                    partition: 0,
                    offset: 102,
                    epoch: 1,
                },
                Position {
                    partition: 1,
                    offset: 300,
                    epoch: 1,
                },
            ];
            Request::Subscribe(subscribe(Start::Earliest, None, resume))
        }),
        ("unsubscribe", Request::Unsubscribe { stream: 3 }),
        (
            "fetch",
            Request::Fetch(Fetch {
                topic: topic("quakes"),
                partition: 1,
                from: Start::Offset(100),
                bytes_max: 65_536,
                wait_ms: 500,
            }),
        ),
        (
            "commit",
            Request::Commit(Commit {
                appends: vec![produce(plain())],
                group: Some("workers".to_owned()),
                cursors: vec![cursor_move(ExpectedCursor::Any)],
            }),
        ),
        (
            "cursors",
            Request::Cursors(Cursors {
                group: "workers".to_owned(),
                topic: None,
                reset: Reset::Earliest,
            }),
        ),
        (
            "cursors-topic",
            Request::Cursors(Cursors {
                group: "workers".to_owned(),
                topic: Some(topic("raw")),
                reset: Reset::Fail,
            }),
        ),
        (
            "create_topic",
            Request::CreateTopic(CreateTopic {
                topic: topic("quakes"),
                partitions: 4,
                settings: settings(),
            }),
        ),
        (
            "create_topic-default",
            Request::CreateTopic(CreateTopic {
                topic: topic("raw"),
                partitions: 1,
                settings: TopicSettings::default(),
            }),
        ),
        (
            "alter_topic",
            Request::AlterTopic(AlterTopic {
                topic: topic("quakes"),
                partitions: Some(8),
                durability: Some(Durability::Disk),
                retention_ms: Some(Limit::None),
                retention_bytes: Some(Limit::AtMost(1 << 30)),
                timestamps: Some(Timestamps::Append),
                timestamp_ahead_ms: Some(Limit::None),
                timestamp_behind_ms: Some(Limit::AtMost(60_000)),
                out_of_bounds: Some(OutOfBounds::Refuse),
            }),
        ),
        (
            "delete_topic",
            Request::DeleteTopic {
                topic: topic("quakes"),
            },
        ),
        (
            "describe_topic",
            Request::DescribeTopic {
                topic: topic("quakes"),
            },
        ),
        ("list_topics", Request::ListTopics {}),
        (
            "open_producer-next",
            Request::OpenProducer(OpenProducer {
                name: None,
                current: Some(Producer { id: 7, epoch: 1 }),
            }),
        ),
        (
            "produce-null_header",
            Request::Produce(produce(null_header())),
        ),
        (
            "commit-expecting",
            Request::Commit(Commit {
                appends: Vec::new(),
                group: Some("workers".to_owned()),
                cursors: vec![
                    CursorMove {
                        epoch: Some(4_097),
                        ..cursor_move(ExpectedCursor::Offset(16))
                    },
                    CursorMove {
                        partition: 1,
                        ..cursor_move(ExpectedCursor::None)
                    },
                ],
            }),
        ),
        (
            "delete_group",
            Request::DeleteGroup(DeleteGroup {
                group: "workers".to_owned(),
                topic: Some(topic("raw")),
            }),
        ),
        ("list_groups", Request::ListGroups {}),
    ]
}

fn settings() -> TopicSettings {
    TopicSettings {
        durability: Durability::Memory,
        retention_ms: Some(86_400_000),
        retention_bytes: None,
        timestamps: Timestamps::Create,
        timestamp_ahead_ms: Some(60_000),
        timestamp_behind_ms: None,
        out_of_bounds: OutOfBounds::Append,
    }
}

fn answers() -> Vec<(&'static str, Answer)> {
    let partition = |partition, stopped: Option<&str>| PartitionInfo {
        partition,
        epoch: 1,
        start: 0,
        end: 300,
        bytes: 4096,
        stopped: stopped.map(str::to_owned),
    };
    let info = TopicInfo {
        topic: topic("quakes"),
        settings: settings(),
        partitions: vec![
            partition(0, None),
            partition(1, Some("segment 0 is damaged")),
        ],
        uuid: "0192f0a4-0000-4000-8000-000000000001".into(),
    };
    let produced = Produced {
        partition: 1,
        offset: Some(100),
        count: 2,
        duplicate: false,
    };
    vec![
        (
            "welcome",
            Answer::Welcome(Welcome {
                server: "eddy 0.1.0".to_owned(),
                incarnation: 81_985_529_216,
                frame_bytes_max: 16_777_216,
                batch_bytes_max: 8_388_608,
                subscriptions_max: 100,
                idle_timeout_ms: 60_000,
                capabilities: vec!["ping".to_owned(), "hello.capabilities".to_owned()],
            }),
        ),
        ("pong", Answer::Pong {}),
        ("producer", Answer::Producer(Producer { id: 7, epoch: 1 })),
        ("produced", Answer::Produced(produced)),
        (
            "produced-duplicate",
            Answer::Produced(Produced {
                offset: None,
                duplicate: true,
                ..produced
            }),
        ),
        (
            "subscribed",
            Answer::Subscribed(Subscribed {
                stream: 3,
                positions: vec![
                    Position {
                        partition: 0,
                        offset: 102,
                        epoch: 1,
                    },
                    Position {
                        partition: 1,
                        offset: 300,
                        epoch: 1,
                    },
                ],
            }),
        ),
        ("unsubscribed", Answer::Unsubscribed {}),
        (
            "fetched",
            Answer::Fetched(Fetched {
                epoch: 1,
                start: 0,
                end: 300,
                next: 110,
                batches: sparse().into(),
            }),
        ),
        (
            "fetched-nothing",
            Answer::Fetched(Fetched {
                epoch: 1,
                start: 0,
                end: 300,
                next: 300,
                batches: Batches::default(),
            }),
        ),
        (
            "committed",
            Answer::Committed {
                appends: vec![produced],
            },
        ),
        (
            "cursors",
            Answer::Cursors {
                cursors: vec![Cursor {
                    topic: topic("raw"),
                    partition: 0,
                    offset: 17,
                    epoch: Some(4_097),
                    lost: None,
                }],
            },
        ),
        ("topic", Answer::Topic(info.clone())),
        ("deleted", Answer::Deleted {}),
        ("topics", Answer::Topics { topics: vec![info] }),
        (
            "cursors-lost",
            Answer::Cursors {
                cursors: vec![Cursor {
                    topic: topic("raw"),
                    partition: 0,
                    offset: 17,
                    epoch: Some(4_098),
                    lost: Some(LostPosition {
                        offset: 20,
                        epoch: Some(4_097),
                    }),
                }],
            },
        ),
        (
            "groups",
            Answer::Groups {
                groups: vec![GroupInfo {
                    group: "workers".to_owned(),
                    topics: vec![topic("quakes"), topic("raw")],
                }],
            },
        ),
    ]
}

fn cursor_move(expect: ExpectedCursor) -> CursorMove {
    CursorMove {
        topic: topic("raw"),
        partition: 0,
        offset: 17,
        epoch: None,
        expect,
    }
}

fn two_batches() -> [Batch; 2] {
    [plain().with_base_offset(98), sparse()]
}

fn others() -> Vec<(&'static str, ServerFrame)> {
    vec![
        (
            "error-without-id",
            ServerFrame::Error {
                id: None,
                error: ErrorCode::MalformedFrame.because("the message ends 3 bytes too soon"),
            },
        ),
        (
            "deliver",
            ServerFrame::Deliver(Deliver {
                stream: 3,
                partition: 0,
                epoch: 1,
                next: 110,
                batches: two_batches().into_iter().collect(),
            }),
        ),
        (
            "gap",
            ServerFrame::Gap(Gap {
                stream: 3,
                partition: 0,
                epoch: 1,
                expected: 102,
                next: 250,
            }),
        ),
        (
            "progress",
            ServerFrame::Progress(Progress {
                stream: 3,
                partition: 0,
                epoch: 1,
                next: 300,
            }),
        ),
        (
            "ended",
            ServerFrame::Ended(Ended {
                stream: 3,
                partition: Some(1),
                error: ErrorCode::PartitionStopped.because("partition 1 of `quakes` is stopped"),
            }),
        ),
        (
            "ended-all",
            ServerFrame::Ended(Ended {
                stream: 3,
                partition: None,
                error: ErrorCode::UnknownTopic.because("topic `quakes` was deleted"),
            }),
        ),
        (
            "closing",
            ServerFrame::Closing {
                reason: "the broker is stopping".to_owned(),
            },
        ),
    ]
}

fn check_server(name: &str, frame: &ServerFrame) {
    for (form, ending) in [(Form::Binary, "bin"), (Form::Json, "json")] {
        let message = encode_server(frame, form).expect(name);
        check(&format!("server-{name}.{ending}"), &message);
        let decoded = decode_server(&message, form).expect(name);
        let again = encode_server(&decoded, form).expect(name);
        assert_eq!(again, message, "{name} read and written again");
        if form == Form::Binary {
            assert_eq!(&decoded, frame);
        }
    }
}

#[test]
fn every_request_is_as_its_files_say() {
    for (id, (name, request)) in (1..).zip(requests()) {
        let frame = ClientFrame { id, request };
        for (form, ending) in [(Form::Binary, "bin"), (Form::Json, "json")] {
            let message = encode_client(&frame, form).expect(name);
            check(&format!("client-{name}.{ending}"), &message);
            let sharing = encode_sharing(&frame, form).expect(name);
            assert_eq!(sharing.into_bytes(), message, "{name} in pieces");
            assert_eq!(
                decode_client(&message, form, 0).expect(name),
                frame,
                "{name}"
            );
        }
    }
}

#[test]
fn every_answer_is_as_its_files_say() {
    for (id, (name, answer)) in (1..).zip(answers()) {
        check_server(
            &format!("answer-{name}"),
            &ServerFrame::Answer { id, answer },
        );
    }
    for (name, frame) in others() {
        check_server(name, &frame);
    }
}

#[test]
fn every_error_is_as_its_files_say() {
    for code in ErrorCode::ALL {
        let error = code.because(format!("an example of {}", code.name()));
        check_server(
            &format!("error-{}", code.name()),
            &ServerFrame::Error { id: Some(9), error },
        );
    }
}

#[test]
fn a_deliver_of_a_head_and_batches_is_the_same() {
    let frame = ServerFrame::Deliver(Deliver {
        stream: 3,
        partition: 0,
        epoch: 1,
        next: 110,
        batches: two_batches().into_iter().collect(),
    });
    let message = encode_server(&frame, Form::Binary).expect("binary never fails");
    let batches: Vec<u8> = two_batches()
        .iter()
        .flat_map(|batch| batch.bytes().to_vec())
        .collect();
    let mut apart = deliver_head(3, 0, 1, 110, batches.len());
    apart.extend(batches);
    assert_eq!(apart, message);
}

#[test]
fn every_variant_and_no_other_file_is_there() {
    // A new variant breaks this `match`; give it a golden file above.
    let request_name = |request: &Request| match request {
        Request::Hello(_) => 0,
        Request::Ping {} => 1,
        Request::OpenProducer(_) => 2,
        Request::Produce(_) => 3,
        Request::Subscribe(_) => 4,
        Request::Unsubscribe { .. } => 5,
        Request::Fetch(_) => 6,
        Request::Commit(_) => 7,
        Request::Cursors(_) => 8,
        Request::CreateTopic(_) => 9,
        Request::AlterTopic(_) => 10,
        Request::DeleteTopic { .. } => 11,
        Request::DescribeTopic { .. } => 12,
        Request::ListTopics {} => 13,
        Request::DeleteGroup(_) => 14,
        Request::ListGroups {} => 15,
    };
    let answer_name = |answer: &Answer| match answer {
        Answer::Welcome(_) => 0,
        Answer::Pong {} => 1,
        Answer::Producer(_) => 2,
        Answer::Produced(_) => 3,
        Answer::Subscribed(_) => 4,
        Answer::Unsubscribed {} => 5,
        Answer::Fetched(_) => 6,
        Answer::Committed { .. } => 7,
        Answer::Cursors { .. } => 8,
        Answer::Topic(_) => 9,
        Answer::Deleted {} => 10,
        Answer::Topics { .. } => 11,
        Answer::Groups { .. } => 12,
    };
    let frame_name = |frame: &ServerFrame| match frame {
        ServerFrame::Answer { .. } => 0,
        ServerFrame::Error { .. } => 1,
        ServerFrame::Deliver(_) => 2,
        ServerFrame::Gap(_) => 3,
        ServerFrame::Progress(_) => 4,
        ServerFrame::Ended(_) => 5,
        ServerFrame::Closing { .. } => 6,
    };
    assert_eq!(
        requests()
            .iter()
            .map(|(_, request)| request_name(request))
            .collect::<BTreeSet<_>>()
            .len(),
        16
    );
    assert_eq!(
        answers()
            .iter()
            .map(|(_, answer)| answer_name(answer))
            .collect::<BTreeSet<_>>()
            .len(),
        13
    );
    assert_eq!(
        others()
            .iter()
            .map(|(_, frame)| frame_name(frame))
            .collect::<BTreeSet<_>>(),
        (1..7).collect()
    );

    let frames = requests().len() + answers().len() + others().len() + ErrorCode::ALL.len();
    let files = std::fs::read_dir(folder())
        .expect("the golden folder")
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_file()))
        .count();
    assert_eq!(
        files,
        2 * frames + 9,
        "two files for each frame, and nine batches"
    );
}

/// The names that are said as capabilities are those that the JSON form uses.
#[test]
fn every_variant_is_named_as_in_json() {
    let is_named = |json: &[u8], names: &[&str]| {
        let object: BTreeMap<String, serde_json::Value> =
            serde_json::from_slice(json).expect("an object");
        let name = object.keys().find(|name| *name != "id").expect("a name");
        names.contains(&name.as_str())
    };
    for (name, request) in requests() {
        let frame = ClientFrame { id: 1, request };
        let json = encode_client(&frame, Form::Json).expect(name);
        assert!(is_named(&json, Request::NAMES), "{name}");
    }
    for (name, answer) in answers() {
        let json = serde_json::to_vec(&answer).expect(name);
        assert!(is_named(&json, Answer::NAMES), "{name}");
    }
    for (name, frame) in others() {
        let json = encode_server(&frame, Form::Json).expect(name);
        assert!(is_named(&json, ServerFrame::NAMES), "{name}");
    }
    assert_eq!(Request::NAMES.len(), 16);
    assert_eq!(Answer::NAMES.len(), 13);
    assert_eq!(ServerFrame::NAMES.len(), 7);
}

#[test]
fn error_numbers_and_names_are_unique() {
    let numbers: BTreeSet<u16> = ErrorCode::ALL.iter().map(|code| code.number()).collect();
    let names: BTreeSet<&str> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(
        (numbers.len(), names.len()),
        (ErrorCode::ALL.len(), ErrorCode::ALL.len())
    );
    for code in ErrorCode::ALL {
        assert_eq!(ErrorCode::from_number(code.number(), false), *code);
        assert_eq!(ErrorCode::from_name(code.name()), Some(*code));
    }
    for retryable in [true, false] {
        let unknown = ErrorCode::from_number(60_000, retryable);
        assert_eq!((unknown.number(), unknown.retryable()), (60_000, retryable));
    }
}
