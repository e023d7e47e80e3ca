//! The front over a real broker in a temporary folder, without a socket.

use std::net::Ipv4Addr;

use axum::body::Body;
use axum::http::Version;
use futures_util::FutureExt;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::broker::{Blobs, Engines};
use crate::guest::Guest;
use crate::io::{ManualClock, RealDisk};
use crate::plugin::{Engine, NoCache};
use crate::store::Store;

/// Nothing here takes longer on the slowest machine.
const LIMIT: Duration = Duration::from_secs(20);
/// What the clock shows.
const NOW_MS: i64 = 1_700_000_000_000;
/// A plugin larger than this is refused here.
const PLUGIN_BYTES_MAX: usize = 4096;
/// All bodies together.
const BODIES_BYTES_MAX: usize = 1 << 20;

struct Bench {
    front: Front,
    broker: Arc<Broker>,
    stop: watch::Sender<bool>,
    _data: TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: axum::http::HeaderMap,
    body: Value,
}

async fn bench() -> Bench {
    let data = tempfile::tempdir().expect("a temporary folder");
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW_MS));
    let disk = Arc::new(RealDisk::new(data.path()).expect("the folder can be used"));
    let store = Store::open(Default::default(), disk.clone(), clock.clone());
    let store = Arc::new(store.expect("an empty store"));
    let engines = Engines {
        log: store.clone(),
        state: store,
        blobs: Blobs::new(disk),
        plugins: Engine::new(Default::default(), Arc::new(NoCache)).expect("an engine"),
    };
    let broker = Broker::open(Default::default(), engines, clock.clone())
        .await
        .expect("a broker");
    let config = Config {
        body_bytes_max: 64 << 10,
        allowed_origins: vec!["https://friend.example".to_owned()],
        ..Config::default()
    };
    let (stop, stopping) = watch::channel(false);
    let context = Context {
        broker: broker.clone(),
        config: Arc::new(config),
        plugin_bytes_max: PLUGIN_BYTES_MAX,
        bodies: Bodies::new(BODIES_BYTES_MAX),
        clock,
        metrics: Metrics::install(),
        stopping,
    };
    Bench {
        front: Front::new(context, Ipv4Addr::LOCALHOST.into()),
        broker,
        stop,
        _data: data,
    }
}

impl Bench {
    async fn send(&self, mut request: Request) -> Answer {
        let host = HeaderValue::from_static("localhost");
        request.headers_mut().entry("host").or_insert(host);
        let answer = timeout(LIMIT, self.front.answer(request))
            .await
            .expect("an answer in time");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = timeout(LIMIT, answer.into_body().collect())
            .await
            .expect("a body in time");
        let bytes = body.expect("a whole body").to_bytes();
        let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
        Answer {
            status,
            headers,
            body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
        }
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type);
        self.send(request.body(body.into()).expect("a request"))
            .await
    }

    async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", Body::empty()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, "application/json", body.to_string())
            .await
    }

    async fn lines(&self, path: &str, body: &'static str) -> Answer {
        self.call("POST", path, "application/x-ndjson", body).await
    }

    async fn topic(&self, name: &str, partitions: u32) {
        self.post(
            "/v1/topics",
            json!({"topic": name, "partitions": partitions}),
        )
        .await
        .is(201);
    }

    /// The values of a partition of topic `t`.
    async fn values(&self, partition: u32) -> Vec<Value> {
        let answer = self
            .get(&format!("/v1/topics/t/partitions/{partition}/records"))
            .await
            .is(200);
        let records = answer.body["records"].as_array().expect("records").iter();
        records.map(|record| record["value"].clone()).collect()
    }
}

impl Answer {
    #[track_caller]
    fn is(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.body);
        self
    }

    /// That the answer is this error, and that its sentence has this part.
    #[track_caller]
    fn refuses(self, status: u16, code: &str, part: &str) {
        let error = &self.body["error"];
        assert_eq!(
            (self.status, error["code"].as_str()),
            (status, Some(code)),
            "{}",
            self.body
        );
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|message| message.contains(part)),
            "{error} lacks {part}"
        );
        assert!(error["retryable"].is_boolean());
    }
}

#[tokio::test]
async fn a_topic_is_created_described_altered_and_deleted() {
    let bench = bench().await;
    let created = bench
        .post("/v1/topics", json!({"topic": "t", "retention_ms": 5_000}))
        .await
        .is(201);
    assert_eq!(created.body["partitions"].as_array().map(Vec::len), Some(1));
    assert_eq!(created.body["retention_ms"], 5_000);
    bench
        .post("/v1/topics", json!({"topic": "t"}))
        .await
        .refuses(409, "topic_exists", "t");

    let changes = json!({"partitions": 3, "retention_ms": null, "retention_bytes": 7, "durability": "memory"});
    let changed = bench
        .call(
            "PATCH",
            "/v1/topics/t",
            "application/json",
            changes.to_string(),
        )
        .await
        .is(200);
    assert_eq!(changed.body, bench.get("/v1/topics/t").await.is(200).body);
    assert_eq!(changed.body["partitions"].as_array().map(Vec::len), Some(3));
    let settings =
        ["retention_ms", "retention_bytes", "durability"].map(|name| changed.body[name].clone());
    assert_eq!(settings, [Value::Null, json!(7), json!("memory")]);
    assert_eq!(
        bench.get("/v1/topics").await.is(200).body["topics"],
        json!([changed.body])
    );

    bench
        .call("DELETE", "/v1/topics/t", "", Body::empty())
        .await
        .is(204);
    bench
        .get("/v1/topics/t")
        .await
        .refuses(404, "unknown_topic", "`t`");
    assert_eq!(
        bench.get("/v1/topics").await.is(200).body,
        json!({"topics": []})
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_told_by_name() {
    let bench = bench().await;
    bench.topic("t", 2).await;
    bench
        .post("/v1/topics", json!({"topic": "a b"}))
        .await
        .refuses(400, "invalid_name", "a b");
    bench
        .post("/v1/topics", json!({"topic": "x", "patitions": 3}))
        .await
        .refuses(400, "invalid_argument", "patitions");
    bench
        .call("POST", "/v1/topics", "application/json", "{")
        .await
        .refuses(400, "invalid_argument", "EOF");
    bench
        .get("/v1/topics/t/partitions/two/records")
        .await
        .refuses(400, "invalid_argument", "two");
    bench
        .get("/v1/topics/t/partitions/2/records")
        .await
        .refuses(404, "unknown_partition", "2");
    bench
        .get("/v1/topics/t/partitions/0/records?ofset=1")
        .await
        .refuses(400, "invalid_argument", "ofset");
    bench
        .get("/v1/topics/t/partitions/0/records?offset=1")
        .await
        .refuses(416, "offset_out_of_range", "1");
    bench
        .get("/v1/topics/t/partitions/0/records?from=noon")
        .await
        .refuses(400, "invalid_argument", "noon");
    bench
        .get("/v1/nothing")
        .await
        .refuses(404, "not_found", "/v1/nothing");
    bench
        .call("POST", "/index.html", "", Body::empty())
        .await
        .refuses(404, "not_found", "POST /index.html");
    let wrong = bench.call("PUT", "/v1/topics", "", Body::empty()).await;
    assert_eq!(wrong.headers["allow"], "GET, POST, HEAD");
    wrong.refuses(405, "method_not_allowed", "PUT");
}

#[tokio::test]
async fn records_go_where_their_keys_and_partitions_say_and_come_back() {
    let bench = bench().await;
    bench.topic("t", 2).await;
    let records = json!({"records": [
        {"partition": 1, "value": "a", "headers": {"h": "x"}},
        {"partition": 1, "key": "k", "value": {"n": 1}, "timestamp": 7},
        {"partition": 0, "value": null},
    ]});
    let answer = bench.post("/v1/topics/t/records", records).await.is(200);
    let produced = json!([
        {"partition": 0, "offset": 0, "count": 1, "duplicate": false},
        {"partition": 1, "offset": 0, "count": 2, "duplicate": false},
    ]);
    assert_eq!(answer.body["produced"], produced);

    let fetched = bench
        .get("/v1/topics/t/partitions/1/records")
        .await
        .is(200)
        .body;
    let expected = json!([
        {"offset": 0, "timestamp": NOW_MS, "value": "a", "headers": [["h", "x"]]},
        {"offset": 1, "timestamp": 7, "key": "k", "value": "{\"n\":1}"},
    ]);
    assert_eq!(fetched["records"], expected);
    assert_eq!(
        (&fetched["start"], &fetched["end"], &fetched["next"]),
        (&json!(0), &json!(2), &json!(2))
    );
    assert_eq!(bench.values(0).await, [Value::Null]);

    let second = bench
        .get("/v1/topics/t/partitions/1/records?offset=1")
        .await
        .is(200)
        .body;
    assert_eq!(second["records"].as_array().map(Vec::len), Some(1));
    let end = bench
        .get("/v1/topics/t/partitions/1/records?from=latest")
        .await
        .is(200)
        .body;
    assert_eq!((&end["records"], &end["next"]), (&json!([]), &json!(2)));
}

#[tokio::test]
async fn lines_are_appended_all_or_none() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let path = "/v1/topics/t/records";
    bench
        .lines(path, "{\"id\":1}\n{\"id\":\n")
        .await
        .refuses(400, "invalid_argument", "line 2");
    bench
        .lines("/v1/topics/t/records?key_field=id", "{\"id\":1}\n{}\n")
        .await
        .refuses(400, "invalid_argument", "line 2");
    bench
        .lines("/v1/topics/t/records?partition=4", "1\n")
        .await
        .refuses(404, "unknown_partition", "4");
    assert_eq!(bench.values(0).await, Vec::<Value>::new());
    bench
        .lines(
            "/v1/topics/t/records?key_field=id",
            "{\"id\": \"a\"}\n\n{\"id\": 2}\n",
        )
        .await
        .is(200);
    let fetched = bench
        .get("/v1/topics/t/partitions/0/records")
        .await
        .is(200)
        .body;
    let keys: Vec<&Value> = fetched["records"]
        .as_array()
        .expect("records")
        .iter()
        .map(|r| &r["key"])
        .collect();
    assert_eq!(keys, ["a", "2"]);
    assert_eq!(bench.values(0).await, ["{\"id\": \"a\"}", "{\"id\": 2}"]);
    bench
        .lines(path, "\n")
        .await
        .refuses(400, "invalid_argument", "no records");
    bench
        .call("POST", path, "text/csv", "1,2")
        .await
        .refuses(415, "invalid_argument", "text/csv");
}

#[tokio::test]
async fn a_repeated_request_of_a_producer_is_appended_once() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let producer = bench
        .post("/v1/producers", json!({"name": "p"}))
        .await
        .is(201)
        .body;
    let (id, epoch) = (&producer["id"], &producer["epoch"]);
    let path = format!(
        "/v1/topics/t/records?partition=0&producer_id={id}&producer_epoch={epoch}&sequence=0"
    );
    let first = bench.lines(&path, "1\n2\n").await.is(200).body;
    let second = bench.lines(&path, "1\n2\n").await.is(200).body;
    assert_eq!(first["produced"][0]["duplicate"], false);
    assert_eq!(
        second["produced"][0],
        json!({"partition": 0, "offset": 0, "count": 2, "duplicate": true})
    );
    assert_eq!(bench.values(0).await, ["1", "2"]);
    let incomplete = bench
        .lines("/v1/topics/t/records?producer_id=1", "1\n")
        .await;
    incomplete.refuses(400, "invalid_argument", "go together");
}

#[tokio::test]
async fn whoever_accepts_lines_gets_a_value_per_line_and_the_place_in_headers() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let values = [
        json!({"n": 1}),
        json!("plain"),
        json!(null),
        json!("two\nlines"),
    ];
    let records: Vec<_> = values.iter().map(|value| json!({"value": value})).collect();
    bench
        .post("/v1/topics/t/records", json!({"records": records}))
        .await
        .is(200);
    let fetch = |query: &str, accept: &str| {
        Request::builder()
            .uri(format!("/v1/topics/t/partitions/0/records{query}"))
            .header("accept", accept)
            .body(Body::empty())
            .expect("a request")
    };
    let lines = "text/html, application/x-ndjson; q=0.9";
    let answer = bench.send(fetch("", lines)).await.is(200);
    assert_eq!(answer.body, "{\"n\":1}\nplain\nnull\n\"two\\nlines\"\n");
    assert_eq!(answer.headers["content-type"], "application/x-ndjson");
    for (name, value) in [("start", "0"), ("end", "4"), ("next", "4"), ("epoch", "1")] {
        assert_eq!(answer.headers[format!("eddy-{name}")], value, "{name}");
    }
    let rest = bench.send(fetch("?offset=2", lines)).await.is(200);
    assert_eq!(rest.body, "null\n\"two\\nlines\"\n");
    let any = bench.send(fetch("", "*/*")).await.is(200);
    assert_eq!(any.body["next"], 4);
}

#[tokio::test]
async fn a_fetch_waits_for_the_first_record() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let waiting = bench.get("/v1/topics/t/partitions/0/records?wait_ms=20000");
    let (fetched, produced) = tokio::join!(waiting, bench.lines("/v1/topics/t/records", "1\n"));
    produced.is(200);
    assert_eq!(fetched.is(200).body["records"][0]["value"], "1");
}

#[tokio::test]
async fn a_waiting_fetch_is_answered_when_the_broker_stops() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let waiting = bench.get("/v1/topics/t/partitions/0/records?wait_ms=60000");
    let (fetched, _) = tokio::join!(waiting, async { bench.stop.send(true) });
    fetched.refuses(503, "shutting_down", "stopping");
}

#[tokio::test]
async fn a_body_past_its_limit_is_refused_with_or_without_a_length() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let large = vec![b' '; (64 << 10) + 1];
    let unsized_body = || {
        let chunks = large
            .chunks(1000)
            .map(|chunk| Ok::<_, Infallible>(bytes::Bytes::copy_from_slice(chunk)));
        Body::from_stream(futures_util::stream::iter(chunks.collect::<Vec<_>>()))
    };
    for body in [Body::from(large.clone()), unsized_body()] {
        let answer = bench
            .call("POST", "/v1/topics/t/records", "application/json", body)
            .await;
        answer.refuses(413, "batch_too_large", "http.body_bytes_max");
    }
    let plugin = bench
        .call("PUT", "/v1/plugins/p", "application/wasm", unsized_body())
        .await;
    plugin.refuses(413, "plugin_too_large", "4096");
}

#[tokio::test]
async fn bodies_have_so_much_room_together_and_give_it_back() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let path = "/v1/topics/t/records";
    // Bodies that don't end keep the room of what has come of them.
    let part = bytes::Bytes::from(vec![b'\n'; 60 << 10]);
    let (end, ended) = watch::channel(());
    for _ in 0..BODIES_BYTES_MAX / part.len() {
        let parts = (Some(part.clone()), ended.clone());
        let parts = futures_util::stream::unfold(parts, |(part, mut ended)| async move {
            if part.is_none() {
                ended.changed().await.ok();
            }
            part.map(|part| (Ok::<_, Infallible>(part), (None, ended)))
        });
        let request = Request::builder()
            .method("POST")
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/x-ndjson")
            .body(Body::from_stream(parts))
            .expect("a request");
        assert!(bench.front.answer(request).now_or_never().is_none());
    }
    let until = async |status| {
        let asking = async {
            loop {
                let lines = bench.call("POST", path, "application/x-ndjson", part.clone());
                let answer = lines.await;
                if answer.status == status {
                    break answer;
                }
            }
        };
        timeout(LIMIT, asking).await.expect("it comes to that")
    };
    until(429)
        .await
        .refuses(429, "too_many", "http.bodies_bytes_max");
    drop(end);
    until(400)
        .await
        .refuses(400, "invalid_argument", "no records");
}

#[tokio::test]
async fn a_body_of_short_lines_becomes_batches_within_the_limit() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let lines = "1\n".repeat(32 << 10);
    let answer = bench
        .call(
            "POST",
            "/v1/topics/t/records",
            "application/x-ndjson",
            lines.clone(),
        )
        .await
        .is(200);
    assert_eq!(answer.body["produced"][0]["count"], 32 << 10);
    let producer = bench.post("/v1/producers", json!({})).await.is(201).body;
    let path = format!(
        "/v1/topics/t/records?partition=0&producer_id={}&producer_epoch={}&sequence=0",
        producer["id"], producer["epoch"]
    );
    let answer = bench
        .call("POST", &path, "application/x-ndjson", lines)
        .await
        .is(200);
    assert_eq!(answer.body["produced"][0]["count"], 32 << 10);
}

#[tokio::test]
async fn a_write_whose_peer_has_left_comes_to_its_end() {
    let bench = bench().await;
    bench.topic("a", 1).await;
    bench.topic("b", 1).await;
    let wasm = Guest::default().component();
    bench.broker.push_plugin("p", wasm).await.expect("a plugin");
    let spec = json!({"name": "d", "plugin": "p", "from": "a", "to": "b"});
    let request = Request::builder()
        .method("POST")
        .uri("/v1/deployments")
        .header("host", "localhost")
        .body(Body::from(spec.to_string()))
        .expect("a request");
    // Under way, and then nobody waits for it any more.
    assert!(bench.front.answer(request).now_or_never().is_none());
    let deployed = async {
        while bench.broker.deployment("d").is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, deployed).await.expect("it was deployed");
}

#[tokio::test]
async fn misspelt_fields_are_refused_by_name_on_every_route_that_takes_json() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let deployment = json!({"name": "d", "plugin": "p", "from": "t", "to": "t"});
    let limits =
        json!({"name": "d", "plugin": "p", "from": "t", "to": "t", "limits": {"memry": 1}});
    for (method, path, mut body, wrong) in [
        ("POST", "/v1/topics", json!({"topic": "x"}), "patitions"),
        ("PATCH", "/v1/topics/t", json!({}), "retention"),
        ("POST", "/v1/producers", json!({}), "nmae"),
        ("POST", "/v1/deployments", deployment, "strat"),
        ("POST", "/v1/deployments", limits, "memry"),
        (
            "POST",
            "/v1/topics/t/records",
            json!({"records": []}),
            "record",
        ),
    ] {
        if wrong != "memry" {
            body[wrong] = json!(1);
        }
        bench
            .call(method, path, "application/json", body.to_string())
            .await
            .refuses(400, "invalid_argument", &format!("`{wrong}`"));
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_request_the_answer_is_an_error_of_the_table() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    for (method, path, status) in [
        ("GET", "/v1/topics/", 404),
        ("GET", "/v1/topics/t/", 404),
        ("GET", "//v1/topics", 404),
        ("GET", "/v1/topics/%ff", 400),
        ("GET", "/v1/topics/a%2Fb", 400),
        ("GET", "/v1/topics/%2E%2E", 400),
        ("GET", "/v1/topics/t/partitions/-1/records", 400),
        ("GET", "/v1/topics/t/partitions/4294967296/records", 400),
        ("GET", "/v1/topics/t/partitions/4294967295/records", 404),
        ("GET", "/v1/topics/t/partitions/0/records?offset=-1", 400),
        (
            "GET",
            "/v1/topics/t/partitions/0/records?offset=18446744073709551616",
            400,
        ),
        (
            "GET",
            "/v1/topics/t/partitions/0/records?offset=18446744073709551615",
            416,
        ),
        ("GET", "/v1/topics/t/partitions/0/records?wait_ms=x", 400),
        ("GET", "/v1/topics/t/partitions/0/records?%ff=1", 400),
        ("GET", "/v1/groups/%00/cursors", 400),
        ("GET", "/v1/groups/g/cursors?topic=a+b", 400),
        ("GET", "/v1/plugins/nothing", 404),
        ("DELETE", "/v1/plugins/nothing", 404),
        ("DELETE", "/v1/deployments/nothing", 404),
        ("DELETE", "/v1/topics/nothing", 404),
        ("GET", "/v1/producers", 405),
        ("DELETE", "/v1/topics", 405),
        ("TRACE", "/v1/topics", 405),
        ("PURGE", "/health", 405),
        ("OPTIONS", "/v1/topics", 405),
        ("OPTIONS", "*", 404),
        ("PATCH", "/v1/topics/t", 400),
        ("POST", "/v1/topics/t/records", 415),
        ("GET", "/v1/ws", 426),
    ] {
        let answer = bench.call(method, path, "", Body::empty()).await;
        let code = answer.body["error"]["code"].as_str().unwrap_or_default();
        let code = ErrorCode::from_name(code);
        assert!(code.is_some(), "{method} {path}: {}", answer.body);
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(
            answer.headers.contains_key("allow"),
            status == 405,
            "{method} {path}"
        );
    }
    for path in [
        "/v1/topics",
        "/v1/topics/t",
        "/health",
        "/",
        "/openapi.json",
    ] {
        let answer = bench.call("HEAD", path, "", Body::empty()).await.is(200);
        assert_eq!(answer.body, "", "{path}");
    }
}

#[tokio::test]
async fn a_body_in_a_form_that_is_not_read_is_refused_by_name() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let send = async |path: &str, headers: &[(&str, &str)], body: &'static str| {
        let request = Request::builder().method("POST").uri(path);
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        bench
            .send(request.body(Body::from(body)).expect("a request"))
            .await
    };
    let json = ("content-type", "application/json");
    let records = r#"{"records":[{"value":1}]}"#;
    for (headers, part) in [
        (
            &[json, ("content-encoding", "gzip")][..],
            "`content-encoding: gzip`",
        ),
        (
            &[json, ("content-encoding", "identity, deflate")],
            "deflate",
        ),
        (
            &[
                json,
                ("content-encoding", "br"),
                ("content-encoding", "gzip"),
            ],
            "br",
        ),
        (&[json, json], "more than one"),
        (
            &[("content-type", "application/json; charset=latin1")],
            "latin1",
        ),
        (&[("content-type", "text/plain")], "text/plain"),
        (&[], "application/x-ndjson"),
    ] {
        let refused = send("/v1/topics/t/records", headers, records).await;
        refused.refuses(415, "invalid_argument", part);
        if part != "text/plain" && !headers.is_empty() {
            let refused = send("/v1/topics", headers, r#"{"topic":"x"}"#).await;
            refused.refuses(415, "invalid_argument", part);
        }
    }
    for content_type in [
        "application/json; charset=UTF-8",
        "Application/JSON;charset=\"utf-8\"",
    ] {
        let headers = [
            ("content-type", content_type),
            ("content-encoding", "identity"),
        ];
        send("/v1/topics/t/records", &headers, records)
            .await
            .is(200);
    }
    for path in ["/v1/topics", "/v1/topics/t/records"] {
        let refused = send(path, &[json], "\u{feff}{}").await;
        refused.refuses(400, "invalid_argument", "byte order mark");
    }
}

#[tokio::test]
async fn a_request_has_one_host() {
    let bench = bench().await;
    for (hosts, part) in [
        (&[][..], "no `host`"),
        (&["localhost", "localhost"], "more than one"),
        (&[""], "names no host"),
        (&["a b"], "names no host"),
        (&["localhost:99999"], "names no host"),
    ] {
        let request = Request::builder().uri("/health");
        let request = hosts
            .iter()
            .fold(request, |request, host| request.header("host", *host));
        let request = request.body(Body::empty()).expect("a request");
        let answer = bench.front.answer(request).await;
        assert_eq!(answer.status(), 400, "{hosts:?}");
        let body = answer
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        let body = String::from_utf8_lossy(&body);
        assert!(body.contains(part), "{hosts:?}: {body}");
    }
    let old = Request::builder().version(Version::HTTP_10).uri("/health");
    let old = old.body(Body::empty()).expect("a request");
    assert_eq!(bench.front.answer(old).await.status(), 200);
}

#[tokio::test]
async fn what_is_no_plugin_is_refused() {
    let bench = bench().await;
    bench
        .call("PUT", "/v1/plugins/p", "application/wasm", "junk")
        .await
        .refuses(400, "invalid_plugin", "p");
    assert_eq!(
        bench.get("/v1/plugins").await.is(200).body,
        json!({"plugins": []})
    );
    bench
        .get("/v1/plugins/p")
        .await
        .refuses(404, "unknown_plugin", "p");
    bench.topic("a", 1).await;
    bench.topic("b", 1).await;
    let spec = json!({"name": "d", "plugin": "p", "from": "a", "to": "b"});
    bench
        .post("/v1/deployments", spec)
        .await
        .refuses(404, "unknown_plugin", "p");
    assert_eq!(
        bench.get("/v1/deployments").await.is(200).body,
        json!({"deployments": []})
    );
    bench
        .get("/v1/deployments/d")
        .await
        .refuses(404, "unknown_deployment", "d");
}

#[tokio::test]
async fn pages_of_other_origins_change_nothing_unless_allowed() {
    let bench = bench().await;
    let create = |origin: &'static str, topic: &str| {
        let request = Request::builder()
            .method("POST")
            .uri("/v1/topics")
            .header("host", "127.0.0.1:7117");
        request
            .header("origin", origin)
            .body(Body::from(json!({"topic": topic}).to_string()))
            .expect("a request")
    };
    bench
        .send(create("https://evil.example", "a"))
        .await
        .refuses(403, "forbidden_origin", "https://evil.example");
    bench
        .get("/v1/topics/a")
        .await
        .refuses(404, "unknown_topic", "a");
    let allowed = bench
        .send(create("https://friend.example", "b"))
        .await
        .is(201);
    assert_eq!(
        allowed.headers["access-control-allow-origin"],
        "https://friend.example"
    );
    assert_eq!(allowed.headers["vary"], "origin");
    let own = bench
        .send(create("http://127.0.0.1:7117", "c"))
        .await
        .is(201);
    assert!(!own.headers.contains_key("access-control-allow-origin"));

    let preflight = |origin| {
        let request = Request::builder()
            .method("OPTIONS")
            .uri("/v1/topics")
            .header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        request
            .header("access-control-request-headers", "content-type")
            .body(Body::empty())
            .expect("a request")
    };
    bench
        .send(preflight("https://evil.example"))
        .await
        .refuses(403, "forbidden_origin", "evil");
    let allowed = bench
        .send(preflight("https://friend.example"))
        .await
        .is(204);
    assert_eq!(
        allowed.headers["access-control-allow-headers"],
        "content-type"
    );
    assert_eq!(
        allowed.headers["access-control-allow-origin"],
        "https://friend.example"
    );
}

#[tokio::test]
async fn what_finds_no_memory_for_its_answer_is_refused_with_the_settings_name() {
    let bench = bench().await;
    bench.topic("t", 1024).await;
    bench.lines("/v1/topics/t/records?partition=0", "1\n").await;
    let budget = bench.broker.answers();
    let all = budget.take(usize::MAX).await.expect("nobody else has any");
    let asked = [
        "/v1/topics/t/partitions/0/records",
        "/v1/topics",
        "/v1/topics/t",
        "/v1/plugins",
        "/v1/deployments",
        "/v1/groups/g/cursors",
        "/metrics",
    ];
    let answers = asked.map(|path| bench.get(path));
    let needs_none = bench.get("/health");
    let (refused, alive) = tokio::join!(futures_util::future::join_all(answers), needs_none);
    alive.is(200);
    for refused in refused {
        assert_eq!(refused.headers["retry-after"], "1");
        refused.refuses(429, "too_many", "`broker.answers_bytes_max`");
    }
    drop(all);
    for path in asked {
        bench.get(path).await.is(200);
    }
    assert_eq!(budget.held_bytes(), 0, "all of it is given back");
}

#[tokio::test]
async fn readiness_turns_false_when_the_broker_stops_and_health_does_not() {
    let bench = bench().await;
    assert_eq!(
        bench.get("/ready").await.is(200).body,
        json!({"ready": true})
    );
    bench.stop.send(true).expect("the front listens");
    let body = bench.get("/ready").await.is(503).body;
    assert_eq!(
        body,
        json!({"ready": false, "reason": "the broker is stopping"})
    );
    bench.get("/health").await.is(200);
}

#[tokio::test]
async fn metrics_count_requests_by_route() {
    let bench = bench().await;
    bench.topic("some-topic-of-many", 1).await;
    bench.get("/v1/topics/some-topic-of-many").await.is(200);
    bench.get("/v1/nowhere-at-all").await.is(404);
    let foreign = Request::builder()
        .method("PUT")
        .uri("/v1/topics")
        .header("origin", "https://evil.example")
        .body(Body::empty());
    bench.send(foreign.expect("a request")).await.is(403);
    let answer = bench.get("/metrics").await.is(200);
    let text = answer.body.as_str().expect("text").to_owned();
    assert!(text.contains(r#"route="/v1/topics/{topic}""#), "{text}");
    assert!(text.contains("eddy_ready 1"), "{text}");
    assert!(!text.contains("route=\"/v1/topics/some"), "{text}");
    for unrouted in [
        r#"{route="none",method="GET",status="404"}"#,
        r#"{route="none",method="PUT",status="403"}"#,
    ] {
        assert!(text.contains(unrouted), "{text}");
    }
}

#[tokio::test]
async fn cursors_of_a_group_are_moved_shown_and_deleted() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let path = "/v1/groups/g/cursors";
    let moves = json!({"cursors": [{"topic": "t", "partition": 0, "offset": 0, "expect": "none"}]});
    bench.post(path, moves.clone()).await.is(204);
    let moved = bench.post(path, moves).await.is(409);
    assert_eq!(moved.body["error"]["code"], "cursor_moved");
    let expected = json!({"cursors": [{"topic": "t", "partition": 0, "offset": 0, "epoch": 1}]});
    assert_eq!(
        bench.get("/v1/groups/g/cursors").await.is(200).body,
        expected
    );
    assert_eq!(
        bench.get("/v1/groups/g/cursors?topic=t").await.is(200).body,
        expected
    );
    let groups = json!({"groups": [{"group": "g", "topics": ["t"]}]});
    assert_eq!(bench.get("/v1/groups").await.is(200).body, groups);
    bench.call("DELETE", "/v1/groups/g", "", "").await.is(204);
    let gone = bench.call("DELETE", "/v1/groups/g", "", "").await.is(404);
    assert_eq!(gone.body["error"]["code"], "unknown_group");
}

#[tokio::test]
async fn every_answer_says_that_its_type_is_not_to_be_guessed() {
    let bench = bench().await;
    for path in ["/", "/health", "/openapi.json", "/v1/topics", "/nothing"] {
        assert_eq!(
            bench.get(path).await.headers["x-content-type-options"],
            "nosniff",
            "{path}"
        );
    }
}
