//! A broker made of a few lists, with the rules that matter to a session:
//! sequences, streams, retention. It loses connections, answers late, goes on
//! reading what a lost connection had sent, and refuses what it is told to.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use eddy_protocol::batch::{
    Batch, BatchBuilder, Batches, ColumnBuf, Compression, OffsetMode, Rows,
};
use eddy_protocol::codec::{Form, decode_client, encode_server};
use eddy_protocol::error::{ErrorCode, WireError};
use eddy_protocol::frame::{
    Answer, Deliver, Gap, OpenProducer, Position, Produced, Producer, Progress, Request,
    ServerFrame, Start, Subscribe, Subscribed, Welcome,
};

/// Numbers by chance, the same for the same seed (SplitMix64).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What can go wrong with a produce, in percent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) disk_full: u64,
    pub(crate) timed_out: u64,
    /// Refused by what is in them, whenever they come.
    pub(crate) poison: u64,
    /// Refused because the topic is not there just then.
    pub(crate) no_topic: u64,
    pub(crate) forgotten: u64,
}

#[derive(Default)]
pub(crate) struct Partition {
    /// The values of its records; the offset is the place.
    pub(crate) log: Vec<u64>,
    pub(crate) start: u64,
    pub(crate) epoch: u32,
}

#[derive(Default)]
pub(crate) struct Connection {
    pub(crate) inbox: VecDeque<Bytes>,
    pub(crate) outbox: VecDeque<Bytes>,
    pub(crate) lost_at: Option<Duration>,
    greeted: bool,
    streams: BTreeMap<u64, Stream>,
}

struct Stream {
    even_only: bool,
    cursors: BTreeMap<u32, (u64, u32)>,
}

struct Known {
    epoch: u16,
    next: HashMap<u32, u32>,
}

pub(crate) struct Broker {
    pub(crate) partitions: Vec<Partition>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) faults: Faults,
    producers: HashMap<u64, Known>,
    names: HashMap<String, u64>,
    last_producer: u64,
    form: Form,
}

pub(crate) fn value_of(value: Option<&[u8]>) -> u64 {
    let value = value.expect("the model writes values");
    u64::from_le_bytes(value.try_into().expect("of eight bytes"))
}

impl Broker {
    pub(crate) fn new(partitions: usize, form: Form) -> Broker {
        Broker {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            connections: Vec::new(),
            faults: Faults::default(),
            producers: HashMap::new(),
            names: HashMap::new(),
            last_producer: 0,
            form,
        }
    }

    pub(crate) fn connect(&mut self) {
        self.connections.push(Connection {
            ..Connection::default()
        });
    }

    pub(crate) fn live(&mut self) -> Option<&mut Connection> {
        self.connections
            .last_mut()
            .filter(|connection| connection.lost_at.is_none())
    }

    /// Reads no more of the connections that it has heard nothing of for too long.
    pub(crate) fn close_idle(&mut self, now: Duration) {
        let idle_timeout = Duration::from_millis(welcome().idle_timeout_ms);
        for connection in &mut self.connections {
            if connection
                .lost_at
                .is_some_and(|at| now >= at + idle_timeout)
            {
                connection.inbox.clear();
            }
        }
    }

    /// Reads one frame of a connection, be it lost or not.
    pub(crate) fn read(&mut self, at: usize, chance: &mut Chance) {
        let Some(message) = self.connections[at].inbox.pop_front() else {
            return;
        };
        let frame = decode_client(&message, self.form, 0).expect("a session sends whole frames");
        let answered = match frame.request {
            Request::Hello(_) => {
                self.connections[at].greeted = true;
                Ok(Answer::Welcome(welcome()))
            }
            _ if !self.connections[at].greeted => panic!("a session begins with hello"),
            Request::Ping {} => Ok(Answer::Pong {}),
            Request::OpenProducer(open) => self.open(open).map(Answer::Producer),
            Request::Produce(produce) => {
                let partition = produce.partition.expect("a session names the partition");
                self.produce(partition, produce.batch, chance)
                    .map(Answer::Produced)
            }
            Request::Subscribe(subscribe) => self.subscribe(at, &subscribe).map(Answer::Subscribed),
            Request::Unsubscribe { stream } => match self.connections[at].streams.remove(&stream) {
                Some(_) => Ok(Answer::Unsubscribed {}),
                None => Err(ErrorCode::UnknownStream.because("no such stream")),
            },
            Request::ListTopics {} => Ok(Answer::Topics { topics: Vec::new() }),
            other => panic!("the model has no {other:?}"),
        };
        let id = frame.id;
        let answer = match answered {
            Ok(answer) => ServerFrame::Answer { id, answer },
            Err(error) => ServerFrame::Error {
                id: Some(id),
                error,
            },
        };
        self.send(at, &answer);
    }

    fn send(&mut self, at: usize, frame: &ServerFrame) {
        let message = encode_server(frame, self.form).expect("the model's batches are whole");
        let connection = &mut self.connections[at];
        if connection.lost_at.is_none() {
            connection.outbox.push_back(message);
        }
    }

    fn open(&mut self, open: OpenProducer) -> Result<Producer, WireError> {
        let OpenProducer { name, current } = open;
        if let Some(Producer { id, epoch }) = current
            && let Some(known) = self.producers.get_mut(&id)
        {
            let is_unused = known.next.is_empty();
            if known.epoch > epoch + 1 || known.epoch == epoch + 1 && !is_unused {
                return Err(ErrorCode::FencedProducer.because("an older epoch"));
            }
            known.epoch = epoch + 1;
            known.next.clear();
            let epoch = known.epoch;
            return Ok(Producer { id, epoch });
        }
        let known = name.as_ref().and_then(|name| self.names.get(name)).copied();
        let id = known
            .filter(|id| self.producers.contains_key(id))
            .unwrap_or_else(|| {
                self.last_producer += 1;
                self.producers.insert(
                    self.last_producer,
                    Known {
                        epoch: 0,
                        next: HashMap::new(),
                    },
                );
                self.last_producer
            });
        let producer = self.producers.get_mut(&id).expect("known or just made");
        if let Some(name) = name {
            producer.epoch += 1;
            producer.next.clear();
            self.names.insert(name, id);
        }
        Ok(Producer {
            id,
            epoch: producer.epoch,
        })
    }

    fn produce(
        &mut self,
        partition: u32,
        batch: Batches,
        chance: &mut Chance,
    ) -> Result<Produced, WireError> {
        let batch = batch.single().expect("a session sends whole batches");
        let stamp = batch.producer().expect("a session stamps its batches");
        let faults = self.faults;
        let records = batch.records().expect("it was checked");
        let first = value_of(records.record(0).expect("there is one").value);
        if Chance(first).percent(faults.poison) {
            return Err(ErrorCode::InvalidArgument.because("refused for good"));
        }
        if chance.percent(faults.no_topic) {
            return Err(ErrorCode::UnknownTopic.because("not there just now"));
        }
        if chance.percent(faults.forgotten) {
            self.producers.remove(&stamp.id);
        }
        let late = chance.percent(faults.timed_out);
        let Some(known) = self.producers.get_mut(&stamp.id) else {
            return Err(ErrorCode::UnknownProducer.because("not known"));
        };
        if stamp.epoch < known.epoch {
            return Err(ErrorCode::FencedProducer.because("an older epoch"));
        }
        let next = known.next.entry(partition).or_insert(0);
        // The circle has 2^31 numbers: the highest bit is left out of the sign.
        let ahead = (stamp.sequence.wrapping_sub(*next) << 1) as i32 >> 1;
        let count = batch.count();
        if ahead > 0 {
            return Err(ErrorCode::OutOfOrderSequence.because("a batch is missing"));
        }
        if ahead < 0 {
            return Ok(Produced {
                partition,
                offset: None,
                count,
                duplicate: true,
            });
        }
        if chance.percent(faults.disk_full) {
            return Err(ErrorCode::DiskFull.because("no room"));
        }
        *next = next.wrapping_add(count) & 0x7fff_ffff;
        let log = &mut self.partitions[partition as usize].log;
        let offset = Some(log.len() as u64);
        log.extend(
            batch
                .records()
                .expect("it was checked")
                .iter()
                .map(|record| value_of(record.value)),
        );
        if late {
            return Err(ErrorCode::TimedOut.because("it took too long, but it is in the log"));
        }
        Ok(Produced {
            partition,
            offset,
            count,
            duplicate: false,
        })
    }

    fn subscribe(&mut self, at: usize, subscribe: &Subscribe) -> Result<Subscribed, WireError> {
        let even_only = subscribe.filter.is_some();
        let stream = 1 + u64::from(even_only);
        if self.connections[at].streams.contains_key(&stream) {
            return Err(ErrorCode::AlreadySubscribed.because("once is enough"));
        }
        let mut cursors = BTreeMap::new();
        let mut gaps = Vec::new();
        for (number, partition) in (0..).zip(&self.partitions) {
            let resume = subscribe
                .resume
                .iter()
                .find(|position| position.partition == number);
            let end = partition.log.len() as u64;
            let wanted = match (resume, subscribe.from) {
                (Some(position), _) => position.offset,
                (None, Start::Latest) => end,
                (None, _) => partition.start,
            };
            let begin = wanted.clamp(partition.start, end);
            let epoch_changed = resume.is_some_and(|position| position.epoch != partition.epoch);
            if epoch_changed || begin != wanted {
                let epoch = partition.epoch;
                gaps.push(Gap {
                    stream,
                    partition: number,
                    epoch,
                    expected: wanted,
                    next: begin,
                });
            }
            cursors.insert(number, (begin, partition.epoch));
        }
        let positions = cursors.iter().map(|(partition, (offset, epoch))| Position {
            partition: *partition,
            offset: *offset,
            epoch: *epoch,
        });
        let positions = positions.collect();
        self.connections[at]
            .streams
            .insert(stream, Stream { even_only, cursors });
        // The answer goes out first: it is sent by the caller, so the gaps wait in the cursor's place.
        for gap in gaps {
            self.connections[at].inbox_gaps(gap);
        }
        Ok(Subscribed { stream, positions })
    }

    /// Sends the next records of one stream of the live connection.
    pub(crate) fn deliver(&mut self, chance: &mut Chance) {
        let at = self.connections.len().wrapping_sub(1);
        let Some(connection) = self
            .connections
            .get(at)
            .filter(|connection| connection.lost_at.is_none())
        else {
            return;
        };
        let streams: Vec<u64> = connection.streams.keys().copied().collect();
        for stream in streams {
            for number in 0..self.partitions.len() as u32 {
                if chance.percent(50)
                    && let Some(frame) = self.next_frame(at, stream, number, chance)
                {
                    self.send(at, &frame);
                }
            }
        }
    }

    fn next_frame(
        &mut self,
        at: usize,
        stream: u64,
        number: u32,
        chance: &mut Chance,
    ) -> Option<ServerFrame> {
        let partition = &self.partitions[number as usize];
        let state = self.connections[at].streams.get_mut(&stream)?;
        let end = partition.log.len() as u64;
        // A partition that was added later is read from its beginning.
        let (cursor, epoch) = state.cursors.entry(number).or_insert((0, partition.epoch));
        if *cursor < partition.start || *epoch != partition.epoch {
            let (expected, next) = (*cursor, (*cursor).clamp(partition.start, end));
            (*cursor, *epoch) = (next, partition.epoch);
            return Some(ServerFrame::Gap(Gap {
                stream,
                partition: number,
                epoch: *epoch,
                expected,
                next,
            }));
        }
        if *cursor == end {
            return None;
        }
        // A batch may begin before the cursor: frames are shared.
        let begin = (*cursor)
            .saturating_sub(chance.below(3))
            .max(partition.start);
        let next = *cursor + 1 + chance.below(end - *cursor);
        let epoch = *epoch;
        *cursor = next;
        let mut batches = Vec::new();
        let mut from = begin;
        while from < next {
            let to = from + 1 + chance.below(next - from);
            batches.push(batch_of(&partition.log, from, to, state.even_only));
            from = to;
        }
        let Some(batches) = batches.into_iter().collect::<Option<Vec<Batch>>>() else {
            // A whole batch was filtered out: one batch over everything, or nothing but progress.
            let whole = batch_of(&partition.log, begin, next, true);
            return Some(match whole {
                Some(batch) => ServerFrame::Deliver(Deliver {
                    stream,
                    partition: number,
                    epoch,
                    next,
                    batches: batch.into(),
                }),
                None => ServerFrame::Progress(Progress {
                    stream,
                    partition: number,
                    epoch,
                    next,
                }),
            });
        };
        let batches = batches.into_iter().collect();
        Some(ServerFrame::Deliver(Deliver {
            stream,
            partition: number,
            epoch,
            next,
            batches,
        }))
    }
}

impl Connection {
    /// A stream that resumes behind retention begins where it wanted to, and
    /// finds out at the first delivery.
    fn inbox_gaps(&mut self, gap: Gap) {
        if let Some(stream) = self.streams.get_mut(&gap.stream)
            && let Some(cursor) = stream.cursors.get_mut(&gap.partition)
        {
            *cursor = (gap.expected, u32::MAX);
        }
    }
}

fn batch_of(log: &[u64], from: u64, to: u64, even_only: bool) -> Option<Batch> {
    let mut columns = ColumnBuf::new();
    for offset in from..to {
        let value = log[offset as usize];
        if !even_only || value.is_multiple_of(2) {
            columns
                .push(offset, value as i64, None, Some(&value.to_le_bytes()), &[])
                .expect("offsets rise");
        }
    }
    let offsets = OffsetMode::Sparse {
        base: from,
        span: (to - from) as u32,
    };
    columns
        .encode(Rows::All, offsets, Compression::None, None)
        .ok()
}

/// A batch of these values.
pub(crate) fn batch(values: &[u64]) -> Batch {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder
            .push(1, None, Some(&value.to_le_bytes()), &[])
            .expect("it fits");
    }
    builder
        .finish(Compression::None, None)
        .expect("it has a record")
}

fn welcome() -> Welcome {
    Welcome {
        server: "model".to_owned(),
        incarnation: 1,
        frame_bytes_max: 1 << 20,
        batch_bytes_max: 1 << 10,
        subscriptions_max: 10,
        idle_timeout_ms: 60_000,
        ..Welcome::default()
    }
}
