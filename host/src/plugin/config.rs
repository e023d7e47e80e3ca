//! What the operator may set, and what a deployment may ask for within it.

use std::time::Duration;

use super::PluginError;

/// Settings of the plugin engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Threads that run plugins; 0 for as many as there are processors.
    pub threads: usize,
    /// Linear memory that an instance may have, all of its memories and tables together.
    pub memory_bytes_max: usize,
    /// How long a batch may keep a thread busy.
    pub batch_time_max: Duration,
    /// How long `init`, with everything that runs before it, may keep a thread busy.
    pub init_time_max: Duration,
    /// How many bytes a batch may turn into.
    pub output_bytes_max: usize,
    /// How many instances there may be at one time.
    pub instances_max: u32,
    /// How large an artefact may be.
    pub plugin_bytes_max: usize,
    /// How many lines an instance may write into the log each second.
    pub log_lines_per_second_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threads: 0,
            memory_bytes_max: 64 << 20,
            batch_time_max: Duration::from_secs(1),
            init_time_max: Duration::from_secs(1),
            output_bytes_max: 8 << 20,
            instances_max: 1024,
            plugin_bytes_max: 16 << 20,
            log_lines_per_second_max: 10,
        }
    }
}

impl Config {
    /// The limits of an instance that asks for nothing else.
    pub fn limits(&self) -> Limits {
        Limits {
            memory_bytes_max: self.memory_bytes_max,
            batch_time_max: self.batch_time_max,
            output_bytes_max: self.output_bytes_max,
        }
    }
}

/// Limits of one instance. None may be larger than the engine's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory, all memories and tables together.
    pub memory_bytes_max: usize,
    /// How long a batch may keep a thread busy.
    pub batch_time_max: Duration,
    /// How many bytes a batch may turn into.
    pub output_bytes_max: usize,
}

impl Limits {
    /// Refuses limits above those of the engine.
    pub(super) fn check(&self, config: &Config) -> Result<(), PluginError> {
        let over = |limit, asked: String, max: String| {
            Err(PluginError::LimitTooHigh { limit, asked, max })
        };
        if self.memory_bytes_max > config.memory_bytes_max {
            let (asked, max) = (self.memory_bytes_max, config.memory_bytes_max);
            return over("memory_bytes_max", asked.to_string(), max.to_string());
        }
        if self.batch_time_max > config.batch_time_max {
            let (asked, max) = (self.batch_time_max, config.batch_time_max);
            return over("batch_time_max", format!("{asked:?}"), format!("{max:?}"));
        }
        if self.output_bytes_max > config.output_bytes_max {
            let (asked, max) = (self.output_bytes_max, config.output_bytes_max);
            return over("output_bytes_max", asked.to_string(), max.to_string());
        }
        Ok(())
    }
}
