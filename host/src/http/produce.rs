//! `POST /v1/topics/{topic}/records`: records as JSON or as lines of JSON. All
//! records of a request are one commit: if anything is wrong with one of them,
//! none is appended.

mod json;
mod lines;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use eddy_protocol::batch::json::RecordDocument;
use eddy_protocol::batch::{ColumnBuf, OffsetMode, Rows};
use eddy_protocol::frame::{OpenProducer, Produce, Produced, Producer};
use eddy_protocol::{Compression, ErrorCode, ProducerStamp, TopicName};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Context;
use super::apart::apart;
use super::error::{Failure, invalid};
use super::extract::{self, Limit, Path, Query, topic_name};
use crate::broker::{PlacedRecord, PlacedRecords, Placement};

pub(super) fn routes() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(produce))
        .routes(routes!(open_producer))
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct How {
    /// The partition of every record that does not name its own.
    #[param(nullable = false)]
    partition: Option<u32>,
    /// Only for NDJSON: the field of each line that becomes the key, `a` or `a.b`. A text becomes
    /// the key as it is, a number or a boolean as it is written; of several fields of one name
    /// the last counts. A line without the field is refused.
    #[param(nullable = false)]
    key_field: Option<String>,
    /// From `POST /v1/producers`.
    #[param(nullable = false, minimum = 1, maximum = 9007199254740991_u64)]
    producer_id: Option<u64>,
    /// From `POST /v1/producers`.
    #[param(nullable = false)]
    producer_epoch: Option<u16>,
    /// The number of records that this producer has sent to this partition before; after
    /// 4294967295 comes 0.
    #[param(nullable = false)]
    sequence: Option<u32>,
}

/// Records to append.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "they are read one by one")]
#[serde(deny_unknown_fields)]
struct NewRecords {
    #[schema(min_items = 1)]
    records: Vec<RecordDocument>,
}

/// Where the records went.
#[derive(Serialize, ToSchema)]
struct Appended {
    produced: Vec<Produced>,
}

/// Append records, all of them or none
///
/// As JSON: records with their keys, headers, timestamps and partitions. As NDJSON: a record's
/// value per line, kept byte for byte; empty lines are passed over, and an error names its line.
/// A record without a partition is placed by its key as Kafka's default partitioner does, or
/// spread without one. With `producer_id`, `producer_epoch`, `sequence` and `partition` the
/// request may be repeated without appending twice; its records are one batch then. The setting
/// `http.body_bytes_max` limits the body, `http.bodies_bytes_max` all bodies together.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/records", tag = "records", operation_id = "produce",
    params(("topic" = TopicName, Path), How),
    request_body(content(
        (NewRecords = "application/json", example = json!({"records": [
            {"key": "sensor-7", "value": {"celsius": 21.5}},
            {"key": "sensor-8", "value": "text", "headers": {"unit": "K"}, "timestamp": 1_700_000_000_000_i64},
        ]})),
        (String = "application/x-ndjson", example = "{\"id\":\"a\",\"celsius\":21.5}\n{\"id\":\"b\",\"celsius\":19}\n"),
    )),
    responses((status = 200, description = "All records are durable, as the topic's durability says: one entry for each batch, in the order of the partitions. A partition gets several where its records exceed `broker.batch_bytes_max`; all of them are one commit.", body = Appended)),
)]
async fn produce(
    State(context): State<Context>,
    Path(topic): Path<String>,
    Query(how): Query<How>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Appended>, Failure> {
    let topic = topic_name(&topic)?;
    let format = Format::of(&headers)?;
    if how.key_field.is_some() && format != Format::Lines {
        return Err(ErrorCode::Inconsistent
            .because("`key_field` is for lines (content-type application/x-ndjson)")
            .into());
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
    Ok(Json(Appended { produced }))
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
            return Err(ErrorCode::Inconsistent
                .because("with a producer all records go to the one partition of the query")
                .into());
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
            _ => Err(ErrorCode::Inconsistent
                .because("`producer_id`, `producer_epoch`, `sequence` and `partition` go together")
                .into()),
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
    #[serde(default, deserialize_with = "there")]
    current: Option<Producer>,
}

/// An identity that there may be, and not null.
fn there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Producer>, D::Error> {
    let producer = Producer::deserialize(deserializer)?;
    match producer.id {
        1..=PRODUCER_ID_MAX => Ok(Some(producer)),
        id => Err(D::Error::custom(format_args!(
            "the `id` of a producer is from 1 to {PRODUCER_ID_MAX}, {id} was given"
        ))),
    }
}

/// What JavaScript can hold.
const PRODUCER_ID_MAX: u64 = (1 << 53) - 1;

/// What one of those holds: a name or an identity.
#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "it describes the above")]
#[serde(untagged)]
enum WantedProducer {
    Named(NamedProducer),
    Known(KnownProducer),
}

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "as above")]
#[serde(deny_unknown_fields)]
struct NamedProducer {
    /// At most 255 bytes of UTF-8; absent or null: a producer without a name.
    #[schema(min_length = 1, max_length = 255)]
    name: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[expect(dead_code, reason = "as above")]
#[serde(deny_unknown_fields)]
struct KnownProducer {
    /// The identity that a producer without a name has, and wants the next epoch of.
    current: Producer,
}

/// Get a producer's identity
///
/// For requests that may be repeated. With a name, the broker finds the identity that it gave to
/// this name before and raises its epoch, which shuts out every older holder. Without one,
/// `current` raises the epoch of an identity that the producer has, so that nothing that it sent
/// under the older one is taken any more; if the broker has forgotten it, it gives a new one.
#[utoipa::path(
    post, path = "/v1/producers", tag = "records", operation_id = "openProducer",
    request_body = WantedProducer,
    responses((status = 201, description = "A new identity, or the next epoch of one.", body = Producer)),
)]
async fn open_producer(
    State(context): State<Context>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Producer>), Failure> {
    let NewProducer { name, current } = extract::json(&context, &headers, body).await?;
    let opened = context
        .broker
        .open_producer(OpenProducer { name, current })
        .await?;
    Ok((StatusCode::CREATED, Json(opened)))
}
