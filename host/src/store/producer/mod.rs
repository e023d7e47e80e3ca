//! Producers' identities and what each sent last to each partition, so that a
//! repeat is recognised and a gap is refused.
//!
//! A producer numbers its records per partition from 0, and again from 0 under
//! a new epoch; numbers wrap at 2^31, as those of Kafka's producers do. Every
//! change can be undone, because a group whose write fails must leave no trace.
//! Pure state: no disk, no clock.

mod window;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use eddy_protocol::ProducerStamp;
use rustc_hash::{FxHashMap, FxHashSet};

pub(crate) use self::window::{Order, Sent, Window};
use crate::log::{CommitError, Producer, TopicId};

/// A partition, as a key.
pub(crate) type PartitionKey = (TopicId, u32);

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
pub(crate) struct ProducerLimits {
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
    /// What a batch is, seen from its producer's past; refused if it is not in order.
    pub(crate) fn check(
        &self,
        key: PartitionKey,
        stamp: ProducerStamp,
        count: u32,
        limits: ProducerLimits,
    ) -> Result<Order, CommitError> {
        let ProducerStamp {
            id,
            epoch,
            sequence,
        } = stamp;
        let identity = self.by_id.get(&id);
        let identity = identity.filter(|identity| epoch <= identity.epoch);
        let identity = identity.ok_or(CommitError::UnknownProducer(id))?;
        let current = identity.epoch;
        if epoch < current {
            return Err(CommitError::Fenced { id, epoch, current });
        }
        let window = identity.windows.get(&key);
        let is_new = window.is_none();
        let window = window.filter(|window| window.epoch == epoch);
        let window = window.unwrap_or(Window::EMPTY);
        let expected = window.expected();
        let order = window.order(sequence, count);
        let order = order.ok_or(CommitError::OutOfOrder {
            id,
            expected,
            sequence,
        })?;
        if is_new && order == Order::Next {
            self.check_room(id, identity, limits)?;
        }
        Ok(order)
    }

    /// Whether one more window is within the limits.
    fn check_room(
        &self,
        id: u64,
        of: &Identity,
        limits: ProducerLimits,
    ) -> Result<(), CommitError> {
        let (most, setting) = if of.windows.len() >= limits.partitions_max {
            (limits.partitions_max, "store.producer_partitions_max")
        } else if self.windows >= limits.windows_max {
            (limits.windows_max, "store.producer_windows_max")
        } else {
            return Ok(());
        };
        Err(CommitError::TooManyWindows { id, most, setting })
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
