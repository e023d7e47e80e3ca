//! The server over real sockets: every limit, and the stop.

use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

mod metrics;

/// Nothing here takes longer on the slowest machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A server at work, and the means to stop it.
struct Running {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
    _data: TempDir,
}

async fn start(change: impl FnOnce(&mut Config)) -> Running {
    start_and(change, |_| {}).await
}

/// As [`start`], with a look at the server before it serves.
async fn start_and(change: impl FnOnce(&mut Config), look: impl FnOnce(&Server)) -> Running {
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut config = Config::default();
    config.server.listen = SocketAddr::from(([127, 0, 0, 1], 0));
    config.server.data = data.path().join("data");
    change(&mut config);
    let server = Server::start(config).await.expect("the server starts");
    look(&server);
    let (stop, stopped) = oneshot::channel();
    let address = server.address();
    let served = tokio::spawn(server.serve(async {
        // A dropped sender stops it, too.
        let _ = stopped.await;
    }));
    Running {
        address,
        stop,
        served,
        _data: data,
    }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        within("connecting", TcpStream::connect(self.address))
            .await
            .expect("the port is open")
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        within("stopping", self.served)
            .await
            .expect("the server does not panic");
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took longer than {LIMIT:?}"))
}

async fn send(stream: &mut TcpStream, text: &str) {
    within("sending", stream.write_all(text.as_bytes()))
        .await
        .expect("the socket takes it");
}

/// Everything until the server closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    within("reading to the end", stream.read_to_end(&mut bytes))
        .await
        .expect("the socket can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What comes until `end` is there.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(end) {
        let read = within("reading", stream.read(&mut buffer))
            .await
            .expect("the socket can be read");
        assert!(read > 0, "the connection ended before `{end}`: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    text
}

/// A request for health, up to the answer's end.
async fn health(stream: &mut TcpStream) -> String {
    send(stream, "GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    until(stream, "}").await
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let server = start(|_| {}).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        assert!(health(&mut stream).await.starts_with("HTTP/1.1 200"));
    }
    server.stop().await;
    assert_eq!(
        rest(&mut stream).await,
        "",
        "the stop closes idle connections"
    );
}

#[tokio::test]
async fn the_first_answer_may_take_longer_than_the_first_request() {
    let handshake = Duration::from_millis(200);
    let server = start(|config| config.server.handshake_timeout = handshake).await;
    let mut stream = server.connect().await;
    let body = r#"{"topic":"slow"}"#;
    send(
        &mut stream,
        &format!(
            "POST /v1/topics HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ),
    )
    .await;
    let created = until(&mut stream, "}").await;
    assert!(created.starts_with("HTTP/1.1 201"), "{created}");
    let mut stream = server.connect().await;
    let wait_ms = 5 * handshake.as_millis();
    let path = format!("/v1/topics/slow/partitions/0/records?wait_ms={wait_ms}");
    send(
        &mut stream,
        &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    )
    .await;
    let answer = until(&mut stream, "}").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn nobody_listens_after_the_stop() {
    let server = start(|_| {}).await;
    let address = server.address;
    server.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_closed() {
    let server = start(|config| config.server.connections_max = 2).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    health(&mut first).await;
    health(&mut second).await;
    let answer = rest(&mut server.connect().await).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains(r#""code":"too_many""#), "{answer}");
    assert!(answer.contains("there are 2 connections"), "{answer}");
    // Those that were there are not disturbed, and a place that is free again is given.
    health(&mut first).await;
    drop(second);
    let again = async {
        loop {
            let mut stream = server.connect().await;
            send(
                &mut stream,
                "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            )
            .await;
            if rest(&mut stream).await.starts_with("HTTP/1.1 200") {
                break;
            }
        }
    };
    within("getting the free place", again).await;
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_asks_for_nothing_is_told_so_and_closed() {
    let server = start(|config| config.server.handshake_timeout = Duration::from_millis(50)).await;
    for beginning in ["", "GET /hea"] {
        let mut stream = server.connect().await;
        send(&mut stream, beginning).await;
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("server.handshake_timeout"), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = start(|config| {
        config.server.handshake_timeout = Duration::from_millis(100);
        config.server.idle_timeout = Duration::from_millis(100);
    })
    .await;
    let mut stream = server.connect().await;
    health(&mut stream).await;
    rest(&mut stream).await;
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = start(|config| config.server.header_bytes_max = 8192).await;
    let mut stream = server.connect().await;
    send(
        &mut stream,
        &format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(9000)),
    )
    .await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(answer.contains("server.header_bytes_max"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn what_is_no_request_is_answered_with_an_error_of_the_table_also_behind_others() {
    let server = start(|config| config.server.header_bytes_max = 128 << 10).await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    for (sent, status, code) in [
        ("nonsense\r\n\r\n", "400", "invalid_argument"),
        ("GET / HTTP/7.0\r\n\r\n", "400", "invalid_argument"),
        (
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "400",
            "invalid_argument",
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "400",
            "invalid_argument",
        ),
        (&long, "414", "frame_too_large"),
    ] {
        let mut stream = server.connect().await;
        for _ in 0..2 {
            assert!(health(&mut stream).await.starts_with("HTTP/1.1 200"));
        }
        send(&mut stream, sent).await;
        let answer = rest(&mut stream).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("content-type: application/json"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).expect("one whole body");
        assert_eq!(body["error"]["code"], code, "{body}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_comes() {
    let server = start(|config| config.plugin.plugin_bytes_max = 1024).await;
    let mut stream = server.connect().await;
    send(
        &mut stream,
        "PUT /v1/plugins/p HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000000\r\n\r\n",
    )
    .await;
    let answer = rest(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(
        answer.contains("at most 1024 bytes (setting `plugin.plugin_bytes_max`)"),
        "{answer}"
    );
    server.stop().await;
}

#[tokio::test]
async fn a_peer_that_takes_no_answer_is_cut_off() {
    let server = start(|config| config.server.stall_timeout = Duration::from_millis(100)).await;
    let mut stream = server.connect().await;
    // No answer is read. Once all buffers of the way are full, only being cut off ends this.
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(1000);
    let asking = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    within("being cut off", asking).await;
    server.stop().await;
}

#[tokio::test]
async fn a_websocket_is_handed_over_and_told_of_the_stop() {
    let server = start(|_| {}).await;
    let mut stream = server.connect().await;
    // The first message comes with the handshake: what was read ahead must not be lost.
    // A masked text frame with a mask of zeros.
    let hello = r#"{"id":1,"hello":{"client":"test"}}"#;
    let handshake = "GET /v1/ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                     sec-websocket-protocol: eddy.v1.json\r\n\r\n";
    let mut bytes = handshake.as_bytes().to_vec();
    let length = u8::try_from(hello.len()).expect("a short frame");
    bytes.extend([0x81, 0x80 | length, 0, 0, 0, 0]);
    bytes.extend(hello.as_bytes());
    within("sending", stream.write_all(&bytes))
        .await
        .expect("the socket takes it");
    let answer = until(&mut stream, "incarnation").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
    server.stop().await;
    let goodbye = rest(&mut stream).await;
    assert!(goodbye.contains("closing"), "{goodbye}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = start(|_| {}).await;
    let data = tempfile::tempdir().expect("a temporary folder");
    let mut config = Config::default();
    config.server.listen = server.address;
    config.server.data = data.path().join("data");
    let error = Server::start(config)
        .await
        .err()
        .expect("the port is taken");
    assert!(
        format!("{error:#}").contains(&server.address.to_string()),
        "{error:#}"
    );
    assert!(
        !data.path().join("data").exists(),
        "nothing is opened before the port is ours"
    );
    server.stop().await;
}
