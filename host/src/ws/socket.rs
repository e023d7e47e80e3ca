//! The socket under a WebSocket: reads grow while a peer sends much, writes
//! gather shared frames without copying them.
//!
//! tungstenite reads from it and hands it the few frames that it writes itself
//! (pong, close); those queue up in order with ours. Nothing is kept for an idle
//! peer: the large read buffer lives only as long as a burst.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use eddy_protocol::Form;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::envelope;
use crate::broker::Frame;

/// What one read takes while a peer sends much.
const BURST_BYTES: usize = 128 << 10;
/// How many pieces one write gathers.
const PIECES_MAX: usize = 64;
/// What is thrown away at a time of what a peer sends to a closed connection.
const SCRAP_BYTES: usize = 4 << 10;

/// A peer's socket.
pub(super) struct Socket {
    tcp: TcpStream,
    form: Form,
    /// What was read and not yet handed on.
    ahead: BytesMut,
    /// The last read filled its buffer: there is more.
    bursting: bool,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
    /// What the peer has not taken yet fills the system's buffers.
    is_blocked: bool,
    /// The peer has sent or taken something since somebody asked.
    is_alive: bool,
    /// How many bytes may still be handed on; `None`: any number.
    allowance: Option<usize>,
    /// What was handed on of a message that is not whole yet, give or take.
    unfinished_bytes: usize,
}

impl Socket {
    /// Hands on no more than `allowance` bytes until it is [lifted](Socket::lift).
    pub(super) fn new(tcp: TcpStream, read_ahead: Bytes, form: Form, allowance: usize) -> Socket {
        Socket {
            tcp,
            form,
            ahead: BytesMut::from(read_ahead),
            bursting: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
            is_blocked: false,
            is_alive: false,
            allowance: Some(allowance),
            unfinished_bytes: 0,
        }
    }

    /// The peer may send as much as it wants from now on.
    pub(super) fn lift(&mut self) {
        self.allowance = None;
    }

    /// Whether a message has begun and is not whole.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished_bytes > 0
    }

    /// So many bytes are no part of a message that is not whole. Those of one that has come are more
    /// than all, because what was read with it of the next one is little.
    pub(super) fn finished(&mut self, bytes: usize) {
        self.unfinished_bytes = self.unfinished_bytes.saturating_sub(bytes);
    }

    /// Whether the peer has sent all that it may.
    pub(super) fn is_exhausted(&self) -> bool {
        self.allowance == Some(0)
    }

    /// Whether the peer has sent something, or taken something that it had to
    /// be waited for, since the last call.
    pub(super) fn take_alive(&mut self) -> bool {
        std::mem::take(&mut self.is_alive)
    }

    /// Bytes that wait for the peer.
    pub(super) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Queues a message that others get too.
    pub(super) fn push_frame(&mut self, frame: &Frame) {
        let form = self.form;
        self.push(frame.envelope(|len| envelope::header(form, len)).clone());
        frame
            .pieces()
            .iter()
            .for_each(|piece| self.push(piece.clone()));
    }

    /// Queues a message of this peer's own.
    pub(super) fn push_message(&mut self, message: Bytes) {
        self.push(envelope::header(self.form, message.len()));
        self.push(message);
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.queued_bytes += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Writes what waits; ready when nothing does.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.queue.is_empty() {
            let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
            let count = pieces
                .iter_mut()
                .zip(&self.queue)
                .map(|(slot, bytes)| *slot = IoSlice::new(bytes))
                .count();
            let polled = Pin::new(&mut self.tcp).poll_write_vectored(cx, &pieces[..count]);
            // Only a write that had to wait says that the peer is there.
            let was_blocked = std::mem::replace(&mut self.is_blocked, polled.is_pending());
            let written = ready!(polled)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.is_alive |= was_blocked;
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.queued_bytes -= written;
        while let Some(first) = self.queue.front_mut() {
            if written < first.len() {
                first.advance(written);
                return;
            }
            written -= first.len();
            self.queue.pop_front();
        }
        // A burst may have grown the queue; an idle peer keeps none of it.
        self.queue.shrink_to(PIECES_MAX);
    }

    /// Says that nothing more will be written.
    pub(super) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    /// Takes what the peer still sends and throws it away; ready at the end of
    /// it. Closing a socket while the peer sends would make the system throw
    /// away what was written last.
    pub(super) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [0; SCRAP_BYTES];
        loop {
            let mut buf = ReadBuf::new(&mut scrap);
            let read = ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }

    /// Reads a burst ahead.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ahead.reserve(BURST_BYTES);
        let polled = pin!(self.tcp.read_buf(&mut self.ahead)).poll(cx);
        self.bursting = self.ahead.len() >= BURST_BYTES;
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        polled.map_ok(drop)
    }

    /// Hands on what was read ahead, or what one read gives.
    fn poll_hand_on(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() && self.bursting {
            ready!(self.poll_fill(cx))?;
        }
        if !self.ahead.is_empty() {
            let len = buf.remaining().min(self.ahead.len());
            buf.put_slice(&self.ahead[..len]);
            self.ahead.advance(len);
            if self.ahead.is_empty() && !self.bursting {
                self.ahead = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.bursting = buf.remaining() == 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_exhausted() {
            return Poll::Ready(Err(io::ErrorKind::FileTooLarge.into()));
        }
        let len = buf.remaining().min(self.allowance.unwrap_or(usize::MAX));
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(len));
        let polled = self.poll_hand_on(cx, &mut part);
        let read = part.filled().len();
        buf.advance(read);
        self.is_alive |= read > 0;
        self.unfinished_bytes += read;
        self.allowance = self.allowance.map(|left| left - read);
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.push(Bytes::copy_from_slice(buf));
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection drains the queue; see `poll_drain`.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
