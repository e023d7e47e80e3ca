//! What must be true of a partition, whatever happens.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::log::{Partition as _, Resume, TailRead};
use crate::store::partition::Partition;

/// What was learnt of a partition: from answers and from reads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Learnt {
    records: BTreeMap<u64, String>,
    epoch: u32,
    /// Where readers stored that they are, newest last.
    positions: VecDeque<StoredPosition>,
}

/// How many positions are remembered.
const POSITIONS: usize = 6;

/// A stored position and what its reader had by then.
#[derive(Debug, Clone, PartialEq, Eq)]
struct StoredPosition {
    epoch: u32,
    offset: u64,
    had: Arc<BTreeMap<u64, String>>,
}

impl StoredPosition {
    /// What the reader is told must be so: all that it had up to there is still there.
    fn check(&self, partition: &Partition, found: &BTreeMap<u64, String>, name: &str) {
        let until = match partition.resume(Some(self.epoch), self.offset) {
            Resume::Here => self.offset,
            Resume::Lost { at } => {
                assert!(at < self.offset, "{name}: nothing is lost behind {at}");
                at
            }
            Resume::Unknown => panic!("{name}: epoch {} is not known", self.epoch),
        };
        let end = partition.end();
        assert!(until <= end, "{name}: {until} is behind the end {end}");
        for (offset, value) in self.had.range(partition.start().min(until)..until) {
            assert_eq!(
                found.get(offset),
                Some(value),
                "{name}: offset {offset} is not what a reader had"
            );
        }
    }
}

impl Learnt {
    /// An answer said that these records are there.
    pub(super) fn acknowledged(&mut self, offset: u64, values: &[String]) {
        for (offset, value) in (offset..).zip(values) {
            let before = self.records.insert(offset, value.clone());
            assert!(
                before.is_none_or(|before| before == *value),
                "offset {offset} has two values"
            );
        }
    }

    /// Compares with what the partition has; `may_lose`: the end may have been
    /// lost, if the epoch says so.
    pub(super) fn check(&mut self, partition: &Partition, may_lose: bool, name: &str) {
        let found = read_all(partition);
        let (start, end) = (partition.start(), partition.end());
        if partition.epoch() != self.epoch {
            assert!(
                may_lose || self.epoch == 0,
                "{name}: the epoch changed for nothing"
            );
            self.epoch = partition.epoch();
            self.records.retain(|offset, _| *offset < end);
        }
        for position in &self.positions {
            position.check(partition, &found, name);
        }
        for (offset, value) in self.records.range(start..) {
            assert_eq!(
                found.get(offset),
                Some(value),
                "{name}: offset {offset} (start {start}, end {end})"
            );
        }
        self.positions.push_back(StoredPosition {
            epoch: partition.epoch(),
            offset: end,
            had: Arc::new(found.clone()),
        });
        if self.positions.len() > POSITIONS {
            self.positions.pop_front();
        }
        self.records = found;
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &String> {
        self.records.values()
    }

    pub(super) fn starts_at(&self) -> Option<u64> {
        self.records.keys().next().copied()
    }
}

/// Every visible record; checks that offsets are dense.
pub(super) fn read_all(partition: &Partition) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let (mut offset, end) = (partition.start(), partition.end());
    while offset < end {
        let read = partition
            .read(offset, 700)
            .unwrap_or_else(|error| panic!("offset {offset} of {end}: {error}"));
        assert!(
            !read.batches.is_empty(),
            "nothing at {offset}, the end is {end}"
        );
        for batch in read.batches {
            assert!(
                batch.base_offset() <= offset && offset < batch.end_offset(),
                "a hole at {offset}"
            );
            for record in batch.records().expect("the batch was checked").iter() {
                let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
                assert!(
                    found.insert(record.offset, value).is_none(),
                    "offset {} twice",
                    record.offset
                );
            }
            offset = batch.end_offset();
        }
    }
    assert!(matches!(partition.read_tail(end, 1), TailRead::AtEnd));
    let dense: Vec<u64> = (partition.start()..end).collect();
    assert_eq!(
        found.keys().copied().collect::<Vec<_>>(),
        dense,
        "offsets are not dense"
    );
    found
}
