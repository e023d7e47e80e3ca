//! `POST /v1/topics/{topic}/records`: records as JSON or as lines of JSON. All
//! records of a request are one commit: if anything is wrong with one of them,
//! none is appended.

mod json;
mod lines;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use bytes::Bytes;
use eddy_protocol::batch::{ColumnBuf, OffsetMode, Rows};
use eddy_protocol::frame::{OpenProducer, Produce, Produced, Producer};
use eddy_protocol::{Batch, Compression, ErrorCode, ProducerStamp, TopicName};
use serde::{Deserialize, Serialize};

use super::apart::apart;
use super::error::{Failure, invalid};
use super::extract::{self, Limit, Path, Query, topic_name};
use super::{Context, Route};
use crate::broker::PlacedRecord;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::new("POST", "/v1/topics/{topic}/records", post(produce)),
        Route::new("POST", "/v1/producers", post(open_producer)),
    ]
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct How {
    /// For all records that do not say their own.
    partition: Option<u32>,
    /// Of lines: the field that becomes the key.
    key_field: Option<String>,
    producer_id: Option<u64>,
    producer_epoch: Option<u16>,
    sequence: Option<u32>,
}

#[derive(Serialize)]
struct Answer {
    produced: Vec<Produced>,
}

async fn produce(
    State(context): State<Context>,
    Path(topic): Path<String>,
    Query(how): Query<How>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Answer>, Failure> {
    let topic = topic_name(&topic)?;
    let format = Format::of(&headers)?;
    if how.key_field.is_some() && format != Format::Lines {
        return Err(invalid(
            "`key_field` is for lines (content-type application/x-ndjson)",
        ));
    }
    let stamp = how.stamp()?;
    let limit = Limit {
        bytes: context.config.body_bytes_max,
        code: ErrorCode::BatchTooLarge,
        setting: Some("http.body_bytes_max"),
    };
    let body = extract::bytes(&context, &headers, body, limit).await?;
    let now_ms = context.clock.now_ms();
    let records = apart(body.len(), move || format.records(&body, &how, now_ms)).await?;
    if records.is_empty() {
        return Err(invalid("there are no records in the body"));
    }
    context.broker.room().await;
    let produced = match stamp {
        None => {
            context
                .broker
                .produce_records(&topic, &records)?
                .answer()
                .await?
        }
        Some((partition, stamp)) => vec![once(&context, topic, partition, stamp, &records).await?],
    };
    Ok(Json(Answer { produced }))
}

/// One batch that the broker recognises if it comes again.
async fn once(
    context: &Context,
    topic: TopicName,
    partition: u32,
    stamp: ProducerStamp,
    records: &[PlacedRecord],
) -> Result<Produced, Failure> {
    if records
        .iter()
        .any(|record| record.partition.is_some_and(|own| own != partition))
    {
        return Err(invalid(
            "with a producer all records go to the one partition of the query",
        ));
    }
    let batch = encode(records, stamp)?;
    let pending = context.broker.produce(Produce {
        topic,
        partition: Some(partition),
        batch: batch.into(),
    })?;
    Ok(pending.answer().await?)
}

fn encode(records: &[PlacedRecord], stamp: ProducerStamp) -> Result<Batch, Failure> {
    let mut columns = ColumnBuf::default();
    for (record, offset) in records.iter().zip(0..) {
        let headers: Vec<(&str, &[u8])> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_ref()))
            .collect();
        columns
            .push(
                offset,
                record.timestamp_ms,
                record.key.as_deref(),
                record.value.as_deref(),
                &headers,
            )
            .map_err(|error| invalid(format!("record {offset}: {error}")))?;
    }
    columns
        .encode(Rows::All, OffsetMode::Dense, Compression::None, Some(stamp))
        .map_err(|error| ErrorCode::BatchTooLarge.because(error.to_string()).into())
}

impl How {
    /// The partition and the producer's stamp, if the request has one.
    fn stamp(&self) -> Result<Option<(u32, ProducerStamp)>, Failure> {
        match (
            self.producer_id,
            self.producer_epoch,
            self.sequence,
            self.partition,
        ) {
            (None, None, None, _) => Ok(None),
            (Some(0), ..) => Err(invalid("`producer_id` is never 0")),
            (Some(id), Some(epoch), Some(sequence), Some(partition)) => Ok(Some((
                partition,
                ProducerStamp {
                    id,
                    epoch,
                    sequence,
                },
            ))),
            _ => Err(invalid(
                "`producer_id`, `producer_epoch`, `sequence` and `partition` go together",
            )),
        }
    }
}

/// How a body holds its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Json,
    Lines,
}

impl Format {
    fn of(headers: &HeaderMap) -> Result<Format, Failure> {
        let given = headers
            .get(header::CONTENT_TYPE)
            .map(|value| value.to_str().unwrap_or_default());
        let media_type = given
            .unwrap_or_default()
            .split(';')
            .next()
            .unwrap_or_default()
            .trim();
        match media_type.to_ascii_lowercase().as_str() {
            "application/json" => Ok(Format::Json),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
                Ok(Format::Lines)
            }
            other => {
                let message = format!(
                    "records come as application/json or application/x-ndjson, not as `{other}`"
                );
                Err(invalid(message).with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE))
            }
        }
    }

    fn records(self, body: &Bytes, how: &How, now_ms: i64) -> Result<Vec<PlacedRecord>, Failure> {
        match self {
            Format::Json => json::records(body, how.partition, now_ms),
            Format::Lines => lines::records(body, how.key_field.as_deref(), how.partition, now_ms),
        }
    }
}

async fn open_producer(
    State(context): State<Context>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Producer>), Failure> {
    let request: OpenProducer = extract::json(&context, &headers, body).await?;
    Ok((
        StatusCode::CREATED,
        Json(context.broker.open_producer(request).await?),
    ))
}
