//! `cargo xtask bench [NAME]…`: what Eddy does, each beside its baseline in the
//! same run.
//!
//! The machine is shared and its speed drifts, so only the ratios mean
//! anything: broker and baseline take turns, several rounds, and the median of
//! each is printed. Results go to `target/bench.json`.

mod baseline;
mod catch_up;
mod fan_out;
mod idle;
mod latency;
mod measure;
mod pipeline;
mod plugin;
mod produce;
mod start;
mod subscribers;
mod wire;

use std::env;

use anyhow::{Context, Result, bail};
use eddy_tests::artefact;

use measure::Report;

type Run = fn(&mut Report) -> Result<()>;

/// The measures by name. A name on the command line chooses all that begin with
/// it, and the one that a line of the report came from.
const MEASURES: &[(&str, &str, Run)] = &[
    (
        "produce-disk",
        "durable produce against write + fdatasync",
        produce::disk,
    ),
    (
        "produce-memory",
        "produce to the operating system against a socket and write",
        produce::memory,
    ),
    (
        "catch-up",
        "old data through a subscription against cat",
        catch_up::run,
    ),
    (
        "fan-out",
        "1 producer to 500 subscribers against raw sockets",
        fan_out::run,
    ),
    (
        "latency",
        "produce to delivery against a WebSocket echo",
        latency::run,
    ),
    (
        "plugin",
        "a byte filter in WebAssembly against the same in Rust",
        plugin::run,
    ),
    (
        "pipeline",
        "topic to plugin to topic against produce alone",
        pipeline::run,
    ),
    (
        "subscribers",
        "a producer's wait with 10,000 subscribers against 10",
        subscribers::run,
    ),
    ("idle", "memory of an idle subscriber", idle::run),
    ("start", "cold start; recovery of a journal", start::run),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let Some((role, rest)) = arguments.split_first()
        && role.starts_with("as-")
    {
        return baseline::act(role, rest);
    }
    if arguments
        .iter()
        .any(|argument| argument == "--list" || argument == "--help")
    {
        MEASURES
            .iter()
            .for_each(|(name, what, _)| println!("{name:16} {what}"));
        return Ok(());
    }
    let chooses =
        |argument: &str, name: &str| name.starts_with(argument) || argument.starts_with(name);
    for argument in &arguments {
        if !MEASURES.iter().any(|(name, ..)| chooses(argument, name)) {
            let known: Vec<_> = MEASURES.iter().map(|(known, ..)| *known).collect();
            bail!(
                "no measure begins with `{argument}`; there are {}",
                known.join(", ")
            );
        }
    }
    let path = artefact::target().join("bench.json");
    let mut report = Report::new(path.clone());
    for (name, what, run) in MEASURES {
        if arguments.is_empty() || arguments.iter().any(|argument| chooses(argument, name)) {
            eprintln!("# {name}: {what}");
            run(&mut report).with_context(|| format!("measure {name}"))?;
        }
    }
    eprintln!("# written to {}", path.display());
    Ok(())
}
