//! Records read out of a body's columns, once it is known where each column
//! lies and that all of them keep the rules.

use std::ops::Range;

use super::header::TimestampWidth;
use super::{Header, Headers, RecordRef};

/// Where each entry of a column ends, as it stands in the body: not aligned.
pub(super) type Ends<'a> = &'a [[u8; 4]];

/// One column of variable-size entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct ColumnView<'a> {
    pub(super) nulls: &'a [u8],
    pub(super) ends: Ends<'a>,
    pub(super) bytes: &'a [u8],
}

impl<'a> ColumnView<'a> {
    #[inline]
    pub(super) fn slice(&self, row: usize) -> &'a [u8] {
        &self.bytes[bounds(self.ends, row)]
    }

    #[inline]
    fn entry(&self, row: usize) -> Option<&'a [u8]> {
        let null = self
            .nulls
            .get(row / 8)
            .is_some_and(|byte| byte >> (row % 8) & 1 == 1);
        (!null).then(|| self.slice(row))
    }
}

/// All columns of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) header: &'a Header,
    pub(super) timestamps: &'a [u8],
    pub(super) offsets: Ends<'a>,
    pub(super) keys: Option<ColumnView<'a>>,
    pub(super) values: ColumnView<'a>,
    pub(super) headers: Option<ColumnView<'a>>,
}

impl<'a> View<'a> {
    /// The record in this row, which is less than the count of records.
    #[inline]
    pub(super) fn record(&self, row: usize) -> RecordRef<'a> {
        RecordRef {
            offset: self.offset(row),
            timestamp: self.timestamp(row),
            key: self.keys.and_then(|keys| keys.entry(row)),
            value: self.values.entry(row),
            headers: self
                .headers
                .map_or_else(Headers::default, |blobs| Headers::new(blobs.slice(row))),
        }
    }

    #[inline]
    pub(super) fn offset(&self, row: usize) -> u64 {
        let delta = self
            .offsets
            .get(row)
            .map_or(row as u64, |delta| u32::from_le_bytes(*delta).into());
        self.header.base_offset + delta
    }

    #[inline]
    pub(super) fn timestamp(&self, row: usize) -> i64 {
        let min = self.header.timestamp_min;
        match self.header.timestamps() {
            TimestampWidth::Constant => min,
            TimestampWidth::Delta => {
                min + i64::from(u32::from_le_bytes(self.timestamps.as_chunks().0[row]))
            }
            TimestampWidth::Full => i64::from_le_bytes(self.timestamps.as_chunks().0[row]),
        }
    }
}

/// Where entry `row` lies in a column's bytes.
#[inline]
pub(super) fn bounds(ends: Ends<'_>, row: usize) -> Range<usize> {
    let begin = if row == 0 {
        0
    } else {
        u32::from_le_bytes(ends[row - 1])
    };
    begin as usize..u32::from_le_bytes(ends[row]) as usize
}
