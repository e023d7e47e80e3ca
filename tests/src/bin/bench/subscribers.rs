//! What a producer waits at a fixed load while a topic has many subscribers,
//! against the same while it has few.
//!
//! The subscribers have a filter that keeps nothing: each is woken for what is
//! appended and looks at it, evaluated once for all of them, and nothing is
//! written to their sockets. So it is the way of a commit that is measured, and
//! not how many sockets a machine can write to: ten million deliveries a second
//! would take all of it, whatever the producer waited for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use eddy_protocol::Request;
use eddy_protocol::frame::{Durability, Filter, Start, Subscribe};
use eddy_tests::Broker;

use crate::idle;
use crate::latency::{percentile, ticks};
use crate::measure::{Aim, Measure, Report};
use crate::wire::{self, Wire};

const FEW: usize = 10;
const MANY: usize = 10_000;
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 4;
const PER_SECOND: u64 = 1_000;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    idle::raise_open_files()?;
    let runtime = tokio::runtime::Runtime::new()?;
    for (durability, name) in [
        (Durability::Disk, "subscribers-disk"),
        (Durability::Memory, "subscribers-memory"),
    ] {
        let [few, many] = runtime.block_on(measure(durability))?;
        for (label, share) in [("p50", 0.5), ("p99", 0.99)] {
            report.add(Measure {
                name: format!("{name}-{label}"),
                unit: "us",
                value: percentile(&many, share),
                baseline: Some(percentile(&few, share)),
                aim: Aim::AtMost(1.5),
            })?;
        }
    }
    Ok(())
}

/// What the acknowledgements took with few and with many subscribers, in order.
async fn measure(durability: Durability) -> Result<[Vec<Duration>; 2]> {
    let broker = Broker::start_with(&["--set", "server.connections_max=12000"]);
    broker.push_byte_filter();
    let mut producer = Wire::open(&broker.ws_url()).await?;
    let topics = [("few", FEW), ("many", MANY)];
    let mut held = Vec::new();
    for (topic, count) in topics {
        producer.create_topic(topic, 1, durability).await?;
        for _ in 0..count {
            let mut subscriber = Wire::open(&broker.ws_url()).await?;
            let request = Request::Subscribe(nothing_of(topic));
            subscriber.ask(request).await?;
            held.push(subscriber);
        }
    }
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for ((topic, _), took) in topics.iter().zip(&mut took) {
            took.extend(acknowledgements(&mut producer, topic).await?);
        }
    }
    took.iter_mut().for_each(|took| took.sort_unstable());
    Ok(took)
}

fn nothing_of(topic: &str) -> Subscribe {
    let params = [("contains".to_owned(), "no record has this".to_owned())];
    Subscribe {
        filter: Some(Filter {
            plugin: "byte-filter".to_owned(),
            params: BTreeMap::from(params),
        }),
        ..wire::subscribe(topic, Start::Latest)
    }
}

/// From each send at its time to its acknowledgement.
async fn acknowledgements(producer: &mut Wire, topic: &str) -> Result<Vec<Duration>> {
    let batch = wire::batch(1, 100);
    let count = (PER_SECOND * ROUND.as_secs()) as usize;
    let (mut sent, mut took) = (Vec::new(), Vec::new());
    let mut clock = ticks();
    while took.len() < count {
        tokio::select! {
            _ = clock.tick(), if sent.len() < count => {
                sent.push(Instant::now());
                producer.send(wire::produce(topic, 0, batch.clone())).await?;
            }
            acknowledged = producer.acknowledged() => {
                acknowledged?;
                took.push(sent[took.len()].elapsed());
            }
        }
    }
    Ok(took)
}
