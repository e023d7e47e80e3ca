//! The description of this front for programs: `openapi.json`, written by hand
//! and held to the routes by a test.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Route;
use super::pieces::Counted;

const DOCUMENT: &str = include_str!("openapi.json");

pub(super) fn routes() -> Vec<Route> {
    vec![Route::new("GET", "/openapi.json", get(document))]
}

async fn document() -> Response {
    let json = HeaderValue::from_static("application/json");
    let mut answer = ([(header::CONTENT_TYPE, json)], DOCUMENT).into_response();
    answer.extensions_mut().insert(Counted);
    answer
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use eddy_protocol::ErrorCode;
    use serde_json::Value;

    use super::*;

    fn described() -> Value {
        serde_json::from_str(DOCUMENT).expect("openapi.json is JSON")
    }

    #[test]
    fn every_route_is_described_and_every_description_has_a_route() {
        let document = described();
        let paths = document["paths"].as_object().expect("paths");
        let described: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().expect("a path item").keys();
                methods
                    .filter(|key| *key != "parameters")
                    .map(|method| (path.clone(), method.to_uppercase()))
            })
            .collect();
        let routed = super::super::routes()
            .into_iter()
            .map(|route| (route.path.to_owned(), route.method.to_owned()));
        assert_eq!(described, routed.collect());
    }

    #[test]
    fn every_error_code_is_described() {
        let document = described();
        let codes = document["components"]["schemas"]["ErrorCode"]["enum"]
            .as_array()
            .expect("an enum");
        let described: BTreeSet<&str> = codes.iter().filter_map(Value::as_str).collect();
        assert_eq!(
            described,
            ErrorCode::ALL.iter().map(|code| code.name()).collect()
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn check(root: &Value, value: &Value) {
            match value {
                Value::Object(fields) => {
                    if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                        let pointer = target.strip_prefix('#').expect("a local reference");
                        assert!(root.pointer(pointer).is_some(), "{target} leads nowhere");
                    }
                    fields.values().for_each(|value| check(root, value));
                }
                Value::Array(items) => items.iter().for_each(|value| check(root, value)),
                _ => {}
            }
        }
        let document = described();
        check(&document, &document);
    }
}
