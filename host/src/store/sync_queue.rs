//! What is in the journal and waits for a sync: records that will be visible, and
//! answers.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::journal;
use super::partition::Partition;
use super::request::Answer;
use crate::io::{Disk, File};

/// Groups between their write and their sync.
#[derive(Debug)]
pub(crate) struct SyncQueue {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    written: u64,
    synced: u64,
    waiting: BTreeMap<u64, Completion>,
    /// Files with groups that are not synced; the last one is written to.
    files: Vec<UnsyncedFile>,
    is_abandoned: bool,
}

/// A journal file that the next sync is for.
#[derive(Debug, Clone)]
struct UnsyncedFile {
    file: Arc<dyn File>,
    /// Whether its name may not be durable either.
    is_new: bool,
}

impl UnsyncedFile {
    fn is(&self, other: &UnsyncedFile) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }
}

/// What happens when a group is durable.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    pub(crate) partitions: Vec<Arc<Partition>>,
    pub(crate) answers: Vec<Answer>,
}

/// A sync to be made.
#[derive(Debug)]
pub(crate) struct SyncJob {
    files: Vec<UnsyncedFile>,
    through: u64,
}

impl SyncJob {
    /// Syncs; may take long, holds no lock.
    pub(crate) fn run(&self, disk: &dyn Disk) -> io::Result<()> {
        self.files
            .iter()
            .try_for_each(|file| file.file.sync_data())?;
        match self.files.iter().any(|file| file.is_new) {
            true => disk.sync_dir(journal::FOLDER),
            false => Ok(()),
        }
    }
}

impl SyncQueue {
    /// Nothing is waiting. What has been written after `synced` is in `files`, of
    /// which the last one is written to and whose names are durable.
    pub(crate) fn new(written: u64, synced: u64, files: Vec<Arc<dyn File>>) -> SyncQueue {
        let is_new = false;
        let files = files.into_iter();
        let state = State {
            written,
            synced,
            waiting: BTreeMap::new(),
            files: files.map(|file| UnsyncedFile { file, is_new }).collect(),
            is_abandoned: false,
        };
        SyncQueue {
            state: Mutex::new(state),
        }
    }

    pub(crate) fn synced(&self) -> u64 {
        self.state.lock().synced
    }

    /// Groups go to another file from now on, of which nothing is durable yet.
    pub(crate) fn rotate(&self, file: Arc<dyn File>) {
        let is_new = true;
        self.state.lock().files.push(UnsyncedFile { file, is_new });
    }

    /// Takes note of a group; returns what need not wait, how far the journal is
    /// synced, and the answers that will never be given.
    pub(crate) fn add(
        &self,
        sequence: u64,
        partitions: impl IntoIterator<Item = (u64, Arc<Partition>)>,
        answers: impl IntoIterator<Item = (u64, Answer)>,
    ) -> (Completion, u64, Vec<Answer>) {
        let mut state = self.state.lock();
        state.written = state.written.max(sequence);
        let mut now = Completion::default();
        for (needs, partition) in partitions {
            let completion = state.completion(needs).unwrap_or(&mut now);
            if completion
                .partitions
                .last()
                .is_none_or(|last| !Arc::ptr_eq(last, &partition))
            {
                completion.partitions.push(partition);
            }
        }
        for (needs, answer) in answers {
            state
                .completion(needs)
                .unwrap_or(&mut now)
                .answers
                .push(answer);
        }
        let refused = if state.is_abandoned {
            state.abandon()
        } else {
            Vec::new()
        };
        (now, state.synced, refused)
    }

    /// Whether somebody waits for a sync.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.state.lock().waiting.is_empty()
    }

    /// The sync that makes everything durable that is written by now.
    pub(crate) fn begin(&self) -> SyncJob {
        let state = self.state.lock();
        SyncJob {
            files: state.files.clone(),
            through: state.written,
        }
    }

    /// Takes note of a sync that succeeded; returns what waited for it.
    pub(crate) fn finish(&self, job: &SyncJob) -> (Completion, u64) {
        let mut state = self.state.lock();
        state.synced = state.synced.max(job.through);
        // All files but the last of the job are complete and synced.
        let done = job.files.len().saturating_sub(1);
        let complete = &job.files[..done];
        state
            .files
            .retain(|file| !complete.iter().any(|synced| synced.is(file)));
        for file in &mut state.files {
            file.is_new &= !job.files.iter().any(|synced| synced.is(file));
        }
        let later = state.synced + 1;
        let rest = state.waiting.split_off(&later);
        let durable = std::mem::replace(&mut state.waiting, rest);
        let mut all = Completion::default();
        for completion in durable.into_values() {
            all.partitions.extend(completion.partitions);
            all.answers.extend(completion.answers);
        }
        (all, state.synced)
    }

    /// Gives up on everything that waits, now and later.
    pub(crate) fn abandon(&self) -> Vec<Answer> {
        let mut state = self.state.lock();
        state.is_abandoned = true;
        state.abandon()
    }
}

impl State {
    fn abandon(&mut self) -> Vec<Answer> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting
            .into_values()
            .flat_map(|completion| completion.answers)
            .collect()
    }

    /// Where to wait for the group `needs`; `None` if it is synced.
    fn completion(&mut self, needs: u64) -> Option<&mut Completion> {
        (needs > self.synced).then(|| self.waiting.entry(needs).or_default())
    }
}
