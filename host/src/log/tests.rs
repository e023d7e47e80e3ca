//! What every engine must do, held against each of them: the store, the engine in memory, and that
//! one leaving offsets out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use eddy_protocol::frame::TopicSettings;
use eddy_protocol::{Batch, BatchBuilder, Compression, ProducerStamp, TopicName};

use super::*;
use crate::io::{FaultyDisk, ManualClock};
use crate::store::{Config, Store};

/// What time it is.
const NOW_MS: i64 = 1_700_000_000_000;
/// No test takes longer on the slowest machine.
const LIMIT: Duration = Duration::from_secs(60);

struct Engine {
    log: Arc<dyn Log>,
    state: Arc<dyn State>,
}

impl Engine {
    fn of<T: Log + State + 'static>(engine: T) -> Engine {
        let engine = Arc::new(engine);
        Engine {
            log: engine.clone(),
            state: engine,
        }
    }

    /// The store, with files so small that retention has something to take.
    fn store() -> Engine {
        let config = Config {
            segment_bytes: 4 << 10,
            checkpoint_bytes: 16 << 10,
            reserve_bytes: 0,
            headroom_bytes: 0,
            retention_interval: Duration::from_millis(1),
            ..Config::default()
        };
        let disk = Arc::new(FaultyDisk::new(1));
        let store = Store::open(config, disk, Arc::new(ManualClock::new(NOW_MS)));
        Engine::of(store.expect("the folder is empty"))
    }

    fn memory(left_out: u32) -> Engine {
        let memory = Memory::new(NOW_MS);
        memory.leave_out(left_out);
        Engine::of(memory)
    }

    async fn commit(&self, commit: Commit) -> Result<Committed, CommitError> {
        self.log.commit(commit).await
    }

    async fn change(&self, change: CatalogChange) -> Result<Committed, CommitError> {
        let commit = Commit {
            catalog: vec![change],
            ..Commit::default()
        };
        self.commit(commit).await
    }

    async fn create(&self, partitions: u32, settings: TopicSettings) -> Arc<Topic> {
        let committed = self.change(create(partitions, settings)).await;
        committed.expect("it is new").created[0].clone()
    }

    /// A topic with one partition.
    async fn with_partition(&self) -> Arc<dyn Partition> {
        let topic = self.create(1, TopicSettings::default()).await;
        topic.partition(0).expect("it has one")
    }

    async fn get(&self, key: &'static [u8]) -> Option<Bytes> {
        let value = self.state.get(Table::Cursors, key).await;
        value.expect("it can be read")
    }
}

/// Runs a test on each engine.
fn on_each(test: impl AsyncFn(Engine)) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be built");
    for (name, engine) in [
        ("the store", Engine::store()),
        ("memory", Engine::memory(0)),
        ("memory that leaves offsets out", Engine::memory(2)),
    ] {
        println!("on {name}");
        let tested = async { tokio::time::timeout(LIMIT, test(engine)).await };
        runtime.block_on(tested).expect("it ends in time");
    }
}

async fn eventually(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::task::yield_now().await;
    }
}

fn name() -> TopicName {
    TopicName::parse("t").expect("a name")
}

fn create(partitions: u32, settings: TopicSettings) -> CatalogChange {
    CatalogChange::Create {
        name: name(),
        partitions,
        settings,
    }
}

fn batch(values: &[&str], timestamp: i64, stamp: Option<ProducerStamp>) -> Batch {
    let mut builder = BatchBuilder::new();
    for value in values {
        let pushed = builder.push(timestamp, None, Some(value.as_bytes()), &[]);
        pushed.expect("it is small");
    }
    let batch = builder.finish(Compression::None, stamp);
    batch.expect("it is small")
}

/// Appends a batch to the partition.
fn append(partition: &dyn Partition, batch: Batch) -> Commit {
    Commit {
        appends: vec![Append {
            topic: partition.topic(),
            partition: partition.number(),
            batch,
        }],
        ..Commit::default()
    }
}

fn put(key: &'static str, value: &'static str) -> Change {
    Change::Put {
        table: Table::Cursors,
        key: key.into(),
        value: value.into(),
    }
}

/// Puts a value where another one is expected.
fn resting(expected: ExpectedValue, value: &'static str) -> Commit {
    Commit {
        changes: vec![put("key", value)],
        expect: vec![Expect {
            table: Table::Cursors,
            key: "key".into(),
            value: expected,
        }],
        ..Commit::default()
    }
}

/// Every record with its offset. No batch may leave an offset out, and none is lost.
fn read_all(partition: &dyn Partition) -> Vec<(u64, String)> {
    let mut found = Vec::new();
    let mut offset = partition.start();
    while offset < partition.end() {
        assert_eq!(partition.next_from(offset), offset, "nothing is lost");
        let read = partition.read(offset, 100).expect("it can be read");
        assert!(!read.batches.is_empty(), "there is more at {offset}");
        for batch in read.batches {
            assert!(batch.base_offset() <= offset && offset < batch.end_offset());
            offset = batch.end_offset();
            for record in batch.records().expect("it is whole").iter() {
                let value = String::from_utf8_lossy(record.value.unwrap_or_default());
                found.push((record.offset, value.into_owned()));
            }
        }
    }
    assert!(found.is_sorted_by(|a, b| a.0 < b.0), "offsets rise");
    found
}

fn values(partition: &dyn Partition) -> Vec<String> {
    let found = read_all(partition).into_iter();
    found.map(|(_, value)| value).collect()
}

#[test]
fn commits_are_made_in_the_order_of_calls_and_their_answers_say_the_offsets() {
    on_each(async |engine| {
        let partition = engine.with_partition().await;
        let values: Vec<_> = (0..40).map(|n| n.to_string()).collect();
        let tickets: Vec<_> = (values.chunks(2))
            .map(|pair| {
                let batch = batch(&[&pair[0], &pair[1]], 0, None);
                engine.log.submit(append(&*partition, batch))
            })
            .collect();
        let mut expected = Vec::new();
        for (ticket, pair) in tickets.into_iter().zip(values.chunks(2)) {
            let appended = ticket.await.expect("there is room").appends[0];
            let offset = appended.offset.expect("it is new");
            assert!(!appended.duplicate);
            assert!(offset + 2 <= partition.end(), "it can be seen");
            expected.extend((offset..).zip(pair.iter().cloned()));
        }
        assert_eq!(read_all(&*partition), expected);
    });
}

#[test]
fn a_commit_is_made_as_a_whole_or_not_at_all() {
    on_each(async |engine| {
        let partition = engine.with_partition().await;
        let state = StateId::new("d", 0, "s").expect("small names");
        let delta = Delta::of(&[(b"key", Some(b"value"))]).expect("it is small");
        let mut commit = append(&*partition, batch(&["x"], 0, None));
        commit.appends.push(Append {
            partition: 9,
            ..commit.appends[0].clone()
        });
        commit.changes = vec![put("key", "value")];
        commit.states = vec![StateChange::Delta {
            state: state.clone(),
            delta,
        }];
        let refused = engine.commit(commit.clone()).await;
        let expected = CommitError::UnknownPartition {
            topic: name(),
            partition: 9,
            partitions: 1,
        };
        assert_eq!(refused.expect_err("there is one partition"), expected);
        let state_of = async || {
            let found = engine.state.state_get(&state, vec!["key".into()]).await;
            found.expect("it can be read")
        };
        assert_eq!((partition.end(), engine.get(b"key").await), (0, None));
        assert_eq!(state_of().await, [None]);
        commit.appends.pop();
        engine.commit(commit).await.expect("nothing is in the way");
        assert_eq!(values(&*partition), ["x"]);
        assert_eq!(engine.get(b"key").await, Some("value".into()));
        assert_eq!(state_of().await, [Some("value".into())]);
    });
}

#[test]
fn a_commit_rests_on_values_also_of_those_that_were_submitted_before_it() {
    on_each(async |engine| {
        let exactly = |value: &'static str| ExpectedValue::Exactly(value.into());
        let commits = [
            (ExpectedValue::Absent, "one", true),
            (ExpectedValue::Absent, "two", false),
            (exactly("one"), "two", true),
            (exactly("one"), "three", false),
            (ExpectedValue::StartsWith("tw".into()), "three", true),
        ];
        let tickets = commits.map(|(expected, value, is_made)| {
            (engine.log.submit(resting(expected, value)), value, is_made)
        });
        let mut now = None;
        for (ticket, value, is_made) in tickets {
            match ticket.await {
                Ok(_) if is_made => now = Some(Bytes::from(value)),
                Err(CommitError::Conflict { table, key, found }) if !is_made => {
                    assert_eq!((table, &key[..]), (Table::Cursors, &b"key"[..]));
                    assert_eq!(found, now);
                }
                answer => panic!("{value}: {answer:?}"),
            }
        }
        assert_eq!(engine.get(b"key").await, now);
    });
}

#[test]
fn a_repeat_is_answered_with_its_first_offset_and_a_batch_behind_a_missing_one_is_refused() {
    on_each(async |engine| {
        let partition = engine.with_partition().await;
        let producer = engine.log.open_producer(None).await.expect("there is room");
        let send = async |sequence, values: &[&str]| {
            let stamp = ProducerStamp {
                id: producer.id,
                epoch: producer.epoch,
                sequence,
            };
            let commit = append(&*partition, batch(values, 0, Some(stamp)));
            engine
                .commit(commit)
                .await
                .map(|committed| committed.appends[0])
        };
        let first = send(0, &["a", "b"]).await.expect("it is next");
        let second = send(2, &["c"]).await.expect("it is next");
        let repeat = Appended {
            duplicate: true,
            ..first
        };
        assert_eq!(send(0, &["a", "b"]).await, Ok(repeat));
        assert!(second.offset > first.offset && !second.duplicate);
        let out_of_order = CommitError::OutOfOrder {
            id: producer.id,
            expected: 3,
            sequence: 4,
        };
        assert_eq!(send(4, &["e"]).await, Err(out_of_order));
        send(3, &["d"]).await.expect("it is next");
        assert_eq!(values(&*partition), ["a", "b", "c", "d"]);
    });
}

#[test]
fn the_next_epoch_of_an_identity_fences_the_one_before() {
    on_each(async |engine| {
        let partition = engine.with_partition().await;
        let open = async |name| engine.log.open_producer(name).await.expect("there is room");
        let send = async |Producer { id, epoch }| {
            let sequence = 0;
            let stamp = ProducerStamp {
                id,
                epoch,
                sequence,
            };
            let commit = append(&*partition, batch(&["x"], 0, Some(stamp)));
            engine.commit(commit).await.map(drop)
        };
        let named = open(Some("name")).await;
        send(named).await.expect("it is new");
        let next = open(Some("name")).await;
        assert_eq!((next.id, next.epoch), (named.id, named.epoch + 1));
        let fenced = |of: Producer| CommitError::Fenced {
            id: of.id,
            epoch: of.epoch,
            current: of.epoch + 1,
        };
        assert_eq!(send(named).await, Err(fenced(named)));
        send(next).await.expect("its numbers begin anew");

        let plain = open(None).await;
        assert!(plain.id != named.id && plain != open(None).await);
        let after = engine.log.next_epoch(plain).await.expect("it is known");
        assert_eq!((after.id, after.epoch), (plain.id, plain.epoch + 1));
        let again = engine.log.next_epoch(plain).await;
        assert_eq!(again, Ok(after), "as if the answer got lost");
        send(after).await.expect("it is the newest");
        let late = engine.log.next_epoch(plain).await;
        assert_eq!(late, Err(fenced(plain)), "it is at work");
        let unknown = Producer { id: 999, epoch: 0 };
        assert_eq!(send(unknown).await, Err(CommitError::UnknownProducer(999)));
        let other = engine.log.next_epoch(unknown).await.expect("another one");
        assert!(other.id != 999 && other.id != plain.id);
    });
}

#[test]
fn a_reader_gets_what_is_there_and_is_told_where_that_begins_and_ends() {
    on_each(async |engine| {
        let partition = engine.with_partition().await;
        assert!(matches!(partition.read_tail(0, 1), TailRead::AtEnd));
        let mut offsets = Vec::new();
        for n in 0..10 {
            let batch = batch(&["a", "b"], NOW_MS + n, None);
            let committed = engine.commit(append(&*partition, batch)).await;
            offsets.extend(committed.expect("there is room").appends[0].offset);
        }
        let end = partition.end();
        assert_eq!(end, offsets[9] + 2);
        let one = partition.read(offsets[4] + 1, 1).expect("it is there");
        assert_eq!(one.batches.len(), 1, "as little as there is");
        assert!(one.batches[0].base_offset() <= offsets[4]);
        assert_eq!(one.batches[0].end_offset(), offsets[4] + 2);
        let all = partition.read(0, u64::MAX).expect("it is there");
        assert_eq!(all.batches.last().expect("some").end_offset(), end);
        assert!(partition.read(end, 1).expect("its end").batches.is_empty());
        assert!(matches!(partition.read_tail(end, 1), TailRead::AtEnd));
        let beyond = partition.read(end + 1, 1).expect_err("nothing has it");
        assert_eq!(beyond, ReadError::BeyondEnd { end });
        for (time_ms, expected) in [(0, 0), (NOW_MS + 7, offsets[7]), (NOW_MS + 10, end)] {
            assert_eq!(partition.offset_at_time(time_ms), Ok(expected));
        }
        let epoch = partition.epoch();
        assert_eq!(partition.resume(Some(epoch), 5), Resume::Here);
        assert_eq!(partition.resume(Some(epoch + 1), 5), Resume::Unknown);
    });
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Watcher for Count {
    fn changed(&self, _: TopicId, _: u32) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn whoever_watches_a_partition_is_told_of_its_changes_until_the_guard_is_dropped() {
    on_each(async |engine| {
        let topic = engine.create(2, TopicSettings::default()).await;
        let part = |number| topic.partition(number).expect("there are two");
        let (counts, guards): (Vec<_>, Vec<_>) = (0..3)
            .map(|n| {
                let count = Arc::new(Count::default());
                let watcher: Arc<dyn Watcher> = count.clone();
                (count, part(n / 2).watch(&watcher))
            })
            .unzip();
        let told = |n: usize| counts[n].0.load(Ordering::Relaxed);
        let send = async || {
            let sent = engine
                .commit(append(&*part(0), batch(&["x"], 0, None)))
                .await;
            sent.expect("there is room");
        };
        send().await;
        eventually(|| told(0) == 1 && told(1) == 1).await;
        let mut guards = guards.into_iter();
        drop(guards.next());
        send().await;
        eventually(|| told(1) == 2).await;
        assert_eq!((told(0), told(2)), (1, 0));
        let deleted = CatalogChange::Delete { topic: topic.id() };
        engine.change(deleted).await.expect("it is there");
        eventually(|| told(1) == 3 && told(2) == 1).await;
    });
}

#[test]
fn topics_are_made_changed_and_deleted_and_each_change_is_told() {
    on_each(async |engine| {
        let topics = engine.log.topics();
        let mut changes = topics.changed();
        let topic = engine.create(2, TopicSettings::default()).await;
        let by_name = topics.by_name(&name()).expect("it is there");
        let by_id = topics.by_id(topic.id()).expect("it is there");
        assert!(Arc::ptr_eq(&topic, &by_name) && Arc::ptr_eq(&topic, &by_id));
        assert_eq!(topics.all().len(), 1);
        changes.changed().await.expect("it lives");
        let again = engine.change(create(1, TopicSettings::default())).await;
        assert_eq!(again.expect_err("twice"), CommitError::TopicExists(name()));

        let settings = TopicSettings {
            retention_ms: Some(1_000),
            ..TopicSettings::default()
        };
        let alter = |partitions| CatalogChange::Alter {
            topic: topic.id(),
            partitions,
            settings,
        };
        let fewer = engine.change(alter(Some(1))).await;
        let expected = CommitError::InvalidPartitions {
            topic: name(),
            partitions: 2,
            asked: 1,
        };
        assert_eq!(fewer.expect_err("only more"), expected);
        engine.change(alter(None)).await.expect("other settings");
        engine.change(alter(Some(3))).await.expect("one more");
        assert_eq!((topic.settings(), topic.partitions().len()), (settings, 3));
        let added = topic.partition(2).expect("it is there");
        let sent = append(&*added, batch(&["x"], NOW_MS, None));
        engine.commit(sent.clone()).await.expect("it takes records");
        let whole = CatalogChange::Repair {
            topic: topic.id(),
            partition: 0,
        };
        let refused = engine.change(whole).await.expect_err("it is whole");
        assert!(matches!(refused, CommitError::NothingToRepair { .. }));

        let (old, position) = (added.epoch(), added.end());
        let delete = CatalogChange::Delete { topic: topic.id() };
        engine.change(delete.clone()).await.expect("it is there");
        assert!(topic.deleted() && added.is_deleted() && added.stopped().is_some());
        assert!(matches!(added.read(0, 1), Err(ReadError::Stopped(_))));
        assert!(topics.by_name(&name()).is_none() && topics.by_id(topic.id()).is_none());
        let unknown = CommitError::UnknownTopic(topic.id());
        for commit in [engine.change(delete).await, engine.commit(sent).await] {
            assert_eq!(commit.expect_err("it is gone"), unknown);
        }
        let other = engine.create(3, TopicSettings::default()).await;
        assert!(other.id() != topic.id() && other.uuid() != topic.uuid());
        let part = other.partition(2).expect("it is there");
        let lost = Resume::Lost { at: 0 };
        assert_eq!(part.resume(Some(old), position), lost, "its namesake's");
    });
}

#[test]
fn rows_are_found_by_their_keys_and_by_what_these_begin_with_in_their_order() {
    on_each(async |engine| {
        let changes = ["b1", "a", "b3", "b2", "c"].map(|key| put(key, "x"));
        let delete = Change::Delete {
            table: Table::Cursors,
            key: "b2".into(),
        };
        let commit = Commit {
            changes: changes.into_iter().chain([delete]).collect(),
            ..Commit::default()
        };
        engine.commit(commit).await.expect("there is room");
        assert_eq!(engine.get(b"a").await, Some("x".into()));
        assert_eq!(engine.get(b"b2").await, None);
        let rows = engine.state.scan(Table::Cursors, b"b").await;
        let row = |key: &'static str| (Bytes::from(key), Bytes::from("x"));
        assert_eq!(rows, Ok(vec![row("b1"), row("b3")]));
        let others = engine.state.scan(Table::Progress, b"").await;
        assert_eq!(others, Ok(Vec::new()), "another table");
    });
}

#[test]
fn a_state_is_what_its_deltas_come_to() {
    on_each(async |engine| {
        let id = |instance| StateId::new("d", instance, "s").expect("small names");
        let set = |instance, rows: &[(&[u8], Option<&[u8]>)]| StateChange::Delta {
            state: id(instance),
            delta: Delta::of(rows).expect("it is small"),
        };
        let change = async |states| {
            let commit = Commit {
                states,
                ..Commit::default()
            };
            engine.commit(commit).await.expect("there is room");
        };
        change(vec![
            set(
                0,
                &[(b"a", Some(b"1")), (b"b", Some(b"2")), (b"c", Some(b"3"))],
            ),
            set(1, &[(b"a", Some(b"9"))]),
            set(0, &[(b"b", None), (b"d", Some(b"4")), (b"a", Some(b"5"))]),
        ])
        .await;
        let keys = ["a", "b", "d", "e"].map(Bytes::from).to_vec();
        let found = engine.state.state_get(&id(0), keys).await;
        let value = |value: &'static str| Some(Bytes::from(value));
        assert_eq!(found, Ok(vec![value("5"), None, value("4"), None]));
        let state = id(0);
        let scan = async |from: &'static str, to: Option<&'static str>, bytes_max| {
            let range = (Bytes::from(from), to.map(Bytes::from));
            let page = engine.state.state_scan(&state, range, bytes_max).await;
            page.expect("it can be read")
        };
        let keys = |page: &Page| -> Vec<Bytes> {
            page.entries.iter().map(|(key, _)| key.clone()).collect()
        };
        let all = scan("", None, 1_000).await;
        assert_eq!(
            (keys(&all), &all.next),
            (vec!["a".into(), "c".into(), "d".into()], &None)
        );
        let first = scan("a", None, 1).await;
        assert_eq!((keys(&first), first.next), (vec!["a".into()], value("c")));
        assert_eq!(keys(&scan("b", Some("d"), 1_000).await), ["c"]);
        let delete = |instance| {
            StateChange::Delete(Deletion {
                deployment: "d".into(),
                instance,
            })
        };
        change(vec![delete(Some(0))]).await;
        assert_eq!(scan("", None, 1_000).await, Page::default());
        let other = engine.state.state_get(&id(1), vec!["a".into()]).await;
        assert_eq!(other, Ok(vec![value("9")]));
        change(vec![delete(None)]).await;
        let other = engine.state.state_get(&id(1), vec!["a".into()]).await;
        assert_eq!(other, Ok(vec![None]));
    });
}

#[test]
fn claimed_times_are_bounded_as_the_topic_says_or_mended() {
    on_each(async |engine| {
        let settings = TopicSettings {
            timestamp_ahead_ms: Some(100),
            ..TopicSettings::default()
        };
        let topic = engine.create(1, settings).await;
        let partition = topic.partition(0).expect("it has one");
        let mut commit = append(&*partition, batch(&["x"], NOW_MS + 101, None));
        let refused = engine.commit(commit.clone()).await;
        let expected = CommitError::Timestamp {
            topic: name(),
            timestamp: NOW_MS + 101,
            limit_ms: 100,
            side: Side::Ahead,
        };
        assert_eq!(refused.expect_err("it is too far ahead"), expected);
        commit.claims = Claims::Mended;
        engine.commit(commit).await.expect("it is mended");
        let end = partition.end();
        assert_eq!(partition.offset_at_time(NOW_MS + 1), Ok(end));
    });
}

#[test]
fn what_retention_takes_lies_below_the_start_and_a_reader_is_taken_over_it() {
    on_each(async |engine| {
        let settings = TopicSettings {
            retention_bytes: Some(1),
            ..TopicSettings::default()
        };
        let topic = engine.create(1, settings).await;
        let partition = topic.partition(0).expect("it has one");
        let value = "x".repeat(1 << 10);
        for _ in 0..20 {
            let sent = engine
                .commit(append(&*partition, batch(&[&value], NOW_MS, None)))
                .await;
            sent.expect("there is room");
        }
        eventually(|| partition.start() > 0).await;
        let below = partition.read(0, 1).expect_err("it is gone");
        assert!(matches!(below, ReadError::BelowStart { start } if start > 0));
        let next = partition.next_from(0);
        assert!(next > 0 && next <= partition.start() && partition.bytes() > 0);
        assert_eq!(partition.next_from(partition.end()), partition.end());
    });
}

#[test]
fn a_closed_engine_has_answered_what_came_before_and_refuses_the_rest() {
    on_each(async |engine| {
        let partition = engine.with_partition().await;
        let sent = append(&*partition, batch(&["x"], 0, None));
        let before = engine.log.submit(sent.clone());
        engine.log.close().await;
        before.await.expect("it came before");
        let after = engine.log.submit(sent).await;
        assert_eq!(after.expect_err("it came behind"), CommitError::Closed);
        let late = engine.log.open_producer(None).await;
        assert_eq!(late, Err(CommitError::Closed));
    });
}
