//! What crosses a wire: the column batch, the frames in their two forms, the
//! error codes, and a client's session as pure state.
//!
//! No I/O and no clock: time is passed in, bytes go in and come out. Builds for
//! wasm32, because the browser client is made of the same code. `SPEC.md`
//! beside this crate says the same in words, for clients in other languages.

pub mod admin;
pub mod batch;
mod block;
pub mod codec;
pub mod error;
mod flat;
pub mod frame;
pub mod json;
pub mod key_field;
pub mod name;
#[cfg(feature = "openapi")]
pub mod openapi;
pub mod partitioner;
pub mod session;

pub use batch::{
    Batch, BatchBuilder, BatchError, Batches, ColumnBuf, Columns, Compression, OffsetMode,
    ProducerStamp, RecordRef, Rows,
};
pub use codec::{Form, FrameError};
pub use error::{ErrorCode, WireError};
pub use frame::{ClientFrame, Request, ServerFrame};
pub use name::{NameError, TopicName};
