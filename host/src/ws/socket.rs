//! The socket under a WebSocket: reads grow while a peer sends much, writes
//! gather shared frames without copying them.
//!
//! tungstenite reads from it and hands it the few frames that it writes itself
//! (pong, close); those queue up in order with ours. Nothing is kept for an idle
//! peer: the large read buffer lives only as long as a burst.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use eddy_protocol::Form;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::envelope;
use crate::broker::Frame;

/// What one read takes while a peer sends much.
const BURST_BYTES: usize = 128 << 10;
/// How many pieces one write gathers.
const PIECES_MAX: usize = 64;

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
}

impl Socket {
    pub(super) fn new(tcp: TcpStream, read_ahead: Bytes, form: Form) -> Socket {
        Socket {
            tcp,
            form,
            ahead: BytesMut::from(read_ahead),
            bursting: false,
            queue: VecDeque::new(),
            queued_bytes: 0,
        }
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
            let written =
                ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, &pieces[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
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

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ahead.resize(BURST_BYTES, 0);
        let mut burst = ReadBuf::new(&mut self.ahead);
        let polled = Pin::new(&mut self.tcp).poll_read(cx, &mut burst);
        let filled = burst.filled().len();
        self.bursting = matches!(&polled, Poll::Ready(Ok(()))) && filled == BURST_BYTES;
        if filled == 0 {
            self.ahead = BytesMut::new();
        } else {
            self.ahead.truncate(filled);
        }
        polled
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
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
        if self.bursting {
            // `poll_fill` found the end of the stream.
            return Poll::Ready(Ok(()));
        }
        let wanted = buf.remaining();
        ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
        self.bursting = buf.remaining() == 0 && wanted > 0;
        Poll::Ready(Ok(()))
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
