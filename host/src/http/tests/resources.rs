//! Topics, plugins, deployments, groups, and what tells of the broker itself.

use super::*;

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
async fn what_a_route_would_not_read_is_refused_and_nothing_is_done() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let refused = [
        ("DELETE", "/v1/topics/t?if_empty=true", "", "takes no query"),
        ("PATCH", "/v1/topics/t?partitions=5", "{}", "takes no query"),
        ("GET", "/v1/topics?limit=1", "", "takes no query"),
        ("DELETE", "/v1/topics/t", r#"{"a":1}"#, "takes no body"),
        (
            "DELETE",
            "/v1/groups/g",
            r#"{"topic":"t"}"#,
            "takes no body",
        ),
    ];
    for (method, path, body, sentence) in refused {
        let answer = bench.call(method, path, "application/json", body).await;
        answer.refuses(400, "invalid_argument", sentence);
    }
    bench.get("/v1/topics/t").await.is(200);
}

#[tokio::test]
async fn a_misspelt_expectation_of_a_cursor_is_no_commit_without_one() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let path = "/v1/groups/g/cursors";
    let at =
        |more: &str| format!(r#"{{"cursors":[{{"topic":"t","partition":0,"offset":0{more}}}]}}"#);
    for wrong in [
        at(r#","expects":"none""#),
        at(r#","epcoh":7"#),
        r#"{"cursors":[["t",0,0]]}"#.to_owned(),
    ] {
        let answer = bench.call("POST", path, "application/json", wrong).await;
        answer.refuses(400, "invalid_argument", "cursors[0]");
    }
    let right = at(r#","expect":"none","epoch":null"#);
    bench
        .call("POST", path, "application/json", right)
        .await
        .is(204);
}
