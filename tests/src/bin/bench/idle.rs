//! What an idle subscriber costs: resident memory of the broker with 5,000.

use std::time::Duration;

use anyhow::{Context, Result};
use eddy_protocol::frame::{Durability, Start};
use eddy_tests::Broker;

use crate::measure::{Aim, Measure, Report};
use crate::wire::Wire;

const SUBSCRIBERS: usize = 5_000;
/// Connections that warm the allocator up before anything is measured.
const WARM_UP: usize = 100;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    raise_open_files()?;
    let mut broker = Broker::start();
    let pid = broker.process().id();
    let runtime = tokio::runtime::Runtime::new()?;
    let each = runtime.block_on(async {
        let mut first = Wire::open(&broker.ws_url()).await?;
        first.create_topic("idle", 1, Durability::Disk).await?;
        let mut held = subscribers(&broker, WARM_UP).await?;
        let before = resident_bytes(pid)?;
        held.extend(subscribers(&broker, SUBSCRIBERS).await?);
        // Let what the handshakes needed be given back.
        tokio::time::sleep(Duration::from_secs(1)).await;
        anyhow::Ok((resident_bytes(pid)? - before) / SUBSCRIBERS as f64)
    })?;
    report.add(Measure {
        name: "idle-subscriber-5000".into(),
        unit: "B",
        value: each,
        baseline: None,
        aim: Aim::AtMost(12.0 * 1024.0),
    })
}

async fn subscribers(broker: &Broker, count: usize) -> Result<Vec<Wire>> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut wire = Wire::open(&broker.ws_url()).await?;
        wire.subscribe("idle", Start::Latest).await?;
        held.push(wire);
    }
    Ok(held)
}

fn resident_bytes(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("VmRSS")?;
    let kib: f64 = line
        .split_whitespace()
        .nth(1)
        .context("a number")?
        .parse()?;
    Ok(kib * 1024.0)
}

pub(crate) fn raise_open_files() -> Result<()> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
    Ok(())
}
