//! Who speaks on a connection: the front, whose answers go out as they are, or
//! hyper by itself, which answers what it can't read, and without a body. What
//! hyper says by itself is kept back here, so that an error of the public table
//! can be said instead.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

/// What is known of a connection's answers. Everything happens in one task.
#[derive(Default)]
pub(super) struct Speaker {
    /// Answers that are not in hyper's buffer yet.
    due: AtomicUsize,
    /// Whether hyper's buffer may hold some of an answer.
    buffered: AtomicBool,
    /// The status of what hyper said by itself.
    own: AtomicU16,
}

impl Speaker {
    /// A request has come; its answer is due.
    pub(super) fn asked(&self) {
        self.due.fetch_add(1, Relaxed);
        self.buffered.store(true, Relaxed);
    }

    /// Hyper's buffer is empty.
    pub(super) fn flushed(&self) {
        self.buffered.store(self.due.load(Relaxed) > 0, Relaxed);
    }

    /// Keeps back what hyper says by itself; false if it is an answer's.
    pub(super) fn keeps(&self, text: &[u8]) -> bool {
        if self.buffered.load(Relaxed) {
            return false;
        }
        // `HTTP/1.1 400 Bad Request`
        let status = text
            .get(9..12)
            .and_then(|status| str::from_utf8(status).ok());
        if let Some(status) = status.and_then(|status| status.parse().ok()) {
            self.own.store(status, Relaxed);
        }
        true
    }

    /// The status of what hyper would have said by itself where no answer is
    /// under way; it has no word for what may be HTTP/2.
    pub(super) fn own(&self) -> Option<u16> {
        let status = match self.own.load(Relaxed) {
            0 => 400,
            status => status,
        };
        (!self.buffered.load(Relaxed)).then_some(status)
    }
}

/// An answer's body. Hyper lets go of it when all of it is in its buffer.
pub(super) struct Spoken {
    body: Body,
    speaker: Arc<Speaker>,
}

impl Spoken {
    /// The answer that was due.
    pub(super) fn answer(answer: Response<Body>, speaker: Arc<Speaker>) -> Response<Spoken> {
        answer.map(|body| Spoken { body, speaker })
    }
}

impl Drop for Spoken {
    fn drop(&mut self) {
        self.speaker.due.fetch_sub(1, Relaxed);
    }
}

impl hyper::body::Body for Spoken {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
