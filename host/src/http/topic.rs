//! `/v1/topics`: create, list, describe, alter, repair, delete.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use eddy_protocol::TopicName;
use eddy_protocol::admin::TopicList;
use eddy_protocol::frame::{
    AlterTopic, CreateTopic, Durability, Limit, OutOfBounds, Timestamps, TopicInfo, TopicSettings,
};
use eddy_protocol::json::whole;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::Failure;
use super::extract::{self, Path, topic_name};
use super::{Context, pieces};

pub(super) fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(describe, alter, remove))
        .routes(routes!(repair))
}

/// A topic as HTTP asks for it. A misspelt setting is refused, not ignored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewTopic {
    #[schema(value_type = TopicName)]
    topic: String,
    #[serde(default = "one", deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 1024, default = 1)]
    partitions: u32,
    #[serde(default)]
    durability: Durability,
    /// Segments whose newest record was appended longer ago are deleted; absent: never.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 1)]
    retention_ms: Option<u64>,
    /// The oldest segments of a partition are deleted while it is larger; absent: never.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 1)]
    retention_bytes: Option<u64>,
    #[serde(default)]
    timestamps: Timestamps,
    /// How far ahead of the broker's clock a producer's timestamp may lie; null: any.
    #[serde(default = "hour", deserialize_with = "whole")]
    #[schema(default = 3_600_000)]
    timestamp_ahead_ms: Option<u64>,
    /// How far behind the broker's clock it may lie; absent: any.
    #[serde(default, deserialize_with = "whole")]
    timestamp_behind_ms: Option<u64>,
    #[serde(default)]
    out_of_bounds: OutOfBounds,
}

fn hour() -> Option<u64> {
    TopicSettings::default().timestamp_ahead_ms
}

fn one() -> u32 {
    1
}

/// What a PATCH changes; a limit of `null` means none from now on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TopicChanges {
    /// Not fewer than now.
    #[serde(default, deserialize_with = "whole")]
    #[schema(minimum = 1, maximum = 1024)]
    partitions: Option<u32>,
    #[serde(default)]
    durability: Option<Durability>,
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    retention_ms: Option<Limit>,
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    retention_bytes: Option<Limit>,
    #[serde(default)]
    timestamps: Option<Timestamps>,
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u64>)]
    timestamp_ahead_ms: Option<Limit>,
    #[serde(default, deserialize_with = "limit")]
    #[schema(value_type = Option<u64>)]
    timestamp_behind_ms: Option<Limit>,
    #[serde(default)]
    out_of_bounds: Option<OutOfBounds>,
}

/// A field that is there: a number, or `null` for no limit.
fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Limit>, D::Error> {
    whole::<Option<u64>, D>(deserializer)
        .map(|number| Some(number.map_or(Limit::None, Limit::AtMost)))
}

/// List the topics
#[utoipa::path(
    get, path = "/v1/topics", tag = "topics", operation_id = "listTopics",
    responses((status = 200, description = "In the order of their names.", body = TopicList)),
)]
async fn list(State(context): State<Context>) -> Result<Response, Failure> {
    let broker = context.broker.clone();
    let gather = move || {
        let names = broker.topic_names().into_iter();
        // One may have been deleted meanwhile.
        Ok(names.filter_map(move |name| broker.describe_topic(&name).ok()))
    };
    pieces::list(context.broker.answers(), "topics", gather).await
}

/// Create a topic
#[utoipa::path(
    post, path = "/v1/topics", tag = "topics", operation_id = "createTopic",
    request_body(
        content = NewTopic,
        example = json!({"topic": "quakes", "partitions": 4, "retention_ms": 604_800_000}),
    ),
    responses((status = 201, description = "The topic.", body = TopicInfo)),
)]
async fn create(
    State(context): State<Context>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<TopicInfo>), Failure> {
    let new: NewTopic = extract::json(&context, &headers, body).await?;
    let NewTopic {
        topic,
        partitions,
        durability,
        retention_ms,
        retention_bytes,
        timestamps,
        timestamp_ahead_ms,
        timestamp_behind_ms,
        out_of_bounds,
    } = new;
    let settings = TopicSettings {
        durability,
        retention_ms,
        retention_bytes,
        timestamps,
        timestamp_ahead_ms,
        timestamp_behind_ms,
        out_of_bounds,
    };
    let request = CreateTopic {
        topic: topic_name(&topic)?,
        partitions,
        settings,
    };
    Ok((
        StatusCode::CREATED,
        Json(context.broker.create_topic(request).await?),
    ))
}

/// Describe a topic
#[utoipa::path(
    get, path = "/v1/topics/{topic}", tag = "topics", operation_id = "describeTopic",
    params(("topic" = TopicName, Path)),
    responses((status = 200, description = "The topic.", body = TopicInfo)),
)]
async fn describe(
    State(context): State<Context>,
    Path(topic): Path<String>,
) -> Result<Json<TopicInfo>, Failure> {
    Ok(Json(context.broker.describe_topic(&topic_name(&topic)?)?))
}

/// Change a topic's settings or add partitions
///
/// What is absent stays as it is. More partitions move the keys of records that come later.
#[utoipa::path(
    patch, path = "/v1/topics/{topic}", tag = "topics", operation_id = "alterTopic",
    params(("topic" = TopicName, Path)),
    request_body(content = TopicChanges, example = json!({"retention_bytes": 1_073_741_824})),
    responses((status = 200, description = "The topic as it is now.", body = TopicInfo)),
)]
async fn alter(
    State(context): State<Context>,
    Path(topic): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TopicInfo>, Failure> {
    let topic = topic_name(&topic)?;
    let TopicChanges {
        partitions,
        durability,
        retention_ms,
        retention_bytes,
        timestamps,
        timestamp_ahead_ms,
        timestamp_behind_ms,
        out_of_bounds,
    } = extract::json(&context, &headers, body).await?;
    let request = AlterTopic {
        topic,
        partitions,
        durability,
        retention_ms,
        retention_bytes,
        timestamps,
        timestamp_ahead_ms,
        timestamp_behind_ms,
        out_of_bounds,
    };
    Ok(Json(context.broker.alter_topic(request).await?))
}

/// Let a stopped partition serve again
///
/// What is damaged of it is given up, for good: subscribers get a gap notice there, a fetch goes
/// on behind it. Refused while the partition is not stopped, and where only a restart can tell
/// whether its files are in order. Other damage may stop it again.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/partitions/{partition}/repair", tag = "topics", operation_id = "repairPartition",
    params(("topic" = TopicName, Path), ("partition" = u32, Path)),
    responses((status = 200, description = "The topic as it is now.", body = TopicInfo)),
)]
async fn repair(
    State(context): State<Context>,
    Path((topic, partition)): Path<(String, u32)>,
) -> Result<Json<TopicInfo>, Failure> {
    let topic = topic_name(&topic)?;
    Ok(Json(
        context.broker.repair_partition(&topic, partition).await?,
    ))
}

/// Delete a topic and its records
///
/// Refused while a deployment uses the topic.
#[utoipa::path(
    delete, path = "/v1/topics/{topic}", tag = "topics", operation_id = "deleteTopic",
    params(("topic" = TopicName, Path)),
    responses((status = 204, description = "Done.")),
)]
async fn remove(
    State(context): State<Context>,
    Path(topic): Path<String>,
) -> Result<StatusCode, Failure> {
    context.broker.delete_topic(&topic_name(&topic)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
