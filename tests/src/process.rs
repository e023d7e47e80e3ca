//! A child process whose output is kept line by line and can be waited for.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{LIMIT, wait_until};

/// A running command; killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Process {
    /// Starts the command without input.
    pub fn start(command: &mut Command) -> Process {
        Process::start_with_input(command, None)
    }

    /// Starts the command; `input` is written to it and then ends.
    pub fn start_with_input(command: &mut Command, input: Option<Vec<u8>>) -> Process {
        let name = format!("{command:?}");
        let stdin = if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let spawned = command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("could not start {name}: {error}"));
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            // The command may end without reading all of it.
            thread::spawn(move || pipe.write_all(&input).unwrap_or_default());
        }
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers = vec![
            stdout.read(child.stdout.take()),
            stderr.read(child.stderr.take()),
        ];
        Process {
            name,
            child,
            stdout,
            stderr,
            readers,
        }
    }

    /// The number that the system knows it by.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> &Lines {
        &self.stdout
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> &Lines {
        &self.stderr
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// The exit code if it has ended, none in it if a signal ended it.
    #[allow(clippy::option_option, reason = "whether, and then how")]
    pub fn ended(&mut self) -> Option<Option<i32>> {
        self.child
            .try_wait()
            .expect("it is our child")
            .map(|status| status.code())
    }

    /// Ends it without asking, as a power cut would, and returns once it is gone.
    pub fn kill9(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM); does not wait.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// What Ctrl-C does (SIGINT); does not wait.
    pub fn interrupt(&mut self) {
        self.signal(Signal::INT);
    }

    /// What a terminal that is closed does (SIGHUP); does not wait.
    pub fn hang_up(&mut self) {
        self.signal(Signal::HUP);
    }

    fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            kill_process(Pid::from_child(&self.child), signal).expect("it runs and it is ours");
        }
    }

    /// Waits for its end and for the last of its output.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Finished {
        let (name, stderr) = (self.name.clone(), self.stderr.clone());
        let begun = Instant::now();
        let code = wait_until(limit + LIMIT, "the limit panics before", || {
            assert!(
                begun.elapsed() < limit,
                "{name} did not end within {limit:?}; it said:\n{}",
                stderr.text()
            );
            self.ended()
        });
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
        Finished {
            code,
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
    }
}

impl Finished {
    /// Panics unless the command was successful; gives its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code,
            Some(0),
            "the command failed; it said:\n{}{}",
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// The same, read as JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }
}

/// Lines as they come in. Cheap to clone; all clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Lines(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Lines {
    /// Adds a line.
    pub fn push(&self, line: String) {
        self.lock().push(line);
        self.0.1.notify_all();
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// All of them as one text.
    pub fn text(&self) -> String {
        self.lock().iter().map(|line| format!("{line}\n")).collect()
    }

    /// Waits for a line that holds `part`, among those from number `first` on.
    #[track_caller]
    pub fn wait_for(&self, part: &str, first: usize) -> String {
        let found = self.find(LIMIT, first, |line| line.contains(part));
        found.unwrap_or_else(|| {
            panic!(
                "waited {LIMIT:?} in vain for a line with `{part}` in:\n{}",
                self.text()
            )
        })
    }

    /// Waits until there are at least so many lines.
    #[track_caller]
    pub fn wait_for_count(&self, count: usize, limit: Duration) {
        let Some(last) = count.checked_sub(1) else {
            return;
        };
        assert!(
            self.find(limit, last, |_| true).is_some(),
            "waited {limit:?} in vain for {count} lines, there are {}",
            self.count()
        );
    }

    fn find(
        &self,
        limit: Duration,
        mut first: usize,
        matches: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let begun = Instant::now();
        let mut lines = self.lock();
        loop {
            if let Some(line) = lines.iter().skip(first).find(|line| matches(line)) {
                return Some(line.clone());
            }
            first = first.max(lines.len());
            let left = limit.checked_sub(begun.elapsed())?;
            lines = self
                .0
                .1
                .wait_timeout(lines, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, pipe: Option<impl Read + Send + 'static>) -> JoinHandle<()> {
        let lines = self.clone();
        let pipe = pipe.expect("the command was started with pipes");
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n') {
                let Ok(line) = line else { return };
                lines.push(String::from_utf8_lossy(&line).into_owned());
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_goes_in_and_both_outputs_come_out_with_the_code() {
        let mut command = Command::new("sh");
        let process = Process::start_with_input(
            command.args(["-c", "cat; echo note >&2; exit 3"]),
            Some(b"a\nb".to_vec()),
        );
        let finished = process.wait(LIMIT);
        assert_eq!(
            (
                finished.code,
                finished.stdout.as_str(),
                finished.stderr.as_str()
            ),
            (Some(3), "a\nb\n", "note\n")
        );
    }

    #[test]
    fn a_line_is_found_when_it_comes_and_not_among_older_ones() {
        let lines = Lines::default();
        lines.push("ready once".into());
        let writer = lines.clone();
        thread::spawn(move || writer.push("ready twice".into()));
        assert_eq!(lines.wait_for("ready", 1), "ready twice");
        assert_eq!(lines.wait_for("ready", 0), "ready once");
    }
}
