//! Blobs: named bytes that are written once and read whole, such as plugins and
//! their compiled code. Whole or not there, and never with a changed byte:
//!
//! ```text
//! content | length u64 | crc u32 (CRC-32C of content) | "EBLB"
//! ```

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::io::{Disk, read_all, write_atomically};

const FOLDER: &str = "blobs";
const MAGIC: [u8; 4] = *b"EBLB";
const FOOTER_BYTES: usize = 16;

/// The blobs of a data folder. All calls may wait for the disk.
#[derive(Debug, Clone)]
pub struct Blobs {
    disk: Arc<dyn Disk>,
}

impl Blobs {
    /// The blobs in a folder of `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Blobs {
        Blobs { disk }
    }

    /// Writes a blob, durably; one of the same name is replaced.
    pub fn write(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let path = path(name)?;
        let mut bytes = content.to_vec();
        bytes.extend_from_slice(&(content.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(content).to_le_bytes());
        bytes.extend_from_slice(&MAGIC);
        self.disk.create_dir(FOLDER)?;
        self.disk.sync_dir("")?;
        let written = write_atomically(&*self.disk, &path, &bytes);
        if written.is_err() {
            // What was begun must not take the room that is missing.
            drop(self.disk.remove(&format!("{path}.new")));
        }
        written
    }

    /// Reads a blob; `None` if there is none. Damage is an error of kind
    /// [`InvalidData`](io::ErrorKind::InvalidData).
    pub fn read(&self, name: &str) -> io::Result<Option<Bytes>> {
        let path = path(name)?;
        let bytes = match self.disk.open_read(&path).and_then(|file| read_all(&*file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => Bytes::from(other?),
        };
        match content(&bytes) {
            Some(content) => Ok(Some(content)),
            None => {
                let reason = format!("{} is damaged", self.disk.describe(&path));
                Err(io::Error::new(io::ErrorKind::InvalidData, reason))
            }
        }
    }

    /// The names of all blobs, sorted.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let entries = self.disk.list(FOLDER)?;
        Ok(entries
            .into_iter()
            .map(|entry| entry.name)
            .filter(|name| !name.ends_with(".new"))
            .collect())
    }

    /// Removes a blob; says whether there was one.
    pub fn delete(&self, name: &str) -> io::Result<bool> {
        match self.disk.remove(&path(name)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other
                .and_then(|()| self.disk.sync_dir(FOLDER))
                .map(|()| true),
        }
    }
}

fn content(bytes: &Bytes) -> Option<Bytes> {
    let end = bytes.len().checked_sub(FOOTER_BYTES)?;
    let footer = &bytes[end..];
    let is_whole = footer[..8] == (end as u64).to_le_bytes()
        && footer[8..12] == crc32c::crc32c(&bytes[..end]).to_le_bytes()
        && footer[12..] == MAGIC;
    is_whole.then(|| bytes.slice(..end))
}

fn path(name: &str) -> io::Result<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty()
        || name.len() > 200
        || name.starts_with('.')
        || !name.bytes().all(is_plain)
        || name.ends_with(".new")
    {
        let reason = format!("`{name}` cannot be the name of a blob");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    Ok(format!("{FOLDER}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{CrashKind, FaultyDisk};

    #[test]
    fn blobs_are_whole_or_an_error() {
        let disk = FaultyDisk::new(1);
        let blobs = Blobs::new(Arc::new(disk.clone()));
        assert_eq!(blobs.read("a").expect("the disk works"), None);
        blobs.write("a", b"first").expect("there is room");
        blobs.write("a", b"second").expect("there is room");
        disk.crash(CrashKind::Machine);
        assert_eq!(
            blobs.read("a").expect("it is whole"),
            Some(Bytes::from("second"))
        );
        assert_eq!(blobs.list().expect("the disk works"), ["a"]);
        for name in ["", "../a", ".a", "a/b", "a.new"] {
            blobs.write(name, b"x").expect_err("the name is bad");
        }
        disk.corrupt("blobs/a", 2, b"X");
        blobs.read("a").expect_err("it is damaged");
        assert!(blobs.delete("a").expect("the disk works"));
        assert!(!blobs.delete("a").expect("the disk works"));
    }
}
