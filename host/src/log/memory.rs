//! An engine that keeps everything in memory under one lock: what [`Log`] and [`State`] ask, in as
//! few words as it takes. A commit is made on a copy of all there is, which takes the place of what
//! was if nothing is in the way.
//!
//! For tests, which can tell it to [refuse](Memory::judge) commits as an engine of many nodes does,
//! and to [leave offsets out](Memory::leave_out). It knows no limits of producers, no retention by
//! age and no damage.

mod kept;
mod partition;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, mpsc};

use bytes::Bytes;
use eddy_protocol::{ProducerStamp, TopicName};
use futures_util::future::{BoxFuture, FutureExt, ready};
use parking_lot::Mutex;

use self::kept::{Kept, Sent};
use self::partition::{Part, Records};
use super::{
    Append, Appended, CatalogChange, Change, Claims, Commit, CommitError, Committed, Health, Log,
    Page, Partition, Producer, Reply, State, StateId, Table, TableError, Ticket, Topic, TopicId,
    Topics, admit, new_uuid, ticket,
};
use crate::metrics::TopicMeters;

const COMMIT_BYTES_MAX: u64 = 256 << 20;

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
        let batch = batch.map_err(|outside| CommitError::outside(known.name(), outside))?;
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
