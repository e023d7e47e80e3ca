//! The commit path: requests become groups in the journal, groups become durable,
//! and what waited for that becomes visible and is answered.
//!
//! Locks, in the order in which they are taken: a running sync, the writer, the
//! applier's turn. None of them is held over a watcher's call.

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::io::{File, is_full};
use crate::log::{CommitError, Partition as _};
use crate::store::applier::Applier;
use crate::store::backlog::Backlog;
use crate::store::context::{Context, Worker};
use crate::store::draft::Draft;
use crate::store::journal::AppendError;
use crate::store::journal::group::{self, Header};
use crate::store::journal::next::NextFile;
use crate::store::partition::{Partition, Published};
use crate::store::producer::ProducerLimits;
use crate::store::request::{Answer, Request};
use crate::store::retention::DeletedTopic;
use crate::store::room::Room;
use crate::store::sync_queue::{Completion, SyncJob, SyncQueue};
use crate::store::writer::{Against, Writer};

/// How many times as much as triggers a checkpoint the journal may hold while none
/// can be made.
const JOURNAL_MAX: u64 = 8;

/// See the module.
pub(crate) struct Committer {
    pub(crate) context: Arc<Context>,
    pub(crate) applier: Arc<Applier>,
    pub(crate) writer: Mutex<Writer>,
    pub(crate) sync_queue: SyncQueue,
    syncing: Mutex<()>,
    pub(crate) backlog: Backlog,
    room: Room,
    next_file: NextFile,
    /// Topics whose files must go once their deletion is durable.
    pub(crate) deleted_topics: Mutex<Vec<DeletedTopic>>,
}

/// The journal as recovery left it.
pub(crate) struct Journaled {
    pub(crate) writer: Writer,
    pub(crate) boot: u64,
    /// The newest group that is synced.
    pub(crate) synced: u64,
    /// The journal's older files that hold groups behind it.
    pub(crate) unsynced: Vec<Arc<dyn File>>,
    /// What the last checkpoint does not cover.
    pub(crate) bytes: u64,
    pub(crate) deleted_topics: Vec<DeletedTopic>,
}

impl Committer {
    pub(crate) fn new(
        context: Arc<Context>,
        applier: Arc<Applier>,
        journaled: Journaled,
    ) -> Committer {
        let Journaled { writer, synced, .. } = journaled;
        let mut files = journaled.unsynced;
        files.push(writer.journal.file().clone());
        Committer {
            sync_queue: SyncQueue::new(writer.sequence, synced, files),
            next_file: NextFile::new(context.disk.clone(), context.salt, journaled.boot),
            context,
            applier,
            writer: Mutex::new(writer),
            syncing: Mutex::default(),
            backlog: Backlog::new(journaled.bytes),
            room: Room::default(),
            deleted_topics: Mutex::new(journaled.deleted_topics),
        }
    }
}

// From requests to the journal.
impl Committer {
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
            if is_alone || draft.bytes() >= self.context.config.group_bytes {
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
        let (context, config) = (&self.context, &self.context.config);
        let now_ms = context.clock.now_ms();
        match request {
            Request::Commit { commit, reply } => {
                let windows_max = config.producer_windows_max;
                let against = Against {
                    tables: &context.tables,
                    catalog: &context.catalog.topics,
                    now_ms,
                    claims: commit.claims,
                    limits: ProducerLimits {
                        partitions_max: config.producer_partitions_max,
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
                let is_crowded = writer.producers.windows() > config.producer_windows_max;
                if is_crowded || writer.producers.len() > config.producers_max / 10 * 11 {
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
        let config = &self.context.config;
        let expiry = i64::try_from(config.producer_expiry.as_millis()).unwrap_or(i64::MAX);
        let since_ms = now_ms.saturating_sub(expiry);
        let (most, windows_max) = (config.producers_max, config.producer_windows_max);
        let idle = writer.producers.idle(since_ms, most, windows_max);
        writer.draft_forget(draft, &idle);
    }

    fn accepts(&self, request: &Request) -> Result<(), CommitError> {
        if let Some(reason) = self.context.failure() {
            return Err(CommitError::StorageFailed(reason));
        }
        let Request::Commit { commit, .. } = request else {
            return Ok(());
        };
        if !commit.appends.is_empty() {
            self.applier.accepts()?;
        }
        let (bytes, bytes_max) = (request.bytes(), self.context.config.commit_bytes_max);
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
        self.take_effect(writer, draft);
    }

    fn write_group(&self, writer: &mut Writer, draft: &Draft) -> Result<(), CommitError> {
        let context = &self.context;
        if let Some(reason) = context.failure() {
            return Err(CommitError::StorageFailed(reason));
        }
        let bytes = draft.bytes();
        // What can make room may use the last of it: that is what it was left for.
        if !draft.makes_room() {
            self.check_backlog()?;
            if !self.has_room(bytes) {
                return Err(self.room.refuse(bytes, context));
            }
        }
        if writer.journal.bytes() > context.config.journal_file_bytes {
            self.rotate(writer)?;
        }
        let header = Header {
            salt: context.salt,
            sequence: writer.sequence + 1,
            synced_through: self.sync_queue.synced(),
            time_ms: context.clock.now_ms(),
            records_before: writer.records,
            changes_before: writer.changes,
            payload_bytes: draft.payload_bytes,
            directory_bytes: draft.directory_bytes()?,
            operations: draft.operations,
            needs: 0,
        };
        let frame = group::encode(&header, &draft.directory);
        match writer.journal.append(&frame, &draft.payload) {
            Ok(bytes) => {
                let total = self.backlog.add(bytes);
                context.meters.group(bytes, total);
                if total >= context.config.checkpoint_bytes {
                    (context.wake)(Worker::Keeper);
                }
            }
            Err(error) => return Err(self.not_written("write the journal", error, bytes)),
        }
        self.room.written(bytes, context);
        writer.sequence += 1;
        writer.records += draft.records();
        writer.changes += draft.changes();
        Ok(())
    }

    fn not_written(&self, action: &str, error: AppendError, bytes: u64) -> CommitError {
        match error {
            AppendError::Refused(error) if is_full(&error) => {
                self.room.refuse(bytes, &self.context)
            }
            AppendError::Refused(error) | AppendError::Torn(error) => {
                CommitError::StorageFailed(self.fail(action, &error))
            }
        }
    }

    /// While no checkpoint can be made, the journal must not grow for ever.
    pub(crate) fn check_backlog(&self) -> Result<(), CommitError> {
        let bytes_max = self.context.config.checkpoint_bytes;
        let bytes_max = bytes_max.saturating_mul(JOURNAL_MAX);
        if self.backlog.is_stuck_above(bytes_max) {
            (self.context.wake)(Worker::Keeper);
            return Err(CommitError::JournalFull { bytes_max });
        }
        Ok(())
    }

    /// Begins another journal file, unless this one has no group yet.
    pub(crate) fn rotate(&self, writer: &mut Writer) -> Result<(), CommitError> {
        if writer.journal.is_empty() {
            return Ok(());
        }
        let begun = self.next_file.begin(writer.sequence + 1);
        (self.context.wake)(Worker::Keeper);
        let begun = begun.map_err(|error| self.not_written("begin a journal file", error, 0))?;
        if let Some(journal) = begun {
            self.sync_queue.rotate(journal.file().clone());
            writer.journal = journal;
        }
        Ok(())
    }

    /// Makes a written draft count.
    fn take_effect(&self, writer: &mut Writer, mut draft: Draft) {
        let context = &self.context;
        context.tables.apply(std::mem::take(&mut draft.table));
        if !draft.states.is_empty() {
            draft
                .states
                .drain(..)
                .for_each(|change| context.states.push(change));
            (context.wake)(Worker::Applier);
        }
        let mut created = Vec::new();
        for operation in std::mem::take(&mut draft.catalog) {
            created.extend(self.change_catalog(writer, operation));
        }
        if let Some((_, Answer::Commit(_, committed))) = draft.answers.first_mut() {
            committed.created = created;
        }
        let now_ms = context.clock.now_ms();
        let mut partitions = Vec::with_capacity(draft.pushes.len());
        for push in draft.pushes {
            self.applier.expect(push.batch.len() as u64);
            writer
                .touched
                .entry(push.key)
                .or_insert_with(|| push.partition.clone());
            push.partition.push(push.needs, push.batch, now_ms);
            partitions.push((push.needs, push.partition));
        }
        let (now, synced, refused) =
            self.sync_queue
                .add(writer.sequence, partitions, draft.answers);
        self.complete(now, synced);
        if let Some(reason) = context.failure() {
            refuse(refused, &reason);
        }
        if self.sync_queue.is_waiting() {
            (context.wake)(Worker::Syncer);
        }
    }
}

// From the journal to the readers.
impl Committer {
    /// Syncs what is written, if somebody waits for it.
    pub(crate) fn sync(&self) {
        let _alone = self.syncing.lock();
        if self.sync_queue.is_waiting() {
            self.sync_now();
        }
    }

    /// Syncs what is written and returns how far that is.
    pub(crate) fn sync_all(&self) -> Result<u64, Arc<str>> {
        let _alone = self.syncing.lock();
        self.sync_now();
        match self.context.failure() {
            Some(reason) => Err(reason),
            None => Ok(self.sync_queue.synced()),
        }
    }

    fn sync_now(&self) {
        let job = self.sync_queue.begin();
        let begin = Instant::now();
        let result = job.run(&*self.context.disk);
        if result.is_ok() {
            self.context.meters.synced(begin);
        }
        self.finish_sync(&job, result);
    }

    /// Ends a sync that was begun with [`SyncQueue::begin`].
    pub(crate) fn finish_sync(&self, job: &SyncJob, result: io::Result<()>) {
        if self.context.failure().is_some() {
            return;
        }
        if let Err(error) = result {
            self.fail("sync the journal", &error);
            return;
        }
        let before = self.sync_queue.synced();
        let (completion, synced) = self.sync_queue.finish(job);
        self.complete(completion, synced);
        let is_ready = |it: &DeletedTopic| before < it.sequence && it.sequence <= synced;
        if self.deleted_topics.lock().iter().any(is_ready) {
            (self.context.wake)(Worker::Keeper);
        }
    }

    /// Makes records visible, gives the answers, then tells who watches the partitions: whoever
    /// waits for a commit must not wait for its readers to be woken.
    fn complete(&self, completion: Completion, synced: u64) {
        self.context.meters.completed(&completion);
        let mut changed = Vec::new();
        for partition in &completion.partitions {
            let published = partition.publish(synced);
            if published.must_queue {
                self.applier.queue(partition.clone());
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
        for answer in completion.answers {
            answer.give();
        }
        changed.into_iter().for_each(|it| it.changed());
    }
}

// What stands in the way of commits.
impl Committer {
    /// Ends the store for commits; reads go on.
    pub(crate) fn fail(&self, action: &str, error: &dyn Display) -> Arc<str> {
        let (reason, is_new) = self.context.set_failed(action, error);
        if is_new {
            refuse(self.sync_queue.abandon(), &reason);
        }
        reason
    }

    fn has_room(&self, bytes: u64) -> bool {
        let unapplied = self.applier.unapplied_bytes();
        self.room.has(bytes, unapplied, &self.context)
    }

    /// Looks whether commits will be refused, before the first one is.
    pub(crate) fn look_whether_full(&self) {
        if !self.has_room(0) {
            let _refused = self.room.refuse(0, &self.context);
        }
        // The first commit looks again.
        self.room.forget();
    }

    /// Looks whether there is room again.
    pub(crate) fn look_for_room(&self) {
        let unapplied = self.applier.unapplied_bytes();
        self.room.look(unapplied, &self.context);
    }

    /// Whether something could not be written for lack of room.
    pub(crate) fn is_full(&self) -> bool {
        self.room.is_full() || self.applier.is_full()
    }

    /// Whether a commit now waits for nothing but its own write.
    pub(crate) fn is_free(&self) -> bool {
        self.applier.is_ahead() && self.next_file.is_ready()
    }

    /// Makes the next journal file ahead.
    pub(crate) fn prepare_next_file(&self) {
        if self.context.failure().is_none() && !self.is_full() {
            self.next_file.prepare();
        }
    }

    /// Has the next checkpoint look at a partition.
    pub(crate) fn touch(&self, partition: &Arc<Partition>) {
        let mut writer = self.writer.lock();
        writer.touched.insert(partition.key(), partition.clone());
    }
}

fn refuse(answers: Vec<Answer>, reason: &Arc<str>) {
    for answer in answers {
        answer.refuse(CommitError::StorageFailed(reason.clone()));
    }
}
