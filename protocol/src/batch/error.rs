//! What can be wrong with a batch.

/// Why bytes are not a batch, or why records can't become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// There are fewer bytes than the batch needs.
    #[error("batch: {have} bytes, {needed} are needed")]
    TooShort {
        /// How many it takes, as far as it is known.
        needed: u64,
        /// How many there are.
        have: u64,
    },
    /// The header's length is not that of the bytes.
    #[error("batch: its header says {header} bytes, there are {have}")]
    Length {
        /// What the header says.
        header: u64,
        /// How many there are.
        have: u64,
    },
    /// A version of the layout that is not known here.
    #[error("batch: layout version {0} is not known (1 and 2 are)")]
    Version(u8),
    /// A compression that is not known here.
    #[error("batch: compression {0} is not known (0, 1 and 2 are)")]
    Compression(u8),
    /// A flag in `columns` that is not known here, or two that exclude each other.
    #[error("batch: column flags {0:#06x} are not valid")]
    Columns(u16),
    /// An attribute that is not known here.
    #[error("batch: attributes {0:#06x} are not known (bits 0 to 2 are)")]
    Attributes(u16),
    /// The bytes are not those that the checksum was made of.
    #[error("batch: its checksum is {found:08x}, its header says {header:08x}")]
    Checksum {
        /// What the header says.
        header: u32,
        /// What the bytes give.
        found: u32,
    },
    /// There is no record.
    #[error("batch: it holds no record")]
    Empty,
    /// Larger than a batch may be.
    #[error("batch: {bytes} bytes expanded, at most {limit} are allowed")]
    TooLarge {
        /// How large it is or says it is.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// A field of the header or a column breaks a rule of the layout.
    #[error("batch: {0}")]
    Invalid(&'static str),
    /// The compressed body does not expand to what the header says.
    #[error("batch: the compressed body does not expand to the {0} bytes of its header")]
    Expansion(u32),
    /// The records of a Kafka batch do not expand, or to more than they may.
    #[error("batch: Kafka's {codec} records do not expand to {limit} bytes or less")]
    KafkaExpansion {
        /// How they are compressed.
        codec: &'static str,
        /// What they may take.
        limit: usize,
    },
    /// A row that was asked for is not there.
    #[error("batch: row {row} of {rows} was asked for, or rows do not rise")]
    Row {
        /// Which.
        row: u32,
        /// How many rows there are.
        rows: u64,
    },
}
