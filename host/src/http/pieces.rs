//! Answers that are made piece by piece, as their peers take them: what one
//! takes in memory does not depend on how long it is, only on what its peer has
//! yet to take, and all of that counts against one budget.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use eddy_protocol::{ErrorCode, WireError};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::apart::blocking;
use super::error::Failure;
use crate::broker::{Budget, Held, owned};

/// How large a piece is where nothing speaks for more.
pub(super) const PIECE_BYTES: usize = 32 << 10;
/// How many pieces may wait for a socket: one is made while the other is written.
const PIECES_MAX: usize = 2;
/// What the items of a list take at the most while they are gathered, and an item as JSON.
const LIST_BYTES: usize = 1 << 20;
/// A whole answer that is smaller is not counted.
const SMALL_BYTES: u64 = 4 << 10;

/// In the extensions of an answer whose body is counted already, or shared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted;

/// Where the maker of an answer puts its pieces.
pub(super) struct Pieces {
    sender: mpsc::Sender<Result<Piece, Failure>>,
    /// For each piece that the socket may have yet to take.
    turns: Arc<Semaphore>,
    turn: Option<OwnedSemaphorePermit>,
    budget: Budget,
    headers: HeaderMap,
    begun: bool,
}

/// A part of an answer.
struct Piece {
    /// Of the whole answer, with the first.
    headers: HeaderMap,
    bytes: Bytes,
    is_last: bool,
}

/// The answer with the body that `make` makes. What fails before the first piece
/// is the answer; what fails later breaks it off, which its peer can see.
pub(super) async fn answer<F>(
    budget: &Budget,
    content_type: &'static str,
    make: impl FnOnce(Pieces) -> F,
) -> Result<Response, Failure>
where
    F: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let (sender, mut pieces) = mpsc::channel(PIECES_MAX);
    let content_type = HeaderValue::from_static(content_type);
    let made = make(Pieces {
        sender: sender.clone(),
        turns: Arc::new(Semaphore::new(PIECES_MAX)),
        turn: None,
        budget: budget.clone(),
        headers: HeaderMap::from_iter([(header::CONTENT_TYPE, content_type)]),
        begun: false,
    });
    tokio::spawn(async move {
        if let Err(failure) = made.await {
            // Where the peer has left nobody asks for it.
            sender.send(Err(failure)).await.ok();
        }
    });
    let first = pieces.recv().await.unwrap_or_else(|| Err(lost()))?;
    let headers = first.headers.clone();
    let body = match first.is_last {
        true => Body::from(first.bytes),
        false => Body::from_stream(stream::unfold((Some(Ok(first)), Some(pieces)), next)),
    };
    let mut answer = (headers, body).into_response();
    answer.extensions_mut().insert(Counted);
    Ok(answer)
}

type Received = Result<Piece, Failure>;
type Rest = (Option<Received>, Option<mpsc::Receiver<Received>>);

async fn next((first, mut rest): Rest) -> Option<(Result<Bytes, WireError>, Rest)> {
    let piece = match first {
        Some(first) => first,
        None => rest.as_mut()?.recv().await.unwrap_or_else(|| Err(lost())),
    };
    Some(match piece {
        Ok(piece) => (Ok(piece.bytes), (None, rest.filter(|_| !piece.is_last))),
        Err(failure) => (Err(failure.error), (None, None)),
    })
}

/// Whoever makes the answer ended without its last piece.
fn lost() -> Failure {
    ErrorCode::Internal
        .because("the answer came to no end")
        .into()
}

impl Pieces {
    /// Headers of the answer; to be given before its first piece.
    pub(super) fn headers(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    /// The budget that all answers share.
    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Until the socket has taken all pieces but one. Fails when the peer has left.
    pub(super) async fn wanted(&mut self) -> Result<(), Failure> {
        if self.turn.is_none() {
            self.turn = self.turns.clone().acquire_owned().await.ok();
        }
        match self.sender.is_closed() {
            true => Err(left()),
            false => Ok(()),
        }
    }

    /// Memory to make a piece in. What is under way waits as long as its peer
    /// stays; what has not begun is refused when it waits too long.
    pub(super) async fn memory(&self, bytes: usize) -> Result<Held, Failure> {
        loop {
            let taken = tokio::select! {
                taken = self.budget.take(bytes) => taken,
                () = self.sender.closed() => return Err(left()),
            };
            match taken {
                Err(_) if self.begun => {}
                taken => return Ok(taken?),
            }
        }
    }

    /// Gives a piece that is [`wanted`](Self::wanted), and the memory that it was made in.
    pub(super) fn give(&mut self, mut bytes: Vec<u8>, mut held: Held, is_last: bool) {
        if is_last {
            // Short answers are many.
            bytes.shrink_to_fit();
        }
        held.shrink_to(bytes.capacity());
        self.begun = true;
        let piece = Piece {
            headers: std::mem::take(&mut self.headers),
            bytes: owned(bytes, (held, self.turn.take())),
            is_last,
        };
        // Fails only when the peer has left, which the next wait says.
        self.sender.try_send(Ok(piece)).ok();
    }
}

fn left() -> Failure {
    ErrorCode::Internal.because("the peer has left").into()
}

/// `{"NAME":[…]}`, as much of it at a time as its peer takes. `gather` makes the
/// items, which are few bytes each, or something that they can be made of one by one.
pub(super) async fn list<T, I>(
    budget: &Budget,
    name: &'static str,
    gather: impl FnOnce() -> Result<I, Failure> + Send + 'static,
) -> Result<Response, Failure>
where
    T: Serialize,
    I: IntoIterator<Item = T> + Send + 'static,
    I::IntoIter: Send,
{
    answer(budget, "application/json", move |mut pieces| async move {
        let mut gathered = pieces.memory(LIST_BYTES).await?;
        let mut items = blocking(|| Ok(gather()?.into_iter())).await?;
        gathered.shrink_to(items.size_hint().0 * size_of::<T>());
        let mut piece = format!(r#"{{"{name}":["#).into_bytes();
        let mut is_first = true;
        loop {
            pieces.wanted().await?;
            let held = pieces.memory(LIST_BYTES).await?;
            let filled = blocking(move || {
                while piece.len() < PIECE_BYTES {
                    let Some(item) = items.next() else {
                        piece.extend_from_slice(b"]}");
                        return Ok((items, piece, true));
                    };
                    if !is_first {
                        piece.push(b',');
                    }
                    is_first = false;
                    serde_json::to_writer(&mut piece, &item).map_err(|error| no_json(&error))?;
                }
                Ok((items, piece, false))
            });
            let (rest, full, is_last) = filled.await?;
            pieces.give(full, held, is_last);
            if is_last {
                return Ok(());
            }
            (items, piece, is_first) = (rest, Vec::new(), false);
        }
    })
    .await
}

/// An answer that was not made in pieces, counted as a whole, or refused.
pub(super) async fn whole(budget: &Budget, answer: Response) -> Response {
    use axum::body::HttpBody;
    use http_body_util::BodyExt;
    let is_counted = answer.extensions().get::<Counted>().is_some();
    let bytes = answer.body().size_hint().exact().unwrap_or_default();
    if is_counted || bytes < SMALL_BYTES {
        return answer;
    }
    match budget
        .take(usize::try_from(bytes).unwrap_or(usize::MAX))
        .await
    {
        Ok(held) => {
            let mut held = Some(held);
            // Such a body is a single frame.
            answer.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    frame.map_data(|bytes| match held.take() {
                        Some(held) => owned(bytes, held),
                        None => bytes,
                    })
                }))
            })
        }
        Err(error) => Failure::from(error).into_response(),
    }
}

/// The answer to what should have a JSON form and has none.
pub(super) fn no_json(error: &serde_json::Error) -> Failure {
    ErrorCode::Internal
        .because(format!("the answer has no JSON: {error}"))
        .into()
}
