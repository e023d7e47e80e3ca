//! Reading from any offset and any time, held against a plain list.

mod store_kit;

use eddy::io::{CrashKind, FaultyDisk};
use eddy::log::{Append, Commit, Log as _, ReadError, TailRead};
use eddy_protocol::frame::TopicSettings;
use proptest::prelude::*;
use store_kit::*;

/// A batch: how many records, how long, and the timestamp.
#[derive(Debug, Clone)]
enum Step {
    Append {
        count: usize,
        length: usize,
        timestamp: i64,
    },
    Restart {
        closed: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (1..6usize, 0..300usize, 0..1000i64)
            .prop_map(|(count, length, timestamp)| Step::Append { count, length, timestamp }),
        1 => any::<bool>().prop_map(|closed| Step::Restart { closed }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_from_any_offset_and_time_equal_those_of_a_plain_list(
        steps in prop::collection::vec(step(), 1..80),
        bytes_max in 1..5000u64,
        times in prop::collection::vec(-10..1100i64, 4),
    ) {
        let disk = FaultyDisk::new(1);
        let mut store = open(&disk);
        create(&store, "t", 1, TopicSettings::default());
        // The naive version: value and timestamp, at its offset.
        let mut model: Vec<(String, i64)> = Vec::new();
        for step in steps {
            match step {
                Step::Append { count, length, timestamp } => {
                    let values: Vec<String> =
                        (0..count).map(|n| format!("{}{}", model.len() + n, "x".repeat(length))).collect();
                    let refs: Vec<&str> = values.iter().map(String::as_str).collect();
                    let topic = store.topics().by_name(&name_of("t")).expect("it was made").id();
                    let append = Append { topic, partition: 0, batch: batch(&refs, timestamp, None) };
                    let committed = wait(store.commit(Commit { appends: vec![append], ..Commit::default() }));
                    prop_assert_eq!(committed.expect("there is room").appends[0].offset, Some(model.len() as u64));
                    model.extend(values.into_iter().map(|value| (value, timestamp)));
                }
                Step::Restart { closed } => {
                    if closed {
                        wait(store.close());
                    }
                    drop(store);
                    disk.crash(CrashKind::Machine);
                    store = open(&disk);
                }
            }
        }
        let partition = store.topics().by_name(&name_of("t")).expect("it was made").partitions()[0].clone();
        let end = model.len() as u64;
        prop_assert_eq!(partition.end(), end);
        for offset in 0..end {
            let read = partition.read(offset, bytes_max).expect("it can be read");
            let mut next = read.batches[0].base_offset();
            prop_assert!(next <= offset && offset < read.batches[0].end_offset());
            let (last, others) = read.batches.split_last().expect("the offset exists");
            prop_assert!(others.iter().map(|batch| batch.len() as u64).sum::<u64>() < bytes_max);
            for batch in others.iter().chain([last]) {
                for record in batch.records().expect("it is whole").iter() {
                    let (value, timestamp) = &model[record.offset as usize];
                    prop_assert_eq!((record.offset, record.timestamp), (next, *timestamp));
                    prop_assert_eq!(record.value, Some(value.as_bytes()));
                    next += 1;
                }
            }
            match partition.read_tail(offset, bytes_max) {
                TailRead::Batches(batches) => prop_assert!(batches[0].base_offset() <= offset),
                TailRead::OnDisk => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert!(matches!(partition.read_tail(end, 1), TailRead::AtEnd));
        prop_assert_eq!(partition.read(end + 1, 1).expect_err("beyond"), ReadError::BeyondEnd { end });
        for time in times {
            let naive = model.iter().position(|(_, timestamp)| *timestamp >= time).map_or(end, |at| at as u64);
            prop_assert_eq!(partition.offset_at_time(time), Ok(naive), "time {}", time);
        }
    }
}
