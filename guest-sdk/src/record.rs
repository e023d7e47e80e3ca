//! Records: those that came, as views of a batch, and new ones, as views of whatever they are made of.

use std::fmt;

/// A record of the batch at hand. Copying it copies no bytes.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// Its row in the batch.
    pub row: u32,
    /// Where it stands in its partition.
    pub offset: u64,
    /// When it happened, in milliseconds since 1970 UTC.
    pub timestamp: i64,
    /// What it is about, if it says so.
    pub key: Option<&'a [u8]>,
    /// What it says. Without a value it says that what its key was about is gone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: Headers<'a>,
}

impl<'a> Record<'a> {
    /// The value as text, if there is one and it is UTF-8.
    pub fn text(&self) -> Option<&'a str> {
        str::from_utf8(self.value?).ok()
    }

    /// A new record with another value; key, headers and timestamp stay.
    pub fn with_value(&self, value: &'a [u8]) -> NewRecord<'a> {
        self.to_new().value(value)
    }

    /// A new record like this one, to be changed.
    pub fn to_new(&self) -> NewRecord<'a> {
        NewRecord {
            timestamp: self.timestamp,
            key: self.key,
            value: self.value,
            headers: self.headers,
        }
    }
}

/// A record to be put out.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    pub(crate) timestamp: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: Headers<'a>,
}

impl<'a> NewRecord<'a> {
    /// A record of nothing but a time, in milliseconds since 1970 UTC.
    pub fn at(timestamp: i64) -> Self {
        Self {
            timestamp,
            key: None,
            value: None,
            headers: Headers::default(),
        }
    }

    /// With this key.
    pub fn key(self, key: &'a [u8]) -> Self {
        Self {
            key: Some(key),
            ..self
        }
    }

    /// Without a key.
    pub fn without_key(self) -> Self {
        Self { key: None, ..self }
    }

    /// With this value.
    pub fn value(self, value: &'a [u8]) -> Self {
        Self {
            value: Some(value),
            ..self
        }
    }

    /// Without a value: what its key was about is gone.
    pub fn without_value(self) -> Self {
        Self {
            value: None,
            ..self
        }
    }

    /// With these headers and no others.
    pub fn headers(self, headers: Headers<'a>) -> Self {
        Self { headers, ..self }
    }

    /// With this timestamp, in milliseconds since 1970 UTC.
    pub fn timestamp(self, timestamp: i64) -> Self {
        Self { timestamp, ..self }
    }
}

/// Stands for the length of a value that is null.
const NULL: u32 = u32::MAX;

/// The headers of a record: an iterator of names and values.
#[derive(Clone, Copy, Default)]
pub struct Headers<'a> {
    /// As the contract lays them out: a count as u16 (or nothing), then name and value of each.
    blob: &'a [u8],
}

impl<'a> From<&'a [u8]> for Headers<'a> {
    fn from(blob: &'a [u8]) -> Self {
        Self { blob }
    }
}

impl<'a> Headers<'a> {
    /// Names and values, in order. A value may be null, which is not empty.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + use<'a> {
        let mut rest = self.blob.get(2..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk()?;
            let (name, after) = after.split_at_checked(u16::from_le_bytes(*length).into())?;
            let (length, after) = after.split_first_chunk()?;
            let value = match u32::from_le_bytes(*length) {
                NULL => None,
                length => Some(after.get(..length as usize)?),
            };
            rest = &after[value.map_or(0, <[u8]>::len)..];
            Some((str::from_utf8(name).ok()?, value))
        })
    }

    /// The value of the first header of this name, if there is one and it is not null.
    pub fn find(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == name)?.1
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.blob.len() <= 2
    }

    pub(crate) fn blob(&self) -> &'a [u8] {
        self.blob
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Headers to be put out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeadersBuf {
    blob: Vec<u8>,
}

impl HeadersBuf {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header.
    ///
    /// # Panics
    /// If its name has more than 65,535 bytes, its value 4 GiB or more, or there are 65,535 already.
    pub fn push(&mut self, name: &str, value: &[u8]) {
        self.push_any(name, Some(value));
    }

    /// Adds a header whose value is null.
    ///
    /// # Panics
    /// If its name has more than 65,535 bytes, or there are 65,535 already.
    pub fn push_null(&mut self, name: &str) {
        self.push_any(name, None);
    }

    pub(crate) fn push_any(&mut self, name: &str, value: Option<&[u8]>) {
        if self.blob.is_empty() {
            self.blob.extend_from_slice(&[0, 0]);
        }
        let count = u16::from_le_bytes([self.blob[0], self.blob[1]]);
        let count = count
            .checked_add(1)
            .expect("a record has 65,535 headers at most");
        self.blob[..2].copy_from_slice(&count.to_le_bytes());
        let name_len = u16::try_from(name.len()).expect("a header's name has 65,535 bytes at most");
        let value_len = value.map_or(NULL, |value| {
            let length = u32::try_from(value.len()).ok();
            length
                .filter(|length| *length != NULL)
                .expect("a header's value has less than 4 GiB")
        });
        self.blob.extend_from_slice(&name_len.to_le_bytes());
        self.blob.extend_from_slice(name.as_bytes());
        self.blob.extend_from_slice(&value_len.to_le_bytes());
        self.blob.extend_from_slice(value.unwrap_or_default());
    }

    /// Forgets them and keeps the memory.
    pub fn clear(&mut self) {
        self.blob.clear();
    }

    /// A view of them.
    pub fn view(&self) -> Headers<'_> {
        Headers { blob: &self.blob }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_back_in_order_with_repeats() {
        let mut headers = HeadersBuf::new();
        assert!(headers.view().is_empty());
        for (name, value) in [("a", "1"), ("b", ""), ("a", "2")] {
            headers.push(name, value.as_bytes());
        }
        headers.push_null("n");
        let view = headers.view();
        let read: Vec<_> = view
            .iter()
            .map(|(name, value)| (name, value.map(|value| str::from_utf8(value).unwrap())))
            .collect();
        assert_eq!(
            read,
            [
                ("a", Some("1")),
                ("b", Some("")),
                ("a", Some("2")),
                ("n", None)
            ]
        );
        assert_eq!(view.find("n"), None);
        assert_eq!(view.find("a"), Some(&b"1"[..]));
        assert_eq!(view.find("c"), None);
    }

    #[test]
    fn headers_cut_anywhere_end_the_iteration() {
        let mut headers = HeadersBuf::new();
        headers.push("name", b"value");
        for end in 0..headers.blob.len() {
            assert_eq!(
                Headers::from(&headers.blob[..end]).iter().count(),
                0,
                "cut at {end}"
            );
        }
    }
}
