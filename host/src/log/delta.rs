//! What a commit changes of an instance's state: of each key that was touched its
//! last value, column by column. The journal keeps it as it is, once; only who
//! holds the state looks into it.
//!
//! ```text
//! rows u32 | key ends u32, each | value ends u32, each | gone: a bit for each row (1: the key has
//! no value any more), filled with zeros to a byte | keys | values
//! ```
//!
//! Little endian; the first row's bit is the lowest of the first byte. Ends count
//! from the beginning of the keys, or of the values, and never fall.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

/// Names a store of keys and values: a deployment has any number of them in each
/// of its instances.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateId {
    pub(crate) deployment: Arc<str>,
    pub(crate) instance: u32,
    pub(crate) store: Arc<str>,
}

impl StateId {
    /// A deployment's and a store's name have at most so many bytes.
    pub const NAME_BYTES_MAX: usize = 255;

    /// `None` where a name has no byte or more than [`NAME_BYTES_MAX`](Self::NAME_BYTES_MAX).
    pub fn new(deployment: &str, instance: u32, store: &str) -> Option<StateId> {
        let fits = |name: &str| (1..=Self::NAME_BYTES_MAX).contains(&name.len());
        (fits(deployment) && fits(store)).then(|| StateId {
            deployment: deployment.into(),
            instance,
            store: store.into(),
        })
    }
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (deployment, store) = (&self.deployment, &self.store);
        write!(
            f,
            "store `{store}` of instance {} of deployment `{deployment}`",
            self.instance
        )
    }
}

/// A change of states, as commits carry it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateChange {
    /// Values of keys of one store.
    Delta {
        /// The store.
        state: StateId,
        /// The values.
        delta: Delta,
    },
    /// Nothing of it is left.
    Delete(Deletion),
}

/// The end of the state of a deployment's instance, or of all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    /// The deployment.
    pub deployment: Arc<str>,
    /// The instance; `None`: all of them.
    pub instance: Option<u32>,
}

impl Deletion {
    pub(crate) fn is_of(&self, id: &StateId) -> bool {
        self.deployment == id.deployment && self.instance.is_none_or(|only| only == id.instance)
    }
}

/// A part of a range.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// Keys and values, in the keys' order.
    pub entries: Vec<(Bytes, Bytes)>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<Bytes>,
}

/// Last values of keys, encoded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    bytes: Bytes,
    rows: usize,
    crc: u32,
}

impl Delta {
    /// A key has at most so many bytes.
    pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

    /// Encodes changes; a key that comes twice has the later value. `None` where a
    /// key has more than [`KEY_BYTES_MAX`](Self::KEY_BYTES_MAX) bytes, or all of them together more
    /// than 4 GiB.
    pub fn of<'a>(changes: &[(&'a [u8], Option<&'a [u8]>)]) -> Option<Delta> {
        let keys: usize = changes.iter().map(|(key, _)| key.len()).sum();
        let values = changes
            .iter()
            .map(|(_, value)| value.map_or(0, <[u8]>::len));
        let values: usize = values.sum();
        let rows = changes.len();
        let is_small = changes
            .iter()
            .all(|(key, _)| key.len() <= Self::KEY_BYTES_MAX);
        if !is_small || u32::try_from(keys.max(values).max(rows)).is_err() {
            return None;
        }
        let mut out = Vec::with_capacity(fixed_bytes(rows) + keys + values);
        out.put_u32_le(u32::try_from(rows).ok()?);
        put_ends(&mut out, changes.iter().map(|(key, _)| key.len()));
        let lengths = changes
            .iter()
            .map(|(_, value)| value.map_or(0, <[u8]>::len));
        put_ends(&mut out, lengths);
        let gone_at = out.len();
        out.resize(gone_at + rows.div_ceil(8), 0);
        for (row, (_, value)) in changes.iter().enumerate() {
            out[gone_at + row / 8] |= u8::from(value.is_none()) << (row % 8);
        }
        changes.iter().for_each(|(key, _)| out.put_slice(key));
        let values = changes.iter().filter_map(|(_, value)| *value);
        values.for_each(|value| out.put_slice(value));
        let crc = crc32c::crc32c(&out);
        let bytes = out.into();
        Some(Delta { bytes, rows, crc })
    }

    /// Takes bytes for a delta, if they are one.
    pub(crate) fn parse(bytes: Bytes) -> Option<Delta> {
        let rows = (&bytes[..]).try_get_u32_le().ok()? as usize;
        let fixed = fixed_bytes(rows);
        let (keys, values) = (column(&bytes, 0, rows)?, column(&bytes, 1, rows)?);
        let last = |ends: &[u8]| ends.last_chunk().map_or(0, |end| u32::from_le_bytes(*end));
        let total = (last(keys) as usize).checked_add(last(values) as usize)?;
        let is_whole = bytes.len() == fixed.checked_add(total)?
            && rises(keys, Self::KEY_BYTES_MAX)
            && rises(values, usize::MAX);
        is_whole.then(|| Delta {
            crc: crc32c::crc32c(&bytes),
            bytes,
            rows,
        })
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    pub(crate) fn crc(&self) -> u32 {
        self.crc
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The rows in their order: key, and value if it has one.
    pub fn rows(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let ends = |which| column(&self.bytes, which, self.rows).unwrap_or_default();
        let gone_at = fixed_bytes(self.rows) - self.rows.div_ceil(8);
        let (gone, data) = self.bytes[gone_at..].split_at(self.rows.div_ceil(8));
        let key_bytes = ends(0)
            .last_chunk()
            .map_or(0, |end| u32::from_le_bytes(*end));
        let (mut keys, mut values) = data.split_at(key_bytes as usize);
        let lengths = lengths(ends(0)).zip(lengths(ends(1)));
        lengths.enumerate().map(move |(row, (key, value))| {
            let key = keys.split_off(..key).unwrap_or_default();
            let value = values.split_off(..value).unwrap_or_default();
            let is_gone = gone[row / 8] >> (row % 8) & 1 == 1;
            (key, (!is_gone).then_some(value))
        })
    }
}

fn fixed_bytes(rows: usize) -> usize {
    4 + 8 * rows + rows.div_ceil(8)
}

fn put_ends(out: &mut Vec<u8>, lengths: impl Iterator<Item = usize>) {
    let mut end = 0;
    for length in lengths {
        end += length;
        out.put_u32_le(u32::try_from(end).unwrap_or(u32::MAX));
    }
}

/// The ends of the keys (0) or of the values (1).
fn column(bytes: &[u8], which: usize, rows: usize) -> Option<&[u8]> {
    let at = 4 + which * 4 * rows;
    bytes.get(at..at + 4 * rows)
}

fn ends(column: &[u8]) -> impl Iterator<Item = usize> {
    let (ends, _) = column.as_chunks::<4>();
    ends.iter().map(|end| u32::from_le_bytes(*end) as usize)
}

fn lengths(column: &[u8]) -> impl Iterator<Item = usize> {
    let mut before = 0;
    ends(column).map(move |end| end - std::mem::replace(&mut before, end))
}

fn rises(column: &[u8], step_max: usize) -> bool {
    let mut before = 0;
    ends(column).all(|end| {
        let step = end.checked_sub(std::mem::replace(&mut before, end));
        step.is_some_and(|step| step <= step_max)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written() {
        for count in 0..20 {
            let keys: Vec<String> = (0..count).map(|n| "k".repeat(n)).collect();
            let changes: Vec<(&[u8], Option<&[u8]>)> = keys
                .iter()
                .enumerate()
                .map(|(n, key)| {
                    (
                        key.as_bytes(),
                        (n % 3 != 0).then_some(&key.as_bytes()[n / 2..]),
                    )
                })
                .collect();
            let delta = Delta::of(&changes).expect("they are small");
            let read = Delta::parse(delta.bytes().clone()).expect("it is whole");
            assert_eq!(read.rows().collect::<Vec<_>>(), changes);
            assert_eq!(read, delta);
        }
    }

    #[test]
    fn no_bytes_make_it_panic_and_cut_ones_are_refused() {
        let delta = Delta::of(&[(b"key", Some(b"value")), (b"gone", None)]).expect("it is small");
        let whole = delta.bytes().to_vec();
        for end in 0..whole.len() {
            assert_eq!(
                Delta::parse(whole[..end].to_vec().into()),
                None,
                "cut at {end}"
            );
        }
        for at in 0..whole.len() {
            for mask in [1, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] ^= mask;
                if let Some(delta) = Delta::parse(changed.into()) {
                    assert_eq!(delta.rows().count(), delta.len());
                }
            }
        }
    }
}
