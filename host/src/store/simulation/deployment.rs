//! Deployments: each reads a topic, counts in its state, and commits outputs and
//! position with it. And what must be true of that.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::client::batch;
use super::model::read_all;
use super::world::{Now, World};
use crate::log::{
    Append, Change, Commit, Delta, Expect, ExpectedValue, Partition as _, StateChange, StateId,
    Table, ticket,
};
use crate::store::core::Core;
use crate::store::request::Request;

/// Input and output.
pub(super) const DEPLOYMENTS: [(&str, &str); 2] = [("disk", "out-disk"), ("memory", "out-memory")];

impl World {
    /// A deployment reads some input and commits outputs and position.
    pub(super) fn deploy(&mut self) {
        let chosen = self.random.usize(..DEPLOYMENTS.len());
        if self.runs[chosen].is_some() {
            return;
        }
        let (input, output) = DEPLOYMENTS[chosen];
        let key = Bytes::from_static(input.as_bytes());
        let before = match self.core().context.tables.get(Table::Progress, &key) {
            Ok(before) => before,
            Err(error) => {
                // The tables are opened anew after a full disk, which may meet the crash.
                assert!(self.disk.is_stopped() || self.disk_is_limited(), "{error}");
                return;
            }
        };
        let position = before.as_ref().map_or(0, |value| number(value));
        let partition = self.partition(input, 0);
        if position >= partition.end() {
            return;
        }
        let read = match partition.read(position, 300) {
            Ok(read) => read,
            Err(error) => {
                assert!(self.plan.unwritable_percent > 0, "{error}");
                return;
            }
        };
        let end = read
            .batches
            .last()
            .map_or(position, |batch| batch.end_offset());
        let inputs = read.batches.iter().flat_map(|batch| {
            let records = batch.records().expect("the batch was checked");
            records
                .iter()
                .filter(|record| record.offset >= position)
                .map(|record| text(record.value))
                .collect::<Vec<_>>()
        });
        let inputs: Vec<String> = inputs.collect();
        let state = state_of(input);
        let counted = count(inputs.iter());
        let keys: Vec<Bytes> = counted.keys().map(|key| Bytes::from(key.clone())).collect();
        let core = self.core();
        let before_counts = match core.context.states.get(&core.context.tables, &state, &keys) {
            Ok(found) => found,
            Err(error) => {
                assert!(self.disk.is_stopped() || self.disk_is_limited(), "{error}");
                return;
            }
        };
        let counts: Vec<String> = counted
            .values()
            .zip(before_counts)
            .map(|(now, before)| (now + before.map_or(0, |value| number(&value))).to_string())
            .collect();
        let changes: Vec<(&[u8], Option<&[u8]>)> = counted
            .keys()
            .zip(&counts)
            .map(|(key, value)| (key.as_bytes(), Some(value.as_bytes())))
            .collect();
        let delta = Delta::of(&changes).expect("it is small");
        let outputs: Vec<String> = inputs.iter().filter_map(|value| transform(value)).collect();
        let topic = self.topic(output).expect("the topics were made").id();
        let mut commit = Commit {
            changes: vec![Change::Put {
                table: Table::Progress,
                key: key.clone(),
                value: Bytes::from(end.to_string()),
            }],
            expect: vec![Expect {
                table: Table::Progress,
                key,
                value: before.map_or(ExpectedValue::Absent, ExpectedValue::Exactly),
            }],
            states: vec![StateChange::Delta { state, delta }],
            ..Commit::default()
        };
        if !outputs.is_empty() {
            commit.appends.push(Append {
                topic,
                partition: 0,
                batch: batch(&outputs, None, self.clock.now()),
            });
        }
        let (reply, ticket) = ticket();
        self.runs[chosen] = Some(ticket);
        self.queue.push_back(Request::Commit { commit, reply });
    }

    /// Outputs are those of the input up to the position, each once.
    pub(super) fn check_deployments(&self) {
        for (input, output) in DEPLOYMENTS {
            let value = self
                .core()
                .context
                .tables
                .get(Table::Progress, input.as_bytes())
                .expect("the tables can be read");
            let position = value.map_or(0, |value| number(&value));
            let inputs = read_all(&self.partition(input, 0));
            let expected: Vec<String> = inputs
                .range(..position)
                .filter_map(|(_, value)| transform(value))
                .collect();
            let found: Vec<String> = read_all(&self.partition(output, 0)).into_values().collect();
            assert_eq!(found, expected, "seed {}: outputs of {input}", self.seed);
            let counts = count(inputs.range(..position).map(|(_, value)| value));
            let expected: Vec<String> = counts.iter().map(|(k, n)| format!("{k}={n}")).collect();
            let found = state_lines(self.core(), input);
            assert_eq!(found, expected, "seed {}: state of {input}", self.seed);
        }
    }
}

/// The state in which the deployment that reads this topic counts.
fn state_of(input: &str) -> StateId {
    StateId::new(input, 0, "counts").expect("the names are short")
}

/// How many of the values are of each kind.
fn count<'a>(values: impl Iterator<Item = &'a String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for value in values {
        let kind = crc32c::crc32c(value.as_bytes()) % 23;
        *counts.entry(format!("kind {kind:02}")).or_default() += 1;
    }
    counts
}

/// Everything in the state of a deployment.
pub(super) fn state_lines(core: &Core, input: &str) -> Vec<String> {
    let (mut lines, mut next) = (Vec::new(), Some(Bytes::new()));
    while let Some(from) = next {
        let page = core
            .context
            .states
            .scan(&core.context.tables, &state_of(input), (from, None), 50)
            .expect("the tables can be read");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let entries = page.entries.iter();
        lines.extend(entries.map(|(key, value)| format!("{}={}", text(key), text(value))));
        next = page.next;
    }
    lines
}

fn transform(value: &str) -> Option<String> {
    (!crc32c::crc32c(value.as_bytes()).is_multiple_of(3)).then(|| format!("out of {value}"))
}

fn number(value: &[u8]) -> u64 {
    String::from_utf8_lossy(value)
        .parse()
        .expect("positions are numbers")
}

fn text(value: Option<&[u8]>) -> String {
    String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
}
