//! A batch, column by column and record by record. Nothing here copies bytes or allocates.

use crate::bindings::eddy::plugin::types as raw;
use crate::record::{Headers, Record};

/// One or more records of one partition, in the order of their offsets.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    offsets: &'a [u64],
    timestamps: &'a [i64],
    keys: Column<'a>,
    values: Column<'a>,
    headers: Column<'a>,
}

/// A column of bytes: all of them one after the other, and where those of each row end.
#[derive(Debug, Clone, Copy)]
pub struct Column<'a> {
    /// Where each row ends. Empty if no record has anything in this column.
    pub ends: &'a [u32],
    /// The bytes of all rows.
    pub bytes: &'a [u8],
    /// A bit for each row, least significant first; 1 is null. Empty if none is.
    pub nulls: &'a [u8],
}

impl<'a> From<&'a raw::Batch> for Batch<'a> {
    fn from(batch: &'a raw::Batch) -> Self {
        let records = &batch.records;
        let column = |ends, bytes, nulls| Column { ends, bytes, nulls };
        Self {
            offsets: &batch.offsets,
            timestamps: &records.timestamps,
            keys: column(&records.key_ends, &records.keys, &records.key_nulls),
            values: column(&records.value_ends, &records.values, &records.value_nulls),
            headers: column(&records.header_ends, &records.headers, &[]),
        }
    }
}

impl<'a> Batch<'a> {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is none, which the broker never sends.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Where each record stands in its partition; rising.
    pub fn offsets(&self) -> &'a [u64] {
        self.offsets
    }

    /// When each record happened, in milliseconds since 1970 UTC.
    pub fn timestamps(&self) -> &'a [i64] {
        self.timestamps
    }

    /// The keys.
    pub fn keys(&self) -> Column<'a> {
        self.keys
    }

    /// The values.
    pub fn values(&self) -> Column<'a> {
        self.values
    }

    /// The record in this row, if there is such a row.
    pub fn record(&self, row: u32) -> Option<Record<'a>> {
        let at = row as usize;
        Some(Record {
            row,
            offset: *self.offsets.get(at)?,
            timestamp: *self.timestamps.get(at)?,
            key: self.keys.row(at),
            value: self.values.row(at),
            headers: Headers::from(self.headers.row(at).unwrap_or_default()),
        })
    }

    /// Every record, in order.
    #[inline]
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let (offsets, timestamps) = (self.offsets.iter(), self.timestamps.iter());
        let (mut keys, mut values, mut headers) =
            (self.keys.rows(), self.values.rows(), self.headers.rows());
        (0..)
            .zip(offsets.zip(timestamps))
            .map(move |(row, (&offset, &timestamp))| Record {
                row,
                offset,
                timestamp,
                key: keys.next_row(),
                value: values.next_row(),
                headers: Headers::from(headers.next_row().unwrap_or_default()),
            })
    }
}

impl<'a> Column<'a> {
    /// The bytes of a row; nothing if they are null.
    #[inline]
    pub fn row(&self, row: usize) -> Option<&'a [u8]> {
        let end = *self.ends.get(row)? as usize;
        let begin = row
            .checked_sub(1)
            .map_or(0, |before| self.ends[before] as usize);
        if self.is_null(row) {
            None
        } else {
            self.bytes.get(begin..end)
        }
    }

    /// Every row, in order: as many as there are ends.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Option<&'a [u8]>> + use<'a> {
        let mut rows = self.rows();
        (0..self.ends.len()).map(move |_| rows.next_row())
    }

    #[inline]
    fn is_null(&self, row: usize) -> bool {
        self.nulls
            .get(row / 8)
            .is_some_and(|bits| bits >> (row % 8) & 1 == 1)
    }

    #[inline]
    fn rows(self) -> Rows<'a> {
        Rows {
            column: self,
            row: 0,
            begin: 0,
        }
    }
}

/// Goes through a column that may be absent.
struct Rows<'a> {
    column: Column<'a>,
    row: usize,
    begin: usize,
}

impl<'a> Rows<'a> {
    #[inline]
    fn next_row(&mut self) -> Option<&'a [u8]> {
        let row = self.row;
        let end = *self.column.ends.get(row)? as usize;
        let bytes = self.column.bytes.get(self.begin..end);
        self.row = row + 1;
        self.begin = end;
        if !self.column.nulls.is_empty() && self.column.is_null(row) {
            None
        } else {
            bytes
        }
    }
}
