//! What segments still have where the journal is damaged.
//!
//! Everything visible goes to segments soon after it is in the journal; they
//! are not synced, but unless the machine itself failed they are whole. A batch
//! from there counts where its checksum is right and it continues the
//! partition, and either the journal's directory names its checksum or the
//! number of all records says that nothing else is missing.

use eddy_protocol::Batch;
use rustc_hash::{FxHashMap, FxHashSet};

use super::events::Event;
use super::part::Part;
use super::replay::Replay;
use crate::log::TopicId;
use crate::store::journal::group::Header;
use crate::store::journal::operation::{Operation, Placed};
use crate::store::journal::scan::Scanned;
use crate::store::partition::stop::Cause;
use crate::store::producer::PartitionKey;
use crate::store::segment::files::Files;
use crate::store::segment::read::{self, Position, Wanted};
use crate::store::segment::{HEADER_BYTES, Key};

/// How much of a segment is looked at at a time.
const REST_BYTES: u64 = 1 << 20;

/// Where a batch may be: a segment, from this position, up to its length.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    key: Key,
    from: Position,
    len: u64,
}

/// Where the batch `placed` is, if a segment has it. The partition's records
/// before it must be written out.
pub(crate) fn batch(part: &Part, placed: &Placed) -> Option<Candidate> {
    candidates(part)
        .into_iter()
        .find(|candidate| candidate.from.offset == placed.base)
}

/// Reads one batch, if it is the one that the journal names.
pub(crate) fn read(files: &Files, at: Candidate, placed: &Placed) -> Option<Batch> {
    let wanted = Wanted {
        offset: placed.base,
        bytes_max: 1,
        len: at.len,
    };
    let found = read::read(files, at.key, at.from, wanted).ok()?;
    found
        .batches
        .into_iter()
        .next()
        .filter(|batch| placed.matches(batch))
}

/// Everything behind the partition's end that its segments have, up to the
/// offset `until`.
pub(crate) fn rest(files: &Files, part: &Part, until: u64) -> Vec<Batch> {
    let mut all = Vec::new();
    let mut end = part.end();
    for candidate in candidates(part) {
        if candidate.from.offset != end || end >= until {
            continue;
        }
        let mut from = candidate.from;
        while from.at < candidate.len && end < until {
            let wanted = Wanted {
                offset: end,
                bytes_max: REST_BYTES,
                len: candidate.len,
            };
            let Ok(found) = read::read(files, candidate.key, from, wanted) else {
                break;
            };
            from = found.next;
            for batch in found.batches {
                if batch.end_offset() > until {
                    return all;
                }
                end = batch.end_offset();
                all.push(batch);
            }
        }
    }
    all
}

/// Whether its segments have a whole batch behind the partition's end.
pub(crate) fn has_more(files: &Files, part: &Part) -> bool {
    let goes_on = |candidate: &Candidate| {
        let wanted = Wanted {
            offset: part.end(),
            bytes_max: 1,
            len: candidate.len,
        };
        let found = read::read(files, candidate.key, candidate.from, wanted);
        candidate.from.offset == part.end() && found.is_ok_and(|found| !found.batches.is_empty())
    };
    candidates(part).iter().any(goes_on)
}

/// The rest of the newest segment, and the segments behind it.
fn candidates(part: &Part) -> Vec<Candidate> {
    let mut all = Vec::new();
    if let Some((base, at)) = part.written_to()
        && let Some(len) = part.found.get(&base)
        && at < *len
    {
        all.push(Candidate {
            key: Key::of(part.key(), base),
            from: Position {
                offset: part.end(),
                at,
            },
            len: *len,
        });
    }
    for (base, len) in part.found.range(part.end()..) {
        if *len > HEADER_BYTES {
            all.push(Candidate {
                key: Key::of(part.key(), *base),
                from: Position {
                    offset: *base,
                    at: HEADER_BYTES,
                },
                len: *len,
            });
        }
    }
    all
}

/// Groups of which nothing is known but how much they held, and what was found
/// of it.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// The event that is being replayed.
    pub(crate) at: usize,
    /// Where each partition's appends behind the first damage are, and their bases.
    appends: FxHashMap<PartitionKey, Vec<(usize, u64)>>,
    /// Topics that are created behind the first damage.
    created: FxHashSet<TopicId>,
    /// Topics from here on were created behind the checkpoint.
    first_topic: u64,
    records_lost: u64,
    records_found: u64,
    changes_lost: u64,
    found_in: FxHashSet<PartitionKey>,
    /// How many damages there were when the newest gap was met.
    newest: usize,
}

impl Gaps {
    pub(crate) fn new(first_topic: u64) -> Gaps {
        Gaps {
            first_topic,
            ..Gaps::default()
        }
    }

    /// Takes note of what comes behind the first damage.
    pub(crate) fn look_ahead(&mut self, events: &[Event]) {
        for (at, event) in events.iter().enumerate() {
            let Scanned::Group(group) = &event.what else {
                continue;
            };
            for operation in &group.operations {
                match operation {
                    Operation::Append(placed) => self
                        .appends
                        .entry(placed.key)
                        .or_default()
                        .push((at, placed.base)),
                    Operation::CreateTopic { topic, .. } => drop(self.created.insert(*topic)),
                    _ => {}
                }
            }
        }
    }

    /// Topics that have segments although nothing that can be read creates or
    /// deletes them: that happened in the gap.
    pub(crate) fn unknown(&self, replay: &Replay) -> Vec<TopicId> {
        let mut topics = replay.strays();
        topics.retain(|topic| topic.0 >= self.first_topic && !self.created.contains(topic));
        topics
    }

    /// The base of the partition's first append behind this event, if there is one.
    pub(crate) fn next_append(&self, key: PartitionKey) -> u64 {
        let behind = self
            .appends
            .get(&key)
            .into_iter()
            .flatten()
            .find(|(at, _)| *at > self.at);
        behind.map_or(u64::MAX, |(_, base)| *base)
    }

    /// Takes note of a gap.
    pub(crate) fn open(&mut self, damages: usize) {
        self.newest = damages;
    }

    /// Takes note of how many records segments had. Nobody goes on from the records
    /// of a topic that is `adopted`: it had another name.
    pub(crate) fn found(&mut self, key: PartitionKey, records: u64, is_adopted: bool) {
        self.records_found += records;
        if records > 0 && !is_adopted {
            self.found_in.insert(key);
        }
    }

    /// The first group behind a gap says how much was in it.
    pub(crate) fn measure(&mut self, replay: &mut Replay, next: &Header) {
        self.records_lost += next.records_before.saturating_sub(replay.records);
        let changes = next.changes_before.saturating_sub(replay.changes);
        self.changes_lost += changes;
        // Ids that were handed out in the gap must not be handed out again.
        replay.next_topic += changes;
        replay.producers.next_id += changes;
        (replay.records, replay.changes) = (next.records_before, next.changes_before);
    }

    /// Stops what cannot be proven whole.
    pub(crate) fn conclude(&self, replay: &mut Replay) {
        let (lost, found) = (self.records_lost, self.records_found);
        if lost != found {
            for part in replay.parts().filter(|part| part.proven < self.newest) {
                let reason = format!(
                    "the journal is damaged: {lost} offsets were in groups that cannot be read, {found} of them \
                     were found in segments, and nothing proves that this partition is whole"
                );
                part.stop(reason, Cause::Lost);
            }
        }
        if self.changes_lost == 0 {
            return;
        }
        tracing::error!(
            changes = self.changes_lost,
            "the journal is damaged: changes of tables, topics or producers are lost",
        );
        // Whoever writes outputs and its progress in one commit must not go on from old progress:
        // it would write the same outputs again.
        for part in replay
            .parts()
            .filter(|part| self.found_in.contains(&part.key()) && part.repaired < self.newest)
        {
            part.stop(
                "the journal is damaged: changes that were committed with its records are lost",
                Cause::Lost,
            );
        }
    }
}
