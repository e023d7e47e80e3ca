//! Runs a plugin in `cargo test`: natively, but through the same columns as the broker, with the broker's
//! checks of what comes back and along its ways: what leads nowhere is dropped here too. Only the limits
//! on memory, time and the bytes of the outputs are the broker's alone: a deployment sets them.
//!
//! ```
//! use eddy_guest::prelude::*;
//! use eddy_guest::testing::TestHost;
//!
//! struct Longer { than: usize }
//! impl Filter for Longer {
//!     fn new(context: &Context) -> Result<Self, String> {
//!         Ok(Longer { than: context.parse("than")? })
//!     }
//!     fn keep(&mut self, record: &Record) -> Result<bool, Failure> {
//!         Ok(record.value.is_some_and(|value| value.len() > self.than))
//!     }
//! }
//!
//! let mut host = TestHost::new().param("than", "3").start::<Longer, _>()?;
//! let sent = host.values(["one", "three", "four"])?;
//! assert_eq!(sent.values("out"), ["three", "four"]);
//!
//! let refusal = TestHost::new().param("then", "3").start::<Longer, _>().unwrap_err();
//! assert_eq!(refusal, "the parameter `than` is missing");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;

use crate::bindings::eddy::plugin::types as raw;
use crate::outputs::push;
use crate::plugin::{Plugin, Processor};
use crate::{Batch, Context, Emitted, Failure, HeadersBuf, NewRecord, Record, Verdict, glue};

/// The broker takes no more outputs of one call.
const OUTPUTS_MAX: usize = 1024;

/// The surroundings that a test gives to a plugin. Unless told otherwise, the one output `out` is connected.
#[derive(Debug, Clone)]
pub struct TestHost {
    params: BTreeMap<String, String>,
    outputs: Vec<String>,
}

impl Default for TestHost {
    fn default() -> Self {
        Self {
            params: BTreeMap::new(),
            outputs: vec!["out".into()],
        }
    }
}

impl TestHost {
    /// No parameters, and the output `out`.
    pub fn new() -> Self {
        Self::default()
    }

    /// With this parameter.
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.params.insert(name.into(), value.into());
        self
    }

    /// With another output connected.
    pub fn output(mut self, name: &str) -> Self {
        self.outputs.push(name.into());
        self
    }

    /// With these outputs connected and no others.
    pub fn only_outputs<const N: usize>(mut self, names: [&str; N]) -> Self {
        self.outputs = names.map(String::from).into();
        self
    }

    /// Starts a plugin, or gives the words with which it refuses.
    pub fn start<P: Plugin<Level>, Level: 'static>(self) -> Result<TestInstance, String> {
        let context = Context::from(raw::Context {
            deployment: "test".into(),
            version: 1,
            topic: "input".into(),
            partition: 0,
            params: self.params.into_iter().collect(),
            inputs: vec!["in".into()],
            outputs: self.outputs.clone(),
        });
        let plugin = glue::start::<P, Level>(&context)?;
        Ok(TestInstance {
            plugin,
            outputs: self.outputs,
            offset: 0,
        })
    }
}

/// A plugin at work in a test.
pub struct TestInstance {
    plugin: Box<dyn Processor>,
    outputs: Vec<String>,
    offset: u64,
}

impl std::fmt::Debug for TestInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestInstance")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

/// A record in a test.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestRecord {
    /// Milliseconds since 1970 UTC.
    pub timestamp: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// Names and values of the headers; a value may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl TestRecord {
    /// A record with this value and nothing else.
    pub fn new(value: impl AsRef<[u8]>) -> Self {
        Self {
            value: Some(value.as_ref().into()),
            ..Self::default()
        }
    }

    /// A record of nothing but a key: what it was about is gone.
    pub fn tombstone(key: impl AsRef<[u8]>) -> Self {
        Self::default().key(key)
    }

    /// With this key.
    pub fn key(self, key: impl AsRef<[u8]>) -> Self {
        Self {
            key: Some(key.as_ref().into()),
            ..self
        }
    }

    /// With this timestamp, in milliseconds since 1970 UTC.
    pub fn timestamp(self, timestamp: i64) -> Self {
        Self { timestamp, ..self }
    }

    /// With another header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.into(), Some(value.as_ref().into())));
        self
    }

    /// With another header, whose value is null.
    pub fn null_header(mut self, name: &str) -> Self {
        self.headers.push((name.into(), None));
        self
    }

    fn text(&self) -> &str {
        let value = self.value.as_deref().expect("the record has a value");
        str::from_utf8(value).expect("the value is text")
    }

    fn push_to(&self, columns: &mut raw::Columns) {
        let mut headers = HeadersBuf::new();
        for (name, value) in &self.headers {
            headers.push_any(name, value.as_deref());
        }
        let record = NewRecord {
            timestamp: self.timestamp,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: headers.view(),
        };
        push(columns, &record);
    }
}

impl From<Record<'_>> for TestRecord {
    fn from(record: Record<'_>) -> Self {
        let headers = record
            .headers
            .iter()
            .map(|(name, value)| (name.into(), value.map(Into::into)));
        Self {
            timestamp: record.timestamp,
            key: record.key.map(Into::into),
            value: record.value.map(Into::into),
            headers: headers.collect(),
        }
    }
}

impl TestInstance {
    /// Gives the plugin one batch of records with these values.
    pub fn values<V: AsRef<[u8]>>(
        &mut self,
        values: impl IntoIterator<Item = V>,
    ) -> Result<Sent, Failure> {
        self.send(values.into_iter().map(TestRecord::new))
    }

    /// Gives the plugin one batch of these records.
    ///
    /// # Panics
    /// If the plugin's verdict breaks the contract: the broker would stop the deployment.
    pub fn send(&mut self, records: impl IntoIterator<Item = TestRecord>) -> Result<Sent, Failure> {
        let mut columns = crate::outputs::empty();
        records
            .into_iter()
            .for_each(|record| record.push_to(&mut columns));
        let end = self.offset + columns.timestamps.len() as u64;
        let input = raw::Batch {
            offsets: (self.offset..end).collect(),
            records: columns,
        };
        self.offset = end;
        let verdict = self.plugin.process(0, &Batch::from(&input))?;
        Ok(Sent {
            outputs: self.deliver(&verdict, &input),
            verdict,
        })
    }

    fn deliver(&self, verdict: &Verdict, input: &raw::Batch) -> BTreeMap<String, Vec<TestRecord>> {
        let all: Vec<u32> = (0..).take(input.offsets.len()).collect();
        let mut outputs = BTreeMap::<String, Vec<TestRecord>>::new();
        let mut add = |name: &str, records| {
            outputs
                .entry(name.into())
                .or_default()
                .extend::<Vec<_>>(records);
        };
        // Checked even where it leads nowhere.
        let mut keep = |kept: &[u32]| {
            let records = rows(kept, input);
            if self.outputs.iter().any(|name| name == "out") {
                add("out", records);
            }
        };
        match verdict {
            Verdict::All => keep(&all),
            Verdict::Keep(kept) => keep(kept),
            Verdict::Emit(emitted) => {
                let count = emitted.len();
                assert!(
                    count <= OUTPUTS_MAX,
                    "{count} outputs, the limit is {OUTPUTS_MAX}"
                );
                for output in emitted {
                    let name = self.outputs.get(output.port as usize);
                    let name = name.unwrap_or_else(|| panic!("there is no port {}", output.port));
                    match &output.records {
                        Emitted::Rows(kept) => add(name, rows(kept, input)),
                        Emitted::Columns(columns) => add(name, records(columns)),
                    }
                }
            }
        }
        outputs
    }
}

/// What a plugin made of a batch.
#[derive(Debug)]
pub struct Sent {
    verdict: Verdict,
    outputs: BTreeMap<String, Vec<TestRecord>>,
}

impl Sent {
    /// The verdict itself.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// What went to this output.
    pub fn records(&self, output: &str) -> &[TestRecord] {
        self.outputs.get(output).map_or(&[], Vec::as_slice)
    }

    /// The values that went to this output, as text.
    ///
    /// # Panics
    /// If a record has no value, or one that is no text.
    pub fn values(&self, output: &str) -> Vec<&str> {
        self.records(output).iter().map(TestRecord::text).collect()
    }
}

fn rows(rows: &[u32], input: &raw::Batch) -> Vec<TestRecord> {
    assert!(
        rows.is_sorted_by(|a, b| a < b),
        "rows do not rise: {rows:?}"
    );
    let batch = Batch::from(input);
    let row = |row: &u32| {
        batch
            .record(*row)
            .unwrap_or_else(|| panic!("there is no row {row}"))
    };
    rows.iter().map(|at| row(at).into()).collect()
}

fn records(columns: &raw::Columns) -> Vec<TestRecord> {
    check(columns);
    let offsets = (0..columns.timestamps.len() as u64).collect();
    let batch = raw::Batch {
        offsets,
        records: columns.clone(),
    };
    Batch::from(&batch)
        .records()
        .map(TestRecord::from)
        .collect()
}

/// What the broker checks of new records.
fn check(columns: &raw::Columns) {
    let count = columns.timestamps.len();
    let column = |name: &str, ends: &[u32], bytes: &[u8], nulls: &[u8], may_be_absent: bool| {
        if ends.is_empty() && may_be_absent {
            return assert!(bytes.is_empty(), "{name} have bytes and no ends");
        }
        assert_eq!(
            ends.len(),
            count,
            "{name} have not as many ends as there are timestamps"
        );
        assert!(ends.is_sorted(), "the ends of {name} fall");
        let end = ends.last().map_or(0, |end| *end as usize);
        assert_eq!(
            end,
            bytes.len(),
            "the last end of {name} is not the number of its bytes"
        );
        if !nulls.is_empty() {
            check_nulls(name, ends, nulls);
        }
    };
    let raw::Columns {
        key_ends,
        keys,
        key_nulls,
        value_ends,
        values,
        value_nulls,
        header_ends,
        headers,
        ..
    } = columns;
    column("keys", key_ends, keys, key_nulls, true);
    column("values", value_ends, values, value_nulls, false);
    column("headers", header_ends, headers, &[], true);
    let mut begin = 0;
    for (row, end) in header_ends.iter().enumerate() {
        let headers = &headers[begin..*end as usize];
        assert!(are_whole(headers), "the headers of row {row} are not whole");
        begin = *end as usize;
    }
}

fn check_nulls(name: &str, ends: &[u32], nulls: &[u8]) {
    assert_eq!(
        nulls.len(),
        ends.len().div_ceil(8),
        "{name} have not one null bit for each record"
    );
    let marked = (0..nulls.len() * 8).filter(|row| nulls[row / 8] >> (row % 8) & 1 == 1);
    for row in marked {
        assert!(
            row < ends.len(),
            "{name} mark row {row}, which is not there"
        );
        let begin = row.checked_sub(1).map_or(0, |before| ends[before]);
        assert_eq!(
            begin, ends[row],
            "the null in row {row} of {name} has bytes"
        );
    }
}

/// Whether a record's headers are as many as they say, each whole, and nothing behind them.
fn are_whole(headers: &[u8]) -> bool {
    let Some((count, blobs)) = headers.split_first_chunk() else {
        return headers.is_empty();
    };
    let read = || {
        let mut rest = blobs;
        for _ in 0..u16::from_le_bytes(*count) {
            let (length, after) = rest.split_first_chunk()?;
            let (name, after) = after.split_at_checked(u16::from_le_bytes(*length).into())?;
            str::from_utf8(name).ok()?;
            let (length, after) = after.split_first_chunk()?;
            rest = match u32::from_le_bytes(*length) {
                u32::MAX => after,
                length => after.get(length as usize..)?,
            };
        }
        Some(rest.is_empty())
    };
    read().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Columns;
    use crate::outputs::empty;

    /// Answers every batch with the verdict that the parameter names.
    struct Answers(String);

    impl Columns for Answers {
        fn new(context: &Context) -> Result<Self, String> {
            Ok(Answers(context.param("verdict")?.to_owned()))
        }

        fn process(&mut self, _: u32, _: &Batch<'_>) -> Result<Verdict, Failure> {
            let two = raw::Columns {
                timestamps: vec![1, 2],
                value_ends: vec![1, 1],
                values: vec![b'x'],
                ..empty()
            };
            let columns = match self.0.as_str() {
                "all" => return Ok(Verdict::All),
                "many outputs" => {
                    let output = |_| crate::Output {
                        port: 0,
                        records: Emitted::Rows(vec![0]),
                    };
                    return Ok(Verdict::Emit((0..=OUTPUTS_MAX).map(output).collect()));
                }
                "null with bytes" => raw::Columns {
                    value_nulls: vec![1],
                    ..two
                },
                "null past the end" => raw::Columns {
                    value_nulls: vec![4],
                    ..two
                },
                "headers cut short" => raw::Columns {
                    header_ends: vec![2, 2],
                    headers: vec![1, 0],
                    ..two
                },
                _ => two,
            };
            let records = Emitted::Columns(columns);
            Ok(Verdict::Emit(vec![crate::Output { port: 0, records }]))
        }
    }

    fn answer(verdict: &str, host: TestHost) -> Sent {
        let host = host.param("verdict", verdict);
        let mut instance = host.start::<Answers, _>().expect("it starts");
        instance.values(["a"]).expect("a verdict")
    }

    #[test]
    fn what_is_kept_is_dropped_where_out_is_not_connected() {
        assert_eq!(answer("all", TestHost::new()).values("out"), ["a"]);
        let host = TestHost::new().only_outputs([]);
        assert_eq!(answer("all", host).records("out"), []);
    }

    #[test]
    #[should_panic(expected = "the null in row 0 of values has bytes")]
    fn a_null_with_bytes_is_found() {
        answer("null with bytes", TestHost::new());
    }

    #[test]
    #[should_panic(expected = "1025 outputs, the limit is 1024")]
    fn more_outputs_than_the_broker_takes_are_found() {
        answer("many outputs", TestHost::new());
    }

    #[test]
    #[should_panic(expected = "values mark row 2, which is not there")]
    fn a_null_past_the_end_is_found() {
        answer("null past the end", TestHost::new());
    }

    #[test]
    #[should_panic(expected = "the headers of row 0 are not whole")]
    fn headers_that_are_cut_short_are_found() {
        answer("headers cut short", TestHost::new());
    }
}
