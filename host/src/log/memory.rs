//! An engine that keeps everything in memory under one lock: what [`Log`] and [`State`] ask, in as
//! few words as it takes. A commit is made on a copy of all there is, which takes the place of what
//! was if nothing is in the way.
//!
//! For tests, which can tell it to [refuse](Memory::judge) commits as an engine of many nodes does,
//! and to [leave offsets out](Memory::leave_out). It knows no limits of producers, no retention by
//! age and no damage.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use eddy_protocol::batch::{ColumnBuf, OffsetMode, Rows, sequence_after, sequences_between};
use eddy_protocol::{Batch, Compression, ProducerStamp, TopicName};
use futures_util::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;

use super::{
    Append, Appended, CatalogChange, Change, Claims, Commit, CommitError, Committed, Epochs,
    Expect, Health, Log, Page, Partition, Producer, Read, ReadError, Reply, Resume, State,
    StateChange, StateId, Table, TableError, TailRead, Ticket, Topic, TopicId, Topics, WatchGuard,
    Watcher, Watchers, admit, new_uuid, ticket,
};
use crate::metrics::TopicMeters;

const COMMIT_BYTES_MAX: u64 = 256 << 20;
/// Sequences that lie further back than this lie ahead.
const SEQUENCES_BEHIND_MAX: u32 = 1 << 30;

/// The engine. A clone is the same one, and so it outlasts whoever closes it.
#[derive(Clone)]
pub(crate) struct Memory {
    shared: Arc<Shared>,
    /// Commits are made by a thread, so that their answers come later.
    requests: mpsc::Sender<Request>,
}

type Request = Box<dyn FnOnce(&Shared) + Send>;
type Judge = Box<dyn FnMut(&Commit) -> Fate + Send>;

struct Shared {
    topics: Topics,
    parts: Mutex<BTreeMap<PartitionKey, Arc<Part>>>,
    kept: Arc<Mutex<Kept>>,
    judge: Mutex<Judge>,
    now_ms: i64,
}

/// What becomes of a commit before it is looked at.
pub(crate) enum Fate {
    /// It is made, if it can be.
    Made,
    /// It is refused.
    Refused(CommitError),
    /// Another node makes the same, and this one is refused.
    MadeElsewhere(CommitError),
}

type PartitionKey = (TopicId, u32);

/// All there is.
#[derive(Debug, Clone, Default)]
struct Kept {
    records: BTreeMap<PartitionKey, Records>,
    tables: BTreeMap<(Table, Bytes), Bytes>,
    states: BTreeMap<(StateId, Bytes), Bytes>,
    producers: BTreeMap<u64, Identity>,
    sent: BTreeMap<(u64, PartitionKey), Vec<Sent>>,
    /// How many there ever were.
    topics: u64,
    /// How many offsets each commit takes in its partitions besides those of its records.
    left_out: u32,
    is_closed: bool,
}

/// A partition's records.
#[derive(Debug, Clone)]
struct Records {
    epochs: Epochs,
    start: u64,
    /// Behind the newest record.
    end: u64,
    /// What the next one gets.
    next: u64,
    /// Each begins where the one before ended.
    batches: Vec<Batch>,
    is_deleted: bool,
}

#[derive(Debug, Clone)]
struct Identity {
    epoch: u16,
    name: Option<String>,
}

/// A producer's batch.
#[derive(Debug, Clone, Copy)]
struct Sent {
    sequence: u32,
    count: u32,
    offset: u64,
}

impl Memory {
    /// Nothing yet; it is `now_ms` for ever.
    pub(crate) fn new(now_ms: i64) -> Memory {
        let shared = Arc::new(Shared {
            topics: Topics::new([]),
            parts: Mutex::default(),
            kept: Arc::default(),
            judge: Mutex::new(Box::new(|_| Fate::Made)),
            now_ms,
        });
        let (requests, taken) = mpsc::channel::<Request>();
        let works = shared.clone();
        std::thread::spawn(move || taken.into_iter().for_each(|request| request(&works)));
        Memory { shared, requests }
    }

    /// Asks `judge` of every commit that comes from now on.
    pub(crate) fn judge(&self, judge: impl FnMut(&Commit) -> Fate + Send + 'static) {
        *self.shared.judge.lock() = Box::new(judge);
    }

    /// Every commit takes so many offsets for itself in each partition, behind its records.
    pub(crate) fn leave_out(&self, offsets: u32) {
        self.shared.kept.lock().left_out = offsets;
    }

    /// Takes commits again after it was closed.
    pub(crate) fn reopen(&self) {
        self.shared.kept.lock().is_closed = false;
    }

    fn request<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared, Reply<T>) + Send + 'static,
    ) -> Ticket<T> {
        let (reply, ticket) = ticket();
        let request = Box::new(move |shared: &Shared| work(shared, reply));
        self.requests.send(request).expect("the thread lives");
        ticket
    }

    fn identify(&self, name: Option<&str>, current: Option<Producer>) -> Ticket<Producer> {
        let name = name.map(str::to_owned);
        self.request(move |shared, reply| {
            reply.answer(shared.kept.lock().identify(name, current));
        })
    }

    fn read<'a, T: Send + 'a>(
        &self,
        read: impl FnOnce(&Kept) -> T,
    ) -> BoxFuture<'a, Result<T, TableError>> {
        ready(Ok(read(&self.shared.kept.lock()))).boxed()
    }
}

impl Log for Memory {
    fn submit(&self, commit: Commit) -> Ticket {
        self.request(move |shared, reply| shared.commit(commit, reply))
    }

    fn open_producer(&self, name: Option<&str>) -> Ticket<Producer> {
        self.identify(name, None)
    }

    fn next_epoch(&self, current: Producer) -> Ticket<Producer> {
        self.identify(None, Some(current))
    }

    fn has_room(&self) -> bool {
        true
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }

    fn commit_bytes_max(&self) -> u64 {
        COMMIT_BYTES_MAX
    }

    fn topics(&self) -> &Topics {
        &self.shared.topics
    }

    fn health(&self) -> Health {
        Health::Ok
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        let closed = self.request(|shared, reply| {
            shared.kept.lock().is_closed = true;
            reply.answer(Ok(()));
        });
        closed.map(drop).boxed()
    }
}

impl State for Memory {
    fn get<'a>(
        &'a self,
        table: Table,
        key: &'a [u8],
    ) -> BoxFuture<'a, Result<Option<Bytes>, TableError>> {
        let key = (table, Bytes::copy_from_slice(key));
        self.read(|kept| kept.tables.get(&key).cloned())
    }

    fn scan<'a>(
        &'a self,
        table: Table,
        prefix: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<(Bytes, Bytes)>, TableError>> {
        self.read(|kept| {
            let rows = kept.tables.iter();
            let found = rows.filter(|((of, key), _)| *of == table && key.starts_with(prefix));
            found
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect()
        })
    }

    fn state_get<'a>(
        &'a self,
        state: &'a StateId,
        keys: Vec<Bytes>,
    ) -> BoxFuture<'a, Result<Vec<Option<Bytes>>, TableError>> {
        self.read(|kept| {
            let value = |key| kept.states.get(&(state.clone(), key)).cloned();
            keys.into_iter().map(value).collect()
        })
    }

    fn state_scan<'a>(
        &'a self,
        state: &'a StateId,
        (from, to): (Bytes, Option<Bytes>),
        bytes_max: usize,
    ) -> BoxFuture<'a, Result<Page, TableError>> {
        self.read(|kept| {
            let mut page = Page::default();
            let mut bytes = 0;
            for ((_, key), value) in kept.states.iter().filter(|((of, _), _)| of == state) {
                if *key < from || to.as_ref().is_some_and(|to| key >= to) {
                    continue;
                }
                if bytes >= bytes_max && !page.entries.is_empty() {
                    page.next = Some(key.clone());
                    break;
                }
                bytes += key.len() + value.len();
                page.entries.push((key.clone(), value.clone()));
            }
            page
        })
    }
}

impl Shared {
    /// Makes a commit, answers, and tells those who watch its partitions.
    fn commit(&self, commit: Commit, reply: Reply<Committed>) {
        let appended = commit.appends.iter().map(|it| (it.topic, it.partition));
        let mut changed: BTreeSet<PartitionKey> = appended.collect();
        for change in &commit.catalog {
            if let CatalogChange::Delete { topic } = change {
                changed.extend(self.parts.lock().keys().filter(|(of, _)| of == topic));
            }
        }
        let answer = match (self.judge.lock())(&commit) {
            Fate::Made => self.make(commit),
            Fate::Refused(error) => Err(error),
            Fate::MadeElsewhere(error) => self.make(commit).and(Err(error)),
        };
        reply.answer(answer);
        for key in changed {
            let part = self.parts.lock().get(&key).cloned();
            if let Some(part) = part {
                part.watchers.notify(part.topic, part.number);
            }
        }
    }

    fn make(&self, commit: Commit) -> Result<Committed, CommitError> {
        let mut kept = self.kept.lock();
        if kept.is_closed {
            return Err(CommitError::Closed);
        }
        let bytes = commit
            .appends
            .iter()
            .map(|append| append.batch.len() as u64);
        let (bytes, bytes_max) = (bytes.sum(), COMMIT_BYTES_MAX);
        if bytes > bytes_max {
            return Err(CommitError::TooLarge { bytes, bytes_max });
        }
        let mut next = kept.clone();
        next.expect(commit.expect)?;
        for change in &commit.catalog {
            self.check(change)?;
        }
        let mut committed = Committed::default();
        for append in commit.appends {
            committed
                .appends
                .push(self.append(&mut next, append, commit.claims)?);
        }
        for change in commit.changes {
            match change {
                Change::Put { table, key, value } => next.tables.insert((table, key), value),
                Change::Delete { table, key } => next.tables.remove(&(table, key)),
            };
        }
        commit
            .states
            .into_iter()
            .for_each(|change| next.change_state(change));
        for change in commit.catalog {
            committed
                .created
                .extend(self.change_catalog(&mut next, change));
        }
        *kept = next;
        Ok(committed)
    }

    fn append(
        &self,
        kept: &mut Kept,
        append: Append,
        claims: Claims,
    ) -> Result<Appended, CommitError> {
        let Append {
            topic,
            partition,
            batch,
        } = append;
        let known = self
            .topics
            .by_id(topic)
            .ok_or(CommitError::UnknownTopic(topic))?;
        if known.partition(partition).is_none() {
            return Err(CommitError::UnknownPartition {
                topic: known.name().clone(),
                partition,
                partitions: known.partitions().len() as u32,
            });
        }
        let key = (topic, partition);
        let (stamp, count) = (batch.producer(), batch.count());
        if let Some(stamp) = stamp
            && let Some(offset) = kept.repeated(key, stamp, count)?
        {
            let duplicate = true;
            return Ok(Appended { offset, duplicate });
        }
        let settings = known.settings();
        let batch = admit(batch, &settings, self.now_ms, claims);
        let batch = batch.map_err(|outside| outside.refusal(known.name()))?;
        let left_out = kept.left_out;
        let records = kept.records.get_mut(&key).expect("each partition has some");
        let offset = records.append(&batch, left_out);
        if let Some(bytes_max) = settings.retention_bytes {
            records.retain(bytes_max);
        }
        if let Some(ProducerStamp { id, sequence, .. }) = stamp {
            let sent = Sent {
                sequence,
                count,
                offset,
            };
            kept.sent.entry((id, key)).or_default().push(sent);
        }
        let (offset, duplicate) = (Some(offset), false);
        Ok(Appended { offset, duplicate })
    }

    fn check(&self, change: &CatalogChange) -> Result<(), CommitError> {
        let by_id = |topic: &TopicId| {
            let known = self.topics.by_id(*topic);
            known.ok_or(CommitError::UnknownTopic(*topic))
        };
        let (topic, now, asked) = match change {
            CatalogChange::Create { name, .. } if self.topics.by_name(name).is_some() => {
                return Err(CommitError::TopicExists(name.clone()));
            }
            CatalogChange::Create {
                name, partitions, ..
            } => (name.clone(), 0, *partitions),
            CatalogChange::Alter {
                topic, partitions, ..
            } => {
                let known = by_id(topic)?;
                let now = known.partitions().len() as u32;
                (known.name().clone(), now, partitions.unwrap_or(now))
            }
            CatalogChange::Delete { topic } => return by_id(topic).map(drop),
            CatalogChange::Repair { topic, partition } => {
                let (topic, partition) = (by_id(topic)?.name().clone(), *partition);
                return Err(CommitError::NothingToRepair { topic, partition });
            }
        };
        if asked == 0 || asked < now {
            let partitions = now;
            return Err(CommitError::InvalidPartitions {
                topic,
                partitions,
                asked,
            });
        }
        Ok(())
    }

    /// Makes a change that was checked.
    fn change_catalog(&self, kept: &mut Kept, change: CatalogChange) -> Option<Arc<Topic>> {
        match change {
            CatalogChange::Create {
                name,
                partitions,
                settings,
            } => {
                kept.topics += 1;
                let id = TopicId(kept.topics);
                let parts = self.add_parts(kept, (id, &name), 0..partitions);
                let topic = Arc::new(Topic::new(id, (name, new_uuid()), settings, parts));
                self.topics.insert(topic.clone());
                return Some(topic);
            }
            CatalogChange::Alter {
                topic,
                partitions,
                settings,
            } => {
                let known = self.topics.by_id(topic)?;
                let now = known.partitions().len() as u32;
                let asked = partitions.unwrap_or(now);
                known.alter(
                    settings,
                    self.add_parts(kept, (topic, known.name()), now..asked),
                );
            }
            CatalogChange::Delete { topic } => {
                self.topics.remove(topic)?;
                let its = kept.records.iter_mut().filter(|((of, _), _)| *of == topic);
                its.for_each(|(_, records)| records.is_deleted = true);
                kept.sent.retain(|(_, (of, _)), _| *of != topic);
            }
            CatalogChange::Repair { .. } => {}
        }
        self.topics.tick();
        None
    }

    fn add_parts(
        &self,
        kept: &mut Kept,
        (topic, name): (TopicId, &TopicName),
        numbers: Range<u32>,
    ) -> Vec<Arc<dyn Partition>> {
        let part = |number| {
            let key = (topic, number);
            kept.records.insert(key, Records::new(topic));
            let part = Arc::new(Part {
                topic,
                name: name.clone(),
                number,
                meters: TopicMeters::of(name.as_ref()),
                watchers: Arc::default(),
                kept: self.kept.clone(),
            });
            self.parts.lock().insert(key, part.clone());
            part as Arc<dyn Partition>
        };
        numbers.map(part).collect()
    }
}

impl Kept {
    fn expect(&self, expected: Vec<Expect>) -> Result<(), CommitError> {
        for Expect { table, key, value } in expected {
            let found = self.tables.get(&(table, key.clone()));
            if !value.is_met_by(found) {
                let found = found.cloned();
                return Err(CommitError::Conflict { table, key, found });
            }
        }
        Ok(())
    }

    /// Whether a batch is one that came before, and at which offset, if that is known; refused where
    /// it is of another epoch or another one is missing before it.
    fn repeated(
        &self,
        key: PartitionKey,
        stamp: ProducerStamp,
        count: u32,
    ) -> Result<Option<Option<u64>>, CommitError> {
        let ProducerStamp {
            id,
            epoch,
            sequence,
        } = stamp;
        let known = self.producers.get(&id).filter(|known| epoch <= known.epoch);
        let current = known.ok_or(CommitError::UnknownProducer(id))?.epoch;
        if epoch < current {
            return Err(CommitError::Fenced { id, epoch, current });
        }
        let sent = self.sent.get(&(id, key)).map_or(&[][..], Vec::as_slice);
        let after = |last: &Sent| sequence_after(last.sequence, last.count);
        let expected = sent.last().map_or(0, after);
        let same = |it: &&Sent| it.sequence == sequence && it.count == count;
        match sequences_between(sequence, expected) {
            0 => Ok(None),
            behind if behind > SEQUENCES_BEHIND_MAX || behind < count => {
                Err(CommitError::OutOfOrder {
                    id,
                    expected,
                    sequence,
                })
            }
            _ => Ok(Some(sent.iter().rfind(same).map(|it| it.offset))),
        }
    }

    fn identify(
        &mut self,
        name: Option<String>,
        current: Option<Producer>,
    ) -> Result<Producer, CommitError> {
        if self.is_closed {
            return Err(CommitError::Closed);
        }
        let named = |(_, it): &(&u64, &Identity)| name.is_some() && it.name == name;
        let unnamed = |it: &&Identity| it.name.is_none();
        let known = match current {
            Some(Producer { id, .. }) => self.producers.get(&id).filter(unnamed).map(|it| (id, it)),
            None => self.producers.iter().find(named).map(|(id, it)| (*id, it)),
        };
        let producer = match (known, current) {
            (None, _) => Producer {
                id: self.producers.keys().last().map_or(1, |newest| newest + 1),
                epoch: 0,
            },
            // It was given already, and the answer got lost: nothing was sent under it.
            (Some((id, it)), Some(of))
                if it.epoch == of.epoch + 1 && !self.sent.keys().any(|(by, _)| *by == id) =>
            {
                Producer {
                    id,
                    epoch: it.epoch,
                }
            }
            (Some((id, it)), Some(Producer { epoch, .. })) if epoch < it.epoch => {
                let current = it.epoch;
                return Err(CommitError::Fenced { id, epoch, current });
            }
            (Some((id, it)), _) => Producer {
                id,
                epoch: it.epoch + 1,
            },
        };
        self.sent.retain(|(id, _), _| *id != producer.id);
        let Producer { id, epoch } = producer;
        self.producers.insert(id, Identity { epoch, name });
        Ok(producer)
    }

    fn change_state(&mut self, change: StateChange) {
        match change {
            StateChange::Delta { state, delta } => {
                for (key, value) in delta.rows() {
                    let row = (state.clone(), Bytes::copy_from_slice(key));
                    match value {
                        Some(value) => self.states.insert(row, Bytes::copy_from_slice(value)),
                        None => self.states.remove(&row),
                    };
                }
            }
            StateChange::Delete(deletion) => {
                self.states.retain(|(state, _), _| !deletion.is_of(state));
            }
        }
    }
}

impl Records {
    fn new(topic: TopicId) -> Records {
        Records {
            epochs: Epochs::first(topic),
            start: 0,
            end: 0,
            next: 0,
            batches: Vec::new(),
            is_deleted: false,
        }
    }

    /// Adds a batch, which covers what was left out before it; returns its first record's offset.
    fn append(&mut self, batch: &Batch, left_out: u32) -> u64 {
        let first = self.next;
        let batch = batch.clone().with_base_offset(first);
        let batch = match first == self.end {
            true => batch,
            false => covering(&batch, self.end),
        };
        self.end = batch.end_offset();
        self.next = self.end + u64::from(left_out);
        self.batches.push(batch);
        first
    }

    fn bytes(&self) -> u64 {
        self.batches.iter().map(|batch| batch.len() as u64).sum()
    }

    fn retain(&mut self, bytes_max: u64) {
        while self.batches.len() > 1 && self.bytes() > bytes_max {
            self.start = self.batches.remove(0).end_offset();
        }
    }
}

/// The batch, covering the offsets from `from` on, too.
fn covering(batch: &Batch, from: u64) -> Batch {
    let mut columns = ColumnBuf::new();
    columns.extend_from(batch).expect("it was checked");
    let span = u32::try_from(batch.end_offset() - from).expect("few are left out");
    let offsets = OffsetMode::Sparse { base: from, span };
    let covering = columns.encode(Rows::All, offsets, Compression::None, None);
    covering.expect("it is hardly larger")
}

/// A partition.
#[derive(Debug)]
struct Part {
    topic: TopicId,
    name: TopicName,
    number: u32,
    meters: TopicMeters,
    watchers: Arc<Watchers>,
    kept: Arc<Mutex<Kept>>,
}

impl Part {
    fn look<T>(&self, look: impl FnOnce(&Records) -> T) -> T {
        let kept = self.kept.lock();
        look(
            kept.records
                .get(&(self.topic, self.number))
                .expect("each partition has some"),
        )
    }

    fn why_stopped(&self) -> Option<Arc<str>> {
        let reason = || format!("topic `{}` was deleted", self.name).into();
        self.is_deleted().then(reason)
    }
}

impl Partition for Part {
    fn topic(&self) -> TopicId {
        self.topic
    }

    fn topic_name(&self) -> &TopicName {
        &self.name
    }

    fn meters(&self) -> &TopicMeters {
        &self.meters
    }

    fn number(&self) -> u32 {
        self.number
    }

    fn epoch(&self) -> u32 {
        self.look(|it| it.epochs.current())
    }

    fn resume(&self, epoch: Option<u32>, offset: u64) -> Resume {
        self.look(|it| it.epochs.resume(epoch, offset))
    }

    fn start(&self) -> u64 {
        self.look(|it| it.start)
    }

    fn end(&self) -> u64 {
        self.look(|it| it.end)
    }

    fn bytes(&self) -> u64 {
        self.look(Records::bytes)
    }

    fn next_from(&self, offset: u64) -> u64 {
        offset.max(self.start())
    }

    fn stopped(&self) -> Option<String> {
        self.why_stopped().map(|reason| reason.to_string())
    }

    fn is_deleted(&self) -> bool {
        self.look(|it| it.is_deleted)
    }

    fn read_tail(&self, offset: u64, bytes_max: u64) -> TailRead {
        if let Some(reason) = self.why_stopped() {
            return TailRead::Stopped(reason);
        }
        self.look(
            |&Records {
                 start,
                 end,
                 ref batches,
                 ..
             }| {
                if offset < start {
                    return TailRead::BelowStart { start };
                }
                if offset > end {
                    return TailRead::BeyondEnd { end };
                }
                let mut bytes = 0;
                let is_wanted = |batch: &&Batch| {
                    let is_wanted = bytes < bytes_max.max(1);
                    bytes += batch.expanded_len() as u64;
                    is_wanted
                };
                let from = batches
                    .iter()
                    .skip_while(|batch| batch.end_offset() <= offset);
                let found: Vec<Batch> = from.take_while(is_wanted).cloned().collect();
                match found.is_empty() {
                    true => TailRead::AtEnd,
                    false => TailRead::Batches(found),
                }
            },
        )
    }

    fn read(&self, offset: u64, bytes_max: u64) -> Result<Read, ReadError> {
        match self.read_tail(offset, bytes_max) {
            TailRead::Batches(batches) => Ok(Read { batches }),
            TailRead::AtEnd | TailRead::OnDisk => Ok(Read::default()),
            TailRead::BelowStart { start } => Err(ReadError::BelowStart { start }),
            TailRead::BeyondEnd { end } => Err(ReadError::BeyondEnd { end }),
            TailRead::Stopped(reason) => Err(ReadError::Stopped(reason)),
        }
    }

    fn offset_at_time(&self, time_ms: i64) -> Result<u64, ReadError> {
        if let Some(reason) = self.why_stopped() {
            return Err(ReadError::Stopped(reason));
        }
        self.look(|it| {
            for batch in &it.batches {
                let records = batch.records().expect("it was checked");
                if let Some(found) = records.iter().find(|record| record.timestamp >= time_ms) {
                    return Ok(found.offset);
                }
            }
            Ok(it.end)
        })
    }

    fn watch(&self, watcher: &Arc<dyn Watcher>) -> WatchGuard {
        WatchGuard::new(&self.watchers, watcher)
    }
}
