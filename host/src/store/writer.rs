//! What only the writer knows: which offset, sequence and id comes next; and the
//! checks of requests against it, each of which goes into a [draft](super::draft).

use std::sync::Arc;

use eddy_protocol::frame::Durability;
use rustc_hash::{FxHashMap, FxHashSet};

use super::draft::{Draft, Mark, Push, Step};
use super::journal::Journal;
use super::journal::operation::{Operation, Placed};
use super::partition::Partition;
use super::producer::{Order, PartitionKey, ProducerLimits, Producers};
use super::table::{Tables, entry};
use crate::log::{
    Append, Appended, Claims, Commit, CommitError, Committed, Producer, Topic, TopicId, Topics,
    admit,
};

/// The writer's knowledge.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) journal: Journal,
    /// The newest group's.
    pub(crate) sequence: u64,
    /// Offsets ever given and operations ever made besides, see the group's header.
    pub(crate) records: u64,
    pub(crate) changes: u64,
    pub(crate) heads: FxHashMap<PartitionKey, Head>,
    pub(crate) producers: Producers,
    pub(crate) next_topic: u64,
    /// Partitions that the next checkpoint must look at.
    pub(crate) touched: FxHashMap<PartitionKey, Arc<Partition>>,
    /// Topics that were created, altered or deleted since the last checkpoint.
    pub(crate) touched_topics: FxHashSet<TopicId>,
}

/// Where a partition's next batch goes.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) topic: Arc<Topic>,
    pub(crate) partition: Arc<Partition>,
    pub(crate) next: u64,
    /// The group that must be synced before the newest batch is visible.
    pub(crate) last_needs: u64,
}

/// What a commit is looked at against.
pub(crate) struct Against<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) catalog: &'a Topics,
    pub(crate) now_ms: i64,
    pub(crate) claims: Claims,
    pub(crate) limits: ProducerLimits,
}

impl Writer {
    /// The sequence that the draft will have.
    fn coming(&self) -> u64 {
        self.sequence + 1
    }

    /// Takes back everything that the draft did.
    pub(crate) fn undo(&mut self, draft: &mut Draft) {
        self.undo_to(draft, 0);
    }

    fn undo_to(&mut self, draft: &mut Draft, mark: usize) {
        while draft.undo.len() > mark {
            match draft.undo.pop() {
                Some(Step::Head {
                    key,
                    next,
                    last_needs,
                }) => {
                    if let Some(head) = self.heads.get_mut(&key) {
                        (head.next, head.last_needs) = (next, last_needs);
                    }
                }
                Some(Step::Producer(undo)) => self.producers.undo(undo),
                None => break,
            }
        }
    }

    fn roll_back(&mut self, draft: &mut Draft, mark: &Mark) {
        self.undo_to(draft, mark.undo);
        draft.directory.truncate(mark.directory);
        draft.operations = mark.operations;
        draft.payload.truncate(mark.payload);
        draft.payload_bytes = mark.payload_bytes;
        draft.pushes.truncate(mark.pushes);
        draft.spans = mark.spans;
    }

    /// Adds a commit to the draft; returns its answer and the group that it waits for.
    pub(crate) fn draft_commit(
        &mut self,
        draft: &mut Draft,
        commit: Commit,
        against: &Against<'_>,
    ) -> Result<(u64, Committed), CommitError> {
        expect(&commit, draft, against.tables)?;
        let mut operations = Vec::new();
        for change in &commit.catalog {
            operations.push(self.catalog_operation(change, against.catalog, &operations)?);
        }
        let mark = draft.mark();
        let mut appended = Vec::with_capacity(commit.appends.len());
        let mut waits = Waits::default();
        for append in commit.appends {
            match self.draft_append(draft, append, against, &mut waits) {
                Ok(place) => appended.push(place),
                Err(error) => {
                    self.roll_back(draft, &mark);
                    return Err(error);
                }
            }
        }
        for change in &commit.changes {
            let (key, value) = entry(change);
            draft.table.insert(key, value);
            draft.note(&Operation::Change(change.clone()));
            waits.for_this |= change.waits_for_sync();
        }
        for change in commit.states {
            draft.note_state(change);
        }
        for operation in operations {
            draft.note(&operation);
            draft.catalog.push(operation);
            waits.for_this = true;
        }
        let needs = self.settle(draft, &mark, &waits);
        Ok((
            needs,
            Committed {
                appends: appended,
                created: Vec::new(),
            },
        ))
    }

    /// Says of the commit's batches what they wait for.
    fn settle(&mut self, draft: &mut Draft, mark: &Mark, waits: &Waits) -> u64 {
        let coming = self.coming();
        let needs = if waits.for_this { coming } else { 0 };
        for push in &mut draft.pushes[mark.pushes..] {
            push.needs = needs;
            if let Some(head) = self.heads.get_mut(&push.key) {
                head.last_needs = head.last_needs.max(needs);
                push.needs = head.last_needs;
            }
        }
        needs.max(waits.for_earlier)
    }

    fn draft_append(
        &mut self,
        draft: &mut Draft,
        append: Append,
        against: &Against<'_>,
        waits: &mut Waits,
    ) -> Result<Appended, CommitError> {
        let Against { now_ms, claims, .. } = *against;
        let key = (append.topic, append.partition);
        let Some(head) = self.heads.get_mut(&key) else {
            return Err(self.no_such_partition(append.topic, append.partition));
        };
        if let Some(reason) = head.partition.stop_reason() {
            let (topic, partition) = (head.topic.name().clone(), append.partition);
            return Err(CommitError::Stopped {
                topic,
                partition,
                reason: reason.to_string(),
            });
        }
        waits.for_earlier = waits.for_earlier.max(head.last_needs);
        let stamp = append.batch.producer();
        if let Some(stamp) = stamp
            && let Order::Repeat(offset) =
                self.producers
                    .check(key, stamp, append.batch.count(), against.limits)?
        {
            return Ok(Appended {
                offset,
                duplicate: true,
            });
        }
        let offset = head.next;
        if offset.checked_add(u64::from(append.batch.span())).is_none() {
            let (topic, partition) = (head.topic.name().clone(), append.partition);
            return Err(CommitError::Stopped {
                topic,
                partition,
                reason: "its offsets are used up".to_owned(),
            });
        }
        let settings = head.topic.settings();
        let batch = admit(append.batch, &settings, now_ms, claims);
        let batch = batch.map_err(|outside| CommitError::outside(head.topic.name(), outside))?;
        waits.for_this |= settings.durability == Durability::Disk;
        draft.undo.push(Step::Head {
            key,
            next: head.next,
            last_needs: head.last_needs,
        });
        let batch = batch.with_base_offset(offset);
        head.next = batch.end_offset();
        let partition = head.partition.clone();
        if let Some(stamp) = stamp {
            let undo = self
                .producers
                .sent(key, stamp, batch.count(), (offset, now_ms));
            draft.undo.extend(undo.map(Step::Producer));
        }
        draft.note(&Operation::Append(Placed::of(key, &batch)));
        draft.payload.push(batch.bytes().clone());
        draft.payload_bytes += batch.len() as u64;
        draft.spans += u64::from(batch.span());
        draft.pushes.push(Push {
            key,
            partition,
            needs: 0,
            batch,
        });
        Ok(Appended {
            offset: Some(offset),
            duplicate: false,
        })
    }

    pub(super) fn no_such_partition(&self, topic: TopicId, partition: u32) -> CommitError {
        match self.heads.get(&(topic, 0)) {
            None => CommitError::UnknownTopic(topic),
            Some(head) => CommitError::UnknownPartition {
                topic: head.topic.name().clone(),
                partition,
                partitions: u32::try_from(head.topic.partitions().len()).unwrap_or(u32::MAX),
            },
        }
    }

    /// Adds a producer's identity to the draft.
    pub(crate) fn draft_producer(
        &mut self,
        draft: &mut Draft,
        name: Option<&str>,
        current: Option<Producer>,
        now_ms: i64,
    ) -> Result<(u64, Producer), CommitError> {
        let producer = match current {
            Some(current) => self.producers.next_epoch(current)?,
            None => self.producers.open(name),
        };
        let mut undo = Vec::new();
        self.producers.opened(producer, name, now_ms, &mut undo);
        draft.undo.extend(undo.into_iter().map(Step::Producer));
        let name = name.map(str::to_owned);
        draft.note(&Operation::OpenProducer {
            id: producer.id,
            epoch: producer.epoch,
            name,
        });
        Ok((self.coming(), producer))
    }

    /// Forgets these producers in the draft.
    pub(crate) fn draft_forget(&mut self, draft: &mut Draft, ids: &[u64]) {
        for id in ids {
            draft.undo.push(Step::Producer(self.producers.forget(*id)));
            draft.note(&Operation::ForgetProducer { id: *id });
        }
    }
}

/// What a commit waits for.
#[derive(Debug, Default)]
struct Waits {
    /// Its own group's sync.
    for_this: bool,
    /// The sync of a group before it: 0, or a sequence.
    for_earlier: u64,
}

fn expect(commit: &Commit, draft: &Draft, tables: &Tables) -> Result<(), CommitError> {
    for expected in &commit.expect {
        let key = super::table::full_key(expected.table as u8, &expected.key);
        let found = match draft.table.get(&key) {
            Some(value) => value.clone(),
            None => tables.get_full(&key)?,
        };
        if !expected.value.is_met_by(found.as_ref()) {
            return Err(CommitError::Conflict {
                table: expected.table,
                key: expected.key.clone(),
                found,
            });
        }
    }
    Ok(())
}
