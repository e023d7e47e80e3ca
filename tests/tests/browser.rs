//! A real browser on the real page: what it sees, through kills of the broker,
//! is exactly what is in the log.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::thread;
use std::time::Duration;

use eddy_tests::wait::LIMIT;
use eddy_tests::{Broker, Browser, artefact, browser, wait_until};
use serde_json::{Value, json};

/// A week of earthquakes, and how many of them are strong.
const WEEK: &str = "data/earthquakes.ndjson";
const QUAKES: u64 = 1707;
const STRONG: u64 = 85;

/// For what takes as long as the publishing.
const PUBLISH_LIMIT: Duration = Duration::from_secs(90);

/// Keeps every offset that a client in the page is given, beside what the page
/// itself counts: `seen[topic][partition]` is a list.
const OBSERVE: &str = r#"(async () => {
    const { default: init, EddyClient } = await import("/eddy.js");
    await init();
    window.seen = { quakes: {}, strong: {} };
    window.observer = new EddyClient();
    for (const topic of ["quakes", "strong"]) {
        await observer.subscribe({ topic, from: "earliest" }, (batch) => {
            const offsets = (seen[topic][batch.partition] ??= []);
            for (let row = 0; row < batch.length; row++) offsets.push(batch.offset(row));
        });
    }
    window.count = (topic) => Object.values(seen[topic]).reduce((sum, offsets) => sum + offsets.length, 0);
    return true;
})()"#;

#[tokio::test]
async fn a_page_goes_on_after_the_broker_was_killed_and_misses_and_repeats_nothing() {
    let mut broker = Broker::start();
    prepare_earthquakes(&broker);
    let browser = Browser::launch();
    let mut page = browser.open(&broker.url()).await;
    page.wait_for(LIMIT, "window.__eddy?.proof().state === 'connected'")
        .await;
    page.eval(OBSERVE).await;
    page.eval("window.notReloaded = true").await;

    let week = artefact::root().join(WEEK);
    let publisher = broker.eddy_running(&[
        "pub",
        "quakes",
        "--key-field",
        "id",
        "--rate",
        "250",
        "--timeout",
        "60s",
        &week.to_string_lossy(),
    ]);
    for seen_before_the_kill in [200, 800] {
        page.wait_for(LIMIT, &format!("count('quakes') >= {seen_before_the_kill}"))
            .await;
        broker.kill9();
        page.wait_for(LIMIT, "window.__eddy.proof().state === 'reconnecting'")
            .await;
        broker.restart();
    }
    publisher.wait(PUBLISH_LIMIT).ok();
    page.wait_for(
        LIMIT,
        &format!("count('quakes') >= {QUAKES} && count('strong') >= {STRONG}"),
    )
    .await;
    let drawn = |topic: &str| {
        format!("window.__eddy.proof().{topic}.reduce((sum, {{ records }}) => sum + records, 0)")
    };
    page.wait_for(
        LIMIT,
        &format!(
            "{} >= {QUAKES} && {} >= {STRONG}",
            drawn("quakes"),
            drawn("strong")
        ),
    )
    .await;

    let proof = page.eval("window.__eddy.proof()").await;
    for (topic, expected) in [("quakes", QUAKES), ("strong", STRONG)] {
        let ends = ends(&broker, topic);
        assert_eq!(
            ends.iter().sum::<u64>(),
            expected,
            "{topic} in the log: {ends:?}"
        );
        for (partition, end) in ends.into_iter().enumerate() {
            let seen = page.eval(&format!("seen.{topic}[{partition}] ?? []")).await;
            assert_eq!(
                seen,
                all(0..end),
                "offsets of {topic}, partition {partition}"
            );
            let counted = &proof[topic].as_array().expect("a list of partitions")[partition];
            let right = json!({"partition": partition, "first": 0, "next": end, "records": end, "missing": 0, "repeated": 0});
            assert_eq!(counted, &right, "what the page counted of {topic}");
        }
    }
    assert_eq!(proof["losses"], 2, "{proof}");
    assert_eq!(page.eval("window.notReloaded").await, true);
    assert_eq!(
        page.eval("document.getElementById('proof').textContent.includes('0 missing, 0 repeated')")
            .await,
        true
    );
    photograph(&mut page, "restart").await;
}

#[tokio::test]
async fn the_page_says_what_to_do_while_there_are_no_topics_and_begins_when_there_are() {
    let broker = Broker::start();
    let browser = Browser::launch();
    let mut page = browser.open(&broker.url()).await;
    page.wait_for(
        LIMIT,
        "document.getElementById('notice').textContent.includes('cargo xtask demo')",
    )
    .await;
    photograph(&mut page, "no-topics").await;

    prepare_earthquakes(&broker);
    let quake = r#"{"id":"a","time":1517363399650,"mag":null,"place":"nowhere","lon":0,"lat":0}"#;
    broker
        .eddy_with_input(&["pub", "quakes"], format!("{quake}\nnot JSON\n"))
        .ok();
    page.wait_for(
        LIMIT,
        "document.getElementById('count-quakes').textContent === '2'",
    )
    .await;
    page.wait_for(LIMIT, "document.getElementById('notice').hidden")
        .await;
    let list = page.eval("document.getElementById('list').innerText").await;
    assert!(
        list.as_str()
            .is_some_and(|list| list.starts_with('–') && list.contains("nowhere")),
        "{list}"
    );
}

#[tokio::test]
async fn records_arrive_in_the_browser_as_they_were_produced() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "mixed"]).ok();
    let records = json!({"records": [
        {"key": "k", "value": "Grüße", "headers": {"unit": "°C"}, "timestamp": 1_500_000_000_000_u64},
        {"key": null, "value": null, "timestamp": 1_500_000_000_001_u64},
        {"key": "", "value": "", "timestamp": 1_500_000_000_002_u64},
        {"value": {"mag": 4.5}, "timestamp": 1_500_000_000_003_u64},
    ]});
    broker.post("/v1/topics/mixed/records", &records).ok();
    let browser = Browser::launch();
    let mut page = browser.open(&broker.url()).await;
    let got = page
        .eval(
            r#"(async () => {
                const { default: init, EddyClient } = await import("/eddy.js");
                await init();
                const got = [];
                await new Promise((done, failed) => new EddyClient().subscribe({ topic: "mixed", from: "earliest" }, (batch) => {
                    for (const record of batch) {
                        const headers = record.headers.map(([name, bytes]) => [name, new TextDecoder().decode(bytes)]);
                        got.push([record.offset, record.timestamp, record.key, record.value, headers]);
                    }
                    if (got.length === 4) done();
                }).catch(failed));
                return got;
            })()"#,
        )
        .await;
    let expected = json!([
        [0, 1_500_000_000_000_u64, "k", "Grüße", [["unit", "°C"]]],
        [1, 1_500_000_000_001_u64, null, null, []],
        [2, 1_500_000_000_002_u64, "", "", []],
        [3, 1_500_000_000_003_u64, null, r#"{"mag":4.5}"#, []],
    ]);
    assert_eq!(got, expected);
}

#[tokio::test]
async fn what_a_page_produces_is_in_the_log_once_although_the_broker_was_killed() {
    let mut broker = Broker::start();
    broker
        .eddy(&["topic", "create", "made", "--partitions", "2"])
        .ok();
    let browser = Browser::launch();
    let mut page = browser.open(&broker.url()).await;
    page.eval(
        r#"(async () => {
            const { default: init, EddyClient } = await import("/eddy.js");
            await init();
            const client = new EddyClient();
            window.answered = 0;
            const send = (n) => client.produce("made", [{ key: `k${n}`, value: `v${n}` }]).then(() => answered++);
            window.made = (async () => {
                const flying = [];
                for (let n = 0; n < 400; n++) {
                    flying.push(send(n));
                    await new Promise((done) => setTimeout(done, 5));
                }
                await Promise.all(flying);
                return answered;
            })();
        })()"#,
    )
    .await;
    page.wait_for(LIMIT, "answered >= 50").await;
    broker.kill9();
    broker.restart();
    assert_eq!(page.eval("made").await, 400);
    let mut values: Vec<_> = broker
        .eddy(&["sub", "made", "--from", "earliest", "--count", "400"])
        .ok()
        .lines()
        .map(str::to_owned)
        .collect();
    let mut expected: Vec<_> = (0..400).map(|n| format!("v{n}")).collect();
    values.sort();
    expected.sort();
    assert_eq!(values, expected);
    assert_eq!(ends(&broker, "made").iter().sum::<u64>(), 400);
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused_a_websocket_and_a_write() {
    let broker = Broker::start();
    broker.eddy(&["topic", "create", "quakes"]).ok();
    let browser = Browser::launch();
    let socket = format!(
        "new Promise((done) => {{
            const socket = new WebSocket('{}', 'eddy.v1');
            socket.onopen = () => done('opened');
            socket.onerror = () => done('refused');
        }})",
        broker.ws_url()
    );
    let mut own = browser.open(&broker.url()).await;
    assert_eq!(own.eval(&socket).await, "opened");

    let mut other = browser.open(&format!("http://{}/", elsewhere())).await;
    assert_eq!(other.eval(&socket).await, "refused");
    let write = format!(
        "fetch('{}/v1/topics/quakes/records', {{ method: 'POST', mode: 'no-cors', body: '{{\"a\":1}}' }}).then(() => 'sent')",
        broker.url()
    );
    assert_eq!(other.eval(&write).await, "sent");
    assert_eq!(ends(&broker, "quakes"), [0]);
}

/// The topics and the plugin of the demo.
fn prepare_earthquakes(broker: &Broker) {
    broker
        .eddy(&["topic", "create", "quakes", "--partitions", "3"])
        .ok();
    broker.eddy(&["topic", "create", "strong"]).ok();
    broker
        .eddy(&[
            "plugin",
            "push",
            &artefact::plugin("json-filter").to_string_lossy(),
        ])
        .ok();
    broker
        .eddy(&[
            "deploy",
            "strong",
            "--plugin",
            "json-filter",
            "--from",
            "quakes",
            "--to",
            "strong",
            "--param",
            "where=mag >= 4.5",
        ])
        .ok();
}

/// The next offset of each partition, once the broker answers.
fn ends(broker: &Broker, topic: &str) -> Vec<u64> {
    let path = format!("/v1/topics/{topic}");
    let described = wait_until(LIMIT, "the broker should describe the topic", || {
        let answer = broker.get(&path);
        (answer.status == 200).then(|| answer.json())
    });
    let partitions = described["partitions"]
        .as_array()
        .expect("a topic has partitions");
    partitions
        .iter()
        .map(|partition| partition["end"].as_u64().expect("a partition has an end"))
        .collect()
}

fn all(offsets: Range<u64>) -> Value {
    offsets.collect::<Vec<_>>().into()
}

/// A web server that is not the broker: any path is an empty page.
fn elsewhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("a listener has an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 4096];
            // What was asked does not matter.
            let _ = stream.read(&mut request);
            let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 9\r\nconnection: close\r\n\r\n<p>hi</p>";
            let _ = stream.write_all(page.as_bytes());
        }
    });
    address
}

async fn photograph(page: &mut browser::Page, name: &str) {
    page.screenshot(
        &artefact::target()
            .join("browser")
            .join(format!("{name}.png")),
    )
    .await;
}
