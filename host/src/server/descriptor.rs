//! The limit on open files: systems start processes with a low one and a high
//! ceiling, and every connection and segment is a file.

use rustix::process::{Resource, getrlimit, setrlimit};
use tracing::{debug, info, warn};

use crate::config::Config;

/// Descriptors that are neither a connection's nor the store's: the standard
/// streams, the listener, the runtime, a plugin that is read.
const OTHERS: usize = 16;

/// Bounds what takes descriptors by what the system gives: a quarter of them is
/// the store's, and connections get what is left.
pub(super) fn share(config: Config) -> Config {
    raise_limit();
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    share_of(limit.unwrap_or(usize::MAX), config)
}

fn share_of(limit: usize, mut config: Config) -> Config {
    config.store = config.store.with_descriptors(limit);
    let store = config.store.descriptors_max();
    let left = limit.saturating_sub(store + OTHERS).max(1);
    let asked = config.server.connections_max;
    config.server.connections_max = asked.min(left);
    if left < asked {
        warn!(
            limit,
            store,
            connections = left,
            "the limit on open files leaves {left} connections, not the {asked} of server.connections_max"
        );
    } else {
        info!(limit, store, connections = asked, "open files are shared");
    }
    config
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
        for limit in [64, 128, 1024, 1 << 20] {
            let config = share_of(limit, Config::default());
            let store = config.store.descriptors_max();
            let all = store + OTHERS + config.server.connections_max;
            assert!(all <= limit.max(store + OTHERS + 1), "{limit}: {all}");
            assert!(config.store.open_files_max >= 4);
        }
        let config = share_of(1 << 20, Config::default());
        assert_eq!(config.server.connections_max, 10_000);
        assert_eq!(share_of(128, Config::default()).server.connections_max, 48);
    }
}
