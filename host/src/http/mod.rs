//! The HTTP front: the API, the console and the WebSocket's handshake, as one
//! function from a request to an answer. One file per resource.
//!
//! It promises that every answer that is not a success carries an error of the
//! public table, that no body is read past its limit, that no page of a foreign
//! origin changes anything, and that what was begun is brought to its end, also
//! if nobody waits for the answer any more. It knows nothing of sockets: `server`
//! drives those, and takes one over when an answer holds [`Accepted`].

mod apart;
mod deployment;
pub mod error;
mod extract;
mod fetch;
mod group;
pub(crate) mod health;
mod openapi;
mod origin;
mod page;
mod pieces;
mod plugin;
mod produce;
mod topic;
mod websocket;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use eddy_protocol::ErrorCode;
use metrics::{counter, histogram};
use tokio::sync::watch;
use tower::ServiceExt;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::broker::{Broker, Budget};
use crate::io::Clock;
use crate::metrics::{self as names, Metrics};
use error::Failure;
pub use extract::Bodies;
pub use origin::{is_allowed_origin, is_host};
pub use websocket::Accepted;

/// The front's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The body of a request that produces records.
    pub body_bytes_max: usize,
    /// The bodies of all requests under way.
    pub bodies_bytes_max: usize,
    /// The time for a request's body to arrive.
    pub body_timeout: Duration,
    /// Origins whose pages may write and open a WebSocket; see [`is_allowed_origin`].
    pub allowed_origins: Vec<String>,
    /// Names under which the broker is reached.
    pub allowed_hosts: Vec<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            body_bytes_max: 8 << 20,
            bodies_bytes_max: 256 << 20,
            body_timeout: Duration::from_secs(60),
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
        }
    }
}

/// What the handlers work with. Cloning shares it.
#[derive(Clone)]
pub struct Context {
    /// The domain.
    pub broker: Arc<Broker>,
    /// The front's settings.
    pub config: Arc<Config>,
    /// The largest plugin that is taken.
    pub plugin_bytes_max: usize,
    /// For records that come without a time.
    pub clock: Arc<dyn Clock>,
    /// Room for requests' bodies.
    pub bodies: Bodies,
    /// What the process has counted.
    pub metrics: Metrics,
    /// What was found at the start that an operator should know, such as a loss.
    pub notices: Arc<[String]>,
    /// True from the moment the broker is told to stop.
    pub stopping: watch::Receiver<bool>,
}

/// Everything that is answered, save the console's files, and its description.
fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::with_openapi(openapi::ApiHead::openapi())
        .merge(produce::routes())
        .merge(fetch::routes())
        .merge(topic::routes())
        .merge(plugin::routes())
        .merge(deployment::routes())
        .merge(group::routes())
        .merge(websocket::routes())
        .merge(health::routes())
        .merge(openapi::routes())
        .merge(page::routes())
}

/// The front. Cloning shares it.
#[derive(Clone)]
pub struct Front {
    router: Router,
    rule: Arc<origin::Rule>,
    budget: Budget,
}

impl Front {
    /// The front of a broker that listens on this address.
    pub fn new(context: Context, listens_on: IpAddr) -> Front {
        let Config {
            allowed_origins,
            allowed_hosts,
            ..
        } = &*context.config;
        let budget = context.broker.answers().clone();
        let rule = Arc::new(origin::Rule::new(
            allowed_origins,
            allowed_hosts,
            listens_on,
        ));
        let (mut router, described) = routes().split_for_parts();
        let taken = Arc::new(openapi::taken(&described));
        for (path, item) in &described.paths.paths {
            router = router.route(path, any(wrong_method(openapi::methods(item))));
        }
        let router = router
            .route_layer(middleware::from_fn(move |path, request, next| {
                by_route(taken.clone(), path, request, next)
            }))
            .fallback(page::fallback)
            .with_state(context);
        Front {
            router,
            rule,
            budget,
        }
    }

    /// Answers a request. Never fails: what goes wrong is an answer, too.
    pub async fn answer(&self, request: Request) -> Response {
        let (method, begin) = (method_label(request.method()), Instant::now());
        let answer = self.answer_to_origin(request).await;
        let mut answer = pieces::whole(&self.budget, answer).await;
        // A browser must not guess what an answer is.
        answer.headers_mut().insert(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        );
        count(&answer, method, begin);
        answer
    }

    async fn answer_to_origin(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        if let Some(refused) = extract::refuse_head(&parts.headers) {
            return refused.into_response();
        }
        let cors = match self.rule.check(&parts) {
            Ok(cors) => cors,
            Err(refused) => return Failure::from(refused).into_response(),
        };
        let mut answer = if origin::is_preflight(&parts) {
            origin::preflight(&parts.headers)
        } else {
            self.route(Request::from_parts(parts, body)).await
        };
        cors.apply(&mut answer);
        answer
    }

    /// A write goes on when its peer has left, which drops this future:
    /// otherwise it would end between any two of its steps.
    async fn route(&self, request: Request) -> Response {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let router = self.router.clone();
        let answered = async move {
            let answered = router.oneshot(request).await;
            answered.unwrap_or_else(|never: Infallible| match never {})
        };
        if reads {
            return answered.await;
        }
        apart::whole(answered)
            .await
            .unwrap_or_else(Failure::into_response)
    }
}

/// The answer to a method that a path does not have.
fn wrong_method(
    mut methods: Vec<&'static str>,
) -> impl Fn(Method) -> std::future::Ready<Response> + Clone + Send + 'static {
    if methods.contains(&"GET") {
        methods.push("HEAD");
    }
    let allowed = methods.join(", ");
    move |method| {
        let message = format!("{method} is not possible here, only {allowed}");
        let mut answer =
            Failure::from(ErrorCode::MethodNotAllowed.because(message)).into_response();
        if let Ok(allowed) = HeaderValue::from_str(&allowed) {
            answer.headers_mut().insert(header::ALLOW, allowed);
        }
        std::future::ready(answer)
    }
}

/// Refuses what the route would not read, and leaves a note in the answer of which route gave it.
async fn by_route(
    taken: Arc<openapi::RouteInputs>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Response {
    let mut answer = match taken.unread(path.as_str(), &request) {
        None => next.run(request).await,
        Some(unread) => Failure::from(ErrorCode::InvalidArgument.because(unread)).into_response(),
    };
    answer.extensions_mut().insert(path);
    answer
}

/// Counts an answer by its route, not by its path: a label must not grow with
/// topics. What was answered without a route counts as `none`.
fn count(answer: &Response, method: &'static str, begin: Instant) {
    let route = answer.extensions().get::<MatchedPath>();
    let route = route.map_or("none", MatchedPath::as_str).to_owned();
    let status = answer.status().as_u16().to_string();
    histogram!(names::HTTP_SECONDS, "route" => route.clone()).record(begin.elapsed());
    counter!(names::HTTP_REQUESTS, "route" => route, "method" => method, "status" => status)
        .increment(1);
}

/// Peers can invent methods; labels can't.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
