//! `GET /v1/topics/{topic}/partitions/{partition}/records`: some records, from
//! an offset, a point in time or an end, with a wait for the first. As JSON, or
//! for those who accept `application/x-ndjson`, a record's value per line.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use eddy_protocol::frame::{Fetch, Fetched, Start};
use eddy_protocol::{ErrorCode, RecordRef};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;

use super::apart::apart;
use super::error::{Failure, invalid};
use super::extract::{Path, Query, topic_name};
use super::{Context, Route};

const BYTES_DEFAULT: u32 = 1 << 20;
const LINES: &str = "application/x-ndjson";

pub(super) fn routes() -> Vec<Route> {
    vec![Route::new(
        "GET",
        "/v1/topics/{topic}/partitions/{partition}/records",
        get(fetch),
    )]
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    offset: Option<u64>,
    from: Option<String>,
    bytes_max: Option<u32>,
    wait_ms: Option<u32>,
}

impl Which {
    /// The oldest record unless something else is asked for.
    fn start(&self) -> Result<Start, Failure> {
        match (self.offset, self.from.as_deref()) {
            (Some(_), Some(_)) => Err(invalid("`offset` and `from` exclude each other")),
            (Some(offset), None) => Ok(Start::Offset(offset)),
            (None, None | Some("earliest")) => Ok(Start::Earliest),
            (None, Some("latest")) => Ok(Start::Latest),
            (None, Some(text)) => match text.parse::<Timestamp>() {
                Ok(time) => Ok(Start::Time(time.as_millisecond())),
                Err(_) => Err(invalid(format!(
                    "`from` is `{text}`: expected earliest, latest, or a time such as 2026-01-31T12:00:00Z"
                ))),
            },
        }
    }
}

async fn fetch(
    State(context): State<Context>,
    Path((topic, partition)): Path<(String, u32)>,
    Query(which): Query<Which>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let from = which.start()?;
    let request = Fetch {
        topic: topic_name(&topic)?,
        partition,
        from,
        bytes_max: which.bytes_max.unwrap_or(BYTES_DEFAULT),
        wait_ms: which.wait_ms.unwrap_or_default(),
    };
    let mut stopping = context.stopping.clone();
    let fetched = tokio::select! {
        fetched = context.broker.fetch(request) => fetched?,
        // Whoever waits for a record should not hold up the stop.
        _ = stopping.wait_for(|stopping| *stopping) => {
            return Err(ErrorCode::ShuttingDown.because("the broker is stopping").into());
        }
    };
    let bytes = expanded_bytes(&fetched);
    if !accepts_lines(&headers) {
        let json = apart(bytes, move || show(&fetched, from)).await?;
        let media_type = HeaderValue::from_static("application/json");
        return Ok(([(header::CONTENT_TYPE, media_type)], json).into_response());
    }
    let place = [
        ("eddy-epoch", HeaderValue::from(fetched.epoch)),
        ("eddy-start", HeaderValue::from(fetched.start)),
        ("eddy-end", HeaderValue::from(fetched.end)),
        ("eddy-next", HeaderValue::from(fetched.next)),
    ];
    let lines = apart(bytes, move || show_lines(&fetched, from)).await?;
    let media_type = HeaderValue::from_static(LINES);
    Ok(([(header::CONTENT_TYPE, media_type)], place, lines).into_response())
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

/// What the records take once they are expanded.
fn expanded_bytes(fetched: &Fetched) -> usize {
    let batches = fetched.batches.iter_trusted().flatten();
    batches.map(|batch| batch.expanded_len()).sum()
}

/// Shows the records from `from` on, one batch being expanded at a time. A
/// batch is found as a whole: what it holds before `from` was not asked for.
fn each_wanted(
    fetched: &Fetched,
    from: Start,
    mut show: impl FnMut(RecordRef<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let is_wanted = |record: &RecordRef<'_>| match from {
        Start::Earliest | Start::Latest => true,
        Start::Offset(offset) => record.offset >= offset,
        Start::Time(time_ms) => record.timestamp >= time_ms,
    };
    let mut reached = false;
    for batch in fetched.batches.iter_trusted() {
        let records = batch.and_then(|batch| batch.records()).map_err(|error| {
            ErrorCode::Internal.because(format!("a batch that was stored can't be read: {error}"))
        })?;
        for record in records.iter() {
            reached = reached || is_wanted(&record);
            if reached {
                show(record)?;
            }
        }
    }
    Ok(())
}

/// A record's value per line: text as it is, and as JSON what is no line of
/// text (none, line breaks, other bytes).
fn show_lines(fetched: &Fetched, from: Start) -> Result<Vec<u8>, Failure> {
    let mut lines = Vec::new();
    each_wanted(fetched, from, |record| {
        match record.value.map(std::str::from_utf8) {
            None => lines.extend_from_slice(b"null"),
            Some(Ok(text)) if !text.contains(['\n', '\r']) => {
                lines.extend_from_slice(text.as_bytes());
            }
            Some(Ok(text)) => lines.extend(json!(text).to_string().into_bytes()),
            Some(Err(_)) => {
                let base64 = BASE64.encode(record.value.unwrap_or_default());
                lines.extend(json!({ "base64": base64 }).to_string().into_bytes());
            }
        }
        lines.push(b'\n');
        Ok(())
    })?;
    Ok(lines)
}

/// The records from `from` on as JSON.
fn show(fetched: &Fetched, from: Start) -> Result<Vec<u8>, Failure> {
    let Fetched {
        epoch,
        start,
        end,
        next,
        ..
    } = fetched;
    let mut json =
        format!(r#"{{"epoch":{epoch},"start":{start},"end":{end},"next":{next},"records":["#)
            .into_bytes();
    let mut separator: &[u8] = b"";
    each_wanted(fetched, from, |record| {
        json.extend_from_slice(separator);
        separator = b",";
        serde_json::to_writer(&mut json, &record).map_err(|error| {
            ErrorCode::Internal
                .because(format!("a record has no JSON: {error}"))
                .into()
        })
    })?;
    json.extend_from_slice(b"]}");
    Ok(json)
}

#[cfg(test)]
mod tests {
    use eddy_protocol::Compression;
    use eddy_protocol::batch::{Batches, ColumnBuf, OffsetMode, Rows};
    use serde_json::Value;

    use super::*;

    #[test]
    fn where_to_begin_is_an_offset_an_end_or_a_time() {
        let which = |offset, from: Option<&str>| Which {
            offset,
            from: from.map(str::to_owned),
            ..Which::default()
        };
        for (which, expected) in [
            (which(None, None), Some(Start::Earliest)),
            (which(None, Some("earliest")), Some(Start::Earliest)),
            (which(None, Some("latest")), Some(Start::Latest)),
            (which(Some(7), None), Some(Start::Offset(7))),
            (
                which(None, Some("1970-01-01T00:00:01.5Z")),
                Some(Start::Time(1_500)),
            ),
            (
                which(None, Some("1970-01-01T01:00:00+01:00")),
                Some(Start::Time(0)),
            ),
            (which(None, Some("yesterday")), None),
            (which(Some(7), Some("latest")), None),
        ] {
            assert_eq!(which.start().ok(), expected, "{which:?}");
        }
    }

    #[test]
    fn a_fetch_weighs_what_its_batches_expand_to() {
        let mut columns = ColumnBuf::default();
        columns
            .push(0, 0, None, Some(&[b'x'; 100_000]), &[])
            .expect("fits");
        let batch = columns
            .encode(Rows::All, OffsetMode::Dense, Compression::Lz4, None)
            .expect("fits");
        assert!(batch.len() < 10_000, "it is compressed");
        let fetched = Fetched {
            epoch: 1,
            start: 0,
            end: 1,
            next: 1,
            batches: Batches::from(batch),
        };
        assert!(expanded_bytes(&fetched) > 100_000);
    }

    #[test]
    fn records_before_the_one_asked_for_are_left_out() {
        let mut columns = ColumnBuf::default();
        for (offset, timestamp) in [(5, 100), (6, 300), (7, 200)] {
            columns
                .push(offset, timestamp, None, Some(b"v"), &[])
                .expect("fits");
        }
        let mode = OffsetMode::Sparse { base: 5, span: 3 };
        let batch = columns
            .encode(Rows::All, mode, Compression::None, None)
            .expect("fits");
        let fetched = Fetched {
            epoch: 1,
            start: 0,
            end: 8,
            next: 8,
            batches: Batches::from(batch),
        };
        for (from, offsets) in [
            (Start::Earliest, json!([5, 6, 7])),
            (Start::Offset(6), json!([6, 7])),
            (Start::Time(150), json!([6, 7])),
        ] {
            let json = show(&fetched, from).unwrap_or_else(|failure| panic!("{failure:?}"));
            let value: Value = serde_json::from_slice(&json).expect("JSON");
            let records = value["records"].as_array().expect("records");
            let found: Vec<Value> = records
                .iter()
                .map(|record| record["offset"].clone())
                .collect();
            assert_eq!(Value::from(found), offsets, "{from:?}");
            assert_eq!((&value["next"], &value["end"]), (&json!(8), &json!(8)));
        }
    }
}
