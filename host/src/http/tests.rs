//! The front over a real broker in a temporary folder, without a socket.

mod records;
mod requests;
mod resources;

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
        notices: Arc::new([]),
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
