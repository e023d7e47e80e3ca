//! The records of an answer, read as they are shown.

use std::mem::take;
use std::time::Duration;

use axum::http::HeaderValue;
use eddy_protocol::Batch;
use eddy_protocol::frame::Start;
use tokio::time::timeout;

use super::text::{Form, LoadedRecords, Text};
use crate::broker::{Awaited, Held};
use crate::http::apart::apart;
use crate::http::error::Failure;
use crate::http::pieces::{PIECE_BYTES, Pieces};

/// What is read at once, and the batch that passes it.
const READ_BYTES: usize = 128 << 10;
/// How long records are kept for a peer that takes nothing.
const PATIENCE: Duration = Duration::from_millis(100);
/// Records are shown in so many pieces at the least, if they are many.
const PIECES_PER_READ: usize = 32;
/// A byte of a record's text takes about as long as so many that are copied.
const WORK_PER_BYTE: usize = 4;

/// The records, and behind them where they are and where to go on.
pub(super) async fn json(awaited: Awaited, from: Start, mut pieces: Pieces) -> Result<(), Failure> {
    let mut shown = Shown::new(awaited, from, Form::Json);
    shown.give(&mut pieces).await
}

/// The lines, and before them where they are and where to go on: so they are
/// gone through once before, which also tells how long they are. A peer can
/// then tell whether it got all of them.
pub(super) async fn lines(
    awaited: Awaited,
    from: Start,
    mut pieces: Pieces,
) -> Result<(), Failure> {
    let mut shown = Shown::new(awaited, from, Form::Lines);
    let mut length = 0_u64;
    loop {
        let piece = shown.piece(&pieces).await?;
        length += piece.bytes.len() as u64;
        if piece.is_last {
            break;
        }
    }
    let bounds = shown.awaited.bounds();
    for (name, value) in [
        ("content-length", length),
        ("eddy-epoch", bounds.epoch.into()),
        ("eddy-start", bounds.start),
        ("eddy-end", bounds.end),
        ("eddy-next", shown.text.next),
    ] {
        pieces.headers().insert(name, HeaderValue::from(value));
    }
    let until = Some(shown.text.next);
    let mut shown = Shown {
        until,
        ..Shown::new(shown.awaited, from, Form::Lines)
    };
    shown.give(&mut pieces).await
}

/// How far an answer is.
struct Shown {
    awaited: Awaited,
    text: Text,
    loaded: Option<LoadedRecords>,
    /// Where to end, if that is known.
    until: Option<u64>,
    /// Whether there is nothing more to read.
    is_read: bool,
}

struct Piece {
    bytes: Vec<u8>,
    held: Held,
    is_last: bool,
}

impl Shown {
    fn new(awaited: Awaited, from: Start, form: Form) -> Shown {
        Shown {
            text: Text::new(awaited.offset(), from, form),
            awaited,
            loaded: None,
            until: None,
            is_read: false,
        }
    }

    /// Gives all pieces.
    async fn give(&mut self, pieces: &mut Pieces) -> Result<(), Failure> {
        loop {
            if timeout(PATIENCE, pieces.wanted()).await.is_err() {
                self.loaded = None;
                pieces.wanted().await?;
            }
            let piece = self.piece(pieces).await?;
            let Text { records, bytes, .. } = &mut self.text;
            self.awaited.delivered(take(records), take(bytes));
            pieces.give(piece.bytes, piece.held, piece.is_last);
            if piece.is_last {
                return Ok(());
            }
        }
    }

    /// The next piece.
    async fn piece(&mut self, pieces: &Pieces) -> Result<Piece, Failure> {
        loop {
            let held = self.load(pieces).await?;
            let (text, bytes, is_full) = match self.loaded.take() {
                Some(loaded) => self.fill(loaded).await?,
                None => (self.text, self.text.begin(0), false),
            };
            self.text = text;
            let is_last = !is_full && self.is_over();
            if is_last || !bytes.is_empty() {
                let bytes = match is_last {
                    true => self.text.end(bytes, self.awaited.bounds()),
                    false => bytes,
                };
                return Ok(Piece {
                    bytes,
                    held,
                    is_last,
                });
            }
        }
    }

    /// Makes a piece of what is loaded, which stays loaded where there is more of it.
    async fn fill(&mut self, mut loaded: LoadedRecords) -> Result<(Text, Vec<u8>, bool), Failure> {
        let mut text = self.text;
        let work = loaded.piece_bytes * WORK_PER_BYTE;
        let filled = apart(work, move || {
            let mut bytes = text.begin(loaded.piece_bytes);
            let is_full = text.fill(&mut loaded, &mut bytes)?;
            Ok((loaded, text, bytes, is_full))
        });
        let (loaded, text, bytes, is_full) = filled.await?;
        self.loaded = is_full.then_some(loaded);
        Ok((text, bytes, is_full))
    }

    /// Sees to it that records are loaded, unless all are shown; gives memory for
    /// a piece of them. Nothing is held while that is waited for.
    async fn load(&mut self, pieces: &Pieces) -> Result<Held, Failure> {
        if let Some(loaded) = &self.loaded
            && let Ok(held) = pieces.budget().try_take(loaded.piece_bytes)
        {
            return Ok(held);
        }
        self.loaded = None;
        let left = self.awaited.bytes_wanted().saturating_sub(self.text.taken);
        let bytes_max = READ_BYTES.min(left);
        if let Some(batches) = self.awaited.read_in_memory(self.text.next, bytes_max)
            && let Ok(held) = pieces.budget().try_take(bytes_with_piece(&batches))
        {
            return Ok(self.keep(batches, held));
        }
        let most = self.awaited.read_bytes_max(bytes_max) + PIECE_BYTES;
        let held = pieces.memory(most).await?;
        let read = self.awaited.read_at(self.text.next, bytes_max).await;
        let batches = match read {
            Ok(batches) => batches,
            // What was shown stands, whatever comes behind it.
            Err(_) if self.until.is_none() && self.text.is_between_records() => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(self.keep(batches, held))
    }

    /// Keeps what was read with the memory for it; gives back what is for a piece.
    fn keep(&mut self, mut batches: Vec<Batch>, mut held: Held) -> Held {
        if let Some(until) = self.until {
            batches.retain(|batch| batch.base_offset() < until);
        }
        self.is_read = batches.is_empty();
        let (bytes, piece_bytes) = (bytes(&batches), piece_bytes(&batches));
        if !self.is_read {
            self.loaded = Some(LoadedRecords {
                batches: batches.into_iter(),
                current: None,
                piece_bytes,
                _held: held.split(bytes),
            });
        }
        held.shrink_to(piece_bytes);
        held
    }

    fn is_over(&self) -> bool {
        match self.until {
            Some(until) => self.text.next >= until,
            None => {
                self.is_read
                    || self.text.taken >= self.awaited.bytes_wanted()
                    || self.text.next >= self.awaited.bounds().end
            }
        }
    }
}

/// What batches take once they are read and expanded.
fn bytes(batches: &[Batch]) -> usize {
    let of_one = |batch: &Batch| match batch.expanded_len() {
        expanded if expanded > batch.len() => batch.len() + expanded,
        _ => batch.len(),
    };
    batches.iter().map(of_one).sum()
}

/// How large a piece of their text is.
fn piece_bytes(batches: &[Batch]) -> usize {
    PIECE_BYTES.max(bytes(batches) / PIECES_PER_READ)
}

fn bytes_with_piece(batches: &[Batch]) -> usize {
    bytes(batches) + piece_bytes(batches)
}
