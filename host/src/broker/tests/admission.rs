//! Deployments that are let in, and those that are not.

use eddy_protocol::admin::{DeploymentSpec, LimitsSpec};

use super::*;

fn spec(deployment: &str, from: &str, to: &[(&str, &str)]) -> DeploymentSpec {
    DeploymentSpec {
        name: deployment.to_owned(),
        plugin: "all".to_owned(),
        from: name(from),
        to: (to.iter())
            .map(|(port, topic)| ((*port).to_owned(), name(topic)))
            .collect(),
        params: BTreeMap::new(),
        start: Start::Earliest,
        limits: LimitsSpec::default(),
    }
}

async fn deploy(broker: &Arc<Broker>, spec: DeploymentSpec) -> Result<(), WireError> {
    within("deploying", broker.deploy(spec)).await.map(drop)
}

async fn with_topics(topics: &[&str]) -> Arc<Broker> {
    let broker = broker().await;
    for topic in topics {
        broker.with_topic(topic, 1, TopicSettings::default()).await;
    }
    broker.with_plugin("all", Guest::default()).await;
    broker
}

#[tokio::test]
async fn records_never_go_round_however_many_deployments_it_would_take() {
    let broker = with_topics(&["a", "b", "c", "d"]).await;
    refused(
        deploy(&broker, spec("self", "a", &[("out", "a")])).await,
        ErrorCode::Inconsistent,
        "go round for ever",
    );
    for (name, from, to) in [("one", "a", "b"), ("two", "b", "c")] {
        deploy(&broker, spec(name, from, &[("out", to)]))
            .await
            .expect("no circle");
    }
    // By one of several ports, over two others.
    let back = spec("back", "c", &[("other", "a"), ("out", "d")]);
    refused(
        deploy(&broker, back.clone()).await,
        ErrorCode::Inconsistent,
        "go round for ever",
    );
    // A diamond is no circle.
    deploy(&broker, spec("short", "a", &[("out", "c")]))
        .await
        .expect("no circle");
    // What was in the way is gone.
    for gone in ["two", "short"] {
        within("deleting", broker.delete_deployment(gone))
            .await
            .expect("deleted");
    }
    deploy(&broker, back).await.expect("no circle any more");
}

#[tokio::test]
async fn what_a_deployment_names_must_be_there() {
    let broker = with_topics(&["a", "b"]).await;
    let unknown_plugin = DeploymentSpec {
        plugin: "nothing".to_owned(),
        ..spec("x", "a", &[("out", "b")])
    };
    for (spec, code, words) in [
        (
            spec("x", "missing", &[("out", "b")]),
            ErrorCode::UnknownTopic,
            "`missing`",
        ),
        (
            spec("x", "a", &[("out", "missing")]),
            ErrorCode::UnknownTopic,
            "`missing`",
        ),
        (unknown_plugin, ErrorCode::UnknownPlugin, "`nothing`"),
        (
            spec("x", "a", &[]),
            ErrorCode::InvalidArgument,
            "needs 1 to 64",
        ),
        (
            spec("x", "a", &[("no port", "b")]),
            ErrorCode::InvalidName,
            "can't name a port",
        ),
        (
            spec("no/name", "a", &[("out", "b")]),
            ErrorCode::InvalidName,
            "can't name a deployment",
        ),
    ] {
        refused(deploy(&broker, spec).await, code, words);
    }
    assert_eq!(broker.deployments(), []);
    deploy(&broker, spec("x", "a", &[("out", "b")]))
        .await
        .expect("all of it is there");
    // Whatever its plugin is: that is not looked at.
    let unknown_plugin = DeploymentSpec {
        plugin: "nothing".to_owned(),
        ..spec("x", "a", &[("out", "b")])
    };
    for again in [spec("x", "a", &[("out", "b")]), unknown_plugin] {
        let outcome = deploy(&broker, again).await;
        refused(outcome, ErrorCode::DeploymentExists, "`x`");
    }
}

#[tokio::test]
async fn limits_are_narrowed_never_widened() {
    let broker = with_topics(&["a", "b"]).await;
    let most = broker.engine.config().limits();
    let with = |limits: LimitsSpec| DeploymentSpec {
        limits,
        ..spec("x", "a", &[("out", "b")])
    };
    let memory = |bytes| LimitsSpec {
        memory_bytes_max: Some(bytes),
        ..LimitsSpec::default()
    };
    let output = |bytes| LimitsSpec {
        output_bytes_max: Some(bytes),
        ..LimitsSpec::default()
    };
    let time = |ms| LimitsSpec {
        batch_time_max_ms: Some(ms),
        ..LimitsSpec::default()
    };
    for (limits, words) in [
        (memory(most.memory_bytes_max as u64 + 1), "memory_bytes_max"),
        (memory(0), "memory_bytes_max"),
        (output(most.output_bytes_max as u64 + 1), "output_bytes_max"),
        (
            time(most.batch_time_max.as_millis() as u64 + 1),
            "batch_time_max_ms",
        ),
        (time(0), "batch_time_max_ms"),
    ] {
        let outcome = deploy(&broker, with(limits)).await;
        refused(outcome, ErrorCode::InvalidArgument, words);
    }
    deploy(&broker, with(memory(most.memory_bytes_max as u64)))
        .await
        .expect("as much as there is");
}
