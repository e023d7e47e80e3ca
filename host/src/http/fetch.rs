//! `GET /v1/topics/{topic}/partitions/{partition}/records`: some records, from
//! an offset, a point in time or an end, with a wait for the first. As JSON, or
//! for those who accept `application/x-ndjson`, a record's value per line.
//!
//! The records are read and shown as their peer takes them. While it takes
//! nothing they are given back, and read again when it goes on.

mod shown;
mod text;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::Response;
use eddy_protocol::frame::{Fetch, Start};
use eddy_protocol::{ErrorCode, TopicName, WireError};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{
    AnyOfBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type,
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Context;
use super::error::{ErrorAnswer, Failure, invalid};
use super::extract::{Path, Query, topic_name};
use super::pieces;
use crate::broker::Awaited;
use crate::io::point_in_time;

const BYTES_DEFAULT: u32 = 1 << 20;
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";

pub(super) fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::new().routes(routes!(fetch))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// The first record to read.
    #[param(nullable = false)]
    offset: Option<u64>,
    #[param(schema_with = begins)]
    from: Option<String>,
    /// Stop after the batch that passes this many bytes; 1048576 if absent. The broker has a
    /// limit of its own.
    #[param(nullable = false)]
    bytes_max: Option<u32>,
    /// How long to wait if there is no record yet. The broker has a limit of its own
    /// (`broker.fetch_wait_max`).
    #[param(nullable = false)]
    wait_ms: Option<u32>,
}

/// What `from` may be.
fn begins() -> Schema {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    AnyOfBuilder::new()
        .item(text().enum_values(Some(["earliest", "latest"])))
        .item(text().format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))))
        .item(text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Date))))
        .description(Some(
            "`earliest` (the default), `latest`, or a point in time such as `2026-01-31T12:00:00Z` or `2026-01-31`: the first record that is not older. Beside an `offset`: where to begin if that is out of range.",
        ))
        .into()
}

impl Which {
    /// Where to begin: with the oldest record unless something else is asked for; and where
    /// instead, if that is out of range.
    fn start(&self) -> Result<(Start, Option<Start>), Failure> {
        let from = match self.from.as_deref() {
            None => None,
            Some("earliest") => Some(Start::Earliest),
            Some("latest") => Some(Start::Latest),
            Some(text) => match point_in_time(text) {
                Some(time) => Some(Start::Time(time.as_millisecond())),
                None => {
                    return Err(invalid(format!(
                        "`from` is `{text}`: expected earliest, latest, a time such as 2026-01-31T12:00:00Z (a plus sign of its zone is written %2B in a query), or a date such as 2026-01-31"
                    )));
                }
            },
        };
        Ok(match self.offset {
            Some(offset) => (Start::Offset(offset), from),
            None => (from.unwrap_or(Start::Earliest), None),
        })
    }
}

/// Some records, and where they are.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the text is made piece by piece")]
struct FetchedRecords {
    /// Changes if history was lost; offsets of another epoch mean nothing.
    epoch: u32,
    /// The oldest offset in the partition.
    start: u64,
    /// The offset that the next record will get.
    end: u64,
    /// The `offset` to go on with.
    next: u64,
    records: Vec<ShownRecord>,
}

/// A record as it is shown.
#[derive(ToSchema)]
#[expect(dead_code, reason = "as above")]
struct ShownRecord {
    offset: u64,
    timestamp: i64,
    #[schema(nullable = false)]
    key: Option<ShownBytes>,
    /// Null is a tombstone.
    #[schema(required)]
    value: Option<ShownBytes>,
    /// Names and values, in their order.
    #[schema(nullable = false)]
    headers: Option<Vec<(String, Option<ShownBytes>)>>,
}

/// Bytes: a string where they are UTF-8, else base64.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "as above")]
#[serde(untagged)]
enum ShownBytes {
    Text(String),
    Other { base64: String },
}

/// Read some records of a partition, with a wait for the first
#[utoipa::path(
    get, path = "/v1/topics/{topic}/partitions/{partition}/records", tag = "records", operation_id = "fetch",
    params(("topic" = TopicName, Path), ("partition" = u32, Path), Which),
    responses(
        (
            status = 200,
            description = "The records, and where to go on. As NDJSON for those whose `accept` names that: a record's value per line, text as it is; what is no line of text as JSON (`null` for a tombstone, a string where there are line breaks, `{\"base64\": …}` for other bytes).",
            content(
                (FetchedRecords = "application/json"),
                (String = "application/x-ndjson", example = "{\"id\":\"a\",\"celsius\":21.5}\nplain text\nnull\n"),
            ),
            headers(
                ("eddy-epoch" = u32, description = "Of lines: `epoch`."),
                ("eddy-start" = u64, description = "Of lines: `start`."),
                ("eddy-end" = u64, description = "Of lines: `end`."),
                ("eddy-next" = u64, description = "Of lines: `next`."),
            ),
        ),
        (status = 416, description = "The offset is out of range.", body = ErrorAnswer),
    ),
)]
async fn fetch(
    State(context): State<Context>,
    Path((topic, partition)): Path<(String, u32)>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (from, otherwise) = which.start()?;
    let mut request = Fetch {
        topic: topic_name(&topic)?,
        partition,
        from,
        bytes_max: which.bytes_max.unwrap_or(BYTES_DEFAULT),
        wait_ms: which.wait_ms.unwrap_or_default(),
    };
    let awaited = match (await_records(&context, &request).await, otherwise) {
        (Err(error), Some(otherwise)) if error.code == ErrorCode::OffsetOutOfRange => {
            request.from = otherwise;
            await_records(&context, &request).await?
        }
        (awaited, _) => awaited?,
    };
    let from = request.from;
    let budget = context.broker.answers();
    match accepts_lines(&headers) {
        true => pieces::answer(budget, LINES, |pieces| shown::lines(awaited, from, pieces)).await,
        false => pieces::answer(budget, JSON, |pieces| shown::json(awaited, from, pieces)).await,
    }
}

async fn await_records(context: &Context, request: &Fetch) -> Result<Awaited, WireError> {
    let mut stopping = context.stopping.clone();
    tokio::select! {
        awaited = context.broker.await_records(request) => awaited,
        // Whoever waits for a record should not hold up the stop.
        _ = stopping.wait_for(|stopping| *stopping) => {
            Err(ErrorCode::ShuttingDown.because("the broker is stopping"))
        }
    }
}

/// Whether the caller names lines; whoever takes anything gets JSON.
fn accepts_lines(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter();
    accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .filter_map(|range| range.split(';').next())
        .any(|media_type| media_type.trim().eq_ignore_ascii_case(LINES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_begin_is_an_offset_an_end_or_a_time() {
        let which = |offset, from: Option<&str>| Which {
            offset,
            from: from.map(str::to_owned),
            ..Which::default()
        };
        for (which, expected) in [
            (which(None, None), Some((Start::Earliest, None))),
            (which(None, Some("earliest")), Some((Start::Earliest, None))),
            (which(None, Some("latest")), Some((Start::Latest, None))),
            (which(Some(7), None), Some((Start::Offset(7), None))),
            (
                which(None, Some("1970-01-01T00:00:01.5Z")),
                Some((Start::Time(1_500), None)),
            ),
            (
                which(None, Some("1970-01-01T01:00:00+01:00")),
                Some((Start::Time(0), None)),
            ),
            (
                which(None, Some("1970-01-02")),
                Some((Start::Time(86_400_000), None)),
            ),
            (which(None, Some("yesterday")), None),
            (which(Some(7), Some("yesterday")), None),
            (
                which(Some(7), Some("latest")),
                Some((Start::Offset(7), Some(Start::Latest))),
            ),
        ] {
            assert_eq!(which.start().ok(), expected, "{which:?}");
        }
    }
}
