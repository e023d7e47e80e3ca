//! The body's compression. Expansion is bounded twice: by the header's
//! `raw_length`, and by what so many compressed bytes can become at all, so
//! that a small message can't ask for a large allocation.

use super::BatchError;

/// How a batch's body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// An LZ4 block (no frame, no size in front).
    Lz4,
    /// One Zstandard frame without dictionary, with a window of 8 MiB at most.
    Zstd,
}

impl Compression {
    pub(super) fn number(self) -> u8 {
        match self {
            Compression::None => 0,
            Compression::Lz4 => 1,
            Compression::Zstd => 2,
        }
    }

    pub(super) fn from_number(number: u8) -> Result<Compression, BatchError> {
        match number {
            0 => Ok(Compression::None),
            1 => Ok(Compression::Lz4),
            2 => Ok(Compression::Zstd),
            other => Err(BatchError::Compression(other)),
        }
    }

    /// The compressed form of `raw`, or nothing where it would not be shorter.
    pub(super) fn compress(self, raw: &[u8]) -> Option<Vec<u8>> {
        let compressed = match self {
            Compression::None => return None,
            Compression::Lz4 => compress_lz4(raw)?,
            Compression::Zstd => zstd_frame::compress(raw)?,
        };
        (compressed.len() < raw.len()).then_some(compressed)
    }

    /// The `raw_length` bytes that `body` stands for.
    pub(super) fn expand(self, body: &[u8], raw_length: u32) -> Result<Vec<u8>, BatchError> {
        let expanded =
            match self {
                Compression::None => body.to_vec(),
                Compression::Lz4 => expand_lz4(body, raw_length as usize)
                    .ok_or(BatchError::Expansion(raw_length))?,
                Compression::Zstd => expand_zstd(body, raw_length as usize)
                    .ok_or(BatchError::Expansion(raw_length))?,
            };
        if expanded.len() != raw_length as usize {
            return Err(BatchError::Expansion(raw_length));
        }
        Ok(expanded)
    }
}

fn compress_lz4(raw: &[u8]) -> Option<Vec<u8>> {
    let mut compressed = vec![0; lz4_flex::block::get_maximum_output_size(raw.len())];
    let written = lz4_flex::block::compress_into(raw, &mut compressed).ok()?;
    compressed.truncate(written);
    Some(compressed)
}

/// A byte of LZ4 extends a match by 255 bytes at most.
fn expand_lz4(body: &[u8], raw_length: usize) -> Option<Vec<u8>> {
    if raw_length > body.len().saturating_mul(255).saturating_add(64) {
        return None;
    }
    let mut raw = vec![0; raw_length];
    let written = lz4_flex::block::decompress_into(body, &mut raw).ok()?;
    (written == raw_length).then_some(raw)
}

/// Four bytes of Zstandard (a block of one repeated byte) become 128 KiB at most.
const ZSTD_RATIO_MAX: usize = 32 * 1024;

/// What every reader has to keep at hand, by RFC 8878; no level up to 19 wants more.
const ZSTD_WINDOW_MAX: u64 = 8 << 20;

fn expand_zstd(body: &[u8], raw_length: usize) -> Option<Vec<u8>> {
    let justified = body.len().saturating_mul(ZSTD_RATIO_MAX);
    if raw_length > justified || zstd_window(body)? > ZSTD_WINDOW_MAX {
        return None;
    }
    zstd_frame::expand(body, raw_length)
}

/// The window that a frame's header asks for (RFC 8878, 3.1.1.1); 0 where it is
/// the content itself.
fn zstd_window(body: &[u8]) -> Option<u64> {
    const SINGLE_SEGMENT: u8 = 1 << 5;
    let (descriptor, window) = (body.get(4)?, body.get(5)?);
    if descriptor & SINGLE_SEGMENT != 0 {
        return Some(0);
    }
    let base = 1 << (10 + (window >> 3));
    Some(base + base / 8 * u64::from(window & 7))
}

#[cfg(not(target_arch = "wasm32"))]
pub(super) mod zstd_frame {
    //! The reference library. Its contexts are large, so each thread keeps its own.

    use std::cell::RefCell;

    use zstd::bulk::Compressor;
    use zstd::zstd_safe::{self, DCtx, zstd_sys::ZSTD_ErrorCode};

    /// The library's own choice between speed and size.
    const LEVEL: i32 = 3;

    thread_local! {
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(LEVEL).ok());
        static DECOMPRESSOR: RefCell<Option<DCtx<'static>>> = RefCell::new(DCtx::try_create());
    }

    /// As the library's functions return it: negated.
    const BUFFER_TOO_SMALL: usize =
        (ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg();

    pub(in crate::batch) fn compress(raw: &[u8]) -> Option<Vec<u8>> {
        COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress(raw).ok())
    }

    pub(super) fn expand(body: &[u8], raw_length: usize) -> Option<Vec<u8>> {
        if zstd_safe::find_frame_compressed_size(body).ok()? != body.len() {
            return None;
        }
        if let Some(promised) = zstd_safe::get_frame_content_size(body).ok()?
            && promised != raw_length as u64
        {
            return None;
        }
        expand_upto(body, raw_length)
    }

    /// What all frames of `body` expand to, if that is no more than `limit`.
    /// Tries with a buffer that the input's length makes likely, and with a
    /// larger one only once the smaller was really filled: a wrong limit
    /// allocates nothing that did not come out.
    pub(in crate::batch) fn expand_upto(body: &[u8], limit: usize) -> Option<Vec<u8>> {
        let mut capacity = limit.min(body.len().saturating_mul(16).max(4096));
        loop {
            let mut out = Vec::with_capacity(capacity);
            let done = DECOMPRESSOR.with_borrow_mut(|decompressor| {
                Some(decompressor.as_mut()?.decompress(&mut out, body))
            });
            match done? {
                Ok(_) => return Some(out),
                Err(BUFFER_TOO_SMALL) if capacity < limit => {
                    capacity = limit.min(capacity.saturating_mul(8));
                }
                Err(_) => return None,
            }
        }
    }
}

#[cfg(target_arch = "wasm32")]
pub(super) mod zstd_frame {
    //! Pure Rust, where the C library can't be built.

    use std::io::Read;

    use ruzstd::decoding::StreamingDecoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    pub(in crate::batch) fn compress(raw: &[u8]) -> Option<Vec<u8>> {
        Some(compress_to_vec(raw, CompressionLevel::Fastest))
    }

    pub(in crate::batch) fn expand_upto(body: &[u8], limit: usize) -> Option<Vec<u8>> {
        let mut rest = body;
        let mut out = Vec::new();
        // Where the window is the content, it is no larger than what was announced.
        let window_max = super::ZSTD_WINDOW_MAX.max(limit as u64);
        let decoder = StreamingDecoder::new_with_max_window_size(&mut rest, window_max).ok()?;
        decoder.take(limit as u64 + 1).read_to_end(&mut out).ok()?;
        (rest.is_empty() && out.len() <= limit).then_some(out)
    }

    pub(super) use expand_upto as expand;
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A frame from a stream of unknown length, as other clients may send it.
    fn streamed(raw: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(raw).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_window_of_eight_mebibytes_is_read_and_no_larger_one() {
        let raw: Vec<u8> = (0..200_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        for (window_log, read) in [(10, true), (21, true), (23, true), (24, false)] {
            let body = streamed(&raw, window_log);
            assert_eq!(zstd_window(&body), Some(1 << window_log));
            let expanded = Compression::Zstd.expand(&body, raw.len() as u32);
            assert_eq!(
                expanded.is_ok_and(|found| found == raw),
                read,
                "{window_log}"
            );
        }
        assert_eq!(
            zstd_window(&Compression::Zstd.compress(&[7; 1000]).unwrap()),
            Some(0)
        );
    }
}
