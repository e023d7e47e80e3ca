//! Whether everything has been read that was there at the start.

use std::collections::BTreeMap;

use eddy_protocol::frame::{Position, TopicInfo};

/// The partitions whose end was not reached yet, with that end.
#[derive(Debug)]
pub(super) struct UntilEnd(BTreeMap<u32, u64>);

impl UntilEnd {
    /// Everything that these partitions hold now; none named: all of them.
    pub(super) fn new(info: &TopicInfo, partitions: &[u32]) -> UntilEnd {
        let wanted = info.partitions.iter().filter(|partition| {
            let chosen = partitions.is_empty() || partitions.contains(&partition.partition);
            // A stopped partition delivers nothing; waiting for it would be for ever.
            chosen && partition.stopped.is_none() && partition.end > partition.start
        });
        UntilEnd(
            wanted
                .map(|partition| (partition.partition, partition.end))
                .collect(),
        )
    }

    /// Whether the reader, who is at these positions, has come to every end.
    pub(super) fn reached<'a>(
        &mut self,
        positions: impl IntoIterator<Item = &'a Position>,
    ) -> bool {
        for position in positions {
            if self
                .0
                .get(&position.partition)
                .is_some_and(|end| position.offset >= *end)
            {
                self.0.remove(&position.partition);
            }
        }
        self.0.is_empty()
    }

    /// Nothing more will come from this partition.
    pub(super) fn give_up(&mut self, partition: u32) {
        self.0.remove(&partition);
    }
}

/// Which of these partitions are stopped; none named: of all.
pub(super) fn stopped(info: &TopicInfo, partitions: &[u32]) -> Vec<u32> {
    let chosen = info
        .partitions
        .iter()
        .filter(|partition| partitions.is_empty() || partitions.contains(&partition.partition));
    let stopped = chosen.filter(|partition| partition.stopped.is_some());
    stopped.map(|partition| partition.partition).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use eddy_protocol::TopicName;
    use eddy_protocol::frame::{PartitionInfo, TopicSettings};

    fn topic(ends: &[(u64, u64)]) -> TopicInfo {
        let partitions = (0..)
            .zip(ends)
            .map(|(partition, (start, end))| PartitionInfo {
                partition,
                epoch: 1,
                start: *start,
                end: *end,
                bytes: 0,
                stopped: None,
            });
        TopicInfo {
            topic: TopicName::parse("t").expect("a name"),
            settings: TopicSettings::default(),
            partitions: partitions.collect(),
            uuid: String::new(),
        }
    }

    fn at(partition: u32, offset: u64) -> Position {
        Position {
            partition,
            offset,
            epoch: 1,
        }
    }

    #[test]
    fn the_end_is_reached_once_every_partition_is_at_its_own() {
        let mut until_end = UntilEnd::new(&topic(&[(0, 5), (0, 0), (3, 7)]), &[]);
        assert!(!until_end.reached(&[at(0, 5), at(2, 6)]));
        assert!(!until_end.reached(&[at(0, 9)]));
        assert!(until_end.reached(&[at(2, 8)]));
    }

    #[test]
    fn partitions_that_were_not_asked_for_are_not_waited_for() {
        let mut until_end = UntilEnd::new(&topic(&[(0, 5), (0, 5)]), &[1]);
        assert!(until_end.reached(&[at(1, 5)]));
        assert!(
            UntilEnd::new(&topic(&[(7, 7)]), &[]).reached(&[]),
            "an empty topic ends at once"
        );
    }

    #[test]
    fn a_partition_that_ended_is_not_waited_for() {
        let mut until_end = UntilEnd::new(&topic(&[(0, 5)]), &[]);
        assert!(!until_end.reached(&[]));
        until_end.give_up(0);
        assert!(until_end.reached(&[]));
    }
}
