//! What can go wrong with a plugin, in words for who runs it.

use std::time::Duration;

/// Why a plugin was not compiled, an instance not made, or a batch not processed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// The bytes are no WebAssembly component that this broker can compile.
    #[error("not a plugin: {0}")]
    NotAComponent(String),
    /// A component, but of another world than `eddy:plugin/plugin`.
    #[error("a component, but not an Eddy plugin: {0}")]
    WrongWorld(String),
    /// The artefact is larger than the broker takes.
    #[error("the plugin has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The size of the artefact.
        bytes: usize,
        /// `plugin_bytes_max`.
        limit: usize,
    },
    /// A limit was asked for that is above the engine's own.
    #[error("the limit {limit} is {max} at most, {asked} was asked for")]
    LimitTooHigh {
        /// The name of the limit.
        limit: &'static str,
        /// What was asked for.
        asked: String,
        /// What the broker allows.
        max: String,
    },
    /// The plugin's `init` returned an error: its words.
    #[error("the plugin refused: {0}")]
    Refused(String),
    /// The plugin's `process` returned an error: its words.
    #[error("the plugin failed{}: {message}", row.map(|row| format!(" at row {row} of the batch")).unwrap_or_default())]
    Failed {
        /// The row of the batch that is to blame.
        row: Option<u32>,
        /// The plugin's words.
        message: String,
    },
    /// The plugin did what WebAssembly forbids, or ended itself.
    #[error("the plugin trapped: {0}")]
    Trapped(String),
    /// The plugin kept a thread busy for longer than it may.
    #[error("the plugin ran for more than {0:?}")]
    TimedOut(Duration),
    /// The plugin wanted more memory than it may have, and ended for want of it.
    #[error("the plugin wanted more memory than its {0} bytes")]
    OutOfMemory(usize),
    /// A batch turned into more than it may.
    #[error("the plugin put out {bytes} bytes or more for one batch, the limit is {limit}")]
    OutputTooLarge {
        /// How many bytes there were when the count was given up.
        bytes: usize,
        /// `output_bytes_max`.
        limit: usize,
    },
    /// What the plugin returned breaks the contract.
    #[error("the plugin returned nonsense: {0}")]
    InvalidVerdict(String),
    /// As many instances are at work as there may be.
    #[error(
        "all {limit} plugin instances that filters may have are at work, of {all} (`plugin.instances_max`; a quarter is kept for deployments)"
    )]
    NoCapacity {
        /// How many filters may have.
        limit: u32,
        /// `instances_max`.
        all: u32,
    },
    /// There is no room for as many instances as a deployment needs.
    #[error(
        "it takes {asked} plugin instances, and {free} of {limit} places are free (`plugin.instances_max`)"
    )]
    TooFewPlaces {
        /// One for each partition.
        asked: u32,
        /// How many there could be.
        free: u32,
        /// `instances_max`.
        limit: u32,
    },
    /// The instance has failed before and runs no more.
    #[error("the instance has failed before and runs no more")]
    Poisoned,
    /// The engine itself failed; the plugin is not to blame.
    #[error("the plugin engine failed: {0}")]
    Internal(String),
}

impl PluginError {
    /// Whether a call of the plugin, or its `init`, is to blame, and not a broker that has no room
    /// for it, no longer takes it, or failed itself.
    pub fn is_the_plugins(&self) -> bool {
        matches!(
            self,
            Self::Refused(_)
                | Self::Failed { .. }
                | Self::Trapped(_)
                | Self::TimedOut(_)
                | Self::OutOfMemory(_)
                | Self::OutputTooLarge { .. }
                | Self::InvalidVerdict(_)
        )
    }
}
