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
mod unit;

use std::fmt;
use std::path::Path;

pub use server::{Log, LogFormat, Server};
use source::Setter;
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
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let file = file.map_or_else(|| Ok(Vec::new()), source::read_file);
        Config::assemble([
            file,
            Ok(source::read_environment(environment)),
            source::read_flags(sets),
        ])
    }

    fn assemble(sources: [Result<Vec<Setter>, Vec<Problem>>; 3]) -> Result<Config, Vec<Problem>> {
        let mut config = Config::default();
        let mut problems = Vec::new();
        for source in sources {
            match source {
                Ok(setters) => problems.extend(
                    setters
                        .iter()
                        .filter_map(|setter| config.apply(setter).err()),
                ),
                Err(found) => problems.extend(found),
            }
        }
        problems.extend(check::problems(&config));
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
            "{source}: `{key}` is {given}: expected {}",
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
