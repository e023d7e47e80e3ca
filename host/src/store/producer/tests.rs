//! Producers without a store.

use eddy_protocol::batch::SEQUENCES;

use super::*;

const LIMITS: ProducerLimits = ProducerLimits {
    partitions_max: 3,
    windows_max: 5,
};
const KEY: PartitionKey = (TopicId(1), 0);

fn stamp(epoch: u16, sequence: u32) -> ProducerStamp {
    ProducerStamp {
        id: 1,
        epoch,
        sequence,
    }
}

fn check(producers: &Producers, stamp: ProducerStamp, count: u32) -> Result<Order, CommitError> {
    producers.check(KEY, stamp, count, LIMITS)
}

fn opened(name: Option<&str>) -> Producers {
    let mut producers = Producers::default();
    let producer = producers.open(name);
    producers.opened(producer, name, 0, &mut Vec::new());
    producers
}

#[test]
fn a_repeat_gets_its_offset_and_an_old_repeat_none() {
    let mut producers = opened(None);
    for n in 0..20u32 {
        assert_eq!(check(&producers, stamp(0, n * 10), 10), Ok(Order::Next));
        producers.sent(KEY, stamp(0, n * 10), 10, (u64::from(n) * 100, 0));
    }
    assert_eq!(
        check(&producers, stamp(0, 190), 10),
        Ok(Order::Repeat(Some(1900)))
    );
    assert_eq!(
        check(&producers, stamp(0, 120), 10),
        Ok(Order::Repeat(Some(1200)))
    );
    assert_eq!(check(&producers, stamp(0, 0), 10), Ok(Order::Repeat(None)));
    let refused = Err(CommitError::OutOfOrder {
        id: 1,
        expected: 200,
        sequence: 195,
    });
    assert_eq!(check(&producers, stamp(0, 195), 10), refused);
    let refused = Err(CommitError::OutOfOrder {
        id: 1,
        expected: 200,
        sequence: 210,
    });
    assert_eq!(check(&producers, stamp(0, 210), 10), refused);
}

#[test]
fn sequences_wrap() {
    let mut producers = opened(None);
    producers.sent(KEY, stamp(0, SEQUENCES - 5), 10, (7, 0));
    assert_eq!(check(&producers, stamp(0, 5), 1), Ok(Order::Next));
    // As an earlier release counted.
    for sequence in [SEQUENCES - 5, u32::MAX - 4] {
        assert_eq!(
            check(&producers, stamp(0, sequence), 10),
            Ok(Order::Repeat(Some(7)))
        );
    }
}

#[test]
fn a_new_epoch_fences_the_older_one_on_every_partition() {
    let mut producers = opened(Some("n"));
    producers.sent(KEY, stamp(0, 0), 1, (0, 0));
    let second = producers.open(Some("n"));
    assert_eq!(second, Producer { id: 1, epoch: 1 });
    producers.opened(second, Some("n"), 0, &mut Vec::new());
    let fenced = Err(CommitError::Fenced {
        id: 1,
        epoch: 0,
        current: 1,
    });
    assert_eq!(check(&producers, stamp(0, 1), 1), fenced);
    assert_eq!(
        producers.check((TopicId(9), 3), stamp(0, 0), 1, LIMITS),
        fenced
    );
    assert_eq!(check(&producers, stamp(1, 0), 1), Ok(Order::Next));
    assert_eq!(
        check(&producers, stamp(2, 0), 1),
        Err(CommitError::UnknownProducer(1))
    );
}

#[test]
fn an_identity_without_a_name_gets_its_next_epoch_once_however_often_it_asks() {
    let mut producers = opened(None);
    let first = Producer { id: 1, epoch: 0 };
    producers.sent(KEY, stamp(0, 0), 1, (0, 0));
    let second = Producer { id: 1, epoch: 1 };
    for _ in 0..2 {
        assert_eq!(producers.next_epoch(first), Ok(second));
        producers.opened(second, None, 0, &mut Vec::new());
    }
    let fenced = Err(CommitError::Fenced {
        id: 1,
        epoch: 0,
        current: 1,
    });
    assert_eq!(check(&producers, stamp(0, 1), 1), fenced);
    assert_eq!(check(&producers, stamp(1, 0), 1), Ok(Order::Next));
    producers.sent(KEY, stamp(1, 0), 1, (1, 0));
    // A question that comes late, from a lost connection, takes nothing from its holder.
    assert!(matches!(
        producers.next_epoch(first),
        Err(CommitError::Fenced { current: 1, .. })
    ));
}

#[test]
fn an_identity_that_is_not_known_or_has_a_name_is_not_continued() {
    let mut producers = opened(Some("n"));
    let fresh = Ok(Producer { id: 2, epoch: 0 });
    let of = |id, epoch| Producer { id, epoch };
    assert_eq!(producers.next_epoch(of(1, 0)), fresh, "a name's is its own");
    assert_eq!(producers.next_epoch(of(77, 3)), fresh);
    producers.opened(of(2, u16::MAX), None, 0, &mut Vec::new());
    let fresh = Ok(of(3, 0));
    assert_eq!(producers.next_epoch(of(2, u16::MAX)), fresh, "not 0 again");
}

#[test]
fn everything_can_be_undone() {
    let mut producers = opened(Some("n"));
    producers.sent(KEY, stamp(0, 0), 3, (0, 5));
    let before = (
        producers.by_id.clone(),
        producers.by_name.clone(),
        producers.next_id,
    );
    let mut undo = Vec::new();
    undo.extend(producers.sent(KEY, stamp(0, 3), 2, (3, 9)));
    undo.extend(producers.sent((TopicId(2), 1), stamp(0, 0), 2, (0, 9)));
    let next = producers.open(Some("n"));
    producers.opened(next, Some("n"), 10, &mut undo);
    let other = producers.open(None);
    producers.opened(other, None, 11, &mut undo);
    undo.push(producers.forget(1));
    while let Some(last) = undo.pop() {
        producers.undo(last);
    }
    assert_eq!(
        (
            producers.by_id.clone(),
            producers.by_name.clone(),
            producers.next_id
        ),
        before
    );
}

#[test]
fn the_idle_and_the_surplus_are_forgotten() {
    let mut producers = Producers::default();
    for used_ms in [50, 10, 40, 20] {
        let producer = producers.open(None);
        producers.opened(producer, None, used_ms, &mut Vec::new());
    }
    assert_eq!(producers.idle(15, 10, 100), [2]);
    assert_eq!(producers.idle(0, 2, 100), [2, 4]);
    producers.forget(4);
    assert_eq!(producers.open(None).id, 5);
    assert_eq!(
        producers.check(
            KEY,
            ProducerStamp {
                id: 4,
                epoch: 0,
                sequence: 0
            },
            1,
            LIMITS,
        ),
        Err(CommitError::UnknownProducer(4))
    );
}

fn sends(producers: &mut Producers, id: u64, partition: u32) -> Result<(), CommitError> {
    let (key, stamp) = (
        (TopicId(1), partition),
        ProducerStamp {
            id,
            epoch: 0,
            sequence: 0,
        },
    );
    producers.check(key, stamp, 1, LIMITS)?;
    producers.sent(key, stamp, 1, (0, i64::from(partition)));
    Ok(())
}

#[test]
fn windows_are_counted_and_bounded_each_limit_by_its_name() {
    let mut producers = Producers::default();
    for _ in 0..2 {
        let producer = producers.open(None);
        producers.opened(producer, None, 0, &mut Vec::new());
    }
    for partition in 0..3 {
        sends(&mut producers, 1, partition).expect("three are allowed");
    }
    let error = sends(&mut producers, 1, 3)
        .expect_err("four are not")
        .to_string();
    assert!(
        error.contains("3") && error.contains("store.producer_partitions_max"),
        "{error}"
    );
    for partition in 0..2 {
        sends(&mut producers, 2, partition + 10).expect("there is room");
    }
    let error = sends(&mut producers, 2, 2)
        .expect_err("there is none")
        .to_string();
    assert!(
        error.contains("5") && error.contains("store.producer_windows_max"),
        "{error}"
    );
    assert_eq!(producers.windows(), 5);
    assert_eq!(
        producers.idle(0, 10, 4),
        [1],
        "the one that was idle longest"
    );
    producers.forget(1);
    assert_eq!(producers.windows(), 2);
    producers.forget_topic(TopicId(1));
    assert_eq!(producers.windows(), 0);
}

#[test]
fn a_checkpoint_is_given_the_windows_that_changed_and_no_others() {
    let mut producers = opened(None);
    for partition in 0..3 {
        sends(&mut producers, 1, partition).expect("there is room");
    }
    assert_eq!(producers.take_changes().windows.len(), 3);
    producers.sent((TopicId(1), 1), stamp(0, 1), 1, (1, 0));
    let changes = producers.take_changes();
    let keys: Vec<_> = changes
        .windows
        .iter()
        .map(|(id, key, _)| (*id, key.1))
        .collect();
    assert_eq!(keys, [(1, 1)]);
    producers.put_back(&changes);
    producers.forget(1);
    let changes = producers.take_changes();
    assert_eq!(changes.windows.len(), 3);
    assert!(
        changes
            .windows
            .iter()
            .all(|(_, _, window)| window.is_none())
    );
    assert_eq!(changes.gone, [1]);
}
