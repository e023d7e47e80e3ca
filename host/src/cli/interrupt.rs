//! Ctrl-C, the request to end, and a terminal that is closed.

use std::{fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Output;

/// Waits for SIGINT, SIGTERM or SIGHUP, as often as asked.
pub(crate) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
    /// None under `nohup`, which wants the process to go on.
    hang_up: Option<Signal>,
}

impl Interrupt {
    /// From now on the signals no longer end the process by themselves.
    pub(crate) fn catch() -> io::Result<Interrupt> {
        Ok(Interrupt {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: match is_hang_up_ignored() {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// From now on a limit on the size of files (`ulimit -f`) is an error of the write, as a full
    /// disk is, and does not end the process.
    pub(crate) fn survive_file_limit() -> io::Result<()> {
        let too_large = rustix::process::Signal::XFSZ.as_raw();
        // Whoever handles a signal is not ended by it, and the handler stays.
        signal(SignalKind::from_raw(too_large)).map(drop)
    }

    /// From now on the second signal ends the process, whatever it is doing.
    pub(crate) fn end_at_second(output: &Output) -> io::Result<()> {
        let mut interrupt = Interrupt::catch()?;
        let output = *output;
        tokio::spawn(async move {
            interrupt.next().await;
            interrupt.next().await;
            output.note("ended at the second signal, without waiting");
            std::process::exit(130);
        });
        Ok(())
    }

    /// The next signal. Dropping the future loses none.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = received(&mut self.hang_up) => {}
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether whoever started the process wants SIGHUP to be ignored; as far as
/// the system tells.
fn is_hang_up_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // SIGHUP is the first signal.
    ignored.is_some_and(|mask| mask & 1 == 1)
}
