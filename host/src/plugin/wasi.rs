//! What a standard library finds when it looks for a system: an answer to everything, and nothing behind
//! it. No files, no network, no environment, a clock that stands still, and random numbers that are the
//! same in every run, so that the same input gives the same output.

use std::sync::Arc;
use std::time::Duration;

use wasmtime_wasi::random::Deterministic;
use wasmtime_wasi::{HostMonotonicClock, HostWallClock, WasiCtx, WasiCtxBuilder};

use super::log::{InstanceLog, StdKind, StdStream};

/// The most that one call for random bytes gives.
const RANDOM_BYTES_MAX: u64 = 64 * 1024;

/// Where the random numbers start, in every instance of every plugin.
const SEED: [u8; 61] = *b"the same input gives the same output, whoever asks and when..";

/// A context in which nothing is allowed. What is written to standard output and error goes to `log`.
pub(super) fn locked(log: &Arc<InstanceLog>) -> WasiCtx {
    let random = || Deterministic::new(SEED.to_vec());
    WasiCtxBuilder::new()
        .stdout(StdStream(StdKind::Out, Arc::clone(log)))
        .stderr(StdStream(StdKind::Err, Arc::clone(log)))
        .wall_clock(StandingStill)
        .monotonic_clock(StandingStill)
        .secure_random(random())
        .insecure_random(random())
        .insecure_random_seed(0)
        .max_random_size(RANDOM_BYTES_MAX)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

/// A clock that shows the same moment for ever.
struct StandingStill;

impl HostWallClock for StandingStill {
    fn resolution(&self) -> Duration {
        Duration::from_millis(1)
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

impl HostMonotonicClock for StandingStill {
    fn resolution(&self) -> u64 {
        1_000_000
    }

    fn now(&self) -> u64 {
        0
    }
}
