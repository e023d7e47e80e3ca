//! `/v1/topics`: create, list, describe, alter, repair, delete.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{delete, get, patch, post};
use eddy_protocol::frame::{
    AlterTopic, CreateTopic, Durability, Limit, OutOfBounds, Timestamps, TopicInfo, TopicSettings,
};
use serde::{Deserialize, Deserializer};

use super::error::Failure;
use super::extract::{self, Path, topic_name};
use super::{Context, Route, pieces};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new("GET", "/v1/topics", get(list)),
        Route::new("POST", "/v1/topics", post(create)),
        Route::new("GET", "/v1/topics/{topic}", get(describe)),
        Route::new("PATCH", "/v1/topics/{topic}", patch(alter)),
        Route::new("DELETE", "/v1/topics/{topic}", delete(remove)),
        Route::new(
            "POST",
            "/v1/topics/{topic}/partitions/{partition}/repair",
            post(repair),
        ),
    ]
}

/// A topic as HTTP asks for it. A misspelt setting is refused, not ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTopic {
    topic: String,
    #[serde(default = "one")]
    partitions: u32,
    #[serde(default)]
    durability: Durability,
    #[serde(default)]
    retention_ms: Option<u64>,
    #[serde(default)]
    retention_bytes: Option<u64>,
    #[serde(default)]
    timestamps: Timestamps,
    #[serde(default = "hour")]
    timestamp_ahead_ms: Option<u64>,
    #[serde(default)]
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
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Changes {
    #[serde(default)]
    partitions: Option<u32>,
    #[serde(default)]
    durability: Option<Durability>,
    #[serde(default, deserialize_with = "limit")]
    retention_ms: Option<Limit>,
    #[serde(default, deserialize_with = "limit")]
    retention_bytes: Option<Limit>,
    #[serde(default)]
    timestamps: Option<Timestamps>,
    #[serde(default, deserialize_with = "limit")]
    timestamp_ahead_ms: Option<Limit>,
    #[serde(default, deserialize_with = "limit")]
    timestamp_behind_ms: Option<Limit>,
    #[serde(default)]
    out_of_bounds: Option<OutOfBounds>,
}

/// A field that is there: a number, or `null` for no limit.
fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Limit>, D::Error> {
    Option::<u64>::deserialize(deserializer)
        .map(|number| Some(number.map_or(Limit::None, Limit::AtMost)))
}

async fn list(State(context): State<Context>) -> Result<Response, Failure> {
    let broker = context.broker.clone();
    let gather = move || {
        let names = broker.topic_names().into_iter();
        // One may have been deleted meanwhile.
        Ok(names.filter_map(move |name| broker.describe_topic(&name).ok()))
    };
    pieces::list(context.broker.answers(), "topics", gather).await
}

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

async fn describe(
    State(context): State<Context>,
    Path(topic): Path<String>,
) -> Result<Json<TopicInfo>, Failure> {
    Ok(Json(context.broker.describe_topic(&topic_name(&topic)?)?))
}

async fn alter(
    State(context): State<Context>,
    Path(topic): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TopicInfo>, Failure> {
    let topic = topic_name(&topic)?;
    let Changes {
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

async fn repair(
    State(context): State<Context>,
    Path((topic, partition)): Path<(String, u32)>,
) -> Result<Json<TopicInfo>, Failure> {
    let topic = topic_name(&topic)?;
    Ok(Json(
        context.broker.repair_partition(&topic, partition).await?,
    ))
}

async fn remove(
    State(context): State<Context>,
    Path(topic): Path<String>,
) -> Result<StatusCode, Failure> {
    context.broker.delete_topic(&topic_name(&topic)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
