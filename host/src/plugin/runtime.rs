//! The threads that plugins run on: their own, and behind everybody else's when processors are short.

use std::future::Future;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use super::PluginError;

/// How far behind other threads plugins stand when processors are short (`nice`).
const NICENESS: i32 = 10;

/// A runtime of its own. Dropping it waits for nothing, so it may be dropped anywhere.
pub(super) struct PluginThreads(Option<Runtime>);

impl PluginThreads {
    pub(super) fn start(threads: usize) -> Result<Self, PluginError> {
        let mut builder = Builder::new_multi_thread();
        if threads > 0 {
            builder.worker_threads(threads);
        }
        let runtime = builder
            .thread_name("eddy-plugin")
            .on_thread_start(step_back)
            .enable_time()
            .build()
            .map_err(|error| PluginError::Internal(format!("no threads for plugins: {error}")))?;
        Ok(Self(Some(runtime)))
    }

    /// How many threads run plugins.
    pub(super) fn count(&self) -> usize {
        self.handle().metrics().num_workers()
    }

    pub(super) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.handle().spawn(future)
    }

    pub(super) fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        self.handle().spawn_blocking(work)
    }

    fn handle(&self) -> &Handle {
        self.0.as_ref().expect("taken only when dropped").handle()
    }
}

impl Drop for PluginThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// On Linux a thread has its own niceness; elsewhere it may belong to the process, which isn't ours to slow.
fn step_back() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "plugin threads keep their priority");
    }
}
