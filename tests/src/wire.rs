//! A WebSocket by hand: frames as a test likes them, well made or not.
//!
//! Unlike the client crate it retries nothing, connects never again and shows
//! every frame that comes.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use eddy_protocol::frame::{
    Answer, Hello, Request, SUBPROTOCOL_BINARY, SUBPROTOCOL_JSON, ServerFrame,
};
use eddy_protocol::{ClientFrame, Form, WireError, codec};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::wait::LIMIT;

/// A connection to a broker.
pub struct Wire {
    socket: WebSocketStream<TcpStream>,
    form: Form,
    last_id: u32,
    unasked: VecDeque<ServerFrame>,
}

impl Wire {
    /// A connection that has said nothing yet, with this subprotocol and further
    /// headers; an error where the handshake is refused.
    pub async fn handshake(
        address: SocketAddr,
        subprotocol: &str,
        headers: &[(&str, &str)],
    ) -> Result<Wire, Error> {
        let tcp = TcpStream::connect(address).await?;
        let mut request = format!("ws://{address}/v1/ws").into_client_request()?;
        for (name, value) in [("sec-websocket-protocol", subprotocol)]
            .iter()
            .chain(headers)
        {
            if value.is_empty() {
                continue;
            }
            request.headers_mut().insert(
                HeaderName::from_bytes(name.as_bytes()).expect("tests use good names"),
                HeaderValue::from_str(value).expect("tests use good values"),
            );
        }
        let (socket, _) = timeout(LIMIT, client_async(request, tcp))
            .await
            .expect("the handshake is answered")?;
        let form = if subprotocol == SUBPROTOCOL_JSON {
            Form::Json
        } else {
            Form::Binary
        };
        Ok(Wire {
            socket,
            form,
            last_id: 0,
            unasked: VecDeque::new(),
        })
    }

    /// A connection that has said nothing yet.
    pub async fn silent(address: SocketAddr, form: Form) -> Wire {
        let subprotocol = match form {
            Form::Binary => SUBPROTOCOL_BINARY,
            Form::Json => SUBPROTOCOL_JSON,
        };
        Wire::handshake(address, subprotocol, &[])
            .await
            .expect("the broker takes the connection")
    }

    /// A connection that has said hello.
    pub async fn greeted(address: SocketAddr, form: Form) -> Wire {
        let mut wire = Wire::silent(address, form).await;
        let hello = Hello {
            client: "eddy-tests".into(),
            ..Hello::default()
        };
        wire.ask(Request::Hello(hello)).await.expect("a welcome");
        wire
    }

    /// Sends any message.
    pub async fn send(&mut self, message: Message) {
        // The peer may have closed already; what it said is read afterwards.
        let _ = timeout(LIMIT, self.socket.send(message))
            .await
            .expect("the broker reads");
    }

    /// Sends JSON as a text message.
    pub async fn say(&mut self, json: &Value) {
        self.send(Message::text(json.to_string())).await;
    }

    /// Sends a request and returns its id, without waiting.
    pub async fn request(&mut self, request: Request) -> u32 {
        self.last_id += 1;
        let id = self.last_id;
        let frame = ClientFrame { id, request };
        let bytes = codec::encode_client(&frame, self.form).expect("tests send good batches");
        let message = match self.form {
            Form::Binary => Message::binary(bytes),
            Form::Json => Message::text(String::from_utf8_lossy(&bytes).into_owned()),
        };
        self.send(message).await;
        id
    }

    /// The next message with content; none once the connection is closed.
    pub async fn message(&mut self) -> Option<Bytes> {
        loop {
            let next = timeout(LIMIT, self.socket.next())
                .await
                .unwrap_or_else(|_| panic!("waited {LIMIT:?} in vain for a message"));
            match next {
                None | Some(Err(_) | Ok(Message::Close(_))) => return None,
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    return Some(message.into_data());
                }
                Some(Ok(_)) => {}
            }
        }
    }

    /// The next message as JSON; panics if the connection is closed.
    pub async fn hear(&mut self) -> Value {
        let message = self.message().await.expect("the connection stands");
        serde_json::from_slice(&message).expect("JSON")
    }

    /// The next frame; none once the connection is closed.
    pub async fn next(&mut self) -> Option<ServerFrame> {
        match self.unasked.pop_front() {
            Some(frame) => Some(frame),
            None => self.receive().await,
        }
    }

    /// The next frame that nobody asked for; panics if the connection is closed.
    pub async fn frame(&mut self) -> ServerFrame {
        self.next().await.expect("the connection stands")
    }

    /// Waits for the answer to a request; other frames are kept for [`next`](Self::next).
    pub async fn answer(&mut self, asked: u32) -> Result<Answer, WireError> {
        let mut before = std::mem::take(&mut self.unasked);
        loop {
            let frame = match before.pop_front() {
                Some(frame) => frame,
                None => self.receive().await.expect("the connection stands"),
            };
            match frame {
                ServerFrame::Answer { id, answer } if id == asked => {
                    self.unasked.append(&mut before);
                    return Ok(answer);
                }
                ServerFrame::Error {
                    id: Some(id),
                    error,
                } if id == asked => {
                    self.unasked.append(&mut before);
                    return Err(error);
                }
                other => self.unasked.push_back(other),
            }
        }
    }

    /// Sends a request and waits for its answer.
    pub async fn ask(&mut self, request: Request) -> Result<Answer, WireError> {
        let id = self.request(request).await;
        self.answer(id).await
    }

    /// What the broker says before it closes the connection, which it must.
    pub async fn last_words(&mut self) -> Vec<ServerFrame> {
        let mut words = Vec::new();
        while let Some(frame) = self.next().await {
            words.push(frame);
        }
        words
    }

    /// The error without an id that must be the last of them.
    pub async fn last_error(&mut self) -> WireError {
        match self.last_words().await.pop() {
            Some(ServerFrame::Error { id: None, error }) => error,
            other => panic!("the last word should be an error without an id, not {other:?}"),
        }
    }

    async fn receive(&mut self) -> Option<ServerFrame> {
        let message = self.message().await?;
        Some(codec::decode_server(&message, self.form).expect("the broker sends good frames"))
    }
}
