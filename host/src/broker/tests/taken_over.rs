//! An engine that refuses commits because another node has taken a partition over: whoever asked
//! is told to come back, and nothing is lost or doubled.

use eddy_protocol::ProducerStamp;
use eddy_protocol::admin::{DeploymentInfo, DeploymentState};
use eddy_protocol::frame::{self, ExpectedCursor, OpenProducer};
use futures_util::future::join_all;

use super::deploying::*;
use super::*;
use crate::log::{Commit, CommitError, Fate};
use crate::store::simulation::lived;

/// How many batches each producer sends.
const TOTAL: u32 = 12;

fn taken_over() -> CommitError {
    CommitError::TakenOver {
        topic: name("in"),
        partition: 0,
    }
}

/// Whether a deployment's work is in it, or its position.
fn is_a_deployments(commit: &Commit) -> bool {
    let is_progress = |change: &crate::log::Change| match change {
        crate::log::Change::Put { table, .. } | crate::log::Change::Delete { table, .. } => {
            *table == crate::log::Table::Progress
        }
    };
    commit.changes.iter().any(is_progress)
}

fn moving(from: ExpectedCursor, offset: u64) -> frame::Commit {
    frame::Commit {
        appends: Vec::new(),
        group: Some("g".to_owned()),
        cursors: vec![frame::CursorMove {
            topic: name("in"),
            partition: 0,
            offset,
            epoch: None,
            expect: from,
        }],
    }
}

/// A producer with up to four batches under way, which sends again what was refused.
async fn produce_all(broker: &Broker, client: usize) {
    let opened = broker.open_producer(OpenProducer {
        name: None,
        current: None,
    });
    let producer = opened.await.expect("an identity");
    let produce = |sequence: u32| {
        let mut batch = BatchBuilder::default();
        let value = format!("{client}:{sequence}");
        let pushed = batch.push(1, None, Some(value.as_bytes()), &[]);
        pushed.expect("small");
        let stamp = ProducerStamp {
            id: producer.id,
            epoch: producer.epoch,
            sequence,
        };
        let batch = batch.finish(Compression::None, Some(stamp));
        let pending = broker.produce(Produce {
            topic: name("in"),
            partition: Some(0),
            batch: batch.expect("a batch").into(),
        });
        pending.expect("accepted").answer()
    };
    let mut next = 0;
    while next < TOTAL {
        let sent: Vec<_> = (next..TOTAL.min(next + 4)).map(produce).collect();
        let mut is_whole = true;
        for answer in sent {
            match answer.await {
                Ok(_) => next += u32::from(is_whole),
                Err(error) => {
                    assert!(error.code.retryable(), "{error}");
                    is_whole = false;
                }
            }
        }
    }
}

/// A member of a group that moves its cursor on, step by step.
async fn move_all(broker: &Arc<Broker>) {
    let mut at = ExpectedCursor::None;
    for offset in 0..=u64::from(TOTAL) {
        loop {
            let pending = broker.commit(moving(at, offset)).expect("accepted");
            match pending.answer().await {
                Ok(_) => break,
                Err(error) => assert_eq!(error.code, ErrorCode::Conflict, "{error}"),
            }
        }
        at = ExpectedCursor::Offset(offset);
    }
}

#[test]
fn nothing_is_lost_or_doubled_where_any_commit_may_be_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    lived("taken over", |seed| runtime.block_on(history(seed)));
}

/// Producers, a deployment and a group, while another node takes the partition over again and again.
async fn history(seed: u64) {
    let (ground, memory) = Ground::memory();
    let broker = world_on(&ground, config()).await;
    broker.with_deployment("all").await;
    let mut random = fastrand::Rng::with_seed(seed);
    memory.leave_out(random.u32(..3));
    memory.judge(move |commit| match random.u8(..8) {
        0 => Fate::Refused(taken_over()),
        // The other node does the same work; a producer may have sent it the same batch.
        1 if !commit.appends.is_empty() => Fate::MadeElsewhere(taken_over()),
        _ => Fate::Made,
    });
    let clients = (0..3).map(|client| produce_all(&broker, client));
    within("producing", join_all(clients)).await;
    within("moving", move_all(&broker)).await;
    broker.caught_up().await;
    let (input, output) = (broker.values("in", 0).await, broker.values("out", 0).await);
    assert_eq!(output, input);
    for client in 0..3 {
        let prefix = format!("{client}:");
        let its = input.iter().filter(|value| value.starts_with(&prefix));
        let expected = (0..TOTAL).map(|sequence| format!("{prefix}{sequence}"));
        assert!(its.cloned().eq(expected), "client {client}");
    }
}

#[tokio::test]
async fn whoever_is_refused_for_that_is_told_to_come_back() {
    let (ground, memory) = Ground::memory();
    let broker = world_on(&ground, config()).await;
    broker.append("in", &["a"]).await;
    memory.judge(|_| Fate::Refused(taken_over()));
    let words = "another node has taken over partition 0 of topic `in`";
    let produced = broker.try_append("in", "b").await;
    assert!(produced.as_ref().is_err_and(|error| error.code.retryable()));
    refused(produced, ErrorCode::Conflict, words);
    let moved = broker
        .commit(moving(ExpectedCursor::Any, 1))
        .expect("accepted");
    let moved = within("moving", moved.answer()).await;
    refused(moved, ErrorCode::Conflict, words);
    assert!(
        broker.groups.is_empty(),
        "what was refused counts for nothing"
    );
    memory.judge(|_| Fate::Made);
    broker.append("in", &["b"]).await;
    let moved = broker
        .commit(moving(ExpectedCursor::None, 1))
        .expect("accepted");
    within("moving", moved.answer()).await.expect("durable");
    assert_eq!(broker.values("in", 0).await, ["a", "b"]);
}

#[tokio::test]
async fn a_deployment_waits_while_another_node_has_its_partition_and_goes_on_where_that_was() {
    let (ground, memory) = Ground::memory();
    let broker = world_on(&ground, config()).await;
    broker.with_deployment("all").await;
    broker.append("in", &["a"]).await;
    broker.caught_up().await;
    let mut left = 5;
    memory.judge(move |commit| match is_a_deployments(commit) {
        // It does the work for a while.
        true if left > 0 && !commit.appends.is_empty() => {
            left -= 1;
            Fate::MadeElsewhere(taken_over())
        }
        true => Fate::Refused(taken_over()),
        false => Fate::Made,
    });
    for value in numbered(0..20) {
        broker.append("in", &[&value]).await;
    }
    let waits = |info: &DeploymentInfo| {
        let reason = info.reason.as_deref().unwrap_or_default();
        info.state == DeploymentState::Starting && reason.contains("another node has taken over")
    };
    let (_, output) = broker.partition(&name("out"), 0).expect("it is there");
    eventually("the other node's work", || output.end() > 5).await;
    broker.until("it waits", waits).await;
    memory.judge(|_| Fate::Made);
    let info = broker.caught_up().await;
    assert_eq!(info.reason, None);
    let mut expected = vec!["a".to_owned()];
    expected.extend(numbered(0..20));
    assert_eq!(broker.values("out", 0).await, expected);
}
