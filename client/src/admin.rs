//! Plugins, deployments and repairs, over HTTP.
//!
//! Each call is one request and one answer. A broker that can't be reached yet
//! is tried again for a while; nothing that was sent is, because a person or a
//! script waits for the answer and may decide.

use std::time::Duration;

use bytes::Bytes;
use eddy_protocol::admin::{DeploymentInfo, DeploymentSpec, PluginInfo, Unreadable};
use eddy_protocol::frame::TopicInfo;
use eddy_protocol::{ErrorCode, TopicName};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::error::refusal_in;
use crate::{ClientError, ServerAddress};

/// No answer is longer.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How soon a broker that can't be reached is tried again.
const RETRY_EVERY: Duration = Duration::from_millis(200);

/// The administrative calls of one broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    server: ServerAddress,
    http: legacy::Client<HttpConnector, Full<Bytes>>,
    patience: Duration,
    timeout: Duration,
}

impl Admin {
    /// For the broker at this address. A call fails when the broker can't be
    /// reached for `patience`, and when there is no answer after `timeout`.
    pub fn new(server: ServerAddress, patience: Duration, timeout: Duration) -> Admin {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(patience));
        connector.set_nodelay(true);
        let http = legacy::Client::builder(TokioExecutor::new()).build(connector);
        Admin {
            server,
            http,
            patience,
            timeout,
        }
    }

    /// Stores a plugin under a name; a name that is there already names the new one from now on.
    pub async fn push_plugin(&self, name: &str, wasm: Bytes) -> Result<PluginInfo, ClientError> {
        self.call(
            Method::PUT,
            &format!("/v1/plugins/{}", escaped(name)),
            Some(("application/wasm", wasm)),
        )
        .await
    }

    /// All plugins, in the order of their names.
    pub async fn plugins(&self) -> Result<Vec<PluginInfo>, ClientError> {
        let list: PluginList = self.call(Method::GET, "/v1/plugins", None).await?;
        Ok(list.plugins)
    }

    /// The plugins and deployments that the broker keeps and can't read.
    pub async fn unreadable(&self) -> Result<Vec<Unreadable>, ClientError> {
        let list: UnreadableList = self.call(Method::GET, "/v1/unreadable", None).await?;
        Ok(list.unreadable)
    }

    /// The plugin with this name or digest.
    pub async fn plugin(&self, name: &str) -> Result<PluginInfo, ClientError> {
        self.call(Method::GET, &format!("/v1/plugins/{}", escaped(name)), None)
            .await
    }

    /// Removes a plugin that no deployment uses.
    pub async fn delete_plugin(&self, name: &str) -> Result<(), ClientError> {
        self.request(
            Method::DELETE,
            &format!("/v1/plugins/{}", escaped(name)),
            None,
        )
        .await
        .map(drop)
    }

    /// Puts a plugin to work.
    pub async fn deploy(&self, spec: &DeploymentSpec) -> Result<DeploymentInfo, ClientError> {
        let body = serde_json::to_vec(spec).map_err(|error| self.nonsense(error))?;
        self.call(
            Method::POST,
            "/v1/deployments",
            Some(("application/json", body.into())),
        )
        .await
    }

    /// Puts what is asked for in the place of the deployment of this name,
    /// which goes on where it is.
    pub async fn replace_deployment(
        &self,
        spec: &DeploymentSpec,
    ) -> Result<DeploymentInfo, ClientError> {
        let body = serde_json::to_vec(spec).map_err(|error| self.nonsense(error))?;
        self.call(
            Method::PUT,
            &format!("/v1/deployments/{}", escaped(&spec.name)),
            Some(("application/json", body.into())),
        )
        .await
    }

    /// All deployments, in the order of their names.
    pub async fn deployments(&self) -> Result<Vec<DeploymentInfo>, ClientError> {
        let list: DeploymentList = self.call(Method::GET, "/v1/deployments", None).await?;
        Ok(list.deployments)
    }

    /// One deployment, with its partitions.
    pub async fn deployment(&self, name: &str) -> Result<DeploymentInfo, ClientError> {
        self.call(
            Method::GET,
            &format!("/v1/deployments/{}", escaped(name)),
            None,
        )
        .await
    }

    /// Ends a deployment. What it wrote stays.
    pub async fn delete_deployment(&self, name: &str) -> Result<(), ClientError> {
        self.request(
            Method::DELETE,
            &format!("/v1/deployments/{}", escaped(name)),
            None,
        )
        .await
        .map(drop)
    }

    /// Lets a stopped partition serve again with what of it is whole; the rest is
    /// given up.
    pub async fn repair_partition(
        &self,
        topic: &TopicName,
        partition: u32,
    ) -> Result<TopicInfo, ClientError> {
        self.call(
            Method::POST,
            &format!(
                "/v1/topics/{}/partitions/{partition}/repair",
                escaped(topic.as_ref())
            ),
            None,
        )
        .await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<T, ClientError> {
        let answer = self.request(method, path, body).await?;
        serde_json::from_slice(&answer).map_err(|error| self.nonsense(error))
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Bytes, ClientError> {
        match tokio::time::timeout(self.timeout, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::TimedOut {
                server: self.server.clone(),
                what: "answer",
                limit: self.timeout,
            }),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, Bytes)>,
    ) -> Result<Bytes, ClientError> {
        let uri: Uri = self
            .server
            .url("http", path)
            .parse()
            .map_err(|error| self.nonsense(error))?;
        let (kind, body) = body.unzip();
        let mut request = Request::new(Full::new(body.unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        if let Some(kind) = kind {
            request
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        let response = self.send(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body
            .map_err(|error| self.unreachable(error.as_ref()))?
            .to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            Err(self.refusal(status, &body))
        }
    }

    /// Sends a request, again while it can't even get out.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let deadline = Instant::now() + self.patience;
        loop {
            match self.http.request(request.clone()).await {
                Err(error) if error.is_connect() && Instant::now() + RETRY_EVERY < deadline => {
                    tokio::time::sleep(RETRY_EVERY).await;
                }
                result => return result.map_err(|error| self.unreachable(&error)),
            }
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> ClientError {
        match refusal_in(body) {
            Some(error) => ClientError::Refused(error),
            None if status == StatusCode::NOT_FOUND => ClientError::Refused(
                ErrorCode::NotFound.because("the broker knows no such address"),
            ),
            None => ClientError::Protocol {
                server: self.server.clone(),
                reason: format!("HTTP status {status}"),
            },
        }
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> ClientError {
        ClientError::Unreachable {
            server: self.server.clone(),
            reason: innermost(error),
        }
    }

    fn nonsense(&self, error: impl std::fmt::Display) -> ClientError {
        ClientError::Protocol {
            server: self.server.clone(),
            reason: error.to_string(),
        }
    }
}

#[derive(Deserialize)]
struct UnreadableList {
    unreadable: Vec<Unreadable>,
}

#[derive(Deserialize)]
struct PluginList {
    plugins: Vec<PluginInfo>,
}

#[derive(Deserialize)]
struct DeploymentList {
    deployments: Vec<DeploymentInfo>,
}

/// What lies under "client error (Connect)" is what a person can act on.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// A name as a segment of a path: everything but unreserved characters as
/// %XX (RFC 3986, section 2.3).
fn escaped(name: &str) -> String {
    use std::fmt::Write;
    name.bytes()
        .fold(String::with_capacity(name.len()), |mut path, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                // Writing to a String can't fail.
                let _ = write!(path, "%{byte:02X}");
            }
            path
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_hold_anything_without_leaving_its_segment() {
        assert_eq!(escaped("json-filter"), "json-filter");
        assert_eq!(
            escaped("../topics?x#y z/ü"),
            "..%2Ftopics%3Fx%23y%20z%2F%C3%BC"
        );
    }

    #[tokio::test]
    async fn a_closed_port_is_reported_as_unreachable_with_the_systems_words() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let admin = Admin::new(
            address.parse().expect("host and port"),
            Duration::from_millis(300),
            Duration::from_secs(10),
        );
        let error = admin.plugins().await.expect_err("nobody listens");
        let ClientError::Unreachable { server, reason } = error else {
            panic!("{error}")
        };
        assert_eq!(server.to_string(), address);
        assert!(reason.contains("refused"), "{reason}");
    }
}
