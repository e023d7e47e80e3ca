//! `/v1/plugins`: push, list, show, delete.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{delete, get, put};
use eddy_protocol::ErrorCode;
use eddy_protocol::admin::PluginInfo;

use super::error::Failure;
use super::extract::{self, Limit, Path};
use super::{Context, Route, pieces};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new("GET", "/v1/plugins", get(list)),
        Route::new("GET", "/v1/unreadable", get(unreadable)),
        Route::new("PUT", "/v1/plugins/{plugin}", put(push)),
        Route::new("GET", "/v1/plugins/{plugin}", get(show)),
        Route::new("DELETE", "/v1/plugins/{plugin}", delete(remove)),
    ]
}

async fn list(State(context): State<Context>) -> Result<Response, Failure> {
    let plugins = context.broker.plugins().await?;
    pieces::list(context.broker.answers(), "plugins", || Ok(plugins)).await
}

/// The plugins and deployments whose rows can't be read.
async fn unreadable(State(context): State<Context>) -> Result<Response, Failure> {
    let unreadable = context.broker.unreadable().await?;
    pieces::list(context.broker.answers(), "unreadable", || Ok(unreadable)).await
}

async fn push(
    State(context): State<Context>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<PluginInfo>, Failure> {
    let limit = Limit {
        bytes: context.plugin_bytes_max,
        code: ErrorCode::PluginTooLarge,
        setting: Some("plugin.plugin_bytes_max"),
    };
    let wasm = extract::bytes(&context, &headers, body, limit).await?;
    let pushed = context
        .broker
        .push_plugin(&name, wasm.bytes.clone())
        .await?;
    Ok(Json(pushed))
}

async fn show(
    State(context): State<Context>,
    Path(plugin): Path<String>,
) -> Result<Json<PluginInfo>, Failure> {
    let found = context.broker.plugin(&plugin).await?;
    Ok(Json(found))
}

async fn remove(
    State(context): State<Context>,
    Path(plugin): Path<String>,
) -> Result<StatusCode, Failure> {
    context.broker.delete_plugin(&plugin).await?;
    Ok(StatusCode::NO_CONTENT)
}
