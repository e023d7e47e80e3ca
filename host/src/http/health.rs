//! Whether the process lives (`/health`), whether it takes requests
//! (`/ready`), and what it has counted (`/metrics`).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use eddy_protocol::admin::DeploymentState;
use eddy_protocol::frame::TopicInfo;
use metrics::gauge;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::apart::blocking;
use super::error::Failure;
use super::{Context, pieces};
use crate::broker::Health;
use crate::metrics as names;

/// What the metrics take while they are gathered, and of that each deployment.
const METRICS_BYTES: usize = 1 << 20;
const DEPLOYMENT_BYTES: usize = 1 << 10;

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
    let readiness = Readiness {
        ready: false,
        reason,
        notices: Arc::default(),
    };
    serde_json::to_vec(&readiness).unwrap_or_default()
}

#[derive(Serialize, ToSchema)]
struct Readiness {
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// What was found at the start that an operator should know, such as records that are lost.
    #[serde(skip_serializing_if = "<[String]>::is_empty", serialize_with = "texts")]
    #[schema(value_type = Vec<String>)]
    notices: Arc<[String]>,
}

fn texts<S: Serializer>(texts: &Arc<[String]>, serializer: S) -> Result<S::Ok, S::Error> {
    texts.as_ref().serialize(serializer)
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
            notices: context.notices,
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
        Health::Behind(reason) => Some(reason.to_string()),
        Health::Failed(reason) => Some(format!("the store failed: {reason}")),
    }
}

/// What the process has counted, for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "operation", operation_id = "metrics",
    responses((status = 200, description = "Prometheus's text format 0.0.4.", body = String)),
)]
async fn render(State(context): State<Context>) -> Result<Response, Failure> {
    let bytes = METRICS_BYTES + context.broker.deployment_names().len() * DEPLOYMENT_BYTES;
    let budget = context.broker.answers().clone();
    pieces::answer(
        &budget,
        "text/plain; version=0.0.4; charset=utf-8",
        move |mut pieces| async move {
            pieces.wanted().await?;
            let held = pieces.memory(bytes).await?;
            let own_bytes = held.bytes();
            let rendered = blocking(move || {
                measure(&context, own_bytes);
                Ok(context.metrics.render())
            });
            pieces.give(rendered.await?.into_bytes(), held, true);
            Ok(())
        },
    )
    .await
}

/// Sets the gauges that describe what is, rather than what happened; without the `own_bytes` that
/// this answer takes.
fn measure(context: &Context, own_bytes: usize) {
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
    let answer_bytes = context.broker.answers().held_bytes();
    gauge!(names::ANSWER_BYTES).set(answer_bytes.saturating_sub(own_bytes) as f64);
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
