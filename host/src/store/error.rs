//! Why a data folder could not be opened.

use std::io;

use crate::io::LockError;

/// Why a data folder could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another broker uses it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The folder was written by a newer Eddy.
    #[error("{path} says format {found}; this eddy reads formats up to {known}")]
    Format {
        /// The file that says so.
        path: String,
        /// What it says.
        found: u32,
        /// What this build knows.
        known: u32,
    },
    /// A newer Eddy wrote something that this one must not skip.
    #[error("{path} holds {what}, which this eddy does not know: it was written by a newer one")]
    Newer {
        /// The file.
        path: String,
        /// What this build does not know.
        what: String,
    },
    /// A file without which nothing can be served is damaged or missing.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refused something.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },
}
