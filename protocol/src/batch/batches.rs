//! Whole batches one after the other, as frames carry them and segments hold them.

use bincode::de::read::Reader;
use bincode::de::{BorrowDecode, BorrowDecoder, Decode, Decoder};
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};
use bytes::{Bytes, BytesMut};

use super::{Batch, BatchError, Header, Records};

/// Zero or more whole batches one after the other. Not checked until iterated.
///
/// In bincode: the count of bytes, then the bytes. Decoding copies them once
/// into memory of their own, so that a batch that came alone
/// ([`Batches::single`]) can be given its offset in place, and does not keep
/// the message alive. In JSON: the fields `records` and `producer`, see
/// [`json`](super::json).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batches(pub Bytes);

impl Batches {
    /// The one batch that there should be, everything about it checked.
    pub fn single(self) -> Result<Batch, BatchError> {
        Batch::parse(self.0)
    }

    /// Each batch, checked only in its header and length; ends after the first error.
    pub fn iter_trusted(&self) -> impl Iterator<Item = Result<Batch, BatchError>> + use<> {
        Iter {
            rest: self.0.clone(),
        }
    }

    /// Each batch, everything about it checked; ends after the first error.
    pub fn iter(&self) -> impl Iterator<Item = Result<Batch, BatchError>> + use<> {
        self.iter_trusted()
            .map(|batch| Batch::parse(batch?.bytes().clone()))
    }

    /// Each batch as [`iter`](Self::iter) has it, and its records.
    pub fn iter_opened(
        &self,
    ) -> impl Iterator<Item = Result<(Batch, Records), BatchError>> + use<> {
        self.iter_trusted()
            .map(|batch| Batch::open(batch?.bytes().clone()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

struct Iter {
    rest: Bytes,
}

impl Iter {
    fn step(&mut self) -> Result<Batch, BatchError> {
        let length = Header::parse(&self.rest)?.length();
        if length > self.rest.len() {
            return Err(BatchError::TooShort {
                needed: length as u64,
                have: self.rest.len() as u64,
            });
        }
        Batch::parse_trusted(self.rest.split_to(length))
    }
}

impl Iterator for Iter {
    type Item = Result<Batch, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let batch = self.step();
        if batch.is_err() {
            self.rest.clear();
        }
        Some(batch)
    }
}

impl From<Batch> for Batches {
    fn from(batch: Batch) -> Batches {
        Batches(batch.bytes)
    }
}

impl FromIterator<Batch> for Batches {
    fn from_iter<I: IntoIterator<Item = Batch>>(batches: I) -> Batches {
        let mut batches = batches.into_iter();
        let Some(first) = batches.next() else {
            return Batches::default();
        };
        let Some(second) = batches.next() else {
            return Batches(first.bytes);
        };
        let mut bytes = BytesMut::from(&first.bytes[..]);
        for batch in [second].into_iter().chain(batches) {
            bytes.extend_from_slice(&batch.bytes);
        }
        Batches(bytes.freeze())
    }
}

impl Encode for Batches {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        self.0[..].encode(encoder)
    }
}

impl<C> Decode<C> for Batches {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let length = u64::decode(decoder)?;
        let length = usize::try_from(length).map_err(|_| DecodeError::OutsideUsizeRange(length))?;
        // Looking before allocating: a length that the message does not have costs nothing.
        let Some(bytes) = decoder.reader().peek_read(length) else {
            return Err(DecodeError::UnexpectedEnd { additional: length });
        };
        let bytes = Bytes::copy_from_slice(bytes);
        decoder.reader().consume(length);
        Ok(Batches(bytes))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Batches {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        Batches::decode(decoder)
    }
}
