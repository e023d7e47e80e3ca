//! Columns written in place, record by record: their sizes are known, because
//! the records were gone over before.

use super::record::KafkaRecord;
use crate::batch::Header;
use crate::batch::encode::Tally;
use crate::batch::header::TimestampWidth;
use crate::batch::record::write_headers;

/// The columns of a body. Absent ones are empty.
pub(super) struct Filling<'a> {
    timestamp_min: i64,
    width: TimestampWidth,
    timestamps: &'a mut [u8],
    offsets: &'a mut [[u8; 4]],
    keys: Option<Column<'a>>,
    values: Column<'a>,
    headers: Option<Column<'a>>,
    row: usize,
    /// The headers of one record.
    blob: Vec<u8>,
}

struct Column<'a> {
    nulls: &'a mut [u8],
    ends: &'a mut [[u8; 4]],
    bytes: &'a mut [u8],
    end: usize,
}

impl<'a> Filling<'a> {
    /// The columns in `body`, which is all zeros and as long as `tally` says.
    pub(super) fn new(header: &Header, tally: &Tally, body: &'a mut [u8]) -> Filling<'a> {
        let (flags, count) = (tally.flags(), tally.count);
        let width = match flags.timestamps {
            TimestampWidth::Constant => 0,
            TimestampWidth::Delta => 4,
            TimestampWidth::Full => 8,
        };
        let mut rest = body;
        let timestamps = cut(&mut rest, count * width);
        let offsets = cut(&mut rest, if flags.sparse { count * 4 } else { 0 });
        let mut column = |has_nulls: bool, bytes: usize| Column {
            nulls: cut(&mut rest, if has_nulls { count.div_ceil(8) } else { 0 }),
            ends: cut(&mut rest, count * 4).as_chunks_mut().0,
            bytes: cut(&mut rest, bytes),
            end: 0,
        };
        Filling {
            timestamp_min: header.timestamp_min(),
            width: flags.timestamps,
            timestamps,
            offsets: offsets.as_chunks_mut().0,
            keys: flags.keys.then(|| column(flags.key_nulls, tally.key_bytes)),
            values: column(flags.value_nulls, tally.value_bytes),
            headers: flags.headers.then(|| column(false, tally.header_bytes)),
            row: 0,
            blob: Vec::new(),
        }
    }

    /// Adds the next record, one of those that were counted.
    #[inline]
    pub(super) fn push(&mut self, record: &KafkaRecord<'_>, timestamp: i64) {
        let row = self.row;
        match self.width {
            TimestampWidth::Constant => {}
            TimestampWidth::Delta => {
                let delta = timestamp.wrapping_sub(self.timestamp_min) as u32;
                self.timestamps.as_chunks_mut().0[row] = delta.to_le_bytes();
            }
            TimestampWidth::Full => {
                self.timestamps.as_chunks_mut().0[row] = timestamp.to_le_bytes();
            }
        }
        if let Some(offset) = self.offsets.get_mut(row) {
            *offset = record.offset_delta.to_le_bytes();
        }
        if let Some(keys) = &mut self.keys {
            keys.push(row, record.key);
        }
        self.values.push(row, record.value);
        if let Some(headers) = &mut self.headers {
            self.blob.clear();
            // Neither too many nor too long: that was looked at when they were read.
            record
                .headers
                .with(|headers| write_headers(headers, &mut self.blob));
            headers.push(row, Some(&self.blob));
        }
        self.row += 1;
    }
}

impl Column<'_> {
    #[inline]
    fn push(&mut self, row: usize, entry: Option<&[u8]>) {
        match entry {
            Some(entry) => {
                self.bytes[self.end..self.end + entry.len()].copy_from_slice(entry);
                self.end += entry.len();
            }
            // Where all keys are null there is no column of them.
            None => self.nulls[row / 8] |= 1 << (row % 8),
        }
        self.ends[row] = (self.end as u32).to_le_bytes();
    }
}

/// Takes the first `bytes` bytes off.
fn cut<'a>(rest: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (taken, behind) = std::mem::take(rest).split_at_mut(bytes);
    *rest = behind;
    taken
}
