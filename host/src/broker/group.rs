//! Groups: named readers and where they go on. A commit moves a group's cursors
//! together with appends, fenced by where it expects them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use eddy_protocol::frame::{
    Cursor, CursorMove, Cursors, DeleteGroup, ExpectedCursor, GroupInfo, LostPosition, Reset,
};
use eddy_protocol::{ErrorCode, WireError};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use super::epoch::StoredPosition;
use super::{Broker, refusal, whole};
use crate::log::{
    Change, Commit, CommitError, Expect, ExpectedValue, Partition, Table, Topic, TopicId,
};

/// A group's name has at most this many bytes.
const GROUP_BYTES_MAX: usize = 255;
/// How many rows one commit removes or rewrites.
const ROWS_AT_ONCE: usize = 1_000;

/// Which groups have cursors in which topics.
#[derive(Default)]
pub(super) struct Groups(Mutex<Known>);

#[derive(Default)]
struct Known {
    by_name: BTreeMap<Arc<str>, FxHashMap<TopicId, Presence>>,
    /// How many groups each topic has.
    counts: FxHashMap<TopicId, usize>,
}

/// A group in a topic.
#[derive(Default)]
struct Presence {
    has_cursors: bool,
    /// How many of its commits are on their way to the store.
    commits: usize,
    is_deleting: bool,
}

/// A group's commit on its way to the store.
pub(super) struct GroupCommit {
    group: Arc<str>,
    topics: FxHashSet<TopicId>,
    cursors: Vec<(Bytes, CursorMove)>,
}

impl Groups {
    /// Counts the group in the topic until [`settle`](Groups::settle) says what became of its commit.
    fn admit(&self, topic: &Topic, group: &Arc<str>, most: usize) -> Result<(), WireError> {
        let mut known = self.0.lock();
        let Known { by_name, counts } = &mut *known;
        let presence = by_name
            .get(group)
            .and_then(|topics| topics.get(&topic.id()));
        let count = counts.entry(topic.id()).or_default();
        match presence {
            Some(presence) if presence.is_deleting => {
                return Err(ErrorCode::Conflict.because(format!(
                    "group `{group}` is being deleted in topic `{}`",
                    topic.name()
                )));
            }
            Some(_) => {}
            None if *count >= most => {
                return Err(ErrorCode::TooMany.because(format!(
                    "{most} groups have cursors in topic `{}`, which is the limit (`broker.groups_max`): group `{group}` can't be added",
                    topic.name()
                )));
            }
            None => *count += 1,
        }
        let topics = by_name.entry(group.clone()).or_default();
        topics.entry(topic.id()).or_default().commits += 1;
        Ok(())
    }

    fn settle(&self, topics: &FxHashSet<TopicId>, group: &Arc<str>, is_committed: bool) {
        let mut known = self.0.lock();
        for topic in topics {
            known.change(*topic, group, |presence| {
                presence.commits -= 1;
                presence.has_cursors |= is_committed;
            });
        }
    }

    fn forget_topic(&self, topic: TopicId) {
        let mut known = self.0.lock();
        known.counts.remove(&topic);
        known.by_name.retain(|_, topics| {
            topics.remove(&topic);
            !topics.is_empty()
        });
    }

    /// The topics of the group in which its cursors are to be deleted: nothing is committed there
    /// until [`deleted`](Groups::deleted) is called.
    fn begin_delete(
        &self,
        group: &str,
        only: Option<TopicId>,
    ) -> Result<FxHashSet<TopicId>, WireError> {
        let mut known = self.0.lock();
        let is_wanted = |topic: &TopicId| only.is_none_or(|only| *topic == only);
        let topics = known.by_name.get_mut(group).into_iter().flatten();
        let mut wanted: Vec<_> = topics.filter(|(topic, _)| is_wanted(topic)).collect();
        if wanted.is_empty() {
            return Err(
                ErrorCode::UnknownGroup.because(format!("group `{group}` has no cursors there"))
            );
        }
        if wanted
            .iter()
            .any(|(_, it)| it.commits > 0 || it.is_deleting)
        {
            return Err(ErrorCode::Conflict.because(format!(
                "group `{group}` commits, or is being deleted, at this moment"
            )));
        }
        wanted.iter_mut().for_each(|(_, it)| it.is_deleting = true);
        Ok(wanted.iter().map(|(topic, _)| **topic).collect())
    }

    fn deleted(&self, topics: &FxHashSet<TopicId>, group: &str, is_done: bool) {
        let mut known = self.0.lock();
        for topic in topics {
            known.change(*topic, group, |presence| {
                presence.is_deleting = false;
                presence.has_cursors &= !is_done;
            });
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().by_name.is_empty()
    }

    fn topics_of(&self, group: &str) -> Vec<TopicId> {
        let known = self.0.lock();
        let topics = known.by_name.get(group).into_iter().flatten();
        topics.map(|(topic, _)| *topic).collect()
    }
}

impl Known {
    /// Changes what is known of a group in a topic, and forgets it where nothing is left.
    fn change(&mut self, topic: TopicId, group: &str, change: impl FnOnce(&mut Presence)) {
        let Some(topics) = self.by_name.get_mut(group) else {
            return;
        };
        let Some(presence) = topics.get_mut(&topic) else {
            return;
        };
        change(presence);
        if presence.has_cursors || presence.commits > 0 {
            return;
        }
        topics.remove(&topic);
        if topics.is_empty() {
            self.by_name.remove(group);
        }
        if let Some(count) = self.counts.get_mut(&topic) {
            *count -= 1;
        }
    }

    fn count(&mut self, topic: TopicId, group: &str) {
        let topics = self.by_name.entry(group.into()).or_default();
        let presence = topics.entry(topic).or_default();
        if !std::mem::replace(&mut presence.has_cursors, true) {
            *self.counts.entry(topic).or_default() += 1;
        }
    }
}

impl Broker {
    /// Where a group's cursors are, in the order of topic and partition.
    pub async fn cursors(&self, request: &Cursors) -> Result<Vec<Cursor>, WireError> {
        check_group(&request.group)?;
        let mut topics: Vec<Arc<Topic>> = match &request.topic {
            Some(name) => self.log.topics().by_name(name).into_iter().collect(),
            None => {
                let ids = self.groups.topics_of(&request.group);
                ids.into_iter()
                    .filter_map(|id| self.log.topics().by_id(id))
                    .collect()
            }
        };
        topics.sort_by(|a, b| a.name().cmp(b.name()));
        let mut cursors = Vec::new();
        for topic in topics {
            let prefix = group_prefix(topic.id(), &request.group);
            for (key, value) in self.rows(&prefix).await? {
                let row = read(&key[prefix.len()..], &value);
                let partition = row.and_then(|(number, _)| topic.partition(number));
                let (Some((_, stored)), Some(partition)) = (row, partition) else {
                    return Err(ErrorCode::StorageFailed.because(format!(
                        "a cursor of group `{}` in topic `{}` can't be read; delete the group there",
                        request.group,
                        topic.name()
                    )));
                };
                cursors.push(cursor(request, &topic, &*partition, stored)?);
            }
        }
        Ok(cursors)
    }

    /// The groups that have cursors, in the order of their names.
    pub fn list_groups(&self) -> Vec<GroupInfo> {
        let known = self.groups.0.lock();
        let name = |topic: &TopicId| Some(self.log.topics().by_id(*topic)?.name().clone());
        let groups = known.by_name.iter().map(|(group, topics)| {
            let committed = topics.iter().filter(|(_, it)| it.has_cursors);
            let mut topics: Vec<_> = committed.filter_map(|(topic, _)| name(topic)).collect();
            topics.sort();
            GroupInfo {
                group: group.to_string(),
                topics,
            }
        });
        groups.filter(|group| !group.topics.is_empty()).collect()
    }

    /// Forgets a group's cursors, in one topic or in all.
    pub async fn delete_group(self: &Arc<Self>, request: DeleteGroup) -> Result<(), WireError> {
        let DeleteGroup { group, topic } = request;
        check_group(&group)?;
        let only = topic.map(|name| self.topic(&name)).transpose()?;
        let broker = self.clone();
        whole(async move {
            let topics = broker
                .groups
                .begin_delete(&group, only.map(|topic| topic.id()))?;
            let mut deleted = Ok(());
            for topic in &topics {
                if deleted.is_ok() {
                    deleted = broker.delete_rows(&group_prefix(*topic, &group)).await;
                }
            }
            broker.groups.deleted(&topics, &group, deleted.is_ok());
            deleted
        })
        .await
    }

    async fn rows(&self, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, WireError> {
        let rows = self.state.scan(Table::Cursors, prefix).await;
        rows.map_err(|error| refusal::of_table(&error))
    }

    async fn delete_rows(&self, prefix: &[u8]) -> Result<(), WireError> {
        let rows = self.rows(prefix).await?;
        self.change_in_parts(rows.into_iter().map(|(key, _)| delete(key)).collect())
            .await
    }

    async fn change_in_parts(&self, changes: Vec<Change>) -> Result<(), WireError> {
        for changes in changes.chunks(ROWS_AT_ONCE) {
            self.change(changes.to_vec()).await?;
        }
        Ok(())
    }

    /// Looks up who has cursors, once at the start; brings rows of the first release into their
    /// present form, and removes those of topics that are no more.
    pub(super) async fn find_groups(&self) -> anyhow::Result<()> {
        let mut changes = Vec::new();
        for (key, value) in self.state.scan(Table::Cursors, b"").await? {
            let (key, value) = match present_form(&key, &value) {
                None => (key, value),
                Some((new_key, new_value)) => {
                    changes.push(delete(key));
                    changes.push(put(new_key.clone(), new_value.clone()));
                    (new_key, new_value)
                }
            };
            let Some((topic, group)) = topic_and_group(&key) else {
                tracing::warn!(key = %key.escape_ascii(), value = %value.escape_ascii(), "a group's cursor can't be read; it is left as it is");
                continue;
            };
            match self.log.topics().by_id(topic) {
                Some(_) => self.groups.0.lock().count(topic, group),
                None => changes.push(delete(key)),
            }
        }
        let changed = self.change_in_parts(changes).await;
        changed
            .map_err(|error| anyhow::anyhow!("the cursors of groups can't be rewritten: {error}"))
    }

    /// Forgets the cursors in a topic that is no more. They say nothing of a new one of its name, so
    /// what is left behind where this fails does no harm, and goes at the next start.
    pub(super) async fn forget_cursors(&self, topic: TopicId) {
        self.groups.forget_topic(topic);
        if let Err(error) = self.delete_rows(&topic.0.to_be_bytes()).await {
            tracing::warn!(%error, "cursors of a deleted topic were not removed");
        }
    }

    /// Adds to a commit what moves a group's cursors.
    pub(super) fn move_cursors(
        &self,
        group: &str,
        cursors: Vec<CursorMove>,
        commit: &mut Commit,
    ) -> Result<GroupCommit, WireError> {
        check_group(group)?;
        let mut moves = GroupCommit {
            group: group.into(),
            topics: FxHashSet::default(),
            cursors: Vec::with_capacity(cursors.len()),
        };
        let mut topics = Vec::new();
        for cursor in cursors {
            let (topic, partition) = self.partition(&cursor.topic, cursor.partition)?;
            let position = position(group, &cursor, &*partition)?;
            let key = key(topic.id(), group, cursor.partition);
            if moves.cursors.iter().any(|(other, _)| *other == key) {
                return Err(ErrorCode::Inconsistent.because(format!(
                    "the commit names partition {} of topic `{}` twice",
                    cursor.partition, cursor.topic
                )));
            }
            let value = match cursor.expect {
                ExpectedCursor::Any => None,
                ExpectedCursor::None => Some(ExpectedValue::Absent),
                ExpectedCursor::Offset(offset) => {
                    let offset = Bytes::copy_from_slice(&offset.to_le_bytes());
                    Some(ExpectedValue::StartsWith(offset))
                }
            };
            commit.expect.extend(value.map(|value| Expect {
                table: Table::Cursors,
                key: key.clone(),
                value,
            }));
            commit
                .changes
                .push(put(key.clone(), position.to_bytes().into()));
            moves.cursors.push((key, cursor));
            if moves.topics.insert(topic.id()) {
                topics.push(topic);
            }
        }
        let mut admitted = FxHashSet::default();
        for topic in topics {
            let most = self.config.groups_max;
            if let Err(error) = self.groups.admit(&topic, &moves.group, most) {
                self.groups.settle(&admitted, &moves.group, false);
                return Err(error);
            }
            admitted.insert(topic.id());
        }
        Ok(moves)
    }

    /// Takes note of what became of a group's commit.
    pub(super) fn settle_group(&self, moves: &GroupCommit, is_committed: bool) {
        self.groups
            .settle(&moves.topics, &moves.group, is_committed);
    }
}

impl GroupCommit {
    /// The answer to a commit that the store refused.
    pub(super) fn refusal(&self, error: &CommitError) -> WireError {
        let CommitError::Conflict { key, found, .. } = error else {
            return refusal::of_commit(error);
        };
        let Some((_, cursor)) = self.cursors.iter().find(|(moved, _)| moved == key) else {
            return refusal::of_commit(error);
        };
        let found = found.as_deref().and_then(StoredPosition::read);
        let found = found.map_or("nowhere".to_owned(), |found| {
            format!("at offset {}", found.offset)
        });
        let expected = match cursor.expect {
            ExpectedCursor::Offset(offset) => format!("at offset {offset}"),
            ExpectedCursor::None | ExpectedCursor::Any => "nowhere".to_owned(),
        };
        ErrorCode::CursorMoved.because(format!(
            "the cursor of group `{}` in partition {} of topic `{}` is {found}, the commit expects it {expected}",
            self.group, cursor.partition, cursor.topic
        ))
    }
}

/// The position that a commit asks for, once it is known to be one of the partition's history.
fn position(
    group: &str,
    cursor: &CursorMove,
    partition: &dyn Partition,
) -> Result<StoredPosition, WireError> {
    let asked = StoredPosition {
        offset: cursor.offset,
        epoch: Some(cursor.epoch.unwrap_or_else(|| partition.epoch())),
    };
    if let Some(lost) = asked.lost(partition) {
        return Err(history_lost(group, cursor, &lost.to_string()));
    }
    if cursor.offset > partition.end() {
        return Err(ErrorCode::OffsetOutOfRange.because(format!(
            "partition {} of topic `{}` ends at offset {}, the cursor of group `{group}` can't go to {}",
            cursor.partition,
            cursor.topic,
            partition.end(),
            cursor.offset
        )));
    }
    Ok(StoredPosition {
        epoch: Some(partition.epoch()),
        ..asked
    })
}

/// A stored cursor as a group sees it: where its partition lost the history before it, where the
/// group goes on by its rule.
fn cursor(
    request: &Cursors,
    topic: &Topic,
    partition: &dyn Partition,
    stored: StoredPosition,
) -> Result<Cursor, WireError> {
    let mut cursor = Cursor {
        topic: topic.name().clone(),
        partition: partition.number(),
        offset: stored.offset,
        epoch: stored.epoch,
        lost: None,
    };
    let Some(lost) = stored.lost(partition) else {
        return Ok(cursor);
    };
    cursor.lost = Some(LostPosition {
        offset: stored.offset,
        epoch: stored.epoch,
    });
    cursor.epoch = Some(partition.epoch());
    cursor.offset = match request.reset {
        Reset::Earliest => lost.next(),
        Reset::Latest => partition.end(),
        Reset::Fail => {
            let asked = CursorMove {
                topic: cursor.topic,
                partition: cursor.partition,
                offset: stored.offset,
                epoch: stored.epoch,
                expect: ExpectedCursor::Any,
            };
            return Err(history_lost(&request.group, &asked, &lost.to_string()));
        }
    };
    Ok(cursor)
}

fn history_lost(group: &str, cursor: &CursorMove, how: &str) -> WireError {
    ErrorCode::HistoryLost.because(format!(
        "partition {} of topic `{}` has lost history before offset {} of group `{group}`: {how}",
        cursor.partition, cursor.topic, cursor.offset
    ))
}

// key:   topic's id(be u64) group 00 partition(be u32)
// value: a stored position
//
// The first release wrote `group 00 topic's name 00 partition(be u32) -> offset(le u64) topic's id(le
// u64)`. A name holds no zero byte, with which every topic's id begins.

fn group_prefix(topic: TopicId, group: &str) -> Vec<u8> {
    [&topic.0.to_be_bytes(), group.as_bytes(), &[0]].concat()
}

fn key(topic: TopicId, group: &str, partition: u32) -> Bytes {
    let mut key = group_prefix(topic, group);
    key.extend_from_slice(&partition.to_be_bytes());
    key.into()
}

fn topic_and_group(key: &[u8]) -> Option<(TopicId, &str)> {
    let (topic, rest) = key.split_first_chunk::<8>()?;
    let (rest, _partition) = rest.split_last_chunk::<4>()?;
    let group = std::str::from_utf8(rest.strip_suffix(&[0])?).ok()?;
    (key.first() == Some(&0)).then_some((TopicId(u64::from_be_bytes(*topic)), group))
}

fn read(partition: &[u8], value: &[u8]) -> Option<(u32, StoredPosition)> {
    let partition = u32::from_be_bytes(partition.try_into().ok()?);
    Some((partition, StoredPosition::read(value)?))
}

/// A row of the first release in the present form.
fn present_form(key: &[u8], value: &[u8]) -> Option<(Bytes, Bytes)> {
    let (names, partition) = key.split_last_chunk::<4>()?;
    let mut names = names.strip_suffix(&[0])?.split(|byte| *byte == 0);
    let group = std::str::from_utf8(names.next()?).ok()?;
    let is_old = !group.is_empty() && names.next().is_some() && names.next().is_none();
    let (offset, topic) = value.split_first_chunk::<8>()?;
    let topic = TopicId(u64::from_le_bytes(topic.try_into().ok()?));
    let stored = StoredPosition {
        offset: u64::from_le_bytes(*offset),
        epoch: None,
    };
    let key = self::key(topic, group, u32::from_be_bytes(*partition));
    is_old.then(|| (key, stored.to_bytes().into()))
}

fn put(key: Bytes, value: Bytes) -> Change {
    Change::Put {
        table: Table::Cursors,
        key,
        value,
    }
}

fn delete(key: Bytes) -> Change {
    Change::Delete {
        table: Table::Cursors,
        key,
    }
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
