//! What a setting's value can be: how it is read from what was given, how it
//! is shown, and what is allowed. A field knows nothing of its key.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::server::{LISTEN, parse_listen};
use super::unit::{parse_bytes, parse_time, show_bytes, show_time};

/// A value as a file, the environment or a flag gave it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Given {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Given>),
    /// A kind of TOML value that no setting takes.
    Other(&'static str),
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Given::Text(text) => write!(f, "{text:?}"),
            Given::Integer(number) => write!(f, "{number}"),
            Given::Boolean(value) => write!(f, "{value}"),
            Given::List(items) => {
                let items: Vec<String> = items.iter().map(ToString::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Given::Other(kind) => write!(f, "a {kind}"),
        }
    }
}

impl Given {
    fn text(&self) -> Option<&str> {
        match self {
            Given::Text(text) => Some(text),
            _ => None,
        }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Given::Integer(number) => u64::try_from(*number).ok(),
            Given::Text(text) => text.trim().replace('_', "").parse().ok(),
            _ => None,
        }
    }
}

/// One setting's place in a `Config`.
pub(super) trait Field {
    /// Takes the value, or leaves the field as it is and returns false.
    fn set(&mut self, given: &Given) -> bool;

    /// What is wrong with a value that was not taken.
    fn fault(&self, given: &Given) -> String {
        format!("is {given}")
    }

    /// The value as TOML.
    fn show(&self) -> String;

    /// What may be given, to follow the word "expected".
    fn allowed(&self) -> String;
}

/// An unsigned integer of whichever width its owner chose.
pub(super) trait Number {
    fn value(&self) -> u64;
    /// False if the number does not fit.
    fn assign(&mut self, value: u64) -> bool;
}

macro_rules! numbers {
    ($($type:ty),*) => { $(
        impl Number for $type {
            fn value(&self) -> u64 {
                u64::try_from(*self).unwrap_or(u64::MAX)
            }
            fn assign(&mut self, value: u64) -> bool {
                <$type>::try_from(value).map(|fits| *self = fits).is_ok()
            }
        }
    )* };
}
numbers!(u16, u32, u64, usize);

/// A number of bytes within a range.
pub(super) struct Bytes<'a>(
    pub(super) &'a mut dyn Number,
    pub(super) RangeInclusive<u64>,
);

impl Field for Bytes<'_> {
    fn set(&mut self, given: &Given) -> bool {
        let bytes = given.text().map_or_else(|| given.number(), parse_bytes);
        bytes.is_some_and(|bytes| self.1.contains(&bytes) && self.0.assign(bytes))
    }

    fn show(&self) -> String {
        quoted(&show_bytes(self.0.value()))
    }

    fn allowed(&self) -> String {
        format!(
            "a size such as \"64MiB\", from {} to {}",
            show_bytes(*self.1.start()),
            show_bytes(*self.1.end())
        )
    }
}

/// A plain number within a range.
pub(super) struct Count<'a>(
    pub(super) &'a mut dyn Number,
    pub(super) RangeInclusive<u64>,
);

impl Field for Count<'_> {
    fn set(&mut self, given: &Given) -> bool {
        given
            .number()
            .is_some_and(|number| self.1.contains(&number) && self.0.assign(number))
    }

    fn show(&self) -> String {
        self.0.value().to_string()
    }

    fn allowed(&self) -> String {
        format!("a whole number from {} to {}", self.1.start(), self.1.end())
    }
}

/// A span of time within a range.
pub(super) struct Time<'a>(
    pub(super) &'a mut Duration,
    pub(super) RangeInclusive<Duration>,
);

impl Field for Time<'_> {
    fn set(&mut self, given: &Given) -> bool {
        let Some(span) = given
            .text()
            .and_then(parse_time)
            .filter(|span| self.1.contains(span))
        else {
            return false;
        };
        *self.0 = span;
        true
    }

    fn show(&self) -> String {
        quoted(&show_time(*self.0))
    }

    fn allowed(&self) -> String {
        format!(
            "a span of time such as \"500ms\" or \"10s\", from {} to {}",
            show_time(*self.1.start()),
            show_time(*self.1.end())
        )
    }
}

/// An address to listen on.
pub(super) struct Address<'a>(pub(super) &'a mut SocketAddr);

impl Field for Address<'_> {
    fn set(&mut self, given: &Given) -> bool {
        let Some(address) = given.text().and_then(|text| parse_listen(text).ok()) else {
            return false;
        };
        *self.0 = address;
        true
    }

    fn show(&self) -> String {
        quoted(&self.0.to_string())
    }

    fn allowed(&self) -> String {
        LISTEN.to_owned()
    }
}

/// A path that must be given.
pub(super) struct Path<'a>(pub(super) &'a mut PathBuf);

impl Field for Path<'_> {
    fn set(&mut self, given: &Given) -> bool {
        let Some(text) = given.text().filter(|text| !text.is_empty()) else {
            return false;
        };
        *self.0 = PathBuf::from(text);
        true
    }

    fn show(&self) -> String {
        quoted(&self.0.to_string_lossy())
    }

    fn allowed(&self) -> String {
        "a path".to_owned()
    }
}

/// A text or a list of texts that somebody else can read.
pub(super) struct Checked<'a, T> {
    pub(super) value: &'a mut T,
    /// Whether one text is right.
    pub(super) check: fn(&str) -> bool,
    /// See [`Field::allowed`].
    pub(super) allowed: &'static str,
}

impl Field for Checked<'_, String> {
    fn set(&mut self, given: &Given) -> bool {
        let Some(text) = given.text().filter(|text| (self.check)(text)) else {
            return false;
        };
        text.clone_into(self.value);
        true
    }

    fn show(&self) -> String {
        quoted(self.value)
    }

    fn allowed(&self) -> String {
        self.allowed.to_owned()
    }
}

impl Checked<'_, Vec<String>> {
    /// The entries, or the first that is wrong, if it is one.
    fn read(&self, given: &Given) -> Result<Vec<String>, Option<Given>> {
        let entries = match given {
            Given::List(entries) => entries.clone(),
            // From the environment or a flag: `a,b`.
            Given::Text(text) => {
                let entries = text
                    .split(',')
                    .map(str::trim)
                    .filter(|text| !text.is_empty());
                entries.map(|text| Given::Text(text.to_owned())).collect()
            }
            _ => return Err(None),
        };
        let read = |entry: Given| match entry {
            Given::Text(text) if (self.check)(&text) => Ok(text),
            wrong => Err(Some(wrong)),
        };
        entries.into_iter().map(read).collect()
    }
}

impl Field for Checked<'_, Vec<String>> {
    fn set(&mut self, given: &Given) -> bool {
        self.read(given)
            .map(|entries| *self.value = entries)
            .is_ok()
    }

    fn fault(&self, given: &Given) -> String {
        match self.read(given) {
            Err(Some(wrong)) => format!("has {wrong} in it"),
            _ => format!("is {given}"),
        }
    }

    fn show(&self) -> String {
        let items: Vec<String> = self.value.iter().map(|item| quoted(item)).collect();
        format!("[{}]", items.join(", "))
    }

    fn allowed(&self) -> String {
        format!("a list, each of it {}", self.allowed)
    }
}

/// One of a few names.
pub(super) struct Choice<'a, T: 'static>(
    pub(super) &'a mut T,
    pub(super) &'static [(&'static str, T)],
);

impl<T: Copy + PartialEq> Field for Choice<'_, T> {
    fn set(&mut self, given: &Given) -> bool {
        let chosen = given
            .text()
            .and_then(|text| self.1.iter().find(|(name, _)| *name == text));
        let Some((_, value)) = chosen else {
            return false;
        };
        *self.0 = *value;
        true
    }

    fn show(&self) -> String {
        quoted(
            self.1
                .iter()
                .find(|(_, value)| value == self.0)
                .map_or("", |(name, _)| name),
        )
    }

    fn allowed(&self) -> String {
        let names: Vec<String> = self.1.iter().map(|(name, _)| quoted(name)).collect();
        format!("one of {}", names.join(", "))
    }
}

/// As a TOML basic string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}
