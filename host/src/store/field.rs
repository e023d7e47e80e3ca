//! What is on disk and can gain fields: operations in the journal, rows of the
//! checkpoint, and the entries of lists within them.
//!
//! ```text
//! block   needs u8 | length u32 | fields
//! entry   length u16 | fields
//! ```
//!
//! Little endian. Fields are packed in a fixed order, and a later release adds
//! its own behind them: a reader skips those that it does not know, and takes a
//! default for those that are missing. Where a reader that skips would go wrong,
//! the writer raises `needs` above what that reader knows, and it refuses.

use bytes::{Buf, BufMut, Bytes};
use eddy_protocol::TopicName;
use uuid::Uuid;

use crate::log::TopicId;

/// The highest `needs` that this release understands.
pub(crate) const KNOWN: u8 = 0;

/// Why something on disk could not be understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unreadable {
    /// It is not what any release wrote.
    Damaged,
    /// A newer release wrote it, and to skip it would be wrong.
    Newer(String),
}

impl Unreadable {
    pub(crate) fn newer(what: &str, found: u8) -> Unreadable {
        Unreadable::Newer(format!("{what} {found}"))
    }
}

/// Appends a block.
pub(crate) fn block(out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    out.put_u8(KNOWN);
    let at = out.len();
    out.put_u32_le(0);
    fields(out);
    let length = u32::try_from(out.len() - at - 4).expect("what is kept is far below 4 GiB");
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
}

/// The fields of the block that `from` begins with.
pub(crate) fn open(from: &mut Bytes) -> Result<Bytes, Unreadable> {
    let needs = from.try_get_u8().map_err(|_| Unreadable::Damaged)?;
    let length = from.try_get_u32_le().map_err(|_| Unreadable::Damaged)?;
    let fields = take(from, length as usize).ok_or(Unreadable::Damaged)?;
    if needs > KNOWN {
        return Err(Unreadable::newer("needs", needs));
    }
    Ok(fields)
}

/// Appends one entry.
pub(crate) fn entry(out: &mut Vec<u8>, fields: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.put_u16_le(0);
    fields(out);
    let length = u16::try_from(out.len() - at - 2).expect("an entry has few fields");
    out[at..at + 2].copy_from_slice(&length.to_le_bytes());
}

/// The fields of one entry.
pub(crate) fn read_entry(from: &mut Bytes) -> Option<Bytes> {
    let length = from.try_get_u16_le().ok()?;
    take(from, usize::from(length))
}

/// The next `length` bytes; `None` if there are fewer.
pub(crate) fn take(from: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= from.len()).then(|| from.split_to(length))
}

/// As [`take`], in memory of its own: what stays must not hold the whole file
/// that it was read from.
pub(crate) fn copy(from: &mut Bytes, length: usize) -> Option<Bytes> {
    take(from, length).map(|bytes| Bytes::copy_from_slice(&bytes))
}

/// A value with one form on disk.
pub(crate) trait Field: Sized {
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads the value that `from` begins with; `None` if the bytes are not one.
    fn decode(from: &mut Bytes) -> Option<Self>;

    /// Whether these values may stand in a list, in this order.
    fn is_valid_list(_list: &[Self]) -> bool {
        true
    }
}

/// A struct's fields in the order in which they are packed.
macro_rules! fields {
    ($type:ty { $($field:ident),* $(,)? }) => {
        impl $crate::store::field::Field for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                $($crate::store::field::Field::encode(&self.$field, out);)*
            }

            fn decode(from: &mut ::bytes::Bytes) -> Option<Self> {
                Some(Self { $($field: $crate::store::field::Field::decode(from)?,)* })
            }
        }
    };
}
pub(crate) use fields;

/// The value of a block that holds one.
pub(crate) fn decode_block<T: Field>(from: &mut Bytes) -> Result<T, Unreadable> {
    T::decode(&mut open(from)?).ok_or(Unreadable::Damaged)
}

/// A field that earlier releases did not write: `absent` where it is missing.
pub(crate) fn added<T: Field>(from: &mut Bytes, absent: T) -> Option<T> {
    if from.is_empty() {
        return Some(absent);
    }
    T::decode(from)
}

macro_rules! numbers {
    ($($type:ty: $put:ident, $get:ident;)*) => {
        $(impl Field for $type {
            fn encode(&self, out: &mut Vec<u8>) {
                out.$put(*self);
            }

            fn decode(from: &mut Bytes) -> Option<$type> {
                from.$get().ok()
            }
        })*
    };
}

numbers! {
    u8: put_u8, try_get_u8;
    u16: put_u16_le, try_get_u16_le;
    u32: put_u32_le, try_get_u32_le;
    u64: put_u64_le, try_get_u64_le;
    i64: put_i64_le, try_get_i64_le;
}

impl Field for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        u8::from(*self).encode(out);
    }

    fn decode(from: &mut Bytes) -> Option<bool> {
        u8::decode(from).map(|byte| byte == 1)
    }
}

/// All bits set: none.
impl Field for Option<u64> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.unwrap_or(u64::MAX).encode(out);
    }

    fn decode(from: &mut Bytes) -> Option<Option<u64>> {
        u64::decode(from).map(|value| (value != u64::MAX).then_some(value))
    }
}

/// The least there is: none.
impl Field for Option<i64> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.unwrap_or(i64::MIN).encode(out);
    }

    fn decode(from: &mut Bytes) -> Option<Option<i64>> {
        i64::decode(from).map(|value| (value != i64::MIN).then_some(value))
    }
}

/// 16 bytes; zeros: none.
impl Field for Option<Uuid> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.put_slice(self.unwrap_or_default().as_bytes());
    }

    fn decode(from: &mut Bytes) -> Option<Option<Uuid>> {
        let uuid = Uuid::from_slice(&take(from, size_of::<Uuid>())?).ok()?;
        Some((!uuid.is_nil()).then_some(uuid))
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }

    fn decode(from: &mut Bytes) -> Option<(A, B)> {
        Some((A::decode(from)?, B::decode(from)?))
    }
}

/// A list: the number of entries (u32), then each.
impl<T: Field> Field for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        list(self, out);
    }

    fn decode(from: &mut Bytes) -> Option<Vec<T>> {
        let mut found = Vec::new();
        for _ in 0..u32::decode(from)? {
            found.push(T::decode(&mut read_entry(from)?)?);
        }
        T::is_valid_list(&found).then_some(found)
    }
}

/// Appends a list of entries.
pub(crate) fn list<T: Field>(items: &[T], out: &mut Vec<u8>) {
    out.put_u32_le(u32::try_from(items.len()).expect("lists are bounded"));
    for item in items {
        entry(out, |out| item.encode(out));
    }
}

/// Marks an absent text.
const NO_TEXT: u16 = u16::MAX;

/// Its length (u16) and a text of at most 65,534 bytes (a longer one is cut).
pub(crate) fn text(text: &str, out: &mut Vec<u8>) {
    let end = text.floor_char_boundary(usize::from(NO_TEXT) - 1);
    out.put_u16_le(u16::try_from(end).unwrap_or(NO_TEXT - 1));
    out.put_slice(&text.as_bytes()[..end]);
}

impl Field for Option<String> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Some(it) => text(it, out),
            None => out.put_u16_le(NO_TEXT),
        }
    }

    fn decode(from: &mut Bytes) -> Option<Option<String>> {
        let length = u16::decode(from)?;
        if length == NO_TEXT {
            return Some(None);
        }
        let text = take(from, usize::from(length))?;
        Some(Some(std::str::from_utf8(&text).ok()?.to_owned()))
    }
}

impl Field for String {
    fn encode(&self, out: &mut Vec<u8>) {
        text(self, out);
    }

    fn decode(from: &mut Bytes) -> Option<String> {
        Option::<String>::decode(from)?
    }
}

impl Field for TopicName {
    fn encode(&self, out: &mut Vec<u8>) {
        text(self.as_ref(), out);
    }

    fn decode(from: &mut Bytes) -> Option<TopicName> {
        TopicName::parse(&String::decode(from)?).ok()
    }
}

impl Field for TopicId {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(from: &mut Bytes) -> Option<TopicId> {
        u64::decode(from).map(TopicId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair as one release has it, and the triple that a later one has.
    type Pair = (u32, u32);

    fn read_triple(mut from: Bytes) -> Option<(Pair, u32)> {
        Some((Pair::decode(&mut from)?, added(&mut from, 7)?))
    }

    fn written(values: &[u32]) -> Bytes {
        let mut out = Vec::new();
        block(&mut out, |out| {
            values.iter().for_each(|value| value.encode(out));
        });
        out.put_u8(99);
        out.into()
    }

    #[test]
    fn an_older_reader_skips_new_fields_and_a_newer_one_takes_defaults() {
        let mut new = written(&[1, 2, 3]);
        assert_eq!(decode_block(&mut new), Ok((1u32, 2u32)));
        assert_eq!(&new[..], [99], "what follows is found");
        let mut old = written(&[1, 2]);
        let fields = open(&mut old).expect("it is whole");
        assert_eq!(read_triple(fields), Some(((1, 2), 7)));
    }

    #[test]
    fn what_must_not_be_skipped_is_refused_with_its_number() {
        let mut bytes = written(&[1]).to_vec();
        bytes[0] = 3;
        let error = Err(Unreadable::Newer("needs 3".to_owned()));
        assert_eq!(open(&mut Bytes::from(bytes)), error);
    }

    #[test]
    fn entries_of_lists_can_gain_fields() {
        let mut out = Vec::new();
        list(&[(1u32, 2u32), (3, 4)], &mut out);
        let firsts = Vec::<u32>::decode(&mut out.clone().into());
        assert_eq!(firsts, Some(vec![1, 3]));
        let cut = out[..out.len() - 1].to_vec();
        assert_eq!(Vec::<u32>::decode(&mut cut.into()), None);
    }
}
