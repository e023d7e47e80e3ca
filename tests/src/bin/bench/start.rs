//! How soon a broker answers: on a small folder, and after a kill with a full journal.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use eddy_protocol::frame::Durability;
use eddy_tests::{artefact, http};

use crate::baseline;
use crate::measure::{Aim, Measure, Report, median};
use crate::wire::{self, Wire};

const ROUNDS: usize = 5;
const RECOVERIES: usize = 3;
/// How much goes into the journal that is recovered.
const JOURNAL_BYTES: u64 = 1 << 30;
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    cold(report)?;
    recovery(report)
}

fn cold(report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let broker = Running::start(folder.path(), &[])?;
        took.push(broker.first_answer.as_secs_f64() * 1e3);
        broker.stop()?;
    }
    report.add(Measure {
        name: "cold-start".into(),
        unit: "ms",
        value: median(took),
        baseline: None,
        aim: Aim::AtMost(50.0),
    })
}

fn recovery(report: &mut Report) -> Result<()> {
    let took: Result<Vec<f64>> = (0..RECOVERIES).map(|_| recover()).collect();
    report.add(Measure {
        name: "recovery-per-GiB".into(),
        unit: "s",
        value: median(took?),
        baseline: None,
        aim: Aim::AtMost(2.0),
    })
}

/// Seconds for each GiB of a journal that a killed broker left.
fn recover() -> Result<f64> {
    let folder = tempfile::tempdir()?;
    // No checkpoint on the way: everything is in the journal when the broker is killed.
    let settings = [
        "--set",
        "store.checkpoint_bytes=8GiB",
        "--set",
        "store.checkpoint_interval=1h",
    ];
    let broker = Running::start(folder.path(), &settings)?;
    let records = tokio::runtime::Runtime::new()?.block_on(fill(broker.port))?;
    drop(broker);
    let journal_bytes = size(&folder.path().join("journal"))?;
    let broker = Running::start(folder.path(), &settings)?;
    let topic = http::get(([127, 0, 0, 1], broker.port).into(), "/v1/topics/big").json();
    let end = topic["partitions"][0]["end"].as_u64();
    if end != Some(records) {
        bail!("{records} records were acknowledged, {end:?} are there after the kill");
    }
    let first_answer = broker.first_answer;
    broker.stop()?;
    Ok(first_answer.as_secs_f64() / (journal_bytes as f64 / (1u64 << 30) as f64))
}

async fn fill(port: u16) -> Result<u64> {
    let mut wire = Wire::open(&format!("ws://127.0.0.1:{port}/v1/ws")).await?;
    wire.create_topic("big", 1, Durability::Memory).await?;
    let batch = wire::batch(1_000, 100);
    let batches = JOURNAL_BYTES / batch.len() as u64;
    for sent in 0..batches {
        wire.send(wire::produce("big", 0, batch.clone())).await?;
        if sent >= 32 {
            wire.acknowledged().await?;
        }
    }
    for _ in 0..32.min(batches) {
        wire.acknowledged().await?;
    }
    Ok(batches * 1_000)
}

/// A broker; killed on drop.
struct Running {
    child: Child,
    /// From its start until it had answered once.
    first_answer: Duration,
    port: u16,
}

impl Running {
    fn start(folder: &Path, settings: &[&str]) -> Result<Running> {
        let port = baseline::free_port()?;
        let begun = Instant::now();
        let child = Command::new(artefact::eddy())
            .args(["serve", "--listen", &format!("127.0.0.1:{port}"), "--data"])
            .arg(folder)
            .args(settings)
            .stderr(Stdio::null())
            .spawn()?;
        let mut broker = Running {
            child,
            first_answer: Duration::ZERO,
            port,
        };
        while begun.elapsed() < LIMIT {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                let answer = http::get(([127, 0, 0, 1], port).into(), "/v1/topics");
                if answer.status == 200 {
                    broker.first_answer = begun.elapsed();
                    return Ok(broker);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        bail!("the broker did not answer within {LIMIT:?}")
    }

    /// Ends it in order.
    fn stop(mut self) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn size(folder: &Path) -> Result<u64> {
    std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.metadata()?.len()))
        .sum()
}
