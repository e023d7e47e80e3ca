//! `/v1/groups`: groups of consumers, where their cursors are, and their end.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use eddy_protocol::TopicName;
use eddy_protocol::admin::{CursorList, GroupList};
use eddy_protocol::frame::{Commit, CursorMove, Cursors, DeleteGroup, ExpectedCursor, Reset};
use eddy_protocol::json::{Object, whole};
use eddy_protocol::openapi::GroupName;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::Failure;
use super::extract::{self, Path, Query, topic_name};
use super::{Context, pieces};

pub(super) fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(remove))
        .routes(routes!(cursors, commit))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// Only this topic's.
    #[param(value_type = Option<TopicName>, nullable = false)]
    topic: Option<String>,
    /// Where to go on in a partition that has lost the history before the cursor: with the first
    /// record that the group can't have read, with the next one that will be appended, or
    /// nowhere (`history_lost`).
    #[serde(default)]
    reset: Reset,
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Only {
    /// Only those in this topic.
    #[param(value_type = Option<TopicName>, nullable = false)]
    topic: Option<String>,
}

/// Where a group goes on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CursorMoves {
    #[schema(min_items = 1, value_type = Vec<CursorMove>)]
    cursors: Vec<ExactMove>,
}

/// A [`CursorMove`] in which nothing is passed over: a misspelt `expect` would fence nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
struct ExactMove {
    topic: TopicName,
    #[serde(deserialize_with = "whole")]
    partition: u32,
    #[serde(deserialize_with = "whole")]
    offset: u64,
    #[serde(default, deserialize_with = "whole")]
    epoch: Option<u32>,
    #[serde(default)]
    expect: Option<ExpectedCursor>,
}

impl<'de> Deserialize<'de> for ExactMove {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ExactMove, D::Error> {
        ExactMove::deserialize(Object(deserializer))
    }
}

impl From<ExactMove> for CursorMove {
    fn from(exact: ExactMove) -> CursorMove {
        CursorMove {
            topic: exact.topic,
            partition: exact.partition,
            offset: exact.offset,
            epoch: exact.epoch,
            expect: exact.expect.unwrap_or_default(),
        }
    }
}

/// All groups that have cursors
#[utoipa::path(
    get, path = "/v1/groups", tag = "groups", operation_id = "listGroups",
    responses((status = 200, description = "In the order of their names.", body = GroupList)),
)]
async fn list(State(context): State<Context>) -> Result<Response, Failure> {
    let broker = context.broker.clone();
    pieces::list(context.broker.answers(), "groups", move || {
        Ok(broker.list_groups())
    })
    .await
}

/// Where a group's cursors are
#[utoipa::path(
    get, path = "/v1/groups/{group}/cursors", tag = "groups", operation_id = "groupCursors",
    params(("group" = GroupName, Path), Wanted),
    responses((status = 200, description = "One entry for each partition that the group has committed.", body = CursorList)),
)]
async fn cursors(
    State(context): State<Context>,
    Path(group): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Response, Failure> {
    let request = Cursors {
        group,
        topic: wanted.topic.as_deref().map(topic_name).transpose()?,
        reset: wanted.reset,
    };
    let cursors = context.broker.cursors(&request).await?;
    pieces::list(context.broker.answers(), "cursors", || Ok(cursors)).await
}

/// Move a group's cursors, all or none
#[utoipa::path(
    post, path = "/v1/groups/{group}/cursors", tag = "groups", operation_id = "moveGroupCursors",
    params(("group" = GroupName, Path)),
    request_body = CursorMoves,
    responses((status = 204, description = "They are moved, durably.")),
)]
async fn commit(
    State(context): State<Context>,
    Path(group): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Failure> {
    let CursorMoves { cursors } = extract::json(&context, &headers, body).await?;
    let commit = Commit {
        appends: Vec::new(),
        group: Some(group),
        cursors: cursors.into_iter().map(CursorMove::from).collect(),
    };
    context.broker.room().await;
    context.broker.commit(commit)?.answer().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forget a group's cursors
#[utoipa::path(
    delete, path = "/v1/groups/{group}", tag = "groups", operation_id = "deleteGroup",
    params(("group" = GroupName, Path), Only),
    responses((status = 204, description = "They are gone.")),
)]
async fn remove(
    State(context): State<Context>,
    Path(group): Path<String>,
    Query(only): Query<Only>,
) -> Result<StatusCode, Failure> {
    let topic = only.topic.as_deref().map(topic_name).transpose()?;
    let delete = DeleteGroup { group, topic };
    context.broker.delete_group(delete).await?;
    Ok(StatusCode::NO_CONTENT)
}
