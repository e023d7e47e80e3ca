//! A broker: `eddy serve`, and the commands of `eddy` against it.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::demo::{WEEK, lines};
use crate::process::{LOOK_INTERVAL, Process};
use crate::step;

/// How long the broker may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(30);

/// `eddy serve`, running.
pub(crate) struct Broker {
    pub(crate) process: Process,
    pub(crate) binary: PathBuf,
    folder: PathBuf,
    pub(crate) port: u16,
}

impl Broker {
    pub(crate) fn start(binary: PathBuf, folder: PathBuf, port: u16) -> Result<Broker> {
        let what = format!(
            "starting the broker on port {port}, data in {}",
            folder.display()
        );
        step::step(&what, || {
            let process = serve(&binary, &folder, port)?;
            let mut broker = Broker {
                process,
                binary,
                folder,
                port,
            };
            broker.wait_until_it_answers()?;
            Ok(broker)
        })
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let begun = Instant::now();
        while self.eddy_quietly(&["topic", "list"]).is_err() {
            if let Some(status) = self.process.child.try_wait()? {
                bail!("`eddy serve` ended with {status}");
            }
            ensure!(
                begun.elapsed() < START_LIMIT,
                "the broker does not answer after {}",
                step::seconds(START_LIMIT)
            );
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Starts it again if somebody has killed it, to see what then happens.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        let Some(status) = self.process.child.try_wait()? else {
            return Ok(());
        };
        step::say(&format!("the broker is gone ({status})"));
        step::step(
            "starting it again in the same folder; the page goes on by itself",
            || {
                self.process = serve(&self.binary, &self.folder, self.port)?;
                self.wait_until_it_answers()
            },
        )
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A command of `eddy` that speaks to this broker.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("EDDY_SERVER", self.url());
        command
    }

    /// Runs a command of `eddy` against this broker.
    pub(crate) fn eddy(&self, arguments: &[&str]) -> Result<()> {
        step::run(self.command().args(arguments).stdout(Stdio::null()))
    }

    /// The same, for its results.
    fn eddy_quietly(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = self
            .command()
            .args(arguments)
            .stderr(Stdio::null())
            .output()?;
        ensure!(
            output.status.success(),
            "`eddy {}` ended with {}",
            arguments.join(" "),
            output.status
        );
        Ok(output.stdout)
    }

    /// How many records a topic got so far.
    pub(crate) fn end(&self, topic: &str) -> Result<u64> {
        let described = self.eddy_quietly(&["topic", "describe", topic, "--json"])?;
        let described: serde_json::Value = serde_json::from_slice(&described)?;
        let partitions = described["partitions"]
            .as_array()
            .context("`eddy topic describe --json` has no partitions")?;
        Ok(partitions
            .iter()
            .filter_map(|partition| partition["end"].as_u64())
            .sum())
    }

    /// Whether there is a deployment of this name.
    pub(crate) fn has_deployment(&self, name: &str) -> bool {
        self.eddy_quietly(&["deployment", "show", name]).is_ok()
    }

    /// Begins to publish what the topic does not hold yet.
    pub(crate) fn publish_rest(&self, rate: u32) -> Result<Process> {
        let all = lines()?;
        let rest = all
            .get(usize::try_from(self.end("quakes")?)?..)
            .unwrap_or_default();
        let mut file = step::root().join(WEEK);
        if rest.len() < all.len() {
            file = self.folder.with_extension("ndjson");
            fs::write(
                &file,
                rest.iter()
                    .map(|line| format!("{line}\n"))
                    .collect::<String>(),
            )?;
        }
        step::say(&format!(
            "publishing {} earthquakes, {rate} a second",
            rest.len()
        ));
        let mut command = self.command();
        command
            .args([
                "pub",
                "quakes",
                "--key-field",
                "id",
                "--rate",
                &rate.to_string(),
            ])
            .arg(file);
        Process::start(command.stdout(Stdio::null()))
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        self.process.stop()
    }
}

/// Starts `eddy serve`.
fn serve(binary: &Path, folder: &Path, port: u16) -> Result<Process> {
    let listen = format!("127.0.0.1:{port}");
    let mut command = Command::new(binary);
    Process::start(
        command
            .args(["serve", "--listen", &listen, "--data"])
            .arg(folder),
    )
}

/// The first free port from this one on.
pub(crate) fn free_port(first: u16) -> Result<u16> {
    (first..=first.saturating_add(50))
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .with_context(|| format!("no port is free from {first} on"))
}
