//! Ctrl-C and the request to end.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Output;

/// Waits for SIGINT or SIGTERM, as often as asked.
pub(crate) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// From now on the signals no longer end the process by themselves.
    pub(crate) fn catch() -> io::Result<Interrupt> {
        Ok(Interrupt {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
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
        }
    }
}
