//! Waiting for a condition, never for a time.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that should take milliseconds. Generous, because
/// the machine may be busy with other tests; never reached in a good run.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How often a condition is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Looks until `condition` gives something, and panics with `what` after
/// `limit`.
#[track_caller]
pub fn wait_until<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain: {what}");
        thread::sleep(LOOK_INTERVAL);
    }
}

/// The same for a condition that is asynchronous. Each look must end by itself.
pub async fn eventually<T>(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(begun.elapsed() < limit, "waited {limit:?} in vain: {what}");
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let found = wait_until(LIMIT, "three looks", || {
            looks += 1;
            (looks == 3).then_some("there")
        });
        assert_eq!((found, looks), ("there", 3));
    }

    #[test]
    #[should_panic(expected = "in vain: the moon")]
    fn a_condition_that_never_comes_true_names_itself() {
        wait_until(Duration::from_millis(20), "the moon", || None::<()>);
    }
}
