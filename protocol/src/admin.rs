//! Plugins and deployments as HTTP, the client and the command line speak of
//! them. JSON only: administration does not go over the WebSocket.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::flat::{objects, unique};
use crate::frame::{Cursor, GroupInfo, Start, TopicInfo};
use crate::json::whole;
use crate::name::TopicName;

/// The port that a plugin with a single output writes to.
pub const DEFAULT_PORT: &str = "out";

/// A plugin that the broker holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PluginInfo {
    /// Under which it was pushed; a later push of the name replaces it.
    pub name: String,
    /// SHA-256 of its bytes, in hexadecimal.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[0-9a-f]{64}$"))]
    pub digest: String,
    /// Its size.
    pub bytes: u64,
    /// Milliseconds since 1970 UTC; 0 where that is not known any more.
    pub pushed_at_ms: i64,
    /// Its name has another artefact by now. It is found by its digest for as long as a
    /// deployment runs it, or ran it before its last replacement.
    #[serde(default, skip_serializing_if = "is_false")]
    pub superseded: bool,
    /// The deployments that keep it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deployments: Vec<String>,
}

/// Something that the broker keeps and can't read. It can be deleted or replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Unreadable {
    /// What it is: `deployment` or `plugin`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Why it can't be read.
    pub reason: String,
}

/// A partition has lost the history before a position; reading went on where that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LostHistory {
    /// The position that was lost.
    pub position: u64,
    /// Where it went on.
    pub resumed: u64,
}

/// A deployment as somebody asks for it. A misspelt field is refused, not ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentSpec {
    /// Names the deployment.
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Name))]
    pub name: String,
    /// Name or digest of the plugin.
    pub plugin: String,
    /// The topic that it reads.
    pub from: TopicName,
    /// The topic that each of its ports writes to. A single topic instead of an
    /// object is that of the port `out`.
    #[serde(deserialize_with = "ports")]
    #[cfg_attr(feature = "openapi", schema(value_type = crate::openapi::Ports))]
    pub to: BTreeMap<String, TopicName>,
    /// What the plugin is told.
    #[serde(default, deserialize_with = "unique")]
    pub params: BTreeMap<String, String>,
    /// Where it begins to read.
    #[serde(default = "earliest")]
    pub start: Start,
    /// What it may take; absent: as the broker is configured.
    #[serde(default)]
    pub limits: LimitsSpec,
}

/// What an instance of a plugin may take. Absent: as the broker is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, remote = "Self")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LimitsSpec {
    /// Its memory.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    #[serde(deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub memory_bytes_max: Option<u64>,
    /// Its time for one batch.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    #[serde(deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub batch_time_max_ms: Option<u64>,
    /// What it may put out for one batch.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    #[serde(deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    pub output_bytes_max: Option<u64>,
}

objects!(LimitsSpec);

/// Whether a deployment, or one of its instances, is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DeploymentState {
    /// Its instances are being made, or made anew after something was in the way.
    Starting,
    /// At work.
    Running,
    /// Stopped, for the reason beside it.
    Stopped,
}

/// A deployment as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeploymentInfo {
    /// As it was asked for.
    #[serde(flatten)]
    pub spec: DeploymentSpec,
    /// Of the plugin at work.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[0-9a-f]{64}$"))]
    pub digest: String,
    /// Counts from 1, one more for each replacement.
    pub version: u32,
    /// Whether it is at work.
    pub state: DeploymentState,
    /// Why it is stopped, or what keeps one of its partitions from its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One for each partition of the topic that it reads, in their order.
    pub partitions: Vec<InstanceInfo>,
}

/// A deployment at one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InstanceInfo {
    /// The partition.
    pub partition: u32,
    /// The next offset that it reads.
    pub position: u64,
    /// The partition's end.
    pub end: u64,
    /// How many records it is behind.
    pub lag: u64,
    /// Whether it is at work.
    pub state: DeploymentState,
    /// Why it is stopped, or what keeps it from its work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Records read since the broker started.
    pub records_in: u64,
    /// Records written since the broker started.
    pub records_out: u64,
    /// Batches read since the broker started.
    pub batches: u64,
    /// Records that retention took before they were read, since the broker started.
    #[serde(default)]
    pub missed: u64,
    /// That the partition lost history before its position, since the broker started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostHistory>,
}

/// Lists, as HTTP answers them: an object with the list as its one field.
macro_rules! lists {
    ($($(#[$doc:meta])* $name:ident { $field:ident: $item:ty })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct $name {
            #[allow(missing_docs, reason = "the type's own says it")]
            pub $field: Vec<$item>,
        }
    )*};
}

lists! {
    /// Topics, in the order of their names.
    TopicList { topics: TopicInfo }
    /// Plugins, in the order of their names.
    PluginList { plugins: PluginInfo }
    /// Deployments, in the order of their names.
    DeploymentList { deployments: DeploymentInfo }
    /// What can't be read, in the order of kind and name.
    UnreadableList { unreadable: Unreadable }
    /// Groups that have cursors, in the order of their names.
    GroupList { groups: GroupInfo }
    /// A group's cursors, one for each partition that it has committed.
    CursorList { cursors: Cursor }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "for serde")]
fn is_false(value: &bool) -> bool {
    !value
}

fn earliest() -> Start {
    Start::Earliest
}

fn ports<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, TopicName>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "`to` is neither a topic's name nor an object of ports, each once, and topics' names"
    )]
    enum Ports {
        One(TopicName),
        Many(#[serde(deserialize_with = "unique")] BTreeMap<String, TopicName>),
    }
    Ok(match Ports::deserialize(deserializer)? {
        Ports::One(topic) => BTreeMap::from([(DEFAULT_PORT.to_owned(), topic)]),
        Ports::Many(ports) => ports,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_topic_is_that_of_the_port_out() {
        let short = r#"{"name":"d","plugin":"json-filter","from":"a","to":"b"}"#;
        let long = r#"{"name":"d","plugin":"json-filter","from":"a","to":{"out":"b"},"params":{},"start":"earliest"}"#;
        let short: DeploymentSpec = serde_json::from_str(short).expect("the short form");
        let long: DeploymentSpec = serde_json::from_str(long).expect("the long form");
        assert_eq!(short, long);
    }

    #[test]
    fn a_wrong_target_is_refused_with_a_sentence() {
        let wrong = r#"{"name":"d","plugin":"p","from":"a","to":["b"]}"#;
        let error =
            serde_json::from_str::<DeploymentSpec>(wrong).expect_err("an array is no target");
        assert!(error.to_string().contains("neither"), "{error}");
    }

    #[test]
    fn a_misspelt_field_is_refused_and_a_newer_brokers_answer_is_not() {
        let asked = r#"{"name":"d","plugin":"p","from":"a","to":"b","strat":"latest"}"#;
        let error = serde_json::from_str::<DeploymentSpec>(asked).expect_err("there is no strat");
        assert!(error.to_string().contains("`strat`"), "{error}");
        let shown = r#"{"name":"d","plugin":"p","from":"a","to":{"out":"b"},"digest":"ab","version":2,
            "state":"running","partitions":[],"mood":"good"}"#;
        serde_json::from_str::<DeploymentInfo>(shown).expect("what is not known is passed over");
    }

    #[test]
    fn a_deployment_survives_json() {
        let text = r#"{"name":"d","plugin":"p","from":"a","to":{"hot":"b","cold":"c"},"params":{"k":"v"},
            "start":{"offset":7},"limits":{"memory_bytes_max":1024},"digest":"ab","version":2,"state":"stopped",
            "reason":"it trapped","partitions":[{"partition":0,"position":3,"end":5,"lag":2,"state":"stopped",
            "records_in":3,"records_out":1,"batches":1}]}"#;
        let info: DeploymentInfo = serde_json::from_str(text).expect("a deployment");
        let again = serde_json::to_string(&info).expect("it can be written");
        assert_eq!(
            serde_json::from_str::<DeploymentInfo>(&again).expect("it can be read again"),
            info
        );
    }
}
