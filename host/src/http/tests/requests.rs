//! What is wrong with a request, or who sends it, whatever it asks for.

use super::*;

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

#[tokio::test]
async fn a_whole_number_is_one_however_json_writes_it() {
    let bench = bench().await;
    let text = r#"{"topic":"t","partitions":2.0,"retention_ms":5e3,"timestamp_ahead_ms":null}"#;
    let made = bench
        .call("POST", "/v1/topics", "", text)
        .await
        .is(201)
        .body;
    assert_eq!(made["partitions"].as_array().map(Vec::len), Some(2));
    assert_eq!(made["retention_ms"], 5000);
    let changes = r#"{"partitions":3.0,"retention_ms":null,"retention_bytes":1e3}"#;
    let changed = bench.call("PATCH", "/v1/topics/t", "", changes).await;
    let changed = changed.is(200).body;
    let limits = ["retention_ms", "retention_bytes"].map(|name| changed[name].clone());
    assert_eq!(limits, [Value::Null, json!(1000)]);
    let records = r#"{"records":[{"partition":2.0,"timestamp":17e11,"value":1.0}]}"#;
    let path = "/v1/topics/t/records";
    bench
        .call("POST", path, "application/json", records)
        .await
        .is(200);
    let fetched = bench.get("/v1/topics/t/partitions/2/records").await.body;
    let record = json!({"offset": 0, "timestamp": 1_700_000_000_000_i64, "value": "1.0"});
    assert_eq!(fetched["records"], json!([record]));
    let cursors =
        r#"{"cursors":[{"topic":"t","partition":2.0,"offset":1.0,"epoch":1.0,"expect":"any"}]}"#;
    let path = "/v1/groups/g/cursors";
    bench.call("POST", path, "", cursors).await.is(204);
    for (wrong, part) in [
        ("1.5", "1.5"),
        ("-1.0", "-1"),
        ("1e20", "1e+20"),
        ("1e400", "out of range"),
    ] {
        let text = format!(r#"{{"topic":"x","partitions":{wrong}}}"#);
        let refused = bench.call("POST", "/v1/topics", "", text).await;
        refused.refuses(400, "invalid_argument", part);
    }
}

#[tokio::test]
async fn what_contradicts_itself_or_what_is_there_is_a_conflict() {
    let bench = bench().await;
    bench.topic("t", 2).await;
    bench.topic("out", 1).await;
    let wasm = Guest::default().component();
    bench.broker.push_plugin("p", wasm).await.expect("a plugin");
    let deployment =
        |name: &str, to: &str| json!({"name": name, "plugin": "p", "from": "t", "to": to});
    let cursor = json!({"topic": "t", "partition": 0, "offset": 0});
    let records = json!({"records": [{"value": 1}]});
    for (method, path, body, part) in [
        (
            "PATCH",
            "/v1/topics/t",
            json!({"partitions": 1}),
            "only be added",
        ),
        (
            "POST",
            "/v1/topics/t/partitions/0/repair",
            Value::Null,
            "not stopped",
        ),
        (
            "POST",
            "/v1/topics/t/records?key_field=id",
            records,
            "`key_field`",
        ),
        (
            "PUT",
            "/v1/deployments/d",
            deployment("other", "out"),
            "`other`",
        ),
        ("POST", "/v1/deployments", deployment("d", "t"), "go round"),
        (
            "POST",
            "/v1/groups/g/cursors",
            json!({"cursors": [cursor, cursor]}),
            "twice",
        ),
    ] {
        let refused = bench.call(method, path, "application/json", body.to_string());
        refused.await.refuses(409, "inconsistent", part);
    }
    let unknown = json!({"topic": "x", "durability": "paper"});
    bench
        .post("/v1/topics", unknown)
        .await
        .refuses(400, "unsupported", "`durability`");
}

#[tokio::test]
async fn an_expectation_or_a_coding_that_nobody_knows_is_told() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    for (name, value, status) in [
        ("expect", "200-ok", 417),
        ("transfer-encoding", "gzip, chunked", 501),
    ] {
        let request = Request::builder()
            .method("POST")
            .uri("/v1/topics/t/records")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .header(name, value)
            .body(Body::from(r#"{"records":[{"value":1}]}"#))
            .expect("a request");
        let answer = bench.send(request).await;
        answer.refuses(status, "invalid_argument", value);
    }
    assert!(bench.values(0).await.is_empty(), "nothing was appended");
}
