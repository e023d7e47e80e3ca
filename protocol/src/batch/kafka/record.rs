//! One record after the other out of the bytes of a Kafka batch.
//!
//! ```text
//! varint: 7 bits a byte, least significant first, the highest bit says that
//! another follows; signed by zigzag. A length of -1 is null.
//!
//!  length varint | attributes i8 | timestamp delta varlong | offset delta varint
//!  key length varint | key | value length varint | value
//!  headers varint | for each: key length varint | key | value length varint | value
//! ```

use std::borrow::Cow;

use super::KafkaHeader;
use crate::batch::BatchError;

/// A record has no more headers than a column can say.
const HEADERS_MAX: usize = u16::MAX as usize;

/// A record, borrowed from the batch's bytes.
pub(super) struct KafkaRecord<'a> {
    pub(super) timestamp_delta: i64,
    pub(super) offset_delta: u32,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    pub(super) headers: KafkaHeaders<'a>,
}

/// The headers of a record, known to be whole.
pub(super) struct KafkaHeaders<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl KafkaHeaders<'_> {
    /// Does something with them as columns have them. A name that is not UTF-8
    /// is shown as Kafka's own clients show it.
    pub(super) fn with<T>(&self, work: impl FnOnce(&[(&str, Option<&[u8]>)]) -> T) -> T {
        if self.count == 0 {
            return work(&[]);
        }
        let mut reader = Reader { rest: self.bytes };
        let named: Vec<(Cow<'_, str>, Option<&[u8]>)> = (0..self.count)
            .map_while(|_| reader.header().ok())
            .map(|(name, value)| (String::from_utf8_lossy(name), value))
            .collect();
        let headers: Vec<(&str, Option<&[u8]>)> = named
            .iter()
            .map(|(name, value)| (&**name, *value))
            .collect();
        work(&headers)
    }
}

/// Gives every record of `raw` to `each`; an error where they are not as many
/// as the header says, or not where it says.
#[inline]
pub(super) fn each_record<'a>(
    raw: &'a [u8],
    header: &KafkaHeader,
    mut each: impl FnMut(KafkaRecord<'a>) -> Result<(), BatchError>,
) -> Result<(), BatchError> {
    let mut reader = Reader { rest: raw };
    let mut offset_min = 0;
    for _ in 0..header.count {
        let record = reader.record()?;
        if record.offset_delta < offset_min || record.offset_delta > header.last_offset_delta {
            return Err(BatchError::Invalid(
                "Kafka: its offsets do not rise up to its last one",
            ));
        }
        // Not above i32::MAX, as it was read.
        offset_min = record.offset_delta + 1;
        each(record)?;
    }
    if !reader.rest.is_empty() {
        return Err(BatchError::Invalid(
            "Kafka: bytes are left behind its records",
        ));
    }
    Ok(())
}

const CUT: BatchError = BatchError::Invalid("Kafka: a record ends too soon");

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    fn record(&mut self) -> Result<KafkaRecord<'a>, BatchError> {
        let mut reader = Reader {
            rest: self.some_bytes()?,
        };
        reader.take(1)?;
        let timestamp_delta = reader.varlong()?;
        let offset_delta = u32::try_from(reader.varint()?)
            .map_err(|_| BatchError::Invalid("Kafka: an offset is negative"))?;
        let (key, value) = (reader.bytes()?, reader.bytes()?);
        let count = usize::try_from(reader.varint()?)
            .map_err(|_| BatchError::Invalid("Kafka: a record has less than no headers"))?;
        let headers = KafkaHeaders {
            count,
            bytes: reader.rest,
        };
        if count > HEADERS_MAX {
            return Err(BatchError::Invalid(
                "Kafka: a record has more than 65,535 headers",
            ));
        }
        for _ in 0..count {
            reader.header()?;
        }
        if !reader.rest.is_empty() {
            return Err(BatchError::Invalid(
                "Kafka: a record's length is not its own",
            ));
        }
        Ok(KafkaRecord {
            timestamp_delta,
            offset_delta,
            key,
            value,
            headers,
        })
    }

    fn header(&mut self) -> Result<(&'a [u8], Option<&'a [u8]>), BatchError> {
        let name = self.some_bytes()?;
        // What is not UTF-8 may take three times its bytes once it is shown.
        let is_long = name.len() > usize::from(u16::MAX)
            || name.len() > usize::from(u16::MAX) / 3
                && String::from_utf8_lossy(name).len() > usize::from(u16::MAX);
        if is_long {
            return Err(BatchError::Invalid(
                "Kafka: a header's key is longer than 65,535 bytes",
            ));
        }
        Ok((name, self.bytes()?))
    }

    #[inline]
    fn some_bytes(&mut self) -> Result<&'a [u8], BatchError> {
        self.bytes()?
            .ok_or(BatchError::Invalid("Kafka: null where there must be bytes"))
    }

    #[inline]
    fn bytes(&mut self) -> Result<Option<&'a [u8]>, BatchError> {
        match self.varint()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length)
                    .map_err(|_| BatchError::Invalid("Kafka: a length is negative"))?;
                self.take(length).map(Some)
            }
        }
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], BatchError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CUT)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn varint(&mut self) -> Result<i32, BatchError> {
        let unsigned = self.unsigned(5)? as u32;
        Ok((unsigned >> 1) as i32 ^ -((unsigned & 1) as i32))
    }

    #[inline]
    fn varlong(&mut self) -> Result<i64, BatchError> {
        let unsigned = self.unsigned(10)?;
        Ok((unsigned >> 1) as i64 ^ -((unsigned & 1) as i64))
    }

    #[inline]
    fn unsigned(&mut self, bytes_max: usize) -> Result<u64, BatchError> {
        let (first, rest) = self.rest.split_first().ok_or(CUT)?;
        if *first < 0x80 {
            self.rest = rest;
            return Ok((*first).into());
        }
        let mut number = 0;
        for (at, byte) in self.rest.iter().take(bytes_max).enumerate() {
            number |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                self.rest = &self.rest[at + 1..];
                return Ok(number);
            }
        }
        Err(BatchError::Invalid(
            "Kafka: a number ends too soon or has too many bytes",
        ))
    }
}
