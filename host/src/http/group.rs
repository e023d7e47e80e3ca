//! `/v1/groups`: where the cursors of a group of consumers are.

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use eddy_protocol::frame::Cursors;
use serde::Deserialize;

use super::error::Failure;
use super::extract::{Path, Query, topic_name};
use super::{Context, Route, pieces};

pub(super) fn routes() -> Vec<Route> {
    vec![Route::new(
        "GET",
        "/v1/groups/{group}/cursors",
        get(cursors),
    )]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    topic: Option<String>,
}

async fn cursors(
    State(context): State<Context>,
    Path(group): Path<String>,
    Query(which): Query<Which>,
) -> Result<Response, Failure> {
    let topic = which.topic.as_deref().map(topic_name).transpose()?;
    let cursors = context.broker.cursors(&Cursors { group, topic }).await?;
    pieces::list(context.broker.answers(), "cursors", || Ok(cursors)).await
}
