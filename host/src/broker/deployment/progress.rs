//! Where a deployment is in each partition: a row that its commits expect at
//! the old position and move to the new one.

use bytes::Bytes;
use eddy_protocol::{ErrorCode, WireError};

use super::record::Record;
use crate::broker::{Broker, refusal};
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

    /// That the deployment is here.
    pub(super) fn expect(&self) -> Expect {
        Expect {
            table: Table::Progress,
            key: self.key(),
            value: Some(self.value()),
        }
    }

    /// That there is no position yet.
    pub(super) fn expect_none(&self) -> Expect {
        Expect {
            value: None,
            ..self.expect()
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
fn prefix(name: &str) -> Vec<u8> {
    let mut prefix = name.as_bytes().to_vec();
    prefix.push(0);
    prefix
}

/// The offset in a row, if it is one of this generation.
fn offset(value: &[u8], generation: u64) -> Option<u64> {
    let (found, offset) = value.split_first_chunk::<8>()?;
    let offset = u64::from_le_bytes(offset.try_into().ok()?);
    (u64::from_le_bytes(*found) == generation).then_some(offset)
}

impl Broker {
    /// The committed position; `None` before the first. A position that can't
    /// be read, or is another deployment's, is an error: to begin anew would
    /// repeat every output.
    pub(super) fn position(
        &self,
        record: &Record,
        partition: u32,
    ) -> Result<Option<u64>, WireError> {
        let position = Position {
            record,
            partition,
            offset: 0,
        };
        let value = self.store.get(Table::Progress, &position.key());
        let Some(value) = value.map_err(|error| refusal::of_table(&error))? else {
            return Ok(None);
        };
        match offset(&value, record.generation) {
            Some(offset) => Ok(Some(offset)),
            None => Err(ErrorCode::StorageFailed.because(format!(
                "the position of deployment `{}` in partition {partition} is not its own",
                record.spec.name
            ))),
        }
    }

    /// The end of every position that there is under a deployment's name.
    pub(super) fn forget_positions(&self, name: &str) -> Result<Vec<Change>, WireError> {
        let rows = self.store.scan(Table::Progress, &prefix(name));
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
        assert_eq!(offset(&value, 7), Some(42));
        assert_eq!(offset(&value, 8), None);
        assert_eq!(offset(&value[..15], 7), None);
        assert_eq!(offset(b"", 7), None);
    }
}
