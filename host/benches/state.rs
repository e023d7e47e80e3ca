//! State deltas into memory and journal, with checkpoints beside, and their
//! recovery; next to the naive way: a `HashMap` and the same bytes appended to a
//! file. Run with `cargo bench -p eddy --bench state`.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use eddy::io::{Clock, Disk, RealDisk, SystemClock};
use eddy::log::{Commit, Delta, Log as _, StateChange, StateId, Ticket};
use eddy::store::{Config, Store};

const KEYS: u64 = 1_000_000;
const ROWS: usize = 1_000;
const BATCHES: usize = 4_000;
/// How many commits are on their way at a time.
const IN_FLIGHT: usize = 8;

fn open(folder: &Path) -> Store {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder).expect("the folder can be used"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    Store::open(Config::default(), disk, clock).expect("the folder is whole")
}

/// Keys of one batch: each key once for the first pass, random ones then.
fn keys(batch: usize, random: &mut fastrand::Rng) -> Vec<[u8; 8]> {
    let first = (batch * ROWS) as u64;
    let key = |row: usize| {
        if first < KEYS {
            first + row as u64
        } else {
            random.u64(..KEYS)
        }
    };
    let keys: Vec<u64> = (0..ROWS).map(key).collect();
    // Spread, so that the order of coming is not that of the keys.
    let spread = |key: u64| key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    keys.into_iter()
        .map(|key| spread(key).to_be_bytes())
        .collect()
}

fn delta(keys: &[[u8; 8]], batch: usize) -> Delta {
    let value = (batch as u64).to_le_bytes();
    let changes: Vec<(&[u8], Option<&[u8]>)> = keys
        .iter()
        .map(|key| (&key[..], Some(&value[..])))
        .collect();
    Delta::of(&changes).expect("it is small")
}

fn eddy(folder: &Path) -> (Duration, Duration) {
    let store = open(folder);
    let state = StateId::new("count", 0, "counts").expect("the names are short");
    let mut random = fastrand::Rng::with_seed(1);
    let mut waiting: std::collections::VecDeque<Ticket> = std::collections::VecDeque::new();
    let begin = Instant::now();
    for batch in 0..BATCHES {
        let delta = delta(&keys(batch, &mut random), batch);
        let change = StateChange::Delta {
            state: state.clone(),
            delta,
        };
        waiting.push_back(store.submit(Commit {
            states: vec![change],
            ..Commit::default()
        }));
        if waiting.len() == IN_FLIGHT {
            let ticket = waiting.pop_front().expect("there are some");
            ticket.wait().expect("there is room");
        }
    }
    for ticket in waiting {
        ticket.wait().expect("there is room");
    }
    let took = begin.elapsed();
    drop(store);
    let begin = Instant::now();
    let store = open(folder);
    let recovered = begin.elapsed();
    drop(store);
    (took, recovered)
}

fn naive(folder: &Path) -> Duration {
    let mut random = fastrand::Rng::with_seed(1);
    let mut map: HashMap<[u8; 8], [u8; 8]> = HashMap::new();
    let mut file = File::create(folder.join("naive")).expect("there is room");
    let begin = Instant::now();
    for batch in 0..BATCHES {
        let keys = keys(batch, &mut random);
        let mut bytes = Vec::with_capacity(ROWS * 24);
        for key in keys {
            let value = (batch as u64).to_le_bytes();
            bytes.extend_from_slice(&key);
            bytes.extend_from_slice(&value);
            bytes.extend_from_slice(&[0; 8]);
            map.insert(key, value);
        }
        file.write_all(&bytes).expect("there is room");
    }
    begin.elapsed()
}

fn main() {
    let rounds = 3;
    let per_second = |took: Duration| (BATCHES * ROWS) as f64 / took.as_secs_f64();
    let (mut ours, mut plain, mut recoveries) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let folder = tempfile::tempdir().expect("a folder");
        let (took, recovered) = eddy(folder.path());
        ours.push(per_second(took));
        recoveries.push(recovered.as_secs_f64());
        plain.push(per_second(naive(folder.path())));
    }
    for all in [&mut ours, &mut plain, &mut recoveries] {
        all.sort_by(f64::total_cmp);
    }
    let (ours, plain, recovered) = (ours[rounds / 2], plain[rounds / 2], recoveries[rounds / 2]);
    println!("{BATCHES} batches of {ROWS} rows over {KEYS} keys, 8-byte keys and values");
    println!(
        "state: {:.2} million updates/s (naive {:.2}, ratio {:.2})",
        ours / 1e6,
        plain / 1e6,
        ours / plain
    );
    println!("state: recovery after a kill {recovered:.2} s");
}
