//! The description of this front for programs, made of the handlers and types that are
//! served. What no attribute of theirs can say is added to its text here.

use std::sync::LazyLock;

use axum::body::HttpBody;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use eddy_protocol::TopicName;
use eddy_protocol::frame::Reset;
use eddy_protocol::openapi::{GroupName, Name};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Context;
use super::error::ErrorAnswer;
use super::pieces::Counted;

/// What does not depend on the routes.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Eddy",
        version = "1",
        description = "An event bus for the edge. Every answer that is not a success, except the one of `/ready`, carries an error with a stable code, a sentence, and whether to retry. Fields of a body that are not described here are refused by name. A request whose body is records says how they are written in `content-type`; any other body with a schema is read as JSON whatever its type. A request that changes something is brought to its end, also if its client leaves before the answer. A write from a page of another origin is refused unless `http.allowed_origins` allows it. `HEAD` works wherever `GET` does.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/")),
    tags(
        (name = "records", description = "Append and read."),
        (name = "topics", description = "Create, describe, alter, delete."),
        (name = "plugins", description = "WebAssembly components, each named by its digest."),
        (name = "deployments", description = "Plugins at work."),
        (name = "groups", description = "Consumers that share a topic."),
        (name = "wire", description = "The frames over WebSocket."),
        (name = "operation", description = "For those who run the broker.")
    ),
    components(schemas(ErrorAnswer, TopicName, Name, GroupName, Reset))
)]
pub(super) struct ApiHead;

/// What is said of each answer that no handler describes.
const ERROR: &str = "What went wrong. The status is that of the code; 405, 408, 413, 415 and 426 are HTTP's own, as are 400, 414 and 431 where the request is no HTTP or its head is larger than `server.header_bytes_max`, and 503 with `too_many` where there are more connections than `server.connections_max`.";

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    // Texts and numbers have a JSON form.
    serde_json::to_vec(&described()).unwrap_or_default().into()
});

pub(super) fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::new().routes(routes!(document))
}

/// This document
#[utoipa::path(
    get, path = "/openapi.json", tag = "operation", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1.", body = Object)),
)]
async fn document() -> Response {
    let json = HeaderValue::from_static("application/json");
    let mut answer = ([(header::CONTENT_TYPE, json)], DOCUMENT.clone()).into_response();
    answer.extensions_mut().insert(Counted);
    answer
}

/// The methods of a path, each with what it does.
fn operations(path: &PathItem) -> impl Iterator<Item = (&'static str, &Operation)> {
    let methods = [
        ("GET", &path.get),
        ("POST", &path.post),
        ("PUT", &path.put),
        ("PATCH", &path.patch),
        ("DELETE", &path.delete),
    ];
    let there = methods.into_iter();
    there.filter_map(|(name, operation)| Some((name, operation.as_ref()?)))
}

/// The methods of a path.
pub(super) fn methods(path: &PathItem) -> Vec<&'static str> {
    operations(path).map(|(name, _)| name).collect()
}

/// What the methods of each path take besides it.
pub(super) struct RouteInputs(FxHashMap<String, Vec<(&'static str, Inputs)>>);

#[derive(Clone, Copy)]
struct Inputs {
    query: bool,
    body: bool,
}

/// What the routes of this description take.
pub(super) fn taken(described: &utoipa::openapi::OpenApi) -> RouteInputs {
    let mut taken = FxHashMap::<_, Vec<_>>::default();
    // To a page or a probe somebody may append what is against caches.
    let api = described.paths.paths.iter();
    for (path, item) in api.filter(|(path, _)| path.starts_with("/v1/")) {
        for (method, operation) in operations(item) {
            let parameters = operation.parameters.iter().flatten();
            let mut places = parameters.map(|it| &it.parameter_in);
            let inputs = Inputs {
                query: places.any(|place| matches!(place, ParameterIn::Query)),
                body: operation.request_body.is_some(),
            };
            taken
                .entry(path.clone())
                .or_default()
                .push((method, inputs));
        }
    }
    RouteInputs(taken)
}

impl RouteInputs {
    /// What the request has that its route would not read, in a sentence: whoever sent it means
    /// something by it.
    pub(super) fn unread(&self, path: &str, request: &Request) -> Option<String> {
        let method = match request.method().as_str() {
            "HEAD" => "GET",
            method => method,
        };
        let (_, inputs) = self.0.get(path)?.iter().find(|(of, _)| *of == method)?;
        let query = request.uri().query().filter(|query| !query.is_empty());
        if let Some(query) = query.filter(|_| !inputs.query) {
            return Some(format!(
                "{method} {path} takes no query, `{query}` was given"
            ));
        }
        let has_body = !request.body().is_end_stream();
        (has_body && !inputs.body && method == "DELETE")
            .then(|| format!("{method} {path} takes no body, and one was sent"))
    }
}

fn described() -> Value {
    let mut document = serde_json::to_value(super::routes().into_openapi()).unwrap_or_default();
    document["components"]["responses"]["Error"] = json!({
        "description": ERROR,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    });
    let paths = document["paths"].as_object_mut().into_iter();
    let operations = paths.flat_map(|paths| paths.values_mut());
    for operation in operations
        .filter_map(Value::as_object_mut)
        .flat_map(Map::values_mut)
    {
        operation["responses"]["default"] = json!({"$ref": "#/components/responses/Error"});
    }
    let schemas = document["components"]["schemas"].clone();
    tighten(&mut document, &schemas);
    document
}

/// Says what the derived schemas leave open: the range of a number, that an enum's variant is
/// an object with one field, and that an object has the fields of what is flattened into it.
fn tighten(value: &mut Value, schemas: &Value) {
    match value {
        Value::Object(fields) => {
            bound(fields);
            close_variants(fields);
            flatten(fields, schemas);
            fields
                .values_mut()
                .for_each(|field| tighten(field, schemas));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| tighten(item, schemas)),
        _ => {}
    }
}

fn bound(schema: &mut Map<String, Value>) {
    let (format, least, most) = match schema.get("format").and_then(Value::as_str) {
        Some("u-int16") => ("uint16", json!(0), json!(u16::MAX)),
        Some("u-int32") => ("uint32", json!(0), json!(u32::MAX)),
        Some("u-int64") => ("uint64", json!(0), json!(u64::MAX)),
        Some("int64") => ("int64", json!(i64::MIN), json!(i64::MAX)),
        _ => return,
    };
    schema.insert("format".to_owned(), json!(format));
    schema.entry("minimum").or_insert(least);
    schema.entry("maximum").or_insert(most);
}

fn close_variants(schema: &mut Map<String, Value>) {
    let variants = schema.get_mut("oneOf").and_then(Value::as_array_mut);
    for variant in variants.into_iter().flatten() {
        if variant["type"] == "object" && variant.get("properties").is_some() {
            variant["additionalProperties"] = json!(false);
        }
    }
}

fn flatten(schema: &mut Map<String, Value>, schemas: &Value) {
    let Some(Value::Array(parts)) = schema.remove("allOf") else {
        return;
    };
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for part in &parts {
        let name = part["$ref"]
            .as_str()
            .and_then(|path| path.rsplit('/').next());
        let part = name.map_or(part, |name| &schemas[name]);
        properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
        required.extend(part["required"].as_array().cloned().unwrap_or_default());
    }
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), properties.into());
    schema.insert("required".to_owned(), required.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_schema_is_used() {
        fn find<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(fields) => {
                    found.extend(fields.get("$ref").and_then(Value::as_str));
                    fields.values().for_each(|value| find(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| find(value, found)),
                _ => {}
            }
        }
        let document = described();
        let mut references = Vec::new();
        find(&document, &mut references);
        for reference in &references {
            let pointer = reference.strip_prefix('#').expect("a local reference");
            assert!(
                document.pointer(pointer).is_some(),
                "{reference} leads nowhere"
            );
        }
        let schemas = document["components"]["schemas"]
            .as_object()
            .expect("schemas");
        for name in schemas.keys() {
            let reference = format!("#/components/schemas/{name}");
            let is_used = references.contains(&&*reference);
            // What is flattened stands where it is used.
            let is_flattened = ["TopicSettings"].contains(&&**name);
            assert!(is_used || is_flattened, "{name}: nobody names it");
        }
    }

    #[test]
    fn what_is_flattened_or_one_of_several_is_described_as_it_is_taken() {
        let document = described();
        let schemas = &document["components"]["schemas"];
        let shown = &schemas["DeploymentInfo"];
        for field in ["name", "to", "state", "partitions"] {
            assert!(shown["properties"][field].is_object(), "{field}: {shown}");
        }
        assert_eq!(schemas["DeploymentSpec"]["additionalProperties"], false);
        assert_eq!(shown.get("additionalProperties"), None);
        let at_offset = &schemas["Start"]["oneOf"][2];
        assert_eq!(at_offset["properties"]["offset"]["maximum"], u64::MAX);
        assert_eq!(at_offset["additionalProperties"], false);
    }
}
