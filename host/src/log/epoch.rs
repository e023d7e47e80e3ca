//! A partition's epochs: each is a history, and where one ended another began.
//! The offsets from there on were lost, or are given again.

use super::id::TopicId;

/// How many epochs are remembered. A position of an older one is not known.
const EPOCHS_MAX: usize = 64;

/// What a reader's stored position means to the partition as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Everything before the position is as the reader knows it.
    Here,
    /// The histories part at `at`, before the position: what the reader had from
    /// there on is no more, and other records may have those offsets.
    Lost {
        /// Where the newer epoch began.
        at: u64,
    },
    /// The position is of an epoch that is not remembered (or that this folder
    /// never had): where the histories part is not known.
    Unknown,
}

/// Where an epoch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) epoch: u32,
    /// `None`: before this was written down.
    pub(crate) from: Option<u64>,
}

/// The epochs of a partition that records were given in, oldest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Epochs {
    /// Never empty; both numbers rise.
    starts: Vec<Start>,
}

impl Epochs {
    /// Those of a new partition. A topic of the same name that was there before
    /// had others, so that its readers can tell.
    pub(crate) fn first(topic: TopicId) -> Epochs {
        Epochs {
            starts: vec![Start {
                epoch: first_epoch(topic),
                from: Some(0),
            }],
        }
    }

    /// What a release knew that kept the newest epoch alone.
    pub(crate) fn alone(topic: TopicId, epoch: u32) -> Epochs {
        let from = (epoch == first_epoch(topic)).then_some(0);
        Epochs {
            starts: vec![Start { epoch, from }],
        }
    }

    /// What was kept; `None` if that makes no sense.
    pub(crate) fn kept(starts: Vec<Start>) -> Option<Epochs> {
        let rises = |pair: &[Start]| pair[1].from.is_some() && pair[0].from < pair[1].from;
        (!starts.is_empty() && starts.windows(2).all(rises)).then_some(Epochs { starts })
    }

    pub(crate) fn starts(&self) -> &[Start] {
        &self.starts
    }

    /// The newest epoch.
    pub(crate) fn current(&self) -> u32 {
        self.starts[self.starts.len() - 1].epoch
    }

    /// Begins another epoch: what had offsets from `from` on may be lost.
    pub(crate) fn begin(&mut self, epoch: u32, from: u64) {
        if epoch == self.current() {
            return;
        }
        // Nothing is left of an epoch that began there or behind.
        self.starts
            .retain(|start| start.from.is_none_or(|before| before < from));
        self.starts.push(Start {
            epoch,
            from: Some(from),
        });
        if self.starts.len() > EPOCHS_MAX {
            self.starts.remove(0);
        }
    }

    /// What a position means that was stored under `epoch`; `None`: by a release
    /// that stored no epoch.
    pub(crate) fn resume(&self, epoch: Option<u32>, offset: u64) -> Resume {
        let oldest = self.starts[0];
        let is_whole = oldest.from == Some(0);
        let Some(epoch) = epoch else {
            let has_one = is_whole && self.starts.len() == 1;
            return if has_one {
                Resume::Here
            } else {
                Resume::Unknown
            };
        };
        if epoch == self.current() {
            return Resume::Here;
        }
        if !is_later(self.current(), epoch) || (is_later(oldest.epoch, epoch) && !is_whole) {
            return Resume::Unknown;
        }
        let next = self
            .starts
            .iter()
            .find(|start| is_later(start.epoch, epoch));
        match next.and_then(|start| start.from) {
            Some(at) if offset > at => Resume::Lost { at },
            Some(_) => Resume::Here,
            None => Resume::Unknown,
        }
    }
}

/// The epoch in which a topic's partitions begin.
pub(crate) fn first_epoch(topic: TopicId) -> u32 {
    const EPOCHS_EACH: u32 = 1 << 12;
    let earlier = topic.0.wrapping_sub(1) as u32;
    earlier.wrapping_mul(EPOCHS_EACH).wrapping_add(1)
}

/// Whether `epoch` came after `other`: half of the circle lies ahead.
fn is_later(epoch: u32, other: u32) -> bool {
    let ahead = epoch.wrapping_sub(other);
    ahead != 0 && ahead < 1 << 31
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId(1);

    /// Checks positions: epoch, offset, what they mean.
    fn check(epochs: &Epochs, positions: &[(u32, u64, Resume)]) {
        for (epoch, offset, expected) in positions {
            let found = epochs.resume(Some(*epoch), *offset);
            assert_eq!(found, *expected, "epoch {epoch}, offset {offset}");
        }
    }

    #[test]
    fn a_position_of_an_older_epoch_holds_up_to_where_the_next_one_began() {
        let mut epochs = Epochs::first(TOPIC);
        epochs.begin(2, 90);
        epochs.begin(3, 120);
        check(
            &epochs,
            &[
                (1, 90, Resume::Here),
                (1, 91, Resume::Lost { at: 90 }),
                (2, 120, Resume::Here),
                (2, 121, Resume::Lost { at: 120 }),
                (3, 1000, Resume::Here),
                (4, 0, Resume::Unknown),
            ],
        );
        assert_eq!(epochs.resume(None, 5), Resume::Unknown);
        assert_eq!(Epochs::first(TOPIC).resume(None, 5), Resume::Here);
    }

    #[test]
    fn an_epoch_of_which_nothing_is_left_is_forgotten_and_its_readers_are_told() {
        let mut epochs = Epochs::first(TOPIC);
        epochs.begin(2, 90);
        epochs.begin(3, 80);
        assert_eq!(epochs.starts().len(), 2);
        check(
            &epochs,
            &[
                (1, 80, Resume::Here),
                (1, 85, Resume::Lost { at: 80 }),
                (2, 95, Resume::Lost { at: 80 }),
            ],
        );
        epochs.begin(4, 0);
        check(
            &epochs,
            &[(1, 1, Resume::Lost { at: 0 }), (1, 0, Resume::Here)],
        );
    }

    #[test]
    fn another_topic_of_the_same_name_has_nothing_of_the_one_before() {
        let epochs = Epochs::first(TopicId(2));
        let before = first_epoch(TOPIC);
        check(&epochs, &[(before, 7, Resume::Lost { at: 0 })]);
    }

    #[test]
    fn what_an_earlier_release_did_not_write_down_is_unknown_and_the_rest_is_not() {
        let mut epochs = Epochs::alone(TOPIC, 5);
        epochs.begin(6, 100);
        check(
            &epochs,
            &[
                (4, 10, Resume::Unknown),
                (5, 101, Resume::Lost { at: 100 }),
                (5, 100, Resume::Here),
            ],
        );
        assert_eq!(Epochs::alone(TOPIC, 1), Epochs::first(TOPIC));
    }

    #[test]
    fn the_list_is_bounded() {
        let mut epochs = Epochs::first(TOPIC);
        for n in 1..=200u32 {
            epochs.begin(1 + n, u64::from(n) * 10);
        }
        assert_eq!(epochs.starts().len(), EPOCHS_MAX);
        check(
            &epochs,
            &[
                (2, 5000, Resume::Unknown),
                (200, 2000, Resume::Here),
                (200, 2001, Resume::Lost { at: 2000 }),
            ],
        );
        let kept = Epochs::kept(epochs.starts().to_vec());
        assert_eq!(kept, Some(epochs));
        assert_eq!(Epochs::kept(Vec::new()), None);
    }
}
