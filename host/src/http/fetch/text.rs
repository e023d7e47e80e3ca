//! Records as text, in pieces of any size: as JSON, or a value per line.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use eddy_protocol::batch::Records;
use eddy_protocol::frame::Start;
use eddy_protocol::{Batch, ErrorCode, RecordRef};
use serde_json::json;

use crate::broker::{Bounds, Held};
use crate::http::error::Failure;

/// How records look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Lines,
}

/// Records in memory.
pub(super) struct LoadedRecords {
    pub(super) batches: std::vec::IntoIter<Batch>,
    pub(super) current: Option<(Batch, Records)>,
    /// In proportion to what may have to be read again for each of them.
    pub(super) piece_bytes: usize,
    pub(super) _held: Held,
}

/// How far the records of an answer are shown, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Text {
    form: Form,
    from: Start,
    /// The first record that is not shown, or not all of it.
    pub(super) next: u64,
    /// How many bytes of its text are shown.
    part: usize,
    /// Whether any text is there.
    is_begun: bool,
    /// Whether the first record that was asked for was reached. A batch is found
    /// as a whole: what it holds before that was not asked for.
    is_reached: bool,
    /// Whether a record is shown.
    pub(super) is_filled: bool,
    /// What the batches that are shown take expanded.
    pub(super) taken: usize,
    /// The records and bytes of batches that are shown and not counted yet.
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Text {
    pub(super) fn new(next: u64, from: Start, form: Form) -> Text {
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

    pub(super) fn is_between_records(&self) -> bool {
        self.part == 0 && (self.taken > 0 || self.is_filled)
    }

    /// A piece, empty or with what stands before all records.
    pub(super) fn begin(&mut self, capacity: usize) -> Vec<u8> {
        let mut piece = Vec::with_capacity(capacity);
        if !std::mem::replace(&mut self.is_begun, true) && self.form == Form::Json {
            piece.extend_from_slice(br#"{"records":["#);
        }
        piece
    }

    /// Adds what stands behind all records.
    pub(super) fn end(&self, mut piece: Vec<u8>, bounds: Bounds) -> Vec<u8> {
        if self.form == Form::Json {
            let Bounds { epoch, start, end } = bounds;
            let next = self.next;
            let place = format!(r#"],"epoch":{epoch},"start":{start},"end":{end},"next":{next}}}"#);
            piece.extend_from_slice(place.as_bytes());
        }
        piece
    }

    /// Shows records until the piece is full; false where there are too few for that.
    pub(super) fn fill(
        &mut self,
        loaded: &mut LoadedRecords,
        piece: &mut Vec<u8>,
    ) -> Result<bool, Failure> {
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
    use std::time::Duration;

    use eddy_protocol::Compression;
    use eddy_protocol::batch::{ColumnBuf, OffsetMode, Rows};
    use serde_json::Value;

    use super::*;
    use crate::broker::Budget;

    /// The text of batches, in pieces of this size.
    fn text(form: Form, from: Start, batches: &[Batch], piece_bytes: usize) -> String {
        let mut loaded = LoadedRecords {
            batches: Vec::from(batches).into_iter(),
            current: None,
            piece_bytes,
            _held: Budget::new(1, Duration::ZERO)
                .try_take(1)
                .expect("it is free"),
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
