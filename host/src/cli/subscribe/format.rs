//! How `eddy sub` writes a record: its value on a line, a template, or JSON.

use std::io::{self, Write};
use std::str::FromStr;

use eddy_protocol::RecordRef;
use eddy_protocol::batch::Headers;
use serde::Serialize;

use crate::cli::value::describe_timestamp;

/// The part of a record that a template can name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Field(Field),
    /// The value of the header with this name.
    Header(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Topic,
    Partition,
    Offset,
    Timestamp,
    TimestampMs,
    Key,
    Value,
    Headers,
}

/// Each field's letter in a template and its name in a list.
const FIELDS: [(char, &str, Field); 8] = [
    ('n', "topic", Field::Topic),
    ('p', "partition", Field::Partition),
    ('o', "offset", Field::Offset),
    ('t', "timestamp", Field::Timestamp),
    ('T', "timestamp_ms", Field::TimestampMs),
    ('k', "key", Field::Key),
    ('v', "value", Field::Value),
    ('h', "headers", Field::Headers),
];

/// What `--format` takes, for its help.
pub(super) const HELP: &str = "\
How to write a record: a list of names, written with tabs between them (key,partition,offset,timestamp,timestamp_ms,\
topic,headers,value), or a template with %k key, %v value, %p partition, %o offset, %t timestamp (RFC 3339), %T the same \
in milliseconds, %n the topic's name, %h headers as name=value with commas between them, %{name} one header, %% and the escapes \\n \\t \\r \\0 \
\\\\. A line feed follows unless the template ends with \\n or \\0. Keys and values are written byte for byte; an absent \
one leaves nothing (--json tells absent from empty)";

/// A parsed `--format`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format(Vec<Piece>);

/// A record and where it was read; its JSON form too.
#[derive(Debug, Serialize)]
pub(super) struct Shown<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    #[serde(flatten)]
    pub(super) record: RecordRef<'a>,
}

impl Default for Format {
    /// The value on a line of its own.
    fn default() -> Self {
        Format(vec![
            Piece::Field(Field::Value),
            Piece::Text(b"\n".to_vec()),
        ])
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(['%', '\\']) {
            template(text)
        } else {
            list(text)
        }
    }
}

fn list(text: &str) -> Result<Format, String> {
    let mut pieces = Vec::new();
    for name in text.split(',') {
        let Some((_, _, field)) = FIELDS.iter().find(|(_, known, _)| *known == name.trim()) else {
            let known: Vec<&str> = FIELDS.iter().map(|(_, known, _)| *known).collect();
            return Err(format!(
                "`{name}` is none of {}; a template names fields with %",
                known.join(", ")
            ));
        };
        if !pieces.is_empty() {
            pieces.push(Piece::Text(b"\t".to_vec()));
        }
        pieces.push(Piece::Field(*field));
    }
    pieces.push(Piece::Text(b"\n".to_vec()));
    Ok(Format(pieces))
}

fn template(text: &str) -> Result<Format, String> {
    let mut pieces = Pieces::default();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match c {
            '%' => match rest.next() {
                Some('%') => pieces.text('%'),
                Some('{') => {
                    let (name, after) = rest
                        .as_str()
                        .split_once('}')
                        .ok_or_else(|| format!("`{text}` has a %{{ without its }}"))?;
                    pieces.push(Piece::Header(name.into()));
                    rest = after.chars();
                }
                other => pieces.push(Piece::Field(field_of(other, text)?)),
            },
            '\\' => pieces.text(escape(rest.next(), text)?),
            c => pieces.text(c),
        }
    }
    pieces.end_line();
    Ok(Format(pieces.0))
}

fn field_of(letter: Option<char>, text: &str) -> Result<Field, String> {
    let letter = letter
        .ok_or_else(|| format!("`{text}` ends with a lone %; write %% for the sign itself"))?;
    let known = FIELDS.iter().find(|(known, _, _)| *known == letter);
    known.map(|(_, _, field)| *field).ok_or_else(|| {
        let letters: Vec<String> = FIELDS
            .iter()
            .map(|(letter, _, _)| format!("%{letter}"))
            .collect();
        format!(
            "`%{letter}` is none of {}, %{{header}} and %%",
            letters.join(" ")
        )
    })
}

fn escape(letter: Option<char>, text: &str) -> Result<char, String> {
    match letter {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('r') => Ok('\r'),
        Some('0') => Ok('\0'),
        Some('\\') => Ok('\\'),
        Some(other) => Err(format!("`\\{other}` is none of \\n \\t \\r \\0 \\\\")),
        None => Err(format!("`{text}` ends with a lone backslash")),
    }
}

#[derive(Default)]
struct Pieces(Vec<Piece>);

impl Pieces {
    fn push(&mut self, piece: Piece) {
        self.0.push(piece);
    }

    fn text(&mut self, c: char) {
        let mut buffer = [0; 4];
        let encoded = c.encode_utf8(&mut buffer).as_bytes();
        match self.0.last_mut() {
            Some(Piece::Text(text)) => text.extend_from_slice(encoded),
            _ => self.0.push(Piece::Text(encoded.to_vec())),
        }
    }

    fn end_line(&mut self) {
        let ended = matches!(self.0.last(), Some(Piece::Text(text)) if text.ends_with(b"\n") || text.ends_with(b"\0"));
        if !ended {
            self.text('\n');
        }
    }
}

impl Format {
    /// Writes one record.
    pub(super) fn write(&self, shown: &Shown<'_>, out: &mut impl Write) -> io::Result<()> {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.write_all(text)?,
                Piece::Field(field) => write_field(*field, shown, out)?,
                Piece::Header(wanted) => {
                    if let Some((_, value)) = shown
                        .record
                        .headers
                        .into_iter()
                        .find(|(name, _)| name == wanted)
                    {
                        out.write_all(value.unwrap_or_default())?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn write_field(field: Field, shown: &Shown<'_>, out: &mut impl Write) -> io::Result<()> {
    let record = &shown.record;
    match field {
        Field::Topic => out.write_all(shown.topic.as_bytes()),
        Field::Partition => write!(out, "{}", shown.partition),
        Field::Offset => write!(out, "{}", record.offset),
        Field::Timestamp => out.write_all(describe_timestamp(record.timestamp).as_bytes()),
        Field::TimestampMs => write!(out, "{}", record.timestamp),
        Field::Key => out.write_all(record.key.unwrap_or_default()),
        Field::Value => out.write_all(record.value.unwrap_or_default()),
        Field::Headers => write_headers(record.headers, out),
    }
}

fn write_headers(headers: Headers<'_>, out: &mut impl Write) -> io::Result<()> {
    for (index, (name, value)) in headers.enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        write!(out, "{name}=")?;
        out.write_all(value.unwrap_or_default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use eddy_protocol::ColumnBuf;

    fn show(format: &str) -> Result<String, String> {
        let format: Format = format.parse()?;
        let mut columns = ColumnBuf::new();
        let headers: [(&str, Option<&[u8]>); 2] = [("a", Some(b"1")), ("b", Some(b"two"))];
        columns
            .push(42, 1_517_363_399_650, Some(b"uw"), Some(b"0.31"), &headers)
            .expect("a record");
        let record = columns.record(0).expect("the record");
        let mut out = Vec::new();
        format
            .write(
                &Shown {
                    topic: "quakes",
                    partition: 3,
                    record,
                },
                &mut out,
            )
            .expect("memory takes it");
        Ok(String::from_utf8(out).expect("text in, text out"))
    }

    #[test]
    fn a_template_names_fields_by_letters() {
        for (format, shown) in [
            ("%k %v", "uw 0.31\n"),
            ("%n[%p]@%o\\n", "quakes[3]@42\n"),
            ("%t\\t%T", "2018-01-31T01:49:59.650Z\t1517363399650\n"),
            ("%h|%{b}|%{none}|", "a=1,b=two|two||\n"),
            ("100%% %v\\0", "100% 0.31\0"),
            ("\\\\%v", "\\0.31\n"),
            ("straße %v", "straße 0.31\n"),
        ] {
            assert_eq!(show(format).as_deref(), Ok(shown), "{format}");
        }
    }

    #[test]
    fn a_list_names_fields_by_words() {
        assert_eq!(
            show("key,partition,offset,value").as_deref(),
            Ok("uw\t3\t42\t0.31\n")
        );
        assert_eq!(show("value").as_deref(), Ok("0.31\n"));
    }

    #[test]
    fn a_mistake_in_a_format_is_named() {
        for (format, named) in [
            ("", "``"),
            ("key,colour", "`colour`"),
            ("%x", "`%x`"),
            ("%v %", "lone %"),
            ("%{a", "without its }"),
            ("%v\\q", "`\\q`"),
            ("%v\\", "lone backslash"),
        ] {
            let error = show(format).expect_err(format);
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn an_absent_key_or_value_leaves_nothing() {
        let record = RecordRef {
            offset: 0,
            timestamp: 0,
            key: None,
            value: None,
            headers: Headers::default(),
        };
        let mut out = Vec::new();
        let format: Format = "<%k|%v>".parse().expect("a format");
        format
            .write(
                &Shown {
                    topic: "t",
                    partition: 0,
                    record,
                },
                &mut out,
            )
            .expect("memory takes it");
        assert_eq!(out, b"<|>\n");
    }
}
