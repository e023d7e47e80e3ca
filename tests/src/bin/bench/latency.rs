//! Produce to delivery at a fixed load, against the echo of the same bytes
//! over a raw WebSocket. Both take turns in short rounds.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use eddy_protocol::ServerFrame;
use eddy_protocol::frame::{Durability, Start};
use eddy_tests::Broker;
use futures_util::{SinkExt, StreamExt};
use tokio::time::MissedTickBehavior;
use tokio_tungstenite::tungstenite::Message;

use crate::baseline::Role;
use crate::measure::{Aim, Measure, Report};
use crate::wire::{self, Wire};

const PER_SECOND: u64 = 1_000;
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 4;
const VALUE_BYTES: usize = 100;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    for (durability, name, aim) in [
        (Durability::Memory, "latency-memory", 2.0),
        (Durability::Disk, "latency-disk", 4.0),
    ] {
        let (mut ours, mut echo) = (Vec::new(), Vec::new());
        runtime.block_on(async {
            let broker = Broker::start();
            let mut wire = Wire::open(&broker.ws_url()).await?;
            wire.create_topic("late", 1, durability).await?;
            let role = Role::start("as-echo", &[])?;
            for _ in 0..ROUNDS {
                ours.extend(through_eddy(&broker).await?);
                echo.extend(through_echo(&role.address).await?);
            }
            anyhow::Ok(())
        })?;
        ours.sort_unstable();
        echo.sort_unstable();
        for (label, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            report.add(Measure {
                name: format!("{name}-{label}"),
                unit: "us",
                value: percentile(&ours, share),
                baseline: Some(percentile(&echo, share)),
                aim: Aim::AtMost(aim),
            })?;
        }
    }
    Ok(())
}

pub(crate) fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len() - 1);
    sorted[at].as_secs_f64() * 1e6
}

/// From the send on one connection to the delivery on another.
async fn through_eddy(broker: &Broker) -> Result<Vec<Duration>> {
    let mut producer = Wire::open(&broker.ws_url()).await?;
    let mut subscriber = Wire::open(&broker.ws_url()).await?;
    subscriber.subscribe("late", Start::Latest).await?;
    let mut sent = Vec::new();
    let mut took = Vec::new();
    let batch = wire::batch(1, VALUE_BYTES);
    let count = (PER_SECOND * ROUND.as_secs()) as usize;
    let mut clock = ticks();
    let mut first = None;
    while took.len() < count {
        tokio::select! {
            _ = clock.tick(), if sent.len() < count => {
                sent.push(Instant::now());
                producer.send(wire::produce("late", 0, batch.clone())).await?;
            }
            frame = subscriber.next() => {
                if let ServerFrame::Deliver(deliver) = frame? {
                    let now = Instant::now();
                    let base = *first.get_or_insert_with(|| base_offset(&deliver.batches));
                    while took.len() < (deliver.next - base) as usize {
                        took.push(now - sent[took.len()]);
                    }
                }
            }
            acknowledged = producer.acknowledged() => acknowledged?,
        }
    }
    Ok(took)
}

fn base_offset(batches: &eddy_protocol::batch::Batches) -> u64 {
    let first = batches.iter().next().and_then(Result::ok);
    first.map_or(0, |batch| batch.base_offset())
}

async fn through_echo(address: &str) -> Result<Vec<Duration>> {
    let socket = tokio::net::TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let (mut ws, _) = tokio_tungstenite::client_async(format!("ws://{address}/"), socket).await?;
    let payload: Bytes = wire::batch(1, VALUE_BYTES);
    let count = (PER_SECOND * ROUND.as_secs()) as usize;
    let (mut sent, mut took) = (Vec::new(), Vec::new());
    let mut clock = ticks();
    while took.len() < count {
        tokio::select! {
            _ = clock.tick(), if sent.len() < count => {
                sent.push(Instant::now());
                ws.send(Message::Binary(payload.clone())).await?;
            }
            message = ws.next() => {
                anyhow::ensure!(matches!(message, Some(Ok(_))), "the echo hung up");
                took.push(sent[took.len()].elapsed());
            }
        }
    }
    Ok(took)
}

pub(crate) fn ticks() -> tokio::time::Interval {
    let mut clock = tokio::time::interval(Duration::from_micros(1_000_000 / PER_SECOND));
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    clock
}
