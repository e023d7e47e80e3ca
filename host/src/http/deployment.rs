//! `/v1/deployments`: deploy, list, show, replace, delete.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use eddy_protocol::ErrorCode;
use eddy_protocol::admin::{DeploymentInfo, DeploymentList, DeploymentSpec};
use eddy_protocol::openapi::Name;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::Failure;
use super::extract::{self, Path};
use super::{Context, pieces};

pub(super) fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(list, deploy))
        .routes(routes!(show, replace, remove))
}

/// List the deployments
#[utoipa::path(
    get, path = "/v1/deployments", tag = "deployments", operation_id = "listDeployments",
    responses((status = 200, description = "In the order of their names.", body = DeploymentList)),
)]
async fn list(State(context): State<Context>) -> Result<Response, Failure> {
    let broker = context.broker.clone();
    let gather = move || {
        let names = broker.deployment_names().into_iter();
        // One may have been deleted meanwhile.
        Ok(names.filter_map(move |name| broker.deployment(&name).ok()))
    };
    pieces::list(context.broker.answers(), "deployments", gather).await
}

/// Put a plugin to work between topics
///
/// The plugin's outputs and its place in the input are one commit: every input record acts
/// exactly once. The answer comes once the plugin has accepted its parameters and the deployment
/// is durable; its instances begin then, and `GET` tells how they fare.
#[utoipa::path(
    post, path = "/v1/deployments", tag = "deployments", operation_id = "deploy",
    request_body(content = DeploymentSpec, example = json!({
        "name": "strong",
        "plugin": "json-filter",
        "from": "quakes",
        "to": "strong-quakes",
        "params": {"where": "mag >= 4.5"},
    })),
    responses((status = 201, description = "The deployment.", body = DeploymentInfo)),
)]
async fn deploy(
    State(context): State<Context>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<DeploymentInfo>), Failure> {
    let spec: DeploymentSpec = extract::json(&context, &headers, body).await?;
    Ok((
        StatusCode::CREATED,
        Json(context.broker.deploy(spec).await?),
    ))
}

/// Show a deployment, its instances and why it is stopped
#[utoipa::path(
    get, path = "/v1/deployments/{deployment}", tag = "deployments", operation_id = "showDeployment",
    params(("deployment" = Name, Path)),
    responses((status = 200, description = "The deployment.", body = DeploymentInfo)),
)]
async fn show(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<Json<DeploymentInfo>, Failure> {
    let found = context.broker.deployment(&name)?;
    Ok(Json(found))
}

/// Put another plugin, parameters, limits or outputs in a deployment's place
///
/// Goes on where the deployment is, be it at work or stopped: no input record acts twice or not
/// at all. It reads the same topic, and has the same name; `start` says nothing any more. The
/// version rises by one.
#[utoipa::path(
    put, path = "/v1/deployments/{deployment}", tag = "deployments", operation_id = "replaceDeployment",
    params(("deployment" = Name, Path)),
    request_body = DeploymentSpec,
    responses((status = 200, description = "The deployment.", body = DeploymentInfo)),
)]
async fn replace(
    State(context): State<Context>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DeploymentInfo>, Failure> {
    let spec: DeploymentSpec = extract::json(&context, &headers, body).await?;
    if spec.name != name {
        let words = format!(
            "the body is of deployment `{}`, the path of `{name}`",
            spec.name
        );
        return Err(ErrorCode::Inconsistent.because(words).into());
    }
    Ok(Json(context.broker.replace_deployment(spec).await?))
}

/// Stop a deployment and forget it
#[utoipa::path(
    delete, path = "/v1/deployments/{deployment}", tag = "deployments", operation_id = "deleteDeployment",
    params(("deployment" = Name, Path)),
    responses((status = 204, description = "Done.")),
)]
async fn remove(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<StatusCode, Failure> {
    context.broker.delete_deployment(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
