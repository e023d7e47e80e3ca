//! What the golden files don't show: errors that name their request, and the
//! liberties that JSON takes on the way in.

use eddy_protocol::batch::{Batch, Batches};
use eddy_protocol::codec::{Form, decode_client, decode_server, encode_client, encode_server};
use eddy_protocol::error::ErrorCode;
use eddy_protocol::frame::{
    Answer, ClientFrame, Commit, CursorMove, ExpectedCursor, Fetched, Filter, PartitionInfo,
    Position, Produce, Produced, Request, ServerFrame, Start, Subscribe, TopicInfo, TopicSettings,
};
use eddy_protocol::{FrameError, TopicName};
use serde_json::Value;

const NOW: i64 = 1_700_000_000_000;

fn produced(json: &str) -> Batch {
    let text = format!(r#"{{"id":1,"produce":{{"topic":"t","partition":0,{json}}}}}"#);
    match decode_client(text.as_bytes(), Form::Json, NOW)
        .expect(json)
        .request
    {
        Request::Produce(Produce { batch, .. }) => batch.single().expect(json),
        other => panic!("{other:?}"),
    }
}

fn values(batch: &Batch) -> Vec<Option<String>> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    batch
        .records()
        .expect("it is whole")
        .iter()
        .map(|record| record.value.map(text))
        .collect()
}

fn refused(message: &[u8], form: Form) -> FrameError {
    decode_client(message, form, NOW).expect_err("it is not a frame")
}

#[test]
fn a_value_may_be_any_json_and_keeps_its_text() {
    let batch = produced(
        r#""records":[{"value":{ "z": 1, "a": [true, null, 2.50, -3, 18446744073709551615, "\u00e9\n"] }},
           {"value":"text"},{"value":7},{"value":false},{"value":[]},{"value":null},{"value":""},
           {"value":{"base64":"aGk="}},{"value":{"base64":"aGk=","more":1}},{"value":{}}]"#,
    );
    let expected = [
        Some(r#"{"z":1,"a":[true,null,2.50,-3,18446744073709551615,"\u00e9\n"]}"#),
        Some("text"),
        Some("7"),
        Some("false"),
        Some("[]"),
        None,
        Some(""),
        Some("hi"),
        Some(r#"{"base64":"aGk=","more":1}"#),
        Some("{}"),
    ];
    assert_eq!(
        values(&batch),
        expected.map(|value| value.map(str::to_owned))
    );
}

#[test]
fn numbers_and_strings_in_a_value_are_stored_as_they_were_written() {
    for text in [
        "0.30000000000000004",
        "2.2250738585072014e-308",
        "1.7976931348623157E+308",
        "1e400",
        "-0.0",
        "123456789012345678901234567890",
        "-9223372036854775809",
        r#"[" \" [ ",{"a b":"\\"},"\ud83d\ude00"]"#,
    ] {
        let spaced = format!("\t{} \n", text.replace(',', " ,\r\n "));
        let batch = produced(&format!(
            r#""records":[{{"value":{text}}},{{"value":{{"v":{spaced}}}}}]"#
        ));
        let expected = [text.to_owned(), format!(r#"{{"v":{text}}}"#)];
        assert_eq!(values(&batch), expected.map(Some), "{text}");
    }
}

#[test]
fn an_object_is_bytes_only_if_base64_is_all_of_it() {
    for (value, stored) in [
        (r#"{ "base64" : "aGk=" }"#, "hi"),
        (r#"{"b\u0061se64":"aGk\u003d"}"#, "hi"),
        (
            r#"{"base64":"aGk=","base64":"aGk="}"#,
            r#"{"base64":"aGk=","base64":"aGk="}"#,
        ),
        (r#"{"a":{"base64":"aGk="}}"#, r#"{"a":{"base64":"aGk="}}"#),
        (r#""\u0061\"b""#, "a\"b"),
    ] {
        let batch = produced(&format!(r#""records":[{{"value":{value}}}]"#));
        assert_eq!(values(&batch), [Some(stored.to_owned())], "{value}");
    }
}

#[test]
fn what_may_be_left_out_may_also_be_null() {
    let same = |full: &str, short: &str| {
        let read = |text: &str| decode_client(text.as_bytes(), Form::Json, NOW).expect(text);
        assert_eq!(read(full), read(short));
    };
    same(
        r#"{"subscribe":{"topic":"t","partitions":null,"from":null,"resume":null,"filter":null},"id":1}"#,
        r#"{"new":null,"id":1,"subscribe":{"topic":"t"}}"#,
    );
    same(
        r#"{"id":1,"subscribe":{"topic":"t","filter":{"plugin":"p","params":null}}}"#,
        r#"{"id":1,"subscribe":{"topic":"t","filter":{"plugin":"p"}}}"#,
    );
    same(
        r#"{"id":1,"produce":{"topic":"t","partition":null,"producer":null,"base_offset":null,"end_offset":null,
            "records":[{"offset":null,"timestamp":null,"key":null,"value":1,"headers":null}]}}"#,
        r#"{"id":1,"produce":{"records":[{"value":1}],"topic":"t"}}"#,
    );
    same(
        r#"{"id":1,"commit":{"appends":null,"group":null,"cursors":null}}"#,
        r#"{"id":1,"commit":{}}"#,
    );
    same(
        r#"{"id":1,"fetch":{"topic":"t","partition":0,"from":null,"bytes_max":1,"wait_ms":null}}"#,
        r#"{"id":1,"fetch":{"topic":"t","partition":0,"bytes_max":1}}"#,
    );
    same(
        r#"{"id":1,"create_topic":{"topic":"t","partitions":1,"durability":null,"retention_ms":null,"retention_bytes":null}}"#,
        r#"{"id":1,"create_topic":{"topic":"t","partitions":1}}"#,
    );
    same(
        r#"{"id":1,"hello":{"client":null}}"#,
        r#"{"id":1,"hello":{}}"#,
    );
}

#[test]
fn what_a_record_leaves_out_is_filled_in() {
    let batch = produced(
        r#""records":[{"value":1},{"value":2,"timestamp":5,"key":"k"},{"value":3,"key":null}]"#,
    );
    let records = batch.records().expect("it is whole");
    let read: Vec<_> = records
        .iter()
        .map(|record| (record.offset, record.timestamp, record.key))
        .collect();
    assert_eq!(
        read,
        [(0, NOW, None), (1, 5, Some(&b"k"[..])), (2, NOW, None)]
    );
    assert_eq!(
        (
            batch.timestamp_min(),
            batch.timestamp_max(),
            batch.producer()
        ),
        (5, NOW, None)
    );
}

#[test]
fn a_produce_of_nothing_is_a_batch_without_records() {
    let text = br#"{"id":1,"produce":{"topic":"t","partition":0,"records":[]}}"#;
    let frame = decode_client(text, Form::Json, NOW).expect("a frame");
    let Request::Produce(produce) = frame.request else {
        panic!("it is a produce")
    };
    let error = produce.batch.single().expect_err("there is no record");
    assert_eq!(error.to_string(), "batch: it holds no record");
}

#[test]
fn records_that_all_leave_out_their_time_get_one_and_are_whole() {
    for rest in ["", r#","end_offset":5"#] {
        let batch = produced(&format!(r#""records":[{{"value":1}},{{"value":2}}]{rest}"#));
        assert_eq!((batch.timestamp_min(), batch.timestamp_max()), (NOW, NOW));
        let records = batch.records().expect("it is whole");
        assert!(records.iter().all(|record| record.timestamp == NOW));
        assert_eq!(values(&batch), [Some("1".into()), Some("2".into())]);
    }
}

#[test]
fn a_commit_is_filled_in_as_a_produce_is() {
    let text =
        br#"{"id":1,"commit":{"appends":[{"topic":"t","partition":0,"records":[{"value":1}]}]}}"#;
    let Request::Commit(commit) = decode_client(text, Form::Json, NOW)
        .expect("a frame")
        .request
    else {
        panic!("it is a commit")
    };
    assert_eq!(
        commit.appends[0]
            .batch
            .clone()
            .single()
            .expect("a batch")
            .timestamp_min(),
        NOW
    );
}

#[test]
fn json_carries_a_producer_s_stamp_and_headers_in_both_shapes() {
    let batch = produced(
        r#""producer":{"id":7,"epoch":1,"sequence":40},
           "records":[{"value":1,"headers":[["a","x"],["a",{"base64":"/w=="}],["n",null]]},{"value":2,"headers":{"b":1,"n":null}}]"#,
    );
    let stamp = batch.producer().expect("it was given");
    assert_eq!((stamp.id, stamp.epoch, stamp.sequence), (7, 1, 40));
    let records = batch.records().expect("it is whole");
    let headers: Vec<Vec<_>> = records
        .iter()
        .map(|record| record.headers.collect())
        .collect();
    assert_eq!(
        headers,
        [
            vec![("a", Some(&b"x"[..])), ("a", Some(b"\xff")), ("n", None)],
            vec![("b", Some(b"1")), ("n", None)]
        ]
    );
}

#[test]
fn json_says_where_timestamps_are_those_of_append() {
    let claimed = produced(r#""records":[{"timestamp":1,"value":1},{"timestamp":9,"value":2}]"#);
    let shown = |batch: &Batch| {
        let batches = Batches::from(batch.clone());
        serde_json::to_string(&batches).expect("it has a JSON form")
    };
    assert!(!shown(&claimed).contains("timestamps"));
    let shown = shown(&claimed.with_append_time(5));
    let (before, records) = shown.split_once(r#""records":"#).expect("records");
    assert_eq!(before, r#"{"timestamps":"append","#);
    assert_eq!(records.matches(r#""timestamp":5"#).count(), 2, "{records}");
}

#[test]
fn a_record_without_a_value_is_refused_by_name() {
    let error = refused(
        br#"{"id":5,"produce":{"topic":"t","records":[{"key":"k"}]}}"#,
        Form::Json,
    );
    assert_eq!(error.id, Some(5));
    assert!(error.message.contains("value"), "{error}");
    for wrong in [
        r#"{"value":{"base64":"!"}}"#,
        r#"{"value":{"base64":1}}"#,
        r#"{"value":1,"headers":[["a"]]}"#,
        r#"{"value":"\ud800"}"#,
        r#"{"value":{"a":tru}}"#,
        r#"{"value":01}"#,
        r#"{"value":1},{"value":2}],"records":[{"value":3}"#,
    ] {
        let text = format!(r#"{{"id":5,"produce":{{"topic":"t","records":[{wrong}]}}}}"#);
        assert_eq!(refused(text.as_bytes(), Form::Json).id, Some(5), "{wrong}");
    }
}

#[test]
fn a_malformed_frame_names_its_request_where_it_can() {
    for (message, id) in [
        (&br#"{"ping":{},"id":7}}"#[..], Some(7)),
        (br#"{"id":7,"ping":"#, Some(7)),
        (br#"{"ping":{}}"#, None),
        (br#"{"id":-1,"ping":{}}"#, None),
        (br#"{"id":7,"id":7.5}"#, None),
        (br#"{"id":7,"ping":{},"id":7}"#, Some(7)),
        (br#"{"id":7,"pong":{}}"#, Some(7)),
        (br#"[7]"#, None),
        (b"", None),
        (b"\xff", None),
    ] {
        assert_eq!(
            refused(message, Form::Json).id,
            id,
            "{}",
            String::from_utf8_lossy(message)
        );
    }
    for (message, id) in [
        (&[][..], None),
        (&[7], Some(7)),
        (&[7, 1], Some(7)),
        (&[7, 1, 1], Some(7)),
        (&[0xfd, 1], None),
        (&[7, 1, 0, 0], Some(7)),
    ] {
        let error = refused(message, Form::Binary);
        assert_eq!(
            (error.id, error.code),
            (id, ErrorCode::MalformedFrame),
            "{message:?}"
        );
    }
}

/// Each text has one reading, or none and an error that names what is wrong.
#[test]
fn a_text_that_could_be_read_in_two_ways_is_refused() {
    let deep = format!(
        r#"{{"id":9,"create_topic":{{"topic":"t","partitions":1,"x":{}{}}}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    for (text, id, parts) in [
        // Two requests in one, and none.
        (
            r#"{"id":9,"ping":{},"produce":{"topic":"t","records":[{"value":1}]}}"#,
            Some(9),
            ["`ping`", "`produce`"],
        ),
        (
            r#"{"produce":{"topic":"t","records":[{"value":1}]},"ping":{},"id":9}"#,
            Some(9),
            ["`produce`", "`ping`"],
        ),
        (
            r#"{"id":9,"ping":{},"ping":{}}"#,
            Some(9),
            ["`ping`", "twice"],
        ),
        (r#"{"id":9}"#, Some(9), ["`ping`", "names nothing"]),
        // Ids.
        (
            r#"{"id":9,"id":9,"ping":{}}"#,
            Some(9),
            ["duplicate", "`id`"],
        ),
        (r#"{"id":9,"id":8,"ping":{}}"#, None, ["duplicate", "`id`"]),
        (r#"{"ping":{}}"#, None, ["missing", "`id`"]),
        (r#"{"id":null,"ping":{}}"#, None, ["`id` is null", "whole"]),
        (r#"{"id":1.5,"ping":{}}"#, None, ["`id` is 1.5", "whole"]),
        (r#"{"id":1e0,"ping":{}}"#, None, ["`id` is 1e0", "whole"]),
        (r#"{"id":-1,"ping":{}}"#, None, ["`id` is -1", "whole"]),
        (
            r#"{"id":4294967296,"ping":{}}"#,
            None,
            ["`id` is 4294967296", "4294967295"],
        ),
        (
            r#"{"id":1e400,"ping":{}}"#,
            None,
            ["`id` is 1e400", "whole"],
        ),
        (r#"{"id":"9","ping":{}}"#, None, ["`id` is \"9\"", "whole"]),
        (r#"{"id":[9],"ping":{}}"#, None, ["`id` is [9]", "whole"]),
        (r#"{"id":true,"ping":{}}"#, None, ["`id` is true", "whole"]),
        // What stands before and behind.
        (
            "\u{feff}{\"id\":9,\"ping\":{}}",
            Some(9),
            ["begins with", "byte order mark"],
        ),
        (
            r#"{"id":9,"ping":{}} {}"#,
            Some(9),
            ["trailing characters", "column 20"],
        ),
        (
            r#"{"id":9,"ping":{}},"#,
            Some(9),
            ["trailing characters", "column 19"],
        ),
        // Arrays.
        (r#"[{"id":9,"ping":{}}]"#, None, ["sequence", "an object"]),
        (r#"[9,{"ping":{}}]"#, None, ["sequence", "an object"]),
        (
            r#"{"id":9,"hello":["x"]}"#,
            Some(9),
            ["`hello`", "sequence"],
        ),
        (
            r#"{"id":9,"fetch":["t",0,"latest",1,0]}"#,
            Some(9),
            ["`fetch`", "sequence"],
        ),
        (
            r#"{"id":9,"subscribe":{"topic":"t","resume":[[0,1,2]]}}"#,
            Some(9),
            ["`subscribe.resume[0]`", "sequence"],
        ),
        (
            r#"{"id":9,"produce":{"topic":"t","records":[[0,1,"k","v",[]]]}}"#,
            Some(9),
            ["`produce.records[0]`", "sequence"],
        ),
        (
            r#"{"id":9,"produce":{"topic":"t","producer":[7,1,0],"records":[{"value":1}]}}"#,
            Some(9),
            ["`produce.producer`", "sequence"],
        ),
        // A name twice.
        (
            r#"{"id":9,"produce":{"topic":"t","topic":"u","records":[]}}"#,
            Some(9),
            ["duplicate", "`topic`"],
        ),
        (
            r#"{"id":9,"produce":{"topic":"t","records":[{"value":1}],"records":[]}}"#,
            Some(9),
            ["duplicate", "`records`"],
        ),
        (
            r#"{"id":9,"produce":{"topic":"t","records":[{"value":1,"value":2}]}}"#,
            Some(9),
            ["`produce.records[0]`", "duplicate field `value`"],
        ),
        (
            r#"{"id":9,"produce":{"topic":"t","records":[{"value":1,"headers":{"a":1,"a":2}}]}}"#,
            Some(9),
            ["`produce.records[0].headers`", "`a` is there twice"],
        ),
        (
            r#"{"id":9,"subscribe":{"topic":"t","filter":{"plugin":"p","params":{"a":"1","a":"2"}}}}"#,
            Some(9),
            ["`subscribe.filter.params`", "`a` is there twice"],
        ),
        (
            r#"{"id":9,"create_topic":{"topic":"t","partitions":1,"durability":"disk","durability":"memory"}}"#,
            Some(9),
            ["duplicate", "`durability`"],
        ),
        // Values.
        (&deep, Some(9), ["`create_topic", "recursion limit"]),
        (
            r#"{"id":9,"fetch":{"topic":"t","partition":0,"bytes_max":1e400}}"#,
            Some(9),
            ["`fetch.bytes_max`", "number out of range"],
        ),
        (
            r#"{"id":9,"cursors":{"group":"\ud800"}}"#,
            Some(9),
            ["`cursors.group`", "hex escape"],
        ),
        (
            r#"{"id":9,"produce":{"topic":"t","records":[{"value":"\udc00"}]}}"#,
            Some(9),
            ["`produce.records[0].value`", "not Unicode"],
        ),
    ] {
        let error = refused(text.as_bytes(), Form::Json);
        assert_eq!(
            (error.id, error.code),
            (id, ErrorCode::MalformedFrame),
            "{text}: {error}"
        );
        for part in parts {
            assert!(error.message.contains(part), "{text}: {error}");
        }
    }
}

#[test]
fn bytes_behind_a_frame_are_an_error() {
    let frame = ClientFrame {
        id: 7,
        request: Request::Ping {},
    };
    for form in [Form::Binary, Form::Json] {
        let message = encode_client(&frame, form).expect("there is no batch in it");
        assert_eq!(decode_client(&message, form, NOW), Ok(frame.clone()));
        let longer = [&message[..], b"0"].concat();
        assert_eq!(refused(&longer, form).id, Some(7), "{form:?}");
    }
}

#[test]
fn a_wrong_topic_name_has_a_code_of_its_own() {
    for (message, form) in [
        (&[7, 11, 4, 3, b'a', b'/', b'b'][..], Form::Binary),
        (br#"{"id":7,"delete_topic":{"topic":"a/b"}}"#, Form::Json),
    ] {
        let error = refused(message, form);
        assert_eq!(
            (error.id, error.code),
            (Some(7), ErrorCode::InvalidName),
            "{error}"
        );
        assert!(error.message.contains("a/b"), "{error}");
    }
}

#[test]
fn an_error_in_json_says_its_number_and_whether_to_retry() {
    let error = ServerFrame::Error {
        id: Some(1),
        error: ErrorCode::DiskFull.because("no room"),
    };
    let text = encode_server(&error, Form::Json).expect("there is no batch in it");
    assert_eq!(
        text,
        r#"{"error":{"id":1,"code":"disk_full","number":18,"message":"no room","retryable":true}}"#
    );
    assert_eq!(decode_server(&text, Form::Json), Ok(error));
}

#[test]
fn a_damaged_batch_is_an_error_in_json_and_no_panic() {
    let batches = Batches(vec![1; 100].into());
    let answer = Answer::Fetched(Fetched {
        epoch: 0,
        start: 0,
        end: 0,
        next: 0,
        batches,
    });
    let frame = ServerFrame::Answer { id: 1, answer };
    assert!(encode_server(&frame, Form::Json).is_err());
    let binary = encode_server(&frame, Form::Binary).expect("binary does not look");
    assert_eq!(decode_server(&binary, Form::Binary), Ok(frame));
}

/// The limits against hostile lengths leave room for what is real.
#[test]
fn long_lists_of_the_smallest_elements_can_be_read() {
    let topic = TopicName::parse("t").expect("a name");
    let cursor = CursorMove {
        topic: topic.clone(),
        partition: 0,
        offset: 0,
        epoch: None,
        expect: ExpectedCursor::Any,
    };
    let append = Produce {
        topic: topic.clone(),
        partition: None,
        batch: Batches::default(),
    };
    let position = Position {
        partition: 0,
        offset: 0,
        epoch: 0,
    };
    let partition = PartitionInfo {
        partition: 0,
        epoch: 0,
        start: 0,
        end: 0,
        bytes: 0,
        stopped: None,
    };
    let info = |partitions| TopicInfo {
        topic: topic.clone(),
        settings: TopicSettings::default(),
        partitions,
        uuid: String::new(),
    };
    let produced = Produced {
        partition: 0,
        offset: None,
        count: 0,
        duplicate: false,
    };
    for count in [1, 10, 100, 1000, 10_000, 100_000] {
        let params = (0..count as u32).map(|n| (format!("{n:x}"), String::new()));
        let requests = [
            Request::Subscribe(Subscribe {
                topic: topic.clone(),
                partitions: vec![0; count],
                from: Start::Latest,
                resume: vec![position; count],
                filter: None,
            }),
            Request::Subscribe(Subscribe {
                topic: topic.clone(),
                partitions: Vec::new(),
                from: Start::Latest,
                resume: Vec::new(),
                filter: Some(Filter {
                    plugin: String::new(),
                    params: params.collect(),
                }),
            }),
            Request::Commit(Commit {
                appends: vec![append.clone(); count],
                group: None,
                cursors: Vec::new(),
            }),
            Request::Commit(Commit {
                appends: Vec::new(),
                group: None,
                cursors: vec![cursor.clone(); count],
            }),
        ];
        for request in requests {
            let frame = ClientFrame { id: 1, request };
            let message = encode_client(&frame, Form::Binary).expect("binary never fails");
            assert!(
                decode_client(&message, Form::Binary, NOW) == Ok(frame),
                "{count}"
            );
        }
        let answers = [
            Answer::Committed {
                appends: vec![produced; count],
            },
            Answer::Topic(info(vec![partition.clone(); count])),
            Answer::Topics {
                topics: vec![info(Vec::new()); count],
            },
        ];
        for answer in answers {
            let frame = ServerFrame::Answer { id: 1, answer };
            let message = encode_server(&frame, Form::Binary).expect("binary never fails");
            assert!(
                decode_server(&message, Form::Binary) == Ok(frame),
                "{count}"
            );
        }
    }
}

#[test]
fn a_produce_has_memory_of_its_own() {
    let frame = ClientFrame {
        id: 1,
        request: Request::Produce(Produce {
            topic: TopicName::parse("t").expect("a name"),
            partition: Some(0),
            batch: produced(r#""records":[{"value":1}]"#).into(),
        }),
    };
    let message = encode_client(&frame, Form::Binary).expect("binary never fails");
    let Request::Produce(produce) = decode_client(&message, Form::Binary, NOW)
        .expect("a frame")
        .request
    else {
        panic!("it is a produce")
    };
    let batch = produce.batch.single().expect("a batch");
    let place = batch.bytes().as_ptr();
    assert_eq!(
        batch.with_base_offset(9).bytes().as_ptr(),
        place,
        "the offset is written in place"
    );
}

/// The ways to the objects of a JSON document that are structs: not those that stand for an enum or
/// for a record's own JSON.
fn structs(value: &Value, path: &str, found: &mut Vec<String>) {
    let is_other = |name: &str| {
        matches!(
            name,
            "params" | "from" | "expect" | "headers" | "key" | "value"
        )
    };
    match value {
        Value::Object(fields) => {
            if !path.is_empty() && !path.ends_with("_ms") && !path.ends_with("_bytes") {
                found.push(path.to_owned());
            }
            for (name, value) in fields.iter().filter(|(name, _)| !is_other(name)) {
                structs(value, &format!("{path}/{name}"), found);
            }
        }
        Value::Array(values) => {
            for (number, value) in values.iter().enumerate() {
                structs(value, &format!("{path}/{number}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn no_struct_at_any_depth_is_taken_from_an_array_of_its_fields() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");
    let mut checked = 0;
    for entry in std::fs::read_dir(golden).expect("golden files") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(name) = name.filter(|name| name.starts_with("client-") && name.ends_with(".json"))
        else {
            continue;
        };
        let text = std::fs::read(&path).expect("a golden file");
        let document: Value = serde_json::from_slice(&text).expect("JSON");
        let mut paths = Vec::new();
        structs(&document, "", &mut paths);
        for path in paths {
            let mut other = document.clone();
            let place = other.pointer_mut(&path).expect("it was found");
            let fields = place.as_object().expect("it is a struct").values();
            *place = fields.cloned().collect();
            let message = other.to_string();
            let error = refused(message.as_bytes(), Form::Json).to_string();
            let is_told = error.contains("invalid type: sequence");
            assert!(is_told, "{name}: {message}: {error}");
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked} structs in golden files");
}

#[test]
fn the_least_timestamp_is_refused_and_not_taken_for_none() {
    let text = |timestamp: i64| {
        format!(
            r#"{{"id":1,"produce":{{"topic":"t","records":[{{"value":1,"timestamp":{timestamp}}}]}}}}"#
        )
    };
    let error = refused(text(i64::MIN).as_bytes(), Form::Json).to_string();
    assert!(error.contains("-9223372036854775807"), "{error}");
    for timestamp in [i64::MIN + 1, -1, i64::MAX] {
        let frame = decode_client(text(timestamp).as_bytes(), Form::Json, NOW);
        let Ok(Request::Produce(produce)) = frame.map(|frame| frame.request) else {
            panic!("{timestamp} is a time");
        };
        let batch = produce.batch.single().expect("a batch");
        assert_eq!(batch.timestamp_min(), timestamp);
    }
}
