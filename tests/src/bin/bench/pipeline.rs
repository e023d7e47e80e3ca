//! Topic to plugin to topic: how fast records come out, against how fast the
//! same records go into a topic without a plugin behind it.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use eddy_protocol::frame::{Answer, Durability};
use eddy_protocol::{BatchBuilder, Compression, Request};
use eddy_tests::Broker;

use crate::measure::{Aim, Measure, Report, median};
use crate::wire::{self, Wire};

const ROUNDS: usize = 3;
const BATCHES: usize = 2_000;
const RECORDS: usize = 1_000;
const IN_FLIGHT: usize = 32;
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    for partitions in [1, 8] {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            plain.push(runtime.block_on(rate(partitions, false))?);
            ours.push(runtime.block_on(rate(partitions, true))?);
        }
        report.add(Measure {
            name: format!("pipeline-{partitions}-partitions"),
            unit: "records/s",
            value: median(ours),
            baseline: Some(median(plain)),
            aim: Aim::AtLeast(0.5),
        })?;
    }
    Ok(())
}

async fn rate(partitions: u32, with_plugin: bool) -> Result<f64> {
    let broker = Broker::start();
    let mut wire = Wire::open(&broker.ws_url()).await?;
    wire.create_topic("in", partitions, Durability::Disk)
        .await?;
    wire.create_topic("out", partitions, Durability::Disk)
        .await?;
    if with_plugin {
        broker.push_byte_filter();
        broker.deploy_byte_filter("d", ("in", "out"), "keep");
    }
    let batch = batch()?;
    let begun = Instant::now();
    for sent in 0..BATCHES {
        wire.send(wire::produce("in", sent as u32 % partitions, batch.clone()))
            .await?;
        if sent >= IN_FLIGHT {
            wire.acknowledged().await?;
        }
    }
    for _ in 0..IN_FLIGHT {
        wire.acknowledged().await?;
    }
    let records = (BATCHES * RECORDS) as u64;
    while with_plugin && end(&mut wire, "out").await? < records {
        anyhow::ensure!(
            begun.elapsed() < LIMIT,
            "the plugin is behind after {LIMIT:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(records as f64 / begun.elapsed().as_secs_f64())
}

async fn end(wire: &mut Wire, topic: &str) -> Result<u64> {
    match wire
        .ask(Request::DescribeTopic {
            topic: wire::name(topic),
        })
        .await?
    {
        Answer::Topic(info) => Ok(info.partitions.iter().map(|partition| partition.end).sum()),
        other => anyhow::bail!("not a topic: {other:?}"),
    }
}

/// Records that the filter keeps, all of them, so that as many come out as go in.
fn batch() -> Result<Bytes> {
    let mut builder = BatchBuilder::new();
    let mut value = [b'x'; 100];
    value[..4].copy_from_slice(b"keep");
    for _ in 0..RECORDS {
        builder.push(1_700_000_000_000, None, Some(&value), &[])?;
    }
    Ok(builder.finish(Compression::None, None)?.bytes().clone())
}
