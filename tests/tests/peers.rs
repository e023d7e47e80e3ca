//! Peers that break the rules, by mistake or on purpose: half handshakes,
//! silence, garbage, pages of other origins. Each gets an answer or an end, in
//! time, that says what was wrong.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use eddy_protocol::frame::{Hello, Request, SUBPROTOCOL_JSON};
use eddy_protocol::{ErrorCode, Form, ServerFrame};
use eddy_tests::refusal::{assert_error, assert_refused};
use eddy_tests::wait::LIMIT;
use eddy_tests::{Broker, Wire, http};
use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message};

const FORMS: [Form; 2] = [Form::Binary, Form::Json];

#[tokio::test]
async fn an_idle_peer_is_told_and_closed_and_one_that_answers_pings_stays() {
    let broker = Broker::start_with(&[
        "--set",
        "ws.idle_timeout=1s",
        "--set",
        "ws.hello_timeout=1s",
    ]);
    // Reading answers the broker's pings; who does not read, does not.
    let mut lively = Wire::greeted(broker.address(), Form::Binary).await;
    let mut idle = raw_websocket(broker.address());
    idle.write_all(&masked_text(r#"{"id":1,"hello":{}}"#))
        .expect("it is written");
    let mut heard = Vec::new();
    let living = tokio::spawn(async move { lively.message().await });
    // The socket is read to its end without a pong ever being sent.
    let heard = tokio::task::spawn_blocking(move || idle.read_to_end(&mut heard).map(|_| heard));
    let heard = heard
        .await
        .expect("no panic")
        .expect("the broker closes in time");
    let heard = String::from_utf8_lossy(&heard).into_owned();
    for part in ["timed_out", "ws.idle_timeout", "1s"] {
        assert!(heard.contains(part), "`{heard}` does not name {part}");
    }
    assert!(!living.is_finished(), "the other one was closed, too");
    living.abort();
}

#[test]
fn a_peer_to_which_the_broker_does_not_listen_for_now_is_not_idle() {
    let broker = Broker::start_with(&[
        "--set",
        "ws.idle_timeout=1s",
        "--set",
        "ws.hello_timeout=1s",
        "--set",
        "ws.requests_in_flight_max=1",
    ]);
    broker.eddy(&["topic", "create", "t"]).ok();
    let mut peer = raw_websocket(broker.address());
    let fetch = r#"{"id":2,"fetch":{"topic":"t","from":"latest","bytes_max":9,"partition":0,"wait_ms":3000}}"#;
    for text in [r#"{"id":1,"hello":{}}"#, fetch] {
        peer.write_all(&masked_text(text)).expect("it is written");
    }
    // It answers no ping, and the broker reads nothing while so much is unanswered.
    let mut heard = String::new();
    while !heard.contains(r#"{"answer":{"id":2,"fetched":"#) {
        let mut bytes = [0; 1024];
        let read = peer.read(&mut bytes).expect("the fetch is answered");
        assert!(read > 0, "the broker closed the connection: {heard}");
        heard.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
}

/// A socket after the handshake, on which nothing answers by itself.
fn raw_websocket(address: SocketAddr) -> TcpStream {
    let mut stream = raw(address);
    let head = format!(
        "GET /v1/ws HTTP/1.1\r\nhost: {address}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         sec-websocket-protocol: {SUBPROTOCOL_JSON}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it is written");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream
            .read_exact(&mut byte)
            .expect("the handshake is answered");
        answer.push(byte[0]);
    }
    assert!(
        answer.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    stream
}

#[test]
fn a_peer_that_asks_and_does_not_read_costs_the_broker_no_memory() {
    const REQUESTS: usize = 1_500;
    let mut broker = Broker::start();
    // An answer of tens of kilobytes to a request of a few bytes.
    broker.eddy(&["topic", "create", "t", "-p", "500"]).ok();
    let before = memory_peak(&mut broker);
    let mut greedy = raw_websocket(broker.address());
    greedy
        .write_all(&masked_text(r#"{"id":1,"hello":{}}"#))
        .expect("it is written");
    let requests = masked_text(r#"{"id":2,"list_topics":{}}"#).repeat(REQUESTS);
    greedy.write_all(&requests).expect("it is written");
    greedy
        .write_all(&masked_text(r#"{"id":3,"ping":{}}"#))
        .expect("it is written");
    // As long as the broker may need for all of it, if it were to do that.
    for _ in 0..100 {
        broker.get("/v1/topics").ok();
    }
    let mut answers = 0;
    let mut last = Vec::new();
    while !last.ends_with(br#"{"answer":{"id":3,"pong":{}}}"#) {
        let mut bytes = vec![0; 64 << 10];
        let read = greedy.read(&mut bytes).expect("all is answered");
        assert!(read > 0, "the broker closed the connection");
        answers += read;
        last.extend_from_slice(&bytes[..read]);
        last.drain(..last.len().saturating_sub(100));
    }
    assert!(answers > REQUESTS * 10_000, "{answers} bytes were answered");
    let grown = memory_peak(&mut broker) - before;
    assert!(
        grown < answers / 3,
        "{grown} of {answers} bytes were queued"
    );
}

/// The most memory that the broker has held, in bytes.
fn memory_peak(broker: &mut Broker) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.process().id()));
    let status = status.expect("Linux says");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
    kilobytes
        .expect("a number")
        .parse::<usize>()
        .expect("a number")
        << 10
}

fn raw(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the broker listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a limit");
    stream
}

/// Sends bytes and reads until the broker closes.
fn exchange(address: SocketAddr, sent: &str) -> String {
    let mut stream = raw(address);
    // The broker may have closed before it has taken all of it.
    let _ = stream.write_all(sent.as_bytes());
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .expect("the broker closes in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// A short text message as RFC 6455 has a client send it, with a mask of zeros.
fn masked_text(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).expect("a short text");
    assert!(length < 126, "a short text");
    [&[0x81, 0x80 | length, 0, 0, 0, 0], text.as_bytes()].concat()
}

#[test]
fn a_handshake_that_never_comes_to_its_end_is_ended() {
    let broker = Broker::start_with(&["--set", "server.handshake_timeout=300ms"]);
    for sent in ["", "GET /v1/ws HTTP/1.1\r\nhost: 127.0.0.1\r\nupgr"] {
        let answer = exchange(broker.address(), sent);
        assert!(
            answer.starts_with("HTTP/1.1 408"),
            "after `{sent}`: {answer}"
        );
        for part in ["timed_out", "300ms", "server.handshake_timeout"] {
            assert!(
                answer.contains(part),
                "after `{sent}`: `{answer}` does not name {part}"
            );
        }
    }
    broker.get("/health").ok();
}

#[test]
fn a_head_that_is_too_large_or_no_http_is_answered_and_closed() {
    let broker = Broker::start();
    for (sent, status) in [
        (
            format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(40_000)),
            "431",
        ),
        (
            "\x16\x03\x01\x02\x00 this is TLS, or something else\r\n\r\n".to_owned(),
            "400",
        ),
    ] {
        let answer = exchange(broker.address(), &sent);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
    }
}

#[test]
fn a_head_that_is_refused_is_told_what_is_wrong_with_it() {
    let broker = Broker::start();
    let head = |line: &str, rest: &str| {
        format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{rest}\r\n")
    };
    let many: String = (0..120).map(|number| format!("x{number}: 1\r\n")).collect();
    let large = format!("x: {}\r\n", "x".repeat(40_000));
    for (sent, status, part) in [
        (head("GET /", &many), "431", "more than 100 headers"),
        (head("GET /", &large), "431", "server.header_bytes_max"),
        (head("GET /v1/topics/\u{e9}", ""), "400", "invalid_name"),
        (
            head("OPTIONS /v1/topics", ""),
            "405",
            "only GET, POST, HEAD",
        ),
    ] {
        let answer = exchange(broker.address(), &sent);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{answer}"
        );
        assert!(answer.contains(part), "{answer} lacks {part}");
    }
}

#[test]
fn a_body_that_does_not_arrive_is_given_up() {
    let broker = Broker::start_with(&["--set", "http.body_timeout=1s"]);
    broker.eddy(&["topic", "create", "t"]).ok();
    let head = "POST /v1/topics/t/records HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
                content-length: 100\r\n\r\n{\"records\"";
    let answer = exchange(broker.address(), head);
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("http.body_timeout"),
        "{answer}"
    );
}

#[tokio::test]
async fn hello_comes_first_once_and_soon() {
    let broker = Broker::start_with(&["--set", "ws.hello_timeout=300ms"]);
    for form in FORMS {
        let mut wire = Wire::silent(broker.address(), form).await;
        let error = wire.last_error().await;
        assert_error(
            &error,
            ErrorCode::TimedOut,
            &["hello", "300ms", "ws.hello_timeout"],
        );

        let mut wire = Wire::silent(broker.address(), form).await;
        let early = wire.ask(Request::Ping {}).await;
        assert_error(
            &early.expect_err("too early"),
            ErrorCode::UnexpectedFrame,
            &["`hello`"],
        );
        wire.last_words().await;

        let mut wire = Wire::greeted(broker.address(), form).await;
        let twice = wire.ask(Request::Hello(Hello::default())).await;
        assert_error(
            &twice.expect_err("twice"),
            ErrorCode::UnexpectedFrame,
            &["`hello` already"],
        );

        let mut wire = Wire::silent(broker.address(), form).await;
        let hello = Hello {
            client: "x".repeat(129),
            ..Hello::default()
        };
        let long = wire.ask(Request::Hello(hello)).await;
        assert_error(
            &long.expect_err("too long"),
            ErrorCode::InvalidArgument,
            &["`client`", "129", "128"],
        );
    }
}

#[tokio::test]
async fn garbage_is_answered_with_an_error_and_never_with_silence() {
    let broker = Broker::start();
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..100 {
        let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
        let bytes: Vec<u8> = (0..random.usize(0..200)).map(|_| random.u8(..)).collect();
        wire.send(Message::binary(bytes.clone())).await;
        // An answer, or an error and the end; `next` panics where nothing comes.
        let said = wire.next().await;
        assert!(said.is_some(), "round {round}: {bytes:?} was not answered");
        if let Some(ServerFrame::Error { id: None, error }) = said {
            assert_error(&error, ErrorCode::MalformedFrame, &[]);
            assert_eq!(
                wire.last_words().await,
                [],
                "round {round}: it closes after an error without an id"
            );
        }
    }
    for text in [
        "",
        "{",
        "[]",
        "null",
        "7",
        "{}",
        r#"{"hello":{}}"#,
        r#"{"id":-1,"ping":{}}"#,
        "\u{0}",
    ] {
        let mut wire = Wire::greeted(broker.address(), Form::Json).await;
        wire.send(Message::text(text)).await;
        let error = wire.last_error().await;
        assert_error(&error, ErrorCode::MalformedFrame, &[]);
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_answered_with_its_id_where_there_is_one() {
    let broker = Broker::start();
    let mut wire = Wire::greeted(broker.address(), Form::Json).await;
    for (asked, code, part) in [
        (json!({"id": 7, "pong": {}}), "unsupported", "`pong`"),
        (json!({"id": 7}), "malformed_frame", ""),
        (
            json!({"id": 7, "subscribe": {"from": "earliest"}}),
            "malformed_frame",
            "topic",
        ),
        (
            json!({"id": 7, "subscribe": {"topic": "t", "from": "soon"}}),
            "unsupported",
            "soon",
        ),
        (
            json!({"id": 7, "produce": {"topic": "t", "records": [{"key": "k"}]}}),
            "malformed_frame",
            "value",
        ),
        (
            json!({"id": 7, "describe_topic": {"topic": "a/b"}}),
            "invalid_name",
            "a/b",
        ),
        (
            json!({"id": 7, "describe_topic": {"topic": ""}}),
            "invalid_name",
            "",
        ),
        (
            json!({"id": 7, "describe_topic": {"topic": ".."}}),
            "invalid_name",
            "..",
        ),
        (
            json!({"id": 7, "describe_topic": {"topic": "x".repeat(250)}}),
            "invalid_name",
            "249",
        ),
    ] {
        wire.say(&asked).await;
        let heard = wire.hear().await;
        assert_eq!(
            (&heard["error"]["id"], &heard["error"]["code"]),
            (&json!(7), &json!(code)),
            "{asked}: {heard}"
        );
        let message = heard["error"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(part), "{asked}: {message}");
    }
    wire.say(&json!({"id": 8, "ping": {}})).await;
    assert_eq!(wire.hear().await, json!({"answer": {"id": 8, "pong": {}}}));
}

#[tokio::test]
async fn a_message_of_the_other_kind_ends_the_connection() {
    let broker = Broker::start();
    for (form, message, word) in [
        (Form::Binary, Message::text("{}"), "eddy.v1 takes binary"),
        (
            Form::Json,
            Message::binary(vec![0]),
            "eddy.v1.json takes text",
        ),
    ] {
        let mut wire = Wire::greeted(broker.address(), form).await;
        wire.send(message).await;
        assert_error(&wire.last_error().await, ErrorCode::MalformedFrame, &[word]);
    }
}

#[tokio::test]
async fn the_subprotocol_must_be_one_that_the_broker_speaks() {
    let broker = Broker::start();
    for offered in ["", "mqtt", "eddy.v2"] {
        let Err(Error::Http(answer)) = Wire::handshake(broker.address(), offered, &[]).await else {
            panic!("`{offered}` should be refused");
        };
        assert_eq!(answer.status(), 400);
    }
}

#[tokio::test]
async fn pages_of_other_origins_may_read_but_neither_write_nor_open_a_websocket() {
    let evil = "http://evil.example";
    let broker = Broker::start();
    let post = |broker: &Broker, origin: &str| {
        let headers = [("content-type", "application/json"), ("origin", origin)];
        let body = json!({"topic": "t", "partitions": 1}).to_string();
        http::request(
            broker.address(),
            "POST",
            "/v1/topics",
            &headers,
            body.as_bytes(),
        )
    };
    let named = ["evil.example", "http.allowed_origins"];
    assert_refused(&post(&broker, evil), 403, "forbidden_origin", &named);
    for method in ["PUT", "DELETE", "PATCH"] {
        let refused = http::request(
            broker.address(),
            method,
            "/v1/topics/t",
            &[("origin", evil)],
            b"",
        );
        assert_refused(&refused, 403, "forbidden_origin", &named);
    }
    let refused = Wire::handshake(broker.address(), SUBPROTOCOL_JSON, &[("origin", evil)]).await;
    assert!(matches!(refused, Err(Error::Http(answer)) if answer.status() == 403));
    assert_eq!(broker.get("/v1/topics").ok().json()["topics"], json!([]));
    // A name that somebody's DNS points here is not ours.
    let rebound = exchange(
        broker.address(),
        "GET /v1/topics HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n",
    );
    assert!(
        rebound.starts_with("HTTP/1.1 403") && rebound.contains("http.allowed_hosts"),
        "{rebound}"
    );

    let own = broker.url();
    assert_eq!(post(&broker, &own).status, 201);
    Wire::handshake(broker.address(), SUBPROTOCOL_JSON, &[("origin", &own)])
        .await
        .expect("its own page may");

    let broker = Broker::start_with(&["--set", &format!("http.allowed_origins={evil}")]);
    let allowed = post(&broker, evil);
    assert_eq!(
        (
            allowed.status,
            allowed.header("access-control-allow-origin")
        ),
        (201, Some(evil))
    );
    Wire::handshake(broker.address(), SUBPROTOCOL_JSON, &[("origin", evil)])
        .await
        .expect("allowed now");
    assert_refused(
        &post(&broker, "http://other.example"),
        403,
        "forbidden_origin",
        &["other.example"],
    );
}

#[tokio::test]
async fn a_request_of_a_newer_client_is_refused_by_its_id_and_the_connection_goes_on() {
    let broker = Broker::start();
    let durability =
        r#"{"id":9,"create_topic":{"topic":"t","partitions":1,"durability":"replicated"}}"#;
    for (form, message, named) in [
        (Form::Binary, Message::binary(vec![9, 99, 2, 1, 2]), "99"),
        (
            Form::Json,
            Message::text(r#"{"id":9,"take_over":{}}"#),
            "`take_over`",
        ),
        (Form::Json, Message::text(durability), "`durability`"),
    ] {
        let mut wire = Wire::greeted(broker.address(), form).await;
        wire.send(message).await;
        let refused = wire.answer(9).await.expect_err("nobody knows it");
        assert_error(&refused, ErrorCode::Unsupported, &[named]);
        wire.ask(Request::Ping {}).await.expect("a pong");
    }
}

/// A frame as a client sends it: the first byte, whether it is masked (with
/// zeros), the payload.
fn client_frame(first: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let mask: &[u8] = if masked { &[0; 4] } else { &[] };
    let bit = if masked { 0x80 } else { 0 };
    let length = match payload.len() {
        short @ ..126 => vec![bit | short as u8],
        long => [&[bit | 126], &(long as u16).to_be_bytes()[..]].concat(),
    };
    [&[first], &length[..], mask, payload].concat()
}

/// The next frame of the broker: its first byte and the payload.
fn server_frame(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a frame in time");
    let length = match head[1] {
        126 => {
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a length");
            u16::from_be_bytes(length) as usize
        }
        length => {
            assert!(length < 126, "short or masked frames only");
            length as usize
        }
    };
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).expect("a payload");
    (head[0], payload)
}

const TEXT: u8 = 0x81;
const TEXT_PART: u8 = 0x01;
const PART: u8 = 0x00;
const LAST_PART: u8 = 0x80;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

/// The MUSTs of RFC 6455 for what a server reads, each with its close code.
#[test]
fn what_breaks_the_websocket_protocol_closes_with_the_code_of_the_standard() {
    let broker = Broker::start();
    let masked = |first, payload: &[u8]| client_frame(first, true, payload);
    let ping = br#"{"id":2,"ping":{}}"#;
    let close = |code: u16, reason: &[u8]| masked(CLOSE, &[&code.to_be_bytes(), reason].concat());
    let mut cases = vec![
        ("unmasked", client_frame(TEXT, false, ping), 1002),
        ("a reserved bit", masked(TEXT | 0x40, ping), 1002),
        ("a reserved data frame", masked(0x83, b""), 1002),
        ("a reserved control frame", masked(0x8b, b""), 1002),
        ("a ping in parts", masked(0x09, b""), 1002),
        ("a ping of 126 bytes", masked(PING, &[0; 126]), 1002),
        ("a close of 126 bytes", masked(CLOSE, &[3; 126]), 1002),
        ("the rest of nothing", masked(LAST_PART, ping), 1002),
        (
            "a text amid a text",
            [masked(TEXT_PART, b"{"), masked(TEXT, ping)].concat(),
            1002,
        ),
        ("a text that is not UTF-8", masked(TEXT, b"\xff"), 1007),
        ("a surrogate in UTF-8", masked(TEXT, b"\xed\xa0\x80"), 1007),
        ("an overlong slash", masked(TEXT, b"\xc0\xaf"), 1007),
        ("half a character", masked(TEXT, b"\"\xc3"), 1007),
        (
            "a part that is not UTF-8",
            [masked(TEXT_PART, b"{"), masked(PART, b"\xff")].concat(),
            1007,
        ),
        (
            "a last part that is not UTF-8",
            [masked(TEXT_PART, b"{"), masked(LAST_PART, b"\xff")].concat(),
            1007,
        ),
        (
            "parts that end in half a character",
            [masked(TEXT_PART, b"\""), masked(LAST_PART, b"\xc3")].concat(),
            1007,
        ),
        ("a close of one byte", masked(CLOSE, &[3]), 1002),
        (
            "a close with a reason not UTF-8",
            close(1000, b"\xff"),
            1007,
        ),
        ("a close with a reason", close(1000, b"bye"), 1000),
        ("a close of its own", close(4999, b""), 4999),
        ("a close of a library", close(3000, b""), 3000),
        ("a binary message", masked(0x82, &[1, 1, 0]), 1003),
    ];
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
        cases.push(("a reserved code", close(code, b""), 1002));
    }
    for (what, sent, code) in cases {
        let mut peer = raw_websocket(broker.address());
        peer.write_all(&masked_text(r#"{"id":1,"hello":{}}"#))
            .expect("it is written");
        assert_eq!(server_frame(&mut peer).0, TEXT, "the welcome");
        peer.write_all(&sent).expect("it is written");
        let closed = loop {
            match server_frame(&mut peer) {
                (CLOSE, payload) => break payload,
                (first, payload) => {
                    let text = String::from_utf8_lossy(&payload);
                    assert_eq!(first, TEXT, "{what}");
                    assert!(text.contains("malformed_frame"), "{what}: {text}");
                }
            }
        };
        assert_eq!(closed[..2], u16::to_be_bytes(code), "{what}, {sent:02x?}");
        // Ours, where the broker began it; then the end.
        let _ = peer.write_all(&close(code, b""));
        let mut rest = Vec::new();
        let _ = peer.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{what}: nothing follows a close");
    }
}

#[test]
fn what_keeps_the_websocket_protocol_is_answered() {
    let broker = Broker::start();
    let masked = |first, payload: &[u8]| client_frame(first, true, payload);
    let mut peer = raw_websocket(broker.address());
    // A character over two parts, and a ping between them.
    let parts = [
        masked(TEXT_PART, b"{\"id\":1,\"hello\":{\"client\":\"\xc3"),
        masked(PING, b"there?"),
        masked(PART, b""),
        masked(LAST_PART, b"\xa9\"}}"),
    ];
    peer.write_all(&parts.concat()).expect("it is written");
    assert_eq!(server_frame(&mut peer), (0x8a, b"there?".to_vec()));
    let (first, welcome) = server_frame(&mut peer);
    assert_eq!(first, TEXT);
    assert!(String::from_utf8_lossy(&welcome).contains("welcome"));
    // An unasked pong says nothing; a close without a code is answered with one without.
    peer.write_all(&[masked(0x8a, b"x"), masked(CLOSE, b"")].concat())
        .expect("it is written");
    assert_eq!(server_frame(&mut peer), (CLOSE, Vec::new()));
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("the broker closes");
    assert!(rest.is_empty(), "nothing follows a close");
}

#[tokio::test]
async fn of_two_requests_in_one_frame_neither_is_done() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "t"]).ok();
    let mut wire = Wire::greeted(broker.address(), Form::Json).await;
    let produce = r#""produce":{"topic":"t","records":[{"value":"x"}]}"#;
    for text in [
        format!(r#"{{"id":9,"ping":{{}},{produce}}}"#),
        format!(r#"{{"id":9,{produce},"ping":{{}}}}"#),
        format!(r#"{{"id":9,{produce},{produce}}}"#),
    ] {
        wire.send(Message::text(text)).await;
        let refused = wire.answer(9).await.expect_err("two in one");
        assert_error(&refused, ErrorCode::MalformedFrame, &["`produce`"]);
    }
    let topics = broker.get("/v1/topics/t").ok().json();
    assert_eq!(topics["partitions"][0]["end"], 0, "{topics}");
}
