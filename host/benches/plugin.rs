//! What a record costs in a plugin: nanoseconds per record of one filter, in WebAssembly and native, in the
//! same run. Prints for each case its name, a line `wasm NUMBER …` and a line `native NUMBER …`.
//!
//! `cargo bench --bench plugin [NAME]…`

#[path = "../tests/plugin_support/mod.rs"]
mod plugin_support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use eddy::plugin::{Config, Engine, Instance, Verdict};
use eddy_protocol::batch::ColumnBuf;
use plugin_support::{built, context, engine_with, root, values};

const BATCH_RECORDS: usize = 1_000;
const VALUE_BYTES: usize = 100;
/// How long each side is measured in one round; the best round counts, for what disturbs only slows down.
const ROUND: Duration = Duration::from_millis(200);
const ROUNDS: usize = 7;

struct Case<F> {
    name: &'static str,
    plugin: &'static str,
    params: &'static [(&'static str, &'static str)],
    records: ColumnBuf,
    /// A type of its own for each case, so that the compiler may inline it.
    native: F,
}

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let engine = engine_with(Config {
        threads: 1,
        ..Config::default()
    });
    let quakes = std::fs::read_to_string(root().join("data/earthquakes.ndjson"))
        .expect("the recorded earthquakes");
    let quakes = || values(quakes.lines().take(BATCH_RECORDS));
    let bench = Bench {
        wanted,
        runtime,
        engine,
    };
    bench.measure(Case {
        name: "plugin_byte_filter",
        plugin: "byte-filter",
        params: &[("starts_with", "a")],
        records: values(
            (0..BATCH_RECORDS).map(|row| vec![b'a' + (row * 7 % 26) as u8; VALUE_BYTES]),
        ),
        native: |value: &[u8]| value.starts_with(black_box(b"a")),
    });
    bench.measure(Case {
        name: "plugin_byte_search",
        plugin: "byte-filter",
        params: &[("contains", "Alaska")],
        records: quakes(),
        native: |value: &[u8]| value.windows(6).any(|window| window == b"Alaska"),
    });
    bench.measure(Case {
        name: "plugin_json_filter",
        plugin: "json-filter",
        params: &[("where", "mag >= 4.5 && type == 'earthquake'")],
        records: quakes(),
        native: |value: &[u8]| {
            let quake: serde_json::Value = serde_json::from_slice(value).expect("JSON");
            quake["mag"].as_f64().is_some_and(|mag| mag >= 4.5) && quake["type"] == "earthquake"
        },
    });
}

struct Bench {
    wanted: Vec<String>,
    runtime: tokio::runtime::Runtime,
    engine: Engine,
}

impl Bench {
    /// Measures a case, unless names were given and its is not among them.
    fn measure<F: Fn(&[u8]) -> bool + Send + Sync + 'static>(&self, case: Case<F>) {
        let is_wanted = |name: &String| case.name.contains(name.as_str());
        if self.wanted.is_empty() || self.wanted.iter().any(is_wanted) {
            self.runtime.block_on(measure(&self.engine, case));
        }
    }
}

async fn measure<F: Fn(&[u8]) -> bool + Send + Sync + 'static>(engine: &Engine, case: Case<F>) {
    let plugin = engine
        .compile(built(case.plugin))
        .await
        .expect("the plugin compiles");
    let instance = engine
        .instantiate(&plugin, context(case.params), engine.config().limits())
        .await;
    let instance = instance.expect("the plugin starts");
    let work = engine.spawn(async move { compare(&case, instance).await });
    let (name, wasm, native) = work.await.expect("no panic");
    println!("{name}\nwasm {wasm:.2} ns/record\nnative {native:.2} ns/record");
}

async fn compare<F: Fn(&[u8]) -> bool>(
    case: &Case<F>,
    mut instance: Instance,
) -> (&'static str, f64, f64) {
    let (mut wasm, mut native) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        wasm = wasm.min(in_wasm(case, &mut instance).await);
        native = native.min(natively(case));
    }
    (case.name, wasm, native)
}

async fn in_wasm<F>(case: &Case<F>, instance: &mut Instance) -> f64 {
    let (began, mut batches) = (Instant::now(), 0);
    while began.elapsed() < ROUND {
        let verdict = instance.process(&case.records).await.expect("a verdict");
        assert!(matches!(verdict, Verdict::Keep(rows) if !rows.is_empty()));
        batches += 1;
    }
    per_record(began, batches)
}

fn natively<F: Fn(&[u8]) -> bool>(case: &Case<F>) -> f64 {
    let (began, mut batches) = (Instant::now(), 0);
    while began.elapsed() < ROUND {
        let mut rows = Vec::with_capacity(case.records.len());
        for (row, record) in (0_u32..).zip(black_box(&case.records).iter()) {
            if record.value.is_some_and(&case.native) {
                rows.push(row);
            }
        }
        assert!(!black_box(rows).is_empty());
        batches += 1;
    }
    per_record(began, batches)
}

fn per_record(began: Instant, batches: usize) -> f64 {
    began.elapsed().as_nanos() as f64 / (batches * BATCH_RECORDS) as f64
}
