//! The file `FORMAT`: that the folder is Eddy's, which version of the layout it
//! has, and the folder's salt. Text, for people:
//!
//! ```text
//! eddy data folder
//! format 2
//! salt 0123456789abcdef
//! check 89abcdef
//! ```
//!
//! `check` is CRC-32C over the lines before it, in hexadecimal. Lines that a
//! reader does not know are skipped. A reader refuses a folder whose format is
//! newer than its own; what it may skip is said by the things themselves (see
//! [`field`](super::field)), so the format rises only when nothing else will do.
//! Format 1 had no such things: a folder of it becomes one of format 2 when it is
//! opened, before anything else in it is changed.

use super::error::OpenError;
use super::{journal, segment};
use crate::io::{Disk, read_all, write_atomically};

/// The file.
pub(crate) const PATH: &str = "FORMAT";
/// The version of the layout that this build writes.
pub(crate) const VERSION: u32 = 2;

/// Reads the folder's salt, or makes the folder one of Eddy's.
pub(crate) fn open_or_create(disk: &dyn Disk) -> Result<u64, OpenError> {
    if let Some((salt, version)) = open(disk)? {
        if version < VERSION {
            write(disk, salt)?;
        }
        return Ok(salt);
    }
    if let Some(stray) = [journal::FOLDER, segment::FOLDER]
        .iter()
        .find(|folder| is_used(disk, folder))
    {
        let reason = format!("it is missing, but there is {}", disk.describe(stray));
        return Err(OpenError::Damaged {
            path: disk.describe(PATH),
            reason,
        });
    }
    let salt = fastrand::u64(1..);
    write(disk, salt)?;
    Ok(salt)
}

fn write(disk: &dyn Disk, salt: u64) -> Result<(), OpenError> {
    let text = encode(salt);
    write_atomically(disk, PATH, text.as_bytes()).map_err(|source| OpenError::Io {
        action: "write",
        path: disk.describe(PATH),
        source,
    })
}

/// Reads the folder's salt and its format; `None` if the folder is not Eddy's yet.
pub(crate) fn open(disk: &dyn Disk) -> Result<Option<(u64, u32)>, OpenError> {
    let path = disk.describe(PATH);
    let bytes = match disk.open_read(PATH).and_then(|file| read_all(&*file)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|source| OpenError::Io {
            action: "read",
            path: path.clone(),
            source,
        })?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    };
    let found: Option<u32> = field("format").and_then(|version| version.parse().ok());
    if let Some(found) = found.filter(|found| *found > VERSION) {
        return Err(OpenError::Format {
            path,
            found,
            known: VERSION,
        });
    }
    let salt = field("salt").and_then(|salt| u64::from_str_radix(salt, 16).ok());
    match salt.zip(found).filter(|_| is_whole(&text)) {
        Some(found) => Ok(Some(found)),
        None => Err(OpenError::Damaged {
            path,
            reason: "it is not what was written".to_owned(),
        }),
    }
}

/// The number that a file's name is, before `suffix`; other ways to write it name no file of ours.
pub(crate) fn numbered(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    let is_ours = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_ours)
}

/// Whether the last line is the checksum of those before it.
fn is_whole(text: &str) -> bool {
    let at = text.rfind("check ").unwrap_or(0);
    let (lines, check) = text.split_at(at);
    check == check_line(lines)
}

fn is_used(disk: &dyn Disk, folder: &str) -> bool {
    disk.list(folder).is_ok_and(|entries| !entries.is_empty())
}

fn encode(salt: u64) -> String {
    let lines = format!("eddy data folder\nformat {VERSION}\nsalt {salt:016x}\n");
    let check = check_line(&lines);
    lines + &check
}

fn check_line(lines: &str) -> String {
    format!("check {:08x}\n", crc32c::crc32c(lines.as_bytes()))
}
