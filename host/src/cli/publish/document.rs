//! A record as `eddy sub --json` writes it: a JSON document on a line.

use eddy_client::NewRecord;
use eddy_protocol::batch::json::RecordDocument;

/// What is published of it.
#[derive(Debug)]
pub(super) struct Document(RecordDocument);

impl Document {
    /// Reads a line, or says what is wrong with it.
    pub(super) fn parse(line: &[u8]) -> Result<Document, String> {
        // The parser looks into no string that it passes over.
        let text = str::from_utf8(line).map_err(|error| error.to_string())?;
        serde_json::from_str(text).map(Document).map_err(|error| {
            // The line has a number of its own.
            let message = error.to_string();
            message.replace(" at line 1 column ", " at column ")
        })
    }

    /// Its headers, in their order.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        self.0.headers.pairs()
    }

    /// The record, with these headers.
    pub(super) fn record<'a>(
        &'a self,
        headers: &'a [(&'a str, Option<&'a [u8]>)],
    ) -> NewRecord<'a> {
        NewRecord {
            key: self.0.key.as_ref().map(|key| &key.0[..]),
            value: self.0.value.as_ref().map(|value| &value.0[..]),
            headers,
            timestamp: self.0.timestamp,
            partition: self.0.partition,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_a_record_has_is_read_and_where_it_was_is_not() {
        let line = br#"{"topic":"t","partition":2,"offset":7,"timestamp":-1,"key":"","value":{"base64":"/w=="},"headers":[["a","1"],["a",{"base64":"gA=="}],["n",null]]}"#;
        let document = Document::parse(line).expect("a record");
        let headers: Vec<_> = document.headers().collect();
        assert_eq!(
            headers,
            [("a", Some(&b"1"[..])), ("a", Some(b"\x80")), ("n", None)]
        );
        let record = document.record(&headers);
        assert_eq!(
            (record.key, record.value),
            (Some(&b""[..]), Some(&b"\xff"[..]))
        );
        assert_eq!((record.timestamp, record.partition), (Some(-1), Some(2)));
        let tombstone = Document::parse(br#"{"value":null}"#).expect("a tombstone");
        let record = tombstone.record(&[]);
        assert_eq!((record.key, record.value), (None, None));
    }

    #[test]
    fn what_is_no_record_is_told_with_its_place() {
        for (line, part) in [
            (&b""[..], "column"),
            (b"hello", "column 1"),
            (b"{}", "missing field `value`"),
            (br#"{"id":1}"#, "unknown field `id`"),
            (br#"{"value":1,"value":2}"#, "duplicate field `value`"),
            (br#"{"value":1} {}"#, "trailing"),
            (br#"{"value":1,"partition":-1}"#, "u32"),
            (br#"{"value":1,"timestamp":1.5}"#, "i64"),
            (br#"{"value":{"base64":"?"}}"#, "base64"),
            (br#"{"value":"\ud800"}"#, "Unicode"),
            (b"{\"value\":1,\"topic\":\"\xff\"}", "utf-8"),
            (b"\xef\xbb\xbf{\"value\":1}", "column 1"),
        ] {
            let error = Document::parse(line).expect_err("no record");
            assert!(error.contains(part), "{error}");
        }
    }
}
