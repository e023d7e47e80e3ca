//! A child.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::step;

/// How often what runs is looked after.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long it may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A child in a process group of its own, so that Ctrl-C reaches us alone and
/// we decide the order; ended when dropped.
pub(crate) struct Process {
    pub(crate) child: Child,
    name: String,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Process> {
        let name = format!(
            "eddy {}",
            command
                .get_args()
                .next()
                .unwrap_or_default()
                .to_string_lossy()
        );
        let child = command
            .process_group(0)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("could not start `{name}`"))?;
        Ok(Process { child, name })
    }

    /// Asks it to end and waits for it.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        }
        let begun = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(
                begun.elapsed() < STOP_LIMIT,
                "`{}` did not stop within {}",
                self.name,
                step::seconds(STOP_LIMIT)
            );
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
