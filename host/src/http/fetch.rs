//! `GET /v1/topics/{topic}/partitions/{partition}/records`: some records, from
//! an offset, a point in time or an end, with a wait for the first. As JSON, or
//! for those who accept `application/x-ndjson`, a record's value per line.
//!
//! The records are read and shown as their peer takes them. While it takes
//! nothing they are given back, and read again when it goes on.

use std::io::{self, Write};
use std::mem::take;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use eddy_protocol::batch::Records;
use eddy_protocol::frame::{Fetch, Start};
use eddy_protocol::{Batch, ErrorCode, RecordRef};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::apart::apart;
use super::error::{Failure, invalid};
use super::extract::{Path, Query, topic_name};
use super::pieces::{self, PIECE_BYTES, Pieces};
use super::{Context, Route};
use crate::broker::{Awaited, Bounds, Held};

const BYTES_DEFAULT: u32 = 1 << 20;
/// What is read at once, and the batch that passes it.
const READ_BYTES: usize = 128 << 10;
/// How long records are kept for a peer that takes nothing.
const PATIENCE: Duration = Duration::from_millis(100);
/// Records are shown in so many pieces at the least, if they are many.
const PIECES_PER_READ: usize = 32;
/// A byte of a record's text takes about as long as so many that are copied.
const WORK_PER_BYTE: usize = 4;
const JSON: &str = "application/json";
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
    let awaited = tokio::select! {
        awaited = context.broker.await_records(&request) => awaited?,
        // Whoever waits for a record should not hold up the stop.
        _ = stopping.wait_for(|stopping| *stopping) => {
            return Err(ErrorCode::ShuttingDown.because("the broker is stopping").into());
        }
    };
    let budget = context.broker.answers();
    match accepts_lines(&headers) {
        true => pieces::answer(budget, LINES, |pieces| lines(awaited, from, pieces)).await,
        false => pieces::answer(budget, JSON, |pieces| json(awaited, from, pieces)).await,
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

/// The records, and behind them where they are and where to go on.
async fn json(awaited: Awaited, from: Start, mut pieces: Pieces) -> Result<(), Failure> {
    let mut shown = Shown::new(awaited, from, Form::Json);
    shown.give(&mut pieces).await
}

/// The lines, and before them where they are and where to go on: so they are
/// gone through once before, which also tells how long they are. A peer can
/// then tell whether it got all of them.
async fn lines(awaited: Awaited, from: Start, mut pieces: Pieces) -> Result<(), Failure> {
    let mut shown = Shown::new(awaited, from, Form::Lines);
    let mut length = 0_u64;
    loop {
        let piece = shown.piece(&pieces).await?;
        length += piece.bytes.len() as u64;
        if piece.is_last {
            break;
        }
    }
    let bounds = shown.awaited.bounds();
    for (name, value) in [
        ("content-length", length),
        ("eddy-epoch", bounds.epoch.into()),
        ("eddy-start", bounds.start),
        ("eddy-end", bounds.end),
        ("eddy-next", shown.text.next),
    ] {
        pieces.headers().insert(name, HeaderValue::from(value));
    }
    let until = Some(shown.text.next);
    let mut shown = Shown {
        until,
        ..Shown::new(shown.awaited, from, Form::Lines)
    };
    shown.give(&mut pieces).await
}

/// How records look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Lines,
}

/// The records of an answer, read as they are shown.
struct Shown {
    awaited: Awaited,
    text: Text,
    loaded: Option<Loaded>,
    /// Where to end, if that is known.
    until: Option<u64>,
    /// Whether there is nothing more to read.
    is_read: bool,
}

/// Records in memory.
struct Loaded {
    batches: std::vec::IntoIter<Batch>,
    current: Option<(Batch, Records)>,
    /// In proportion to what may have to be read again for each of them.
    piece_bytes: usize,
    _held: Held,
}

struct Piece {
    bytes: Vec<u8>,
    held: Held,
    is_last: bool,
}

impl Shown {
    fn new(awaited: Awaited, from: Start, form: Form) -> Shown {
        Shown {
            text: Text::new(awaited.offset(), from, form),
            awaited,
            loaded: None,
            until: None,
            is_read: false,
        }
    }

    /// Gives all pieces.
    async fn give(&mut self, pieces: &mut Pieces) -> Result<(), Failure> {
        loop {
            if timeout(PATIENCE, pieces.wanted()).await.is_err() {
                self.loaded = None;
                pieces.wanted().await?;
            }
            let piece = self.piece(pieces).await?;
            let Text { records, bytes, .. } = &mut self.text;
            self.awaited.delivered(take(records), take(bytes));
            pieces.give(piece.bytes, piece.held, piece.is_last);
            if piece.is_last {
                return Ok(());
            }
        }
    }

    /// The next piece.
    async fn piece(&mut self, pieces: &Pieces) -> Result<Piece, Failure> {
        loop {
            let held = self.load(pieces).await?;
            let (text, bytes, is_full) = match self.loaded.take() {
                Some(loaded) => self.fill(loaded).await?,
                None => (self.text, self.text.begin(0), false),
            };
            self.text = text;
            let is_last = !is_full && self.is_over();
            if is_last || !bytes.is_empty() {
                let bytes = match is_last {
                    true => self.text.end(bytes, self.awaited.bounds()),
                    false => bytes,
                };
                return Ok(Piece {
                    bytes,
                    held,
                    is_last,
                });
            }
        }
    }

    /// Makes a piece of what is loaded, which stays loaded where there is more of it.
    async fn fill(&mut self, mut loaded: Loaded) -> Result<(Text, Vec<u8>, bool), Failure> {
        let mut text = self.text;
        let work = loaded.piece_bytes * WORK_PER_BYTE;
        let filled = apart(work, move || {
            let mut bytes = text.begin(loaded.piece_bytes);
            let is_full = text.fill(&mut loaded, &mut bytes)?;
            Ok((loaded, text, bytes, is_full))
        });
        let (loaded, text, bytes, is_full) = filled.await?;
        self.loaded = is_full.then_some(loaded);
        Ok((text, bytes, is_full))
    }

    /// Sees to it that records are loaded, unless all are shown; gives memory for
    /// a piece of them. Nothing is held while that is waited for.
    async fn load(&mut self, pieces: &Pieces) -> Result<Held, Failure> {
        if let Some(loaded) = &self.loaded
            && let Ok(held) = pieces.budget().try_take(loaded.piece_bytes)
        {
            return Ok(held);
        }
        self.loaded = None;
        let left = self.awaited.bytes_wanted().saturating_sub(self.text.taken);
        let bytes_max = READ_BYTES.min(left);
        if let Some(batches) = self.awaited.read_in_memory(self.text.next, bytes_max)
            && let Ok(held) = pieces.budget().try_take(bytes_with_piece(&batches))
        {
            return Ok(self.keep(batches, held));
        }
        let most = self.awaited.read_bytes_max(bytes_max) + PIECE_BYTES;
        let held = pieces.memory(most).await?;
        let read = self.awaited.read_at(self.text.next, bytes_max).await;
        let batches = match read {
            Ok(batches) => batches,
            // What was shown stands, whatever comes behind it.
            Err(_) if self.until.is_none() && self.text.is_between_records() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(self.keep(batches, held))
    }

    /// Keeps what was read with the memory for it; gives back what is for a piece.
    fn keep(&mut self, mut batches: Vec<Batch>, mut held: Held) -> Held {
        if let Some(until) = self.until {
            batches.retain(|batch| batch.base_offset() < until);
        }
        self.is_read = batches.is_empty();
        let (bytes, piece_bytes) = (bytes(&batches), piece_bytes(&batches));
        if !self.is_read {
            self.loaded = Some(Loaded {
                batches: batches.into_iter(),
                current: None,
                piece_bytes,
                _held: held.split(bytes),
            });
        }
        held.shrink_to(piece_bytes);
        held
    }

    fn is_over(&self) -> bool {
        match self.until {
            Some(until) => self.text.next >= until,
            None => {
                self.is_read
                    || self.text.taken >= self.awaited.bytes_wanted()
                    || self.text.next >= self.awaited.bounds().end
            }
        }
    }
}

/// What batches take once they are read and expanded.
fn bytes(batches: &[Batch]) -> usize {
    let of_one = |batch: &Batch| match batch.expanded_len() {
        expanded if expanded > batch.len() => batch.len() + expanded,
        _ => batch.len(),
    };
    batches.iter().map(of_one).sum()
}

/// How large a piece of their text is.
fn piece_bytes(batches: &[Batch]) -> usize {
    PIECE_BYTES.max(bytes(batches) / PIECES_PER_READ)
}

fn bytes_with_piece(batches: &[Batch]) -> usize {
    bytes(batches) + piece_bytes(batches)
}

/// How far the records of an answer are shown, and how.
#[derive(Debug, Clone, Copy)]
struct Text {
    form: Form,
    from: Start,
    /// The first record that is not shown, or not all of it.
    next: u64,
    /// How many bytes of its text are shown.
    part: usize,
    /// Whether any text is there.
    is_begun: bool,
    /// Whether the first record that was asked for was reached. A batch is found
    /// as a whole: what it holds before that was not asked for.
    is_reached: bool,
    /// Whether a record is shown.
    is_filled: bool,
    /// What the batches that are shown take expanded.
    taken: usize,
    /// The records and bytes of batches that are shown and not counted yet.
    records: u64,
    bytes: u64,
}

impl Text {
    fn new(next: u64, from: Start, form: Form) -> Text {
        Text {
            form,
            from,
            next,
            part: 0,
            is_begun: false,
            is_reached: false,
            is_filled: false,
            taken: 0,
            records: 0,
            bytes: 0,
        }
    }

    fn is_between_records(&self) -> bool {
        self.part == 0 && (self.taken > 0 || self.is_filled)
    }

    /// A piece, empty or with what stands before all records.
    fn begin(&mut self, capacity: usize) -> Vec<u8> {
        let mut piece = Vec::with_capacity(capacity);
        if !std::mem::replace(&mut self.is_begun, true) && self.form == Form::Json {
            piece.extend_from_slice(br#"{"records":["#);
        }
        piece
    }

    /// Adds what stands behind all records.
    fn end(&self, mut piece: Vec<u8>, bounds: Bounds) -> Vec<u8> {
        if self.form == Form::Json {
            let Bounds { epoch, start, end } = bounds;
            let next = self.next;
            let place = format!(r#"],"epoch":{epoch},"start":{start},"end":{end},"next":{next}}}"#);
            piece.extend_from_slice(place.as_bytes());
        }
        piece
    }

    /// Shows records until the piece is full; false where there are too few for that.
    fn fill(&mut self, loaded: &mut Loaded, piece: &mut Vec<u8>) -> Result<bool, Failure> {
        loop {
            let (batch, records) = match loaded.current.take() {
                Some(current) => current,
                None => {
                    let Some(batch) = loaded.batches.next() else {
                        return Ok(false);
                    };
                    let records = batch.records().map_err(|error| unreadable(&error))?;
                    (batch, records)
                }
            };
            if self.fill_from(&records, loaded.piece_bytes, piece)? {
                loaded.current = Some((batch, records));
                return Ok(true);
            }
            self.next = batch.end_offset();
            self.taken += batch.expanded_len();
            self.records += u64::from(batch.count());
            self.bytes += batch.len() as u64;
        }
    }

    fn fill_from(
        &mut self,
        records: &Records,
        piece_bytes: usize,
        piece: &mut Vec<u8>,
    ) -> Result<bool, Failure> {
        let shown = records.offsets().take_while(|offset| *offset < self.next);
        let row = shown.count();
        for record in records.iter_rows(row..records.len()) {
            self.is_reached = self.is_reached || self.is_wanted(&record);
            if self.is_reached {
                let begin = piece.len();
                let window = Window {
                    piece: &mut *piece,
                    piece_bytes,
                    passed_over: self.part,
                };
                match self.write(&record, window) {
                    Ok(()) => (self.part, self.is_filled) = (0, true),
                    Err(_) if piece.len() >= piece_bytes => {
                        self.part += piece.len() - begin;
                        return Ok(true);
                    }
                    Err(error) => return Err(unreadable(&error)),
                }
            }
            self.next = record.offset + 1;
        }
        Ok(false)
    }

    fn is_wanted(&self, record: &RecordRef<'_>) -> bool {
        match self.from {
            Start::Earliest | Start::Latest => true,
            Start::Offset(offset) => record.offset >= offset,
            Start::Time(time_ms) => record.timestamp >= time_ms,
        }
    }

    /// A record's text, with what separates it from the one before.
    fn write(&self, record: &RecordRef<'_>, mut out: impl Write) -> io::Result<()> {
        match self.form {
            Form::Json => {
                if self.is_filled {
                    out.write_all(b",")?;
                }
                Ok(serde_json::to_writer(out, record)?)
            }
            Form::Lines => write_line(record.value, out),
        }
    }
}

/// A record's value as a line: text as it is, and as JSON what is no line of
/// text (none, line breaks, other bytes).
fn write_line(value: Option<&[u8]>, mut out: impl Write) -> io::Result<()> {
    match value.map(std::str::from_utf8) {
        None => out.write_all(b"null")?,
        Some(Ok(text)) if !text.contains(['\n', '\r']) => out.write_all(text.as_bytes())?,
        Some(Ok(text)) => serde_json::to_writer(&mut out, text)?,
        Some(Err(_)) => {
            let base64 = BASE64.encode(value.unwrap_or_default());
            serde_json::to_writer(&mut out, &json!({ "base64": base64 }))?;
        }
    }
    out.write_all(b"\n")
}

fn unreadable(error: &dyn std::error::Error) -> Failure {
    ErrorCode::Internal
        .because(format!("a record that was stored can't be shown: {error}"))
        .into()
}

/// Lets through what is not shown yet of a record's text, as far as the piece has
/// room: a record may be larger than a piece.
struct Window<'a> {
    piece: &'a mut Vec<u8>,
    piece_bytes: usize,
    /// How much was shown before.
    passed_over: usize,
}

impl Write for Window<'_> {
    /// Nothing is written when the piece is full, which ends the writing.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let shown = bytes.len().min(self.passed_over);
        self.passed_over -= shown;
        let room = self.piece_bytes.saturating_sub(self.piece.len());
        let fits = (bytes.len() - shown).min(room);
        self.piece.extend_from_slice(&bytes[shown..shown + fits]);
        Ok(shown + fits)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use eddy_protocol::Compression;
    use eddy_protocol::batch::{ColumnBuf, OffsetMode, Rows};
    use serde_json::Value;

    use super::*;
    use crate::broker::Budget;

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

    /// The text of batches, in pieces of this size.
    fn text(form: Form, from: Start, batches: &[Batch], piece_bytes: usize) -> String {
        let mut loaded = Loaded {
            batches: Vec::from(batches).into_iter(),
            current: None,
            piece_bytes,
            _held: Budget::new(1, PATIENCE).try_take(1).expect("it is free"),
        };
        let mut shown = Text::new(0, from, form);
        let mut whole = shown.begin(0);
        loop {
            let mut piece = shown.begin(piece_bytes);
            let is_full = shown.fill(&mut loaded, &mut piece);
            whole.extend_from_slice(&piece);
            if !is_full.unwrap_or_else(|failure| panic!("{failure:?}")) {
                break;
            }
            assert_eq!(piece.len(), piece_bytes);
        }
        let bounds = Bounds {
            epoch: 1,
            start: 0,
            end: 9,
        };
        String::from_utf8(shown.end(whole, bounds)).expect("it is text")
    }

    fn batch(columns: &ColumnBuf, offsets: OffsetMode, compression: Compression) -> Batch {
        let encoded = columns.encode(Rows::All, offsets, compression, None);
        encoded.expect("it fits")
    }

    #[test]
    fn a_text_is_the_same_in_pieces_of_any_size() {
        let mut first = ColumnBuf::default();
        for (offset, value) in (0..).zip([
            None,
            Some(&b"two\nlines \xc3\xa9"[..]),
            Some(&[b'x'; 300]),
            Some(b"\xff"),
        ]) {
            first
                .push(offset, 7, Some(b"k"), value, &[("h", Some(b"v"))])
                .expect("it fits");
        }
        let mut second = ColumnBuf::default();
        second.push(0, 8, None, Some(b""), &[]).expect("it fits");
        let batches = [
            batch(&first, OffsetMode::Dense, Compression::Lz4),
            batch(&second, OffsetMode::Dense, Compression::None).with_base_offset(4),
        ];
        let json = text(Form::Json, Start::Earliest, &batches, 1 << 20);
        let value: Value = serde_json::from_str(&json).expect("JSON");
        let records = value["records"].as_array().expect("records");
        assert_eq!(records.len(), 5);
        assert_eq!(records[2]["value"], "x".repeat(300));
        let lines = text(Form::Lines, Start::Earliest, &batches, 1 << 20);
        assert_eq!(lines.lines().count(), 5, "{lines}");
        for piece_bytes in 1..=700 {
            for (form, whole) in [(Form::Json, &json), (Form::Lines, &lines)] {
                let text = text(form, Start::Earliest, &batches, piece_bytes);
                assert_eq!(text, *whole, "in pieces of {piece_bytes}");
            }
        }
    }

    #[test]
    fn records_before_the_one_asked_for_are_left_out() {
        let mut columns = ColumnBuf::default();
        for (offset, timestamp) in [(5, 100), (6, 300), (7, 200)] {
            columns
                .push(offset, timestamp, None, Some(b"v"), &[])
                .expect("fits");
        }
        let mode = OffsetMode::Sparse { base: 5, span: 4 };
        let batches = [batch(&columns, mode, Compression::None)];
        for (from, offsets) in [
            (Start::Earliest, json!([5, 6, 7])),
            (Start::Offset(6), json!([6, 7])),
            (Start::Time(150), json!([6, 7])),
        ] {
            let json = text(Form::Json, from, &batches, 1 << 20);
            let value: Value = serde_json::from_str(&json).expect("JSON");
            let records = value["records"].as_array().expect("records");
            let found: Vec<Value> = records
                .iter()
                .map(|record| record["offset"].clone())
                .collect();
            assert_eq!(Value::from(found), offsets, "{from:?}");
            assert_eq!((&value["next"], &value["end"]), (&json!(9), &json!(9)));
        }
    }
}
