//! The store under every order of events that a seed can give: producers with
//! batches in flight, lost answers, deployments, checkpoints, retention, full
//! disks, unwritable partitions, crashes of the process and of the machine at any operation, and
//! crashes during recovery.
//!
//! `EDDY_SEED` runs one history, `EDDY_SIMULATION_SECONDS` says how long to go
//! on with more of them, `EDDY_SIMULATION_FIRST` from which seed.

mod check;
mod client;
mod deployment;
mod model;
mod world;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use self::world::{Plan, World};

const SECONDS: u64 = 12;

/// A number from the environment.
fn asked(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn histories(name: &str, plan: impl Fn(u64) -> Plan) {
    lived(name, |seed| {
        World::new(seed, plan(seed)).run();
    });
}

/// Runs histories until the time is up; a failure names its seed.
pub(crate) fn lived(name: &str, history: impl Fn(u64)) {
    if let Some(seed) = asked("EDDY_SEED") {
        return history(seed);
    }
    let limit = Duration::from_secs(asked("EDDY_SIMULATION_SECONDS").unwrap_or(SECONDS));
    let begin = Instant::now();
    let first = asked("EDDY_SIMULATION_FIRST").unwrap_or(0);
    let mut next = first;
    while begin.elapsed() < limit {
        let caught = std::panic::catch_unwind(AssertUnwindSafe(|| history(next)));
        if let Err(panic) = caught {
            eprintln!("{name}: history with EDDY_SEED={next} failed");
            std::panic::resume_unwind(panic);
        }
        next += 1;
    }
    let (count, elapsed) = (next - first, begin.elapsed());
    println!(
        "{name}: {count} histories in {elapsed:?}, seeds {first} to {}",
        next.saturating_sub(1)
    );
    assert!(count > 0, "not a single history fits into {limit:?}");
}

#[test]
fn no_acknowledged_record_is_missing_or_doubled_over_crashes_at_any_operation() {
    histories("crashes", |_| Plan {
        steps: 160,
        crash_percent: 3,
        ..Plan::default()
    });
}

#[test]
fn no_acknowledged_record_is_missing_or_doubled_over_a_crash_at_every_sync() {
    histories("syncs", |seed| Plan {
        steps: 120,
        crash_at_sync: Some(1 + seed % 60),
        ..Plan::default()
    });
}

#[test]
fn a_full_disk_refuses_and_recovers_by_itself() {
    histories("full disk", |seed| Plan {
        steps: 160,
        full_percent: 4,
        crash_percent: u8::from(seed.is_multiple_of(2)),
        ..Plan::default()
    });
}

#[test]
fn an_unwritable_partition_loses_nothing_and_holds_up_no_checkpoint() {
    histories("unwritable", |seed| Plan {
        steps: 200,
        unwritable_percent: 6,
        crash_percent: u8::from(!seed.is_multiple_of(3)) * 2,
        ..Plan::default()
    });
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 0..10 {
        let plan = Plan {
            steps: 120,
            crash_percent: 3,
            full_percent: 2,
            ..Plan::default()
        };
        let first = World::new(seed, plan.clone()).run();
        let second = World::new(seed, plan).run();
        assert_eq!(first, second, "seed {seed}");
    }
}
