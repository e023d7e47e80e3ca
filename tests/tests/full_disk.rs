//! A disk that is full: produces are refused and retried, reads work, and when
//! there is room again everything goes on by itself. Needs root, to mount a
//! small file system; without that it says so and does nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use eddy_protocol::frame::{Answer, Produce, Request};
use eddy_protocol::{BatchBuilder, Compression, ErrorCode, Form, WireError};
use eddy_tests::log::{read_partition, topic};
use eddy_tests::wait::LIMIT;
use eddy_tests::{Broker, Process, Wire, wait_until};
use tempfile::TempDir;

/// The disk.
const DISK_BYTES: u64 = 48 << 20;
/// A file that takes most of it, until there is to be room again.
const BALLAST_BYTES: usize = 20 << 20;
const RECORD_BYTES: usize = 32 << 10;
/// More records than the disk has room for.
const RECORDS_MAX: u64 = DISK_BYTES / RECORD_BYTES as u64;

/// So long without a single acknowledgement, and the disk is really full.
const SETTLED: Duration = Duration::from_secs(2);

const SMALL: [&str; 6] = [
    "--set",
    "store.segment_bytes=1MiB",
    "--set",
    "store.journal_file_bytes=1MiB",
    "--set",
    "store.checkpoint_bytes=1MiB",
];

/// A small file system in memory; unmounted when dropped.
struct Disk {
    folder: TempDir,
}

impl Disk {
    fn mount() -> Option<Disk> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let options = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "eddy-test"])
            .arg(folder.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Disk { folder }),
            failed => {
                println!("skipped: a small file system cannot be mounted here ({failed:?})");
                None
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }

    fn fill(&self) {
        fs::write(self.ballast(), vec![0; BALLAST_BYTES]).expect("there is room for the ballast");
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a failing test may still have the broker's files open.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.folder.path())
            .status();
    }
}

fn value(number: u64) -> String {
    format!("{number} {}", "x".repeat(RECORD_BYTES))
}

async fn produce(wire: &mut Wire, number: u64) -> Result<Answer, WireError> {
    let mut builder = BatchBuilder::new();
    builder
        .push(0, None, Some(value(number).as_bytes()), &[])
        .expect("there is room");
    let batch = builder
        .finish(Compression::None, None)
        .expect("a batch")
        .into();
    wire.ask(Request::Produce(Produce {
        topic: topic("t"),
        partition: Some(0),
        batch,
    }))
    .await
}

/// Produces until nothing but refusals came for a while: a checkpoint may give
/// room back once or twice. The number of the record that was refused.
async fn produce_until_full(wire: &mut Wire, mut number: u64) -> u64 {
    let mut full_since = None;
    loop {
        match produce(wire, number).await {
            Ok(_) => (number, full_since) = (number + 1, None),
            Err(error) => {
                assert_eq!(error.code, ErrorCode::DiskFull, "{error}");
                assert!(
                    error.code.retryable() && error.message.contains("disk is full"),
                    "{error}"
                );
                if full_since.get_or_insert_with(Instant::now).elapsed() > SETTLED {
                    return number;
                }
            }
        }
        assert!(number < 2 * RECORDS_MAX, "the disk never gets full");
    }
}

async fn assert_holds(broker: &Broker, records: u64) {
    let entries = read_partition(&broker.client().await, &topic("t"), 0)
        .await
        .expect("reads work");
    for (number, entry) in entries.iter().take(records as usize).enumerate() {
        assert!(
            entry.value == value(number as u64),
            "record {number} is another one"
        );
    }
    assert!(
        entries.len() as u64 >= records,
        "{} of {records} acknowledged records",
        entries.len()
    );
}

fn assert_full(broker: &Broker) {
    let ready = broker.get("/ready");
    assert!(
        ready.status == 503 && ready.text().contains("disk is full"),
        "{}",
        ready.text()
    );
    assert_eq!(broker.metric("eddy_disk_full"), 1.0);
    broker.get("/health").ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_produces_serves_reads_and_recovers_by_itself() {
    let Some(disk) = Disk::mount() else { return };
    disk.fill();
    let mut broker = Broker::start_in(&disk.data(), &SMALL);
    broker.eddy(&["topic", "create", "t"]).ok();
    let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
    let acknowledged = produce_until_full(&mut wire, 0).await;
    assert!(acknowledged > 10, "only {acknowledged} records had room");
    assert_full(&broker);
    assert_holds(&broker, acknowledged).await;
    let refused = broker.post(
        "/v1/topics/t/records",
        &serde_json::json!({"records": [{"value": value(0)}]}),
    );
    assert_eq!(
        (
            refused.status,
            refused.json()["error"]["retryable"].as_bool()
        ),
        (507, Some(true))
    );

    let line = value(acknowledged) + "\n";
    let given_up = publish(&broker, "1s", &line).wait(LIMIT);
    assert_eq!(given_up.code, Some(1), "{given_up:?}");
    assert!(
        given_up.stderr.contains("disk is full"),
        "{}",
        given_up.stderr
    );

    // Killed while it is full: it starts, and nothing is lost.
    broker.kill9();
    broker.restart();
    assert_holds(&broker, acknowledged).await;

    let mut wire = Wire::greeted(broker.address(), Form::Binary).await;
    produce_until_full(&mut wire, acknowledged).await;
    let mut waiting = publish(&broker, "60s", &line);
    wait_until(LIMIT, "the command should connect", || {
        (broker.metric("eddy_ws_connections") >= 2.0).then_some(())
    });
    assert_full(&broker);
    assert!(waiting.is_running(), "{}", waiting.stderr().text());
    let before = end(&broker);
    disk.free();
    waiting.wait(LIMIT).ok();
    assert!(end(&broker) > before);
    wait_until(LIMIT, "the broker should be ready again", || {
        (broker.get("/ready").status == 200).then_some(())
    });
    produce(&mut wire, 0).await.expect("there is room");
    assert_eq!(broker.metric("eddy_disk_full"), 0.0);
    broker.terminate();
    broker.restart();
    assert_holds(&broker, acknowledged).await;
    assert!(!broker.log().contains("panicked"), "{}", broker.log());
    drop(broker);
    assert!(Path::new(&disk.data()).is_dir());
}

fn end(broker: &Broker) -> u64 {
    let info = broker.get("/v1/topics/t").ok().json();
    info["partitions"][0]["end"].as_u64().expect("a number")
}

fn publish(broker: &Broker, timeout: &str, line: &str) -> Process {
    let mut command = broker.command(&["pub", "t", "--timeout", timeout]);
    Process::start_with_input(&mut command, Some(line.as_bytes().to_vec()))
}
