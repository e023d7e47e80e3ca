//! `/v1/plugins`: push, list, show, delete.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use eddy_protocol::ErrorCode;
use eddy_protocol::admin::{PluginInfo, PluginList, UnreadableList};
use eddy_protocol::openapi::Name;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::Failure;
use super::extract::{self, Limit, Path};
use super::{Context, pieces};

pub(super) fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(unreadable))
        .routes(routes!(push, show, remove))
}

/// List the plugins
#[utoipa::path(
    get, path = "/v1/plugins", tag = "plugins", operation_id = "listPlugins",
    responses((status = 200, description = "In the order of their names.", body = PluginList)),
)]
async fn list(State(context): State<Context>) -> Result<Response, Failure> {
    let plugins = context.broker.plugins().await?;
    pieces::list(context.broker.answers(), "plugins", || Ok(plugins)).await
}

/// The plugins and deployments that the broker keeps and can't read
///
/// Each can be deleted or replaced.
#[utoipa::path(
    get, path = "/v1/unreadable", tag = "operation", operation_id = "listUnreadable",
    responses((status = 200, description = "In the order of kind and name.", body = UnreadableList)),
)]
async fn unreadable(State(context): State<Context>) -> Result<Response, Failure> {
    let unreadable = context.broker.unreadable().await?;
    pieces::list(context.broker.answers(), "unreadable", || Ok(unreadable)).await
}

/// Push a plugin under a name
///
/// The body is a WebAssembly component of the world of `eddy:plugin`. A name that is taken gets
/// the new plugin; deployments keep what they were deployed with. The setting
/// `plugin.plugin_bytes_max` limits the size.
#[utoipa::path(
    put, path = "/v1/plugins/{plugin}", tag = "plugins", operation_id = "pushPlugin",
    params(("plugin" = Name, Path)),
    request_body(content = String, content_type = "application/wasm"),
    responses((status = 200, description = "The plugin.", body = PluginInfo)),
)]
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

/// Show a plugin, by its name or its digest
#[utoipa::path(
    get, path = "/v1/plugins/{plugin}", tag = "plugins", operation_id = "showPlugin",
    params(("plugin" = Name, Path)),
    responses((status = 200, description = "The plugin.", body = PluginInfo)),
)]
async fn show(
    State(context): State<Context>,
    Path(plugin): Path<String>,
) -> Result<Json<PluginInfo>, Failure> {
    let found = context.broker.plugin(&plugin).await?;
    Ok(Json(found))
}

/// Delete a plugin
///
/// Refused while a deployment runs it.
#[utoipa::path(
    delete, path = "/v1/plugins/{plugin}", tag = "plugins", operation_id = "deletePlugin",
    params(("plugin" = Name, Path)),
    responses((status = 204, description = "Done.")),
)]
async fn remove(
    State(context): State<Context>,
    Path(plugin): Path<String>,
) -> Result<StatusCode, Failure> {
    context.broker.delete_plugin(&plugin).await?;
    Ok(StatusCode::NO_CONTENT)
}
