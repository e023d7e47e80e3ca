//! The port while the store recovers, which may take a while. Whoever asks
//! whether the process lives or is ready is told; everybody else waits, and is
//! served once the broker is open.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::glance::{Asked, glance};
use super::refuse;
use super::socket::linger;

/// How long to wait when no connection can be taken.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a peer can read its answer.
const LINGER: Duration = Duration::from_millis(500);

/// Keeps the door until `opened` ends; returns what it gives, and who waits.
/// More than `waiting_max` wait in the socket's queue.
pub(super) async fn keep<T>(
    listener: &TcpListener,
    waiting_max: usize,
    opened: impl Future<Output = T>,
) -> (T, Vec<TcpStream>) {
    let (open, is_open) = watch::channel(());
    let mut visits = JoinSet::new();
    let mut waiting = Vec::new();
    let mut opened = std::pin::pin!(opened);
    let given = loop {
        let has_room = waiting.len() + visits.len() < waiting_max;
        tokio::select! {
            given = &mut opened => break given,
            Some(visit) = visits.join_next() => waiting.extend(visit.ok().flatten()),
            accepted = listener.accept(), if has_room => match accepted {
                Ok((stream, _)) => drop(visits.spawn(receive(stream, is_open.clone()))),
                // The acceptor says what is the matter, if it still is.
                Err(_) => sleep(PAUSE).await,
            },
        }
    };
    drop(open);
    while let Some(visit) = visits.join_next().await {
        waiting.extend(visit.ok().flatten());
    }
    (given, waiting)
}

/// Answers a peer, or gives its connection back for later.
async fn receive(stream: TcpStream, mut is_open: watch::Receiver<()>) -> Option<TcpStream> {
    let asked = tokio::select! {
        asked = glance(&stream) => asked,
        // Ends with an error, when the sender goes.
        _ = is_open.changed() => Some(Asked::Other),
    };
    match asked? {
        Asked::Other => return Some(stream),
        Asked::Health => refuse::alive(&stream),
        Asked::Ready => refuse::unready(&stream, "the store recovers what is on disk"),
    }
    // Nobody who waits should wait for that.
    tokio::spawn(linger(stream, LINGER));
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;

    async fn ask(listener: &TcpListener, line: &str) -> TcpStream {
        let address = listener.local_addr().expect("it is bound");
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let written = stream.write_all(line.as_bytes()).await;
        written.expect("the peer is there");
        stream
    }

    async fn answer(listener: &TcpListener, path: &str) -> String {
        let mut stream = ask(listener, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer).await;
        read.expect("the answer is whole");
        answer
    }

    #[tokio::test]
    async fn who_asks_for_health_is_told_and_all_others_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (open, opened) = oneshot::channel();
        let visitors = async {
            let silent = ask(&listener, "").await;
            let half = ask(&listener, "GET /he").await;
            let other = ask(&listener, "GET /v1/topics HTTP/1.1\r\n").await;
            let health = answer(&listener, "/health").await;
            assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
            assert!(health.contains(r#""status":"alive""#), "{health}");
            let ready = answer(&listener, "/ready").await;
            assert!(ready.starts_with("HTTP/1.1 503 "), "{ready}");
            assert!(ready.contains(r#"{"ready":false,"reason":""#), "{ready}");
            open.send(7).expect("somebody waits");
            [silent, half, other].map(|stream| stream.local_addr().expect("it is bound"))
        };
        let ((given, waiting), visitors) = tokio::join!(keep(&listener, 10, opened), visitors);
        assert_eq!(given, Ok(7));
        let mut served: Vec<_> = waiting.iter().flat_map(TcpStream::peer_addr).collect();
        let mut expected = visitors.to_vec();
        served.sort();
        expected.sort();
        assert_eq!(served, expected);
    }
}
