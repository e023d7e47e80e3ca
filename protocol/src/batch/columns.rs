//! Owned columns of records: what a builder fills, what a plugin is given and
//! what it gives back. May hold records of any number of batches.

use super::column::Column;
use super::record::{headers_are_whole, headers_len, write_headers};
use super::{Batch, BatchError, Headers, RecordRef, Records};

/// Columns as plain parts, for those who take them from elsewhere. Checked when
/// they become a [`ColumnBuf`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// One for each record, rising.
    pub offsets: Vec<u64>,
    /// One for each record, milliseconds since 1970 UTC.
    pub timestamps: Vec<i64>,
    /// Where each key ends in `key_bytes`. Empty: no record has a key.
    pub key_ends: Vec<u32>,
    /// All keys.
    pub key_bytes: Vec<u8>,
    /// Which keys are null: a bit for each record, least significant first.
    pub key_nulls: Option<Vec<u8>>,
    /// Where each value ends in `value_bytes`.
    pub value_ends: Vec<u32>,
    /// All values.
    pub value_bytes: Vec<u8>,
    /// Which values are null.
    pub value_nulls: Option<Vec<u8>>,
    /// Where each record's headers end in `header_bytes`. Empty: no record has headers.
    pub header_ends: Vec<u32>,
    /// All headers, laid out as [`Headers`] says.
    pub header_bytes: Vec<u8>,
}

/// Owned columns of records, offsets rising.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnBuf {
    pub(super) offsets: Vec<u64>,
    pub(super) timestamps: Vec<i64>,
    pub(super) keys: Column,
    pub(super) values: Column,
    /// Without entries while no record has headers.
    pub(super) headers: Column,
}

impl ColumnBuf {
    /// No records yet.
    pub fn new() -> ColumnBuf {
        ColumnBuf::default()
    }

    /// Room for so many records whose values take so many bytes.
    pub fn with_capacity(records: usize, value_bytes: usize) -> ColumnBuf {
        let mut columns = ColumnBuf::default();
        columns.offsets.reserve(records);
        columns.timestamps.reserve(records);
        columns.keys.ends.reserve(records);
        columns.values.ends.reserve(records);
        columns.values.bytes.reserve(value_bytes);
        columns
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// What the columns take, uncompressed; the body of a batch takes no more.
    pub fn bytes(&self) -> usize {
        let per_record = size_of::<u64>() + size_of::<i64>() + 2 * size_of::<u32>();
        let blobs = [&self.keys, &self.values, &self.headers]
            .map(|column| column.bytes.len() + column.nulls.len());
        self.len() * per_record
            + self.headers.ends.len() * size_of::<u32>()
            + blobs.iter().sum::<usize>()
    }

    /// Forgets the records and keeps the memory.
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.timestamps.clear();
        self.keys.clear();
        self.values.clear();
        self.headers.clear();
    }

    /// Appends a record. Its offset must be above that of the record before.
    /// On an error nothing was appended.
    #[inline]
    pub fn push(
        &mut self,
        offset: u64,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<(), BatchError> {
        self.room_for(offset, key, value)?;
        if !headers.is_empty() {
            self.push_headers(headers)?;
        } else if !self.headers.ends.is_empty() {
            self.headers.push(Some(&[]));
        }
        self.push_rest(offset, timestamp, key, value);
        Ok(())
    }

    /// Appends a record that is borrowed from elsewhere, headers included.
    #[inline]
    pub fn push_record(&mut self, record: &RecordRef<'_>) -> Result<(), BatchError> {
        if record.headers.is_empty() {
            return self.push(
                record.offset,
                record.timestamp,
                record.key,
                record.value,
                &[],
            );
        }
        let headers: Vec<(&str, Option<&[u8]>)> = record.headers.collect();
        self.push(
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            &headers,
        )
    }

    #[inline]
    fn room_for(
        &self,
        offset: u64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<(), BatchError> {
        if self.offsets.last().is_some_and(|last| *last >= offset) {
            return Err(BatchError::Invalid("offsets do not rise"));
        }
        self.keys.room_for(key.map_or(0, <[u8]>::len))?;
        self.values.room_for(value.map_or(0, <[u8]>::len))
    }

    fn push_headers(&mut self, headers: &[(&str, Option<&[u8]>)]) -> Result<(), BatchError> {
        self.headers.room_for(headers_len(headers))?;
        let rows = self.len();
        if !write_headers(headers, &mut self.headers.bytes) {
            return Err(BatchError::Invalid(
                "more than 65,535 headers, or a name longer than 65,535 bytes",
            ));
        }
        self.headers
            .ends
            .resize(rows, self.headers.ends.last().copied().unwrap_or(0));
        self.headers.ends.push(self.headers.bytes.len() as u32);
        Ok(())
    }

    #[inline]
    fn push_rest(&mut self, offset: u64, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.offsets.push(offset);
        self.timestamps.push(timestamp);
        self.keys.push(key);
        self.values.push(value);
    }

    /// Appends all records of a batch. On an error nothing was appended.
    pub fn extend_from(&mut self, batch: &Batch) -> Result<(), BatchError> {
        self.extend_from_records(&batch.records()?)
    }

    /// Appends all records of a batch that is expanded already. On an error
    /// nothing was appended.
    pub fn extend_from_records(&mut self, records: &Records) -> Result<(), BatchError> {
        let first = records.base_offset();
        if self.offsets.last().is_some_and(|last| *last >= first) {
            return Err(BatchError::Invalid("offsets do not rise"));
        }
        self.keys.room_for(records.key_bytes().len())?;
        self.values.room_for(records.value_bytes().len())?;
        self.headers.room_for(records.header_bytes().len())?;

        let (before, count) = (self.len(), records.len());
        self.offsets.extend(records.offsets());
        self.timestamps.extend(records.timestamps());
        if records.has_keys() {
            self.keys
                .extend(records.key_bytes(), records.key_ends(), records.key_nulls());
        } else {
            self.keys.extend_blank(count, true);
        }
        self.values.extend(
            records.value_bytes(),
            records.value_ends(),
            records.value_nulls(),
        );
        if records.has_headers() {
            self.headers
                .ends
                .resize(before, self.headers.ends.last().copied().unwrap_or(0));
            self.headers
                .extend(records.header_bytes(), records.header_ends(), None);
        } else if !self.headers.ends.is_empty() {
            self.headers.extend_blank(count, false);
        }
        Ok(())
    }

    /// The record in this row.
    pub fn record(&self, row: usize) -> Option<RecordRef<'_>> {
        let (offset, timestamp) = (*self.offsets.get(row)?, *self.timestamps.get(row)?);
        let headers = if self.headers.ends.is_empty() {
            Headers::default()
        } else {
            Headers::new(self.headers.slice(row))
        };
        Some(RecordRef {
            offset,
            timestamp,
            key: self.keys.entry(row),
            value: self.values.entry(row),
            headers,
        })
    }

    /// All records, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = RecordRef<'_>> + '_ {
        (0..self.len()).map(|row| {
            self.record(row)
                .expect("the row is less than the count of records")
        })
    }

    /// One for each record, rising.
    pub fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// One for each record, milliseconds since 1970 UTC.
    pub fn timestamps(&self) -> &[i64] {
        &self.timestamps
    }

    /// Where each key ends in [`key_bytes`](Self::key_bytes); one for each record.
    pub fn key_ends(&self) -> &[u32] {
        &self.keys.ends
    }

    /// All keys.
    pub fn key_bytes(&self) -> &[u8] {
        &self.keys.bytes
    }

    /// Which keys are null: a bit for each record, least significant first, 1 is
    /// null. Absent where none is.
    pub fn key_nulls(&self) -> Option<&[u8]> {
        self.keys.null_bits()
    }

    /// Where each value ends in [`value_bytes`](Self::value_bytes); one for each record.
    pub fn value_ends(&self) -> &[u32] {
        &self.values.ends
    }

    /// All values.
    pub fn value_bytes(&self) -> &[u8] {
        &self.values.bytes
    }

    /// Which values are null, as [`key_nulls`](Self::key_nulls) has it.
    pub fn value_nulls(&self) -> Option<&[u8]> {
        self.values.null_bits()
    }

    /// Where each record's headers end; empty where no record has any.
    pub fn header_ends(&self) -> &[u32] {
        &self.headers.ends
    }

    /// All headers, laid out as [`Headers`] says.
    pub fn header_bytes(&self) -> &[u8] {
        &self.headers.bytes
    }
}

impl TryFrom<Columns> for ColumnBuf {
    type Error = BatchError;

    fn try_from(columns: Columns) -> Result<ColumnBuf, BatchError> {
        let count = columns.offsets.len();
        if columns.timestamps.len() != count {
            return Err(BatchError::Invalid("columns have different lengths"));
        }
        if columns
            .offsets
            .iter()
            .zip(columns.offsets.iter().skip(1))
            .any(|(a, b)| b <= a)
        {
            return Err(BatchError::Invalid("offsets do not rise"));
        }
        let keys = if columns.key_ends.is_empty() && columns.key_bytes.is_empty() {
            let mut keys = Column::default();
            keys.extend_blank(count, true);
            keys
        } else {
            Column::checked(
                columns.key_ends,
                columns.key_bytes,
                columns.key_nulls,
                count,
            )?
        };
        let values = Column::checked(
            columns.value_ends,
            columns.value_bytes,
            columns.value_nulls,
            count,
        )?;
        let header_count = if columns.header_ends.is_empty() {
            0
        } else {
            count
        };
        let headers = Column::checked(
            columns.header_ends,
            columns.header_bytes,
            None,
            header_count,
        )?;
        if (0..header_count).any(|row| !headers_are_whole(headers.slice(row))) {
            return Err(BatchError::Invalid("a record's headers are not whole"));
        }
        Ok(ColumnBuf {
            offsets: columns.offsets,
            timestamps: columns.timestamps,
            keys,
            values,
            headers,
        })
    }
}

impl From<ColumnBuf> for Columns {
    fn from(columns: ColumnBuf) -> Columns {
        let nulls = |column: &Column| column.null_bits().map(<[u8]>::to_vec);
        let (key_nulls, value_nulls) = (nulls(&columns.keys), nulls(&columns.values));
        Columns {
            offsets: columns.offsets,
            timestamps: columns.timestamps,
            key_ends: columns.keys.ends,
            key_bytes: columns.keys.bytes,
            key_nulls,
            value_ends: columns.values.ends,
            value_bytes: columns.values.bytes,
            value_nulls,
            header_ends: columns.headers.ends,
            header_bytes: columns.headers.bytes,
        }
    }
}
