//! Deployments at work: exactly once whatever comes between, and only a
//! plugin's own fault stops one.

use eddy_protocol::admin::{DeploymentInfo, DeploymentSpec, DeploymentState, LimitsSpec};
use eddy_protocol::frame::{self, AlterTopic};

use super::*;
use crate::io::{CrashKind, Disk, Faults};
use crate::log::{Change, Table};

/// Keeps everything, and traps at a value with an exclamation mark.
const FRAGILE: Guest<'_> = Guest {
    init: "i32.const 0",
    process: "(local $at i32) (local $end i32)
        (local.set $at (i32.load offset=52 (local.get $batch)))
        (local.set $end (i32.add (local.get $at) (i32.load offset=56 (local.get $batch))))
        (block $done
            (loop $next
                (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
                (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 33)) (then unreachable))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br $next)))
        i32.const 64",
    fields: "",
};

fn spec(plugin: &str) -> DeploymentSpec {
    DeploymentSpec {
        name: "d".to_owned(),
        plugin: plugin.to_owned(),
        from: name("in"),
        to: BTreeMap::from([("out".to_owned(), name("out"))]),
        params: BTreeMap::new(),
        start: Start::Earliest,
        limits: LimitsSpec::default(),
    }
}

/// A call for each batch, so that many commits are under way at a time.
fn config() -> Config {
    let deployment = DeploymentConfig {
        chunk_bytes: 32,
        retry_delay: Duration::from_millis(1),
        ..DeploymentConfig::default()
    };
    Config {
        deployment,
        ..Config::default()
    }
}

async fn world_on(disk: &FaultyDisk, config: Config) -> Arc<Broker> {
    let broker = broker_on(disk, config).await;
    for topic in ["in", "out"] {
        broker.with_topic(topic, 1, TopicSettings::default()).await;
    }
    broker.with_plugin("all", Guest::default()).await;
    broker.with_plugin("fragile", FRAGILE).await;
    broker
}

async fn world(config: Config) -> Arc<Broker> {
    world_on(&FaultyDisk::new(7), config).await
}

impl Broker {
    async fn with_deployment(self: &Arc<Self>, plugin: &str) {
        within("deploying", self.deploy(spec(plugin)))
            .await
            .expect("deployed");
    }

    fn shown(&self) -> DeploymentInfo {
        self.deployment("d").expect("it is there")
    }

    async fn until(&self, what: &str, done: impl Fn(&DeploymentInfo) -> bool) -> DeploymentInfo {
        eventually(what, || done(&self.shown())).await;
        self.shown()
    }

    /// Until everything is processed and committed.
    async fn caught_up(&self) -> DeploymentInfo {
        self.until("catching up", |info| {
            info.state == DeploymentState::Running && info.partitions.iter().all(|p| p.lag == 0)
        })
        .await
    }
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn a_trap_with_commits_under_way_loses_and_repeats_none_of_them() {
    let disk = FaultyDisk::new(7);
    let broker = world_on(&disk, config()).await;
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
    disk.crash(CrashKind::Process);
    let info = broker_on(&disk, config()).await.shown();
    assert_eq!(info.reason, Some(reason));
    assert_eq!(info.partitions[0].position, 50);
}

#[tokio::test]
async fn a_replacement_of_a_stopped_deployment_goes_on_where_it_stopped() {
    let disk = FaultyDisk::new(7);
    let broker = world_on(&disk, config()).await;
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
    disk.crash(CrashKind::Process);
    let broker = broker_on(&disk, config()).await;
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
        (elsewhere, ErrorCode::InvalidArgument, "`other`"),
        (spec("missing"), ErrorCode::UnknownPlugin, "`missing`"),
    ] {
        let outcome = within("replacing", broker.replace_deployment(spec)).await;
        refused(outcome, code, words);
    }
    broker.append("in", &["a"]).await;
    assert_eq!(broker.caught_up().await.version, 1);
}

#[tokio::test]
async fn a_full_disk_with_commits_under_way_loses_and_repeats_nothing() {
    let disk = FaultyDisk::new(7);
    let broker = world_on(&disk, config()).await;
    broker.with_deployment("all").await;
    let mut produced = Vec::new();
    for round in 0..5 {
        disk.set_faults(Faults {
            bytes_max: Some(disk.used_bytes() + 6_000),
            ..Faults::default()
        });
        for number in 0.. {
            let value = format!("{round}-{number}");
            match broker.try_append("in", &value).await {
                Ok(_) => produced.push(value),
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::DiskFull, "{error}");
                    break;
                }
            }
        }
        disk.set_faults(Faults::default());
        let room = || broker.health() == Health::Ok;
        eventually("room", room).await;
        broker.caught_up().await;
        assert_eq!(broker.values("out", 0).await, produced, "round {round}");
    }
}

#[tokio::test]
async fn a_deletion_that_the_disk_has_no_room_for_leaves_the_deployment_at_work() {
    let disk = FaultyDisk::new(7);
    let broker = world_on(&disk, config()).await;
    broker.with_deployment("all").await;
    disk.set_faults(Faults {
        bytes_max: Some(disk.used_bytes()),
        ..Faults::default()
    });
    let mut outcome = Ok(());
    while outcome.is_ok() {
        outcome = broker.try_append("in", "filler").await.map(drop);
    }
    refused(
        within("deleting", broker.delete_deployment("d")).await,
        ErrorCode::DiskFull,
        "full",
    );
    disk.set_faults(Faults::default());
    eventually("room", || broker.health() == Health::Ok).await;
    broker.append("in", &["last"]).await;
    broker.caught_up().await;
    let (input, output) = (broker.values("in", 0).await, broker.values("out", 0).await);
    assert_eq!(input, output);
    within("deleting", broker.delete_deployment("d"))
        .await
        .expect("there is room");
    assert_eq!(broker.deployments(), []);
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
async fn a_deployment_goes_on_when_its_partition_is_repaired() {
    let disk = FaultyDisk::new(7);
    let broker = world_on(&disk, config()).await;
    let values: Vec<String> = (10..60).map(|n| format!("value {n}")).collect();
    for value in &values {
        broker.append("in", &[value]).await;
    }
    damage_record(&disk, b"value 15").await;
    broker.with_deployment("all").await;
    let stopped = |info: &DeploymentInfo| info.partitions[0].state == DeploymentState::Stopped;
    broker.until("the damage", stopped).await;
    within("repairing", broker.repair_partition(&name("in"), 0))
        .await
        .expect("it is stopped");
    let info = broker.caught_up().await;
    assert_eq!((info.reason, info.partitions[0].missed), (None, 1));
    let mut rest = values.clone();
    rest.remove(5);
    assert_eq!(broker.values("out", 0).await, rest);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_kept_and_hinders_nobody() {
    let disk = FaultyDisk::new(7);
    let broker = world_on(&disk, config()).await;
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
    disk.crash(CrashKind::Process);
    let broker = broker_on(&disk, config()).await;
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
    let disk = FaultyDisk::new(7);
    let broker = world_on(&disk, config()).await;
    let put = |table, key: &'static str| Change::Put {
        table,
        key: key.into(),
        value: "of another time".into(),
    };
    let changes = vec![put(Table::Deployments, "d"), put(Table::Plugins, "odd")];
    broker.change(changes).await.expect("written");
    within("closing", broker.close()).await;
    drop(broker);
    disk.crash(CrashKind::Process);
    let broker = broker_on(&disk, config()).await;
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

#[tokio::test]
async fn nothing_is_left_out_where_a_repaired_partition_ends_before_a_stored_position() {
    let disk = FaultyDisk::new(7);
    let broker = world_on(&disk, config()).await;
    let values: Vec<String> = (10..22).map(|n| format!("value {n}")).collect();
    for value in &values {
        broker.append("in", &[value]).await;
    }
    broker.with_deployment("all").await;
    broker.caught_up().await;
    let commit = |offset, epoch| frame::Commit {
        appends: Vec::new(),
        group: Some("g".to_owned()),
        cursors: vec![frame::CursorMove {
            topic: name("in"),
            partition: 0,
            offset,
            epoch,
            expect: frame::ExpectedCursor::Any,
        }],
    };
    let moved = broker.commit(commit(12, Some(1))).expect("accepted");
    within("moving", moved.answer()).await.expect("durable");
    // The journal is damaged where "value 15" came, and no segment has it.
    let disk = disk.fork();
    disk.crash(CrashKind::Process);
    for (path, _) in disk.files() {
        if path.starts_with("topics/1/0/") {
            disk.remove(&path).expect("it is there");
        }
        let content = disk.content(&path).unwrap_or_default();
        let found = content.windows(8).position(|window| window == b"value 15");
        if let Some(at) = found.filter(|_| path.starts_with("journal/")) {
            disk.corrupt(&path, at as u64, b"XX");
        }
    }
    let broker = broker_on(&disk, config()).await;
    let stopped = |info: &DeploymentInfo| info.partitions[0].state == DeploymentState::Stopped;
    broker.until("the damage", stopped).await;
    within("repairing", broker.repair_partition(&name("in"), 0))
        .await
        .expect("it is stopped");
    let (_, partition) = broker.partition(&name("in"), 0).expect("it is there");
    assert_eq!((partition.epoch(), partition.end()), (2, 5));

    let cursors = |reset| {
        let broker = broker.clone();
        let request = frame::Cursors {
            group: "g".to_owned(),
            topic: None,
            reset,
        };
        async move { within("reading", broker.cursors(&request)).await }
    };
    let again = |offset| frame::Cursor {
        topic: name("in"),
        partition: 0,
        offset,
        epoch: Some(2),
        lost: Some(frame::LostPosition {
            offset: 12,
            epoch: Some(1),
        }),
    };
    broker.append("in", &["new 1"]).await;
    assert_eq!(cursors(frame::Reset::Earliest).await, Ok(vec![again(5)]));
    assert_eq!(cursors(frame::Reset::Latest).await, Ok(vec![again(6)]));
    let words = "what was from offset 5 on is gone";
    refused(
        cursors(frame::Reset::Fail).await,
        ErrorCode::HistoryLost,
        words,
    );
    refused(
        broker.commit(commit(12, Some(1))),
        ErrorCode::HistoryLost,
        words,
    );
    let moved = broker.commit(commit(4, Some(1))).expect("before they part");
    within("moving", moved.answer()).await.expect("durable");
    let cursor = frame::Cursor {
        lost: None,
        ..again(4)
    };
    assert_eq!(cursors(frame::Reset::Fail).await, Ok(vec![cursor]));

    let info = broker.caught_up().await;
    let lost = info.partitions[0].lost.expect("it is said");
    assert_eq!((lost.position, lost.resumed), (12, 5));
    broker.append("in", &["new 2"]).await;
    broker.caught_up().await;
    let mut expected = values.clone();
    expected.extend(["new 1".to_owned(), "new 2".to_owned()]);
    assert_eq!(broker.values("out", 0).await, expected);
}
