//! `/v1/groups`: where the cursors of a group of consumers are.

use axum::Json;
use axum::extract::State;
use axum::routing::get;
use eddy_protocol::frame::{Cursor, Cursors};
use serde::{Deserialize, Serialize};

use super::error::Failure;
use super::extract::{Path, Query, topic_name};
use super::{Context, Route};

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

#[derive(Serialize)]
struct Found {
    cursors: Vec<Cursor>,
}

async fn cursors(
    State(context): State<Context>,
    Path(group): Path<String>,
    Query(which): Query<Which>,
) -> Result<Json<Found>, Failure> {
    let topic = which.topic.as_deref().map(topic_name).transpose()?;
    Ok(Json(Found {
        cursors: context.broker.cursors(&Cursors { group, topic }).await?,
    }))
}
