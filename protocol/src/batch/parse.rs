//! Reading a batch's body: where each column lies, whether all of it keeps the
//! rules, and records borrowed from it without a copy.
//!
//! ```text
//! body, columns one after the other; absent ones take nothing (n = count):
//!
//!  timestamps      0, 4n or 8n bytes    u32 on top of timestamp_min, or i64
//!  offset deltas   4n if sparse         u32 on top of base_offset, rising, below span
//!  key nulls       ⌈n/8⌉ if key nulls   bit i of byte i/8 (least significant first): 1 is null
//!  key ends        4n if keys           u32, where each key ends in the key bytes
//!  key bytes       the last key end
//!  value nulls     ⌈n/8⌉ if value nulls
//!  value ends      4n
//!  value bytes     the last value end
//!  header ends     4n if headers
//!  header bytes    the last header end
//! ```

use std::ops::Range;

use bytes::Bytes;

use super::column::check_nulls;
use super::header::TimestampWidth;
use super::record::headers_are_whole;
use super::view::{ColumnView, Ends, View, bounds};
use super::{BatchError, ColumnBuf, Header, RecordRef};

/// Where one column of variable-size entries lies in the body.
#[derive(Debug, Clone, Default)]
struct Place {
    nulls: Range<usize>,
    ends: Range<usize>,
    bytes: Range<usize>,
}

/// Where each column lies in the body. Absent ones are empty ranges.
#[derive(Debug, Clone, Default)]
struct Layout {
    timestamps: Range<usize>,
    offsets: Range<usize>,
    keys: Place,
    values: Place,
    headers: Place,
}

/// Walks over the body and hands out ranges that lie within it.
struct Walk<'a> {
    body: &'a [u8],
    at: usize,
    count: usize,
}

impl Walk<'_> {
    fn take(&mut self, bytes: usize) -> Result<Range<usize>, BatchError> {
        let end = self
            .at
            .checked_add(bytes)
            .filter(|end| *end <= self.body.len());
        let end = end.ok_or(BatchError::Invalid("its columns pass the end of its body"))?;
        let range = self.at..end;
        self.at = end;
        Ok(range)
    }

    /// `width` bytes for each record.
    fn each(&mut self, width: usize) -> Result<Range<usize>, BatchError> {
        // `usize` may have no more bits than the count.
        self.take(self.count.saturating_mul(width))
    }

    fn column(&mut self, has_nulls: bool) -> Result<Place, BatchError> {
        let nulls = self.take(if has_nulls { self.count.div_ceil(8) } else { 0 })?;
        let ends = self.each(4)?;
        let last = self.body[ends.clone()]
            .last_chunk::<4>()
            .map_or(0, |end| u32::from_le_bytes(*end));
        let bytes = self.take(last as usize)?;
        Ok(Place { nulls, ends, bytes })
    }
}

impl Layout {
    fn find(header: &Header, body: &[u8]) -> Result<Layout, BatchError> {
        let count = header.count as usize;
        // Every record takes four bytes at least (its value's end), so this also bounds `count`.
        let mut walk = Walk { body, at: 0, count };
        let flags = header.columns;
        let width = match flags.timestamps {
            TimestampWidth::Constant => 0,
            TimestampWidth::Delta => 4,
            TimestampWidth::Full => 8,
        };
        let layout = Layout {
            timestamps: walk.each(width)?,
            offsets: walk.each(if flags.sparse { 4 } else { 0 })?,
            keys: if flags.keys {
                walk.column(flags.key_nulls)?
            } else {
                Place::default()
            },
            values: walk.column(flags.value_nulls)?,
            headers: if flags.headers {
                walk.column(false)?
            } else {
                Place::default()
            },
        };
        if walk.at != body.len() {
            return Err(BatchError::Invalid("bytes are left behind its columns"));
        }
        Ok(layout)
    }
}

/// The records of a batch, expanded and checked; its keys, values and headers
/// are borrowed from the batch's own bytes where it is not compressed.
#[derive(Debug, Clone)]
pub struct Records {
    header: Header,
    body: Bytes,
    layout: Layout,
}

impl Records {
    /// Checks every column of `body`, in time linear to its length and without allocating.
    pub(super) fn parse(header: Header, body: Bytes) -> Result<Records, BatchError> {
        let layout = Layout::find(&header, &body)?;
        let records = Records {
            header,
            body,
            layout,
        };
        records.check_timestamps()?;
        records.check_offsets()?;
        records.check_column(&records.layout.keys)?;
        records.check_column(&records.layout.values)?;
        records.check_column(&records.layout.headers)?;
        let blobs = records.column(&records.layout.headers);
        if (0..blobs.ends.len()).any(|row| !headers_are_whole(blobs.slice(row))) {
            return Err(BatchError::Invalid("a record's headers are not whole"));
        }
        Ok(records)
    }

    fn check_timestamps(&self) -> Result<(), BatchError> {
        let (min, max) = (self.header.timestamp_min, self.header.timestamp_max);
        let found = match self.header.timestamps() {
            TimestampWidth::Constant => Some((min, min)),
            TimestampWidth::Delta => {
                let deltas = self.deltas(&self.layout.timestamps);
                let (low, high) = deltas.fold((u32::MAX, 0), |(low, high), delta| {
                    (low.min(delta), high.max(delta))
                });
                min.checked_add(low.into())
                    .zip(min.checked_add(high.into()))
            }
            TimestampWidth::Full => {
                let times = self.times();
                Some(times.fold((i64::MAX, i64::MIN), |(low, high), time| {
                    (low.min(time), high.max(time))
                }))
            }
        };
        if found != Some((min, max)) {
            return Err(BatchError::Invalid(
                "timestamp_min and timestamp_max are not those of its records",
            ));
        }
        Ok(())
    }

    fn check_offsets(&self) -> Result<(), BatchError> {
        if !self.header.columns.sparse {
            return Ok(());
        }
        let deltas = || self.deltas(&self.layout.offsets);
        let stuck = deltas()
            .zip(deltas().skip(1))
            .fold(0, |stuck, (a, b)| stuck | u32::from(b <= a));
        if stuck != 0
            || deltas()
                .next_back()
                .is_some_and(|last| last >= self.header.span)
        {
            return Err(BatchError::Invalid(
                "its offsets do not rise within its span",
            ));
        }
        Ok(())
    }

    fn check_column(&self, place: &Place) -> Result<(), BatchError> {
        let ends = self.ends(place);
        // Without branches, so that it becomes vector instructions. The last end is that of the bytes.
        let falls = ends
            .iter()
            .zip(ends.iter().skip(1))
            .fold(0, |falls, (a, b)| {
                falls | u32::from(u32::from_le_bytes(*b) < u32::from_le_bytes(*a))
            });
        if falls != 0 {
            return Err(BatchError::Invalid("a column's ends do not rise"));
        }
        if !place.nulls.is_empty() {
            check_nulls(&self.body[place.nulls.clone()], self.len(), |row| {
                bounds(ends, row).is_empty()
            })?;
        }
        Ok(())
    }

    fn deltas(
        &self,
        range: &Range<usize>,
    ) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator + '_ {
        self.body[range.clone()]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| u32::from_le_bytes(*bytes))
    }

    fn times(&self) -> impl Iterator<Item = i64> + '_ {
        let range = self.layout.timestamps.clone();
        self.body[range]
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| i64::from_le_bytes(*bytes))
    }

    fn ends(&self, place: &Place) -> Ends<'_> {
        self.body[place.ends.clone()].as_chunks::<4>().0
    }

    fn column(&self, place: &Place) -> ColumnView<'_> {
        ColumnView {
            nulls: &self.body[place.nulls.clone()],
            ends: self.ends(place),
            bytes: &self.body[place.bytes.clone()],
        }
    }

    fn view(&self) -> View<'_> {
        let layout = &self.layout;
        View {
            header: &self.header,
            timestamps: &self.body[layout.timestamps.clone()],
            offsets: self.body[layout.offsets.clone()].as_chunks().0,
            keys: self.has_keys().then(|| self.column(&layout.keys)),
            values: self.column(&layout.values),
            headers: self.has_headers().then(|| self.column(&layout.headers)),
        }
    }

    /// The header of the batch.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The offset with which the batch begins; in a sparse one there may be no such record.
    pub fn base_offset(&self) -> u64 {
        self.header.base_offset
    }

    /// How many records, at least one.
    pub fn len(&self) -> usize {
        self.header.count as usize
    }

    /// Never: a batch has a record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The record in this row. To go through all, [`iter`](Self::iter) is faster.
    #[inline]
    pub fn record(&self, row: usize) -> Option<RecordRef<'_>> {
        (row < self.len()).then(|| self.view().record(row))
    }

    /// All records, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = RecordRef<'_>> + ExactSizeIterator + '_ {
        self.iter_rows(0..self.len())
    }

    /// The records in these rows, as far as they are there, in order.
    pub fn iter_rows(
        &self,
        rows: Range<usize>,
    ) -> impl DoubleEndedIterator<Item = RecordRef<'_>> + ExactSizeIterator + '_ {
        let view = self.view();
        (rows.start..rows.end.min(self.len())).map(move |row| view.record(row))
    }

    /// The offset of each record.
    pub fn offsets(&self) -> impl ExactSizeIterator<Item = u64> + '_ {
        let view = self.view();
        (0..self.len()).map(move |row| view.offset(row))
    }

    /// The timestamp of each record.
    pub fn timestamps(&self) -> impl ExactSizeIterator<Item = i64> + '_ {
        let view = self.view();
        (0..self.len()).map(move |row| view.timestamp(row))
    }

    /// Whether any record has a key.
    pub fn has_keys(&self) -> bool {
        self.header.columns.keys
    }

    /// Whether any record has headers.
    pub fn has_headers(&self) -> bool {
        self.header.columns.headers
    }

    /// Where each key ends in [`key_bytes`](Self::key_bytes); nothing where no record has a key.
    pub fn key_ends(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.ends(&self.layout.keys)
            .iter()
            .map(|end| u32::from_le_bytes(*end))
    }

    /// All keys.
    pub fn key_bytes(&self) -> &[u8] {
        &self.body[self.layout.keys.bytes.clone()]
    }

    /// Which keys are null, a bit for each record; absent where none of the keys is.
    pub fn key_nulls(&self) -> Option<&[u8]> {
        self.header
            .columns
            .key_nulls
            .then(|| &self.body[self.layout.keys.nulls.clone()])
    }

    /// Where each value ends in [`value_bytes`](Self::value_bytes).
    pub fn value_ends(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.ends(&self.layout.values)
            .iter()
            .map(|end| u32::from_le_bytes(*end))
    }

    /// All values.
    pub fn value_bytes(&self) -> &[u8] {
        &self.body[self.layout.values.bytes.clone()]
    }

    /// Which values are null, a bit for each record; absent where none is.
    pub fn value_nulls(&self) -> Option<&[u8]> {
        self.header
            .columns
            .value_nulls
            .then(|| &self.body[self.layout.values.nulls.clone()])
    }

    /// Where each record's headers end; nothing where no record has any.
    pub fn header_ends(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.ends(&self.layout.headers)
            .iter()
            .map(|end| u32::from_le_bytes(*end))
    }

    /// All headers.
    pub fn header_bytes(&self) -> &[u8] {
        &self.body[self.layout.headers.bytes.clone()]
    }

    /// The same records in columns of their own.
    pub fn to_columns(&self) -> ColumnBuf {
        let mut columns = ColumnBuf::new();
        columns
            .extend_from_records(self)
            .expect("one batch fits into empty columns");
        columns
    }
}
