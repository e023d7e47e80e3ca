//! The frames, as types. One WebSocket message holds one frame; `codec` turns
//! frames into bytes (bincode) or text (JSON) and back.
//!
//! Every request carries an id that its connection chose and gets exactly one
//! [`ServerFrame::Answer`] or [`ServerFrame::Error`] with the same id. A
//! [`Deliver`], which the broker sends unasked, holds nothing of a single
//! connection, so that one encoding serves every subscriber of a stream;
//! [`Gap`] and [`Progress`] tell one reader about its own cursor.
//!
//! Frames grow: a later release adds fields, variants and frames, and an older
//! peer passes over them. Every field added since the first release has a
//! default, which is what its absence means. `layout` has the binary form.

mod layout;

use std::collections::BTreeMap;

use bincode::de::Decoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{Decode, Encode};
use serde::{Deserialize, Deserializer, Serialize};

use crate::batch::Batches;
use crate::batch::json::JsonBatches;
use crate::error::WireError;
use crate::flat::{beside, objects, or_default, unique, with_id};
use crate::json::whole;
use crate::name::TopicName;

/// The WebSocket subprotocol whose messages are bincode.
pub const SUBPROTOCOL_BINARY: &str = "eddy.v1";
/// The WebSocket subprotocol whose messages are JSON text.
pub const SUBPROTOCOL_JSON: &str = "eddy.v1.json";

/// From the client: a request and the id that its answer will carry.
#[derive(Debug, Clone, PartialEq, Encode, Decode, Serialize)]
pub struct ClientFrame {
    /// Chosen by the client; may be reused once its answer has come.
    pub id: u32,
    /// What is asked for.
    #[serde(flatten)]
    pub request: Request,
}

impl<'de> Deserialize<'de> for ClientFrame {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        with_id(deserializer).map(|(id, request)| ClientFrame { id, request })
    }
}

/// What a client can ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Who the client is. Must be the first request of a connection.
    Hello(Hello),
    /// An empty exchange, to learn whether the other side is there.
    Ping {},
    /// A producer's identity: a new one, or the next epoch of a named one.
    OpenProducer(OpenProducer),
    /// One batch for one partition.
    Produce(Produce),
    /// A cursor over a topic's partitions; from now on the broker delivers.
    Subscribe(Subscribe),
    /// The end of a subscription.
    Unsubscribe {
        /// From the answer to `subscribe`.
        stream: u64,
    },
    /// Some records of one partition, once.
    Fetch(Fetch),
    /// Batches and a group's cursors, all of it or nothing.
    Commit(Commit),
    /// Where a group's cursors are.
    Cursors(Cursors),
    /// A new topic.
    CreateTopic(CreateTopic),
    /// Other settings for a topic.
    AlterTopic(AlterTopic),
    /// The end of a topic and its records.
    DeleteTopic {
        /// The topic.
        topic: TopicName,
    },
    /// One topic, with its partitions.
    DescribeTopic {
        /// The topic.
        topic: TopicName,
    },
    /// All topics, in the order of their names.
    ListTopics {},
    /// The end of a group's cursors.
    DeleteGroup(DeleteGroup),
    /// The groups that have cursors, in the order of their names.
    ListGroups {},
}

/// From the broker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerFrame {
    /// The answer to a request that succeeded.
    #[serde(deserialize_with = "with_id")]
    Answer {
        /// The request's.
        id: u32,
        /// What was asked for.
        #[serde(flatten)]
        answer: Answer,
    },
    /// The answer to a request that failed, or (without an id) why the
    /// connection is about to be closed.
    Error {
        /// The request's; absent where the broker could not read one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u32>,
        /// What went wrong.
        #[serde(flatten)]
        error: WireError,
    },
    /// Records of a stream.
    Deliver(Deliver),
    /// Retention overtook the reader: records are gone.
    Gap(Gap),
    /// The cursor has moved past records that a filter left out.
    Progress(Progress),
    /// A stream ended although nobody unsubscribed (its topic was deleted, its
    /// partition was stopped, its filter failed).
    Ended(Ended),
    /// The broker is about to close this connection.
    Closing {
        /// Whether and when to come back, for people.
        reason: String,
    },
}

/// What a request is answered with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To `hello`.
    Welcome(Welcome),
    /// To `ping`.
    Pong {},
    /// To `open_producer`.
    Producer(Producer),
    /// To `produce`.
    Produced(Produced),
    /// To `subscribe`.
    Subscribed(Subscribed),
    /// To `unsubscribe`; no frame of the stream follows it.
    Unsubscribed {},
    /// To `fetch`.
    Fetched(Fetched),
    /// To `commit`: one entry for each batch, in the order asked.
    Committed {
        /// Where each batch went.
        appends: Vec<Produced>,
    },
    /// To `cursors`.
    Cursors {
        /// One entry for each partition that the group has committed.
        cursors: Vec<Cursor>,
    },
    /// To `create_topic`, `alter_topic` and `describe_topic`.
    Topic(TopicInfo),
    /// To `delete_topic` and `delete_group`.
    Deleted {},
    /// To `list_topics`.
    Topics {
        /// In the order of their names.
        topics: Vec<TopicInfo>,
    },
    /// To `list_groups`.
    Groups {
        /// In the order of their names.
        groups: Vec<GroupInfo>,
    },
}

/// See [`Request::Hello`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[serde(remote = "Self")]
pub struct Hello {
    /// Name and version of the client's software, for logs; at most 128 bytes.
    #[serde(deserialize_with = "or_default")]
    pub client: String,
    /// What the client understands besides the first release's frames: see
    /// [`client_capabilities`]. Names that the broker does not know say nothing to it.
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
}

/// What a client should know before it goes on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Welcome {
    /// Name and version of the broker.
    pub server: String,
    /// Random, new at every start of the broker; below 2^53, which JavaScript can hold.
    pub incarnation: u64,
    /// The largest message that the broker reads.
    pub frame_bytes_max: u64,
    /// The largest batch that the broker appends, as encoded and as expanded.
    pub batch_bytes_max: u64,
    /// How many subscriptions this connection may hold.
    pub subscriptions_max: u32,
    /// A connection on which nothing was heard for so long is closed.
    pub idle_timeout_ms: u64,
    /// What the broker can be asked for: see [`broker_capabilities`]. Empty: what
    /// the first release could.
    #[serde(default)]
    pub capabilities: Vec<String>,
}

impl Welcome {
    /// Whether the broker says that it has the capability of this name.
    pub fn has(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|name| name == capability)
    }
}

/// Fields that requests have got since the first release, as `request.field`.
/// An older broker passes over such a field: who relies on one looks for it here.
const ADDED_TO_REQUESTS: &[&str] = &[
    "hello.capabilities",
    "open_producer.current",
    "commit.cursors.expect",
    "commit.cursors.epoch",
    "cursors.reset",
    "create_topic.timestamps",
    "alter_topic.timestamps",
];

/// Fields that frames of the broker have got since the first release, as `frame.field`.
const ADDED_TO_FRAMES: &[&str] = &["error.retryable", "welcome.capabilities"];

/// What this release's broker says in [`Welcome`]: its requests, and what was added to them.
pub fn broker_capabilities() -> Vec<String> {
    capabilities(Request::NAMES, ADDED_TO_REQUESTS)
}

/// What this release's client says in [`Hello`]: the frames that it understands, and what was added to them.
pub fn client_capabilities() -> Vec<String> {
    capabilities(ServerFrame::NAMES, ADDED_TO_FRAMES)
}

fn capabilities(first: &[&str], added: &[&str]) -> Vec<String> {
    first
        .iter()
        .chain(added)
        .map(|&name| name.to_owned())
        .collect()
}

/// See [`Request::OpenProducer`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[serde(remote = "Self")]
pub struct OpenProducer {
    /// With a name, the broker finds the identity that it gave to this name
    /// before and raises its epoch, which shuts out every older holder.
    pub name: Option<String>,
    /// Without a name: the identity that the producer has and wants the next
    /// epoch of, so that no batch that it sent under this one is taken any more.
    /// If the broker has forgotten it, it gives a new identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Producer>,
}

/// A producer's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Producer {
    /// Never 0; below 2^53, which JavaScript can hold.
    #[serde(deserialize_with = "whole")]
    #[cfg_attr(
        feature = "openapi",
        schema(minimum = 1, maximum = 9007199254740991_u64)
    )]
    pub id: u64,
    /// A batch with an older one is refused.
    #[serde(deserialize_with = "whole")]
    pub epoch: u16,
}

/// See [`Request::Produce`].
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Produce {
    /// The topic.
    pub topic: TopicName,
    /// Absent: the broker places each record, by key as Kafka's default
    /// partitioner does and spread without one. A batch with a producer's
    /// stamp must name its partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// One batch. Its base offset is ignored.
    #[serde(flatten)]
    pub batch: Batches,
}

impl<'de> Deserialize<'de> for Produce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Head {
            topic: TopicName,
            #[serde(default)]
            partition: Option<u32>,
        }
        let (head, batches): (Head, JsonBatches) = beside(deserializer)?;
        Ok(Produce {
            topic: head.topic,
            partition: head.partition,
            batch: batches.finish()?,
        })
    }
}

/// Where a batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Produced {
    /// The partition of the batch (of its first record, where the broker
    /// placed the records).
    pub partition: u32,
    /// The offset of its first record. Absent for a repeat that is older than
    /// what the broker remembers; its records are in the log all the same.
    pub offset: Option<u64>,
    /// How many records the batch holds.
    pub count: u32,
    /// The broker had it already; nothing was appended.
    pub duplicate: bool,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Start {
    /// With the oldest record there is.
    Earliest,
    /// With the next record that will be appended.
    #[default]
    Latest,
    /// With this offset, in every partition.
    #[serde(deserialize_with = "whole")]
    Offset(u64),
    /// With the first record whose timestamp is not older than this,
    /// milliseconds since 1970 UTC.
    #[serde(deserialize_with = "whole")]
    Time(i64),
}

/// A plugin that sits on a subscription.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Filter {
    /// Name or digest of the plugin.
    pub plugin: String,
    /// Its parameters.
    #[serde(default, deserialize_with = "unique")]
    pub params: BTreeMap<String, String>,
}

/// See [`Request::Subscribe`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Subscribe {
    /// The topic.
    pub topic: TopicName,
    /// Which partitions; empty: all of them, and those that are added later.
    #[serde(default, deserialize_with = "or_default")]
    pub partitions: Vec<u32>,
    /// Where to begin in the partitions that `resume` does not name.
    #[serde(default, deserialize_with = "or_default")]
    pub from: Start,
    /// Where to go on after a lost connection.
    #[serde(default, deserialize_with = "or_default")]
    pub resume: Vec<Position>,
    /// What to let through; absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
}

/// The next offset that a reader wants, and the epoch in which it got there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Position {
    /// The partition.
    pub partition: u32,
    /// The next offset.
    pub offset: u64,
    /// The partition's epoch when `offset` was learnt. Where the partition has
    /// another one by now, history was lost and the reader gets a [`Gap`].
    pub epoch: u32,
}

/// A subscription has begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Subscribed {
    /// Names the stream in the frames that follow. The same for all who
    /// subscribe to the same topic with the same filter, until the broker
    /// restarts. A connection can hold a stream once. Below 2^53, which
    /// JavaScript can hold.
    pub stream: u64,
    /// Where the cursor stands in each partition.
    pub positions: Vec<Position>,
}

/// Records of one partition, in order: each batch begins where the one before
/// ended. The first may begin before the cursor; the reader skips those records.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Deliver {
    /// From [`Subscribed`].
    pub stream: u64,
    /// The partition.
    pub partition: u32,
    /// The partition's epoch.
    pub epoch: u32,
    /// The reader's next offset after this frame: where the last batch ends, or
    /// further on, where a filter left everything behind it out.
    pub next: u64,
    /// At least one batch.
    #[serde(flatten)]
    pub batches: Batches,
}

impl<'de> Deserialize<'de> for Deliver {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Head {
            stream: u64,
            partition: u32,
            epoch: u32,
            next: u64,
        }
        let (head, batches): (Head, JsonBatches) = beside(deserializer)?;
        Ok(Deliver {
            stream: head.stream,
            partition: head.partition,
            epoch: head.epoch,
            next: head.next,
            batches: batches.finish()?,
        })
    }
}

/// Records that the reader will never get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Gap {
    /// From [`Subscribed`].
    pub stream: u64,
    /// The partition.
    pub partition: u32,
    /// The partition's epoch.
    pub epoch: u32,
    /// The offset that the reader wanted.
    pub expected: u64,
    /// The offset it goes on with. With another epoch than the reader's the
    /// partition lost history, and `next` is where the histories part: lower than
    /// `expected`, so that the reader gets what has these offsets now. Where they
    /// part may not be known: then reading begins anew at the partition's start,
    /// and records that the reader had may come again.
    pub next: u64,
}

/// The cursor has moved although nothing was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Progress {
    /// From [`Subscribed`].
    pub stream: u64,
    /// The partition.
    pub partition: u32,
    /// The partition's epoch.
    pub epoch: u32,
    /// The reader's next offset.
    pub next: u64,
}

/// See [`ServerFrame::Ended`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// From [`Subscribed`].
    pub stream: u64,
    /// The partition that ended; absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Why.
    #[serde(flatten)]
    pub error: WireError,
}

/// See [`Request::Fetch`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Fetch {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: u32,
    /// Where to begin.
    #[serde(default, deserialize_with = "or_default")]
    pub from: Start,
    /// Stop after the batch that passes this many bytes.
    pub bytes_max: u32,
    /// How long to wait for a record if there is none.
    #[serde(default, deserialize_with = "or_default")]
    pub wait_ms: u32,
}

/// What a fetch found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fetched {
    /// The partition's epoch.
    pub epoch: u32,
    /// The oldest offset in the partition.
    pub start: u64,
    /// The offset that the next record will get.
    pub end: u64,
    /// Where to fetch next.
    pub next: u64,
    /// None if nothing came in time.
    #[serde(flatten)]
    pub batches: Batches,
}

impl<'de> Deserialize<'de> for Fetched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Head {
            epoch: u32,
            start: u64,
            end: u64,
            next: u64,
        }
        let (head, batches): (Head, JsonBatches) = beside(deserializer)?;
        Ok(Fetched {
            epoch: head.epoch,
            start: head.start,
            end: head.end,
            next: head.next,
            batches: batches.finish()?,
        })
    }
}

/// See [`Request::Commit`]. All of it becomes durable together, or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Commit {
    /// Batches to append, each with a partition.
    #[serde(default, deserialize_with = "or_default")]
    pub appends: Vec<Produce>,
    /// Whose cursors to move; absent with no cursors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Where the group goes on.
    #[serde(default, deserialize_with = "or_default")]
    pub cursors: Vec<CursorMove>,
}

/// Where a group goes on in a partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CursorMove {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    #[serde(deserialize_with = "whole")]
    pub partition: u32,
    /// The next offset that the group will read.
    #[serde(deserialize_with = "whole")]
    pub offset: u64,
    /// The partition's epoch when `offset` was learnt; absent: its present one.
    /// Refused with `history_lost` where the partition has lost what is before `offset`.
    #[serde(
        default,
        deserialize_with = "whole",
        skip_serializing_if = "Option::is_none"
    )]
    pub epoch: Option<u32>,
    /// Where the group must be, or the commit is refused with `cursor_moved`.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "ExpectedCursor::is_any"
    )]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<ExpectedCursor>))]
    pub expect: ExpectedCursor,
}

/// Where a commit expects a group's cursor in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ExpectedCursor {
    /// Anywhere, or nowhere.
    #[default]
    Any,
    /// Nowhere: the group has none there.
    None,
    /// At this offset.
    #[serde(deserialize_with = "whole")]
    Offset(u64),
}

impl ExpectedCursor {
    fn is_any(&self) -> bool {
        *self == ExpectedCursor::Any
    }
}

/// Where a group is in a partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cursor {
    /// The topic.
    pub topic: TopicName,
    /// The partition.
    pub partition: u32,
    /// The next offset that the group will read.
    pub offset: u64,
    /// The partition's epoch, in which to read there; absent where a release
    /// committed that did not know epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u32>,
    /// What the group had committed, where that is of lost history and `offset` is
    /// what [`Reset`] makes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<LostPosition>,
}

/// A position of which the partition has lost the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LostPosition {
    /// The next offset that would have been read.
    pub offset: u64,
    /// The epoch in which it was learnt, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u32>,
}

/// See [`Request::Cursors`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Cursors {
    /// The group.
    pub group: String,
    /// Only this topic's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicName>,
    /// Where to go on in a partition that has lost the history before the cursor.
    #[serde(default, deserialize_with = "or_default")]
    pub reset: Reset,
}

/// Where a group goes on in a partition that has lost the history before its cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Reset {
    /// With the first record that the group can't have read: where the histories
    /// part, or the partition's start where that is not known.
    #[default]
    Earliest,
    /// With the next record that will be appended.
    Latest,
    /// Nowhere: the request is refused with `history_lost`.
    Fail,
}

/// See [`Request::DeleteGroup`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct DeleteGroup {
    /// The group.
    pub group: String,
    /// Only its cursors in this topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicName>,
}

/// A group as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GroupInfo {
    /// Its name.
    pub group: String,
    /// The topics in which it has cursors, in the order of their names.
    pub topics: Vec<TopicName>,
}

/// What an acknowledgement promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Synced to the disk.
    #[default]
    Disk,
    /// Handed to the operating system; lost only if the machine itself fails.
    Memory,
    /// One of a newer release. A client may meet it; a broker refuses to be asked for it.
    #[serde(other)]
    Unknown,
}

/// Whose time a record's timestamp is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timestamps {
    /// Its producer's.
    #[default]
    Create,
    /// The broker's, when it appends the record.
    Append,
    /// One of a newer release. A client may meet it; a broker refuses to be asked for it.
    #[serde(other)]
    Unknown,
}

/// What happens to a batch with a timestamp outside of its topic's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutOfBounds {
    /// It is refused.
    #[default]
    Refuse,
    /// Its records get the time of append.
    Append,
    /// One of a newer release. A client may meet it; a broker refuses to be asked for it.
    #[serde(other)]
    Unknown,
}

/// How far ahead of the broker's clock a timestamp may lie, unless a topic says otherwise.
pub const TIMESTAMP_AHEAD_MS: u64 = 3_600_000;

impl Default for TopicSettings {
    fn default() -> Self {
        TopicSettings {
            durability: Durability::default(),
            retention_ms: None,
            retention_bytes: None,
            timestamps: Timestamps::default(),
            timestamp_ahead_ms: Some(TIMESTAMP_AHEAD_MS),
            timestamp_behind_ms: None,
            out_of_bounds: OutOfBounds::default(),
        }
    }
}

/// A topic's settings. Absent limits: none; but `timestamp_ahead_ms` that is not
/// given at all is an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopicSettings {
    /// What an acknowledgement promises.
    #[serde(deserialize_with = "or_default")]
    pub durability: Durability,
    /// Segments whose newest record was appended longer ago than this are deleted.
    pub retention_ms: Option<u64>,
    /// The oldest segments of a partition are deleted while it is larger.
    pub retention_bytes: Option<u64>,
    /// Whose time a record's timestamp is.
    #[serde(deserialize_with = "or_default")]
    pub timestamps: Timestamps,
    /// How far ahead of the broker's clock a producer's timestamp may lie.
    pub timestamp_ahead_ms: Option<u64>,
    /// How far behind the broker's clock it may lie.
    pub timestamp_behind_ms: Option<u64>,
    /// What happens where one lies further.
    #[serde(deserialize_with = "or_default")]
    pub out_of_bounds: OutOfBounds,
}

/// See [`Request::CreateTopic`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateTopic {
    /// The topic.
    pub topic: TopicName,
    /// From 1 to 1,024.
    pub partitions: u32,
    /// How it is kept.
    #[serde(flatten)]
    pub settings: TopicSettings,
}

/// See [`Request::AlterTopic`]. What is absent stays as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct AlterTopic {
    /// The topic.
    pub topic: TopicName,
    /// Not fewer than now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// What an acknowledgement promises from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// A new limit, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_ms: Option<Limit>,
    /// A new limit, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<Limit>,
    /// Whose time timestamps are from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamps: Option<Timestamps>,
    /// A new limit, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_ahead_ms: Option<Limit>,
    /// A new limit, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp_behind_ms: Option<Limit>,
    /// What happens to timestamps outside of the limits from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_bounds: Option<OutOfBounds>,
}

impl AlterTopic {
    /// A request that changes nothing.
    pub fn nothing(topic: TopicName) -> AlterTopic {
        AlterTopic {
            topic,
            partitions: None,
            durability: None,
            retention_ms: None,
            retention_bytes: None,
            timestamps: None,
            timestamp_ahead_ms: None,
            timestamp_behind_ms: None,
            out_of_bounds: None,
        }
    }
}

/// A limit as a request sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// No limit.
    None,
    /// At most this.
    AtMost(u64),
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TopicInfo {
    /// The topic.
    pub topic: TopicName,
    /// How it is kept.
    #[serde(flatten)]
    pub settings: TopicSettings,
    /// In the order of their numbers.
    pub partitions: Vec<PartitionInfo>,
    /// Names the topic for ever, in the usual form of a UUID; another topic of the
    /// same name has another one.
    #[serde(default)]
    pub uuid: String,
}

/// A partition as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PartitionInfo {
    /// Its number, from 0.
    pub partition: u32,
    /// Changes when history was lost.
    pub epoch: u32,
    /// The oldest offset.
    pub start: u64,
    /// The offset that the next record will get.
    pub end: u64,
    /// What its segments take on disk.
    pub bytes: u64,
    /// Why the partition is stopped; absent while it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

objects!(
    AlterTopic,
    Hello,
    Welcome,
    OpenProducer,
    Producer,
    Produced,
    Filter,
    Subscribe,
    Position,
    Subscribed,
    Gap,
    Progress,
    Fetch,
    Commit,
    Cursor,
    CursorMove,
    Cursors,
    DeleteGroup,
    GroupInfo,
    LostPosition,
    PartitionInfo,
);
