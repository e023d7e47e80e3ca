//! The engine with good plugins: the real ones, and what it keeps of them.

mod plugin_support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use eddy::plugin::{CodeCache, Context, Engine, PluginError, Verdict};
use eddy_protocol::batch::ColumnBuf;
use plugin_support::*;

fn earthquakes() -> String {
    std::fs::read_to_string(root().join("data/earthquakes.ndjson")).unwrap()
}

#[tokio::test]
async fn json_filter_keeps_the_strong_earthquakes() {
    let engine = engine();
    let params = [("where", r#"mag >= 4.5 && type == "earthquake""#)];
    let instance = start(&engine, built("json-filter"), &params).await.unwrap();
    let quakes = earthquakes();
    let (_, verdict) = process(&engine, instance, values(quakes.lines())).await;
    let Ok(Verdict::Keep(rows)) = verdict else {
        panic!("{verdict:?}")
    };
    let is_strong = |line: &str| {
        let quake: serde_json::Value = serde_json::from_str(line).unwrap();
        quake["mag"].as_f64().is_some_and(|mag| mag >= 4.5) && quake["type"] == "earthquake"
    };
    let expected: Vec<u32> = (0..)
        .zip(quakes.lines())
        .filter_map(|(row, line)| is_strong(line).then_some(row))
        .collect();
    assert!(rows.len() > 50);
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn a_second_output_gets_the_rest() {
    let engine = engine();
    let plugin = engine.compile(built("json-filter")).await.unwrap();
    // In another order than one might think: a port is a place in this list.
    let outputs = vec!["rest".into(), "out".into()];
    let context = Context {
        outputs,
        ..context(&[("where", "n > 1")])
    };
    let instance = engine
        .instantiate(&plugin, context, engine.config().limits())
        .await
        .unwrap();
    let records = values([r#"{"n":1}"#, r#"{"n":2}"#, "no", r#"{"n":3}"#]);
    let (_, verdict) = process(&engine, instance, records).await;
    let Ok(Verdict::Emit(outputs)) = verdict else {
        panic!("{verdict:?}")
    };
    let texts = |records: &ColumnBuf| -> Vec<String> {
        records
            .iter()
            .map(|record| String::from_utf8(record.value.unwrap().into()).unwrap())
            .collect()
    };
    let mut found: Vec<_> = outputs
        .iter()
        .map(|output| (output.port, texts(&output.records)))
        .collect();
    found.sort();
    let owned = |values: [&str; 2]| values.map(String::from).to_vec();
    assert_eq!(
        found,
        [
            (0, owned([r#"{"n":1}"#, "no"])),
            (1, owned([r#"{"n":2}"#, r#"{"n":3}"#]))
        ]
    );
}

#[tokio::test]
async fn json_map_makes_new_records_of_keys_values_and_headers() {
    let engine = engine();
    let params = [("select", "id"), ("set.n", "n + 1"), ("key", "id")];
    let instance = start(&engine, built("json-map"), &params).await.unwrap();
    let mut records = ColumnBuf::new();
    let headers: &[(&str, Option<&[u8]>)] = &[("trace", Some(b"1")), ("trace", None)];
    records
        .push(
            10,
            500,
            Some(b"old"),
            Some(br#"{"id":"a","n":1.0}"#),
            headers,
        )
        .unwrap();
    records.push(12, 501, Some(b"gone"), None, &[]).unwrap();
    records
        .push(13, 502, None, Some(br#"{"n":1}"#), &[])
        .unwrap();
    let (_, verdict) = process(&engine, instance, records).await;
    let Ok(Verdict::Emit(outputs)) = verdict else {
        panic!("{verdict:?}")
    };
    let [output] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    let found: Vec<_> = (output.records.iter())
        .map(|record| {
            (
                record.timestamp,
                record.key,
                record.value,
                record.headers.count(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            (500, Some(&b"a"[..]), Some(&br#"{"id":"a","n":2}"#[..]), 2),
            (501, Some(b"gone"), None, 0),
            (502, None, Some(br#"{"n":2}"#), 0),
        ]
    );
}

#[tokio::test]
async fn the_byte_filter_keeps_what_contains_its_bytes() {
    let engine = engine();
    let instance = start(&engine, built("byte-filter"), &[("contains", "t")])
        .await
        .unwrap();
    let (instance, verdict) = process(&engine, instance, three()).await;
    assert!(matches!(verdict, Ok(Verdict::Keep(rows)) if rows == [1, 2]));
    let (_, verdict) = process(&engine, instance, values(["t"])).await;
    assert!(matches!(verdict, Ok(Verdict::All)));
}

#[tokio::test]
async fn a_plugin_refuses_its_parameters_in_its_own_words() {
    let engine = engine();
    let wasm = built("json-filter");
    for (params, words) in [
        (&[][..], "the parameter `where` is missing"),
        (
            &[("where", "mag >")],
            "the parameter `where` is not valid: `mag >`: at character 6: a value is missing",
        ),
        (
            &[("where", "true"), ("were", "x")],
            "there is no parameter `were`; there is `where`",
        ),
    ] {
        let error = start(&engine, wasm.clone(), params).await.unwrap_err();
        assert!(
            matches!(&error, PluginError::Refused(found) if found.starts_with(words)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn deep_expressions_and_deep_values_exhaust_no_stack_in_wasm() {
    let engine = engine();
    let wasm = built("json-filter");
    let nested = format!("{}true{}", "(".repeat(60), ")".repeat(60));
    let instance = start(&engine, wasm.clone(), &[("where", &nested)])
        .await
        .unwrap();
    let deep = format!("{}1{}", "{\"a\":".repeat(200_000), "}".repeat(200_000));
    let (_, verdict) = process(&engine, instance, values([deep])).await;
    assert!(matches!(verdict, Ok(Verdict::All)), "{verdict:?}");
    for text in [
        "(".repeat(30_000),
        "!".repeat(30_000),
        "a in [".repeat(10_000),
    ] {
        let error = start(&engine, wasm.clone(), &[("where", &text)])
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("nested more than 64 deep"),
            "{error}"
        );
    }
}

/// A cache in memory that counts.
#[derive(Default)]
struct Memory {
    entries: Mutex<HashMap<String, Vec<u8>>>,
    stores: AtomicUsize,
}

impl CodeCache for Memory {
    fn load(&self, key: &str) -> Option<Vec<u8>> {
        self.entries.lock().unwrap().get(key).cloned()
    }

    fn store(&self, key: &str, entry: &[u8]) {
        self.stores.fetch_add(1, Ordering::SeqCst);
        self.entries
            .lock()
            .unwrap()
            .insert(key.into(), entry.into());
    }
}

#[tokio::test]
async fn a_plugin_is_compiled_once_for_all_engines_that_share_a_cache() {
    let cache = Arc::new(Memory::default());
    let wasm = Guest::default().component();
    for _ in 0..3 {
        let engine = Engine::new(config(), cache.clone()).unwrap();
        let (first, second) = (
            engine.compile(wasm.clone()).await.unwrap(),
            engine.compile(wasm.clone()).await.unwrap(),
        );
        assert_eq!(first.digest(), second.digest());
        assert_serves(&engine).await;
    }
    assert_eq!(cache.stores.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_damaged_entry_of_the_cache_is_compiled_anew() {
    let cache = Arc::new(Memory::default());
    let wasm = Guest::default().component();
    let compile = async || {
        let engine = Engine::new(config(), cache.clone()).unwrap();
        engine.compile(wasm.clone()).await.unwrap();
        assert_serves(&engine).await;
        cache.stores.load(Ordering::SeqCst)
    };
    assert_eq!(compile().await, 1);
    let damages: [fn(&mut Vec<u8>); 5] = [
        |entry| entry.clear(),
        |entry| entry.truncate(entry.len() / 2),
        |entry| *entry.last_mut().unwrap() ^= 1,
        |entry| entry[40] ^= 0x80,
        |entry| entry.push(0),
    ];
    for (round, damage) in damages.into_iter().enumerate() {
        cache.entries.lock().unwrap().values_mut().for_each(damage);
        assert_eq!(compile().await, round + 2, "damage {round}");
    }
}

#[tokio::test]
async fn instances_share_nothing() {
    // Counts its batches in its memory, and refuses the second.
    let process_body =
        "(i32.store (i32.const 512) (i32.add (i32.load (i32.const 512)) (i32.const 1)))
        (if (i32.gt_u (i32.load (i32.const 512)) (i32.const 1)) (then unreachable))
        i32.const 64";
    let wasm = Guest {
        process: process_body,
        ..Guest::default()
    }
    .component();
    let engine = engine();
    for _ in 0..20 {
        let instance = start(&engine, wasm.clone(), &[]).await.unwrap();
        let (instance, verdict) = process(&engine, instance, three()).await;
        assert!(
            matches!(verdict, Ok(Verdict::All)),
            "a place in the pool kept the memory of the one before"
        );
        let (_, second) = process(&engine, instance, three()).await;
        assert!(matches!(second, Err(PluginError::Trapped(_))));
    }
}

#[tokio::test]
async fn an_engine_may_be_dropped_anywhere() {
    let engine = engine();
    let instance = start(&engine, Guest::default().component(), &[])
        .await
        .unwrap();
    let inside = engine.spawn({
        let engine = engine.clone();
        async move { drop((engine, instance)) }
    });
    drop(engine);
    // Whoever drops it last, on whichever thread: nobody panics, and the task ends or is told that it was ended.
    if let Err(error) = inside.await {
        assert!(error.is_cancelled(), "{error}");
    }
}
