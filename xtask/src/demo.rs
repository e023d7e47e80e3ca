//! `cargo xtask demo`: the whole system on real data. A broker, a plugin that
//! picks the strong earthquakes out of a recorded week, and the page.
//!
//! Everything stays below `target/demo`. Ctrl-C stops all of it, the broker
//! last and gracefully.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, stderr};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::broker::{Broker, free_port};
use crate::build::{self, Profile};
use crate::process::LOOK_INTERVAL;
use crate::step;

/// The recorded week, one event a line.
pub(crate) const WEEK: &str = "data/earthquakes.ndjson";
/// Where `eddy` looks for a broker.
const PORT: u16 = 7117;
/// How long the plugin may take for what was published last.
const PICK_LIMIT: Duration = Duration::from_secs(30);

/// What follows `demo` on the command line.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Earthquakes to publish each second (there are 1,707)
    #[arg(long, default_value_t = 12)]
    rate: u32,
    /// The port to listen on, or the next free one
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// Keep the data of the last demo and go on where it stopped
    #[arg(long)]
    keep: bool,
    /// Stop once everything is published and picked, and check the result
    #[arg(long)]
    once: bool,
    /// Take the unoptimised build of the tests
    #[arg(long)]
    debug: bool,
    /// Stop after so many seconds
    #[arg(long)]
    seconds: Option<u64>,
}

/// Builds, starts, publishes, and waits for the end.
pub(crate) fn run(options: &Options) -> Result<()> {
    let interrupted = interruptions()?;
    let profile = if options.debug {
        Profile::Debug
    } else {
        Profile::Release
    };
    build::run(profile)?;
    let port = free_port(options.port)?;
    // One for each port, so that a second demo leaves the data of a running one alone.
    let folder = step::target().join("demo").join(port.to_string());
    if !options.keep && folder.exists() {
        fs::remove_dir_all(&folder).context("removing the data of the last demo")?;
    }
    let mut broker = Broker::start(build::binary(profile), folder, port)?;
    let ended = watch(options, &mut broker, &interrupted);
    step::step("stopping the broker", || broker.stop()).and(ended)
}

/// All that happens while the broker runs.
fn watch(options: &Options, broker: &mut Broker, interrupted: &Receiver<()>) -> Result<()> {
    step::step("creating the topics and deploying the plugin", || {
        prepare(broker)
    })?;
    introduce(broker);
    let until = options
        .seconds
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut publisher = broker.publish_rest(options.rate)?;
    let mut published = false;
    loop {
        match interrupted.recv_timeout(LOOK_INTERVAL) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return publisher.stop(),
        }
        broker.must_run()?;
        if until.is_some_and(|until| Instant::now() >= until) {
            return publisher.stop();
        }
        if !published && let Some(status) = publisher.child.try_wait()? {
            ensure!(status.success(), "`eddy pub` ended with {status}");
            published = true;
            step::say("the whole week is published; Ctrl-C stops the demo");
        }
        if published && options.once {
            return check(broker);
        }
    }
}

/// The topics, the plugin and its deployment, as far as they are missing.
fn prepare(broker: &Broker) -> Result<()> {
    for (topic, partitions) in [("quakes", "3"), ("strong", "1")] {
        if broker.end(topic).is_err() {
            broker.eddy(&["topic", "create", topic, "--partitions", partitions])?;
        }
    }
    if broker.has_deployment("strong") {
        step::note("all is there from the last demo");
        return Ok(());
    }
    let plugin = step::target().join("plugins").join("json-filter.wasm");
    broker.eddy(&["plugin", "push", &plugin.to_string_lossy()])?;
    broker.eddy(&[
        "deploy",
        "strong",
        "--plugin",
        "json-filter",
        "--from",
        "quakes",
        "--to",
        "strong",
        "--param",
        "where=mag >= 4.5",
    ])
}

/// What to open and what to try.
fn introduce(broker: &Broker) {
    let (bold, plain) = if stderr().is_terminal() {
        ("\x1b[1;32m", "\x1b[0m")
    } else {
        ("", "")
    };
    let eddy = broker
        .binary
        .strip_prefix(step::root())
        .unwrap_or(&broker.binary)
        .display();
    eprintln!("\n    Open {bold}{}{plain} in a browser.\n", broker.url());
    eprintln!("    In another terminal:");
    if broker.port != PORT {
        eprintln!("      export EDDY_SERVER={}", broker.url());
    }
    for (command, what) in [
        ("sub strong", "the strong ones, as they come"),
        (
            "sub quakes --from earliest --count 3 --json",
            "records with key, partition and offset",
        ),
        ("deployment show strong", "the plugin at work"),
        ("topic describe quakes", "partitions and their offsets"),
    ] {
        eprintln!("      {:<64} # {what}", format!("{eddy} {command}"));
    }
    let kill = format!("kill -9 {}", broker.process.child.id());
    eprintln!("      {kill:<64} # kill the broker: it is started again, and the page goes on\n");
}

/// Whether the plugin picked what it had to, counted by other means.
fn check(broker: &Broker) -> Result<()> {
    let expected = lines()?.iter().filter(|line| is_strong(line)).count() as u64;
    let begun = Instant::now();
    loop {
        let picked = broker.end("strong")?;
        if picked == expected {
            step::say(&format!(
                "checked: {} earthquakes published, {picked} strong ones picked",
                broker.end("quakes")?
            ));
            return Ok(());
        }
        ensure!(
            picked < expected && begun.elapsed() < PICK_LIMIT,
            "{picked} strong earthquakes were picked, not {expected}"
        );
        thread::sleep(LOOK_INTERVAL);
    }
}

fn is_strong(line: &str) -> bool {
    let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    event["mag"]
        .as_f64()
        .is_some_and(|magnitude| magnitude >= 4.5)
}

pub(crate) fn lines() -> Result<Vec<String>> {
    let file = File::open(step::root().join(WEEK))
        .with_context(|| format!("no recorded week at {WEEK}"))?;
    Ok(BufReader::new(file).lines().collect::<Result<_, _>>()?)
}

/// A message for each Ctrl-C and SIGTERM.
fn interruptions() -> Result<Receiver<()>> {
    let (sender, receiver) = channel();
    ctrlc::set_handler(move || sender.send(()).unwrap_or_default())
        .context("could not watch for Ctrl-C")?;
    Ok(receiver)
}
