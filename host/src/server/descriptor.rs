//! The limit on open files: systems start processes with a low one and a high
//! ceiling, and every connection and segment is a file.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Raises the limit to its ceiling.
pub(super) fn raise_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let before = limit.current;
    limit.current = limit.maximum;
    match setrlimit(Resource::Nofile, limit) {
        Ok(()) => debug!(?before, now = ?limit.maximum, "raised the limit on open files"),
        Err(error) => {
            warn!(?before, ceiling = ?limit.maximum, "cannot raise the limit on open files: {error}");
        }
    }
}
