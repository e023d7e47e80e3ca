//! Groups' cursors: where a named reader goes on.

use std::hash::BuildHasher;

use bytes::Bytes;
use dashmap::DashMap;
use eddy_protocol::frame::{Cursor, Cursors};
use eddy_protocol::{ErrorCode, TopicName, WireError};
use rustc_hash::{FxBuildHasher, FxHashSet};

use super::{Broker, refusal};
use crate::store::{Change, Table, TableError, TopicId};

/// A group's name has at most this many bytes.
const GROUP_BYTES_MAX: usize = 255;
/// How many cursors of a deleted topic one commit forgets.
const FORGOTTEN_AT_ONCE: usize = 1_000;

/// The groups that have cursors in each topic: hashes of their names, which is enough to count them.
#[derive(Default)]
pub(super) struct Groups(DashMap<TopicId, FxHashSet<u64>>);

impl Groups {
    /// Whether `group` is one of at most `most`.
    fn admit(&self, topic: TopicId, group: &[u8], most: usize) -> bool {
        let mut groups = self.0.entry(topic).or_default();
        let hash = FxBuildHasher.hash_one(group);
        if groups.len() >= most && !groups.contains(&hash) {
            return false;
        }
        groups.insert(hash);
        true
    }
}

impl Broker {
    /// Where a group's cursors are, in the order of topic and partition.
    pub async fn cursors(&self, request: &Cursors) -> Result<Vec<Cursor>, WireError> {
        check_group(&request.group)?;
        let prefix = group_prefix(&request.group);
        let rows = self.rows(prefix.clone()).await?;
        let cursors = rows
            .iter()
            .filter_map(|(key, value)| parse(key.get(prefix.len()..)?, value));
        let is_wanted = |cursor: &Cursor| {
            let wanted = request.topic.as_ref();
            wanted.is_none_or(|topic| *topic == cursor.topic)
        };
        // A topic that was deleted leaves its cursors behind; they say nothing of a new one.
        let is_of = |topic: TopicId, cursor: &Cursor| {
            let found = self.topic(&cursor.topic);
            found.is_ok_and(|found| found.id() == topic)
        };
        Ok(cursors
            .filter(|(topic, cursor)| is_wanted(cursor) && is_of(*topic, cursor))
            .map(|(_, cursor)| cursor)
            .collect())
    }

    async fn rows(&self, prefix: Vec<u8>) -> Result<Vec<(Bytes, Bytes)>, WireError> {
        let store = self.store.clone();
        let scanned = tokio::task::spawn_blocking(move || store.scan(Table::Cursors, &prefix));
        match scanned.await {
            Ok(rows) => rows.map_err(|error| refusal::of_table(&error)),
            Err(error) => Err(refusal::of_join(&error)),
        }
    }

    /// Looks up who has cursors; those of topics that are no more don't count.
    pub(super) fn count_groups(&self) -> Result<(), TableError> {
        let topics: FxHashSet<TopicId> = self.store.topics().iter().map(|t| t.id()).collect();
        for (key, value) in self.store.scan(Table::Cursors, b"")? {
            let group = key.split(|byte| *byte == 0).next();
            if let (Some(group), Some(topic)) = (group, topic_of(&value))
                && topics.contains(&topic)
            {
                self.groups.admit(topic, group, usize::MAX);
            }
        }
        Ok(())
    }

    /// Forgets the cursors in a topic that is no more. They say nothing of a new one of its name, so
    /// what is left behind where this fails does no harm.
    pub(super) async fn forget_cursors(&self, topic: TopicId) {
        self.groups.0.remove(&topic);
        if let Err(error) = self.delete_cursors(topic).await {
            tracing::warn!(%error, "cursors of a deleted topic were not removed");
        }
    }

    async fn delete_cursors(&self, topic: TopicId) -> Result<(), WireError> {
        let rows = self.rows(Vec::new()).await?;
        let of_it = rows
            .into_iter()
            .filter(|(_, value)| topic_of(value) == Some(topic));
        let changes: Vec<Change> = of_it
            .map(|(key, _)| Change::Delete {
                table: Table::Cursors,
                key,
            })
            .collect();
        for changes in changes.chunks(FORGOTTEN_AT_ONCE) {
            self.change(changes.to_vec()).await?;
        }
        Ok(())
    }

    /// The changes that move a group's cursors.
    pub(super) fn move_cursors(
        &self,
        group: &str,
        cursors: &[Cursor],
    ) -> Result<Vec<Change>, WireError> {
        check_group(group)?;
        cursors
            .iter()
            .map(|cursor| self.move_cursor(group, cursor))
            .collect()
    }

    fn move_cursor(&self, group: &str, cursor: &Cursor) -> Result<Change, WireError> {
        let (topic, partition) = self.partition(&cursor.topic, cursor.partition)?;
        if cursor.offset > partition.end() {
            return Err(ErrorCode::OffsetOutOfRange.because(format!(
                "partition {} of topic `{}` ends at offset {}, the cursor of group `{group}` can't go to {}",
                cursor.partition,
                cursor.topic,
                partition.end(),
                cursor.offset
            )));
        }
        let most = self.config.groups_max;
        if !self.groups.admit(topic.id(), group.as_bytes(), most) {
            return Err(ErrorCode::TooMany.because(format!(
                "{most} groups have cursors in topic `{}`, which is the limit (`broker.groups_max`): group `{group}` can't be added",
                cursor.topic
            )));
        }
        let mut key = group_prefix(group);
        key.extend_from_slice(cursor.topic.as_ref().as_bytes());
        key.push(0);
        key.extend_from_slice(&cursor.partition.to_be_bytes());
        let value = [cursor.offset.to_le_bytes(), topic.id().0.to_le_bytes()].concat();
        Ok(Change::Put {
            table: Table::Cursors,
            key: key.into(),
            value: value.into(),
        })
    }
}

// group 00 topic 00 partition(be u32) -> offset(le u64) topic's id(le u64). Neither name can hold a zero byte.

fn group_prefix(group: &str) -> Vec<u8> {
    let mut prefix = group.as_bytes().to_vec();
    prefix.push(0);
    prefix
}

/// The topic that a row's cursor is in.
fn topic_of(value: &[u8]) -> Option<TopicId> {
    let (_, topic) = value.split_first_chunk::<8>()?;
    Some(TopicId(u64::from_le_bytes(topic.try_into().ok()?)))
}

fn parse(key: &[u8], value: &[u8]) -> Option<(TopicId, Cursor)> {
    let (offset, _) = value.split_first_chunk::<8>()?;
    let (name, partition) = key.split_last_chunk::<4>()?;
    let name = std::str::from_utf8(name.strip_suffix(&[0])?).ok()?;
    let cursor = Cursor {
        topic: TopicName::parse(name).ok()?,
        partition: u32::from_be_bytes(*partition),
        offset: u64::from_le_bytes(*offset),
    };
    Some((topic_of(value)?, cursor))
}

fn check_group(group: &str) -> Result<(), WireError> {
    if group.is_empty() || group.len() > GROUP_BYTES_MAX || group.bytes().any(|byte| byte < b' ') {
        return Err(ErrorCode::InvalidName.because(format!(
            "a group's name has 1 to {GROUP_BYTES_MAX} bytes and no control characters, `{}` has {}",
            group.escape_default(),
            group.len()
        )));
    }
    Ok(())
}
