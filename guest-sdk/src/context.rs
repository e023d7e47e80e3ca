//! Where an instance finds itself: names, parameters, outputs. What is asked for here is remembered, so
//! that what nobody asked for can be refused.

use std::cell::RefCell;
use std::fmt;
use std::str::FromStr;

use crate::bindings::eddy::plugin::types as raw;

/// The name of the main output.
const OUT: &str = "out";

/// The surroundings of an instance, given to `new`.
#[derive(Debug)]
pub struct Context {
    raw: raw::Context,
    params_asked: RefCell<Asked>,
    outputs_asked: RefCell<Asked>,
}

/// What a plugin has asked for: names, and beginnings of names.
#[derive(Debug, Default)]
struct Asked {
    names: Vec<String>,
    prefixes: Vec<String>,
}

/// A parameter is missing or makes no sense. Turns into the text that refuses the deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamError {
    name: String,
    problem: Option<String>,
}

/// One of the plugin's outputs. What goes to an output that the deployment has not connected is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(Place);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Out,
    At(u32),
    Nowhere,
}

impl From<raw::Context> for Context {
    fn from(raw: raw::Context) -> Self {
        Self {
            raw,
            params_asked: RefCell::default(),
            outputs_asked: RefCell::default(),
        }
    }
}

impl Context {
    /// The name of the deployment; of a filter on a subscription, the name of the plugin.
    pub fn deployment(&self) -> &str {
        &self.raw.deployment
    }

    /// The version of the deployment, rising by one with each replacement.
    pub fn version(&self) -> u32 {
        self.raw.version
    }

    /// The topic that the records come from.
    pub fn topic(&self) -> &str {
        &self.raw.topic
    }

    /// The partition of that topic.
    pub fn partition(&self) -> u32 {
        self.raw.partition
    }

    /// A parameter that has to be given.
    pub fn param(&self, name: &str) -> Result<&str, ParamError> {
        self.optional(name).ok_or_else(|| ParamError {
            name: name.into(),
            problem: None,
        })
    }

    /// A parameter that need not be given.
    pub fn optional(&self, name: &str) -> Option<&str> {
        self.params_asked.borrow_mut().names.push(name.into());
        self.raw
            .params
            .iter()
            .find_map(|(given, value)| (given == name).then_some(value.as_str()))
    }

    /// A parameter that has to be given, as a number or whatever else can be read from a text.
    pub fn parse<T: FromStr<Err: fmt::Display>>(&self, name: &str) -> Result<T, ParamError> {
        read(name, self.param(name)?)
    }

    /// A parameter that has a value even if it is not given.
    pub fn parse_or<T: FromStr<Err: fmt::Display>>(
        &self,
        name: &str,
        default: T,
    ) -> Result<T, ParamError> {
        self.optional(name)
            .map_or(Ok(default), |value| read(name, value))
    }

    /// The parameters whose names begin like this: the rest of each name, and its value. In order of names.
    pub fn params_under(&self, prefix: &str) -> impl Iterator<Item = (&str, &str)> {
        self.params_asked.borrow_mut().prefixes.push(prefix.into());
        let prefix = prefix.to_owned();
        let under = move |name| str::strip_prefix(name, &prefix);
        self.raw
            .params
            .iter()
            .filter_map(move |(name, value)| Some((under(name.as_str())?, value.as_str())))
    }

    /// An output by its name. The main one, [`Port::OUT`], needs no asking.
    pub fn output(&self, name: &str) -> Port {
        self.outputs_asked.borrow_mut().names.push(name.into());
        self.place(name)
            .map_or(Port(Place::Nowhere), |at| Port(Place::At(at)))
    }

    /// Every output that is connected, whatever its name: for a plugin whose outputs are the user's.
    pub fn outputs(&self) -> impl Iterator<Item = (&str, Port)> {
        self.outputs_asked.borrow_mut().prefixes.push(String::new());
        (0..)
            .zip(&self.raw.outputs)
            .map(|(at, name)| (name.as_str(), Port(Place::At(at))))
    }

    fn place(&self, name: &str) -> Option<u32> {
        (0..)
            .zip(&self.raw.outputs)
            .find_map(|(at, given)| (given == name).then_some(at))
    }

    pub(crate) fn main_output(&self) -> Option<u32> {
        self.place(OUT)
    }

    /// Refuses parameters and outputs that the plugin has never asked for: most are misspelt.
    pub(crate) fn refuse_unknown(&self) -> Result<(), String> {
        let params = self.raw.params.iter().map(|(name, _)| name);
        self.params_asked.borrow().refuse("parameter", params)?;
        let mut outputs = self.outputs_asked.borrow_mut();
        outputs.names.push(OUT.into());
        outputs.refuse("output", self.raw.outputs.iter())
    }
}

impl Asked {
    fn refuse<'a>(
        &self,
        what: &str,
        mut given: impl Iterator<Item = &'a String>,
    ) -> Result<(), String> {
        let unknown = given.find(|name| {
            !self.names.contains(name)
                && !self.prefixes.iter().any(|prefix| name.starts_with(prefix))
        });
        let Some(unknown) = unknown else {
            return Ok(());
        };
        let mut known: Vec<_> = self.names.iter().map(|name| format!("`{name}`")).collect();
        known.extend(self.prefixes.iter().map(|prefix| format!("`{prefix}…`")));
        known.sort();
        known.dedup();
        match known.is_empty() {
            true => Err(format!(
                "there is no {what} `{unknown}`: this plugin has none"
            )),
            false => Err(format!(
                "there is no {what} `{unknown}`; there is {}",
                known.join(", ")
            )),
        }
    }
}

fn read<T: FromStr<Err: fmt::Display>>(name: &str, value: &str) -> Result<T, ParamError> {
    value.parse().map_err(|error| ParamError {
        name: name.into(),
        problem: Some(format!("`{value}`: {error}")),
    })
}

impl ParamError {
    /// A parameter that was given and makes no sense, and why.
    pub fn invalid(name: &str, problem: impl fmt::Display) -> Self {
        Self {
            name: name.into(),
            problem: Some(problem.to_string()),
        }
    }
}

impl fmt::Display for ParamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            None => write!(f, "the parameter `{}` is missing", self.name),
            Some(problem) => write!(f, "the parameter `{}` is not valid: {problem}", self.name),
        }
    }
}

impl std::error::Error for ParamError {}

impl From<ParamError> for String {
    fn from(error: ParamError) -> Self {
        error.to_string()
    }
}

impl Port {
    /// The main output, called `out`: where filters and single-minded maps send their records.
    pub const OUT: Self = Self(Place::Out);

    /// Whether anything becomes of what goes to this output. Of the main output that is always assumed.
    pub fn is_connected(self) -> bool {
        self.0 != Place::Nowhere
    }

    /// The place in the context's list of outputs.
    pub(crate) fn place(self, main_output: Option<u32>) -> Option<u32> {
        match self.0 {
            Place::Out => main_output,
            Place::At(at) => Some(at),
            Place::Nowhere => None,
        }
    }
}
