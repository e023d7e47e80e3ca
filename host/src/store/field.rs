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

/// Appends a list of entries.
pub(crate) fn list<T>(out: &mut Vec<u8>, items: &[T], fields: impl Fn(&T, &mut Vec<u8>)) {
    out.put_u32_le(u32::try_from(items.len()).expect("lists are bounded"));
    for item in items {
        entry(out, |out| fields(item, out));
    }
}

/// The entries of a list; `None` if one of them makes no sense.
pub(crate) fn read_list<T>(
    from: &mut Bytes,
    fields: impl Fn(&mut Bytes) -> Option<T>,
) -> Option<Vec<T>> {
    let mut found = Vec::new();
    for _ in 0..from.try_get_u32_le().ok()? {
        found.push(fields(&mut read_entry(from)?)?);
    }
    Some(found)
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

/// A field that earlier releases did not write: `absent` where it is missing.
#[cfg(test)]
pub(crate) fn added<T>(
    from: &mut Bytes,
    absent: T,
    read: impl FnOnce(&mut Bytes) -> Option<T>,
) -> Option<T> {
    if from.is_empty() {
        return Some(absent);
    }
    read(from)
}

/// Marks an absent text.
const NO_TEXT: u16 = u16::MAX;

/// A text of at most 65,534 bytes (a longer one is cut), or none.
pub(crate) fn text(text: Option<&str>, out: &mut Vec<u8>) {
    let Some(text) = text else {
        return out.put_u16_le(NO_TEXT);
    };
    let mut end = text.len().min(usize::from(NO_TEXT) - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u16_le(u16::try_from(end).unwrap_or(NO_TEXT - 1));
    out.put_slice(&text.as_bytes()[..end]);
}

/// What [`text`] wrote.
pub(crate) fn read_text(from: &mut Bytes) -> Option<Option<String>> {
    let length = from.try_get_u16_le().ok()?;
    if length == NO_TEXT {
        return Some(None);
    }
    let text = take(from, usize::from(length))?;
    Some(Some(std::str::from_utf8(&text).ok()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pair as one release has it, and the triple that a later one has.
    fn read_pair(mut from: Bytes) -> Option<(u32, u32)> {
        Some((from.try_get_u32_le().ok()?, from.try_get_u32_le().ok()?))
    }

    fn read_triple(mut from: Bytes) -> Option<(u32, u32, u32)> {
        let pair = (from.try_get_u32_le().ok()?, from.try_get_u32_le().ok()?);
        let third = added(&mut from, 7, |from| from.try_get_u32_le().ok())?;
        Some((pair.0, pair.1, third))
    }

    fn written(values: &[u32]) -> Bytes {
        let mut out = Vec::new();
        block(&mut out, |out| {
            values.iter().for_each(|value| out.put_u32_le(*value));
        });
        out.put_u8(99);
        out.into()
    }

    #[test]
    fn an_older_reader_skips_new_fields_and_a_newer_one_takes_defaults() {
        let mut new = written(&[1, 2, 3]);
        assert_eq!(
            read_pair(open(&mut new).expect("it is whole")),
            Some((1, 2))
        );
        assert_eq!(&new[..], [99], "what follows is found");
        let mut old = written(&[1, 2]);
        let fields = open(&mut old).expect("it is whole");
        assert_eq!(read_triple(fields), Some((1, 2, 7)));
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
        list(&mut out, &[(1u32, 2u32), (3, 4)], |pair, out| {
            out.put_u32_le(pair.0);
            out.put_u32_le(pair.1);
        });
        let firsts = |from: &mut Bytes| from.try_get_u32_le().ok();
        assert_eq!(read_list(&mut out.clone().into(), firsts), Some(vec![1, 3]));
        let cut = Bytes::from(out[..out.len() - 1].to_vec());
        assert_eq!(read_list(&mut { cut }, firsts), None);
    }
}
