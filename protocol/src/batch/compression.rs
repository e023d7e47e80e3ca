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
    /// One Zstandard frame without dictionary.
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
        let expanded = match self {
            Compression::None => body.to_vec(),
            Compression::Lz4 => {
                expand_lz4(body, raw_length as usize).ok_or(BatchError::Expansion(raw_length))?
            }
            Compression::Zstd => zstd_frame::expand(body, raw_length as usize)
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

#[cfg(not(target_arch = "wasm32"))]
mod zstd_frame {
    //! The reference library. Its contexts are large, so each thread keeps its own.

    use std::cell::RefCell;

    use zstd::bulk::{Compressor, Decompressor};
    use zstd::zstd_safe;

    /// The library's own choice between speed and size.
    const LEVEL: i32 = 3;

    thread_local! {
        static COMPRESSOR: RefCell<Option<Compressor<'static>>> = RefCell::new(Compressor::new(LEVEL).ok());
        static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = RefCell::new(Decompressor::new().ok());
    }

    pub(super) fn compress(raw: &[u8]) -> Option<Vec<u8>> {
        COMPRESSOR.with_borrow_mut(|compressor| compressor.as_mut()?.compress(raw).ok())
    }

    /// Tries with a buffer that the input's length makes likely, and with a
    /// larger one only once the smaller was really filled: a wrong `raw_length`
    /// allocates nothing that did not come out.
    pub(super) fn expand(body: &[u8], raw_length: usize) -> Option<Vec<u8>> {
        if raw_length > body.len().saturating_mul(super::ZSTD_RATIO_MAX) {
            return None;
        }
        if zstd_safe::find_frame_compressed_size(body).ok()? != body.len() {
            return None;
        }
        if let Some(promised) = zstd_safe::get_frame_content_size(body).ok()?
            && promised != raw_length as u64
        {
            return None;
        }
        let mut capacity = raw_length.min(body.len().saturating_mul(16).max(4096));
        loop {
            let mut out = Vec::with_capacity(capacity);
            let done = DECOMPRESSOR.with_borrow_mut(|decompressor| {
                decompressor
                    .as_mut()?
                    .decompress_to_buffer(body, &mut out)
                    .ok()
            });
            if done.is_some() {
                return Some(out);
            }
            if capacity == raw_length {
                return None;
            }
            capacity = raw_length.min(capacity.saturating_mul(8));
        }
    }
}

#[cfg(target_arch = "wasm32")]
mod zstd_frame {
    //! Pure Rust, where the C library can't be built.

    use std::io::Read;

    use ruzstd::decoding::StreamingDecoder;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    pub(super) fn compress(raw: &[u8]) -> Option<Vec<u8>> {
        Some(compress_to_vec(raw, CompressionLevel::Fastest))
    }

    pub(super) fn expand(body: &[u8], raw_length: usize) -> Option<Vec<u8>> {
        let ceiling = body.len().saturating_mul(super::ZSTD_RATIO_MAX);
        if raw_length > ceiling {
            return None;
        }
        let mut rest = body;
        let mut out = Vec::new();
        let decoder = StreamingDecoder::new_with_max_window_size(&mut rest, ceiling as u64).ok()?;
        decoder
            .take(raw_length as u64 + 1)
            .read_to_end(&mut out)
            .ok()?;
        (rest.is_empty()).then_some(out)
    }
}
