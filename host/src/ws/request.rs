//! What each request asks of the broker.

use std::sync::Arc;

use bytes::Bytes;
use eddy_protocol::frame::{
    Answer, ClientFrame, Fetch, Fetched, Hello, Request, ServerFrame, Subscribe, Subscribed,
    Welcome, broker_capabilities,
};
use eddy_protocol::{ErrorCode, Form, WireError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::connection::{Connection, encode};
use crate::broker::{Awaited, Broker, Cursor, Held, Stream, owned};

/// A client's name has at most this many bytes.
const CLIENT_NAME_BYTES_MAX: usize = 128;
/// Records that expand to more than this are written as JSON on another thread.
const INLINE_BYTES_MAX: usize = 64 << 10;
/// What a record takes in JSON besides its bytes, at the most: names, offset, timestamp.
const JSON_RECORD_BYTES: usize = 128;
/// What a byte takes in JSON at the most, which is that of a control character.
const JSON_BYTE_BYTES: usize = 6;
/// A message that is smaller is not counted among what waits for peers.
const SMALL_BYTES: usize = 4 << 10;

/// What came of a request.
pub(super) enum RequestOutcome {
    Answer(u32, Result<Answer, WireError>),
    /// An answer that is a message already, counted for as long as it is there.
    Written(Bytes),
    /// A subscription that the connection has yet to take on.
    Opened {
        id: u32,
        stream: Arc<Stream>,
        cursors: Vec<Cursor>,
        all_partitions: bool,
    },
}

impl Connection {
    /// Begins a request. Produces and commits are handed to the store here, in
    /// the order of arrival. `None`: the answer comes later.
    pub(super) fn request(&mut self, frame: ClientFrame, bytes: usize) -> Option<RequestOutcome> {
        let ClientFrame { id, request } = frame;
        if let Err(error) = self.check_turn(&request) {
            return Some(RequestOutcome::Answer(id, Err(error)));
        }
        let broker = self.broker.clone();
        let answer = match request {
            Request::Hello(hello) => self.hello(&hello),
            Request::Ping {} => Ok(Answer::Pong {}),
            Request::Unsubscribe { stream } => self.unsubscribe(stream),
            Request::DescribeTopic { topic } => broker.describe_topic(&topic).map(Answer::Topic),
            Request::ListTopics {} => Ok(Answer::Topics {
                topics: broker.list_topics(),
            }),
            Request::Cursors(request) => {
                return self.later(id, bytes, async move {
                    let cursors = broker.cursors(&request).await;
                    cursors.map(|cursors| Answer::Cursors { cursors })
                });
            }
            Request::ListGroups {} => Ok(Answer::Groups {
                groups: broker.list_groups(),
            }),
            Request::DeleteGroup(request) => {
                return self.later(id, bytes, async move {
                    let deleted = broker.delete_group(request).await;
                    deleted.map(|()| Answer::Deleted {})
                });
            }
            Request::Produce(request) => match broker.produce(request) {
                Ok(pending) => {
                    return self.later(id, bytes, async {
                        pending.answer().await.map(Answer::Produced)
                    });
                }
                Err(error) => Err(error),
            },
            Request::Commit(request) => match broker.commit(request) {
                Ok(pending) => {
                    let answer = async {
                        pending
                            .answer()
                            .await
                            .map(|appends| Answer::Committed { appends })
                    };
                    return self.later(id, bytes, answer);
                }
                Err(error) => Err(error),
            },
            Request::Subscribe(request) => return self.subscribe(id, bytes, request),
            Request::OpenProducer(request) => {
                return self.later(id, bytes, async move {
                    broker.open_producer(request).await.map(Answer::Producer)
                });
            }
            Request::Fetch(request) => return self.fetch(id, bytes, request),
            Request::CreateTopic(request) => {
                return self.later(id, bytes, async move {
                    broker.create_topic(request).await.map(Answer::Topic)
                });
            }
            Request::AlterTopic(request) => {
                return self.later(id, bytes, async move {
                    broker.alter_topic(request).await.map(Answer::Topic)
                });
            }
            Request::DeleteTopic { topic } => {
                let work = async move {
                    broker
                        .delete_topic(&topic)
                        .await
                        .map(|()| Answer::Deleted {})
                };
                return self.later(id, bytes, work);
            }
        };
        Some(RequestOutcome::Answer(id, answer))
    }

    /// Answers, once what the answer says is true of this connection.
    pub(super) fn conclude(&mut self, outcome: RequestOutcome) {
        let (id, answer) = match outcome {
            RequestOutcome::Answer(id, answer) => (id, answer),
            RequestOutcome::Written(message) => return self.send_message(message),
            RequestOutcome::Opened {
                id,
                stream,
                cursors,
                all_partitions,
            } => {
                let number = stream.id();
                let added = self
                    .check_subscriptions()
                    .and_then(|()| self.subscriptions.add(stream, cursors, all_partitions));
                (
                    id,
                    added.map(|positions| {
                        Answer::Subscribed(Subscribed {
                            stream: number,
                            positions,
                        })
                    }),
                )
            }
        };
        let message = encode(&framed(id, answer), self.form());
        if message.len() < SMALL_BYTES {
            return self.send_message(message);
        }
        match self.broker.answers().try_take(message.len()) {
            Ok(held) => self.send_message(owned(message, held)),
            Err(error) => self.send(&framed(id, Err(error))),
        }
    }

    fn check_turn(&mut self, request: &Request) -> Result<(), WireError> {
        let is_hello = matches!(request, Request::Hello(_));
        let sentence = match (self.is_greeted(), is_hello) {
            (false, false) => "the first request of a connection must be `hello`",
            (true, true) => "this connection has said `hello` already",
            _ => return Ok(()),
        };
        let error = ErrorCode::UnexpectedFrame.because(sentence);
        if !self.is_greeted() {
            self.end_quietly(CloseCode::Policy);
        }
        Err(error)
    }

    fn hello(&mut self, hello: &Hello) -> Result<Answer, WireError> {
        let client = hello.client.as_str();
        if client.len() > CLIENT_NAME_BYTES_MAX {
            return Err(ErrorCode::InvalidArgument.because(format!(
                "`client` has {} bytes, the limit is {CLIENT_NAME_BYTES_MAX}",
                client.len()
            )));
        }
        tracing::debug!(client, capabilities = ?hello.capabilities, "hello");
        self.greet();
        Ok(Answer::Welcome(Welcome {
            server: concat!("eddy/", env!("CARGO_PKG_VERSION")).into(),
            incarnation: self.broker.incarnation(),
            frame_bytes_max: self.config.frame_bytes_max as u64,
            batch_bytes_max: self.broker.config().batch_bytes_max as u64,
            subscriptions_max: self.config.subscriptions_max as u32,
            idle_timeout_ms: self.config.idle_timeout.as_millis() as u64,
            capabilities: broker_capabilities(),
        }))
    }

    fn fetch(&mut self, id: u32, bytes: usize, request: Fetch) -> Option<RequestOutcome> {
        let (broker, form, mut stopping) =
            (self.broker.clone(), self.form(), self.stopping.clone());
        let room = self.fetch_room.clone();
        self.answer_later(bytes, async move {
            // Held until the answer is on its way to the socket.
            let mut taken = None;
            let reading = async {
                let awaited = broker.await_records(&request).await?;
                // Not while it waits: others could not even ask then.
                taken = room.take(awaited.bytes_max()).await;
                // A task of its own: what this connection gets of the memory for all must not wait
                // until it is polled, which it isn't while its peer takes nothing.
                let message = tokio::spawn(read(broker, awaited, id, form)).await;
                message.unwrap_or_else(|error| Err(ErrorCode::Internal.because(error.to_string())))
            };
            let written = tokio::select! {
                written = reading => written,
                // Whoever waits for a record should not hold up the stop.
                _ = stopping.wait_for(|stop| *stop) => {
                    Err(ErrorCode::ShuttingDown.because("the broker is stopping"))
                }
            };
            let outcome = match written {
                Ok(message) => RequestOutcome::Written(message),
                Err(error) => RequestOutcome::Answer(id, Err(error)),
            };
            (outcome, taken)
        });
        None
    }

    fn subscribe(&mut self, id: u32, bytes: usize, request: Subscribe) -> Option<RequestOutcome> {
        if let Err(error) = self.check_subscriptions() {
            return Some(RequestOutcome::Answer(id, Err(error)));
        }
        let broker = self.broker.clone();
        self.answer_later(bytes, async move {
            let outcome = match broker.subscribe(&request).await {
                Ok((stream, cursors)) => RequestOutcome::Opened {
                    id,
                    stream,
                    cursors,
                    all_partitions: request.partitions.is_empty(),
                },
                Err(error) => RequestOutcome::Answer(id, Err(error)),
            };
            (outcome, None)
        });
        None
    }

    fn check_subscriptions(&self) -> Result<(), WireError> {
        let limit = self.config.subscriptions_max;
        if self.subscriptions.len() < limit {
            return Ok(());
        }
        Err(ErrorCode::TooMany
            .because(format!("this connection holds {limit} subscriptions, which is the limit (`ws.subscriptions_max`)")))
    }

    fn unsubscribe(&mut self, stream: u64) -> Result<Answer, WireError> {
        if self.subscriptions.remove(stream) {
            return Ok(Answer::Unsubscribed {});
        }
        Err(ErrorCode::UnknownStream.because(format!("this connection holds no stream {stream}")))
    }

    fn later(
        &mut self,
        id: u32,
        bytes: usize,
        answer: impl Future<Output = Result<Answer, WireError>> + Send + 'static,
    ) -> Option<RequestOutcome> {
        self.answer_later(bytes, async move {
            (RequestOutcome::Answer(id, answer.await), None)
        });
        None
    }
}

/// The memory for the records that a connection's fetches have read and its peer has not.
#[derive(Clone)]
pub(super) struct FetchRoom {
    free: Arc<Semaphore>,
    bytes_max: usize,
}

impl FetchRoom {
    pub(super) fn new(bytes_max: usize) -> FetchRoom {
        let bytes_max = bytes_max.min(u32::MAX as usize);
        FetchRoom {
            free: Arc::new(Semaphore::new(bytes_max)),
            bytes_max,
        }
    }

    /// Waits for room for one more read. One that could never have enough has all.
    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = bytes.min(self.bytes_max) as u32;
        // Nobody closes it.
        self.free.clone().acquire_many_owned(bytes).await.ok()
    }
}

/// Whether the request asks the store to write.
pub(super) fn writes(request: &Request) -> bool {
    matches!(
        request,
        Request::Produce(_)
            | Request::Commit(_)
            | Request::OpenProducer(_)
            | Request::CreateTopic(_)
            | Request::AlterTopic(_)
            | Request::DeleteTopic { .. }
    )
}

/// The frame that answers request `id`.
fn framed(id: u32, answer: Result<Answer, WireError>) -> ServerFrame {
    match answer {
        Ok(answer) => ServerFrame::Answer { id, answer },
        Err(error) => ServerFrame::Error {
            id: Some(id),
            error,
        },
    }
}

/// The answer to a fetch as a message, which gives back the memory that is
/// counted for it when it is gone.
async fn read(
    broker: Arc<Broker>,
    awaited: Awaited,
    id: u32,
    form: Form,
) -> Result<Bytes, WireError> {
    let mut asked = awaited.bytes_max();
    loop {
        // All at once: fetches that hold some while they wait for more could wait for each other.
        let held = broker.answers().take_for_whole(asked).await?;
        let fetched = awaited.read().await?;
        let needed = memory_bytes(&fetched, form);
        if needed <= held.bytes().max(asked) {
            awaited.delivered(size(&fetched).0 as u64, fetched.batches.0.len() as u64);
            return write(id, fetched, held, form).await;
        }
        asked = needed;
    }
}

/// What records and the message that is made of them take at the most, both in
/// memory at a time.
fn memory_bytes(fetched: &Fetched, form: Form) -> usize {
    let bytes = fetched.batches.0.len();
    match form {
        Form::Binary => 2 * bytes,
        Form::Json => {
            let (records, expanded) = size(fetched);
            let text = records * JSON_RECORD_BYTES + expanded * JSON_BYTE_BYTES;
            bytes + expanded + text
        }
    }
}

/// How many records, and what they expand to.
fn size(fetched: &Fetched) -> (usize, usize) {
    let batches = fetched.batches.iter_trusted().filter_map(Result::ok);
    batches.fold((0, 0), |(records, bytes), batch| {
        (
            records + batch.count() as usize,
            bytes + batch.expanded_len(),
        )
    })
}

/// Writes an answer, on a thread that may take its time where there is much to write.
async fn write(id: u32, fetched: Fetched, mut held: Held, form: Form) -> Result<Bytes, WireError> {
    let takes_long = form == Form::Json && size(&fetched).1 > INLINE_BYTES_MAX;
    let answer = Answer::Fetched(fetched);
    let frame = ServerFrame::Answer { id, answer };
    let message = match takes_long {
        true => tokio::task::spawn_blocking(move || encode(&frame, form))
            .await
            .map_err(|error| ErrorCode::Internal.because(error.to_string()))?,
        false => encode(&frame, form),
    };
    held.shrink_to(message.len());
    Ok(owned(message, held))
}
