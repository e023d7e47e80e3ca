//! From columns to a batch: all rows or some of them (the hot path of every
//! filter), offsets dense or with holes. The layout is drawn in `header` and
//! `parse`.

use super::column::Column;
use super::columns::ColumnBuf;
use super::header::{Attributes, Body, ColumnFlags, Header, ProducerStamp, TimestampWidth};
use super::{Batch, BatchError, Compression, HEADER_BYTES, RAW_BYTES_MAX, Unstamped};

/// Which rows go into a batch.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// All.
    All,
    /// These: numbers of rows, strictly rising.
    Keep(&'a [u32]),
}

/// Which offsets a batch takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetMode {
    /// One after the other, from 0 until the broker gives a base.
    Dense,
    /// Those of the columns, within the `span` offsets from `base` on, all of
    /// which the batch covers.
    Sparse {
        /// The first offset covered.
        base: u64,
        /// How many offsets are covered.
        span: u32,
    },
}

/// What has to be known of records before their first byte is written as columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) count: usize,
    pub(super) timestamp_min: i64,
    pub(super) timestamp_max: i64,
    pub(super) sparse: bool,
    pub(super) key_nulls: usize,
    pub(super) key_bytes: usize,
    pub(super) value_nulls: usize,
    pub(super) value_bytes: usize,
    pub(super) header_bytes: usize,
}

impl Tally {
    fn flags(&self) -> ColumnFlags {
        ColumnFlags {
            timestamps: width(self.timestamp_min, self.timestamp_max),
            sparse: self.sparse,
            keys: self.key_nulls < self.count,
            key_nulls: self.key_nulls > 0 && self.key_nulls < self.count,
            value_nulls: self.value_nulls > 0,
            headers: self.header_bytes > 0,
        }
    }

    fn raw_length(&self) -> usize {
        let (flags, count) = (self.flags(), self.count);
        let nulls = count.div_ceil(8);
        let timestamps = match flags.timestamps {
            TimestampWidth::Constant => 0,
            TimestampWidth::Delta => 4,
            TimestampWidth::Full => 8,
        };
        let when = |on: bool, bytes: usize| if on { bytes } else { 0 };
        count * (timestamps + 4)
            + self.value_bytes
            + when(self.sparse, count * 4)
            + when(flags.keys, count * 4 + self.key_bytes)
            + when(flags.key_nulls, nulls)
            + when(flags.value_nulls, nulls)
            + when(flags.headers, count * 4 + self.header_bytes)
    }

    /// The header of a batch of these records, but for its length and its
    /// checksum. Refused where they take more than [`RAW_BYTES_MAX`].
    pub(super) fn header(
        &self,
        body: Body,
        base_offset: u64,
        span: u32,
    ) -> Result<Header, BatchError> {
        let raw_length = self.raw_length();
        if raw_length > RAW_BYTES_MAX {
            return Err(BatchError::TooLarge {
                bytes: raw_length as u64,
                limit: RAW_BYTES_MAX as u64,
            });
        }
        Ok(Header {
            base_offset,
            length: 0,
            crc: 0,
            body,
            compression: Compression::None,
            columns: self.flags(),
            attributes: Attributes::default(),
            count: self.count as u32,
            span,
            producer: None,
            raw_length: raw_length as u32,
            timestamp_min: self.timestamp_min,
            timestamp_max: self.timestamp_max,
        })
    }
}

impl ColumnBuf {
    /// A batch of the chosen rows. Refused where there are none, or where they
    /// take more than [`RAW_BYTES_MAX`].
    pub fn encode(
        &self,
        rows: Rows<'_>,
        offsets: OffsetMode,
        compression: Compression,
        producer: Option<ProducerStamp>,
    ) -> Result<Batch, BatchError> {
        let (mut header, mut encoded) = self.lay_out(rows, offsets, compression)?;
        header.producer = producer;
        header.seal(&mut encoded);
        Ok(Batch::encoded(header, encoded))
    }

    /// All records, for a producer's stamp to come: the checksum covers the stamp.
    pub(super) fn encode_unstamped(
        &self,
        compression: Compression,
    ) -> Result<Unstamped, BatchError> {
        let (header, encoded) = self.lay_out(Rows::All, OffsetMode::Dense, compression)?;
        Ok(Unstamped(Batch::encoded(header, encoded)))
    }

    /// The body, behind room for the header, and the header without a checksum.
    pub(super) fn lay_out(
        &self,
        rows: Rows<'_>,
        offsets: OffsetMode,
        compression: Compression,
    ) -> Result<(Header, Vec<u8>), BatchError> {
        let rows = self.checked(rows)?;
        let sparse = self.sparse(rows, offsets)?;
        let tally = self.tally(rows, sparse.is_some());
        let (base_offset, span) = match offsets {
            OffsetMode::Dense => (0, tally.count as u32),
            OffsetMode::Sparse { base, span } => (base, span),
        };
        let mut header = tally.header(Body::Columns, base_offset, span)?;
        let mut encoded = Vec::with_capacity(HEADER_BYTES + header.raw_len());
        encoded.resize(HEADER_BYTES, 0);
        self.write_body(rows, sparse, &tally, &mut encoded);
        if let Some(compressed) = compression.compress(&encoded[HEADER_BYTES..]) {
            encoded.truncate(HEADER_BYTES);
            encoded.extend_from_slice(&compressed);
            encoded.shrink_to_fit();
            header.compression = compression;
        }
        header.length = encoded.len() as u32;
        Ok((header, encoded))
    }

    fn checked<'a>(&self, rows: Rows<'a>) -> Result<Rows<'a>, BatchError> {
        let len = self.len();
        if len > u32::MAX as usize {
            return Err(BatchError::TooLarge {
                bytes: self.bytes() as u64,
                limit: RAW_BYTES_MAX as u64,
            });
        }
        let Rows::Keep(keep) = rows else {
            return if len == 0 {
                Err(BatchError::Empty)
            } else {
                Ok(rows)
            };
        };
        let Some(last) = keep.last() else {
            return Err(BatchError::Empty);
        };
        let rises = keep.windows(2).all(|pair| pair[0] < pair[1]);
        if !rises || *last as usize >= len {
            return Err(BatchError::Row {
                row: *last,
                rows: len as u64,
            });
        }
        // All of them, listed: the same as all, which is copied faster.
        Ok(if keep.len() == len { Rows::All } else { rows })
    }

    /// The base of the offset deltas, or nothing where the batch has no holes.
    fn sparse(&self, rows: Rows<'_>, offsets: OffsetMode) -> Result<Option<u64>, BatchError> {
        let OffsetMode::Sparse { base, span } = offsets else {
            return Ok(None);
        };
        let (first, last, count) = match rows {
            Rows::All => (0, self.len() - 1, self.len()),
            Rows::Keep(keep) => (keep[0] as usize, keep[keep.len() - 1] as usize, keep.len()),
        };
        let end = base.checked_add(span.into());
        if self.offsets[first] < base || end.is_none_or(|end| self.offsets[last] >= end) {
            return Err(BatchError::Invalid(
                "its offsets do not lie within its span",
            ));
        }
        Ok((count != span as usize).then_some(base))
    }

    fn tally(&self, rows: Rows<'_>, sparse: bool) -> Tally {
        let (count, (timestamp_min, timestamp_max)) = match rows {
            Rows::All => (self.len(), range(self.timestamps.iter().copied())),
            Rows::Keep(keep) => (
                keep.len(),
                range(keep.iter().map(|row| self.timestamps[*row as usize])),
            ),
        };
        let (key_nulls, key_bytes) = self.keys.measure(rows);
        let (value_nulls, value_bytes) = self.values.measure(rows);
        let (_, header_bytes) = self.headers.measure(rows);
        Tally {
            count,
            timestamp_min,
            timestamp_max,
            sparse,
            key_nulls,
            key_bytes,
            value_nulls,
            value_bytes,
            header_bytes,
        }
    }

    fn write_body(&self, rows: Rows<'_>, sparse: Option<u64>, tally: &Tally, out: &mut Vec<u8>) {
        let (flags, min) = (tally.flags(), tally.timestamp_min);
        match flags.timestamps {
            TimestampWidth::Constant => {}
            TimestampWidth::Delta => {
                // The width was chosen because all differences fit.
                each(rows, &self.timestamps, out, |time| {
                    (time.wrapping_sub(min) as u32).to_le_bytes()
                });
            }
            TimestampWidth::Full => each(rows, &self.timestamps, out, i64::to_le_bytes),
        }
        if let Some(base) = sparse {
            // They lie within the span, which is a u32.
            each(rows, &self.offsets, out, |offset| {
                ((offset - base) as u32).to_le_bytes()
            });
        }
        if flags.keys {
            self.keys.write(rows, tally.key_nulls, out);
        }
        self.values.write(rows, tally.value_nulls, out);
        if flags.headers {
            self.headers.write(rows, 0, out);
        }
    }
}

impl Column {
    /// How many of the chosen rows are null, and how many bytes they have.
    fn measure(&self, rows: Rows<'_>) -> (usize, usize) {
        match rows {
            Rows::All => (self.null_count, self.bytes.len()),
            Rows::Keep(_) if self.ends.is_empty() => (0, 0),
            Rows::Keep(keep) => {
                let nulls = |row: &u32| usize::from(self.is_null(*row as usize));
                let null_count = if self.null_count == 0 {
                    0
                } else {
                    keep.iter().map(nulls).sum()
                };
                let bytes = if self.bytes.is_empty() {
                    0
                } else {
                    keep.iter().map(|row| self.slice(*row as usize).len()).sum()
                };
                (null_count, bytes)
            }
        }
    }

    /// Nulls (if there are any), ends and bytes of the chosen rows.
    fn write(&self, rows: Rows<'_>, null_count: usize, out: &mut Vec<u8>) {
        match rows {
            Rows::All => {
                if null_count > 0 {
                    out.extend_from_slice(&self.nulls);
                }
                each(rows, &self.ends, out, u32::to_le_bytes);
                out.extend_from_slice(&self.bytes);
            }
            Rows::Keep(keep) => {
                if null_count > 0 {
                    self.write_kept_nulls(keep, out);
                }
                let mut end = 0;
                let ends = keep.iter().map(|row| {
                    end += self.slice(*row as usize).len() as u32;
                    end
                });
                append(out, keep.len(), ends.map(u32::to_le_bytes));
                for row in keep {
                    out.extend_from_slice(self.slice(*row as usize));
                }
            }
        }
    }

    fn write_kept_nulls(&self, keep: &[u32], out: &mut Vec<u8>) {
        let begin = out.len();
        out.resize(begin + keep.len().div_ceil(8), 0);
        for (at, row) in keep.iter().enumerate() {
            out[begin + at / 8] |= u8::from(self.is_null(*row as usize)) << (at % 8);
        }
    }
}

/// The bytes of a column's entry for each of the chosen rows.
fn each<T: Copy, const N: usize>(
    rows: Rows<'_>,
    column: &[T],
    out: &mut Vec<u8>,
    bytes: impl Fn(T) -> [u8; N],
) {
    match rows {
        Rows::All => append(out, column.len(), column.iter().map(|entry| bytes(*entry))),
        Rows::Keep(keep) => append(
            out,
            keep.len(),
            keep.iter().map(|row| bytes(column[*row as usize])),
        ),
    }
}

/// Appends `count` entries; into space that is there before, so that the loop
/// has nothing to check and becomes vector instructions.
fn append<const N: usize>(out: &mut Vec<u8>, count: usize, entries: impl Iterator<Item = [u8; N]>) {
    let begin = out.len();
    out.resize(begin + count * N, 0);
    for (space, entry) in out[begin..].as_chunks_mut::<N>().0.iter_mut().zip(entries) {
        *space = entry;
    }
}

fn range(times: impl Iterator<Item = i64>) -> (i64, i64) {
    times.fold((i64::MAX, i64::MIN), |(min, max), time| {
        (min.min(time), max.max(time))
    })
}

fn width(min: i64, max: i64) -> TimestampWidth {
    match max.checked_sub(min) {
        Some(0) => TimestampWidth::Constant,
        Some(range) if range <= u32::MAX.into() => TimestampWidth::Delta,
        _ => TimestampWidth::Full,
    }
}
