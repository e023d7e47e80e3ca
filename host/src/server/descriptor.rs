//! The limit on open files: systems start processes with a low one and a high
//! ceiling, and every connection and segment is a file.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{debug, info, warn};

use crate::config::Config;

/// Descriptors that are neither a connection's nor the store's: the standard
/// streams, the listener, the runtime, a plugin that is read.
const OTHERS: usize = 16;

/// Refused peers that may still read their answer.
const REFUSED_MAX: usize = 64;

/// What is the connections' part of the descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shares {
    /// Connections that are served.
    pub(super) connections: usize,
    /// Connections too many that are still told so.
    pub(super) refused: usize,
    /// Which limit it is that connections meet.
    pub(super) limit: String,
}

/// Bounds what takes descriptors by what the system gives: a quarter of them is
/// the store's, and connections get what is left.
pub(super) fn share(config: Config) -> (Config, Shares) {
    raise_limit();
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    share_of(limit.unwrap_or(usize::MAX), config)
}

fn share_of(limit: usize, mut config: Config) -> (Config, Shares) {
    config.store = config.store.with_descriptors(limit);
    let store = config.store.descriptors_max();
    let shared = limit.saturating_sub(store + OTHERS);
    let refused = REFUSED_MAX.min(shared / 8);
    let (asked, left) = (config.server.connections_max, (shared - refused).max(1));
    let connections = asked.min(left);
    let mut met = "server.connections_max".to_owned();
    if left < asked {
        warn!(
            limit,
            store,
            connections,
            "the limit on open files leaves {left} connections, not the {asked} of server.connections_max"
        );
        met = format!("of the {limit} open files that the system gives; {met} is {asked}");
    } else {
        info!(limit, store, connections, "open files are shared");
    }
    let shares = Shares {
        connections,
        refused,
        limit: met,
    };
    (config, shares)
}

/// Raises the limit to its ceiling.
fn raise_limit() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_and_the_connections_stay_within_the_limit() {
        for limit in [0, 16, 64, 128, 1024, 1 << 20] {
            let (config, shares) = share_of(limit, Config::default());
            let store = config.store.descriptors_max();
            let all = store + OTHERS + shares.connections + shares.refused;
            assert!(all <= limit.max(store + OTHERS + 1), "{limit}: {all}");
            assert!(config.store.open_files_max >= 4 && shares.connections > 0);
            assert_eq!(shares.limit.contains("open files"), limit < 1 << 20);
        }
        let (_, shares) = share_of(usize::MAX, Config::default());
        assert_eq!(shares.connections, 10_000);
        assert_eq!(share_of(128, Config::default()).1.connections, 42);
    }
}
