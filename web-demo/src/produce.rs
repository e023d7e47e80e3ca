//! Records of a page on their way to the log: which partition each goes to,
//! and the promise that waits for all of them.
//!
//! Promises: records of one partition get into the log in the order of the
//! calls; of a call that is refused for want of room, or because a record is
//! larger than a batch may be, nothing is taken. It must not repeat anything
//! itself; that is the session's, which knows what arrived.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use eddy_protocol::batch::{Batch, BatchBuilder, BatchError, Compression, HEADER_BYTES};
use eddy_protocol::frame::{Answer, Produced, Request, Welcome};
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
/// What a message takes beside its batch; never less.
const FRAME_BYTES: u64 = 1024;
/// How many calls wait at most until it is known how many partitions there are…
const ASKED_CALLS_MAX: usize = 1024;
/// …and how many bytes of records.
const ASKED_BYTES_MAX: usize = 32 << 20;

/// What is under way.
#[derive(Default)]
pub(crate) struct Produces {
    producer: Option<ProducerHandle>,
    waiting: HashMap<ProduceId, Rc<RefCell<Promised>>>,
    topics: HashMap<TopicName, Partitions>,
    /// The largest batch that the broker takes, once it has said so.
    batch_bytes_max: Option<usize>,
    asked_calls: usize,
    asked_bytes: usize,
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

/// One call of `produce`; it waits until it can be placed.
struct Call {
    topic: TopicName,
    records: Vec<Record>,
    /// By key if there is none.
    partition: Option<u32>,
    promised: Promised,
}

impl Call {
    fn bytes(&self) -> usize {
        self.records.iter().map(Record::bytes).sum()
    }
}

/// Kept when every batch of a call is in the log, broken when one was given up
/// and nothing is under way any more.
struct Promised {
    resolve: Function,
    reject: Function,
    results: Array,
    /// So many batches are under way.
    left: usize,
    /// The first reason, and whether anything of the call may be in the log.
    failed: Option<(WireError, bool)>,
}

impl Produces {
    /// The broker has said what it takes.
    pub(crate) fn welcomed(&mut self, welcome: &Welcome) {
        let message = welcome.frame_bytes_max.saturating_sub(FRAME_BYTES);
        let limit = welcome.batch_bytes_max.min(message);
        self.batch_bytes_max = Some(usize::try_from(limit).unwrap_or(usize::MAX));
    }

    /// Topics may be others when the broker is back.
    pub(crate) fn forget_topics(&mut self) {
        self.topics
            .retain(|_, partitions| matches!(partitions, Partitions::Asked(_)));
    }

    /// Where a call's records go, if that is known, and how large a batch may
    /// be. No call passes those that wait to know it.
    fn placing(&mut self, call: &Call) -> Option<Placing> {
        let batch_bytes_max = self.batch_bytes_max?;
        let partitions = match (self.topics.get(&call.topic), call.partition) {
            (Some(Partitions::Asked(_)), _) => return None,
            (_, Some(partition)) => {
                return Some(Placing {
                    target: Target::Fixed(partition),
                    batch_bytes_max,
                });
            }
            (Some(Partitions::Known { count, since }), None)
                if now().saturating_sub(*since) < PARTITIONS_MAX_AGE =>
            {
                *count
            }
            _ => return None,
        };
        self.spread = self.spread.wrapping_add(1);
        let keyless = self.spread % partitions;
        Some(Placing {
            target: Target::ByKey {
                partitions,
                keyless,
            },
            batch_bytes_max,
        })
    }

    /// Lets a call wait for its topic's partitions; whether they were asked for
    /// before. The call comes back if there is no room for it.
    fn wait(&mut self, call: Call) -> Result<bool, Call> {
        let bytes = self.asked_bytes.saturating_add(call.bytes());
        if self.asked_calls > 0 && (self.asked_calls >= ASKED_CALLS_MAX || bytes > ASKED_BYTES_MAX)
        {
            return Err(call);
        }
        self.asked_calls += 1;
        self.asked_bytes = bytes;
        if let Some(Partitions::Asked(calls)) = self.topics.get_mut(&call.topic) {
            calls.push(call);
            return Ok(true);
        }
        let topic = call.topic.clone();
        self.topics.insert(topic, Partitions::Asked(vec![call]));
        Ok(false)
    }

    /// The calls that waited for a topic's partitions.
    fn waited(&mut self, topic: &TopicName) -> Vec<Call> {
        let Some(Partitions::Asked(calls)) = self.topics.remove(topic) else {
            return Vec::new();
        };
        self.asked_calls -= calls.len();
        self.asked_bytes -= calls.iter().map(Call::bytes).sum::<usize>();
        calls
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
            failed: None,
        };
        self.take_up(Call {
            topic,
            records,
            partition: options.partition,
            promised,
        });
    }

    fn take_up(&self, call: Call) {
        match self.look(|state| state.produces.placing(&call)) {
            Some(placing) => self.place(call, placing),
            None => self.ask_partitions(call),
        }
    }

    /// The call waits until it is known how many partitions its topic has (and,
    /// because that is the answer of a broker, how large its batches may be).
    fn ask_partitions(&self, waiting: Call) {
        let topic = waiting.topic.clone();
        let asked = match self.look(|state| state.produces.wait(waiting)) {
            Ok(asked) => asked,
            Err(refused) => {
                let error = too_many();
                return call(
                    &refused.promised.reject,
                    &error::produce_into_js(&error, false),
                );
            }
        };
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
        let calls = self.look(|state| {
            let calls = state.produces.waited(topic);
            state.produces.topics.insert(topic.clone(), known);
            calls
        });
        calls.into_iter().for_each(|call| self.take_up(call));
    }

    fn give_up(&self, topic: &TopicName, error: &JsValue) {
        let calls = self.look(|state| state.produces.waited(topic));
        calls
            .into_iter()
            .for_each(|waiting| call(&waiting.promised.reject, error));
    }

    fn place(&self, waiting: Call, placing: Placing) {
        let Call {
            topic,
            records,
            promised,
            ..
        } = waiting;
        let batches = match batches(&records, placing) {
            Ok(batches) if !batches.is_empty() => batches,
            Ok(_) => return call(&promised.resolve, &promised.results),
            Err(error) => {
                let error = error::produce_into_js(&not_a_batch(error), false);
                return call(&promised.reject, &error);
            }
        };
        let promised = Rc::new(RefCell::new(promised));
        let refused = self.with(|state| state.push(&topic, batches, &promised).err());
        if let Some(error) = refused {
            let reject = promised.borrow().reject.clone();
            call(&reject, &error::produce_into_js(&error, false));
        }
    }

    /// A batch is in the log.
    pub(crate) fn produced(&self, id: ProduceId, produced: &Produced) {
        self.settle(id, |promised| promised.add(produced));
    }

    /// A batch was given up.
    pub(crate) fn produce_failed(&self, id: ProduceId, error: &WireError, maybe_appended: bool) {
        self.settle(id, |promised| promised.fail(error, maybe_appended));
    }

    /// Notes what became of a batch; the last of a call decides its promise.
    fn settle(&self, id: ProduceId, note: impl FnOnce(&mut Promised)) {
        let Some(promised) = self.look(|state| state.produces.waiting.remove(&id)) else {
            return;
        };
        let mut promised = promised.borrow_mut();
        note(&mut promised);
        promised.left -= 1;
        if promised.left > 0 {
            return;
        }
        match &promised.failed {
            Some((error, maybe_appended)) => {
                // Those that are in the log would be there twice after a retry.
                let maybe_appended = *maybe_appended || promised.results.length() > 0;
                let error = error::produce_into_js(error, maybe_appended);
                call(&promised.reject, &error);
            }
            None => call(&promised.resolve, &promised.results),
        }
    }

    /// Rejects everything that waits. (Those that ask for a topic's partitions
    /// hear of it through their request.)
    pub(crate) fn close_produces(&self) {
        let produces = self.look(|state| std::mem::take(&mut state.produces));
        for promised in produces.waiting.into_values() {
            let reject = promised.borrow().reject.clone();
            call(&reject, &error::produce_closed());
        }
    }
}

impl State {
    /// All batches of a call, or none.
    fn push(
        &mut self,
        topic: &TopicName,
        batches: Vec<(u32, Batch)>,
        promised: &Rc<RefCell<Promised>>,
    ) -> Result<(), WireError> {
        let session = &mut self.session;
        if !session.has_room(batches.iter().map(|(_, batch)| batch.len())) {
            if session.pending() == (0, 0) {
                return Err(ErrorCode::InvalidArgument
                    .because("these are more records than a client holds at a time"));
            }
            return Err(too_many());
        }
        let producer = *self
            .produces
            .producer
            .get_or_insert_with(|| session.open_producer(None));
        for (partition, batch) in batches {
            let id = session
                .produce(producer, topic, partition, batch)
                .map_err(refused)?;
            promised.borrow_mut().left += 1;
            self.produces.waiting.insert(id, Rc::clone(promised));
        }
        Ok(())
    }

    /// The producer is of no more use: the next records need a new one.
    pub(crate) fn forget_producer(&mut self, producer: ProducerHandle) {
        self.produces.producer.take_if(|ours| *ours == producer);
        self.session.close_producer(producer);
    }
}

fn too_many() -> WireError {
    ErrorCode::TooMany.because("too many records of this client wait for the broker already")
}

fn refused(refused: ProduceRefused) -> WireError {
    match refused {
        ProduceRefused::Full(_) => too_many(),
        ProduceRefused::ProducerFailed(error) => error,
    }
}

fn not_a_batch(error: BatchError) -> WireError {
    let code = match error {
        BatchError::TooLarge { .. } => ErrorCode::BatchTooLarge,
        _ => ErrorCode::InvalidArgument,
    };
    code.because(error.to_string())
}

/// How records become batches.
#[derive(Clone, Copy)]
struct Placing {
    target: Target,
    batch_bytes_max: usize,
}

/// Which partition records go to.
#[derive(Clone, Copy)]
enum Target {
    /// This one.
    Fixed(u32),
    /// By key; those without a key all to `keyless`.
    ByKey { partitions: u32, keyless: u32 },
}

impl Target {
    fn partition(self, record: &Record) -> u32 {
        match (self, &record.key) {
            (Target::Fixed(partition), _) => partition,
            (Target::ByKey { partitions, .. }, Some(key)) => partition_for_key(key, partitions),
            (Target::ByKey { keyless, .. }, None) => keyless,
        }
    }
}

/// A batch in the making.
#[derive(Default)]
struct Filling {
    builder: BatchBuilder,
    /// What its records take at the most.
    bytes: usize,
}

impl Filling {
    fn push(&mut self, record: &Record) -> Result<(), BatchError> {
        let headers: Vec<_> = record
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect();
        self.bytes += record.bytes();
        self.builder.push(
            record.timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        )
    }

    /// The batch. Several records were added only as long as they keep to the
    /// limit; a single one may turn out to be too large.
    fn finish(mut self, limit: usize) -> Result<Batch, BatchError> {
        let batch = self.builder.finish(Compression::None, None)?;
        if batch.len() > limit {
            return Err(BatchError::TooLarge {
                bytes: batch.len() as u64,
                limit: limit as u64,
            });
        }
        Ok(batch)
    }
}

/// Batches for each partition that gets something, each no larger than the
/// broker takes; those of one partition in the order of their records.
fn batches(records: &[Record], placing: Placing) -> Result<Vec<(u32, Batch)>, BatchError> {
    let limit = placing.batch_bytes_max;
    let mut fillings: BTreeMap<u32, Filling> = BTreeMap::new();
    let mut batches = Vec::new();
    for record in records {
        let partition = placing.target.partition(record);
        let filling = fillings.entry(partition).or_default();
        // In memory a record takes more than in a batch's columns.
        let bytes = HEADER_BYTES + filling.bytes + record.bytes();
        if !filling.builder.is_empty() && bytes > limit {
            batches.push((partition, std::mem::take(filling).finish(limit)?));
        }
        filling.push(record)?;
    }
    for (partition, filling) in fillings {
        batches.push((partition, filling.finish(limit)?));
    }
    Ok(batches)
}

impl Promised {
    /// Notes where one batch went.
    fn add(&mut self, produced: &Produced) {
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
    }

    /// Notes that one batch was given up.
    fn fail(&mut self, error: &WireError, maybe_appended: bool) {
        let (_, maybe) = self.failed.get_or_insert_with(|| (error.clone(), false));
        *maybe |= maybe_appended;
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

    fn roomy(target: Target) -> Placing {
        Placing {
            target,
            batch_bytes_max: 1 << 20,
        }
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
            roomy(Target::ByKey {
                partitions: 1024,
                keyless: 1023,
            }),
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
            roomy(Target::Fixed(7)),
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

    #[test]
    fn no_batch_is_larger_than_the_broker_takes_and_records_keep_their_order() {
        let limit = 10_000;
        let placing = Placing {
            batch_bytes_max: limit,
            ..roomy(Target::Fixed(0))
        };
        let long = "x".repeat(1_000);
        let mut records: Vec<Record> = (0..50)
            .map(|number| record(Some("a"), &format!("{number:02}{long}")))
            .collect();
        // The least that a record can be, with all that it can add to a batch.
        let small = (0..2_000).map(|number| Record {
            key: None,
            value: None,
            headers: vec![(String::new(), Some(Vec::new()))],
            timestamp: number << 40,
        });
        records.extend(small);
        let placed = batches(&records, placing).unwrap();
        assert!(placed.len() > 5, "{} batches", placed.len());
        assert!(placed.iter().all(|(_, batch)| batch.len() <= limit));
        let found: Vec<Option<Vec<u8>>> = placed
            .iter()
            .flat_map(|(_, batch)| {
                let records = batch.records().unwrap();
                let values = records
                    .iter()
                    .map(|record| record.value.map(<[u8]>::to_vec));
                values.collect::<Vec<_>>()
            })
            .collect();
        let given: Vec<_> = records.into_iter().map(|record| record.value).collect();
        assert_eq!(found, given);
    }

    #[test]
    fn a_record_that_no_batch_can_hold_is_refused_before_anything_is_sent() {
        let placing = Placing {
            batch_bytes_max: 1_000,
            ..roomy(Target::Fixed(0))
        };
        let records = [record(None, "1"), record(None, &"x".repeat(1_000))];
        let error = batches(&records, placing).unwrap_err();
        assert_eq!(not_a_batch(error).code, ErrorCode::BatchTooLarge);
    }
}
