//! The TCP connection beneath the WebSocket. Reads go straight to it; what is
//! written gathers in one buffer and leaves in few writes.
//!
//! tungstenite would copy a message into a buffer of its own, mask it there in
//! a second pass, and move what the system did not take at once to the front.
//! Here a message is masked while the part that was just copied is still in the
//! processor's cache, and nothing is moved.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use eddy_protocol::codec::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

/// No message is added while so much waits for the system.
const OUT_BYTES: usize = 256 << 10;
/// What is copied, then masked, at a time: half of a first-level cache.
const CHUNK_BYTES: usize = 16 << 10;

#[derive(Debug)]
pub(crate) struct Pipe {
    tcp: TcpStream,
    out: BytesMut,
}

impl Pipe {
    pub(crate) fn new(tcp: TcpStream) -> Pipe {
        Pipe {
            tcp,
            out: BytesMut::new(),
        }
    }

    /// Whether another message may be added.
    pub(crate) fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES
    }

    /// Adds a binary message, masked with a key that nobody can foresee (RFC 6455, 5.3).
    pub(crate) fn push(&mut self, message: &Message) {
        let key: [u8; 4] = rand::random();
        let header = FrameHeader {
            opcode: OpCode::Data(Data::Binary),
            mask: Some(key),
            ..FrameHeader::default()
        };
        let length = message.len();
        self.out.reserve(header.len(length as u64) + length);
        header
            .format(length as u64, &mut (&mut self.out).writer())
            .expect("memory takes every write");
        let begin = self.out.len();
        let chunks = message
            .pieces()
            .iter()
            .map(|piece| piece.chunks(CHUNK_BYTES));
        for chunk in chunks.flatten() {
            let from = self.out.len();
            self.out.extend_from_slice(chunk);
            let mut turned = key;
            turned.rotate_left((from - begin) % key.len());
            mask(&mut self.out[from..], turned);
        }
    }

    /// Writes what waits; ready when nothing does.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

fn mask(chunk: &mut [u8], key: [u8; 4]) {
    let wide = u64::from_ne_bytes([key, key].concat().try_into().expect("eight bytes"));
    let mut words = chunk.chunks_exact_mut(8);
    for word in &mut words {
        let masked = u64::from_ne_bytes((&*word).try_into().expect("eight bytes")) ^ wide;
        word.copy_from_slice(&masked.to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

/// For what tungstenite writes itself: the handshake, pongs and closes, which it has masked.
impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.out.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_drain(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use eddy_protocol::codec::{Form, encode_sharing};
    use eddy_protocol::frame::{ClientFrame, Produce, Request};
    use eddy_protocol::{BatchBuilder, Compression};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What a peer gets of the messages, unmasked.
    async fn received(messages: Vec<Message>) -> Vec<Vec<u8>> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut pipe = Pipe::new(tcp);
        messages.iter().for_each(|message| pipe.push(message));
        let sending = tokio::spawn(async move {
            std::future::poll_fn(|cx| pipe.poll_drain(cx))
                .await
                .unwrap();
        });
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).await.unwrap();
        sending.await.unwrap();
        let mut rest = io::Cursor::new(bytes);
        let mut payloads = Vec::new();
        while let Some((header, length)) = FrameHeader::parse(&mut rest).unwrap() {
            let key = header.mask.expect("a client masks");
            let begin = rest.position() as usize;
            let end = begin + length as usize;
            let payload = rest.get_ref()[begin..end].iter().zip(key.iter().cycle());
            payloads.push(payload.map(|(byte, key)| byte ^ key).collect());
            rest.set_position(end as u64);
        }
        payloads
    }

    #[tokio::test]
    async fn a_message_of_any_length_comes_out_as_it_went_in() {
        for length in [0, 1, 7, 8, 125, 126, 65_535, 65_536, CHUNK_BYTES * 3 + 5] {
            let payload: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let message = Message::from(Bytes::from(payload.clone()));
            let both = received(vec![message.clone(), message]).await;
            assert!(both == [payload.clone(), payload], "{length} bytes");
        }
    }

    #[tokio::test]
    async fn pieces_of_odd_lengths_are_masked_as_one_message() {
        for value_bytes in 0..9 {
            let mut builder = BatchBuilder::default();
            let value = vec![b'v'; 5_000 + value_bytes];
            builder.push(1, None, Some(&value), &[]).expect("a record");
            let batch = builder.finish(Compression::None, None).expect("a batch");
            let produce = Produce {
                topic: "t".parse().expect("a name"),
                partition: Some(0),
                batch: batch.into(),
            };
            let frame = ClientFrame {
                id: 1,
                request: Request::Produce(produce),
            };
            let message = encode_sharing(&frame, Form::Binary).expect("binary never fails");
            assert!(message.pieces().len() > 1);
            let received = received(vec![message.clone()]).await;
            assert!(received == [message.into_bytes().to_vec()]);
        }
    }
}
