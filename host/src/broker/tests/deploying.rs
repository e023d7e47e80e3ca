//! What the tests of deployments share.

use eddy_protocol::admin::{DeploymentInfo, DeploymentSpec, DeploymentState, LimitsSpec};

use super::*;

/// Keeps everything, and traps at a value with an exclamation mark.
pub(super) const FRAGILE: Guest<'_> = Guest {
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

pub(super) fn spec(plugin: &str) -> DeploymentSpec {
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
pub(super) fn config() -> Config {
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

pub(super) async fn world_on(ground: &Ground, config: Config) -> Arc<Broker> {
    let broker = ground.broker(config).await;
    for topic in ["in", "out"] {
        broker.with_topic(topic, 1, TopicSettings::default()).await;
    }
    broker.with_plugin("all", Guest::default()).await;
    broker.with_plugin("fragile", FRAGILE).await;
    broker
}

impl Broker {
    pub(super) async fn with_deployment(self: &Arc<Self>, plugin: &str) {
        within("deploying", self.deploy(spec(plugin)))
            .await
            .expect("deployed");
    }

    pub(super) fn shown(&self) -> DeploymentInfo {
        self.deployment("d").expect("it is there")
    }

    pub(super) async fn until(
        &self,
        what: &str,
        done: impl Fn(&DeploymentInfo) -> bool,
    ) -> DeploymentInfo {
        eventually(what, || done(&self.shown())).await;
        self.shown()
    }

    /// Until everything is processed and committed.
    pub(super) async fn caught_up(&self) -> DeploymentInfo {
        self.until("catching up", |info| {
            info.state == DeploymentState::Running && info.partitions.iter().all(|p| p.lag == 0)
        })
        .await
    }
}

pub(super) fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}
