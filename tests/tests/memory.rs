//! What the broker makes for peers that don't take it: it has a limit, whatever
//! is asked for and by how many, and nobody else waits for it.

use std::net::SocketAddr;

use eddy_protocol::frame::{
    Answer, Fetch, Hello, Request, SUBPROTOCOL_BINARY, SUBPROTOCOL_JSON, Start,
};
use eddy_protocol::{ClientFrame, ErrorCode, Form, TopicName, codec};
use eddy_tests::refusal::assert_error;
use eddy_tests::wait::LIMIT;
use eddy_tests::{Broker, Wire, http, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

/// What answers may take in these tests.
const BUDGET_BYTES: usize = 16 << 20;
/// What a connection takes beside its answer, the allocator's own part among it.
const CONNECTION_BYTES: usize = 96 << 10;
const RECORDS: &str = "/v1/topics/t/partitions/0/records?bytes_max=4194304";
const LONG_RECORDS: u64 = 8 << 10;

/// Asks, and reads nothing of the answer. The system's own buffers take little of it.
async fn ask(address: SocketAddr, path: &str, accept: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("there are descriptors");
    let sized = socket.set_recv_buffer_size(64 << 10);
    sized.expect("the buffer can be small");
    let mut stream = socket.connect(address).await.expect("the broker listens");
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: {accept}\r\n\r\n");
    let written = stream.write_all(head.as_bytes()).await;
    written.expect("the broker reads it");
    stream
}

async fn ask_often(broker: &Broker, times: usize, path: &str, accept: &str) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..times {
        silent.push(ask(broker.address(), path, accept).await);
    }
    silent
}

/// How many answers of the API have been begun.
fn answered(broker: &Broker) -> f64 {
    let text = broker.get("/metrics").ok().text();
    let counted = text.lines().filter(|line| {
        line.starts_with("eddy_http_requests_total") && line.contains(r#"route="/v1/"#)
    });
    let values = counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

/// A number of `/proc/PID/status`, in bytes.
fn memory(broker: &mut Broker, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.process().id()));
    let status = status.expect("Linux says");
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = value.and_then(|value| value.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.expect("a number") << 10
}

/// Records in a topic: long ones, short ones, and empty ones, which are far larger as JSON than in
/// a batch.
fn fill(broker: &Broker) {
    broker.eddy(&["topic", "create", "t"]).ok();
    let long = format!("{}\n", "x".repeat(1 << 10)).repeat(LONG_RECORDS as usize);
    let short = "y\n".repeat(1 << 17);
    for lines in [long, short] {
        broker.eddy_with_input(&["pub", "t"], lines).ok();
    }
    let empty = "\"\"\n".repeat(1 << 17);
    let headers = [("content-type", "application/x-ndjson")];
    let path = "/v1/topics/t/records";
    http::request(broker.address(), "POST", path, &headers, empty.as_bytes()).ok();
}

#[tokio::test]
async fn answers_that_nobody_reads_take_no_more_than_their_budget_and_others_are_served() {
    let mut broker = Broker::start_with(&[
        "--set",
        "broker.answers_bytes_max=16MiB",
        "--set",
        "broker.batch_bytes_max=1MiB",
    ]);
    fill(&broker);
    // As many as make a long list.
    for number in 0..30 {
        let name = format!("many-{number}");
        broker.eddy(&["topic", "create", &name, "-p", "1000"]).ok();
    }
    let empty = format!("{RECORDS}&offset={}", LONG_RECORDS + (1 << 17));
    for (silent, path, accept) in [
        (150, RECORDS, "application/json"),
        (30, RECORDS, "application/x-ndjson"),
        (30, &*empty, "application/json"),
        (150, "/v1/topics", "*/*"),
    ] {
        let (before, begun) = (memory(&mut broker, "VmRSS:"), answered(&broker));
        let most = BUDGET_BYTES + silent * CONNECTION_BYTES;
        let answers = begun + silent as f64;
        let silent = ask_often(&broker, silent, path, accept).await;
        wait_until(LIMIT, "all should be answered", || {
            (answered(&broker) >= answers).then_some(())
        });
        // Others are served at the same time.
        let small = "/v1/topics/t/partitions/0/records?bytes_max=1&offset=7";
        let record = &broker.get(small).ok().json()["records"][0];
        assert_eq!(record["offset"], 7);
        let topics = broker.get("/v1/topics").ok().json();
        assert_eq!(topics["topics"].as_array().map(Vec::len), Some(31));
        let grown = memory(&mut broker, "VmHWM:").saturating_sub(before);
        println!("{path} {accept}: {} MiB more", grown >> 20);
        assert!(grown < most, "{path}: {grown} bytes, {most} are allowed");
        drop(silent);
    }
}

#[tokio::test]
async fn a_slow_reader_gets_all_of_its_answer_while_memory_is_short() {
    let broker = Broker::start_with(&[
        "--set",
        "broker.answers_bytes_max=1MiB",
        "--set",
        "broker.batch_bytes_max=64KiB",
        "--set",
        "server.stall_timeout=1s",
    ]);
    fill(&broker);
    let mut slow = ask(broker.address(), RECORDS, "*/*").await;
    let silent = ask_often(&broker, 40, RECORDS, "*/*").await;
    let mut answer = Vec::new();
    let mut part = vec![0; 64 << 10];
    while !answer.ends_with(b"\r\n0\r\n\r\n") {
        let read = timeout(LIMIT, slow.read(&mut part)).await;
        let read = read.expect("it goes on").expect("the connection holds");
        assert!(read > 0, "it was broken off after {} bytes", answer.len());
        answer.extend_from_slice(&part[..read]);
    }
    drop(silent);
}

#[test]
fn an_answer_ends_where_it_says_whichever_form_it_has() {
    let broker = Broker::start();
    fill(&broker);
    let mut from = 0;
    while from < LONG_RECORDS + 1000 {
        let path = format!("/v1/topics/t/partitions/0/records?bytes_max=1000000&offset={from}");
        let json = broker.get(&path).ok().json();
        let next = json["next"].as_u64().expect("a number");
        let shown = json["records"].as_array().expect("records").len() as u64;
        assert_eq!(next - from, shown);
        let headers = [("accept", "application/x-ndjson")];
        let lines = http::request(broker.address(), "GET", &path, &headers, b"").ok();
        assert_eq!(lines.header("eddy-next"), Some(&*next.to_string()));
        let length = lines.body.len().to_string();
        assert_eq!(lines.header("content-length"), Some(&*length));
        assert_eq!(lines.text().lines().count() as u64, shown);
        from = next;
    }
}

fn fetch_all() -> Request {
    Request::Fetch(Fetch {
        topic: TopicName::parse("t").expect("a name"),
        partition: 0,
        from: Start::Earliest,
        bytes_max: 4 << 20,
        wait_ms: 0,
    })
}

/// A request as a short WebSocket message, with a mask of zeros.
fn message(id: u32, request: Request, form: Form) -> Vec<u8> {
    let frame = ClientFrame { id, request };
    let bytes = codec::encode_client(&frame, form).expect("there is no batch in it");
    let length = u8::try_from(bytes.len()).expect("a short request");
    assert!(length < 126, "a short request");
    let opcode = match form {
        Form::Json => 0x81,
        Form::Binary => 0x82,
    };
    [&[opcode, 0x80 | length, 0, 0, 0, 0], &bytes[..]].concat()
}

/// Fetches over a WebSocket, several times, and reads nothing behind the handshake.
async fn fetch_silently(address: SocketAddr, form: Form) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("there are descriptors");
    let sized = socket.set_recv_buffer_size(64 << 10);
    sized.expect("the buffer can be small");
    let mut stream = socket.connect(address).await.expect("the broker listens");
    let subprotocol = match form {
        Form::Json => SUBPROTOCOL_JSON,
        Form::Binary => SUBPROTOCOL_BINARY,
    };
    let head = format!(
        "GET /v1/ws HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: {subprotocol}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("it is read");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = timeout(LIMIT, stream.read_u8()).await.expect("in time");
        answer.push(byte.expect("the handshake is answered"));
    }
    let hello = message(1, Request::Hello(Hello::default()), form);
    let fetches = (2..5).map(|id| message(id, fetch_all(), form));
    let sent: Vec<u8> = [hello].into_iter().chain(fetches).flatten().collect();
    stream.write_all(&sent).await.expect("it is read");
    stream
}

#[tokio::test]
async fn messages_that_nobody_reads_take_no_more_than_their_part_and_others_are_served() {
    const SILENT: usize = 60;
    let mut broker = Broker::start_with(&[
        "--set",
        "broker.answers_bytes_max=16MiB",
        "--set",
        "broker.batch_bytes_max=1MiB",
    ]);
    fill(&broker);
    for form in [Form::Json, Form::Binary] {
        let before = memory(&mut broker, "VmRSS:");
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            silent.push(fetch_silently(broker.address(), form).await);
        }
        // Who asks behind them gets an answer when all of them have had theirs.
        let mut wire = Wire::greeted(broker.address(), form).await;
        match wire.ask(fetch_all()).await {
            Ok(answer) => assert!(matches!(answer, Answer::Fetched(_)), "{answer:?}"),
            Err(error) => {
                let parts = ["broker.answers_bytes_max", "16777216"];
                assert_error(&error, ErrorCode::TooMany, &parts);
            }
        }
        // Those who don't ask for whole messages don't wait for any.
        let small = "/v1/topics/t/partitions/0/records?bytes_max=1&offset=7";
        let record = &broker.get(small).ok().json()["records"][0];
        assert_eq!(record["offset"], 7);
        let grown = memory(&mut broker, "VmHWM:").saturating_sub(before);
        println!("{form:?}: {} MiB more", grown >> 20);
        let most = BUDGET_BYTES + SILENT * CONNECTION_BYTES;
        assert!(grown < most, "{form:?}: {grown} bytes, {most} are allowed");
        drop(silent);
        wait_until(LIMIT, "the memory should be free again", || {
            let text = broker.get("/metrics").ok().text();
            let held = text
                .lines()
                .find(|line| line.starts_with("eddy_answer_bytes "))?;
            (held.ends_with(" 0")).then_some(())
        });
    }
}
