//! Deployments at work: exactly once whatever comes between, and only a
//! plugin's own fault stops one.

use eddy_protocol::admin::{DeploymentInfo, DeploymentSpec, DeploymentState, LimitsSpec};
use eddy_protocol::frame::AlterTopic;

use super::*;
use crate::broker::tests::deploying::*;
use crate::log::{Change, Table};

async fn world(config: Config) -> Arc<Broker> {
    world_on(&ground(), config).await
}

#[tokio::test]
async fn a_trap_with_commits_under_way_loses_and_repeats_none_of_them() {
    let ground = ground();
    let broker = world_on(&ground, config()).await;
    for value in numbered(0..50) {
        broker.append("in", &[&value]).await;
    }
    broker.append("in", &["!"]).await;
    broker.append("in", &["after"]).await;
    broker.with_deployment("fragile").await;
    let stopped = |info: &DeploymentInfo| info.state == DeploymentState::Stopped;
    let info = broker.until("the trap", stopped).await;
    let reason = info.reason.expect("a reason");
    assert!(
        reason.contains("partition 0") && reason.contains("offset 50"),
        "{reason}"
    );
    // Everything before the trap is there, and the position shown is the one in the store.
    assert_eq!(broker.values("out", 0).await, numbered(0..50));
    assert_eq!(info.partitions[0].position, 50);
    assert_eq!(info.partitions[0].records_out, 50);
    within("closing", broker.close()).await;
    drop(broker);
    ground.crash();
    let info = ground.broker(config()).await.shown();
    assert_eq!(info.reason, Some(reason));
    assert_eq!(info.partitions[0].position, 50);
}

#[tokio::test]
async fn a_replacement_of_a_stopped_deployment_goes_on_where_it_stopped() {
    let ground = ground();
    let broker = world_on(&ground, config()).await;
    broker.append("in", &["a", "b"]).await;
    broker.append("in", &["!"]).await;
    broker.append("in", &["c"]).await;
    broker.with_deployment("fragile").await;
    broker
        .until("the trap", |info| info.state == DeploymentState::Stopped)
        .await;
    let replaced = within("replacing", broker.replace_deployment(spec("all"))).await;
    assert_eq!(replaced.expect("replaced").version, 2);
    let info = broker.caught_up().await;
    assert_eq!((info.version, info.reason), (2, None));
    assert_eq!(broker.values("out", 0).await, ["a", "b", "!", "c"]);
    within("closing", broker.close()).await;
    drop(broker);
    ground.crash();
    let broker = ground.broker(config()).await;
    broker.append("in", &["d"]).await;
    assert_eq!(broker.caught_up().await.version, 2);
    assert_eq!(broker.values("out", 0).await, ["a", "b", "!", "c", "d"]);
}

#[tokio::test]
async fn replacements_of_a_deployment_at_work_repeat_and_lose_nothing() {
    let broker = world(config()).await;
    broker.with_deployment("all").await;
    for round in 0..10 {
        for value in numbered(round * 20..(round + 1) * 20) {
            broker.append("in", &[&value]).await;
        }
        let plugin = if round % 2 == 0 { "fragile" } else { "all" };
        let replaced = within("replacing", broker.replace_deployment(spec(plugin))).await;
        assert_eq!(replaced.expect("replaced").version, 2 + round as u32);
    }
    broker.caught_up().await;
    assert_eq!(broker.values("out", 0).await, numbered(0..200));
    assert_eq!(
        broker.engine.instances(),
        1,
        "each replacement takes the old place"
    );
}

#[tokio::test]
async fn a_replacement_that_is_refused_leaves_the_deployment_as_it_was() {
    let broker = world(config()).await;
    broker
        .with_topic("other", 1, TopicSettings::default())
        .await;
    refused(
        within("replacing", broker.replace_deployment(spec("all"))).await,
        ErrorCode::UnknownDeployment,
        "`d`",
    );
    broker.with_deployment("all").await;
    let elsewhere = DeploymentSpec {
        from: name("other"),
        ..spec("all")
    };
    for (spec, code, words) in [
        (elsewhere, ErrorCode::Inconsistent, "`other`"),
        (spec("missing"), ErrorCode::UnknownPlugin, "`missing`"),
    ] {
        let outcome = within("replacing", broker.replace_deployment(spec)).await;
        refused(outcome, code, words);
    }
    broker.append("in", &["a"]).await;
    assert_eq!(broker.caught_up().await.version, 1);
}

#[tokio::test]
async fn who_asks_may_go_away_without_leaving_half_a_change() {
    let broker = world(config()).await;
    for round in 0..20 {
        let mut deploying = std::pin::pin!(broker.deploy(spec("all")));
        for _ in 0..round {
            if futures_done(deploying.as_mut()).await {
                break;
            }
        }
    }
    // Whoever came first, the deployment is there and at work.
    eventually("a deployment", || broker.deployment("d").is_ok()).await;
    broker.append("in", &["a"]).await;
    broker.caught_up().await;
    assert_eq!(broker.values("out", 0).await, ["a"]);
}

/// Polls once and lets others work.
async fn futures_done(future: std::pin::Pin<&mut impl Future>) -> bool {
    let mut future = future;
    let polled =
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready()));
    let done = polled.await;
    tokio::task::yield_now().await;
    done
}

#[tokio::test]
async fn a_deployment_is_let_in_only_with_a_place_for_each_partition() {
    let broker = world(config()).await;
    broker
        .with_topic("wide", 17, TopicSettings::default())
        .await;
    let wide = DeploymentSpec {
        from: name("wide"),
        ..spec("all")
    };
    refused(
        within("deploying", broker.deploy(wide)).await,
        ErrorCode::TooMany,
        "it takes 17 plugin instances, and 16 of 16 places are free",
    );
    assert_eq!(broker.engine.instances(), 0);
}

#[tokio::test]
async fn a_partition_without_a_place_waits_for_one_and_says_so() {
    let broker = world(config()).await;
    let taken = broker.engine.reserve(14).expect("room");
    broker.with_deployment("all").await;
    let grown: AlterTopic =
        serde_json::from_str(r#"{"topic":"in","partitions":3}"#).expect("a request");
    broker.alter_topic(grown).await.expect("altered");
    let waits = |info: &DeploymentInfo| info.reason.is_some() && info.partitions.len() == 3;
    let info = broker.until("a lack of places", waits).await;
    assert_eq!(info.state, DeploymentState::Starting);
    assert!(info.reason.expect("a reason").contains("places are free"));
    drop(taken);
    let info = broker.caught_up().await;
    assert_eq!((info.partitions.len(), info.reason), (3, None));
}

#[tokio::test]
async fn batches_that_expand_reach_a_plugin_in_parts_that_it_has_memory_for() {
    let broker = world(Config::default()).await;
    let value = vec![b'z'; 400_000];
    for _ in 0..4 {
        let mut batch = BatchBuilder::default();
        for _ in 0..10 {
            batch.push(1, None, Some(&value), &[]).expect("small");
        }
        let batch = batch.finish(Compression::Zstd, None).expect("a batch");
        let pending = broker.produce(Produce {
            topic: name("in"),
            partition: Some(0),
            batch: batch.into(),
        });
        within("producing", pending.expect("accepted").answer())
            .await
            .expect("durable");
    }
    // 4 MB in a batch, 16 MB in what is read at once.
    let modest = DeploymentSpec {
        limits: LimitsSpec {
            memory_bytes_max: Some(2 << 20),
            ..LimitsSpec::default()
        },
        ..spec("all")
    };
    within("deploying", broker.deploy(modest))
        .await
        .expect("deployed");
    let info = broker.caught_up().await;
    assert_eq!(info.partitions[0].records_out, 40);
}

#[tokio::test]
async fn what_was_gathered_is_cut_to_the_largest_batch_again() {
    let small = Config {
        batch_bytes_max: 1 << 10,
        ..Config::default()
    };
    let broker = world(small).await;
    let values: Vec<String> = (0..100).map(|number| format!("{number:0200}")).collect();
    for value in &values {
        broker.append("in", &[value]).await;
    }
    broker.with_deployment("all").await;
    broker.caught_up().await;
    assert_eq!(broker.values("out", 0).await, values);
}

#[tokio::test]
async fn a_replacement_needs_no_place_beside_those_that_there_are() {
    let broker = world(config()).await;
    broker.with_deployment("all").await;
    let _taken = broker.engine.reserve(15).expect("room");
    let replaced = within("replacing", broker.replace_deployment(spec("fragile"))).await;
    assert_eq!(replaced.expect("replaced").version, 2);
    broker.append("in", &["a"]).await;
    broker.caught_up().await;
}

#[tokio::test]
async fn a_stopped_deployment_leaves_its_place_to_others() {
    let broker = world(config()).await;
    broker.append("in", &["!"]).await;
    broker.with_deployment("fragile").await;
    broker
        .until("the trap", |info| info.state == DeploymentState::Stopped)
        .await;
    eventually("the place", || broker.engine.instances() == 0).await;
    let taken = broker.engine.reserve(16).expect("room");
    refused(
        within("replacing", broker.replace_deployment(spec("all"))).await,
        ErrorCode::TooMany,
        "places are free",
    );
    drop(taken);
    within("replacing", broker.replace_deployment(spec("all")))
        .await
        .expect("replaced");
    broker.caught_up().await;
    assert_eq!(broker.values("out", 0).await, ["!"]);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_kept_and_hinders_nobody() {
    let ground = ground();
    let broker = world_on(&ground, config()).await;
    let put = |table, key: &'static str| Change::Put {
        table,
        key: key.into(),
        value: "of another time".into(),
    };
    let changes = vec![put(Table::Deployments, "old"), put(Table::Plugins, "odd")];
    broker.change(changes).await.expect("written");
    broker.with_deployment("all").await;
    within("closing", broker.close()).await;
    drop(broker);
    ground.crash();
    let broker = ground.broker(config()).await;
    broker.append("in", &["a"]).await;
    broker.caught_up().await;
    assert_eq!(broker.plugins().await.expect("the others").len(), 2);
    let unreadable = broker.unreadable().await.expect("a list");
    let shown: Vec<_> = unreadable.iter().map(|it| (&*it.kind, &*it.name)).collect();
    assert_eq!(shown, [("deployment", "old"), ("plugin", "odd")]);
    assert!(unreadable.iter().all(|it| !it.reason.is_empty()));
    let named_so = DeploymentSpec {
        name: "old".to_owned(),
        ..spec("all")
    };
    refused(
        within("deploying", broker.deploy(named_so)).await,
        ErrorCode::StorageFailed,
        "can't be read",
    );
    refused(
        broker.deployment("old"),
        ErrorCode::StorageFailed,
        "delete or replace it",
    );
    within("deleting", broker.delete_plugin("odd"))
        .await
        .expect("deleted");
    within("deleting", broker.delete_deployment("old"))
        .await
        .expect("deleted");
    assert_eq!(broker.unreadable().await, Ok(Vec::new()));
    refused(
        broker.deployment("old"),
        ErrorCode::UnknownDeployment,
        "`old`",
    );
}

#[tokio::test]
async fn a_deployment_and_a_plugin_that_cannot_be_read_can_be_replaced() {
    let ground = ground();
    let broker = world_on(&ground, config()).await;
    let put = |table, key: &'static str| Change::Put {
        table,
        key: key.into(),
        value: "of another time".into(),
    };
    let changes = vec![put(Table::Deployments, "d"), put(Table::Plugins, "odd")];
    broker.change(changes).await.expect("written");
    within("closing", broker.close()).await;
    drop(broker);
    ground.crash();
    let broker = ground.broker(config()).await;
    broker.append("in", &["a"]).await;
    broker.with_plugin("odd", Guest::default()).await;
    let replaced = within("replacing", broker.replace_deployment(spec("odd"))).await;
    assert_eq!(replaced.expect("replaced").version, 1);
    broker.caught_up().await;
    assert_eq!(broker.values("out", 0).await, ["a"]);
    assert_eq!(broker.unreadable().await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_plugin_that_is_tried_out_holds_up_no_other_change() {
    let broker = world(config()).await;
    broker
        .with_topic("other", 1, TopicSettings::default())
        .await;
    let trial = broker.deployments.trial.lock().await;
    let deploying = tokio::spawn({
        let broker = broker.clone();
        async move { broker.deploy(spec("all")).await }
    });
    tokio::task::yield_now().await;
    within("deleting", broker.delete_topic(&name("other")))
        .await
        .expect("nobody uses it");
    within("deleting", broker.delete_plugin("fragile"))
        .await
        .expect("nobody uses it");
    assert!(!deploying.is_finished());
    drop(trial);
    let deployed = within("deploying", deploying).await;
    deployed.expect("no panic").expect("deployed");
}
