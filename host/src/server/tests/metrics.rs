//! What a broker does moves its numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use eddy_protocol::admin::DeploymentSpec;
use eddy_protocol::batch::BatchBuilder;
use eddy_protocol::frame::{
    ClientFrame, CreateTopic, Filter, Hello, Position, Produce, Request, SUBPROTOCOL_JSON,
    ServerFrame, Start, Subscribe,
};
use eddy_protocol::{Compression, Form, TopicName, codec};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::*;
use crate::guest::Guest;

/// Counted only where there are too many connections, which is another test's.
const ELSEWHERE: &[&str] = &["eddy_connections_refused_total"];

/// A client over JSON.
struct Client {
    socket: WebSocketStream<TcpStream>,
    requests: u32,
}

impl Client {
    async fn connect(address: SocketAddr) -> Client {
        let mut request = format!("ws://{address}/v1/ws")
            .into_client_request()
            .expect("a request");
        request.headers_mut().insert(
            "sec-websocket-protocol",
            SUBPROTOCOL_JSON.parse().expect("a header"),
        );
        let stream = TcpStream::connect(address).await.expect("the port is open");
        let upgraded = tokio_tungstenite::client_async(request, stream);
        let (socket, _) = within("the handshake", upgraded).await.expect("an upgrade");
        let mut client = Client {
            socket,
            requests: 0,
        };
        let client_name = "test".to_owned();
        client
            .ask(Request::Hello(Hello {
                client: client_name,
                ..Hello::default()
            }))
            .await;
        client
    }

    async fn ask(&mut self, request: Request) {
        self.requests += 1;
        let id = self.requests;
        let frame = ClientFrame { id, request };
        let text = codec::encode_client(&frame, Form::Json).expect("a frame");
        let text = String::from_utf8(text.into()).expect("JSON is text");
        let sent = self.socket.send(Message::text(text));
        within("sending", sent).await.expect("the socket takes it");
        self.until(|frame| matches!(frame, ServerFrame::Answer { .. }))
            .await;
    }

    async fn subscribe(&mut self, filter: Option<&str>, resume: Vec<Position>) {
        self.ask(Request::Subscribe(Subscribe {
            topic: topic("measured"),
            partitions: Vec::new(),
            from: Start::Latest,
            resume,
            filter: filter.map(|plugin| Filter {
                plugin: plugin.to_owned(),
                params: BTreeMap::new(),
            }),
        }))
        .await;
    }

    async fn until(&mut self, wanted: impl Fn(&ServerFrame) -> bool) {
        loop {
            let message = within("a frame", self.socket.next()).await;
            let message = message.expect("the connection holds").expect("a message");
            if !message.is_text() {
                continue;
            }
            let frame = codec::decode_server(&message.into_data(), Form::Json).expect("a frame");
            assert!(!matches!(frame, ServerFrame::Error { .. }), "{frame:?}");
            if wanted(&frame) {
                return;
            }
        }
    }

    async fn until_delivered(&mut self) {
        self.until(|frame| matches!(frame, ServerFrame::Deliver(_)))
            .await;
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("a name")
}

fn create(name: &str) -> CreateTopic {
    CreateTopic {
        topic: topic(name),
        partitions: 1,
        settings: Default::default(),
    }
}

fn spec(name: &str, plugin: &str, to: &str) -> DeploymentSpec {
    DeploymentSpec {
        name: name.to_owned(),
        plugin: plugin.to_owned(),
        from: topic("measured"),
        to: BTreeMap::from([("out".to_owned(), topic(to))]),
        params: BTreeMap::new(),
        start: Start::Earliest,
        limits: Default::default(),
    }
}

async fn produce(broker: &Broker, records: u32) {
    let mut batch = BatchBuilder::default();
    for _ in 0..records {
        batch
            .push(1, None, Some(b"0123456789"), &[])
            .expect("small");
    }
    let batch = batch.finish(Compression::None, None).expect("a batch");
    let pending = broker.produce(Produce {
        topic: topic("measured"),
        partition: Some(0),
        batch: batch.into(),
    });
    within("producing", pending.expect("accepted").answer())
        .await
        .expect("durable");
}

/// Waits until a deployment is as `done` wants it.
async fn until_deployment(
    broker: &Broker,
    name: &str,
    done: impl Fn(&eddy_protocol::admin::DeploymentInfo) -> bool,
) {
    let found = async {
        while !done(&broker.deployment(name).expect("it is deployed")) {
            tokio::task::yield_now().await;
        }
    };
    within(name, found).await;
}

/// The page of numbers, as a scrape gets it.
async fn scrape(server: &Running) -> String {
    let mut stream = server.connect().await;
    let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    send(&mut stream, request).await;
    rest(&mut stream).await
}

/// The value of a series, 0 where it is not there yet.
fn value(text: &str, series: &str) -> f64 {
    let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    lines
        .find(|(name, _)| *name == series)
        .map_or(0.0, |(_, value)| value.parse().expect("a number"))
}

/// One batch of five records goes to two subscribers with the same filter, one
/// without and one that was cut off by a loss of history, through a plugin that
/// keeps everything, and to one that traps.
#[tokio::test]
async fn what_the_broker_does_moves_its_numbers() {
    let (server, broker) = start_with_broker().await;
    let before = scrape(&server).await;
    for name in ["measured", "measured-out"] {
        broker.create_topic(create(name)).await.expect("a topic");
    }
    broker
        .create_topic(create("measured"))
        .await
        .expect_err("there is one");
    let keeps = Guest::default().component();
    let traps = Guest {
        process: "unreachable",
        ..Guest::default()
    };
    for (name, wasm) in [("keeps", keeps), ("traps", traps.component())] {
        broker.push_plugin(name, wasm).await.expect("a plugin");
    }
    let (mut one, mut two) = (
        Client::connect(server.address).await,
        Client::connect(server.address).await,
    );
    one.subscribe(Some("keeps"), Vec::new()).await;
    two.subscribe(Some("keeps"), Vec::new()).await;
    let lost = Position {
        partition: 0,
        offset: 0,
        epoch: u32::MAX,
    };
    two.subscribe(None, vec![lost]).await;
    two.until(|frame| matches!(frame, ServerFrame::Gap(_)))
        .await;

    produce(&broker, 5).await;
    one.until_delivered().await;
    two.until_delivered().await;
    two.until_delivered().await;
    for spec in [
        spec("measured-keeps", "keeps", "measured-out"),
        spec("measured-traps", "traps", "measured-out"),
    ] {
        broker.deploy(spec).await.expect("deployed");
    }
    until_deployment(&broker, "measured-keeps", |info| {
        info.partitions.iter().all(|partition| partition.lag == 0)
    })
    .await;
    until_deployment(&broker, "measured-traps", |info| info.reason.is_some()).await;
    let after = scrape(&server).await;

    for (series, expected) in [
        (r#"eddy_produced_records_total{topic="measured"}"#, 5.0),
        (r#"eddy_produced_batches_total{topic="measured"}"#, 1.0),
        (r#"eddy_produced_records_total{topic="measured-out"}"#, 5.0),
        (r#"eddy_delivered_records_total{topic="measured"}"#, 15.0),
        (r#"eddy_filter_evaluations_total{topic="measured"}"#, 1.0),
        (
            r#"eddy_plugin_calls_total{deployment="measured-keeps"}"#,
            1.0,
        ),
        (
            r#"eddy_plugin_records_total{deployment="measured-keeps"}"#,
            5.0,
        ),
        (
            r#"eddy_plugin_failures_total{deployment="measured-keeps"}"#,
            0.0,
        ),
        (
            r#"eddy_plugin_failures_total{deployment="measured-traps"}"#,
            1.0,
        ),
        (
            r#"eddy_deployment_lag_records{deployment="measured-keeps"}"#,
            0.0,
        ),
        (
            r#"eddy_deployment_lag_records{deployment="measured-traps"}"#,
            5.0,
        ),
        (r#"eddy_deployments{state="running"}"#, 1.0),
        (r#"eddy_deployments{state="stopped"}"#, 1.0),
    ] {
        assert_eq!(value(&after, series), expected, "{series}\n{after}");
    }
    for (series, least) in [
        (r#"eddy_produced_bytes_total{topic="measured"}"#, 50.0),
        (r#"eddy_delivered_bytes_total{topic="measured"}"#, 150.0),
        ("eddy_commits_total", 4.0),
        (r#"eddy_commits_refused_total{code="topic_exists"}"#, 1.0),
        ("eddy_journal_groups_total", 4.0),
        ("eddy_journal_bytes_total", 50.0),
        ("eddy_journal_syncs_total", 4.0),
        ("eddy_journal_sync_seconds_count", 4.0),
        ("eddy_plugin_seconds_count", 3.0),
        ("eddy_deployments_failed_total", 1.0),
        ("eddy_gaps_total", 1.0),
        ("eddy_connections_accepted_total", 3.0),
    ] {
        let moved = value(&after, series) - value(&before, series);
        assert!(moved >= least, "{series} moved by {moved}\n{after}");
    }
    assert!(value(&after, "eddy_subscriptions") >= 3.0, "{after}");
    assert!(value(&after, "eddy_ws_connections") >= 2.0, "{after}");

    server.stop().await;
    let last = Metrics::install().render();
    for name in names::ALL.iter().filter(|name| !ELSEWHERE.contains(name)) {
        let counted = last.lines().any(|line| line.starts_with(name));
        assert!(counted, "nobody counts {name}\n{last}");
    }
}

async fn start_with_broker() -> (Running, Arc<Broker>) {
    let mut broker = None;
    let running = start_and(|_| {}, |server| broker = Some(server.broker.clone())).await;
    (running, broker.expect("the server was shown"))
}
