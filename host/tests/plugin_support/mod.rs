//! What the tests of the engine share: plugins in text or built from `plugins/`, an engine, and the
//! records that plugins are given.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eddy::plugin::{Config, Context, Engine, Instance, NoCache, PluginError, Verdict};
use eddy_protocol::batch::ColumnBuf;

mod guest;

#[allow(unused_imports)] // As above.
pub use guest::{Guest, component, contract, root};

/// One of `plugins/`, built once and for all tests into the usual target folder.
pub fn built(name: &str) -> Bytes {
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--package",
            name,
            "--target",
            "wasm32-wasip2",
            "--profile",
            "wasm",
        ])
        .current_dir(root())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "{name} does not build");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let path = target
        .join("wasm32-wasip2/wasm")
        .join(format!("{}.wasm", name.replace('-', "_")));
    std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .into()
}

/// An engine of two threads with room for a few instances.
pub fn engine() -> Engine {
    engine_with(config())
}

pub fn engine_with(config: Config) -> Engine {
    Engine::new(config, Arc::new(NoCache)).expect("the engine starts")
}

pub fn config() -> Config {
    Config {
        threads: 2,
        instances_max: 16,
        batch_time_max: Duration::from_millis(300),
        init_time_max: Duration::from_millis(300),
        ..Config::default()
    }
}

/// A context with the output `out` and these parameters.
pub fn context(params: &[(&str, &str)]) -> Context {
    Context {
        deployment: "test".into(),
        version: 1,
        topic: "input".into(),
        partition: 3,
        params: params
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        outputs: vec!["out".into()],
    }
}

pub async fn start(
    engine: &Engine,
    wasm: Bytes,
    params: &[(&str, &str)],
) -> Result<Instance, PluginError> {
    let plugin = engine.compile(wasm).await?;
    engine
        .instantiate(&plugin, context(params), engine.config().limits())
        .await
}

/// Gives an instance a batch where it may: on the engine's threads.
pub async fn process(
    engine: &Engine,
    mut instance: Instance,
    records: ColumnBuf,
) -> (Instance, Result<Verdict, PluginError>) {
    let work = engine.spawn(async move {
        let outcome = instance.process(&records).await;
        (instance, outcome)
    });
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, work)
        .await
        .expect("a verdict within a minute")
        .expect("no panic")
}

/// A record per value.
pub fn values<V: AsRef<[u8]>>(values: impl IntoIterator<Item = V>) -> ColumnBuf {
    let mut records = ColumnBuf::new();
    for (offset, value) in (0..).zip(values) {
        records
            .push(
                offset,
                1_000 + offset as i64,
                None,
                Some(value.as_ref()),
                &[],
            )
            .expect("offsets rise");
    }
    records
}

pub fn three() -> ColumnBuf {
    values(["one", "two", "three"])
}

/// What every test ends with: an engine that has seen the worst still serves a good plugin.
pub async fn assert_serves(engine: &Engine) {
    let good = start(engine, Guest::default().component(), &[])
        .await
        .expect("a good plugin starts");
    let (_, verdict) = process(engine, good, three()).await;
    assert!(matches!(verdict, Ok(Verdict::All)), "{verdict:?}");
}
