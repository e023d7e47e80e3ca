//! `/v1/deployments`: deploy, list, show, replace, delete.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{delete, get, post, put};
use eddy_protocol::ErrorCode;
use eddy_protocol::admin::{DeploymentInfo, DeploymentSpec};
use serde::Serialize;

use super::apart::blocking;
use super::error::Failure;
use super::extract::{self, Path};
use super::{Context, Route};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new("GET", "/v1/deployments", get(list)),
        Route::new("POST", "/v1/deployments", post(deploy)),
        Route::new("GET", "/v1/deployments/{deployment}", get(show)),
        Route::new("PUT", "/v1/deployments/{deployment}", put(replace)),
        Route::new("DELETE", "/v1/deployments/{deployment}", delete(remove)),
    ]
}

#[derive(Serialize)]
struct Deployments {
    deployments: Vec<DeploymentInfo>,
}

async fn list(State(context): State<Context>) -> Result<Json<Deployments>, Failure> {
    let deployments = blocking(move || Ok(context.broker.deployments())).await?;
    Ok(Json(Deployments { deployments }))
}

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

async fn show(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<Json<DeploymentInfo>, Failure> {
    let found = blocking(move || Ok(context.broker.deployment(&name)?)).await?;
    Ok(Json(found))
}

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
        return Err(ErrorCode::InvalidArgument.because(words).into());
    }
    Ok(Json(context.broker.replace_deployment(spec).await?))
}

async fn remove(
    State(context): State<Context>,
    Path(name): Path<String>,
) -> Result<StatusCode, Failure> {
    context.broker.delete_deployment(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
