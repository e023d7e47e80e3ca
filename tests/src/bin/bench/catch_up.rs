//! Old data: a subscriber far behind, against `cat` of the same segments.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use eddy_protocol::ServerFrame;
use eddy_protocol::frame::{Durability, Start};
use eddy_tests::Broker;

use crate::baseline;
use crate::measure::{Aim, Measure, Report, median};
use crate::wire::{self, Wire};

const ROUNDS: usize = 3;
const BATCHES: usize = 4_000;
const RECORDS: usize = 1_000;
const VALUE_BYTES: usize = 100;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let mut broker = Broker::start();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(fill(&broker))?;
    // A restart leaves nothing in the broker's memory.
    broker.terminate();
    broker.restart();
    let segments = files(broker.data(), "log")?;
    let (mut ours, mut cats) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (bytes, took) = baseline::cat(&segments)?;
        cats.push(bytes as f64 / took.as_secs_f64());
        let (bytes, took) = runtime.block_on(read(&broker))?;
        ours.push(bytes as f64 / took.as_secs_f64());
    }
    report.add(Measure {
        name: "catch-up".into(),
        unit: "B/s",
        value: median(ours),
        baseline: Some(median(cats)),
        aim: Aim::AtLeast(0.5),
    })
}

async fn fill(broker: &Broker) -> Result<()> {
    let mut wire = Wire::open(&broker.ws_url()).await?;
    wire.create_topic("old", 1, Durability::Memory).await?;
    let batch = wire::batch(RECORDS, VALUE_BYTES);
    for sent in 0..BATCHES {
        wire.send(wire::produce("old", 0, batch.clone())).await?;
        if sent >= 32 {
            wire.acknowledged().await?;
        }
    }
    for _ in 0..BATCHES.min(32) {
        wire.acknowledged().await?;
    }
    Ok(())
}

/// Reads everything; the bytes of batches and how long it took.
async fn read(broker: &Broker) -> Result<(u64, Duration)> {
    let mut wire = Wire::open(&broker.ws_url()).await?;
    let begun = Instant::now();
    wire.send(eddy_protocol::Request::Subscribe(wire::subscribe(
        "old",
        Start::Earliest,
    )))
    .await?;
    let mut bytes = 0;
    loop {
        if let ServerFrame::Deliver(deliver) = wire.next().await? {
            bytes += deliver.batches.0.len() as u64;
            if deliver.next == (BATCHES * RECORDS) as u64 {
                return Ok((bytes, begun.elapsed()));
            }
        }
    }
}

/// The files below `folder` whose names end with `extension`, in order.
pub(crate) fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|other| other == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
