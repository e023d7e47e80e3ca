//! The store's threads, and the handle that the broker holds.
//!
//! - **writer**: takes all requests that wait and writes them, as few groups
//! - **syncer**: syncs what is written while the writer writes on
//! - **applier**: moves what is visible into segments
//! - **keeper**: checkpoints, retention, deleted topics, a full disk
//!
//! A few records that find the writer idle are written by whoever brings them:
//! that saves them the way to another thread and back, which takes longer.
//!
//! A thread sleeps until somebody has work for it; only the keeper also looks
//! around twice a second, and the writer looks every millisecond whether the
//! applier, for which it must wait, has got on. A thread that panics ends the
//! store for commits, as the disk's failures do; it does not leave anybody waiting.

mod keeper;
mod queue;
mod threads;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use parking_lot::Mutex;
use tokio::sync::watch;

use self::queue::Queue;
use self::threads::{Threads, Workers};
use super::config::Config;
use super::core::Core;
use super::error::OpenError;
use super::recovery;
use super::request::Request;
use crate::io::{Clock, Disk};
/// A data folder in use. A clone is the same store.
///
/// Dropping the last clone without [`close`](crate::log::Log::close) is a crash: what was
/// acknowledged is there the next time, and recovery takes its time.
#[derive(Debug, Clone)]
pub struct Store {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    threads: Arc<Threads>,
    handles: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Opens the data folder on `disk`, recovering what a crash left. May take
    /// long: a second or two per gigabyte of journal.
    pub fn open(
        config: Config,
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
    ) -> Result<Store, OpenError> {
        let workers = Arc::new(Workers::default());
        let woken = workers.clone();
        let queue_bytes_max = config.queue_bytes_max;
        let core = recovery::open(
            config,
            disk,
            clock,
            Box::new(move |worker| woken.wake(worker)),
        )?;
        let threads = Arc::new(Threads {
            core,
            queue: Queue::new(queue_bytes_max),
            repairs: Mutex::new(Some(Vec::new())),
            workers,
            writer_is_done: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        });
        let handles = threads.start().map_err(|source| OpenError::Io {
            action: "start the threads of",
            path: "the store".to_owned(),
            source,
        })?;
        Ok(Store {
            handle: Arc::new(Handle {
                threads,
                handles: Mutex::new(handles),
            }),
        })
    }

    pub(super) fn core(&self) -> &Core {
        &self.handle.threads.core
    }

    /// Gives the threads something to do.
    pub(super) fn request(&self, request: Request) {
        self.handle.threads.submit(request);
    }

    pub(super) fn has_room(&self) -> bool {
        self.handle.threads.queue.has_room()
    }

    pub(super) async fn wait_for_room(&self) {
        self.handle.threads.queue.wait_for_room().await;
    }

    /// What was found at the start that an operator should know, such as a loss.
    pub fn notices(&self) -> &[String] {
        &self.core().notices
    }

    /// Refuses what comes from now on, answers everything that waits, syncs,
    /// makes a checkpoint and lets the data folder go.
    pub(super) async fn end(&self) {
        let mut closed = self.handle.threads.closed.subscribe();
        self.handle.threads.stop();
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if !self.threads.is_stopping.load(Ordering::Acquire) {
            self.threads.is_abandoned.store(true, Ordering::Release);
            self.threads.stop();
        }
        let me = thread::current().id();
        for thread in self.handles.lock().drain(..) {
            // A watcher may hold the last clone; its thread cannot wait for itself.
            if thread.thread().id() != me {
                // A thread that panicked has said so; there is nothing to add.
                drop(thread.join());
            }
        }
    }
}
