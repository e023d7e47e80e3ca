//! What a record costs as columns and as Kafka has it: nanoseconds a record,
//! and MB of keys and values a second, one thread, everything in memory.
//!
//! `cargo bench -p eddy-protocol --bench batch`
//!
//! Each case is measured in short rounds, in turn with the others, and its best
//! round counts, because what disturbs only slows down.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eddy_protocol::batch::{Batch, BatchBuilder, Compression};

const BATCH_RECORDS: usize = 1_000;
const ROUND: Duration = Duration::from_millis(2);
const ROUNDS: usize = 100;

/// What is measured, and one call of it.
type Case = (&'static str, Box<dyn FnMut() -> usize>);

fn main() {
    for value_bytes in [100, 1_000] {
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            println!("values of {value_bytes} bytes, compression {compression:?}");
            measure(value_bytes, compression);
        }
    }
}

/// Values of random words, which compress to about a half; keys of 8 bytes.
fn records(value_bytes: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    const WORDS: [&str; 8] = [
        "alaska",
        "quake",
        "4.5",
        "depth",
        "\"mag\":",
        "2026-11-28",
        "kilometres",
        "felt",
    ];
    let mut random = 1u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let record = |_| {
        let mut value = Vec::with_capacity(value_bytes + 16);
        while value.len() < value_bytes {
            value.extend_from_slice(WORDS[(next() % 8) as usize].as_bytes());
            value.extend_from_slice(format!("{:04x}", next() as u16).as_bytes());
        }
        value.truncate(value_bytes);
        (next().to_be_bytes().to_vec(), value)
    };
    (0..BATCH_RECORDS).map(record).collect()
}

fn encode(
    records: &[(Vec<u8>, Vec<u8>)],
    builder: &mut BatchBuilder,
    compression: Compression,
) -> Batch {
    for (row, (key, value)) in records.iter().enumerate() {
        let time = 1_700_000_000_000 + row as i64;
        builder
            .push(time, Some(key), Some(value), &[])
            .expect("it fits");
    }
    builder.finish(compression, None).expect("it has records")
}

/// Whole anew at every call: nobody has its columns yet.
fn fresh(bytes: &Bytes) -> Batch {
    Batch::parse_trusted(bytes.clone()).expect("it is whole")
}

/// A read of what a plugin or a subscriber looks at: every value.
fn look_through(batch: &Batch) -> usize {
    let records = batch.records().expect("it is whole");
    records
        .iter()
        .filter_map(|record| record.value)
        .map(<[u8]>::len)
        .sum()
}

fn measure(value_bytes: usize, compression: Compression) {
    let records = records(value_bytes);
    let mut builder = BatchBuilder::new();
    let native = encode(&records, &mut builder, compression);
    let kafka = native
        .to_kafka(-1, compression)
        .expect("Kafka has such")
        .to_vec();
    let body = Batch::from_kafka(&kafka).expect("it keeps every rule");
    let (native, body) = (native.bytes().clone(), body.bytes().clone());
    let columns = fresh(&body).as_columns().expect("columns").bytes().clone();
    println!(
        "  bytes a record: columns {}, Kafka {}",
        native.len() / BATCH_RECORDS,
        kafka.len() / BATCH_RECORDS
    );

    let mut cases: Vec<Case> = vec![
        ("columns: a producer writes them", {
            let records = records.clone();
            Box::new(move || encode(&records, &mut builder, compression).len())
        }),
        ("columns: checked at the door", {
            let native = native.clone();
            Box::new(move || Batch::parse(native.clone()).expect("whole").len())
        }),
        ("columns: read", {
            Box::new(move || look_through(&fresh(&native)))
        }),
        ("Kafka, verbatim: checked at the door and wrapped", {
            let kafka = kafka.clone();
            Box::new(move || Batch::from_kafka(&kafka).expect("whole").len())
        }),
        ("Kafka, verbatim: to a client of Kafka's", {
            let body = body.clone();
            Box::new(move || {
                let sent = fresh(&body)
                    .to_kafka(-1, Compression::None)
                    .expect("Kafka's");
                sent.body.len()
            })
        }),
        ("Kafka, verbatim: to columns, once for all readers", {
            Box::new(move || fresh(&body).as_columns().expect("columns").len())
        }),
        ("Kafka, re-encoded: checked at the door and made columns", {
            Box::new(move || {
                let batch = Batch::from_kafka(&kafka).expect("whole");
                batch.as_columns().expect("columns").len()
            })
        }),
        ("Kafka, re-encoded: columns to a client of Kafka's", {
            Box::new(move || {
                let sent = fresh(&columns)
                    .to_kafka(-1, compression)
                    .expect("Kafka has such");
                sent.body.len()
            })
        }),
    ];
    let best = best_of(&mut cases);
    for ((name, _), each) in cases.iter().zip(best) {
        let nanos = each.as_secs_f64() * 1e9 / BATCH_RECORDS as f64;
        let mb = (value_bytes + 8) as f64 * 1e3 / nanos;
        println!("  {nanos:8.1} ns a record {mb:9.0} MB/s  {name}");
    }
}

/// The best time of one call of each.
fn best_of(cases: &mut [Case]) -> Vec<Duration> {
    let mut best = vec![Duration::MAX; cases.len()];
    for _ in 0..ROUNDS {
        for ((_, work), best) in cases.iter_mut().zip(&mut best) {
            let (begin, mut calls) = (Instant::now(), 0);
            while calls == 0 || begin.elapsed() < ROUND {
                black_box(work());
                calls += 1;
            }
            *best = (*best).min(begin.elapsed() / calls);
        }
    }
    best
}
