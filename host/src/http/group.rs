//! `/v1/groups`: groups of consumers, where their cursors are, and their end.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{delete, get, post};
use eddy_protocol::frame::{Commit, CursorMove, Cursors, DeleteGroup, Reset};
use serde::Deserialize;

use super::error::Failure;
use super::extract::{self, Path, Query, topic_name};
use super::{Context, Route, pieces};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new("GET", "/v1/groups", get(list)),
        Route::new("DELETE", "/v1/groups/{group}", delete(remove)),
        Route::new("GET", "/v1/groups/{group}/cursors", get(cursors)),
        Route::new("POST", "/v1/groups/{group}/cursors", post(commit)),
    ]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    topic: Option<String>,
    #[serde(default)]
    reset: Reset,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Only {
    topic: Option<String>,
}

/// Where a group goes on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Moves {
    cursors: Vec<CursorMove>,
}

async fn list(State(context): State<Context>) -> Result<Response, Failure> {
    let broker = context.broker.clone();
    pieces::list(context.broker.answers(), "groups", move || {
        Ok(broker.list_groups())
    })
    .await
}

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

async fn commit(
    State(context): State<Context>,
    Path(group): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Failure> {
    let Moves { cursors } = extract::json(&context, &headers, body).await?;
    let commit = Commit {
        appends: Vec::new(),
        group: Some(group),
        cursors,
    };
    context.broker.room().await;
    context.broker.commit(commit)?.answer().await?;
    Ok(StatusCode::NO_CONTENT)
}

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
