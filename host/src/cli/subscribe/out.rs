//! Standard output, buffered, and whether anybody still reads it.

use std::io::{self, BufWriter, Stdout, Write};
use std::os::fd::AsFd;

use rustix::fs::{FileType, fstat};
use tokio::io::Interest;
use tokio::net::unix::pipe;

/// Many records in one write.
const BUFFER_BYTES: usize = 64 << 10;

/// See the module.
pub(super) struct Out {
    writer: BufWriter<Stdout>,
    /// Only for a pipe: a file or a terminal is never closed at its other end.
    pipe: Option<pipe::Sender>,
}

impl Out {
    /// Must be called within a runtime.
    pub(super) fn new() -> io::Result<Out> {
        let writer = BufWriter::with_capacity(BUFFER_BYTES, io::stdout());
        let status = fstat(io::stdout())?;
        let pipe = match FileType::from_raw_mode(status.st_mode) {
            // Unchecked, because the check would make the pipe non-blocking, for its writer too.
            FileType::Fifo => {
                let copy = io::stdout().as_fd().try_clone_to_owned()?;
                Some(pipe::Sender::from_owned_fd_unchecked(copy)?)
            }
            _ => None,
        };
        Ok(Out { writer, pipe })
    }

    /// Resolves once the reader of a pipe has gone, so that `eddy sub | head`
    /// ends without waiting for one more record.
    pub(super) async fn closed(&self) {
        match &self.pipe {
            // An error of the watch itself says nothing about the reader.
            Some(pipe) => match pipe.ready(Interest::ERROR).await {
                Ok(_) => {}
                Err(_) => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
