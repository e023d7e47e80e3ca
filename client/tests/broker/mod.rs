//! A broker of a few lines, in memory, for the client's tests: one topic, the
//! binary form, sequences checked as the real one does. It can be told to drop
//! every connection, before or after it has done what was asked.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eddy_client::{Config, ServerAddress};
use eddy_protocol::codec::{self, Form};
use eddy_protocol::frame::{
    Answer, Deliver, PartitionInfo, Position, Produce, Produced, Producer, Request, ServerFrame,
    Start, Subscribe, Subscribed, TopicInfo, TopicSettings, Welcome,
};
use eddy_protocol::{Batch, Batches, ErrorCode, TopicName, WireError};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{
    ErrorResponse, Request as Upgrade, Response,
};

/// Nothing in a test takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Partition {
    batches: Vec<Batch>,
    end: u64,
    /// The next sequence of each producer, and where its batches went.
    sequences: HashMap<u64, (u32, HashMap<u32, u64>)>,
}

/// See the module.
pub(crate) struct Broker {
    pub(crate) topic: TopicName,
    partitions: Mutex<Vec<Partition>>,
    appended: watch::Sender<u64>,
    producers: AtomicU64,
    /// Every so many produces the connection is dropped; 0: never.
    pub(crate) drop_every: AtomicUsize,
    produces: AtomicUsize,
    pub(crate) disk_full: AtomicBool,
    /// What these requests are refused with, if they are.
    pub(crate) refuse_hello: Mutex<Option<ErrorCode>>,
    pub(crate) refuse_open: Mutex<Option<ErrorCode>>,
    /// Every batch for this partition.
    pub(crate) refuse_partition: Mutex<Option<(u32, ErrorCode)>>,
    pub(crate) refuse_subscribe: Mutex<Option<ErrorCode>>,
    /// The connection is dropped as soon as a subscription stands.
    pub(crate) drop_subscribed: AtomicBool,
    /// Handshakes are answered with this HTTP status and body, if they are.
    pub(crate) refuse_handshake: Mutex<Option<(u16, Option<String>)>>,
    pub(crate) delivered_bytes: AtomicUsize,
    kick: watch::Sender<u64>,
    pub(crate) connections: AtomicUsize,
    /// New connections are closed at once.
    pub(crate) refuse: AtomicBool,
}

impl Broker {
    /// Starts a broker with so many partitions, and says where it is.
    pub(crate) async fn start(partitions: usize) -> (Arc<Broker>, Config) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let server: ServerAddress = listener
            .local_addr()
            .expect("an address")
            .to_string()
            .parse()
            .expect("an address");
        let mut parts = Vec::new();
        parts.resize_with(partitions, Partition::default);
        let broker = Arc::new(Broker {
            topic: TopicName::parse("quakes").expect("a name"),
            partitions: Mutex::new(parts),
            appended: watch::channel(0).0,
            producers: AtomicU64::new(0),
            drop_every: AtomicUsize::new(0),
            produces: AtomicUsize::new(0),
            disk_full: AtomicBool::new(false),
            refuse_hello: Mutex::default(),
            refuse_open: Mutex::default(),
            refuse_partition: Mutex::default(),
            refuse_subscribe: Mutex::default(),
            drop_subscribed: AtomicBool::new(false),
            refuse_handshake: Mutex::default(),
            delivered_bytes: AtomicUsize::new(0),
            kick: watch::channel(0).0,
            connections: AtomicUsize::new(0),
            refuse: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&broker);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&accepting).serve(stream));
            }
        });
        let backoff = Duration::from_millis(5);
        (
            broker,
            Config {
                server,
                backoff_min: backoff,
                backoff_max: backoff,
                ..Config::default()
            },
        )
    }

    /// Drops every connection there is.
    pub(crate) fn kick(&self) {
        self.kick.send_modify(|kicks| *kicks += 1);
    }

    /// All values of a partition, in order.
    pub(crate) fn values(&self, partition: usize) -> Vec<Vec<u8>> {
        let partitions = self.partitions.lock().expect("whole");
        let batches = partitions[partition].batches.iter();
        let records = batches.map(|batch| batch.records().expect("records"));
        records
            .flat_map(|records| {
                records
                    .iter()
                    .map(|record| record.value.expect("a value").to_vec())
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// How many batches a partition holds.
    pub(crate) fn batches(&self, partition: usize) -> usize {
        self.partitions.lock().expect("whole")[partition]
            .batches
            .len()
    }

    async fn serve(self: Arc<Self>, stream: TcpStream) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        if self.refuse.load(Ordering::SeqCst) {
            return;
        }
        let mut kick = self.kick.subscribe();
        let refusal = self.refuse_handshake.lock().expect("whole").clone();
        let Ok(socket) = tokio_tungstenite::accept_hdr_async(stream, accept(refusal)).await else {
            return;
        };
        tokio::select! {
            () = self.talk(socket) => {}
            _ = kick.changed() => {}
        }
    }

    async fn talk(&self, mut socket: WebSocketStream<TcpStream>) {
        let mut appended = self.appended.subscribe();
        let mut cursors: Vec<Position> = Vec::new();
        loop {
            if !self.deliver(&mut socket, &mut cursors).await {
                return;
            }
            let message = tokio::select! {
                message = socket.next() => message,
                _ = appended.changed() => continue,
            };
            let Some(Ok(Message::Binary(message))) = message else {
                return;
            };
            let frame =
                codec::decode_client(&message, Form::Binary, 0).expect("the client sends frames");
            let produce = matches!(frame.request, Request::Produce(_));
            let subscribe = matches!(frame.request, Request::Subscribe(_));
            let result = self.answer(frame.request, &mut cursors);
            if produce && self.drops_now() {
                return;
            }
            let answer = match result {
                Ok(answer) => ServerFrame::Answer {
                    id: frame.id,
                    answer,
                },
                Err(error) => ServerFrame::Error {
                    id: Some(frame.id),
                    error,
                },
            };
            if !send(&mut socket, &answer).await
                || (subscribe && self.drop_subscribed.load(Ordering::SeqCst))
            {
                return;
            }
        }
    }

    /// Whether the answer is to be lost with the connection.
    fn drops_now(&self) -> bool {
        let every = self.drop_every.load(Ordering::SeqCst);
        let count = self.produces.fetch_add(1, Ordering::SeqCst) + 1;
        every > 0 && count.is_multiple_of(every)
    }

    fn answer(&self, request: Request, cursors: &mut Vec<Position>) -> Result<Answer, WireError> {
        let refusal = match &request {
            Request::Hello(_) => *self.refuse_hello.lock().expect("whole"),
            Request::OpenProducer(_) => *self.refuse_open.lock().expect("whole"),
            Request::Subscribe(_) => *self.refuse_subscribe.lock().expect("whole"),
            _ => None,
        };
        if let Some(code) = refusal {
            return Err(code.because("as it was told"));
        }
        match request {
            Request::Hello(_) => Ok(Answer::Welcome(welcome())),
            Request::Ping {} => Ok(Answer::Pong {}),
            Request::DescribeTopic { topic } if topic == self.topic => {
                Ok(Answer::Topic(self.info()))
            }
            Request::DescribeTopic { topic } => {
                Err(ErrorCode::UnknownTopic.because(format!("no topic `{topic}`")))
            }
            Request::OpenProducer(_) => {
                let id = self.producers.fetch_add(1, Ordering::SeqCst) + 1;
                Ok(Answer::Producer(Producer { id, epoch: 0 }))
            }
            Request::Produce(produce) => self.produce(produce).map(Answer::Produced),
            Request::Subscribe(subscribe) => {
                *cursors = self.begin(&subscribe);
                Ok(Answer::Subscribed(Subscribed {
                    stream: 7,
                    positions: cursors.clone(),
                }))
            }
            other => Err(ErrorCode::Internal.because(format!("not in this broker: {other:?}"))),
        }
    }

    fn info(&self) -> TopicInfo {
        let partitions = self.partitions.lock().expect("whole");
        let info = |(number, partition): (u32, &Partition)| PartitionInfo {
            partition: number,
            epoch: 1,
            start: 0,
            end: partition.end,
            bytes: 0,
            stopped: None,
        };
        TopicInfo {
            topic: self.topic.clone(),
            settings: TopicSettings::default(),
            partitions: (0..).zip(partitions.iter()).map(info).collect(),
            uuid: String::new(),
        }
    }

    fn produce(&self, produce: Produce) -> Result<Produced, WireError> {
        if self.disk_full.load(Ordering::SeqCst) {
            return Err(ErrorCode::DiskFull.because("the disk is full"));
        }
        let number = produce.partition.expect("the client places records");
        let refused = *self.refuse_partition.lock().expect("whole");
        if let Some((_, code)) = refused.filter(|(partition, _)| *partition == number) {
            return Err(code.because("as it was told"));
        }
        let batch = produce.batch.single().expect("a whole batch");
        let stamp = batch.producer().expect("a stamp");
        let mut partitions = self.partitions.lock().expect("whole");
        let partition = &mut partitions[number as usize];
        let end = partition.end;
        let (expected, known) = partition.sequences.entry(stamp.id).or_default();
        let count = batch.count();
        if let Some(offset) = known.get(&stamp.sequence) {
            return Ok(Produced {
                partition: number,
                offset: Some(*offset),
                count,
                duplicate: true,
            });
        }
        if stamp.sequence != *expected {
            return Err(ErrorCode::OutOfOrderSequence.because("a batch is missing"));
        }
        *expected += count;
        known.insert(stamp.sequence, end);
        partition.end += u64::from(count);
        partition.batches.push(batch.with_base_offset(end));
        drop(partitions);
        self.appended.send_modify(|appended| *appended += 1);
        Ok(Produced {
            partition: number,
            offset: Some(end),
            count,
            duplicate: false,
        })
    }

    fn begin(&self, subscribe: &Subscribe) -> Vec<Position> {
        let partitions = self.partitions.lock().expect("whole");
        let position = |(number, partition): (u32, &Partition)| {
            let resumed = subscribe
                .resume
                .iter()
                .find(|position| position.partition == number);
            let offset = match (resumed, subscribe.from) {
                (Some(position), _) => position.offset,
                (None, Start::Earliest) => 0,
                (None, Start::Offset(offset)) => offset,
                (None, _) => partition.end,
            };
            Position {
                partition: number,
                offset,
                epoch: 1,
            }
        };
        (0..).zip(partitions.iter()).map(position).collect()
    }

    async fn deliver(
        &self,
        socket: &mut WebSocketStream<TcpStream>,
        cursors: &mut [Position],
    ) -> bool {
        loop {
            let Some((at, before, batch)) = self.next_batch(cursors) else {
                return true;
            };
            let next = batch.end_offset();
            self.delivered_bytes
                .fetch_add(batch.len(), Ordering::SeqCst);
            let partition = cursors[at].partition;
            // Frames are shared: they may begin before a reader's cursor.
            let batches: Batches = before.into_iter().chain([batch]).collect();
            let deliver = Deliver {
                stream: 7,
                partition,
                epoch: 1,
                next,
                batches,
            };
            if !send(socket, &ServerFrame::Deliver(deliver)).await {
                return false;
            }
            cursors[at].offset = next;
        }
    }

    /// The next batch, the one before it, and for which cursor.
    fn next_batch(&self, cursors: &[Position]) -> Option<(usize, Option<Batch>, Batch)> {
        let partitions = self.partitions.lock().expect("whole");
        cursors.iter().enumerate().find_map(|(at, cursor)| {
            let batches = &partitions[cursor.partition as usize].batches;
            let next = batches
                .iter()
                .position(|batch| batch.end_offset() > cursor.offset)?;
            let before = next.checked_sub(1).map(|before| batches[before].clone());
            Some((at, before, batches[next].clone()))
        })
    }
}

/// Answers a handshake with this status and body, or takes it where there is none.
#[expect(clippy::result_large_err, reason = "the library's own type")]
fn accept(
    refusal: Option<(u16, Option<String>)>,
) -> impl FnOnce(&Upgrade, Response) -> Result<Response, ErrorResponse> {
    move |request, mut response| {
        if let Some((status, body)) = refusal {
            let mut refusal = ErrorResponse::new(body);
            *refusal.status_mut() = status.try_into().expect("a status");
            return Err(refusal);
        }
        let name = "sec-websocket-protocol";
        response
            .headers_mut()
            .insert(name, request.headers()[name].clone());
        Ok(response)
    }
}

fn welcome() -> Welcome {
    Welcome {
        server: "test".into(),
        incarnation: 1,
        frame_bytes_max: 2 << 20,
        batch_bytes_max: 1 << 20,
        subscriptions_max: 1,
        idle_timeout_ms: 60_000,
        ..Welcome::default()
    }
}

async fn send(socket: &mut WebSocketStream<TcpStream>, frame: &ServerFrame) -> bool {
    let message = codec::encode_server(frame, Form::Binary).expect("a frame");
    socket.send(Message::Binary(message)).await.is_ok()
}
