//! Records in and out, and the memory of their bodies.

use super::*;

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
    incomplete.refuses(409, "inconsistent", "go together");
}

#[tokio::test]
async fn a_producer_without_a_name_gets_the_next_epoch_of_its_identity() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    let first = bench.post("/v1/producers", json!({})).await.is(201).body;
    let current = json!({"current": first});
    let second = bench.post("/v1/producers", current.clone()).await;
    let second = second.is(201).body;
    let next = json!({"id": first["id"], "epoch": 1});
    assert_eq!(second, next);
    let path = format!(
        "/v1/topics/t/records?partition=0&producer_id={}&producer_epoch=0&sequence=0",
        first["id"]
    );
    bench
        .lines(&path, "1\n")
        .await
        .refuses(409, "fenced_producer", "epoch");
    // Asked again, for example because the answer got lost, it gets the same one.
    let again = bench.post("/v1/producers", current).await;
    assert_eq!(again.is(201).body, next);
    let both = json!({"name": "p", "current": second});
    bench
        .post("/v1/producers", both)
        .await
        .refuses(409, "inconsistent", "`current`");
    bench
        .post("/v1/producers", json!({"current": null}))
        .await
        .refuses(400, "invalid_argument", "current");
}

#[tokio::test]
async fn a_fetch_from_an_offset_that_is_out_of_range_begins_where_else_it_is_told_to() {
    let bench = bench().await;
    bench.topic("t", 1).await;
    bench.lines("/v1/topics/t/records", "1\n2\n").await.is(200);
    for (query, next, values) in [
        ("offset=9&from=earliest", 2, json!(["1", "2"])),
        ("offset=9&from=latest", 2, json!([])),
        ("offset=1&from=latest", 2, json!(["2"])),
    ] {
        let path = format!("/v1/topics/t/partitions/0/records?{query}");
        let fetched = bench.get(&path).await.is(200).body;
        let records = fetched["records"].as_array().expect("records").iter();
        let found: Value = records.map(|record| record["value"].clone()).collect();
        assert_eq!((&fetched["next"], found), (&json!(next), values), "{query}");
    }
    bench
        .get("/v1/topics/t/partitions/0/records?offset=9")
        .await
        .refuses(416, "offset_out_of_range", "9");
    bench
        .get("/v1/topics/t/partitions/0/records?offset=1&from=noon")
        .await
        .refuses(400, "invalid_argument", "noon");
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
