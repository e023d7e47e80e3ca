//! Where a deployment is in each partition: a row that its commits expect at
//! the old position and move to the new one.

use bytes::Bytes;

use super::record::Record;
use crate::broker::Broker;
use crate::store::{Change, Expect, Table};

/// A deployment's position in a partition.
///
/// ```text
/// key:   name 00 partition(be u32)
/// value: generation(le u64) offset(le u64)
/// ```
#[derive(Debug, Clone, Copy)]
pub(super) struct Position<'a> {
    pub(super) record: &'a Record,
    pub(super) partition: u32,
    pub(super) offset: u64,
}

impl Position<'_> {
    pub(super) fn put(&self) -> Change {
        Change::Put {
            table: Table::Progress,
            key: self.key(),
            value: self.value(),
        }
    }

    pub(super) fn expect(&self) -> Expect {
        Expect {
            table: Table::Progress,
            key: self.key(),
            value: Some(self.value()),
        }
    }

    fn key(&self) -> Bytes {
        let mut key = prefix(&self.record.spec.name);
        key.extend_from_slice(&self.partition.to_be_bytes());
        key.into()
    }

    fn value(&self) -> Bytes {
        let mut value = self.record.generation.to_le_bytes().to_vec();
        value.extend_from_slice(&self.offset.to_le_bytes());
        value.into()
    }
}

/// What the keys of a deployment's positions begin with.
pub(super) fn prefix(name: &str) -> Vec<u8> {
    let mut prefix = name.as_bytes().to_vec();
    prefix.push(0);
    prefix
}

impl Broker {
    /// The committed position; `None` before the first, and where the store can't be read.
    pub(super) fn position(&self, record: &Record, partition: u32) -> Option<u64> {
        let key = Position {
            record,
            partition,
            offset: 0,
        }
        .key();
        let value = self.store.get(Table::Progress, &key).ok()??;
        let (generation, offset) = value.split_first_chunk::<8>()?;
        let offset = u64::from_le_bytes(offset.try_into().ok()?);
        (u64::from_le_bytes(*generation) == record.generation).then_some(offset)
    }
}
