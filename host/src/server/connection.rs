//! One connection while it speaks HTTP: hyper drives the socket, the front
//! answers. It ends when the peer leaves, breaks a time limit, the broker stops,
//! or the connection becomes a WebSocket; then the bare socket is handed back,
//! so that nothing of hyper stays in memory.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;
use bytes::Bytes;
use eddy_protocol::Form;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::debug;

use super::accept::Upgraded;
use super::refuse::{self, HEADERS_MAX};
use super::socket::{HttpSocket, linger};
use super::speaker::{Speaker, Spoken};
use crate::config;
use crate::http::{Accepted, Front};

/// What hyper keeps of a request's body at one time.
const BUFFER_BYTES: usize = 128 << 10;
/// How long a peer that may still be sending can read its last answer.
const LINGER: Duration = Duration::from_secs(1);

/// What the service tells the driver.
#[derive(Default)]
struct Seen {
    request: AtomicBool,
    accepted: Mutex<Option<Form>>,
    speaker: Arc<Speaker>,
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Spoken>, Infallible>> + Send>>;

/// Answers requests until the connection ends or becomes a WebSocket.
pub(super) async fn serve(
    stream: TcpStream,
    front: Front,
    settings: Arc<config::Server>,
    mut stopping: watch::Receiver<bool>,
) -> Option<Upgraded> {
    let seen = Arc::new(Seen::default());
    let service = hyper::service::service_fn(answers(front, seen.clone()));
    let socket = HttpSocket::new(stream, settings.stall_timeout, seen.speaker.clone());
    let mut connection = builder(&settings).serve_connection(socket, service);
    let mut handshake = pin!(sleep(settings.handshake_timeout));
    let (mut told, mut is_due) = (false, false);
    let ended = loop {
        tokio::select! {
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break ended,
            () = &mut handshake, if !is_due => {
                is_due = true;
                // Looked up only now: the request may have come since this wait began.
                if seen.request.load(Ordering::Relaxed) {
                    continue;
                }
                let stream = connection.into_parts().io.into_inner();
                refuse::late(&stream, settings.handshake_timeout);
                return None;
            }
            _ = stopping.wait_for(|stopping| *stopping), if !told => {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let mut unread = None;
    if let Err(error) = &ended {
        debug!("a connection ended: {error}");
        unread = seen.speaker.own().filter(|_| error.is_parse());
    }
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    if let (Ok(()), Some(form)) = (ended, *seen.accepted.lock()) {
        return Some(Upgraded {
            stream,
            // A copy of the few bytes there may be: even empty, hyper's own
            // would keep its buffer of 8 KiB for as long as the peer stays.
            read_ahead: Bytes::copy_from_slice(&parts.read_buf),
            form,
        });
    }
    if let Some(status) = unread {
        refuse::unread(&stream, status, &parts.read_buf, settings.header_bytes_max);
    }
    if !told {
        linger(stream, LINGER).await;
    }
    None
}

fn builder(settings: &config::Server) -> Builder {
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        // From the end of one answer to the end of the next request's head.
        .header_read_timeout(settings.idle_timeout)
        .max_header_size(settings.header_bytes_max)
        .max_headers(HEADERS_MAX)
        .max_buf_size(settings.header_bytes_max.max(BUFFER_BYTES));
    builder
}

fn answers(front: Front, seen: Arc<Seen>) -> impl Fn(hyper::Request<Incoming>) -> Answering {
    move |request| {
        seen.request.store(true, Ordering::Relaxed);
        seen.speaker.asked();
        let (front, seen) = (front.clone(), seen.clone());
        Box::pin(async move {
            let answer = front.answer(Request::from(request.map(Body::new))).await;
            *seen.accepted.lock() = answer.extensions().get().map(|Accepted(form)| *form);
            Ok(Spoken::answer(answer, seen.speaker.clone()))
        })
    }
}
