//! What a producer gathers: records become batches, batches wait for their
//! turn, and room is given back when they are acknowledged. Pure state: time is
//! passed in, nothing is sent from here.
//!
//! Promises: the batches of a partition leave in the order of their records;
//! never more bytes are held than the limit, but for one record into an empty
//! buffer; nothing is allocated for a record beside the batch's columns.

use std::collections::VecDeque;

use eddy_protocol::batch::Unstamped;
use eddy_protocol::frame::Produced;
use eddy_protocol::partitioner::partition_for_key;
use eddy_protocol::{BatchBuilder, ErrorCode};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Counts, ProducerConfig};
use crate::{ClientError, NewRecord};

/// How a batch ended, for those who wait for one of its records.
pub(super) type Outcome = Option<Result<Produced, ClientError>>;

/// Who asked about a record: how many come before it in its batch, and where
/// the batch's outcome will be told.
pub(super) type Waiting = (u32, watch::Receiver<Outcome>);

/// Names a batch that was handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    /// Where it goes.
    pub(crate) partition: u32,
    /// The how-manieth of its partition.
    number: u64,
}

/// A batch that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// By which its answer finds it.
    pub(crate) ticket: Ticket,
    /// The batch.
    pub(crate) batch: Unstamped,
}

/// Whether somebody should look at the buffer after a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// A batch is full, or one was begun whose linger has to be watched.
    Wake,
    /// Nothing to do yet.
    Quiet,
}

/// Why a record was not taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is no room until something is acknowledged.
    Full,
    /// It never will be.
    Error(ClientError),
}

/// What is not known to be in the log yet, batch by batch.
#[derive(Debug)]
struct Charge {
    records: u64,
    bytes: usize,
    outcome: Option<watch::Sender<Outcome>>,
}

/// A batch on its way. Answers come in any order; they are told in that of the batches.
#[derive(Debug)]
struct InFlight {
    number: u64,
    charge: Charge,
    outcome: Outcome,
}

/// One partition's share.
#[derive(Debug, Default)]
struct PartitionBuffer {
    open: BatchBuilder,
    open_bytes: usize,
    /// Since when its first record waits, as far as anybody looked.
    open_since: Option<Instant>,
    open_outcome: Option<watch::Sender<Outcome>>,
    /// Full, waiting for its turn.
    sealed: VecDeque<(Unstamped, Charge)>,
    /// Handed out and not told yet, oldest first.
    in_flight: VecDeque<InFlight>,
    handed_out: u64,
    pushed: u64,
    /// Records that are in the log, or were refused.
    settled: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Buffer {
    config: ProducerConfig,
    topic: String,
    record_bytes_max: usize,
    batch_bytes: usize,
    buffers: Vec<PartitionBuffer>,
    /// Where records without a key go until the batch is full.
    sticky: u32,
    bytes: usize,
    /// Buffers with something sealed, each once for each batch.
    ready: VecDeque<u32>,
    /// Batches on their way, of all buffers.
    in_flight: usize,
    counts: Counts,
    /// Why a batch was refused; the first one that nobody has been told of.
    refusal: Option<ClientError>,
    /// When something was last answered, or began to wait to be.
    progress_at: Option<Instant>,
    failed: Option<ClientError>,
}

impl Buffer {
    pub(super) fn new(
        topic: String,
        partitions: u32,
        record_bytes_max: usize,
        config: ProducerConfig,
    ) -> Buffer {
        let batch_bytes = config.batch_bytes.min(record_bytes_max);
        let sticky = fastrand::u32(..partitions.max(1));
        let mut buffer = Buffer {
            config,
            topic,
            record_bytes_max,
            batch_bytes,
            buffers: Vec::new(),
            sticky,
            bytes: 0,
            ready: VecDeque::new(),
            in_flight: 0,
            counts: Counts::default(),
            refusal: None,
            progress_at: None,
            failed: None,
        };
        buffer.set_partitions(partitions);
        buffer
    }

    /// The topic has so many partitions by now; never fewer than before.
    pub(crate) fn set_partitions(&mut self, partitions: u32) {
        let partitions = partitions.max(1) as usize;
        if partitions > self.buffers.len() {
            self.buffers
                .resize_with(partitions, PartitionBuffer::default);
        }
    }

    /// Takes a record; `now_ms` is its timestamp where it has none.
    pub(super) fn push(
        &mut self,
        record: &NewRecord<'_>,
        now_ms: impl FnOnce() -> i64,
    ) -> Result<Pushed, Refused> {
        let bytes = self.check(record)?;
        let partition = self.place(record)?;
        self.push_to(partition, record, bytes, now_ms)
    }

    /// Takes a record, and says how to learn what becomes of it.
    pub(super) fn push_asking(
        &mut self,
        record: &NewRecord<'_>,
        now_ms: impl FnOnce() -> i64,
    ) -> Result<(Pushed, Waiting), Refused> {
        let bytes = self.check(record)?;
        let partition = self.place(record)?;
        let pushed = self.push_to(partition, record, bytes, now_ms)?;
        Ok((pushed, self.ask(partition)))
    }

    /// Takes a record that was checked.
    fn push_to(
        &mut self,
        partition: u32,
        record: &NewRecord<'_>,
        bytes: usize,
        now_ms: impl FnOnce() -> i64,
    ) -> Result<Pushed, Refused> {
        let timestamp = record.timestamp.unwrap_or_else(now_ms);
        let batch_bytes = self.batch_bytes;
        // A batch never passes its limit: a record that has no room in this one opens the next.
        if self.buffer(partition).open_bytes + bytes > batch_bytes {
            self.seal(partition)?;
        }
        let buffer = self.buffer(partition);
        buffer
            .open
            .push(timestamp, record.key, record.value, record.headers)
            .map_err(|error| {
                Refused::Error(ErrorCode::InvalidArgument.because(error.to_string()).into())
            })?;
        buffer.open_bytes += bytes;
        buffer.pushed += 1;
        let first = buffer.open.len() == 1;
        self.bytes += bytes;
        self.counts.pushed += 1;
        Ok(if first { Pushed::Wake } else { Pushed::Quiet })
    }

    /// How to learn what becomes of the newest record of a partition.
    fn ask(&mut self, partition: u32) -> Waiting {
        let buffer = self.buffer(partition);
        let row = (buffer.open.len() as u32).saturating_sub(1);
        (
            row,
            buffer
                .open_outcome
                .get_or_insert_with(|| watch::channel(None).0)
                .subscribe(),
        )
    }

    /// What the record takes, if it can be taken.
    fn check(&self, record: &NewRecord<'_>) -> Result<usize, Refused> {
        if let Some(error) = &self.failed {
            return Err(Refused::Error(error.clone()));
        }
        let (bytes, limit) = (record.bytes(), self.record_bytes_max);
        if bytes > limit {
            return Err(Refused::Error(ClientError::RecordTooLarge { bytes, limit }));
        }
        if self.bytes + bytes > self.config.buffer_bytes && self.bytes > 0 {
            return Err(Refused::Full);
        }
        Ok(bytes)
    }

    fn place(&self, record: &NewRecord<'_>) -> Result<u32, Refused> {
        let partitions = self.buffers.len() as u32;
        match (record.partition, record.key) {
            (Some(partition), _) if partition < partitions => Ok(partition),
            (Some(partition), _) => Err(Refused::Error(ClientError::NoSuchPartition {
                topic: self.topic.clone(),
                partitions,
                partition,
            })),
            (None, Some(key)) => Ok(partition_for_key(key, partitions)),
            (None, None) => Ok(self.sticky),
        }
    }

    /// The buffer of a partition that [`place`](Self::place) chose.
    fn buffer(&mut self, partition: u32) -> &mut PartitionBuffer {
        &mut self.buffers[partition as usize]
    }

    /// Makes a batch of what a partition's buffer has gathered.
    fn seal(&mut self, partition: u32) -> Result<(), Refused> {
        let compression = self.config.compression;
        let buffer = self.buffer(partition);
        let records = buffer.open.len() as u64;
        if records == 0 {
            return Ok(());
        }
        let bytes = std::mem::take(&mut buffer.open_bytes);
        buffer.open_since = None;
        let outcome = buffer.open_outcome.take();
        match buffer.open.finish_unstamped(compression) {
            Ok(batch) => buffer.sealed.push_back((
                batch,
                Charge {
                    records,
                    bytes,
                    outcome,
                },
            )),
            Err(error) => {
                // The limits were checked record by record, so that this says more than one batch is wrong.
                let error = ClientError::from(ErrorCode::Internal.because(error.to_string()));
                self.fail(&error);
                return Err(Refused::Error(error));
            }
        }
        self.ready.push_back(partition);
        if partition == self.sticky {
            self.sticky = self.next_sticky();
        }
        Ok(())
    }

    /// The next partition for records without a key: the one after this, so
    /// that all get the same share.
    fn next_sticky(&self) -> u32 {
        (self.sticky + 1) % self.buffers.len() as u32
    }

    /// Makes batches of everything that was gathered.
    pub(crate) fn seal_all(&mut self) {
        for partition in 0..self.buffers.len() as u32 {
            // A failure is kept in `failed`, where everybody looks.
            let _ = self.seal(partition);
        }
    }

    /// Sees to it that a full buffer gets room; whether there is something new to
    /// send. What is sealed or on its way makes room when it is acknowledged,
    /// and who still finds the buffer full then asks again; only where nothing
    /// is, batches have to leave before they are full.
    pub(super) fn make_room(&mut self) -> bool {
        if self.in_flight > 0 || !self.ready.is_empty() {
            return false;
        }
        self.seal_all();
        !self.ready.is_empty()
    }

    /// Seals what has waited for as long as the linger; when to come back. What
    /// could not leave because too much of its partition is on its way goes on
    /// to fill up instead, until an acknowledgement brings the caller back.
    pub(crate) fn linger(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        let (linger, in_flight_max) = (self.config.linger, self.in_flight_max());
        for partition in 0..self.buffers.len() as u32 {
            let buffer = self.buffer(partition);
            if buffer.open.is_empty() {
                continue;
            }
            let since = *buffer.open_since.get_or_insert(now);
            if buffer.in_flight.len() >= in_flight_max {
                continue;
            }
            match since.checked_add(linger) {
                Some(due) if due > now => next = [next, Some(due)].into_iter().flatten().min(),
                Some(_) => {
                    // As in `seal_all`.
                    let _ = self.seal(partition);
                }
                // Longer than time itself: until the batch is full, or a flush.
                None => {}
            }
        }
        next
    }

    /// How many batches of a partition are on their way at the most.
    fn in_flight_max(&self) -> usize {
        self.config.in_flight_max.max(1)
    }

    /// The next batch to send, if its partition has not too many on their way.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Sealed> {
        let in_flight_max = self.in_flight_max();
        for _ in 0..self.ready.len() {
            let partition = self.ready.pop_front()?;
            let buffer = self.buffer(partition);
            if buffer.in_flight.len() >= in_flight_max {
                self.ready.push_back(partition);
                continue;
            }
            if let Some((batch, charge)) = buffer.sealed.pop_front() {
                let number = buffer.handed_out;
                buffer.handed_out += 1;
                buffer.in_flight.push_back(InFlight {
                    number,
                    charge,
                    outcome: None,
                });
                self.in_flight += 1;
                self.progress_at.get_or_insert(now);
                let ticket = Ticket { partition, number };
                return Some(Sealed { ticket, batch });
            }
        }
        None
    }

    /// A batch on its way is in the log, or was refused; the others of its
    /// partition go on either way.
    pub(crate) fn answered(
        &mut self,
        ticket: Ticket,
        result: Result<Produced, ClientError>,
        now: Instant,
    ) {
        let Some(buffer) = self.buffers.get_mut(ticket.partition as usize) else {
            return;
        };
        let mut in_flight = buffer.in_flight.iter_mut();
        if let Some(batch) = in_flight.find(|batch| batch.number == ticket.number) {
            batch.outcome = Some(result);
        }
        while let Some(InFlight {
            charge, outcome, ..
        }) = buffer
            .in_flight
            .pop_front_if(|batch| batch.outcome.is_some())
        {
            buffer.settled += charge.records;
            self.in_flight -= 1;
            self.bytes -= charge.bytes;
            match &outcome {
                Some(Err(error)) => {
                    self.counts.refused += charge.records;
                    self.refusal.get_or_insert_with(|| error.clone());
                }
                _ => self.counts.acknowledged += charge.records,
            }
            if let Some(result) = outcome {
                tell(charge.outcome, result);
            }
        }
        self.progress_at = (self.in_flight > 0).then_some(now);
    }

    /// Gives everything up. The first reason stands.
    pub(crate) fn fail(&mut self, error: &ClientError) {
        let error = self.failed.get_or_insert_with(|| error.clone()).clone();
        for buffer in &mut self.buffers {
            let waiting = buffer.sealed.drain(..).map(|(_, charge)| charge);
            let in_flight = buffer.in_flight.drain(..).map(|batch| batch.charge);
            for charge in in_flight.chain(waiting) {
                tell(charge.outcome, Err(error.clone()));
            }
            tell(buffer.open_outcome.take(), Err(error.clone()));
            buffer.open = BatchBuilder::new();
            buffer.open_bytes = 0;
        }
        self.ready.clear();
        self.in_flight = 0;
        self.bytes = 0;
        self.progress_at = None;
    }

    /// Whether everything that was taken is settled.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Why nothing is taken any more.
    pub(crate) fn failure(&self) -> Option<&ClientError> {
        self.failed.as_ref()
    }

    /// Why a batch was refused, if somebody still has to be told.
    pub(super) fn refusal(&self) -> Option<&ClientError> {
        self.refusal.as_ref()
    }

    /// The same, for the one who is told.
    pub(super) fn take_refusal(&mut self) -> Option<ClientError> {
        self.refusal.take()
    }

    /// Since when nothing moved although something should.
    pub(crate) fn stuck_since(&self) -> Option<Instant> {
        self.progress_at
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// How many records each partition has been given so far.
    pub(super) fn marks(&self) -> Vec<u64> {
        self.buffers.iter().map(|buffer| buffer.pushed).collect()
    }

    /// Whether all records up to the marks are acknowledged or refused.
    pub(super) fn passed(&self, marks: &[u64]) -> bool {
        self.buffers
            .iter()
            .zip(marks)
            .all(|(buffer, mark)| buffer.settled >= *mark)
    }

    /// The largest record, with its key, headers and what the columns add.
    pub(super) fn record_bytes_max(&self) -> usize {
        self.record_bytes_max
    }
}

fn tell(outcome: Option<watch::Sender<Outcome>>, result: Result<Produced, ClientError>) {
    if let Some(outcome) = outcome {
        outcome.send_replace(Some(result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RECORD_BYTES;
    use eddy_protocol::batch::ProducerStamp;
    use std::time::Duration;

    fn buffer(partitions: u32, config: ProducerConfig) -> Buffer {
        Buffer::new("t".into(), partitions, 10_000, config)
    }

    fn push(buffer: &mut Buffer, record: &NewRecord<'_>) -> Result<Pushed, Refused> {
        buffer.push(record, || 7)
    }

    fn produced(count: u32) -> Produced {
        Produced {
            partition: 0,
            offset: Some(0),
            count,
            duplicate: false,
        }
    }

    fn ticket(partition: u32, number: u64) -> Ticket {
        Ticket { partition, number }
    }

    fn hundred_bytes() -> ProducerConfig {
        ProducerConfig {
            batch_bytes: 100 + RECORD_BYTES,
            ..ProducerConfig::default()
        }
    }

    #[test]
    fn a_batch_leaves_when_the_next_record_has_no_room_in_it() {
        let now = Instant::now();
        let mut buffer = buffer(1, hundred_bytes());
        push(&mut buffer, &NewRecord::new(&[1; 100])).expect("there is room");
        assert!(
            buffer.next(now).is_none(),
            "it is exactly full and waits for its linger"
        );
        push(&mut buffer, &NewRecord::new(&[2; 100])).expect("there is room");
        let sealed = buffer.next(now).expect("the first batch");
        let batch = sealed.batch.stamped(ProducerStamp {
            id: 1,
            epoch: 0,
            sequence: 0,
        });
        assert_eq!(
            (
                sealed.ticket.partition,
                batch.count(),
                batch.timestamp_min()
            ),
            (0, 1, 7)
        );
        assert!(buffer.next(now).is_none());
    }

    #[test]
    fn a_batch_that_is_not_full_leaves_after_its_linger_and_not_before() {
        let now = Instant::now();
        let mut buffer = buffer(
            1,
            ProducerConfig {
                linger: Duration::from_millis(5),
                ..ProducerConfig::default()
            },
        );
        assert_eq!(buffer.linger(now), None, "nothing waits");
        assert_eq!(
            push(&mut buffer, &NewRecord::new(b"a")).expect("room"),
            Pushed::Wake
        );
        assert_eq!(
            push(&mut buffer, &NewRecord::new(b"b")).expect("room"),
            Pushed::Quiet
        );
        let due = buffer.linger(now).expect("something waits");
        assert_eq!(due, now + Duration::from_millis(5));
        assert!(buffer.next(now).is_none());
        assert_eq!(buffer.linger(due), None);
        assert_eq!(buffer.next(due).expect("a batch").batch.count(), 2);
    }

    #[test]
    fn a_partition_has_no_more_batches_on_their_way_than_allowed() {
        let now = Instant::now();
        let mut buffer = buffer(
            1,
            ProducerConfig {
                in_flight_max: 2,
                ..hundred_bytes()
            },
        );
        for value in 0..4 {
            push(&mut buffer, &NewRecord::new(&[value; 100])).expect("there is room");
        }
        buffer.seal_all();
        assert!(buffer.next(now).is_some() && buffer.next(now).is_some());
        assert!(buffer.next(now).is_none(), "two are on their way");
        buffer.answered(ticket(0, 0), Ok(produced(1)), now);
        assert!(buffer.next(now).is_some());
        assert_eq!(
            buffer.counts(),
            Counts {
                pushed: 4,
                acknowledged: 1,
                refused: 0
            }
        );
    }

    #[test]
    fn a_full_buffer_waits_for_what_is_on_its_way_before_it_sends_small_batches() {
        let now = Instant::now();
        let config = ProducerConfig {
            buffer_bytes: 4 * (1 + RECORD_BYTES),
            linger: Duration::MAX,
            ..ProducerConfig::default()
        };
        let mut buffer = buffer(4, config);
        let record = |partition| NewRecord::new(b"x").partition(partition);
        push(&mut buffer, &record(0)).expect("there is room");
        buffer.seal_all();
        for partition in 1..4 {
            push(&mut buffer, &record(partition)).expect("there is room");
        }
        assert!(matches!(push(&mut buffer, &record(0)), Err(Refused::Full)));
        assert!(!buffer.make_room(), "a sealed batch will make it");
        assert_eq!(buffer.next(now).expect("it").ticket, ticket(0, 0));
        assert!(!buffer.make_room(), "so will one on its way");
        buffer.answered(ticket(0, 0), Ok(produced(1)), now);
        push(&mut buffer, &record(1)).expect("there is room again");
        assert!(matches!(push(&mut buffer, &record(0)), Err(Refused::Full)));
        // However long the linger is: nobody else would make room.
        assert!(buffer.make_room());
        let counts = std::iter::from_fn(|| buffer.next(now)).map(|sealed| sealed.batch.count());
        assert_eq!(counts.collect::<Vec<_>>(), [2, 1, 1]);
    }

    #[test]
    fn a_batch_that_can_not_leave_fills_up_until_an_acknowledgement_lets_it() {
        let now = Instant::now();
        let config = ProducerConfig {
            in_flight_max: 1,
            linger: Duration::from_millis(5),
            ..ProducerConfig::default()
        };
        let mut buffer = buffer(1, config);
        push(&mut buffer, &NewRecord::new(b"a")).expect("there is room");
        buffer.seal_all();
        assert!(buffer.next(now).is_some());
        push(&mut buffer, &NewRecord::new(b"b")).expect("there is room");
        assert_eq!(
            buffer.linger(now),
            None,
            "there is nothing to come back for"
        );
        let late = now + Duration::from_secs(1);
        assert_eq!(buffer.linger(late), None);
        push(&mut buffer, &NewRecord::new(b"c")).expect("there is room");
        buffer.answered(ticket(0, 0), Ok(produced(1)), late);
        // It has lingered since it was first seen, not since the acknowledgement.
        assert_eq!(buffer.linger(late), None);
        assert_eq!(buffer.next(late).expect("a batch").batch.count(), 2);
    }

    #[test]
    fn answers_in_another_order_reach_their_own_batches_in_the_order_of_the_batches() {
        let now = Instant::now();
        let mut buffer = buffer(1, hundred_bytes());
        let outcomes: Vec<_> = (0..2)
            .map(|value| {
                let value = [value; 100];
                let record = NewRecord::new(&value);
                buffer.push_asking(&record, || 7).expect("room").1.1
            })
            .collect();
        buffer.seal_all();
        while buffer.next(now).is_some() {}
        let told = || outcomes.iter().map(|outcome| outcome.borrow().clone());
        let at = |offset| Produced {
            offset: Some(offset),
            ..produced(1)
        };
        buffer.answered(ticket(0, 1), Ok(at(8)), now);
        assert!(told().all(|outcome| outcome.is_none()));
        buffer.answered(ticket(0, 0), Ok(at(7)), now);
        assert!(told().eq([Some(Ok(at(7))), Some(Ok(at(8)))]));
    }

    #[test]
    fn room_is_given_back_with_the_acknowledgement() {
        let now = Instant::now();
        let config = ProducerConfig {
            buffer_bytes: 2 * (100 + RECORD_BYTES),
            ..hundred_bytes()
        };
        let mut buffer = buffer(1, config);
        for _ in 0..2 {
            push(&mut buffer, &NewRecord::new(&[0; 100])).expect("there is room");
        }
        assert!(matches!(
            push(&mut buffer, &NewRecord::new(b"x")),
            Err(Refused::Full)
        ));
        buffer.seal_all();
        assert!(buffer.next(now).is_some());
        assert!(
            matches!(push(&mut buffer, &NewRecord::new(b"x")), Err(Refused::Full)),
            "it is only on its way"
        );
        buffer.answered(ticket(0, 0), Ok(produced(1)), now);
        push(&mut buffer, &NewRecord::new(b"x")).expect("there is room again");
    }

    #[test]
    fn a_flush_is_passed_when_each_partition_has_reached_its_mark() {
        let now = Instant::now();
        let mut buffer = buffer(2, ProducerConfig::default());
        for partition in [0, 1] {
            push(&mut buffer, &NewRecord::new(b"x").partition(partition)).expect("there is room");
        }
        let marks = buffer.marks();
        buffer.seal_all();
        while buffer.next(now).is_some() {}
        buffer.answered(ticket(1, 0), Ok(produced(1)), now);
        // More acknowledgements, but not of what was asked about.
        push(&mut buffer, &NewRecord::new(b"y").partition(1)).expect("there is room");
        buffer.seal_all();
        assert!(buffer.next(now).is_some());
        buffer.answered(ticket(1, 1), Ok(produced(1)), now);
        assert!(!buffer.passed(&marks));
        buffer.answered(ticket(0, 0), Ok(produced(1)), now);
        assert!(buffer.passed(&marks));
        assert_eq!(buffer.stuck_since(), None, "nothing is on its way");
    }

    #[test]
    fn a_refused_batch_is_told_in_its_turn_and_the_others_go_on() {
        let now = Instant::now();
        let mut buffer = buffer(1, hundred_bytes());
        let outcomes: Vec<_> = (0..3)
            .map(|value| {
                let value = [value; 100];
                let record = NewRecord::new(&value);
                buffer.push_asking(&record, || 7).expect("room").1.1
            })
            .collect();
        let marks = buffer.marks();
        buffer.seal_all();
        while buffer.next(now).is_some() {}
        let told = || outcomes.iter().map(|outcome| outcome.borrow().clone());
        let refused = ClientError::from(ErrorCode::InvalidArgument.because("no"));
        buffer.answered(ticket(0, 1), Err(refused.clone()), now);
        assert!(told().all(|outcome| outcome.is_none()));
        buffer.answered(ticket(0, 0), Ok(produced(1)), now);
        buffer.answered(ticket(0, 2), Ok(produced(1)), now);
        assert!(told().eq([
            Some(Ok(produced(1))),
            Some(Err(refused.clone())),
            Some(Ok(produced(1)))
        ]));
        assert!(buffer.passed(&marks) && buffer.is_empty());
        let counts = Counts {
            pushed: 3,
            acknowledged: 2,
            refused: 1,
        };
        assert_eq!(buffer.counts(), counts);
        assert_eq!(buffer.take_refusal(), Some(refused));
        assert_eq!(buffer.take_refusal(), None, "once is enough");
        push(&mut buffer, &NewRecord::new(b"x")).expect("it goes on");
    }

    #[test]
    fn a_failed_buffer_gives_its_first_reason_to_everybody() {
        let mut buffer = buffer(1, ProducerConfig::default());
        let (_, (row, outcome)) = buffer
            .push_asking(&NewRecord::new(b"x"), || 0)
            .expect("there is room");
        buffer.fail(&ClientError::ConnectionLost);
        buffer.fail(&ClientError::Closed);
        assert_eq!(
            (row, outcome.borrow().clone()),
            (0, Some(Err(ClientError::ConnectionLost)))
        );
        assert!(matches!(
            push(&mut buffer, &NewRecord::new(b"y")),
            Err(Refused::Error(ClientError::ConnectionLost))
        ));
        assert!(buffer.is_empty());
    }
}
