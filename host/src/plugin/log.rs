//! What an instance has to say, at the rate that it may say it: its lines in the broker's log, and the
//! last thing it wrote to standard error, which is where Rust's panics go.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use super::bindings::eddy::plugin::log::{Host, Level};
use super::bindings::eddy::plugin::types;
use super::instance::Inside;
use super::words;

/// How much of a line is kept.
const LINE_BYTES_MAX: usize = 1024;
/// How much of standard error is kept for the reason of a trap.
const LAST_WORDS_BYTES_MAX: usize = 512;
/// How much a stream takes in one write.
const WRITE_BYTES_MAX: usize = 64 * 1024;

/// The log of one instance.
#[derive(Debug)]
pub(super) struct InstanceLog {
    deployment: String,
    partition: u32,
    lines_per_second_max: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    second_began: Instant,
    lines: u32,
    dropped: u64,
    last_words: VecDeque<u8>,
}

impl InstanceLog {
    pub(super) fn new(deployment: &str, partition: u32, lines_per_second_max: u32) -> Self {
        let state = State {
            second_began: Instant::now(),
            lines: 0,
            dropped: 0,
            last_words: VecDeque::new(),
        };
        Self {
            deployment: deployment.into(),
            partition,
            lines_per_second_max,
            state: state.into(),
        }
    }

    pub(super) fn write(&self, level: Level, line: &str) {
        // What nobody sees takes nothing of what may be written.
        if !is_seen(level) {
            return;
        }
        let Some(dropped) = self.admit(Instant::now()) else {
            return;
        };
        let (deployment, partition) = (self.deployment.as_str(), self.partition);
        if dropped > 0 {
            tracing::warn!(
                deployment,
                partition,
                "{dropped} lines of the plugin were dropped"
            );
        }
        let line = words::printable(cut(line.trim_end(), LINE_BYTES_MAX));
        match level {
            Level::Debug => tracing::debug!(deployment, partition, "{line}"),
            Level::Info => tracing::info!(deployment, partition, "{line}"),
            Level::Warn => tracing::warn!(deployment, partition, "{line}"),
            Level::Error => tracing::error!(deployment, partition, "{line}"),
        }
    }

    /// Whether a line may be written now and, if so, how many could not since the last one.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock();
        if now.duration_since(state.second_began) >= Duration::from_secs(1) {
            state.second_began = now;
            state.lines = 0;
        }
        if state.lines >= self.lines_per_second_max {
            state.dropped += 1;
            return None;
        }
        state.lines += 1;
        Some(std::mem::take(&mut state.dropped))
    }

    /// The end of what the instance wrote to standard error.
    pub(super) fn last_words(&self) -> String {
        let mut state = self.state.lock();
        let text = String::from_utf8_lossy(state.last_words.make_contiguous())
            .trim()
            .replace('\n', " ");
        words::message(&text)
    }

    fn heard(&self, bytes: &[u8]) {
        let last_words = &mut self.state.lock().last_words;
        last_words.extend(&bytes[bytes.len().saturating_sub(LAST_WORDS_BYTES_MAX)..]);
        let surplus = last_words.len().saturating_sub(LAST_WORDS_BYTES_MAX);
        last_words.drain(..surplus);
    }
}

fn is_seen(level: Level) -> bool {
    match level {
        Level::Debug => tracing::enabled!(tracing::Level::DEBUG),
        Level::Info => tracing::enabled!(tracing::Level::INFO),
        Level::Warn => tracing::enabled!(tracing::Level::WARN),
        Level::Error => tracing::enabled!(tracing::Level::ERROR),
    }
}

/// The line, or as many of its characters as fit.
fn cut(line: &str, bytes_max: usize) -> &str {
    &line[..line.floor_char_boundary(bytes_max)]
}

impl Host for Inside {
    fn write(&mut self, level: Level, line: String) {
        self.charge(line.len());
        self.log.write(level, &line);
    }
}

impl types::Host for Inside {}

/// Which of a program's two streams.
#[derive(Clone, Copy)]
pub(super) enum StdKind {
    /// Standard output: lines for the log, of use to the author.
    Out,
    /// Standard error: the same, and kept for the reason of a trap.
    Err,
}

/// Standard output or standard error of an instance.
#[derive(Clone)]
pub(super) struct StdStream(pub(super) StdKind, pub(super) Arc<InstanceLog>);

impl IsTerminal for StdStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for StdStream {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for StdStream {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        if matches!(self.0, StdKind::Err) {
            self.1.heard(&bytes);
        }
        let kept = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
        self.1.write(Level::Debug, &String::from_utf8_lossy(kept));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[async_trait]
impl Pollable for StdStream {
    async fn ready(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted_and_a_new_second_starts_afresh() {
        let log = InstanceLog::new("d", 0, 2);
        let now = Instant::now();
        assert_eq!(log.admit(now), Some(0));
        assert_eq!(log.admit(now), Some(0));
        assert_eq!(log.admit(now), None);
        assert_eq!(log.admit(now), None);
        let later = now + Duration::from_secs(2);
        assert_eq!(log.admit(later), Some(2));
        assert_eq!(log.admit(later), Some(0));
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(cut("short", 10), "short");
        assert_eq!(cut("ééé", 3), "é");
    }

    #[test]
    fn only_the_end_of_standard_error_is_kept() {
        let log = InstanceLog::new("d", 0, 0);
        for _ in 0..1000 {
            log.heard(b"noise ");
        }
        log.heard(b"panicked at\nthe disco\n");
        let words = log.last_words();
        assert!(words.ends_with("noise panicked at the disco"), "{words}");
        assert!(words.len() <= LAST_WORDS_BYTES_MAX);
    }
}
