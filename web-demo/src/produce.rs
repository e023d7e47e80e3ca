//! Records of a page on their way to the log: which partition each goes to,
//! and the promise that waits for all of them.
//!
//! Promises: records of one partition get into the log in the order of the
//! calls. It must not repeat anything itself; that is the session's, which
//! knows what arrived.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use eddy_protocol::batch::{Batch, BatchBuilder, BatchError, Compression};
use eddy_protocol::frame::{Answer, Produced, Request};
use eddy_protocol::partitioner::partition_for_key;
use eddy_protocol::session::{ProduceId, ProduceRefused, ProducerHandle};
use eddy_protocol::{ErrorCode, TopicName, WireError};
use js_sys::{Array, Function};
use wasm_bindgen::prelude::*;

use crate::browser::{call, now, object};
use crate::driver::{Driver, State};
use crate::error;
use crate::option::{self, Record};

/// How long the number of a topic's partitions is taken for granted.
const PARTITIONS_MAX_AGE: Duration = Duration::from_secs(60);

/// What is under way.
#[derive(Default)]
pub(crate) struct Produces {
    producer: Option<ProducerHandle>,
    waiting: HashMap<ProduceId, Rc<RefCell<Promised>>>,
    topics: HashMap<TopicName, Partitions>,
    /// Records without a key go to the next partition with each call.
    spread: u32,
}

/// What is known of a topic.
enum Partitions {
    Known {
        count: u32,
        since: Duration,
    },
    /// Asked for; these calls wait for the answer, in their order.
    Asked(Vec<Call>),
}

/// One call of `produce`.
struct Call {
    topic: TopicName,
    records: Vec<Record>,
    promised: Promised,
}

/// Kept when every batch of a call is in the log, broken when one is given up.
struct Promised {
    resolve: Function,
    reject: Function,
    results: Array,
    left: usize,
}

impl Produces {
    /// The next records need a new producer.
    pub(crate) fn forget_producer(&mut self) {
        self.producer = None;
    }

    /// Topics may be others when the broker is back.
    pub(crate) fn forget_topics(&mut self) {
        self.topics
            .retain(|_, partitions| matches!(partitions, Partitions::Asked(_)));
    }

    fn partitions(&self, topic: &TopicName) -> Option<u32> {
        match self.topics.get(topic) {
            Some(Partitions::Known { count, since })
                if now().saturating_sub(*since) < PARTITIONS_MAX_AGE =>
            {
                Some(*count)
            }
            _ => None,
        }
    }
}

impl Driver {
    /// Appends records; see [`crate::EddyClient::produce`].
    pub(crate) fn produce(
        &self,
        topic: &str,
        records: &JsValue,
        options: &JsValue,
        resolve: Function,
        reject: Function,
    ) {
        if self.is_closed() {
            return call(&reject, &error::closed());
        }
        let checked = option::topic(topic)
            .and_then(|topic| Ok((topic, option::records(records)?, option::produce(options)?)));
        let (topic, records, options) = match checked {
            Ok(checked) => checked,
            Err(error) => return call(&reject, &error),
        };
        let promised = Promised {
            resolve,
            reject,
            results: Array::new(),
            left: 0,
        };
        let call = Call {
            topic,
            records,
            promised,
        };
        match options.partition {
            Some(partition) => self.place(call, Placing::Fixed(partition)),
            None => self.place_by_key(call),
        }
    }

    fn place_by_key(&self, call: Call) {
        if let Some(partitions) = self.look(|state| state.produces.partitions(&call.topic)) {
            let keyless = self.look(|state| {
                state.produces.spread = state.produces.spread.wrapping_add(1);
                state.produces.spread % partitions
            });
            return self.place(
                call,
                Placing::ByKey {
                    partitions,
                    keyless,
                },
            );
        }
        let topic = call.topic.clone();
        let asked = self.look(|state| match state.produces.topics.get_mut(&topic) {
            Some(Partitions::Asked(calls)) => {
                calls.push(call);
                true
            }
            _ => {
                state
                    .produces
                    .topics
                    .insert(topic.clone(), Partitions::Asked(vec![call]));
                false
            }
        });
        if !asked {
            let request = Request::DescribeTopic {
                topic: topic.clone(),
            };
            self.request(request, move |driver, answer| match answer {
                Ok(Answer::Topic(info)) if !info.partitions.is_empty() => {
                    driver.learnt(&topic, info.partitions.len() as u32);
                }
                Ok(_) => driver.give_up(&topic, &error::unexpected_answer()),
                Err(error) => driver.give_up(&topic, &error),
            });
        }
    }

    /// The calls that waited for the number of partitions go on.
    fn learnt(&self, topic: &TopicName, count: u32) {
        let known = Partitions::Known {
            count,
            since: now(),
        };
        let before = self.look(|state| state.produces.topics.insert(topic.clone(), known));
        if let Some(Partitions::Asked(calls)) = before {
            calls.into_iter().for_each(|call| self.place_by_key(call));
        }
    }

    fn give_up(&self, topic: &TopicName, error: &JsValue) {
        if let Some(Partitions::Asked(calls)) =
            self.look(|state| state.produces.topics.remove(topic))
        {
            calls
                .into_iter()
                .for_each(|waiting| call(&waiting.promised.reject, error));
        }
    }

    fn place(&self, waiting: Call, placing: Placing) {
        let Call {
            topic,
            records,
            mut promised,
        } = waiting;
        let batches = match batches(&records, placing) {
            Ok(batches) if !batches.is_empty() => batches,
            Ok(_) => return call(&promised.resolve, &promised.results),
            Err(error) => return call(&promised.reject, &error::invalid(&error.to_string())),
        };
        promised.left = batches.len();
        let promised = Rc::new(RefCell::new(promised));
        let refused = self.with(|state| {
            batches.into_iter().find_map(|(partition, batch)| {
                state.push(&topic, partition, batch, &promised).err()
            })
        });
        if let Some(error) = refused {
            let reject = promised.borrow().reject.clone();
            call(&reject, &error::into_js(&error));
        }
    }

    /// A batch is in the log.
    pub(crate) fn produced(&self, id: ProduceId, produced: &Produced) {
        let Some(promised) = self.look(|state| state.produces.waiting.remove(&id)) else {
            return;
        };
        let done = promised.borrow_mut().add(produced);
        if done {
            let (resolve, results) = (
                promised.borrow().resolve.clone(),
                promised.borrow().results.clone(),
            );
            call(&resolve, &results);
        }
    }

    /// A batch was given up.
    pub(crate) fn produce_failed(&self, id: ProduceId, error: &WireError, maybe_appended: bool) {
        let Some(promised) = self.look(|state| state.produces.waiting.remove(&id)) else {
            return;
        };
        let reject = promised.borrow().reject.clone();
        call(&reject, &error::produce_into_js(error, maybe_appended));
    }

    /// Rejects everything that waits. (Those that ask for a topic's partitions
    /// hear of it through their request.)
    pub(crate) fn close_produces(&self) {
        let produces = self.look(|state| std::mem::take(&mut state.produces));
        for promised in produces.waiting.into_values() {
            let reject = promised.borrow().reject.clone();
            call(&reject, &error::closed());
        }
    }
}

impl State {
    fn push(
        &mut self,
        topic: &TopicName,
        partition: u32,
        batch: Batch,
        promised: &Rc<RefCell<Promised>>,
    ) -> Result<(), WireError> {
        let session = &mut self.session;
        let producer = *self
            .produces
            .producer
            .get_or_insert_with(|| session.open_producer(None));
        let id = session
            .produce(producer, topic, partition, batch)
            .map_err(refused)?;
        self.produces.waiting.insert(id, Rc::clone(promised));
        Ok(())
    }
}

fn refused(refused: ProduceRefused) -> WireError {
    match refused {
        ProduceRefused::Full(_) => ErrorCode::TooMany
            .because("too many records of this client wait for the broker already"),
        ProduceRefused::ProducerFailed(error) => error,
    }
}

/// Which partition records go to.
#[derive(Clone, Copy)]
enum Placing {
    /// This one.
    Fixed(u32),
    /// By key; those without a key all to `keyless`.
    ByKey { partitions: u32, keyless: u32 },
}

impl Placing {
    fn partition(self, record: &Record) -> u32 {
        match (self, &record.key) {
            (Placing::Fixed(partition), _) => partition,
            (Placing::ByKey { partitions, .. }, Some(key)) => partition_for_key(key, partitions),
            (Placing::ByKey { keyless, .. }, None) => keyless,
        }
    }
}

/// One batch for each partition that gets something, in the records' order.
fn batches(records: &[Record], placing: Placing) -> Result<Vec<(u32, Batch)>, BatchError> {
    let mut builders: BTreeMap<u32, BatchBuilder> = BTreeMap::new();
    for record in records {
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
            .collect();
        let builder = builders.entry(placing.partition(record)).or_default();
        builder.push(
            record.timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        )?;
    }
    let finished = builders
        .into_iter()
        .map(|(partition, mut builder)| Ok((partition, builder.finish(Compression::None, None)?)));
    finished.collect()
}

impl Promised {
    /// Notes where one batch went; whether it was the last.
    fn add(&mut self, produced: &Produced) -> bool {
        self.results.push(&object(&[
            ("partition", produced.partition.into()),
            (
                "offset",
                produced
                    .offset
                    .map_or(JsValue::NULL, |offset| (offset as f64).into()),
            ),
            ("count", produced.count.into()),
            ("duplicate", produced.duplicate.into()),
        ]));
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&str>, value: &str) -> Record {
        let bytes = |text: &str| text.as_bytes().to_vec();
        Record {
            key: key.map(bytes),
            value: Some(bytes(value)),
            headers: Vec::new(),
            timestamp: 1,
        }
    }

    fn values(batch: &Batch) -> Vec<String> {
        let records = batch.records().unwrap();
        let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
        records.iter().map(|record| text(record.value)).collect()
    }

    #[test]
    fn records_are_placed_by_key_and_keep_their_order() {
        let records = [
            record(Some("a"), "1"),
            record(Some("b"), "2"),
            record(Some("a"), "3"),
            record(None, "4"),
        ];
        let placed = batches(
            &records,
            Placing::ByKey {
                partitions: 1024,
                keyless: 1023,
            },
        )
        .unwrap();
        let of = |partition| {
            placed
                .iter()
                .find(|(found, _)| *found == partition)
                .map(|(_, batch)| values(batch))
        };
        assert_eq!(
            of(partition_for_key(b"a", 1024)),
            Some(vec!["1".to_owned(), "3".to_owned()])
        );
        assert_eq!(
            of(partition_for_key(b"b", 1024)),
            Some(vec!["2".to_owned()])
        );
        assert_eq!(of(1023), Some(vec!["4".to_owned()]));
    }

    #[test]
    fn a_partition_that_was_asked_for_gets_everything() {
        let placed = batches(
            &[record(Some("a"), "1"), record(None, "2")],
            Placing::Fixed(7),
        )
        .unwrap();
        assert_eq!(
            placed
                .iter()
                .map(|(partition, batch)| (*partition, values(batch).len()))
                .collect::<Vec<_>>(),
            [(7, 2)]
        );
    }
}
