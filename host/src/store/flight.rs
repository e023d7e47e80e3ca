//! What is in the journal and waits for a sync: publications and answers.

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
pub(crate) struct Flight {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    written: u64,
    synced: u64,
    waiting: BTreeMap<u64, Landing>,
    /// Files with groups that are not synced; the last one is written to.
    files: Vec<Unsynced>,
    is_abandoned: bool,
}

/// A journal file that the next sync is for.
#[derive(Debug, Clone)]
struct Unsynced {
    file: Arc<dyn File>,
    /// Whether its name may not be durable either.
    is_new: bool,
}

impl Unsynced {
    fn is(&self, other: &Unsynced) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
    }
}

/// What happens when a group is durable.
#[derive(Debug, Default)]
pub(crate) struct Landing {
    pub(crate) partitions: Vec<Arc<Partition>>,
    pub(crate) answers: Vec<Answer>,
}

/// A sync to be made.
#[derive(Debug)]
pub(crate) struct Job {
    files: Vec<Unsynced>,
    through: u64,
}

impl Job {
    /// Syncs; may take long, holds no lock.
    pub(crate) fn run(&self, disk: &dyn Disk) -> io::Result<()> {
        self.files
            .iter()
            .try_for_each(|unsynced| unsynced.file.sync_data())?;
        match self.files.iter().any(|unsynced| unsynced.is_new) {
            true => disk.sync_dir(journal::FOLDER),
            false => Ok(()),
        }
    }
}

impl Flight {
    /// Nothing is waiting. What has been written after `synced` is in `files`, of
    /// which the last one is written to and whose names are durable.
    pub(crate) fn new(written: u64, synced: u64, files: Vec<Arc<dyn File>>) -> Flight {
        let is_new = false;
        let files = files.into_iter();
        let state = State {
            written,
            synced,
            waiting: BTreeMap::new(),
            files: files.map(|file| Unsynced { file, is_new }).collect(),
            is_abandoned: false,
        };
        Flight {
            state: Mutex::new(state),
        }
    }

    pub(crate) fn synced(&self) -> u64 {
        self.state.lock().synced
    }

    /// Groups go to another file from now on, of which nothing is durable yet.
    pub(crate) fn rotate(&self, file: Arc<dyn File>) {
        let is_new = true;
        self.state.lock().files.push(Unsynced { file, is_new });
    }

    /// Takes note of a group; returns what need not wait, how far the journal is
    /// synced, and the answers that will never be given.
    pub(crate) fn add(
        &self,
        sequence: u64,
        partitions: impl IntoIterator<Item = (u64, Arc<Partition>)>,
        answers: impl IntoIterator<Item = (u64, Answer)>,
    ) -> (Landing, u64, Vec<Answer>) {
        let mut state = self.state.lock();
        state.written = state.written.max(sequence);
        let mut now = Landing::default();
        for (needs, partition) in partitions {
            let landing = state.landing(needs).unwrap_or(&mut now);
            if landing
                .partitions
                .last()
                .is_none_or(|last| !Arc::ptr_eq(last, &partition))
            {
                landing.partitions.push(partition);
            }
        }
        for (needs, answer) in answers {
            state
                .landing(needs)
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
    pub(crate) fn begin(&self) -> Job {
        let state = self.state.lock();
        Job {
            files: state.files.clone(),
            through: state.written,
        }
    }

    /// Takes note of a sync that succeeded; returns what waited for it.
    pub(crate) fn finish(&self, job: &Job) -> (Landing, u64) {
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
        let landed = std::mem::replace(&mut state.waiting, rest);
        let mut all = Landing::default();
        for landing in landed.into_values() {
            all.partitions.extend(landing.partitions);
            all.answers.extend(landing.answers);
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
            .flat_map(|landing| landing.answers)
            .collect()
    }

    /// Where to wait for the group `needs`; `None` if it is synced.
    fn landing(&mut self, needs: u64) -> Option<&mut Landing> {
        (needs > self.synced).then(|| self.waiting.entry(needs).or_default())
    }
}
