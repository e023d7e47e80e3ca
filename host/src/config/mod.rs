//! Settings: a file, the environment and flags become one checked [`Config`].
//!
//! Each module owns its own settings and their defaults; this one composes
//! them. One table ([`table`]) names every setting once, and from it come the
//! reading, the default file and the messages. All problems are found in one
//! go, and each names the key, the value and what is allowed.
//!
//! Order, later wins: defaults, the file, the environment, `--set`.

mod check;
mod field;
mod server;
mod source;
mod suggest;
mod table;
mod text;
pub(crate) mod unit;

use std::fmt;
use std::path::Path;

pub use server::{Log, LogFormat, Server, parse_listen};
use source::{Found, Setter, Unread};
pub use text::default_text;

/// Everything that can be set.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The port, the data folder and the life of connections.
    pub server: Server,
    /// What goes to standard error.
    pub log: Log,
    /// The HTTP front.
    pub http: crate::http::Config,
    /// The wire over WebSocket.
    pub ws: crate::ws::Config,
    /// Topics, fetches and deployments.
    pub broker: crate::broker::Config,
    /// The journal, the segments and the tables.
    pub store: crate::store::Config,
    /// The plugins' engine.
    pub plugin: crate::plugin::Config,
}

impl Config {
    /// The defaults, overridden by the file, then the environment, then the
    /// `key=value` texts of `sets`; or everything that is wrong with them.
    pub fn load(file: Option<&Path>, sets: &[String]) -> Result<Config, Vec<Problem>> {
        Config::assemble([
            file.map_or_else(Found::default, source::read_file),
            source::read_environment(std::env::vars_os()),
            source::read_flags(sets),
        ])
    }

    fn assemble(sources: [Found; 3]) -> Result<Config, Vec<Problem>> {
        let mut config = Config::default();
        let mut problems = Vec::new();
        // Keys whose values are not what somebody wanted.
        let mut doubtful = Vec::new();
        for Found { setters, unread } in sources {
            for Unread { key, problem } in unread {
                doubtful.push(key);
                problems.push(problem);
            }
            for setter in setters {
                if let Err(problem) = config.apply(&setter) {
                    doubtful.push(Some(setter.key));
                    problems.push(problem);
                }
            }
        }
        let is_doubtful = |key: &str| {
            let mut doubtful = doubtful.iter();
            doubtful.any(|other| other.as_deref().is_none_or(|other| other == key))
        };
        problems.extend(check::problems(&config, is_doubtful));
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(problems)
        }
    }

    fn apply(&mut self, setter: &Setter) -> Result<(), Problem> {
        let Some(setting) = table::find(&setter.key) else {
            return Err(Problem::unknown(setter));
        };
        let mut field = (setting.field)(self);
        if field.set(&setter.given) {
            return Ok(());
        }
        let Setter { key, given, source } = setter;
        Err(Problem::new(format!(
            "{source}: `{key}` {}: expected {}",
            field.fault(given),
            field.allowed()
        )))
    }
}

/// One thing that is wrong with the settings, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    message: String,
}

impl Problem {
    fn new(message: String) -> Problem {
        Problem { message }
    }

    fn unknown(setter: &Setter) -> Problem {
        let Setter { key, source, .. } = setter;
        let hint = match suggest::nearest(key, table::settings().map(|setting| setting.key)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`eddy default-config` lists every setting".to_owned(),
        };
        Problem::new(format!("{source}: there is no setting `{key}`; {hint}"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests;
