//! What a producer sent to a partition last: enough to give every retry its offset.

use eddy_protocol::ProducerStamp;
use eddy_protocol::batch::{SEQUENCES, sequence_after, sequences_between};

/// How many batches are remembered per producer and partition: as many as a
/// client may have in flight, so that every retry gets its offset.
const REMEMBERED: usize = 8;

/// One batch that a producer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sent {
    pub(crate) sequence: u32,
    pub(crate) count: u32,
    pub(crate) offset: u64,
}

/// What a producer sent to a partition last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Window {
    pub(crate) epoch: u16,
    pub(crate) next: u32,
    /// How many entries of `sent` are used.
    pub(crate) used: u8,
    /// The newest batches, oldest first.
    pub(crate) sent: [Sent; REMEMBERED],
}

/// What a batch is, seen from those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// The next one.
    Next,
    /// One that came before, at this offset if that is remembered.
    Repeat(Option<u64>),
}

impl Window {
    pub(super) const EMPTY: &Window = &Window {
        epoch: 0,
        next: 0,
        used: 0,
        sent: [Sent {
            sequence: 0,
            count: 0,
            offset: 0,
        }; REMEMBERED],
    };

    /// The sequence that must come next. What an earlier release wrote down may
    /// have been counted to 2^32.
    pub(super) fn expected(&self) -> u32 {
        self.next % SEQUENCES
    }

    /// Where a batch of the window's epoch belongs; `None`: it is out of order.
    pub(super) fn order(&self, sequence: u32, count: u32) -> Option<Order> {
        // Half of the circle lies behind, half ahead, so that numbers may wrap.
        let behind = sequences_between(sequence, self.expected());
        if behind == 0 {
            return Some(Order::Next);
        }
        if self.used == 0 || behind >= SEQUENCES / 2 {
            return None;
        }
        let same =
            |sent: &&Sent| sequences_between(sent.sequence, sequence) == 0 && sent.count == count;
        match self.remembered().iter().find(same) {
            Some(sent) => Some(Order::Repeat(Some(sent.offset))),
            // Older than what is remembered, or batched anew: all of its records are in the log.
            None => (behind >= count).then_some(Order::Repeat(None)),
        }
    }

    /// A window as a checkpoint kept it; `None` if it remembers too much.
    pub(crate) fn kept(epoch: u16, next: u32, sent: &[Sent]) -> Option<Window> {
        let mut window = Window {
            epoch,
            next,
            used: u8::try_from(sent.len()).ok()?,
            ..Window::default()
        };
        window.sent.get_mut(..sent.len())?.copy_from_slice(sent);
        Some(window)
    }

    pub(crate) fn remembered(&self) -> &[Sent] {
        &self.sent[..usize::from(self.used).min(REMEMBERED)]
    }

    pub(super) fn add(&mut self, stamp: ProducerStamp, count: u32, offset: u64) {
        if self.epoch != stamp.epoch {
            *self = Window {
                epoch: stamp.epoch,
                ..Window::default()
            };
        }
        if usize::from(self.used) == REMEMBERED {
            self.sent.rotate_left(1);
            self.used -= 1;
        }
        self.sent[usize::from(self.used)] = Sent {
            sequence: stamp.sequence,
            count,
            offset,
        };
        self.used += 1;
        self.next = sequence_after(stamp.sequence, count);
    }
}
