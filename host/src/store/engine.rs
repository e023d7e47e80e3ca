//! The store's core: what happens to a commit, step by step, without threads of
//! its own. [`driver`](super::driver) calls the steps from threads; the
//! simulation calls them in an order that a seed gives.
//!
//! - [`write`](Engine::write): requests become a group in the journal
//! - [`sync`](Engine::sync): groups become durable, their records visible, their answers given
//! - [`apply`](Engine::apply): visible records go to segments
//! - [`checkpoint`](Engine::checkpoint) (in `checkpoint`) and [`retain`](Engine::retain) (in `retention`)
//!
//! A failed write undoes its group; a failed sync ends the store: what the
//! kernel dropped cannot be written again with any hope.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

use eddy_protocol::TopicName;
use parking_lot::Mutex;
use rustc_hash::FxHashSet;

use super::catalog::{Catalog, seen};
use super::config::Config;
use super::flight::{Flight, Job, Landing};
use super::journal::group::{self, Header};
use super::journal::operation::Operation;
use super::journal::{AppendError, Journal, Spare};
use super::meter::Meters;
use super::partition::{Opened, Partition, Published, Shared};
use super::producer::Limits;
use super::request::{Answer, Request};
use super::retention::Doomed;
use super::segment::files::Files;
use super::state::States;
use super::table::Tables;
use super::writer::{Against, Draft, Head, Writer};
use crate::io::{Clock, Disk, File, Lock, is_full};
use crate::log::{CommitError, Health, Partition as _, Topic, TopicId, new_uuid};

/// How many times as much as triggers a checkpoint the journal may hold while none
/// can be made.
const JOURNAL_MAX: u64 = 8;

/// Work that a step left for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Sync,
    Apply,
    Keep,
}

/// The store without its threads.
pub(crate) struct Engine {
    pub(crate) config: Config,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) salt: u64,
    pub(crate) boot: u64,
    pub(crate) files: Arc<Files>,
    pub(crate) shared: Shared,
    pub(crate) tables: Tables,
    pub(crate) states: States,
    pub(crate) catalog: Catalog,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) flight: Flight,
    syncing: Mutex<()>,
    /// Held over a turn of the applier; taken after `writer`, if both are.
    pub(crate) applying: Mutex<()>,
    pub(crate) apply_queue: Mutex<VecDeque<Arc<Partition>>>,
    pub(crate) tail_order: Mutex<VecDeque<(Arc<Partition>, u64)>>,
    pub(crate) unapplied_bytes: AtomicU64,
    /// In the journal since the last checkpoint.
    pub(crate) journaled_bytes: AtomicU64,
    pub(crate) checkpointing: Mutex<()>,
    /// The newest group that the last checkpoint covers.
    pub(crate) checkpointed: AtomicU64,
    /// Whether there may be files with what partitions at rest have.
    pub(crate) has_asides: AtomicBool,
    /// Deleted topics whose files are still there.
    pub(crate) doomed: Mutex<Vec<Doomed>>,
    /// What recovery found that an operator should know.
    pub(crate) notices: Vec<String>,
    /// First sequences of journal files in which recovery found damage.
    pub(crate) damaged_journal: Mutex<FxHashSet<u64>>,
    pub(super) room: AtomicI64,
    pub(super) write_full: AtomicBool,
    /// What the commit would have taken that was refused last for lack of room.
    pub(super) refused_bytes: AtomicU64,
    pub(super) refused_ms: AtomicI64,
    pub(crate) apply_full: AtomicBool,
    /// Whether the applier waits for what the system cannot do now.
    pub(crate) apply_waits: AtomicBool,
    /// As [`journaled_bytes`](Engine::journaled_bytes), of what a checkpoint is being made of.
    pub(crate) frozen_bytes: AtomicU64,
    /// Whether no checkpoint could be made when one was tried last.
    pub(crate) is_postponed: AtomicBool,
    /// The journal file to be begun next.
    spare: Mutex<Option<Spare>>,
    /// Whether the last attempt to begin a journal file found no way to.
    is_short_of_files: AtomicBool,
    /// Whether the data folder is somebody else's now.
    pub(crate) is_unlocked: AtomicBool,
    failed: Mutex<Option<Arc<str>>>,
    pub(crate) wake: Box<dyn Fn(Work) + Send + Sync>,
    pub(crate) meters: Meters,
    lock: Mutex<Option<Box<dyn Lock>>>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("flight", &self.flight)
            .finish_non_exhaustive()
    }
}

/// What recovery hands over.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) salt: u64,
    pub(crate) boot: u64,
    pub(crate) shared: Shared,
    pub(crate) tables: Tables,
    pub(crate) states: States,
    pub(crate) catalog: Catalog,
    pub(crate) writer: Writer,
    /// The newest group that is synced.
    pub(crate) synced: u64,
    /// The journal's older files that hold groups behind it.
    pub(crate) unsynced: Vec<Arc<dyn File>>,
    pub(crate) journaled_bytes: u64,
    pub(crate) checkpointed: u64,
    pub(crate) has_asides: bool,
    pub(crate) doomed: Vec<Doomed>,
    /// What recovery found that an operator should know.
    pub(crate) notices: Vec<String>,
    pub(crate) damaged_journal: FxHashSet<u64>,
    pub(crate) lock: Box<dyn Lock>,
}

impl Engine {
    /// The store as recovery left it; `wake` is told of work.
    pub(crate) fn new(parts: Parts, wake: Box<dyn Fn(Work) + Send + Sync>) -> Engine {
        let mut unsynced = parts.unsynced;
        unsynced.push(parts.writer.journal.file().clone());
        let flight = Flight::new(parts.writer.sequence, parts.synced, unsynced);
        Engine {
            config: parts.config,
            disk: parts.disk,
            clock: parts.clock,
            salt: parts.salt,
            boot: parts.boot,
            files: parts.shared.files.clone(),
            shared: parts.shared,
            tables: parts.tables,
            states: parts.states,
            catalog: parts.catalog,
            writer: Mutex::new(parts.writer),
            flight,
            syncing: Mutex::new(()),
            applying: Mutex::new(()),
            apply_queue: Mutex::default(),
            tail_order: Mutex::default(),
            unapplied_bytes: AtomicU64::new(0),
            journaled_bytes: AtomicU64::new(parts.journaled_bytes),
            checkpointing: Mutex::new(()),
            checkpointed: AtomicU64::new(parts.checkpointed),
            has_asides: AtomicBool::new(parts.has_asides),
            doomed: Mutex::new(parts.doomed),
            notices: parts.notices,
            damaged_journal: Mutex::new(parts.damaged_journal),
            room: AtomicI64::new(0),
            write_full: AtomicBool::new(false),
            refused_bytes: AtomicU64::new(0),
            refused_ms: AtomicI64::new(0),
            apply_full: AtomicBool::new(false),
            apply_waits: AtomicBool::new(false),
            frozen_bytes: AtomicU64::new(0),
            is_postponed: AtomicBool::new(false),
            spare: Mutex::default(),
            is_short_of_files: AtomicBool::new(false),
            is_unlocked: AtomicBool::new(false),
            failed: Mutex::new(None),
            wake,
            meters: Meters::new(),
            lock: Mutex::new(Some(parts.lock)),
        }
    }

    /// Writes requests into the journal, in their order. Those that are refused
    /// are answered here; so are those that need not wait for a sync.
    pub(crate) fn write(&self, requests: Vec<Request>) {
        let mut writer = self.writer.lock();
        let mut draft = Draft::default();
        for request in requests {
            let is_alone =
                matches!(&request, Request::Commit { commit, .. } if !commit.catalog.is_empty());
            // A change of the catalog is in effect once it is written, so whatever rests on it
            // must be in another group.
            if is_alone || draft.bytes() >= self.config.group_bytes {
                self.flush(&mut writer, &mut draft);
            }
            self.draft(&mut writer, &mut draft, request);
            if is_alone {
                self.flush(&mut writer, &mut draft);
            }
        }
        self.flush(&mut writer, &mut draft);
    }

    fn draft(&self, writer: &mut Writer, draft: &mut Draft, request: Request) {
        if let Err(error) = self.accepts(&request) {
            return request.refuse(error);
        }
        let now_ms = self.clock.now_ms();
        match request {
            Request::Commit { commit, reply } => {
                let windows_max = self.config.producer_windows_max;
                let against = Against {
                    tables: &self.tables,
                    catalog: &self.catalog.topics,
                    now_ms,
                    claims: commit.claims,
                    limits: Limits {
                        partitions_max: self.config.producer_partitions_max,
                        windows_max: windows_max.saturating_add(windows_max / 10),
                    },
                };
                match writer.draft_commit(draft, commit, &against) {
                    Ok((needs, committed)) => draft
                        .answers
                        .push((needs, Answer::Commit(reply, committed))),
                    Err(error) => reply.answer(Err(error)),
                }
            }
            Request::OpenProducer {
                name,
                current,
                reply,
            } => {
                // A tenth at a time, so that finding the idle ones costs little each.
                let is_crowded = writer.producers.windows() > self.config.producer_windows_max;
                if is_crowded || writer.producers.len() > self.config.producers_max / 10 * 11 {
                    self.draft_forget(writer, draft, now_ms);
                }
                match writer.draft_producer(draft, name.as_deref(), current, now_ms) {
                    Ok((needs, producer)) => draft
                        .answers
                        .push((needs, Answer::Producer(reply, producer))),
                    Err(error) => reply.answer(Err(error)),
                }
            }
            Request::ForgetProducers => self.draft_forget(writer, draft, now_ms),
        }
    }

    fn draft_forget(&self, writer: &mut Writer, draft: &mut Draft, now_ms: i64) {
        let expiry = i64::try_from(self.config.producer_expiry.as_millis()).unwrap_or(i64::MAX);
        let since_ms = now_ms.saturating_sub(expiry);
        let idle = writer.producers.idle(
            since_ms,
            self.config.producers_max,
            self.config.producer_windows_max,
        );
        writer.draft_forget(draft, &idle);
    }

    fn accepts(&self, request: &Request) -> Result<(), CommitError> {
        if let Some(reason) = self.failure() {
            return Err(CommitError::StorageFailed(reason));
        }
        let Request::Commit { commit, .. } = request else {
            return Ok(());
        };
        if self.apply_full.load(Ordering::Relaxed) && !commit.appends.is_empty() {
            return Err(CommitError::DiskFull);
        }
        let is_stuck = self.apply_waits.load(Ordering::Relaxed) && !self.is_ahead();
        if is_stuck && !commit.appends.is_empty() {
            return Err(CommitError::Behind {
                bytes_max: self.config.unapplied_bytes_max,
            });
        }
        let (bytes, bytes_max) = (request.bytes(), self.config.commit_bytes_max);
        if bytes > bytes_max {
            return Err(CommitError::TooLarge { bytes, bytes_max });
        }
        Ok(())
    }

    /// Writes the draft and begins the next one.
    fn flush(&self, writer: &mut Writer, draft: &mut Draft) {
        let mut draft = std::mem::take(draft);
        if draft.operations > 0
            && let Err(error) = self.write_group(writer, &draft)
        {
            writer.undo(&mut draft);
            for (_, answer) in draft.answers {
                answer.refuse(error.clone());
            }
            return;
        }
        self.settle(writer, draft);
    }

    fn write_group(&self, writer: &mut Writer, draft: &Draft) -> Result<(), CommitError> {
        if let Some(reason) = self.failure() {
            return Err(CommitError::StorageFailed(reason));
        }
        let bytes = draft.bytes();
        self.check_journal(draft)?;
        // What can make room may use the last of it: that is what it was left for.
        if !draft.makes_room() && !self.has_room(bytes) {
            return Err(self.refuse_for_room(bytes));
        }
        if writer.journal.bytes() > self.config.journal_file_bytes {
            self.rotate(writer)?;
        }
        let header = Header {
            salt: self.salt,
            sequence: writer.sequence + 1,
            synced_through: self.flight.synced(),
            time_ms: self.clock.now_ms(),
            records_before: writer.records,
            changes_before: writer.changes,
            payload_bytes: draft.payload_bytes,
            directory_bytes: directory_bytes(draft)?,
            operations: draft.operations,
            needs: 0,
        };
        let frame = group::encode(&header, &draft.directory);
        match writer.journal.append(&frame, &draft.payload) {
            Ok(bytes) => {
                let total = self.journaled_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
                self.meters.group(bytes, total);
                if total >= self.config.checkpoint_bytes {
                    (self.wake)(Work::Keep);
                }
            }
            Err(AppendError::Refused(error)) if is_full(&error) => {
                return Err(self.refuse_for_room(bytes));
            }
            Err(AppendError::Refused(error) | AppendError::Torn(error)) => {
                return Err(CommitError::StorageFailed(
                    self.fail("write the journal", &error),
                ));
            }
        }
        self.had_room(bytes);
        writer.sequence += 1;
        writer.records += draft.records();
        writer.changes += draft.changes();
        Ok(())
    }

    /// While no checkpoint can be made, the journal must not grow for ever.
    fn check_journal(&self, draft: &Draft) -> Result<(), CommitError> {
        let bytes_max = self.config.checkpoint_bytes.saturating_mul(JOURNAL_MAX);
        let frozen = self.frozen_bytes.load(Ordering::Relaxed);
        let bytes = frozen + self.journaled_bytes.load(Ordering::Relaxed);
        if bytes > bytes_max && self.is_postponed.load(Ordering::Relaxed) && !draft.makes_room() {
            (self.wake)(Work::Keep);
            return Err(CommitError::JournalFull { bytes_max });
        }
        Ok(())
    }

    /// Begins another journal file, unless this one has no group yet.
    pub(crate) fn rotate(&self, writer: &mut Writer) -> Result<(), CommitError> {
        if writer.journal.is_empty() {
            return Ok(());
        }
        let begun = self.begin_spare(writer.sequence + 1);
        (self.wake)(Work::Keep);
        match begun {
            Ok(journal) => {
                self.is_short_of_files.store(false, Ordering::Relaxed);
                self.flight.rotate(journal.file().clone());
                writer.journal = journal;
                Ok(())
            }
            Err(AppendError::Refused(error)) if is_full(&error) => Err(self.refuse_for_room(0)),
            Err(AppendError::Refused(error)) => {
                // The file that there is takes more; so much for a moment without descriptors.
                if !self.is_short_of_files.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "cannot begin another journal file; this one grows");
                }
                Ok(())
            }
            Err(AppendError::Torn(error)) => Err(CommitError::StorageFailed(
                self.fail("begin a journal file", &error),
            )),
        }
    }

    fn make_spare(&self) -> io::Result<Spare> {
        Spare::prepare(&*self.disk, self.salt, self.boot)
    }

    fn begin_spare(&self, first: u64) -> Result<Journal, AppendError> {
        // There is one name for it, so it is made and begun under the lock.
        let mut spare = self.spare.lock();
        let begun = match spare.take() {
            Some(spare) => spare,
            None => self.make_spare().map_err(AppendError::Refused)?,
        };
        begun.begin(&*self.disk, first)
    }

    /// Whether a new journal file can be begun without a sync.
    pub(crate) fn has_spare(&self) -> bool {
        self.spare.try_lock().is_some_and(|spare| spare.is_some())
    }

    /// Makes the next journal file ahead, so that no writer waits for its sync.
    pub(crate) fn keep_spare(&self) {
        let mut spare = self.spare.lock();
        if spare.is_some() || self.failure().is_some() || self.is_full() {
            return;
        }
        match self.make_spare() {
            Ok(made) => *spare = Some(made),
            Err(error) => tracing::debug!(%error, "could not make a journal file ahead"),
        }
    }

    /// Makes a written draft count.
    fn settle(&self, writer: &mut Writer, mut draft: Draft) {
        self.tables.apply(std::mem::take(&mut draft.table));
        if !draft.states.is_empty() {
            draft
                .states
                .drain(..)
                .for_each(|change| self.states.push(change));
            (self.wake)(Work::Apply);
        }
        let mut created = Vec::new();
        for operation in std::mem::take(&mut draft.catalog) {
            created.extend(self.change_catalog(writer, operation));
        }
        if let Some((_, Answer::Commit(_, committed))) = draft.answers.first_mut() {
            committed.created = created;
        }
        let now_ms = self.clock.now_ms();
        let mut partitions = Vec::with_capacity(draft.pushes.len());
        for push in draft.pushes {
            self.unapplied_bytes
                .fetch_add(push.batch.len() as u64, Ordering::Relaxed);
            writer
                .touched
                .entry(push.key)
                .or_insert_with(|| push.partition.clone());
            push.partition.push(push.needs, push.batch, now_ms);
            partitions.push((push.needs, push.partition));
        }
        let (now, synced, refused) = self.flight.add(writer.sequence, partitions, draft.answers);
        self.land(now, synced);
        if let Some(reason) = self.failure() {
            refused
                .into_iter()
                .for_each(|answer| answer.refuse(CommitError::StorageFailed(reason.clone())));
        }
        if self.flight.is_waiting() {
            (self.wake)(Work::Sync);
        }
    }

    fn change_catalog(&self, writer: &mut Writer, operation: Operation) -> Option<Arc<Topic>> {
        match operation {
            Operation::CreateTopic { topic, entry } => {
                let made = self.new_partitions(topic, &entry.name, 0..entry.partitions);
                let created = Arc::new(Topic::new(
                    topic,
                    (entry.name, entry.uuid.unwrap_or_else(new_uuid)),
                    entry.settings,
                    seen(&made),
                ));
                writer.next_topic = writer.next_topic.max(topic.0 + 1);
                writer.add_heads(&created, &made, writer.sequence);
                self.catalog.insert(created.clone(), made);
                writer.touched_topics.insert(topic);
                return Some(created);
            }
            Operation::AlterTopic {
                topic,
                partitions,
                settings,
            } => {
                let known = self.catalog.topics.by_id(topic)?;
                let now = u32::try_from(known.partitions().len()).unwrap_or(u32::MAX);
                let added = self.new_partitions(topic, known.name(), now..partitions);
                self.catalog.add(topic, &added);
                known.alter(settings, seen(&added));
                let all = self.catalog.partitions(topic);
                writer.add_heads(&known, &all, writer.sequence);
                writer.touched_topics.insert(topic);
                self.catalog.topics.tick();
            }
            Operation::DeleteTopic { topic } => {
                self.catalog.remove(topic)?;
                writer.heads.retain(|(of, _), _| *of != topic);
                writer.touched.retain(|(of, _), _| *of != topic);
                writer.producers.forget_topic(topic);
                writer.touched_topics.insert(topic);
                self.doomed.lock().push(Doomed::new(topic, writer.sequence));
                (self.wake)(Work::Keep);
            }
            Operation::Repair {
                key,
                epoch,
                from,
                holes,
            } => {
                let head = writer.heads.get_mut(&key)?;
                head.last_needs = writer.sequence;
                head.next = head.partition.end();
                let from = from.unwrap_or(head.next);
                for lost in head.partition.repair(epoch, from, holes) {
                    self.files.set_aside(lost);
                }
                writer.touched.insert(key, head.partition.clone());
            }
            _ => {}
        }
        None
    }

    fn new_partitions(
        &self,
        topic: TopicId,
        name: &TopicName,
        numbers: Range<u32>,
    ) -> Vec<Arc<Partition>> {
        let made = numbers.map(|number| {
            let (key, shared) = ((topic, number), self.shared.clone());
            Arc::new(Partition::new(
                key,
                name.clone(),
                shared,
                Opened::fresh(key),
            ))
        });
        made.collect()
    }

    /// Makes records visible, gives the answers, then tells who watches the partitions: whoever
    /// waits for a commit must not wait for its readers to be woken.
    fn land(&self, landing: Landing, synced: u64) {
        self.meters.landed(&landing);
        let mut changed = Vec::new();
        for partition in &landing.partitions {
            let published = partition.publish(synced);
            if published.must_queue {
                self.apply_queue.lock().push_back(partition.clone());
                (self.wake)(Work::Apply);
            }
            if published.bytes > 0 {
                let Published {
                    records,
                    batches,
                    bytes,
                    ..
                } = published;
                partition.meters().produced(records, batches, bytes);
                changed.push(partition);
            }
        }
        for answer in landing.answers {
            answer.give();
        }
        changed.into_iter().for_each(|it| it.changed());
    }

    /// Syncs what is written, if somebody waits for it.
    pub(crate) fn sync(&self) {
        let _alone = self.syncing.lock();
        if self.flight.is_waiting() {
            self.sync_now();
        }
    }

    /// Syncs what is written and returns how far that is.
    pub(crate) fn sync_all(&self) -> Result<u64, Arc<str>> {
        let _alone = self.syncing.lock();
        self.sync_now();
        match self.failure() {
            Some(reason) => Err(reason),
            None => Ok(self.flight.synced()),
        }
    }

    fn sync_now(&self) {
        let job = self.flight.begin();
        let begin = Instant::now();
        let result = job.run(&*self.disk);
        if result.is_ok() {
            self.meters.synced(begin);
        }
        self.finish_sync(&job, result);
    }

    /// Ends a sync that was begun with [`Flight::begin`].
    pub(crate) fn finish_sync(&self, job: &Job, result: io::Result<()>) {
        if self.failure().is_some() {
            return;
        }
        if let Err(error) = result {
            self.fail("sync the journal", &error);
            return;
        }
        let before = self.flight.synced();
        let (landing, synced) = self.flight.finish(job);
        self.land(landing, synced);
        let is_ready = |doomed: &Doomed| before < doomed.sequence && doomed.sequence <= synced;
        if self.doomed.lock().iter().any(is_ready) {
            (self.wake)(Work::Keep);
        }
    }

    /// Lets another process have the data folder. Nothing may be written any more.
    pub(crate) fn unlock(&self) {
        // A turn of the applier ends before, and there is no other.
        let _alone = self.applying.lock();
        self.is_unlocked.store(true, Ordering::Relaxed);
        // They write when they close, so not after the lock is gone.
        self.tables.close();
        self.lock.lock().take();
    }

    /// Ends the store for commits; reads go on.
    pub(crate) fn fail(&self, action: &str, error: &dyn std::fmt::Display) -> Arc<str> {
        let mut failed = self.failed.lock();
        if let Some(reason) = &*failed {
            return reason.clone();
        }
        let reason: Arc<str> = format!("could not {action}: {error}").into();
        tracing::error!(%reason, "the storage failed; commits are refused until a restart");
        *failed = Some(reason.clone());
        drop(failed);
        for answer in self.flight.abandon() {
            answer.refuse(CommitError::StorageFailed(reason.clone()));
        }
        reason
    }

    /// The newest group that the last checkpoint covers.
    pub(crate) fn checkpointed(&self) -> u64 {
        self.checkpointed.load(Ordering::Relaxed)
    }

    pub(crate) fn failure(&self) -> Option<Arc<str>> {
        self.failed.lock().clone()
    }

    pub(crate) fn health(&self) -> Health {
        if let Some(reason) = self.failure() {
            return Health::Failed(reason);
        }
        if self.is_full() {
            Health::DiskFull
        } else {
            Health::Ok
        }
    }

    /// Whether the applier has got far enough for more to be written.
    pub(crate) fn is_ahead(&self) -> bool {
        let unapplied = self.unapplied_bytes.load(Ordering::Relaxed);
        unapplied + self.states.pending_bytes() <= self.config.unapplied_bytes_max
    }

    /// Whether something could not be written for lack of room.
    pub(crate) fn is_full(&self) -> bool {
        self.write_full.load(Ordering::Relaxed) || self.apply_full.load(Ordering::Relaxed)
    }
}

/// The length of a draft's directory, if a reader takes one so large.
fn directory_bytes(draft: &Draft) -> Result<u32, CommitError> {
    let bytes = draft.directory.len() as u64;
    match u32::try_from(bytes) {
        Ok(length) if length <= group::DIRECTORY_BYTES_MAX => Ok(length),
        _ => Err(CommitError::TooLarge {
            bytes,
            bytes_max: u64::from(group::DIRECTORY_BYTES_MAX),
        }),
    }
}

impl Writer {
    /// Knows the partitions of a topic that it did not know. The group `needs`
    /// made or altered the topic: without it nothing that rests on it may be
    /// visible or acknowledged, however durable the topic is.
    pub(crate) fn add_heads(
        &mut self,
        topic: &Arc<Topic>,
        partitions: &[Arc<Partition>],
        needs: u64,
    ) {
        for partition in partitions {
            self.heads
                .entry(partition.key())
                .and_modify(|head| head.last_needs = needs)
                .or_insert_with(|| Head {
                    topic: topic.clone(),
                    partition: partition.clone(),
                    next: partition.end(),
                    last_needs: needs,
                });
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use eddy_protocol::frame::{Durability, TopicSettings};
    use eddy_protocol::{Batch, BatchBuilder, Compression};

    use super::*;
    use crate::io::{FaultyDisk, ManualClock};
    use crate::log::{Append, CatalogChange, Change, Commit, Committed, Table, Ticket, ticket};
    use crate::store::recovery;

    fn engine(config: Config) -> Engine {
        let disk = Arc::new(FaultyDisk::new(1));
        let clock = Arc::new(ManualClock::new(0));
        recovery::open(config, disk, clock, Box::new(|_| {})).expect("the folder is empty")
    }

    fn request(commit: Commit) -> (Request, Ticket<Committed>) {
        let (reply, ticket) = ticket();
        (Request::Commit { commit, reply }, ticket)
    }

    fn change(change: CatalogChange) -> Commit {
        Commit {
            catalog: vec![change],
            ..Commit::default()
        }
    }

    fn settings(durability: Durability) -> TopicSettings {
        TopicSettings {
            durability,
            ..TopicSettings::default()
        }
    }

    fn create(durability: Durability) -> Commit {
        change(CatalogChange::Create {
            name: TopicName::parse("t").expect("the name is plain"),
            partitions: 1,
            settings: settings(durability),
        })
    }

    fn produce() -> Commit {
        Commit {
            appends: vec![Append {
                topic: TopicId(1),
                partition: 0,
                batch: batch(),
            }],
            ..Commit::default()
        }
    }

    fn batch() -> Batch {
        let mut builder = BatchBuilder::new();
        builder
            .push(0, None, Some(b"value"), &[])
            .expect("the record is small");
        builder
            .finish(Compression::None, None)
            .expect("the batch is small")
    }

    /// Writes a record on top of an unsynced change of its topic.
    fn check_that_nothing_outruns(before: Option<Commit>, unsynced: Commit) {
        let engine = engine(Config::default());
        if let Some(commit) = before {
            let (request, _ticket) = request(commit);
            engine.write(vec![request]);
            engine.sync();
        }
        let (changed, mut changed_ticket) = request(unsynced);
        let (produced, mut produced_ticket) = request(produce());
        engine.write(vec![changed, produced]);
        let partition = engine.catalog.partition(TopicId(1), 0);
        let partition = partition.expect("it is in effect");
        assert!(changed_ticket.try_take().is_none() && produced_ticket.try_take().is_none());
        assert_eq!(partition.end(), 0, "nobody may see it yet");
        engine.sync();
        produced_ticket
            .try_take()
            .expect("it is synced")
            .expect("there is room");
        assert_eq!(partition.end(), 1);
        let (request, mut ticket) = request(produce());
        engine.write(vec![request]);
        ticket
            .try_take()
            .expect("a memory topic waits for no sync otherwise")
            .expect("there is room");
    }

    #[test]
    fn no_record_outruns_the_creation_of_its_memory_topic() {
        check_that_nothing_outruns(None, create(Durability::Memory));
    }

    #[test]
    fn no_record_outruns_the_change_that_makes_its_topic_one_of_memory() {
        let alter = CatalogChange::Alter {
            topic: TopicId(1),
            partitions: None,
            settings: settings(Durability::Memory),
        };
        check_that_nothing_outruns(Some(create(Durability::Disk)), change(alter));
    }

    #[test]
    fn a_group_ends_where_its_changes_of_tables_are_large_enough() {
        let engine = engine(Config {
            group_bytes: 1000,
            ..Config::default()
        });
        let put = |n: u32| {
            let change = Change::Put {
                table: Table::Cursors,
                key: Bytes::from(n.to_string()),
                value: Bytes::from(vec![0; 100]),
            };
            let (request, _) = request(Commit {
                changes: vec![change],
                ..Commit::default()
            });
            request
        };
        engine.write((0..100).map(put).collect());
        assert!(engine.writer.lock().sequence > 10);
    }
}
