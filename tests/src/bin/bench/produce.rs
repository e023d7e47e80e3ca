//! Produce with the real client, against plain files: the same bytes of
//! values, in writes of the size of the broker's. For `disk` they are synced as
//! often; for `memory`, where the disk is not what takes the time, they come to
//! the file through a socket, from another process.

use std::time::{Duration, Instant};

use anyhow::Result;
use eddy_client::{Client, Config, NewRecord, ProducerConfig};
use eddy_protocol::frame::{CreateTopic, Durability, TopicSettings};
use eddy_tests::Broker;

use crate::measure::{Aim, Measure, Report, median};
use crate::{baseline, wire};

const ROUNDS: usize = 3;
const BYTES: u64 = 512 << 20;

pub(crate) fn disk(report: &mut Report) -> Result<()> {
    run(report, Durability::Disk, "produce-disk", 0.45)
}

pub(crate) fn memory(report: &mut Report) -> Result<()> {
    run(report, Durability::Memory, "produce-memory", 0.4)
}

fn run(report: &mut Report, durability: Durability, name: &str, aim: f64) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    for (value_bytes, producers) in [(100, 1), (100, 8), (1024, 1), (1024, 8)] {
        let (mut ours, mut plain) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (took, write_bytes) = runtime.block_on(eddy(durability, value_bytes, producers))?;
            ours.push(BYTES as f64 / took.as_secs_f64());
            let folder = tempfile::tempdir()?;
            let took = match durability {
                Durability::Memory => baseline::send_file(folder.path(), BYTES, write_bytes)?,
                _ => baseline::write_file(folder.path(), BYTES, write_bytes)?,
            };
            plain.push(BYTES as f64 / took.as_secs_f64());
        }
        report.add(Measure {
            name: format!("{name}-{value_bytes}B-{producers}p"),
            unit: "B/s",
            value: median(ours),
            baseline: Some(median(plain)),
            aim: Aim::AtLeast(aim),
        })?;
    }
    Ok(())
}

/// From the first record until the last is acknowledged; and how many bytes
/// went into the journal at a time, or between two syncs.
async fn eddy(
    durability: Durability,
    value_bytes: usize,
    producers: usize,
) -> Result<(Duration, usize)> {
    let broker = Broker::start();
    let topic = wire::name("load");
    let config = Config {
        server: broker.address().to_string().parse()?,
        ..Config::default()
    };
    let client = Client::connect(config.clone()).await?;
    let settings = TopicSettings {
        durability,
        ..TopicSettings::default()
    };
    let create = CreateTopic {
        topic: topic.clone(),
        partitions: producers as u32,
        settings,
    };
    client.create_topic(create).await?;
    let mut tasks = tokio::task::JoinSet::new();
    let each = BYTES / value_bytes as u64 / producers as u64;
    let mut ready = Vec::new();
    for number in 0..producers {
        // A connection of its own, as separate programs would have.
        let client = Client::connect(config.clone()).await?;
        let producer = client.producer(&topic, ProducerConfig::default()).await?;
        ready.push((client, producer, number as u32));
    }
    let begun = Instant::now();
    for (client, producer, partition) in ready {
        tasks.spawn(async move {
            let value = vec![b'x'; value_bytes];
            let record = NewRecord::new(&value)
                .partition(partition)
                .timestamp(1_700_000_000_000);
            for _ in 0..each {
                producer.push(&record).await?;
            }
            producer.flush().await?;
            client.close().await;
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let took = begun.elapsed();
    let steps = match durability {
        Durability::Memory => "eddy_journal_groups_total",
        _ => "eddy_journal_syncs_total",
    };
    let step_bytes = broker.metric("eddy_journal_bytes_total") / broker.metric(steps);
    Ok((took, step_bytes as usize))
}
