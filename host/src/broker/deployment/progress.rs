//! Where a deployment is in each partition: a row that its commits expect at
//! the old position and move to the new one.

use std::collections::BTreeMap;

use bytes::Bytes;
use eddy_protocol::{ErrorCode, WireError};

use super::record::Record;
use crate::broker::epoch::StoredPosition;
use crate::broker::{Broker, refusal};
use crate::log::{Change, Expect, ExpectedValue, Table};

/// A deployment's position in a partition.
///
/// ```text
/// key:   name 00 partition(be u32)
/// value: generation(le u64) stored position
/// ```
#[derive(Debug, Clone, Copy)]
pub(super) struct InstancePosition<'a> {
    pub(super) record: &'a Record,
    pub(super) partition: u32,
    pub(super) stored: StoredPosition,
}

impl InstancePosition<'_> {
    pub(super) fn put(&self) -> Change {
        Change::Put {
            table: Table::Progress,
            key: key(self.record, self.partition),
            value: self.value(self.stored),
        }
    }

    /// That the deployment is here, in whatever epoch that was learnt.
    pub(super) fn expect(&self) -> Expect {
        let offset_only = StoredPosition {
            epoch: None,
            ..self.stored
        };
        Expect {
            table: Table::Progress,
            key: key(self.record, self.partition),
            value: ExpectedValue::StartsWith(self.value(offset_only)),
        }
    }

    /// That there is no position yet.
    pub(super) fn expect_none(&self) -> Expect {
        Expect {
            value: ExpectedValue::Absent,
            ..self.expect()
        }
    }

    fn value(&self, stored: StoredPosition) -> Bytes {
        let mut value = self.record.generation.to_le_bytes().to_vec();
        value.extend(stored.to_bytes());
        value.into()
    }
}

fn key(record: &Record, partition: u32) -> Bytes {
    let mut key = prefix(&record.spec.name);
    key.extend_from_slice(&partition.to_be_bytes());
    key.into()
}

/// What the keys of a deployment's positions begin with.
fn prefix(name: &str) -> Vec<u8> {
    let mut prefix = name.as_bytes().to_vec();
    prefix.push(0);
    prefix
}

/// The position in a row, if it is one of this generation.
fn read(value: &[u8], generation: u64) -> Option<StoredPosition> {
    let (found, stored) = value.split_first_chunk::<8>()?;
    let is_its_own = u64::from_le_bytes(*found) == generation;
    StoredPosition::read(stored).filter(|_| is_its_own)
}

impl Broker {
    /// The committed position; `None` before the first. A position that can't
    /// be read, or is another deployment's, is an error: to begin anew would
    /// repeat every output.
    pub(super) async fn position(
        &self,
        record: &Record,
        partition: u32,
    ) -> Result<Option<StoredPosition>, WireError> {
        let value = self
            .state
            .get(Table::Progress, &key(record, partition))
            .await;
        let Some(value) = value.map_err(|error| refusal::of_table(&error))? else {
            return Ok(None);
        };
        match read(&value, record.generation) {
            Some(stored) => Ok(Some(stored)),
            None => Err(ErrorCode::StorageFailed.because(format!(
                "the position of deployment `{}` in partition {partition} is not its own",
                record.spec.name
            ))),
        }
    }

    /// The offsets of all committed positions that can be read, by partition.
    pub(super) async fn positions(&self, record: &Record) -> BTreeMap<u32, u64> {
        let prefix = prefix(&record.spec.name);
        let rows = self.state.scan(Table::Progress, &prefix).await;
        let rows = rows.unwrap_or_default();
        let position = |(key, value): &(Bytes, Bytes)| {
            let partition = key.strip_prefix(&prefix[..])?.try_into().ok()?;
            let stored = read(value, record.generation)?;
            Some((u32::from_be_bytes(partition), stored.offset))
        };
        rows.iter().filter_map(position).collect()
    }

    /// The end of every position that there is under a deployment's name.
    pub(super) async fn forget_positions(&self, name: &str) -> Result<Vec<Change>, WireError> {
        let rows = self.state.scan(Table::Progress, &prefix(name)).await;
        let rows = rows.map_err(|error| refusal::of_table(&error))?;
        let forget = |(key, _)| Change::Delete {
            table: Table::Progress,
            key,
        };
        Ok(rows.into_iter().map(forget).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_of_another_generation_or_of_other_bytes_is_none() {
        let mut value = 7_u64.to_le_bytes().to_vec();
        value.extend_from_slice(&42_u64.to_le_bytes());
        let position = |epoch| Some(StoredPosition { offset: 42, epoch });
        assert_eq!(read(&value, 7), position(None), "of the first release");
        assert_eq!(read(&value, 8), None);
        assert_eq!(read(&value[..15], 7), None);
        assert_eq!(read(b"", 7), None);
        value.extend_from_slice(&4_097_u32.to_le_bytes());
        assert_eq!(read(&value, 7), position(Some(4_097)));
    }
}
