//! `/v1/deployments`: deploy, list, show, replace, delete.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{delete, get, post, put};
use eddy_protocol::ErrorCode;
use eddy_protocol::admin::{DeploymentInfo, DeploymentSpec};

use super::error::Failure;
use super::extract::{self, Path};
use super::{Context, Route, pieces};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new("GET", "/v1/deployments", get(list)),
        Route::new("POST", "/v1/deployments", post(deploy)),
        Route::new("GET", "/v1/deployments/{deployment}", get(show)),
        Route::new("PUT", "/v1/deployments/{deployment}", put(replace)),
        Route::new("DELETE", "/v1/deployments/{deployment}", delete(remove)),
    ]
}

async fn list(State(context): State<Context>) -> Result<Response, Failure> {
    let broker = context.broker.clone();
    let gather = move || {
        let names = broker.deployment_names().into_iter();
        // One may have been deleted meanwhile.
        Ok(names.filter_map(move |name| broker.deployment(&name).ok()))
    };
    pieces::list(context.broker.answers(), "deployments", gather).await
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
    let found = context.broker.deployment(&name)?;
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
