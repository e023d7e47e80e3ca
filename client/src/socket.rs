//! One WebSocket to the broker: messages in, messages out, at the same time.
//! Knows nothing of frames.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use eddy_protocol::codec;
use eddy_protocol::frame::SUBPROTOCOL_BINARY;
use futures_util::{Sink, Stream};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::http::{HeaderValue, Response, header::SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};

use crate::error::refusal_in;
use crate::pipe::Pipe;
use crate::{ClientError, Config};

/// Where a broker speaks WebSocket.
const PATH: &str = "/v1/ws";
/// No broker sends a larger message.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// Why there is no connection, or no longer.
#[derive(Debug)]
pub(crate) enum Lost {
    /// It may work next time; what happened, for people.
    ForNow(String),
    /// It will not work next time either, unless it has worked before.
    ForGood(ClientError),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: WebSocketStream<Pipe>,
}

impl Socket {
    /// Connects and shakes hands, or gives up after the configured time.
    pub(crate) async fn connect(config: &Config) -> Result<Socket, Lost> {
        match tokio::time::timeout(config.connect_timeout, shake_hands(config)).await {
            Ok(result) => result.map(|stream| Socket { stream }),
            Err(_) => Err(Lost::ForNow(format!(
                "no answer within {:?}",
                config.connect_timeout
            ))),
        }
    }

    /// Writes what `outbox` holds as fast as the broker takes it, and returns
    /// the next message. With [`Reading::Paused`] it only writes, for ever: the
    /// caller waits for something else beside it. Nothing is lost when the
    /// future is dropped.
    pub(crate) async fn exchange(
        &mut self,
        outbox: &mut VecDeque<codec::Message>,
        reading: Reading,
    ) -> Result<Bytes, Lost> {
        poll_fn(|cx| {
            if let Err(error) = self.poll_write(outbox, cx) {
                return Poll::Ready(Err(lost(error)));
            }
            match reading {
                Reading::On => self.poll_read(cx),
                Reading::Paused => Poll::Pending,
            }
        })
        .await
    }

    fn poll_write(
        &mut self,
        outbox: &mut VecDeque<codec::Message>,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        // What tungstenite has to say of itself joins what waits.
        let _ = Pin::new(&mut self.stream).poll_flush(cx)?;
        let pipe = self.stream.get_mut();
        while pipe.poll_drain(cx)?.is_ready() && !outbox.is_empty() {
            while pipe.has_room()
                && let Some(message) = outbox.pop_front()
            {
                pipe.push(&message);
            }
        }
        Ok(())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Lost>> {
        loop {
            let Poll::Ready(message) = Pin::new(&mut self.stream).poll_next(cx) else {
                return Poll::Pending;
            };
            return Poll::Ready(match message {
                None => Err(Lost::ForNow("the broker closed the connection".into())),
                Some(Err(error)) => Err(lost(error)),
                Some(Ok(Message::Binary(bytes))) => Ok(bytes),
                Some(Ok(Message::Close(frame))) => Err(Lost::ForNow(closed(
                    frame.as_ref().map(|f| f.reason.as_str()),
                ))),
                // Pings are answered beneath; the answers leave with the next write.
                Some(Ok(_)) => continue,
            });
        }
    }

    /// Says goodbye, without waiting for the broker's.
    pub(crate) async fn close(mut self) {
        // The connection ends either way.
        let _ = self.stream.close(None).await;
    }
}

/// Whether messages are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    On,
    /// The broker's messages stay in the network's buffers, until the broker stops sending.
    Paused,
}

async fn shake_hands(config: &Config) -> Result<WebSocketStream<Pipe>, Lost> {
    let fatal = |error: Error| Lost::ForGood(protocol(config, error.to_string()));
    let mut request = config
        .server
        .url("ws", PATH)
        .into_client_request()
        .map_err(fatal)?;
    request.headers_mut().insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL_BINARY),
    );
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .max_write_buffer_size(usize::MAX);
    let address = (config.server.host(), config.server.port());
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| Lost::ForNow(error.to_string()))?;
    stream
        .set_nodelay(true)
        .map_err(|error| Lost::ForNow(error.to_string()))?;
    match tokio_tungstenite::client_async_with_config(request, Pipe::new(stream), Some(limits))
        .await
    {
        Ok((stream, _)) => Ok(stream),
        Err(Error::Http(response)) => Err(refused(config, &response)),
        Err(error @ (Error::Io(_) | Error::ConnectionClosed)) => Err(lost(error)),
        Err(Error::Protocol(error)) => Err(Lost::ForNow(error.to_string())),
        Err(error) => Err(fatal(error)),
    }
}

/// An answer other than "switching protocols". A broker says why, and whether
/// another attempt is of use. Of anything else (or a broker's sentence that was
/// cut, for only what came together with the head is there) the status has to
/// tell: who is busy, starting or tired of waiting is worth another attempt.
fn refused(config: &Config, response: &Response<Option<Vec<u8>>>) -> Lost {
    match response.body().as_deref().and_then(refusal_in) {
        Some(error) if error.code.retryable() => return Lost::ForNow(error.message),
        Some(error) => return Lost::ForGood(ClientError::Refused(error)),
        None => {}
    }
    let status = response.status();
    let reason = format!("it answered with HTTP status {status}");
    if status.is_server_error() || matches!(status.as_u16(), 408 | 429) {
        Lost::ForNow(reason)
    } else {
        Lost::ForGood(protocol(config, reason))
    }
}

fn protocol(config: &Config, reason: String) -> ClientError {
    ClientError::Protocol {
        server: config.server.clone(),
        reason,
    }
}

fn lost(error: Error) -> Lost {
    Lost::ForNow(match error {
        Error::Io(error) => error.to_string(),
        Error::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            format!("the broker sent a message of {size} bytes, the largest is {max_size}")
        }
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => closed(None),
        error => error.to_string(),
    })
}

fn closed(reason: Option<&str>) -> String {
    match reason {
        Some(reason) if !reason.is_empty() => format!("the broker closed the connection: {reason}"),
        _ => "the broker closed the connection".into(),
    }
}
