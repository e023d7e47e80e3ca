//! One producer, 500 subscribers; against raw sockets that broadcast as many
//! bytes, in writes of the mean size of the broker's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use eddy_protocol::frame::{Durability, Hello, Start};
use eddy_protocol::{ClientFrame, Form, Request, codec};
use eddy_tests::Broker;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::baseline::Role;
use crate::measure::{Aim, Measure, Report, median};
use crate::wire::{self, Wire};

const SUBSCRIBERS: usize = 500;
const ROUNDS: usize = 3;
const BATCHES: usize = 500;
const RECORDS: usize = 100;
const VALUE_BYTES: usize = 128;

pub(crate) fn run(report: &mut Report) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (mut ours, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let Fanned {
            took,
            bytes_each,
            write_bytes,
        } = runtime.block_on(eddy())?;
        let records = (SUBSCRIBERS * BATCHES * RECORDS) as f64;
        ours.push(records / took.as_secs_f64());
        let took = runtime.block_on(sockets(bytes_each, write_bytes))?;
        raw.push(records / took.as_secs_f64());
    }
    report.add(Measure {
        name: "fan-out-500".into(),
        unit: "records/s",
        value: median(ours),
        baseline: Some(median(raw)),
        aim: Aim::AtLeast(0.8),
    })
}

/// How the broker did it.
struct Fanned {
    /// From the first batch sent until every subscriber had everything.
    took: Duration,
    /// What each subscriber got.
    bytes_each: usize,
    /// What one write of the broker held, on average.
    write_bytes: usize,
}

async fn eddy() -> Result<Fanned> {
    let mut broker = Broker::start();
    let mut producer = Wire::open(&broker.ws_url()).await?;
    producer.create_topic("fan", 1, Durability::Memory).await?;
    let batch = wire::batch(RECORDS, VALUE_BYTES);
    let payload = batch.len() * BATCHES;
    let mut readers = JoinSet::new();
    for _ in 0..SUBSCRIBERS {
        let socket = subscribe(&broker).await?;
        readers.spawn(read(socket, payload));
    }
    let writes_before = writes(broker.process().id())?;
    let begun = Instant::now();
    for sent in 0..BATCHES {
        producer
            .send(wire::produce("fan", 0, batch.clone()))
            .await?;
        if sent >= 32 {
            producer.acknowledged().await?;
        }
    }
    let mut bytes_each = 0;
    while let Some(read) = readers.join_next().await {
        bytes_each = read??;
    }
    let took = begun.elapsed();
    let writes = writes(broker.process().id())? - writes_before;
    Ok(Fanned {
        took,
        bytes_each,
        write_bytes: bytes_each * SUBSCRIBERS / writes,
    })
}

/// How often a process has written so far, to sockets and to files.
fn writes(pid: u32) -> Result<usize> {
    let counts = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    let count = counts.lines().find_map(|line| line.strip_prefix("syscw:"));
    Ok(count.context("no syscw")?.trim().parse()?)
}

/// A subscriber as a bare socket, so that reading costs what it costs the baseline.
async fn subscribe(broker: &Broker) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(broker.address()).await?;
    let handshake = format!(
        "GET /v1/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: eddy.v1\r\n\r\n",
        broker.address()
    );
    socket.write_all(handshake.as_bytes()).await?;
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(socket.read_u8().await?);
    }
    let hello = Request::Hello(Hello::default());
    let subscribe = Request::Subscribe(wire::subscribe("fan", Start::Latest));
    for (id, request) in [(1, hello), (2, subscribe)] {
        let frame = codec::encode_client(&ClientFrame { id, request }, Form::Binary)?;
        socket.write_all(&masked(&frame)).await?;
        // Both answers are short: a header of two bytes.
        let mut header = [0; 2];
        socket.read_exact(&mut header).await?;
        let mut answer = vec![0; usize::from(header[1])];
        socket.read_exact(&mut answer).await?;
    }
    Ok(socket)
}

/// A short message as a client must send it; a mask of zeros changes nothing.
fn masked(frame: &[u8]) -> Vec<u8> {
    let mut message = vec![0x82, 0x80 | frame.len() as u8, 0, 0, 0, 0];
    message.extend_from_slice(frame);
    message
}

/// Reads until `payload` bytes of batches have come, which the heads of the
/// frames tell; all bytes that it took.
async fn read(mut socket: TcpStream, payload: usize) -> Result<usize> {
    let (mut block, mut filled, mut total, mut got, mut skip) = (vec![0; 64 << 10], 0, 0, 0, 0);
    while got < payload {
        let read = socket.read(&mut block[filled..]).await?;
        anyhow::ensure!(
            read > 0,
            "the broker hung up after {got} of {payload} bytes"
        );
        total += read;
        filled += read;
        let mut at = 0;
        loop {
            let step = usize::min(skip, filled - at);
            at += step;
            skip -= step;
            let Some((head, len)) = header(&block[at..filled]).filter(|_| skip == 0) else {
                break;
            };
            let Some(batches) = deliver_len(&block[at + head..filled]) else {
                break;
            };
            got += batches;
            at += head;
            skip = len;
        }
        block.copy_within(at..filled, 0);
        filled -= at;
    }
    // The last frame's rest is still on its way.
    socket.read_exact(&mut vec![0; skip]).await?;
    Ok(total + skip)
}

/// How many bytes of batches a `deliver` frame holds, from its first bytes.
fn deliver_len(mut frame: &[u8]) -> Option<usize> {
    // The variant, then stream, partition, epoch, next.
    for _ in 0..5 {
        varint(&mut frame)?;
    }
    varint(&mut frame)
}

/// A number as bincode's standard configuration writes it.
fn varint(bytes: &mut &[u8]) -> Option<usize> {
    let (&first, rest) = bytes.split_first()?;
    let width = match first {
        251 => 2,
        252 => 4,
        253 => 8,
        small => {
            *bytes = rest;
            return Some(small.into());
        }
    };
    let (number, rest) = rest.split_at_checked(width)?;
    *bytes = rest;
    let mut wide = [0; 8];
    wide[..width].copy_from_slice(number);
    Some(u64::from_le_bytes(wide) as usize)
}

fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes.get(1)? {
        126 => Some((
            4,
            usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        )),
        127 => Some((
            10,
            u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
        )),
        &len => Some((2, usize::from(len))),
    }
}

async fn sockets(bytes_each: usize, write_bytes: usize) -> Result<Duration> {
    let arguments = [SUBSCRIBERS, bytes_each, write_bytes].map(|number| number.to_string());
    let role = Role::start("as-broadcaster", &arguments)?;
    let mut peers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        peers.push(TcpStream::connect(&role.address).await?);
    }
    let begun = Instant::now();
    if let Some(last) = peers.last_mut() {
        last.write_all(b"!").await?;
    }
    let mut readers = JoinSet::new();
    for mut peer in peers {
        readers.spawn(async move {
            let (mut block, mut left) = (vec![0; 64 << 10], bytes_each);
            while left > 0 {
                match peer.read(&mut block).await {
                    Ok(read) if read > 0 => left = left.saturating_sub(read),
                    _ => anyhow::bail!("the broadcaster hung up with {left} bytes to go"),
                }
            }
            Ok(())
        });
    }
    while let Some(read) = readers.join_next().await {
        read??;
    }
    Ok(begun.elapsed())
}
