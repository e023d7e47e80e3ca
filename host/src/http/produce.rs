//! `POST /v1/topics/{topic}/records`: records as JSON or as lines of JSON. All
//! records of a request are one commit: if anything is wrong with one of them,
//! none is appended.

mod json;
mod lines;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use eddy_protocol::batch::{ColumnBuf, OffsetMode, Rows};
use eddy_protocol::frame::{OpenProducer, Produce, Produced, Producer};
use eddy_protocol::{Compression, ErrorCode, ProducerStamp, TopicName};
use serde::{Deserialize, Serialize};

use super::apart::apart;
use super::error::{Failure, invalid};
use super::extract::{self, Limit, Path, Query, topic_name};
use super::{Context, Route};
use crate::broker::{PlacedRecord, PlacedRecords, Placement};

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
    let mut gathered = match stamp {
        None => Gathered::Placement(context.broker.placement(&topic)?),
        Some((partition, stamp)) => Gathered::Stamped(Stamped {
            partition,
            stamp,
            bytes_max: context.broker.config().batch_bytes_max,
            columns: ColumnBuf::default(),
            bytes: 0,
        }),
    };
    let bytes = body.bytes.clone();
    let ready = apart(bytes.len(), move || {
        format.read(&bytes, &how, now_ms, &mut |record| gathered.push(&record))?;
        gathered.finish(topic)
    });
    let ready = ready.await?;
    context.broker.room().await;
    let produced = match ready {
        Ready::Placed(placed) => context.broker.produce_placed(placed)?.answer().await?,
        Ready::Stamped(batch) => vec![context.broker.produce(batch)?.answer().await?],
    };
    Ok(Json(Answer { produced }))
}

/// Takes the records of a body one after the other.
type Each<'a> = &'a mut dyn FnMut(PlacedRecord) -> Result<(), Failure>;

/// What the records of a body become. They go there one by one: a body of short
/// lines would take many times its size as a list of records.
enum Gathered {
    Placement(Placement),
    Stamped(Stamped),
}

/// The one batch of a producer, which the broker recognises if it comes again.
struct Stamped {
    partition: u32,
    stamp: ProducerStamp,
    bytes_max: usize,
    columns: ColumnBuf,
    /// What the batch takes at the least.
    bytes: usize,
}

/// What every record takes in a batch beside its own bytes.
const VALUE_END_BYTES: usize = 4;

/// What is appended.
enum Ready {
    Placed(PlacedRecords),
    Stamped(Produce),
}

impl Gathered {
    fn push(&mut self, record: &PlacedRecord) -> Result<(), Failure> {
        match self {
            Gathered::Placement(placement) => Ok(placement.push(record)?),
            Gathered::Stamped(stamped) => stamped.push(record),
        }
    }

    fn finish(self, topic: TopicName) -> Result<Ready, Failure> {
        let empty = match &self {
            Gathered::Placement(placement) => placement.is_empty(),
            Gathered::Stamped(stamped) => stamped.columns.is_empty(),
        };
        if empty {
            return Err(invalid("there are no records in the body"));
        }
        Ok(match self {
            Gathered::Placement(placement) => Ready::Placed(placement.finish()?),
            Gathered::Stamped(stamped) => Ready::Stamped(stamped.finish(topic)?),
        })
    }
}

impl Stamped {
    fn push(&mut self, record: &PlacedRecord) -> Result<(), Failure> {
        if record.partition.is_some_and(|own| own != self.partition) {
            return Err(invalid(
                "with a producer all records go to the one partition of the query",
            ));
        }
        let index = self.columns.len();
        record.push_to(&mut self.columns, index)?;
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        self.bytes += VALUE_END_BYTES + length(&record.key) + length(&record.value);
        if self.bytes > self.bytes_max {
            // The broker would refuse it; the rest need not be gathered for that.
            let limit = self.bytes_max;
            return Err(ErrorCode::BatchTooLarge
                .because(format!(
                    "with a producer the records are one batch, and these take more than {limit} bytes (`broker.batch_bytes_max`)"
                ))
                .into());
        }
        Ok(())
    }

    fn finish(self, topic: TopicName) -> Result<Produce, Failure> {
        let stamp = Some(self.stamp);
        let batch = self
            .columns
            .encode(Rows::All, OffsetMode::Dense, Compression::None, stamp)
            .map_err(|error| ErrorCode::BatchTooLarge.because(error.to_string()))?;
        Ok(Produce {
            topic,
            partition: Some(self.partition),
            batch: batch.into(),
        })
    }
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
        match &*extract::media_type(headers)? {
            "application/json" => Ok(Format::Json),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" => {
                Ok(Format::Lines)
            }
            other => {
                let message = format!(
                    "records come as application/json or application/x-ndjson, not as `{other}`"
                );
                Err(extract::unsupported(message))
            }
        }
    }

    /// Gives every record of a body to `each`, whose first refusal ends it.
    fn read(self, body: &Bytes, how: &How, now_ms: i64, each: Each) -> Result<(), Failure> {
        let key_field = how.key_field.as_deref();
        match self {
            Format::Json => json::read(body, how.partition, now_ms, each),
            Format::Lines => lines::read(body, key_field, how.partition, now_ms, each),
        }
    }
}

/// A producer as HTTP asks for it. A misspelt name is refused, not ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewProducer {
    #[serde(default)]
    name: Option<String>,
}

async fn open_producer(
    State(context): State<Context>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Producer>), Failure> {
    let NewProducer { name } = extract::json(&context, &headers, body).await?;
    let opened = context
        .broker
        .open_producer(OpenProducer {
            name,
            current: None,
        })
        .await?;
    Ok((StatusCode::CREATED, Json(opened)))
}
