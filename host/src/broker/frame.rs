//! Frames for delivery: encoded once, shared by every subscriber of a stream.

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use eddy_protocol::batch::Batches;
use eddy_protocol::codec::EncodeError;
use eddy_protocol::frame::Deliver;
use eddy_protocol::{Batch, Form, ServerFrame, codec};

/// Batches shorter than this on average are copied into one piece: a vectored
/// write of many small pieces costs more than the copy.
const PIECE_BYTES_MIN: usize = 4 << 10;

/// One message, in pieces that share memory with the store's newest batches.
#[derive(Debug)]
pub struct Frame {
    envelope: OnceLock<Bytes>,
    pieces: Vec<Bytes>,
    len: usize,
    own_bytes: usize,
}

impl Frame {
    /// A frame that is whole already.
    pub fn whole(bytes: Bytes) -> Frame {
        Frame {
            envelope: OnceLock::new(),
            len: bytes.len(),
            own_bytes: bytes.len(),
            pieces: vec![bytes],
        }
    }

    /// A `deliver` frame of `batches`.
    /// Only JSON can fail, where a batch can't be read.
    pub(super) fn deliver(
        deliver: &DeliverHead,
        batches: &[Batch],
        form: Form,
    ) -> Result<Frame, EncodeError> {
        let DeliverHead {
            stream,
            partition,
            epoch,
            next,
        } = *deliver;
        match form {
            Form::Json => {
                let batches = Batches(super::fetch::concatenate(batches));
                let frame = ServerFrame::Deliver(Deliver {
                    stream,
                    partition,
                    epoch,
                    next,
                    batches,
                });
                Ok(Frame::whole(codec::encode_server(&frame, form)?))
            }
            Form::Binary => {
                let body_len: usize = batches.iter().map(|batch| batch.bytes().len()).sum();
                let head = codec::deliver_head(stream, partition, epoch, next, body_len);
                let len = head.len() + body_len;
                if body_len < PIECE_BYTES_MIN * batches.len() {
                    return Ok(Frame::whole(in_one_piece(&head, batches, len)));
                }
                let own_bytes = head.len();
                let pieces = std::iter::once(head.into())
                    .chain(batches.iter().map(|batch| batch.bytes().clone()));
                Ok(Frame {
                    envelope: OnceLock::new(),
                    pieces: pieces.collect(),
                    len,
                    own_bytes,
                })
            }
        }
    }

    /// What a front puts before the message on its transport; made by the
    /// first who asks from the message's length, and kept for the others.
    pub fn envelope(&self, make: impl FnOnce(usize) -> Bytes) -> &Bytes {
        self.envelope.get_or_init(|| make(self.len))
    }

    /// The message, in order.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// How much memory it takes besides what it shares with its batches.
    pub(super) fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    /// The message's length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }
}

/// What a `deliver` frame says besides its batches.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeliverHead {
    pub(super) stream: u64,
    pub(super) partition: u32,
    pub(super) epoch: u32,
    pub(super) next: u64,
}

fn in_one_piece(head: &[u8], batches: &[Batch], len: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(len);
    bytes.extend_from_slice(head);
    batches
        .iter()
        .for_each(|batch| bytes.extend_from_slice(batch.bytes()));
    bytes.freeze()
}
