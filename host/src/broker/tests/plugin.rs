//! What is kept of plugins, and for how long.

use eddy_protocol::admin::DeploymentSpec;

use super::*;

/// Another plugin for each number.
fn numbered(number: usize) -> String {
    format!("(drop (i32.const {number})) (i32.const 64)")
}

async fn push(broker: &Arc<Broker>, plugin: &str, number: usize) -> String {
    let guest = Guest {
        process: &numbered(number),
        ..Guest::default()
    };
    let pushed = within("pushing", broker.push_plugin(plugin, guest.component())).await;
    pushed.expect("a plugin").digest
}

/// The digests of which there are artefacts, and of which there is compiled code.
fn kept(broker: &Broker) -> (Vec<String>, Vec<String>) {
    let names = broker.blobs.clone().list().expect("blobs");
    let of = |kind: &str| {
        let mut digests: Vec<String> = names
            .iter()
            .filter(|name| name.ends_with(kind))
            .map(|name| name.chars().take(64).collect())
            .collect();
        digests.sort();
        digests
    };
    (of(".wasm"), of(".compiled"))
}

#[tokio::test]
async fn only_what_has_a_name_or_a_deployment_is_kept() {
    let ground = ground();
    let broker = ground.broker(Config::default()).await;
    for topic in ["a", "b"] {
        broker.with_topic(topic, 1, TopicSettings::default()).await;
    }
    let deployed = push(&broker, "p", 1).await;
    let spec = serde_json::from_str(r#"{"name":"d","plugin":"p","from":"a","to":"b"}"#);
    within("deploying", broker.deploy(spec.expect("a spec")))
        .await
        .expect("deployed");
    push(&broker, "p", 2).await;
    let named = push(&broker, "p", 3).await;
    let mut both = vec![deployed.clone(), named.clone()];
    both.sort();
    assert_eq!(kept(&broker), (both.clone(), both));
    assert_eq!(broker.compiled.len(), 2);
    within("deleting", broker.delete_deployment("d"))
        .await
        .expect("deleted");
    within("deleting", broker.delete_plugin("p"))
        .await
        .expect("deleted");
    assert_eq!(kept(&broker), (vec![], vec![]));
    assert_eq!(broker.compiled.len(), 0);
}

#[tokio::test]
async fn code_of_another_engine_is_removed_at_the_start() {
    let ground = ground();
    let broker = ground.broker(Config::default()).await;
    let digest = push(&broker, "p", 1).await;
    let blobs = broker.blobs.clone();
    let old = format!("{digest}-0123456789abcdef.compiled");
    blobs.write(&old, b"code of long ago").expect("room");
    within("closing", broker.close()).await;
    drop(broker);
    ground.crash();
    let broker = ground.broker(Config::default()).await;
    let digests = vec![digest];
    assert_eq!(kept(&broker), (digests.clone(), digests));
    assert!(!blobs.list().is_ok_and(|names| names.contains(&old)));
}

#[tokio::test]
async fn what_is_no_plugin_is_the_fault_of_who_pushes_it() {
    let broker = broker().await;
    let module = wat::parse_str("(component (core module (memory 2000)))").expect("text");
    for wasm in [module.into(), b"junk"[..].into()] {
        let outcome = within("pushing", broker.push_plugin("p", wasm)).await;
        refused(outcome, ErrorCode::InvalidPlugin, "plugin `p`");
    }
    let empty = wat::parse_str("(component)").expect("text");
    let outcome = within("pushing", broker.push_plugin("p", empty.into())).await;
    refused(outcome, ErrorCode::InvalidPlugin, "plugin `p`");
    assert_eq!(
        kept(&broker),
        (vec![], vec![]),
        "no code of what is refused"
    );
    for topic in ["a", "b"] {
        broker.with_topic(topic, 1, TopicSettings::default()).await;
    }
    let trapping = Guest {
        init: "unreachable",
        ..Guest::default()
    };
    broker.with_plugin("p", trapping).await;
    let spec = serde_json::from_str(r#"{"name":"d","plugin":"p","from":"a","to":"b"}"#);
    refused(
        within("deploying", broker.deploy(spec.expect("a spec"))).await,
        ErrorCode::PluginRefused,
        "deployment `d`",
    );
}

#[tokio::test]
async fn a_plugin_is_not_named_as_another_ones_digest() {
    let broker = broker().await;
    let digest = push(&broker, "p", 1).await;
    let wasm = Guest::default().component();
    refused(
        within("pushing", broker.push_plugin(&digest, wasm)).await,
        ErrorCode::InvalidName,
        "looks like a digest",
    );
}

#[tokio::test]
async fn what_a_deployment_ran_before_its_last_replacement_is_the_way_back() {
    let broker = broker().await;
    for topic in ["a", "b"] {
        broker.with_topic(topic, 1, TopicSettings::default()).await;
    }
    let spec = |plugin: &str| -> DeploymentSpec {
        let json = format!(r#"{{"name":"d","plugin":"{plugin}","from":"a","to":"b"}}"#);
        serde_json::from_str(&json).expect("a spec")
    };
    let first = push(&broker, "p", 1).await;
    within("deploying", broker.deploy(spec("p")))
        .await
        .expect("deployed");
    let second = push(&broker, "p", 2).await;
    let plugins = broker.plugins().await.expect("a list");
    let shown: Vec<_> = plugins
        .iter()
        .map(|it| (&*it.name, &*it.digest, it.superseded, it.deployments.len()))
        .collect();
    let expected = [("p", &*second, false, 0), ("p", &*first, true, 1)];
    assert_eq!(shown, expected);
    assert!(plugins[1].bytes > 0);
    assert_eq!(broker.plugin("p").await.expect("named").digest, second);
    let info = broker.plugin(&first).await.expect("by its digest");
    assert!(info.superseded);
    for (plugin, runs) in [
        (&first, &first),
        (&"p".to_owned(), &second),
        (&first, &first),
    ] {
        let replaced = within("replacing", broker.replace_deployment(spec(plugin))).await;
        assert_eq!(&replaced.expect("replaced").digest, runs);
        assert_eq!(kept(&broker).0.len(), 2);
    }
    // Only one step back.
    push(&broker, "p", 3).await;
    let replaced = within("replacing", broker.replace_deployment(spec("p"))).await;
    replaced.expect("replaced");
    let mut left = vec![first, broker.plugin("p").await.expect("named").digest];
    left.sort();
    assert_eq!(kept(&broker).0, left);
}
