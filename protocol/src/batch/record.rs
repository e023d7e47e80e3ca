//! One record, borrowed from the columns that hold it.

/// A record, as it stands in a batch's columns.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    /// Where it stands in its partition.
    pub offset: u64,
    /// Milliseconds since 1970 UTC.
    pub timestamp: i64,
    /// Absent and empty differ.
    pub key: Option<&'a [u8]>,
    /// Absent (a tombstone) and empty differ.
    pub value: Option<&'a [u8]>,
    /// Names and values, in the order given; a name may come twice.
    pub headers: Headers<'a>,
}

/// Stands for the length of a header's value that is null.
const NULL: u32 = u32::MAX;

/// The headers of one record: an iterator of names and values. Null and empty differ.
///
/// ```text
/// count u16, then for each: name_len u16, name (UTF-8), value_len u32, value
/// ```
/// A `value_len` of `0xffff_ffff` means that the value is null, and has no bytes.
/// No bytes at all mean no headers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a> {
    blob: &'a [u8],
    left: u16,
}

impl<'a> Headers<'a> {
    /// The headers in `blob`, which should have been checked; iteration ends at
    /// the first byte that is not as it should be.
    pub(super) fn new(blob: &'a [u8]) -> Headers<'a> {
        match blob.split_first_chunk::<2>() {
            Some((count, rest)) => Headers {
                blob: rest,
                left: u16::from_le_bytes(*count),
            },
            None => Headers::default(),
        }
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        self.left.into()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    fn step(&mut self) -> Option<(&'a str, Option<&'a [u8]>)> {
        let (length, rest) = self.blob.split_first_chunk::<2>()?;
        let (name, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (value, rest) = match u32::from_le_bytes(*length) {
            NULL => (None, rest),
            length => {
                let (value, rest) = rest.split_at_checked(length as usize)?;
                (Some(value), rest)
            }
        };
        self.blob = rest;
        self.left -= 1;
        Some((str::from_utf8(name).ok()?, value))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a str, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let item = self.step();
        if item.is_none() {
            self.left = 0;
        }
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some(self.left.into()))
    }
}

/// Whether `blob` is exactly a record's headers.
pub(super) fn headers_are_whole(blob: &[u8]) -> bool {
    let mut headers = match blob.len() {
        0 => return true,
        1 => return false,
        _ => Headers::new(blob),
    };
    while headers.left > 0 {
        if headers.step().is_none() {
            return false;
        }
    }
    headers.blob.is_empty()
}

/// Appends `headers` as a blob; nothing for none. False, and nothing appended,
/// where there are too many or a part is too long.
pub(super) fn write_headers(headers: &[(&str, Option<&[u8]>)], out: &mut Vec<u8>) -> bool {
    if headers.is_empty() {
        return true;
    }
    let begin = out.len();
    let Ok(count) = u16::try_from(headers.len()) else {
        return false;
    };
    out.extend_from_slice(&count.to_le_bytes());
    for (name, value) in headers {
        let value_len = value.map_or(Some(NULL), length_of);
        let (Ok(name_len), Some(value_len)) = (u16::try_from(name.len()), value_len) else {
            out.truncate(begin);
            return false;
        };
        out.extend_from_slice(&name_len.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&value_len.to_le_bytes());
        out.extend_from_slice(value.unwrap_or_default());
    }
    true
}

/// The length of a value that is not null.
fn length_of(value: &[u8]) -> Option<u32> {
    u32::try_from(value.len())
        .ok()
        .filter(|length| *length != NULL)
}

/// What headers of these names and values take as a blob.
pub(super) fn headers_len(headers: &[(&str, Option<&[u8]>)]) -> usize {
    let each = headers
        .iter()
        .map(|(name, value)| 6 + name.len() + value.map_or(0, <[u8]>::len));
    if headers.is_empty() {
        0
    } else {
        2 + each.sum::<usize>()
    }
}
