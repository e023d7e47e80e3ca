//! What a stream delivers for a range of offsets, with its frames: made once,
//! shared by all subscribers that come by.

use std::sync::{Arc, OnceLock};

use eddy_protocol::{Batch, BatchError, ErrorCode, Form, WireError};
use tokio::sync::Mutex;

use super::recent::Charge;
use crate::broker::fetch::as_columns;
use crate::broker::filter::keep_from;
use crate::broker::frame::{self, Frame};
use crate::broker::refusal;

/// What a chunk takes besides its batches; keeps a run of empty ones from growing without limit.
const FIXED_BYTES: usize = 256;

/// Records that expand to more than this are written as JSON, or as columns, on a thread that may take its time.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// A frame, or why its records can't be written in the form.
pub(super) type Encoded = Result<Arc<Frame>, WireError>;

/// Records of a stream for the offsets from `start` to `next`.
pub(super) struct Chunk {
    pub(super) start: u64,
    pub(super) next: u64,
    pub(super) records: u64,
    pub(super) batches: Vec<Batch>,
    binary: OnceLock<Encoded>,
    json: OnceLock<Encoded>,
    /// Held by whoever writes the records elsewhere, so that the others wait for it.
    encoding: Mutex<()>,
    charge: Charge,
}

impl Chunk {
    /// Batches that follow one another, from `start` on.
    pub(super) fn new(start: u64, batches: Vec<Batch>, charge: Charge) -> Chunk {
        let next = batches.last().map_or(start, Batch::end_offset);
        Chunk::covering(start, next, batches, charge)
    }

    /// What is left of the offsets from `start` to `next`.
    pub(super) fn covering(start: u64, next: u64, batches: Vec<Batch>, charge: Charge) -> Chunk {
        // As expanded: a small batch from disk keeps the memory alive that was read with it.
        charge.add(FIXED_BYTES + batches.iter().map(Batch::expanded_len).sum::<usize>());
        Chunk {
            start,
            next,
            records: count(&batches),
            batches,
            binary: OnceLock::new(),
            json: OnceLock::new(),
            encoding: Mutex::default(),
            charge,
        }
    }

    /// What the chunk and its frames hold.
    pub(super) fn bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// Whether its first record lies before `offset`.
    pub(super) fn begins_before(&self, offset: u64) -> bool {
        let first = self.batches.first();
        first.is_some_and(|batch| batch.base_offset() < offset)
    }

    /// The frame; `None` where [`encode`](Chunk::encode) must be awaited first.
    pub(super) fn frame(&self, position: &frame::DeliverHead, form: Form) -> Option<Encoded> {
        let slot = self.slot(form);
        if slot.get().is_none() && self.takes_long(form) {
            return None;
        }
        Some(slot.get_or_init(|| self.encoded(position, form)).clone())
    }

    /// Writes the frame, apart from the threads that serve sockets where that takes long.
    pub(super) async fn encode(
        self: &Arc<Self>,
        position: frame::DeliverHead,
        form: Form,
    ) -> Result<(), WireError> {
        if !self.takes_long(form) {
            return Ok(());
        }
        let _turn = self.encoding.lock().await;
        if self.slot(form).get().is_some() {
            return Ok(());
        }
        let chunk = self.clone();
        apart(move || {
            let slot = chunk.slot(form);
            slot.get_or_init(|| chunk.encoded(&position, form));
        })
        .await
    }

    /// The chunk without the records before `from`, for people who read JSON
    /// by eye; a binary client skips them itself.
    pub(super) async fn trimmed(self: Arc<Self>, from: u64) -> Result<Arc<Chunk>, WireError> {
        let charge = self.charge.another();
        let next = self.next;
        let trim = move || trim(&self.batches, from);
        let batches = apart(trim).await?.map_err(unreadable)?;
        Ok(Arc::new(Chunk::covering(from, next, batches, charge)))
    }

    fn takes_long(&self, form: Form) -> bool {
        let expanded = || self.batches.iter().map(Batch::expanded_len).sum::<usize>();
        let is_rewritten =
            form == Form::Json || self.batches.iter().any(|batch| batch.header().is_kafka());
        is_rewritten && expanded() > INLINE_BYTES_MAX
    }

    fn slot(&self, form: Form) -> &OnceLock<Encoded> {
        match form {
            Form::Binary => &self.binary,
            Form::Json => &self.json,
        }
    }

    fn encoded(&self, position: &frame::DeliverHead, form: Form) -> Encoded {
        let batches = as_columns(&self.batches).map_err(unreadable)?;
        let frame = Frame::deliver(position, &batches, form)
            .map_err(|error| ErrorCode::PartitionStopped.because(error.to_string()))?;
        self.charge.add(frame.own_bytes());
        Ok(Arc::new(frame))
    }
}

/// How many records the batches hold.
pub(in crate::broker) fn count(batches: &[Batch]) -> u64 {
    batches.iter().map(|batch| u64::from(batch.count())).sum()
}

fn trim(batches: &[Batch], from: u64) -> Result<Vec<Batch>, BatchError> {
    let mut trimmed = Vec::new();
    for batch in batches.iter().filter(|batch| batch.end_offset() > from) {
        trimmed.extend(keep_from(batch, from)?);
    }
    Ok(trimmed)
}

fn unreadable(error: BatchError) -> WireError {
    ErrorCode::PartitionStopped.because(error.to_string())
}

async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, WireError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| refusal::of_join(&error))
}
