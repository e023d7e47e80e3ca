//! Producers' identities and what each sent last to each partition, so that a
//! repeat is recognised and a gap is refused.
//!
//! A producer numbers its records per partition from 0, and again from 0 under
//! a new epoch; numbers wrap at 2^31, as those of Kafka's producers do. Every
//! change can be undone, because a group whose write fails must leave no trace.
//! Pure state: no disk, no clock.

use std::sync::Arc;

use eddy_protocol::ProducerStamp;
use eddy_protocol::batch::{SEQUENCES, sequence_after, sequences_between};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::log::{CommitError, Producer, TopicId};

/// How many batches are remembered per producer and partition: as many as a
/// client may have in flight, so that every retry gets its offset.
const REMEMBERED: usize = 8;

/// A partition, as a key.
pub(crate) type PartitionKey = (TopicId, u32);

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
    /// The sequence that must come next.
    pub(crate) next: u32,
    /// How many entries of `sent` are used.
    pub(crate) used: u8,
    /// The newest batches, oldest first.
    pub(crate) sent: [Sent; REMEMBERED],
}

/// A producer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Identity {
    pub(crate) epoch: u16,
    pub(crate) name: Option<String>,
    pub(crate) used_ms: i64,
    pub(crate) windows: FxHashMap<PartitionKey, Window>,
}

/// All producers.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    pub(crate) next_id: u64,
    /// Shared with a checkpoint that is being written; copied before a change only then.
    by_id: FxHashMap<u64, Arc<Identity>>,
    by_name: FxHashMap<String, u64>,
    changed: FxHashSet<u64>,
    forgotten: FxHashSet<u64>,
    /// Windows that a checkpoint must keep as they are, or forget.
    changed_windows: FxHashSet<(u64, PartitionKey)>,
    /// How many windows there are.
    windows: usize,
}

/// How many windows there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Of one producer.
    pub(crate) partitions_max: usize,
    /// Of all together.
    pub(crate) windows_max: usize,
}

/// What changed since the last checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// Identities, without their windows.
    pub(crate) identities: Vec<(u64, Identity)>,
    pub(crate) windows: Vec<(u64, PartitionKey, Option<Window>)>,
    pub(crate) gone: Vec<u64>,
}

/// What a batch is, seen from its producer's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The next one.
    New,
    /// One that came before, at this offset if that is remembered.
    Repeat(Option<u64>),
}

/// How to take a change back.
#[derive(Debug)]
pub(crate) enum Undo {
    Window {
        id: u64,
        key: PartitionKey,
        before: Option<Window>,
        used_ms: i64,
    },
    Identity {
        id: u64,
        before: Option<Arc<Identity>>,
    },
    NextId(u64),
}

impl Window {
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

    fn add(&mut self, stamp: ProducerStamp, count: u32, offset: u64) {
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

impl Identity {
    /// All but its windows.
    fn head(&self) -> Identity {
        Identity {
            epoch: self.epoch,
            name: self.name.clone(),
            used_ms: self.used_ms,
            windows: FxHashMap::default(),
        }
    }
}

impl Producers {
    /// What to do with a batch.
    pub(crate) fn judge(
        &self,
        key: PartitionKey,
        stamp: ProducerStamp,
        count: u32,
        limits: Limits,
    ) -> Result<Verdict, CommitError> {
        let identity = self
            .by_id
            .get(&stamp.id)
            .ok_or(CommitError::UnknownProducer(stamp.id))?;
        if stamp.epoch < identity.epoch {
            return Err(CommitError::Fenced {
                id: stamp.id,
                epoch: stamp.epoch,
                current: identity.epoch,
            });
        }
        if stamp.epoch > identity.epoch {
            return Err(CommitError::UnknownProducer(stamp.id));
        }
        let window = identity
            .windows
            .get(&key)
            .filter(|window| window.epoch == stamp.epoch);
        // What an earlier release wrote down may have been counted to 2^32.
        let expected = window.map_or(0, |window| window.next % SEQUENCES);
        let out_of_order = CommitError::OutOfOrder {
            id: stamp.id,
            expected,
            sequence: stamp.sequence,
        };
        // Half of the circle lies behind, half ahead, so that numbers may wrap.
        let behind = sequences_between(stamp.sequence, expected);
        if behind == 0 {
            if !identity.windows.contains_key(&key) {
                self.check_room(stamp.id, identity, limits)?;
            }
            return Ok(Verdict::New);
        }
        let Some(window) = window.filter(|_| behind < SEQUENCES / 2) else {
            return Err(out_of_order);
        };
        let same = |sent: &&Sent| {
            sequences_between(sent.sequence, stamp.sequence) == 0 && sent.count == count
        };
        if let Some(sent) = window.remembered().iter().find(same) {
            return Ok(Verdict::Repeat(Some(sent.offset)));
        }
        // Older than what is remembered, or batched anew: all of its records are in the log.
        if behind >= count {
            return Ok(Verdict::Repeat(None));
        }
        Err(out_of_order)
    }

    /// Whether one more window is within the limits.
    fn check_room(&self, id: u64, of: &Identity, limits: Limits) -> Result<(), CommitError> {
        if of.windows.len() >= limits.partitions_max {
            return Err(CommitError::TooManyWindows {
                id,
                most: limits.partitions_max,
                setting: "store.producer_partitions_max",
            });
        }
        if self.windows >= limits.windows_max {
            return Err(CommitError::TooManyWindows {
                id,
                most: limits.windows_max,
                setting: "store.producer_windows_max",
            });
        }
        Ok(())
    }

    /// Takes note of a batch that was appended.
    pub(crate) fn sent(
        &mut self,
        key: PartitionKey,
        stamp: ProducerStamp,
        count: u32,
        at: (u64, i64),
    ) -> Option<Undo> {
        let identity = Arc::make_mut(self.by_id.get_mut(&stamp.id)?);
        let (offset, now_ms) = at;
        let before = identity.windows.get(&key).copied();
        self.windows += usize::from(before.is_none());
        self.changed_windows.insert((stamp.id, key));
        identity
            .windows
            .entry(key)
            .or_default()
            .add(stamp, count, offset);
        let used_ms = identity.used_ms;
        identity.used_ms = used_ms.max(now_ms);
        self.changed.insert(stamp.id);
        Some(Undo::Window {
            id: stamp.id,
            key,
            before,
            used_ms,
        })
    }

    /// A new identity, or the next epoch of a named one.
    pub(crate) fn open(&self, name: Option<&str>) -> Producer {
        let known = name.and_then(|name| self.by_name.get(name)).copied();
        match known.and_then(|id| Some((id, self.by_id.get(&id)?))) {
            Some((id, identity)) => self.after(id, identity.epoch),
            None => self.unused(),
        }
    }

    /// The next epoch of an identity without a name, whose holder asks for it; a
    /// new identity if it is not known (any more).
    pub(crate) fn next_epoch(&self, current: Producer) -> Result<Producer, CommitError> {
        let Producer { id, epoch } = current;
        let known = self.by_id.get(&id).filter(|known| known.name.is_none());
        match known {
            None => Ok(self.unused()),
            Some(known) if known.epoch <= epoch => Ok(self.after(id, epoch)),
            // Its holder was given it already, and the answer got lost: nothing was sent under it.
            Some(known) if known.epoch == epoch + 1 && known.windows.is_empty() => Ok(Producer {
                id,
                epoch: known.epoch,
            }),
            Some(known) => Err(CommitError::Fenced {
                id,
                epoch,
                current: known.epoch,
            }),
        }
    }

    /// A wrapped epoch could not fence: there is a new id instead.
    fn after(&self, id: u64, epoch: u16) -> Producer {
        // As far as Kafka's clients count.
        const EPOCH_MAX: u16 = i16::MAX as u16;
        match epoch {
            EPOCH_MAX.. => self.unused(),
            _ => Producer {
                id,
                epoch: epoch + 1,
            },
        }
    }

    fn unused(&self) -> Producer {
        Producer {
            id: self.next_id.max(1),
            epoch: 0,
        }
    }

    /// Takes note of an identity that was handed out.
    pub(crate) fn opened(
        &mut self,
        producer: Producer,
        name: Option<&str>,
        now_ms: i64,
        undo: &mut Vec<Undo>,
    ) {
        undo.push(Undo::NextId(self.next_id));
        self.next_id = self.next_id.max(producer.id + 1);
        if let Some(older) = name.and_then(|name| self.by_name.get(name)).copied()
            && older != producer.id
        {
            undo.push(self.forget(older));
        }
        let before = self.by_id.get(&producer.id).cloned();
        undo.push(Undo::Identity {
            id: producer.id,
            before,
        });
        let identity = Arc::make_mut(self.by_id.entry(producer.id).or_default());
        identity.epoch = producer.epoch;
        identity.name = name.map(str::to_owned);
        identity.used_ms = now_ms;
        // Numbers begin anew under the new epoch.
        let ended = std::mem::take(&mut identity.windows);
        self.windows -= ended.len();
        self.windows_changed(producer.id, &ended);
        if let Some(name) = name {
            self.by_name.insert(name.to_owned(), producer.id);
        }
        self.forgotten.remove(&producer.id);
        self.changed.insert(producer.id);
    }

    /// Forgets an identity; its id is never handed out again.
    pub(crate) fn forget(&mut self, id: u64) -> Undo {
        let before = self.by_id.remove(&id);
        if let Some(name) = before.as_ref().and_then(|identity| identity.name.as_ref())
            && self.by_name.get(name) == Some(&id)
        {
            self.by_name.remove(name);
        }
        self.changed.remove(&id);
        self.forgotten.insert(id);
        if let Some(identity) = &before {
            self.windows -= identity.windows.len();
            self.windows_changed(id, &identity.windows);
        }
        Undo::Identity { id, before }
    }

    /// Forgets what was sent to a topic that is gone.
    pub(crate) fn forget_topic(&mut self, topic: TopicId) {
        for (id, identity) in &mut self.by_id {
            if identity.windows.keys().any(|(of, _)| *of == topic) {
                let windows = &mut Arc::make_mut(identity).windows;
                let before = windows.len();
                let gone = windows.keys().filter(|(of, _)| *of == topic);
                self.changed_windows.extend(gone.map(|key| (*id, *key)));
                windows.retain(|(of, _), _| *of != topic);
                self.windows -= before - windows.len();
            }
        }
    }

    /// Takes a change back. Changes must be taken back newest first.
    pub(crate) fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Window {
                id,
                key,
                before,
                used_ms,
            } => {
                let Some(identity) = self.by_id.get_mut(&id) else {
                    return;
                };
                let identity = Arc::make_mut(identity);
                identity.used_ms = used_ms;
                match before {
                    Some(window) => identity.windows.insert(key, window),
                    None => identity.windows.remove(&key),
                };
                self.windows -= usize::from(before.is_none());
            }
            Undo::Identity { id, before } => {
                if let Some(now) = self.by_id.remove(&id) {
                    if let Some(name) = &now.name {
                        self.by_name.remove(name);
                    }
                    self.windows -= now.windows.len();
                    self.windows_changed(id, &now.windows);
                }
                match before {
                    Some(identity) => {
                        self.changed.insert(id);
                        self.windows_changed(id, &identity.windows);
                        self.insert(id, identity);
                    }
                    None => {
                        self.changed.remove(&id);
                    }
                }
            }
            Undo::NextId(id) => self.next_id = id,
        }
    }

    /// Puts an identity there, as read from a checkpoint.
    pub(crate) fn insert(&mut self, id: u64, identity: impl Into<Arc<Identity>>) {
        let identity = identity.into();
        if let Some(name) = &identity.name {
            self.by_name.insert(name.clone(), id);
        }
        self.next_id = self.next_id.max(id + 1);
        self.forgotten.remove(&id);
        self.windows += identity.windows.len();
        self.by_id.insert(id, identity);
    }

    fn windows_changed(&mut self, id: u64, windows: &FxHashMap<PartitionKey, Window>) {
        self.changed_windows
            .extend(windows.keys().map(|key| (id, *key)));
    }

    /// The ids that were not used since `since_ms`, and, while there are more
    /// than `max`, those that were idle longest; in the order of ids.
    pub(crate) fn idle(&self, since_ms: i64, max: usize, windows_max: usize) -> Vec<u64> {
        let mut by_use: Vec<(i64, u64)> = self
            .by_id
            .iter()
            .map(|(id, identity)| (identity.used_ms, *id))
            .collect();
        let surplus = by_use.len().saturating_sub(max);
        let surplus = surplus.max(self.surplus_of_windows(&mut by_use, windows_max));
        if surplus > 0 {
            by_use.select_nth_unstable(surplus - 1);
        }
        let idle = by_use.iter().enumerate();
        let idle = idle.filter(|(place, (used_ms, _))| *place < surplus || *used_ms < since_ms);
        let mut idle: Vec<u64> = idle.map(|(_, (_, id))| *id).collect();
        idle.sort_unstable();
        idle
    }

    /// How many of those that were idle longest must go so that so many windows are left.
    fn surplus_of_windows(&self, by_use: &mut [(i64, u64)], windows_max: usize) -> usize {
        if self.windows <= windows_max {
            return 0;
        }
        by_use.sort_unstable();
        let mut left = self.windows;
        let goes = by_use.iter().take_while(|(_, id)| {
            let is_much = left > windows_max;
            left -= self.by_id.get(id).map_or(0, |it| it.windows.len());
            is_much
        });
        goes.count()
    }

    /// How many windows there are.
    pub(crate) fn windows(&self) -> usize {
        self.windows
    }

    /// How many identities there are.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    #[cfg(test)]
    pub(crate) fn get(&self, id: u64) -> Option<&Identity> {
        self.by_id.get(&id).map(Arc::as_ref)
    }

    /// What changed since the last call: the identities as they are, and the ids that are gone.
    pub(crate) fn take_changes(&mut self) -> Changed {
        let mut changed: Vec<u64> = self.changed.drain().collect();
        changed.sort_unstable();
        let identities = changed
            .iter()
            .filter_map(|id| Some((*id, self.by_id.get(id)?.head())))
            .collect();
        let mut keys: Vec<_> = self.changed_windows.drain().collect();
        keys.sort_unstable();
        let window = |(id, key): (u64, PartitionKey)| {
            let identity = self.by_id.get(&id);
            let window = identity.and_then(|identity| identity.windows.get(&key));
            (id, key, window.copied())
        };
        let windows = keys.into_iter().map(window).collect();
        let mut gone: Vec<u64> = self.forgotten.drain().collect();
        gone.sort_unstable();
        Changed {
            identities,
            windows,
            gone,
        }
    }

    /// Says that the changes were not kept after all.
    pub(crate) fn put_back(&mut self, changes: &Changed) {
        for (id, _) in &changes.identities {
            if self.by_id.contains_key(id) {
                self.changed.insert(*id);
            }
        }
        for id in &changes.gone {
            if !self.by_id.contains_key(id) {
                self.forgotten.insert(*id);
            }
        }
        let windows = changes.windows.iter().map(|(id, key, _)| (*id, *key));
        self.changed_windows.extend(windows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
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
            assert_eq!(
                producers.judge(KEY, stamp(0, n * 10), 10, LIMITS),
                Ok(Verdict::New)
            );
            producers.sent(KEY, stamp(0, n * 10), 10, (u64::from(n) * 100, 0));
        }
        assert_eq!(
            producers.judge(KEY, stamp(0, 190), 10, LIMITS),
            Ok(Verdict::Repeat(Some(1900)))
        );
        assert_eq!(
            producers.judge(KEY, stamp(0, 120), 10, LIMITS),
            Ok(Verdict::Repeat(Some(1200)))
        );
        assert_eq!(
            producers.judge(KEY, stamp(0, 0), 10, LIMITS),
            Ok(Verdict::Repeat(None))
        );
        let refused = Err(CommitError::OutOfOrder {
            id: 1,
            expected: 200,
            sequence: 195,
        });
        assert_eq!(producers.judge(KEY, stamp(0, 195), 10, LIMITS), refused);
        let refused = Err(CommitError::OutOfOrder {
            id: 1,
            expected: 200,
            sequence: 210,
        });
        assert_eq!(producers.judge(KEY, stamp(0, 210), 10, LIMITS), refused);
    }

    #[test]
    fn sequences_wrap() {
        let mut producers = opened(None);
        producers.sent(KEY, stamp(0, SEQUENCES - 5), 10, (7, 0));
        assert_eq!(
            producers.judge(KEY, stamp(0, 5), 1, LIMITS),
            Ok(Verdict::New)
        );
        // As an earlier release counted.
        for sequence in [SEQUENCES - 5, u32::MAX - 4] {
            assert_eq!(
                producers.judge(KEY, stamp(0, sequence), 10, LIMITS),
                Ok(Verdict::Repeat(Some(7)))
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
        assert_eq!(producers.judge(KEY, stamp(0, 1), 1, LIMITS), fenced);
        assert_eq!(
            producers.judge((TopicId(9), 3), stamp(0, 0), 1, LIMITS),
            fenced
        );
        assert_eq!(
            producers.judge(KEY, stamp(1, 0), 1, LIMITS),
            Ok(Verdict::New)
        );
        assert_eq!(
            producers.judge(KEY, stamp(2, 0), 1, LIMITS),
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
        assert_eq!(producers.judge(KEY, stamp(0, 1), 1, LIMITS), fenced);
        assert_eq!(
            producers.judge(KEY, stamp(1, 0), 1, LIMITS),
            Ok(Verdict::New)
        );
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
            producers.judge(
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
        producers.judge(key, stamp, 1, LIMITS)?;
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
}
