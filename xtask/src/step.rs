//! Steps: what is being done, in words, and how long it took.
//!
//! Everything goes to standard error, so that it stays in order with what the
//! tools say there.

use std::env;
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The folder of the repository.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask
        .parent()
        .expect("xtask lies in the repository")
        .to_owned()
}

/// Where cargo builds: `target`, unless the environment says otherwise.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |folder| root().join(folder))
}

/// The cargo that runs this program, in the repository.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    if env::var_os("CARGO_TARGET_DIR").is_some() {
        // The build of the host looks for the page in the repository's own `target`.
        cargo.env("EDDY_WEB_DIR", target().join("web"));
    }
    cargo
}

/// Says what is being done, does it, and says how long it took.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(what);
    let begun = Instant::now();
    let done = work().with_context(|| format!("while doing this: {what}"))?;
    note(&format!("done in {}", seconds(begun.elapsed())));
    Ok(done)
}

/// Runs a command whose output goes where ours goes; its failure is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    note(&format!("$ {}", shown(command)));
    let status = command
        .status()
        .with_context(|| format!("could not start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", shown(command));
    }
    Ok(())
}

/// A headline.
pub(crate) fn say(what: &str) {
    let (bold, plain) = if stderr().is_terminal() {
        ("\x1b[1;36m", "\x1b[0m")
    } else {
        ("", "")
    };
    eprintln!("{bold}==> {what}{plain}");
}

/// A line below a headline.
pub(crate) fn note(what: &str) {
    eprintln!("    {what}");
}

/// The end, when it is not a good one.
pub(crate) fn failed(error: &anyhow::Error) {
    let (bold, plain) = if stderr().is_terminal() {
        ("\x1b[1;31m", "\x1b[0m")
    } else {
        ("", "")
    };
    eprintln!("{bold}==> FAILED{plain}: {error:#}");
}

/// A duration as people say it.
pub(crate) fn seconds(elapsed: Duration) -> String {
    let whole = elapsed.as_secs();
    if whole < 60 {
        format!("{:.1} s", elapsed.as_secs_f64())
    } else {
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

/// A command line without the folders of this machine in front of its program.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words
        .map(|word| quoted(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// A word as a shell wants it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_where_a_shell_would_break_them() {
        for (word, expected) in [
            ("a-b/c.wasm", "a-b/c.wasm"),
            ("where=mag >= 4.5", "'where=mag >= 4.5'"),
            ("", "''"),
            ("it's", r"'it'\''s'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }

    #[test]
    fn durations_past_a_minute_are_told_in_minutes() {
        assert_eq!(seconds(Duration::from_millis(1500)), "1.5 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 5 s");
    }
}
