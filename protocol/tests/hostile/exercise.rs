//! What is done with bytes from nowhere, by the fuzz targets and by the test
//! that runs their corpus: everything the crate would do with them. It must not
//! panic, and what can be read must be written again as the same.

use std::time::Duration;

use bytes::Bytes;
use eddy_protocol::batch::{Batch, Batches, Compression, OffsetMode, RAW_BYTES_MAX, Rows};
use eddy_protocol::codec::{Form, decode_client, decode_server, encode_client, encode_server};
use eddy_protocol::frame::{Answer, Request, ServerFrame, Subscribe, Subscribed, Welcome};
use eddy_protocol::session::{Config, Session};
use eddy_protocol::{ClientFrame, TopicName};

/// Bytes as batches.
pub(crate) fn batch(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let _ = Batch::parse(bytes.clone());
    // Without the checksum, which hides nearly everything from chance.
    for batch in Batches(bytes).iter_trusted() {
        let Ok(batch) = batch else { return };
        let Ok(records) = batch.records() else {
            continue;
        };
        let columns = records.to_columns();
        assert_eq!(columns.len(), records.len());
        for (ours, theirs) in columns.iter().zip(records.iter()) {
            assert_eq!(
                (ours.offset, ours.timestamp),
                (theirs.offset, theirs.timestamp)
            );
            assert_eq!((ours.key, ours.value), (theirs.key, theirs.value));
            assert!(ours.headers.eq(theirs.headers));
        }
        let offsets = OffsetMode::Sparse {
            base: batch.base_offset(),
            span: batch.span(),
        };
        let again = columns
            .encode(Rows::All, offsets, Compression::None, batch.producer())
            .expect("it was a batch");
        let again = Batch::parse(again.bytes().clone()).expect("what was encoded can be read");
        assert_eq!(again.records().expect("it was read").to_columns(), columns);
    }
}

/// Bytes as a batch of Kafka's; its length and its checksum are mended, because
/// chance finds neither.
pub(crate) fn kafka_batch(data: &[u8]) {
    let _ = Batch::from_kafka(data);
    let mut mended = data.to_vec();
    if mended.len() > 21 {
        let length = mended.len() as u32 - 12;
        mended[8..12].copy_from_slice(&length.to_be_bytes());
        mended[16] = 2;
        let crc = crc32c::crc32c(&mended[21..]);
        mended[17..21].copy_from_slice(&crc.to_be_bytes());
    }
    let Ok(batch) = Batch::from_kafka(&mended) else {
        return;
    };
    let parsed = Batch::parse(batch.bytes().clone()).expect("what was taken keeps every rule");
    let columns = parsed.as_columns().expect("it was checked");
    let columns = Batch::parse(columns.bytes().clone()).expect("columns keep every rule");
    let records = columns.records().expect("it is whole").to_columns();
    if let Ok(sent) = batch.to_kafka(-1, Compression::None) {
        assert_eq!(&sent.body[..], &mended[17..], "it is handed out as it came");
    }
    if let Ok(sent) = columns.to_kafka(-1, Compression::Lz4) {
        let again = Batch::from_kafka(&sent.to_vec()).expect("what was written can be read");
        assert_eq!(again.records().expect("it is whole").to_columns(), records);
    }
}

/// Bytes as a client's frame, in both forms.
pub(crate) fn client_frame(data: &[u8]) {
    for form in [Form::Binary, Form::Json] {
        let Ok(frame) = decode_client(data, form, 1) else {
            continue;
        };
        let binary = encode_client(&frame, Form::Binary).expect("binary never fails");
        assert_eq!(decode_client(&binary, Form::Binary, 1), Ok(frame.clone()));
        if let Ok(json) = encode_client(&frame, Form::Json) {
            let read = decode_client(&json, Form::Json, 1);
            assert!(read.is_ok() || !is_in_order(&frame.request), "{read:?}");
        }
    }
}

/// Bytes as a broker's frame, in both forms, and as a message to a session.
pub(crate) fn server_frame(data: &[u8]) {
    for form in [Form::Binary, Form::Json] {
        session(data, form);
        let Ok(frame) = decode_server(data, form) else {
            continue;
        };
        let binary = encode_server(&frame, Form::Binary).expect("binary never fails");
        assert_eq!(decode_server(&binary, Form::Binary), Ok(frame.clone()));
        if let Ok(json) = encode_server(&frame, Form::Json) {
            let read = decode_server(&json, Form::Json);
            let in_order = match &frame {
                ServerFrame::Deliver(deliver) => follow_each_other(&deliver.batches),
                ServerFrame::Answer {
                    answer: Answer::Fetched(fetched),
                    ..
                } => follow_each_other(&fetched.batches),
                _ => true,
            };
            assert!(read.is_ok() || !in_order, "{read:?}");
        }
    }
}

fn is_in_order(request: &Request) -> bool {
    match request {
        Request::Produce(produce) => follow_each_other(&produce.batch),
        Request::Commit(commit) => commit
            .appends
            .iter()
            .all(|produce| follow_each_other(&produce.batch)),
        _ => true,
    }
}

/// Whether each batch begins where the one before ended, and all of them
/// together are small enough for one: JSON makes one of them.
fn follow_each_other(batches: &Batches) -> bool {
    let batches: Vec<Batch> = batches.iter_trusted().map_while(Result::ok).collect();
    let raw_bytes: usize = batches.iter().map(Batch::raw_len).sum();
    let span: u64 = batches.iter().map(|batch| u64::from(batch.span())).sum();
    let adjacent = batches
        .windows(2)
        .all(|pair| pair[0].end_offset() == pair[1].base_offset());
    adjacent && span <= u32::MAX.into() && raw_bytes < RAW_BYTES_MAX / 2
}

/// A session that is connected, subscribed to stream 3, and then gets `data`.
fn session(data: &[u8], form: Form) {
    let mut session = Session::new(Config {
        form,
        ..Config::default()
    });
    let subscribe = Subscribe {
        topic: TopicName::parse("t").expect("a name"),
        partitions: Vec::new(),
        from: Default::default(),
        resume: Vec::new(),
        filter: None,
    };
    session.subscribe(subscribe);
    session.handle_connected(Duration::ZERO);
    for _ in 0..2 {
        let message = session.poll_transmit().expect("a hello, then a subscribe");
        let ClientFrame { id, request } =
            decode_client(&message.into_bytes(), form, 0).expect("a session sends whole frames");
        let answer = match request {
            Request::Hello(_) => Answer::Welcome(Welcome {
                server: String::new(),
                incarnation: 0,
                frame_bytes_max: 1 << 20,
                batch_bytes_max: 1 << 20,
                subscriptions_max: 1,
                idle_timeout_ms: 60_000,
                ..Welcome::default()
            }),
            _ => Answer::Subscribed(Subscribed {
                stream: 3,
                positions: Vec::new(),
            }),
        };
        let answer = encode_server(&ServerFrame::Answer { id, answer }, form)
            .expect("there is no batch in it");
        session.handle_message(&answer, Duration::ZERO);
    }
    session.handle_message(data, Duration::ZERO);
    while session.poll_transmit().is_some() {}
    while session.poll_event().is_some() {}
}
