//! Reads lines from a file or standard input on a thread of its own and hands
//! them over many at a time, so that memory stays bounded however long the
//! input is, and a read that never returns holds nothing else up.
//!
//! A line ends with a line feed, which is not part of it; all other bytes are,
//! a carriage return too. A last line without a line feed counts.

use std::io::{self, Read};
use std::thread;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

/// How much is read at once.
const CHUNK_BYTES: usize = 256 << 10;
/// How many chunks may wait for the reader of lines.
const CHUNKS_WAITING: usize = 4;

/// Why the input ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinesError {
    /// The operating system's word.
    #[error("cannot read {input}: {error}")]
    Read {
        /// A path, or "standard input".
        input: String,
        /// Why.
        error: io::Error,
    },
    /// A record can't be so long.
    #[error(
        "line {line} is longer than {limit} bytes, and so than any record that the broker takes"
    )]
    TooLong {
        /// From 1.
        line: u64,
        /// In bytes.
        limit: usize,
    },
}

/// Whole lines that were read together.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Lines, each with its line feed; the last line of the input may have none.
    bytes: Bytes,
    /// The number of the first of them, from 1.
    first_line: u64,
}

impl Chunk {
    /// The lines with their numbers.
    pub(super) fn lines(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let text = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        (self.first_line..).zip(text.split(|byte| *byte == b'\n'))
    }

    /// How much of the input this is.
    pub(super) fn input_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

/// Starts the reading thread. It ends with the input, with an error, or when
/// the receiver is dropped.
pub(super) fn read(
    input: impl Read + Send + 'static,
    name: String,
    line_bytes_max: usize,
) -> io::Result<mpsc::Receiver<Result<Chunk, LinesError>>> {
    let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
    let mut splitter = Splitter {
        rest: BytesMut::new(),
        next_line: 1,
        line_bytes_max,
    };
    thread::Builder::new().name("lines".into()).spawn(move || {
        let failed = splitter.run(input, &name, &sender).err();
        if let Some(error) = failed {
            // Nobody listens any more: then nobody misses it.
            drop(sender.blocking_send(Err(error)));
        }
    })?;
    Ok(receiver)
}

struct Splitter {
    /// The beginning of a line whose end was not read yet.
    rest: BytesMut,
    next_line: u64,
    line_bytes_max: usize,
}

impl Splitter {
    fn run(
        &mut self,
        mut input: impl Read,
        name: &str,
        sender: &mpsc::Sender<Result<Chunk, LinesError>>,
    ) -> Result<(), LinesError> {
        loop {
            let held = self.rest.len();
            self.rest.resize(held + CHUNK_BYTES, 0);
            let read = read_some(&mut input, &mut self.rest[held..]).map_err(|error| {
                LinesError::Read {
                    input: name.into(),
                    error,
                }
            })?;
            self.rest.truncate(held + read);
            let (chunk, error) = if read == 0 {
                (self.last()?, None)
            } else {
                self.whole_lines(held)
            };
            if let Some(chunk) = chunk
                && sender.blocking_send(Ok(chunk)).is_err()
            {
                return Ok(());
            }
            if let Some(error) = error {
                return Err(error);
            }
            if read == 0 {
                return Ok(());
            }
        }
    }

    /// Cuts off what ends with a line feed; nothing before `searched` has one.
    /// What stands before a line that is too long is cut off all the same.
    fn whole_lines(&mut self, searched: usize) -> (Option<Chunk>, Option<LinesError>) {
        let Some(at) = self.rest[searched..]
            .iter()
            .rposition(|byte| *byte == b'\n')
        else {
            let is_too_long = self.rest.len() > self.line_bytes_max;
            return (None, is_too_long.then(|| self.too_long()));
        };
        let mut bytes = self.rest.split_to(searched + at + 1).freeze();
        let (mut lines, mut end, mut is_too_long) = (0, 0, false);
        for line in bytes[..bytes.len() - 1].split(|byte| *byte == b'\n') {
            if line.len() > self.line_bytes_max {
                is_too_long = true;
                break;
            }
            lines += 1;
            end += line.len() + 1;
        }
        bytes.truncate(end);
        let chunk = Chunk {
            bytes,
            first_line: self.next_line,
        };
        self.next_line += lines;
        (
            (lines > 0).then_some(chunk),
            is_too_long.then(|| self.too_long()),
        )
    }

    fn last(&mut self) -> Result<Option<Chunk>, LinesError> {
        if self.rest.len() > self.line_bytes_max {
            return Err(self.too_long());
        }
        let bytes = self.rest.split().freeze();
        Ok((!bytes.is_empty()).then_some(Chunk {
            bytes,
            first_line: self.next_line,
        }))
    }

    fn too_long(&self) -> LinesError {
        LinesError::TooLong {
            line: self.next_line,
            limit: self.line_bytes_max,
        }
    }
}

fn read_some(input: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives a few bytes at a time, as a pipe may.
    struct Drip(&'static [u8], usize);

    impl Read for Drip {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            let (now, later) = self.0.split_at(count);
            into[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    fn lines_of(
        input: impl Read + Send + 'static,
        limit: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, LinesError> {
        let mut receiver = read(input, "the test".into(), limit).expect("a thread");
        let mut lines = Vec::new();
        while let Some(chunk) = receiver.blocking_recv() {
            lines.extend(chunk?.lines().map(|(number, line)| (number, line.to_vec())));
        }
        Ok(lines)
    }

    #[test]
    fn lines_are_the_same_however_the_input_arrives() {
        let input = b"one\n\ntwo\r\n\xff\x00\nlast";
        let expected: Vec<(u64, Vec<u8>)> = (1..)
            .zip([&b"one"[..], b"", b"two\r", b"\xff\x00", b"last"].map(<[u8]>::to_vec))
            .collect();
        for step in [1, 2, 3, 100] {
            assert_eq!(
                lines_of(Drip(input, step), 100).expect("lines"),
                expected,
                "{step} bytes a read"
            );
        }
    }

    #[test]
    fn a_last_line_feed_begins_no_line() {
        assert_eq!(
            lines_of(&b"one\n"[..], 9).expect("lines"),
            [(1, b"one".to_vec())]
        );
        assert_eq!(lines_of(&b"\n"[..], 9).expect("lines"), [(1, b"".to_vec())]);
        assert_eq!(lines_of(&b""[..], 9).expect("lines"), []);
    }

    #[test]
    fn a_line_over_the_limit_is_named_by_its_number() {
        for step in [1, 1000] {
            let error = lines_of(Drip(b"one\ntwo\nthree\nfour\n", step), 4)
                .expect_err("line 3 is too long");
            assert!(
                matches!(error, LinesError::TooLong { line: 3, limit: 4 }),
                "{error}"
            );
        }
        let mut receiver = read(&b"one\ntwo\nthree\n"[..], "the test".into(), 4).expect("a thread");
        let good = receiver.blocking_recv().expect("a chunk").expect("lines");
        assert_eq!(
            good.lines().collect::<Vec<_>>(),
            [(1, &b"one"[..]), (2, b"two")],
            "what stands before it counts"
        );
        let endless = io::repeat(b'x');
        assert!(matches!(
            lines_of(&b"short\nlonger"[..], 5),
            Err(LinesError::TooLong { line: 2, .. })
        ));
        assert!(matches!(
            lines_of(endless, 1 << 20),
            Err(LinesError::TooLong { line: 1, .. })
        ));
    }
}
