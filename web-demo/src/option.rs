//! What JavaScript passes in, checked once.

use std::collections::BTreeMap;

use eddy_protocol::TopicName;
use eddy_protocol::frame::{Filter, Position, Start, Subscribe};
use js_sys::{Array, JSON, Object, Reflect, Uint8Array};
use serde::Deserialize;
use wasm_bindgen::prelude::*;

use crate::browser::wall_clock_ms;
use crate::error::invalid;

/// `SubscribeOptions` of the TypeScript side.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubscribeOptions {
    topic: TopicName,
    #[serde(default)]
    from: Start,
    #[serde(default)]
    partitions: Vec<u32>,
    #[serde(default)]
    resume: Vec<Position>,
    filter: Option<String>,
    #[serde(default)]
    params: BTreeMap<String, String>,
}

/// The request behind the options of `subscribe`.
pub(crate) fn subscribe(options: &JsValue) -> Result<Subscribe, JsValue> {
    let SubscribeOptions {
        topic,
        from,
        partitions,
        resume,
        filter,
        params,
    } = from_js(options)?;
    if filter.is_none() && !params.is_empty() {
        return Err(invalid(
            "`params` are those of a `filter`, and there is none",
        ));
    }
    let filter = filter.map(|plugin| Filter { plugin, params });
    Ok(Subscribe {
        topic,
        partitions,
        from,
        resume,
        filter,
    })
}

/// The name of a header, and its value, which may be null.
pub(crate) type Header = (String, Option<Vec<u8>>);

/// `ProduceOptions` of the TypeScript side.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProduceOptions {
    pub(crate) partition: Option<u32>,
}

/// The options of `produce`.
pub(crate) fn produce(options: &JsValue) -> Result<ProduceOptions, JsValue> {
    if options.is_undefined() {
        Ok(ProduceOptions::default())
    } else {
        from_js(options)
    }
}

/// A topic's name.
pub(crate) fn topic(name: &str) -> Result<TopicName, JsValue> {
    TopicName::parse(name).map_err(|error| invalid(&error.to_string()))
}

/// Through JSON: rare and small, and its errors name the field.
fn from_js<T: for<'de> Deserialize<'de>>(value: &JsValue) -> Result<T, JsValue> {
    let text = JSON::stringify(value)?
        .as_string()
        .ok_or_else(|| invalid("an object of options is needed"))?;
    serde_json::from_str(&text).map_err(|error| invalid(&format!("in the options: {error}")))
}

/// A record to produce.
pub(crate) struct Record {
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<Header>,
    pub(crate) timestamp: i64,
}

impl Record {
    /// What it takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let headers = self.headers.iter();
        let bytes = |part: &Option<Vec<u8>>| part.as_ref().map_or(0, Vec::len);
        let headers = headers.map(|(name, value)| {
            size_of::<(String, Option<Vec<u8>>)>() + name.len() + bytes(value)
        });
        size_of::<Record>() + bytes(&self.key) + bytes(&self.value) + headers.sum::<usize>()
    }
}

/// The records of `produce`: an array of `NewRecord`.
pub(crate) fn records(records: &JsValue) -> Result<Vec<Record>, JsValue> {
    if !Array::is_array(records) {
        return Err(invalid("the records have to be an array"));
    }
    Array::from(records)
        .iter()
        .enumerate()
        .map(|(row, record)| one_record(row, &record))
        .collect()
}

fn one_record(row: usize, record: &JsValue) -> Result<Record, JsValue> {
    if !record.is_object() {
        return Err(invalid(&format!("record {row} is not an object")));
    }
    let field = |name: &str| Reflect::get(record, &name.into());
    let bytes_of = |name: &str| bytes(&field(name)?).ok_or_else(|| not_bytes(row, name));
    let timestamp = field("timestamp")?;
    let timestamp = if timestamp.is_undefined() {
        wall_clock_ms()
    } else {
        timestamp
            .as_f64()
            .filter(|timestamp| timestamp.is_finite())
            .ok_or_else(|| invalid(&format!("the timestamp of record {row} is not a number")))?
            as i64
    };
    Ok(Record {
        key: bytes_of("key")?,
        value: bytes_of("value")?,
        headers: headers(row, &field("headers")?)?,
        timestamp,
    })
}

/// An object of names and values.
fn headers(row: usize, headers: &JsValue) -> Result<Vec<Header>, JsValue> {
    if headers.is_undefined() {
        return Ok(Vec::new());
    }
    let headers = headers
        .dyn_ref::<Object>()
        .ok_or_else(|| invalid(&format!("the headers of record {row} are not an object")))?;
    let pairs = Object::entries(headers).into_iter().map(|pair| {
        let pair = Array::from(&pair);
        let value = bytes(&pair.get(1)).ok_or_else(|| not_bytes(row, "headers"))?;
        Ok((pair.get(0).as_string().unwrap_or_default(), value))
    });
    pairs.collect()
}

/// Text or bytes; null and nothing are null; none if it is anything else.
#[allow(clippy::option_option, reason = "a null is not a fault")]
fn bytes(value: &JsValue) -> Option<Option<Vec<u8>>> {
    if value.is_null() || value.is_undefined() {
        return Some(None);
    }
    if let Some(text) = value.as_string() {
        return Some(Some(text.into_bytes()));
    }
    value
        .dyn_ref::<Uint8Array>()
        .map(|bytes| Some(bytes.to_vec()))
}

fn not_bytes(row: usize, field: &str) -> JsValue {
    invalid(&format!(
        "`{field}` of record {row} is neither text nor a Uint8Array"
    ))
}
