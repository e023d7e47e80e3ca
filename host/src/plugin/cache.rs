//! Compiled code, kept from one start to the next.
//!
//! An entry is a SHA-256 followed by the code that it is of. Code is machine code: wasmtime runs what it
//! is given, so an entry that is damaged in any way counts as absent and is compiled anew.

use sha2::{Digest as _, Sha256};

/// Where compiled code is kept. Called from the engine's threads; may block.
///
/// What is kept here is run as machine code, so it belongs where only the broker can write.
pub trait CodeCache: Send + Sync {
    /// What was stored under this key, or nothing.
    fn load(&self, key: &str) -> Option<Vec<u8>>;
    /// Stores an entry. May fail silently: it is compiled again then.
    fn store(&self, key: &str, entry: &[u8]);
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy)]
pub struct NoCache;

impl CodeCache for NoCache {
    fn load(&self, _key: &str) -> Option<Vec<u8>> {
        None
    }

    fn store(&self, _key: &str, _entry: &[u8]) {}
}

const CHECKSUM_BYTES: usize = 32;

/// The entry for this code.
pub(super) fn seal(code: &[u8]) -> Vec<u8> {
    let mut entry = Vec::with_capacity(CHECKSUM_BYTES + code.len());
    entry.extend_from_slice(&Sha256::digest(code));
    entry.extend_from_slice(code);
    entry
}

/// The code in this entry, if every byte of it is as it was stored.
pub(super) fn open(entry: &[u8]) -> Option<&[u8]> {
    let (checksum, code) = entry.split_at_checked(CHECKSUM_BYTES)?;
    (checksum == Sha256::digest(code).as_slice()).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_gives_back_its_code() {
        assert_eq!(open(&seal(b"code")), Some(&b"code"[..]));
        assert_eq!(open(&seal(b"")), Some(&b""[..]));
    }

    #[test]
    fn an_entry_with_any_byte_changed_or_missing_counts_as_absent() {
        let entry = seal(b"some code");
        for at in 0..entry.len() {
            let mut damaged = entry.clone();
            damaged[at] ^= 0x40;
            assert_eq!(open(&damaged), None, "byte {at}");
            assert_eq!(open(&entry[..at]), None, "cut at {at}");
        }
    }
}
