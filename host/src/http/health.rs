//! Whether the process lives (`/health`), whether it takes requests
//! (`/ready`), and what it has counted (`/metrics`).

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use eddy_protocol::admin::DeploymentState;
use eddy_protocol::frame::TopicInfo;
use metrics::gauge;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Context;
use super::apart::blocking;
use super::error::Failure;
use crate::broker::Health;
use crate::metrics as names;

pub(super) fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(render))
}

#[derive(Serialize, ToSchema)]
struct Alive {
    /// Always `alive`.
    status: &'static str,
    version: &'static str,
}

const ALIVE: Alive = Alive {
    status: "alive",
    version: env!("CARGO_PKG_VERSION"),
};

/// Whether the process lives
#[utoipa::path(
    get, path = "/health", tag = "operation", operation_id = "health",
    responses((status = 200, description = "It does.", body = Alive)),
)]
async fn health() -> Json<Alive> {
    Json(ALIVE)
}

/// The answer of `/health`, for who can give it before there is a broker.
pub(crate) fn alive() -> Vec<u8> {
    serde_json::to_vec(&ALIVE).unwrap_or_default()
}

/// Likewise the answer of `/ready`, which is no.
pub(crate) fn unready(reason: &str) -> Vec<u8> {
    let reason = Some(reason.to_owned());
    let ready = false;
    serde_json::to_vec(&Readiness { ready, reason }).unwrap_or_default()
}

#[derive(Serialize, ToSchema)]
struct Readiness {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Whether the broker takes requests
#[utoipa::path(
    get, path = "/ready", tag = "operation", operation_id = "ready",
    responses(
        (status = 200, description = "It does.", body = Readiness),
        (
            status = 503, body = Readiness,
            description = "It does not, for the reason given: the store recovers what is on disk, it is stopping, the disk is full, or the store failed.",
        ),
    ),
)]
async fn ready(State(context): State<Context>) -> Response {
    let reason = why_unready(&context);
    let status = if reason.is_none() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(Readiness {
            ready: reason.is_none(),
            reason,
        }),
    )
        .into_response()
}

/// Why the broker takes no requests, or only some.
fn why_unready(context: &Context) -> Option<String> {
    if *context.stopping.borrow() {
        return Some("the broker is stopping".to_owned());
    }
    match context.broker.health() {
        Health::Ok => None,
        Health::DiskFull => {
            Some("the disk is full; produces are refused until there is room".to_owned())
        }
        Health::Failed(reason) => Some(format!("the store failed: {reason}")),
    }
}

/// What the process has counted, for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "operation", operation_id = "metrics",
    responses((status = 200, description = "Prometheus's text format 0.0.4.", body = String)),
)]
async fn render(State(context): State<Context>) -> Result<Response, Failure> {
    let rendered = blocking(move || {
        measure(&context);
        Ok(context.metrics.render())
    });
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, text)], rendered.await?).into_response())
}

/// Sets the gauges that describe what is, rather than what happened.
fn measure(context: &Context) {
    let topics = context.broker.list_topics();
    let partitions = || topics.iter().flat_map(|topic| &topic.partitions);
    gauge!(names::TOPICS).set(topics.len() as f64);
    gauge!(names::PARTITIONS).set(partitions().count() as f64);
    gauge!(names::PARTITIONS_STOPPED)
        .set(partitions().filter(|p| p.stopped.is_some()).count() as f64);
    gauge!(names::STORED_BYTES).set(topics.iter().map(bytes).sum::<u64>() as f64);
    measure_deployments(context);
    gauge!(names::DISK_FULL).set(f64::from(matches!(
        context.broker.health(),
        Health::DiskFull
    )));
    gauge!(names::ANSWER_BYTES).set(context.broker.answers().held_bytes() as f64);
    gauge!(names::READY).set(f64::from(why_unready(context).is_none()));
}

fn measure_deployments(context: &Context) {
    let deployments = context.broker.deployments();
    for (state, label) in [
        (DeploymentState::Starting, "starting"),
        (DeploymentState::Running, "running"),
        (DeploymentState::Stopped, "stopped"),
    ] {
        let count = deployments.iter().filter(|d| d.state == state).count();
        gauge!(names::DEPLOYMENTS, "state" => label).set(count as f64);
    }
    for deployment in deployments {
        let lag: u64 = deployment.partitions.iter().map(|p| p.lag).sum();
        gauge!(names::DEPLOYMENT_LAG, "deployment" => deployment.spec.name).set(lag as f64);
    }
}

fn bytes(topic: &TopicInfo) -> u64 {
    topic
        .partitions
        .iter()
        .map(|partition| partition.bytes)
        .sum()
}
