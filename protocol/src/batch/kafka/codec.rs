//! The compressions that Kafka's clients use, as they frame them. Nothing
//! expands to more than was allowed, and memory grows with what really comes
//! out; only an LZ4 frame may ask for its blocks' size, 4 MiB, beforehand.

use std::borrow::Cow;
use std::io::{Read, Write};

use crate::batch::compression::zstd_frame;
use crate::batch::{BatchError, Compression};

/// How the records of a Kafka batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    None,
    Gzip,
    /// In the frame of snappy-java, or one block without any.
    Snappy,
    /// In frames.
    Lz4,
    Zstd,
}

/// What a stream of snappy-java begins with; its version and the oldest one
/// that can read it follow, four bytes each.
const SNAPPY_JAVA: &[u8; 8] = b"\x82SNAPPY\0";

impl Codec {
    pub(super) fn from_number(number: u16) -> Result<Codec, BatchError> {
        match number {
            0 => Ok(Codec::None),
            1 => Ok(Codec::Gzip),
            2 => Ok(Codec::Snappy),
            3 => Ok(Codec::Lz4),
            4 => Ok(Codec::Zstd),
            _ => Err(BatchError::Invalid("Kafka: its compression is not known")),
        }
    }

    pub(super) fn number(self) -> u16 {
        match self {
            Codec::None => 0,
            Codec::Gzip => 1,
            Codec::Snappy => 2,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Codec::None => "uncompressed",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "LZ4",
            Codec::Zstd => "zstd",
        }
    }

    /// What `records` stands for, at most `limit` bytes.
    pub(super) fn expand(self, records: &[u8], limit: usize) -> Result<Cow<'_, [u8]>, BatchError> {
        let expanded = match self {
            Codec::None => return Ok(Cow::Borrowed(records)),
            Codec::Gzip => read_upto(flate2::bufread::MultiGzDecoder::new(records), limit),
            Codec::Snappy => expand_snappy(records, limit),
            Codec::Lz4 => read_upto(lz4_flex::frame::FrameDecoder::new(records), limit),
            Codec::Zstd => zstd_frame::expand_upto(records, limit),
        };
        expanded.map(Cow::Owned).ok_or(BatchError::KafkaExpansion {
            codec: self.name(),
            limit,
        })
    }

    /// Kafka's form of one of our own compressions.
    pub(super) fn of(compression: Compression) -> Codec {
        match compression {
            Compression::None => Codec::None,
            Compression::Lz4 => Codec::Lz4,
            Compression::Zstd => Codec::Zstd,
        }
    }

    /// The compressed form; nothing where there is none, or none that is shorter.
    pub(super) fn compress(self, records: &[u8]) -> Option<Vec<u8>> {
        let compressed = match self {
            Codec::None | Codec::Gzip | Codec::Snappy => return None,
            Codec::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
                encoder.write_all(records).ok()?;
                encoder.finish().ok()?
            }
            Codec::Zstd => zstd_frame::compress(records)?,
        };
        (compressed.len() < records.len()).then_some(compressed)
    }
}

/// All that comes, if it is no more than `limit`.
fn read_upto(from: impl Read, limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    from.take(limit as u64 + 1).read_to_end(&mut out).ok()?;
    (out.len() <= limit).then_some(out)
}

fn expand_snappy(records: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    if !records.starts_with(SNAPPY_JAVA) {
        expand_snappy_block(records, limit, &mut out)?;
        return Some(out);
    }
    let mut rest = records.get(SNAPPY_JAVA.len() + 8..)?;
    while !rest.is_empty() {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let (block, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        expand_snappy_block(block, limit, &mut out)?;
        rest = behind;
    }
    Some(out)
}

fn expand_snappy_block(block: &[u8], limit: usize, out: &mut Vec<u8>) -> Option<()> {
    /// Three bytes copy 64 at the most.
    const RATIO_MAX: usize = 22;
    let length = snap::raw::decompress_len(block).ok()?;
    let begin = out.len();
    if length > limit - begin || length > block.len().saturating_mul(RATIO_MAX) {
        return None;
    }
    out.resize(begin + length, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut out[begin..])
        .ok()?;
    (written == length).then_some(())
}
