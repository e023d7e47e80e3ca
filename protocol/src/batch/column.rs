//! One owned column of variable-size entries, as in Arrow's variable-size
//! binary arrays: where every entry ends, and all bytes one after the other;
//! but here a bitmap's 1 means null.

use super::BatchError;

/// How many bytes one column can hold: its ends are `u32`.
const COLUMN_BYTES_MAX: u64 = u32::MAX as u64;

/// Bytes of variable length, one entry for each record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) ends: Vec<u32>,
    pub(super) bytes: Vec<u8>,
    /// As long as `ends` asks for, or empty while nothing is null.
    pub(super) nulls: Vec<u8>,
    pub(super) null_count: usize,
}

impl Column {
    #[inline]
    pub(super) fn push(&mut self, entry: Option<&[u8]>) {
        let row = self.ends.len();
        if let Some(entry) = entry {
            self.bytes.extend_from_slice(entry);
        } else {
            self.set_null(row);
        }
        if !self.nulls.is_empty() {
            self.nulls.resize((row + 1).div_ceil(8), 0);
        }
        // `room_for` has checked that the ends fit.
        self.ends.push(self.bytes.len() as u32);
    }

    fn set_null(&mut self, row: usize) {
        self.nulls.resize((row + 1).div_ceil(8), 0);
        self.nulls[row / 8] |= 1 << (row % 8);
        self.null_count += 1;
    }

    #[inline]
    pub(super) fn room_for(&self, bytes: usize) -> Result<(), BatchError> {
        let total = self.bytes.len() as u64 + bytes as u64;
        if total > COLUMN_BYTES_MAX {
            return Err(BatchError::TooLarge {
                bytes: total,
                limit: COLUMN_BYTES_MAX,
            });
        }
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.ends.clear();
        self.bytes.clear();
        self.nulls.clear();
        self.null_count = 0;
    }

    /// Takes entries of another column over: their bytes, their ends (counted
    /// from those bytes' beginning) and which of them are null.
    pub(super) fn extend(
        &mut self,
        bytes: &[u8],
        ends: impl Iterator<Item = u32>,
        nulls: Option<&[u8]>,
    ) {
        let shift = self.bytes.len() as u32;
        let first = self.ends.len();
        self.bytes.extend_from_slice(bytes);
        self.ends.extend(ends.map(|end| end + shift));
        for row in set_bits(nulls.unwrap_or(&[])) {
            self.set_null(first + row);
        }
        if !self.nulls.is_empty() {
            self.nulls.resize(self.ends.len().div_ceil(8), 0);
        }
    }

    /// `count` more entries of no bytes.
    pub(super) fn extend_blank(&mut self, count: usize, null: bool) {
        let (first, end) = (self.ends.len(), self.bytes.len() as u32);
        self.ends.resize(first + count, end);
        if null {
            (first..first + count).for_each(|row| self.set_null(row));
        } else if !self.nulls.is_empty() {
            self.nulls.resize(self.ends.len().div_ceil(8), 0);
        }
    }

    #[inline]
    pub(super) fn is_null(&self, row: usize) -> bool {
        self.nulls
            .get(row / 8)
            .is_some_and(|byte| byte >> (row % 8) & 1 == 1)
    }

    /// The bytes of an entry; `row` is less than the count of entries.
    #[inline]
    pub(super) fn slice(&self, row: usize) -> &[u8] {
        let begin = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.bytes[begin as usize..self.ends[row] as usize]
    }

    pub(super) fn entry(&self, row: usize) -> Option<&[u8]> {
        (!self.is_null(row)).then(|| self.slice(row))
    }

    pub(super) fn null_bits(&self) -> Option<&[u8]> {
        (!self.nulls.is_empty()).then_some(&self.nulls[..])
    }

    pub(super) fn checked(
        ends: Vec<u32>,
        bytes: Vec<u8>,
        nulls: Option<Vec<u8>>,
        count: usize,
    ) -> Result<Column, BatchError> {
        if ends.len() != count {
            return Err(BatchError::Invalid("columns have different lengths"));
        }
        if !rises(&ends) || ends.last().map_or(0, |end| *end as usize) != bytes.len() {
            return Err(BatchError::Invalid(
                "a column's ends do not rise to the end of its bytes",
            ));
        }
        let nulls = nulls.unwrap_or_default();
        if !nulls.is_empty() {
            check_nulls(&nulls, count, |row| {
                ends[row] == if row == 0 { 0 } else { ends[row - 1] }
            })?;
        }
        let null_count = nulls.iter().map(|byte| byte.count_ones() as usize).sum();
        Ok(Column {
            ends,
            bytes,
            nulls,
            null_count,
        })
    }
}

/// Whether no end is before the one in front of it. Without branches, so that
/// it becomes vector instructions.
fn rises(ends: &[u32]) -> bool {
    let falls = ends
        .iter()
        .zip(ends.iter().skip(1))
        .fold(0, |falls, (a, b)| falls | u32::from(b < a));
    falls == 0
}

/// Whether a bitmap has the right length, nothing behind its last row, and
/// marks only rows without bytes.
pub(super) fn check_nulls(
    nulls: &[u8],
    count: usize,
    is_blank: impl Fn(usize) -> bool,
) -> Result<(), BatchError> {
    if nulls.len() != count.div_ceil(8) {
        return Err(BatchError::Invalid(
            "a null bitmap has not one bit for each record",
        ));
    }
    for row in set_bits(nulls) {
        if row >= count {
            return Err(BatchError::Invalid(
                "a null bitmap marks a row that is not there",
            ));
        }
        if !is_blank(row) {
            return Err(BatchError::Invalid("a null has bytes"));
        }
    }
    Ok(())
}

/// The numbers of the bits that are 1.
pub(super) fn set_bits(bits: &[u8]) -> impl Iterator<Item = usize> + '_ {
    bits.iter()
        .enumerate()
        .filter(|(_, byte)| **byte != 0)
        .flat_map(|(at, byte)| {
            (0..8)
                .filter(move |bit| byte >> bit & 1 == 1)
                .map(move |bit| at * 8 + bit)
        })
}
