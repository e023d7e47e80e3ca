//! The wire, as bare as it gets: what a measure needs of a client and nothing
//! that could be slower than what is measured.

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use eddy_protocol::frame::{
    Answer, CreateTopic, Durability, Hello, Produce, Start, Subscribe, TopicSettings,
};
use eddy_protocol::{
    BatchBuilder, ClientFrame, Compression, Form, Request, ServerFrame, TopicName, codec,
};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// One connection.
pub(crate) struct Wire {
    pub(crate) ws: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next_id: u32,
}

impl Wire {
    /// Connects and says hello.
    pub(crate) async fn open(url: &str) -> Result<Wire> {
        let mut request = url.into_client_request()?;
        request
            .headers_mut()
            .insert("sec-websocket-protocol", "eddy.v1".parse()?);
        let (ws, _) = tokio_tungstenite::connect_async_with_config(request, None, true).await?;
        let mut wire = Wire { ws, next_id: 0 };
        wire.ask(Request::Hello(Hello::default())).await?;
        Ok(wire)
    }

    /// Sends a request without waiting for its answer.
    pub(crate) async fn send(&mut self, request: Request) -> Result<u32> {
        self.next_id += 1;
        let frame = codec::encode_client(
            &ClientFrame {
                id: self.next_id,
                request,
            },
            Form::Binary,
        )?;
        self.ws.send(Message::Binary(frame)).await?;
        Ok(self.next_id)
    }

    /// The next frame.
    pub(crate) async fn next(&mut self) -> Result<ServerFrame> {
        loop {
            match self.ws.next().await {
                Some(Ok(Message::Binary(bytes))) => {
                    return Ok(codec::decode_server(&bytes, Form::Binary)?);
                }
                Some(Ok(_)) => {}
                other => bail!("the connection ended: {other:?}"),
            }
        }
    }

    /// Waits until one more produce is acknowledged; deliveries before that are
    /// dropped. A refused one is an error: it would count as done.
    pub(crate) async fn acknowledged(&mut self) -> Result<()> {
        loop {
            match self.next().await? {
                ServerFrame::Answer {
                    answer: Answer::Produced(_),
                    ..
                } => return Ok(()),
                ServerFrame::Deliver(_) => {}
                ServerFrame::Error { error, .. } => return Err(anyhow!(error)),
                other => bail!("instead of an acknowledgement came {other:?}"),
            }
        }
    }

    /// Sends a request and waits for its answer; frames before it are dropped.
    pub(crate) async fn ask(&mut self, request: Request) -> Result<Answer> {
        let wanted = self.send(request).await?;
        loop {
            match self.next().await? {
                ServerFrame::Answer { id, answer } if id == wanted => return Ok(answer),
                ServerFrame::Error { error, .. } => return Err(anyhow!(error)),
                _ => {}
            }
        }
    }

    pub(crate) async fn create_topic(
        &mut self,
        topic: &str,
        partitions: u32,
        durability: Durability,
    ) -> Result<()> {
        let settings = TopicSettings {
            durability,
            ..TopicSettings::default()
        };
        self.ask(Request::CreateTopic(CreateTopic {
            topic: name(topic),
            partitions,
            settings,
        }))
        .await?;
        Ok(())
    }

    pub(crate) async fn subscribe(&mut self, topic: &str, from: Start) -> Result<()> {
        self.ask(Request::Subscribe(subscribe(topic, from))).await?;
        Ok(())
    }
}

/// A subscription to all of a topic.
pub(crate) fn subscribe(topic: &str, from: Start) -> Subscribe {
    Subscribe {
        topic: name(topic),
        partitions: Vec::new(),
        from,
        resume: Vec::new(),
        filter: None,
    }
}

/// A batch of `count` records of `value_bytes` each, without keys.
pub(crate) fn batch(count: usize, value_bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new();
    let mut value = vec![b'x'; value_bytes];
    for number in 0..count {
        let digits = format!("{number:08}");
        let shared = digits.len().min(value_bytes);
        value[..shared].copy_from_slice(&digits.as_bytes()[..shared]);
        builder
            .push(1_700_000_000_000, None, Some(&value), &[])
            .expect("a small record fits");
    }
    builder
        .finish(Compression::None, None)
        .expect("a few records fit")
        .bytes()
        .clone()
}

/// A request to append a batch to one partition.
pub(crate) fn produce(topic: &str, partition: u32, batch: Bytes) -> Request {
    Request::Produce(Produce {
        topic: name(topic),
        partition: Some(partition),
        batch: eddy_protocol::batch::Batches(batch),
    })
}

/// A topic's name.
pub(crate) fn name(topic: &str) -> TopicName {
    TopicName::parse(topic).expect("measures name their topics well")
}
