//! Plugins that mean harm, uploaded to the real broker: each is refused or
//! stopped with a reason that people can read, and nobody else notices.

#[path = "../../host/tests/plugin_support/guest.rs"]
mod guest;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eddy_client::{
    Client, Event, NewRecord, Producer, ProducerConfig, SubscribeOptions, Subscription,
};
use eddy_protocol::frame::{Answer, Filter, Request, Subscribe};
use eddy_protocol::{ErrorCode, Form, ServerFrame};
use eddy_tests::log::topic;
use eddy_tests::wait::LIMIT;
use eddy_tests::{Broker, Wire, http};
use guest::{Guest, component};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

/// What the broker of these tests gives a plugin for a batch.
const BATCH_TIME: &str = "plugin.batch_time_max=1500ms";
/// From produce to delivery, for ninety-nine of a hundred records, on a machine
/// that does much else; without a neighbour's harm it is some milliseconds.
const LATENCY_P99_MAX: Duration = Duration::from_secs(1);
/// Fewer measurements say nothing about the slowest hundredth.
const MEASUREMENTS_MIN: usize = 100;
/// How long the last of the hostile deployments may take to be stopped.
const STOP_LIMIT: Duration = Duration::from_secs(60);

const LOOP: &str = "(loop $again (br $again)) unreachable";
const GROW: &str =
    "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
const RECURSION: &str = "(func $deeper (param i32) (result i32)
    (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (local.get 0)))";
/// The verdict `emit` with 700 outputs, whose keys and values each list most of
/// the memory: 84 MB twice over out of two pages.
const OUTPUTS: &str = "(local $at i32) (local $left i32)
    (local.set $at (i32.const 4096)) (local.set $left (i32.const 700))
    (loop $next
        (i32.store offset=4 (local.get $at) (i32.const 1))
        (i32.store offset=24 (local.get $at) (i32.const 0))
        (i32.store offset=28 (local.get $at) (i32.const 120000))
        (i32.store offset=48 (local.get $at) (i32.const 0))
        (i32.store offset=52 (local.get $at) (i32.const 120000))
        (local.set $at (i32.add (local.get $at) (i32.const 80)))
        (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.store8 (i32.const 132) (i32.const 2))
    (i32.store (i32.const 136) (i32.const 4096))
    (i32.store (i32.const 140) (i32.const 700))
    i32.const 128";

/// What is wrong with a plugin, and a word of the reason that must be told.
fn hostile() -> Vec<(&'static str, Bytes, &'static str)> {
    let process = |process| Guest {
        process,
        ..Guest::default()
    };
    let recursing = Guest {
        fields: RECURSION,
        ..process("(call $deeper (i32.const 0))")
    };
    vec![
        ("looper", process(LOOP).component(), "1.5s"),
        ("recurser", recursing.component(), "stack overflow"),
        ("grower", process(GROW).component(), "67108864"),
        ("flooder", process(OUTPUTS).component(), "limit"),
        ("trapper", process("unreachable").component(), "unreachable"),
    ]
}

struct Uploads {
    broker: Broker,
    folder: TempDir,
}

impl Uploads {
    fn new() -> Uploads {
        Uploads {
            broker: Broker::start_with(&["--set", BATCH_TIME]),
            folder: tempfile::tempdir().expect("a temporary folder can be made"),
        }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(format!("{name}.wasm"));
        std::fs::write(&path, bytes).expect("the file can be written");
        path
    }

    fn push(&self, name: &str, bytes: &[u8]) {
        let path = self.file(name, bytes);
        self.broker
            .eddy(&["plugin", "push", &path.to_string_lossy()])
            .ok();
    }
}

#[test]
fn what_is_not_a_plugin_is_refused_over_http_and_by_the_command_line_with_the_reason() {
    let uploads = Uploads::new();
    let mut other_world = wit_parser::Resolve::default();
    other_world
        .push_str(
            "test.wit",
            "package test:test; world other { export run: func(); }",
        )
        .expect("valid WIT");
    let other_world = component(r#"(module (func (export "run")))"#, &other_world, "other");
    let core_module = wat::parse_str("(module)").expect("valid text");
    for (what, bytes, code, reason) in [
        ("nothing", &b""[..], "invalid_plugin", "empty"),
        (
            "a-script",
            b"#!/bin/sh\nrm -rf /",
            "invalid_plugin",
            "not WebAssembly",
        ),
        (
            "core-module",
            &core_module,
            "invalid_plugin",
            "wasm32-wasip2",
        ),
        (
            "other-world",
            &other_world,
            "invalid_plugin",
            "eddy:plugin/processor",
        ),
        (
            "cut-short",
            &Guest::default().component()[..1000],
            "invalid_plugin",
            "not a plugin",
        ),
        (
            "junk",
            &junk(100 << 20),
            "plugin_too_large",
            "16777216 bytes (setting `plugin.plugin_bytes_max`)",
        ),
    ] {
        let path = uploads.file(what, bytes);
        let pushed = uploads
            .broker
            .eddy(&["--json", "plugin", "push", &path.to_string_lossy()]);
        assert_eq!(pushed.code, Some(1), "{what}: {}", pushed.stderr);
        let told: Value = serde_json::from_str(&pushed.stderr).expect("an error in JSON");
        assert_refusal(what, &told, code, reason);

        let address = uploads.broker.address();
        let answer = http::request(address, "PUT", &format!("/v1/plugins/{what}"), &[], bytes);
        assert!(
            (400..500).contains(&answer.status),
            "{what}: {}",
            answer.status
        );
        assert_refusal(what, &answer.json(), code, reason);
    }
    assert_eq!(
        uploads.broker.eddy(&["--json", "plugin", "list"]).json(),
        serde_json::json!([])
    );
}

#[track_caller]
fn assert_refusal(what: &str, told: &Value, code: &str, reason: &str) {
    assert_eq!(told["error"]["code"], code, "{what}: {told}");
    let message = told["error"]["message"].as_str().unwrap_or_default();
    assert!(
        message.contains(reason),
        "{what}: `{message}` lacks `{reason}`"
    );
}

fn junk(bytes: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut junk = b"\0asm\x0d\0\x01\0".to_vec();
    junk.resize_with(4096, || random.u8(..));
    junk.repeat(bytes.div_ceil(4096))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_deployments_are_stopped_for_good_with_a_reason_while_others_keep_their_latency() {
    let mut uploads = Uploads::new();
    let broker = &uploads.broker;
    for (name, partitions) in [("in", "1"), ("out", "1"), ("bait", "3"), ("prey", "1")] {
        broker
            .eddy(&[
                "topic",
                "create",
                name,
                "-p",
                partitions,
                "--durability",
                "memory",
            ])
            .ok();
    }
    broker.push_byte_filter();
    broker.deploy_byte_filter("good", ("in", "out"), "keep");
    let client = broker.client().await;
    let mut course = Course::new(&client).await;

    let mut before = Vec::new();
    while before.len() < MEASUREMENTS_MIN {
        before.push(course.run().await);
    }
    for (name, wasm, _) in hostile() {
        uploads.push(name, &wasm);
        broker
            .eddy(&[
                "deploy", name, "--plugin", name, "--from", "bait", "--to", "prey",
            ])
            .ok();
    }
    let bait: Vec<Value> = (0..3)
        .map(|n| serde_json::json!({"partition": n, "value": "bait"}))
        .collect();
    broker
        .post(
            "/v1/topics/bait/records",
            &serde_json::json!({"records": bait}),
        )
        .ok();

    let mut during = Vec::new();
    let begun = Instant::now();
    while during.len() < MEASUREMENTS_MIN || !all_stopped(broker) {
        assert!(
            begun.elapsed() < STOP_LIMIT,
            "not all of the hostile deployments were stopped"
        );
        during.push(course.run().await);
    }
    let (before, during) = (p99(before), p99(during));
    println!(
        "produce to delivery through a deployment, p99: {before:?} before, {during:?} beside hostile ones"
    );
    assert!(
        before < LATENCY_P99_MAX && during < LATENCY_P99_MAX,
        "{before:?}, {during:?}"
    );

    assert_reasons_are_shown(broker);
    uploads.broker.terminate();
    uploads.broker.restart();
    assert_reasons_are_shown(&uploads.broker);
    // The good one goes on after the restart, too.
    course.run().await;
    let prey = uploads
        .broker
        .eddy(&["--json", "topic", "describe", "prey"])
        .json();
    assert_eq!(
        prey["partitions"][0]["end"], 0,
        "nothing hostile wrote anything"
    );
}

/// From a topic through the good deployment to a subscriber.
struct Course {
    producer: Producer,
    reader: Subscription,
}

impl Course {
    async fn new(client: &Client) -> Course {
        let config = ProducerConfig {
            linger: Duration::ZERO,
            ..ProducerConfig::default()
        };
        let options = SubscribeOptions::default();
        Course {
            producer: client
                .producer(&topic("in"), config)
                .await
                .expect("the topic is there"),
            reader: client
                .subscribe(&topic("out"), options)
                .await
                .expect("the topic is there"),
        }
    }

    /// How long one record takes.
    async fn run(&mut self) -> Duration {
        let begun = Instant::now();
        self.producer
            .push(&NewRecord::new(b"keep"))
            .await
            .expect("it is taken");
        loop {
            let event = timeout(LIMIT, self.reader.next_batch())
                .await
                .expect("it is delivered");
            if let Event::Data(batch) = event.expect("the subscription goes on") {
                assert_eq!(batch.len(), 1);
                return begun.elapsed();
            }
        }
    }
}

fn p99(mut latencies: Vec<Duration>) -> Duration {
    latencies.sort();
    latencies[latencies.len() * 99 / 100]
}

fn all_stopped(broker: &Broker) -> bool {
    let list = broker.get("/v1/deployments").ok().json();
    let deployments = list["deployments"].as_array().expect("a list");
    deployments
        .iter()
        .all(|deployment| deployment["name"] == "good" || deployment["state"] == "stopped")
}

#[track_caller]
fn assert_reasons_are_shown(broker: &Broker) {
    for (name, _, reason) in hostile() {
        let shown = broker.eddy(&["deployment", "show", name]).ok();
        let state = shown
            .lines()
            .find(|line| line.starts_with("state"))
            .unwrap_or_default();
        assert!(
            state.contains("stopped: ") && state.contains(reason),
            "{name}: {shown}"
        );
        let json = broker.eddy(&["--json", "deployment", "show", name]).json();
        assert_eq!(json["state"], "stopped", "{name}: {json}");
        let told = json["reason"].as_str().unwrap_or_default();
        assert!(told.contains(reason), "{name}: {json}");
    }
    let good = broker
        .eddy(&["--json", "deployment", "show", "good"])
        .json();
    assert!(
        good["state"] == "running" || good["state"] == "starting",
        "{good}"
    );
}

#[tokio::test]
async fn a_hostile_filter_ends_its_own_subscription_only() {
    let uploads = Uploads::new();
    let broker = &uploads.broker;
    broker.eddy(&["topic", "create", "t"]).ok();
    for (number, (name, wasm, reason)) in hostile().into_iter().enumerate() {
        uploads.push(name, &wasm);
        let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
        let whole = subscribe(&mut wire, None).await;
        let filtered = subscribe(&mut wire, Some(name)).await;
        // One record for each plugin so far.
        let offset = number.to_string();
        let beside = broker.eddy_running(&["sub", "t", "--from", &offset, "--count", "1"]);
        broker.eddy_with_input(&["pub", "t"], "record\n").ok();

        let (mut delivered, mut ended) = (false, None);
        while !delivered || ended.is_none() {
            match wire.frame().await {
                ServerFrame::Deliver(deliver) if deliver.stream == whole => delivered = true,
                ServerFrame::Ended(end) if end.stream == filtered => ended = Some(end),
                other => panic!("{name}: {other:?}"),
            }
        }
        let error = ended.expect("the loop ends with it").error;
        assert_eq!(error.code, ErrorCode::PluginFailed, "{name}: {error}");
        assert!(error.message.contains(reason), "{name}: {error}");
        wire.ask(Request::Ping {})
            .await
            .expect("the connection lives on");
        assert_eq!(beside.wait(LIMIT).ok(), "record\n", "beside {name}");
    }
}

async fn subscribe(wire: &mut Wire, filter: Option<&str>) -> u64 {
    let request = Subscribe {
        topic: topic("t"),
        partitions: Vec::new(),
        from: Default::default(),
        resume: Vec::new(),
        filter: filter.map(|plugin| Filter {
            plugin: plugin.into(),
            params: Default::default(),
        }),
    };
    match wire.ask(Request::Subscribe(request)).await {
        Ok(Answer::Subscribed(subscribed)) => subscribed.stream,
        other => panic!("{filter:?}: {other:?}"),
    }
}
