//! `cargo xtask test`: every check and every test there is, with no filter.
//!
//! The closing line adds up what the test programs themselves reported. An
//! ignored test counts as a failure: it is a test that nobody runs.

use std::io::{BufRead, BufReader, Write, stdout};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::build::{self, Profile};
use crate::{plugins, setup, step, web};

/// Runs it all; stops at the first check that fails.
pub(crate) fn run() -> Result<()> {
    let begun = Instant::now();
    setup::run()?;
    checks()?;
    web::run()?;
    plugins::run()?;
    specification()?;
    build::eddy(Profile::Debug)?;
    let (counts, outcome) = tests()?;
    step::say(&format!(
        "{} passed, {} failed ({})",
        counts.passed,
        counts.failed,
        step::seconds(begun.elapsed())
    ));
    outcome?;
    ensure!(counts.ignored == 0, "{} tests are ignored", counts.ignored);
    ensure!(counts.passed > 0, "no test ran");
    Ok(())
}

/// What can be said without running anything.
fn checks() -> Result<()> {
    step::step("checking the format", || {
        step::run(step::cargo().args(["fmt", "--all", "--check"]))
    })?;
    step::step("checking with clippy (warnings are errors)", || {
        step::run(step::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "--deny",
            "warnings",
        ]))
    })?;
    step::step("checking the fuzz targets", || {
        // They are no members of the workspace. Only to run them takes a nightly compiler.
        let mut cargo = step::cargo();
        cargo.args(["check", "--manifest-path", "fuzz/Cargo.toml"]);
        step::run(cargo.arg("--target-dir").arg(step::target().join("fuzz")))
    })?;
    step::step("checking the documentation (warnings are errors)", || {
        step::run(
            step::cargo()
                .args([
                    "doc",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                ])
                .env(
                    "RUSTDOCFLAGS",
                    "--deny warnings --allow rustdoc::private-intra-doc-links",
                ),
        )
    })
}

/// Another language's codec, written from the protocol's page alone. The tests
/// hold the page to the Rust one anyway, so that Python may be missing.
fn specification() -> Result<()> {
    step::step("checking the protocol's page from another language", || {
        let mut python = Command::new("python3");
        python.arg("--version").stdout(Stdio::null());
        if !python.status().is_ok_and(|status| status.success()) {
            step::note("left out: there is no python3 here");
            return Ok(());
        }
        step::run(
            Command::new("python3")
                .arg("protocol/spec-check.py")
                .current_dir(step::root()),
        )
    })
}

/// What `cargo test` reported, and whether it ended well.
fn tests() -> Result<(Counts, Result<()>)> {
    step::step("running the tests", || {
        let mut cargo = step::cargo();
        cargo.args(["test", "--workspace", "--no-fail-fast"]);
        cargo.env("EDDY_BIN", build::binary(Profile::Debug));
        cargo.env("EDDY_PLUGINS", step::target().join("plugins"));
        step::note("$ cargo test --workspace --no-fail-fast");
        let mut child = cargo
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start cargo")?;
        let output = child.stdout.take().context("cargo has no output")?;
        let counts = Counts::of(BufReader::new(output), stdout())?;
        let status = child.wait()?;
        let outcome = if status.success() {
            Ok(())
        } else {
            Err(anyhow::anyhow!("`cargo test` ended with {status}"))
        };
        Ok((counts, outcome))
    })
}

/// Sums over all test programs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Passes the lines on and adds up the results among them.
    fn of(lines: impl BufRead, mut out: impl Write) -> Result<Counts> {
        let mut counts = Counts::default();
        for line in lines.split(b'\n') {
            let line = line?;
            out.write_all(&line)?;
            out.write_all(b"\n")?;
            counts.add(&String::from_utf8_lossy(&line))?;
        }
        Ok(counts)
    }

    /// `test result: ok. 5 passed; 0 failed; 0 ignored; …`
    fn add(&mut self, line: &str) -> Result<()> {
        let Some((_, results)) = line
            .split_once("test result: ")
            .and_then(|(_, rest)| rest.split_once(". "))
        else {
            return Ok(());
        };
        let counted = |name: &str| {
            let part = results.split("; ").find_map(|part| part.strip_suffix(name));
            part.and_then(|count| count.trim().parse::<u64>().ok())
                .with_context(|| format!("no `{name}` in `{line}`"))
        };
        self.passed += counted(" passed")?;
        self.failed += counted(" failed")?;
        self.ignored += counted(" ignored")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::sink;

    use super::*;

    #[test]
    fn results_of_all_test_programs_are_added_up() {
        let output = b"running 2 tests\n..\n\
            test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n\
            test result: FAILED. 3 passed; 1 failed; 4 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        assert_eq!(
            Counts::of(&output[..], sink()).unwrap(),
            Counts {
                passed: 5,
                failed: 1,
                ignored: 4
            }
        );
    }

    #[test]
    fn a_result_line_that_is_not_understood_is_an_error() {
        assert!(Counts::of(&b"test result: ok. 2 passed; 7 skipped\n"[..], sink()).is_err());
    }
}
