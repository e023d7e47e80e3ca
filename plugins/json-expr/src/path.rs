//! The way to a field: names of members and numbers of items.

use crate::ParseError;
use crate::parse::Parser;

/// How many steps a path may have, and so how deep a value is ever looked into.
pub(crate) const STEPS_MAX: usize = 32;

/// The way to a field, from the whole value: `properties.mag`, `points[0].lon`, `` `odd name`.x ``.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    pub(crate) steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Member(String),
    Item(u32),
}

impl Path {
    /// A path, and nothing else.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut parser = Parser::new(text)?;
        let path = parser.path()?;
        parser.end()?;
        Ok(path)
    }

    /// Paths with commas between them, each with the name that stands after `as`, or else its own last name:
    /// `id, properties.mag as magnitude`.
    pub fn parse_list(text: &str) -> Result<Vec<(Self, String)>, ParseError> {
        let mut parser = Parser::new(text)?;
        let mut paths = Vec::new();
        loop {
            let path = parser.path()?;
            let name = parser
                .name_after_as()?
                .unwrap_or_else(|| path.last_name().to_owned());
            paths.push((path, name));
            if !parser.take(",") {
                parser.end()?;
                return Ok(paths);
            }
        }
    }

    /// The name of the field itself: the last one on the way. A path begins with a name, so there is one.
    pub fn last_name(&self) -> &str {
        let names = self.steps.iter().rev().find_map(|step| match step {
            Step::Member(name) => Some(name.as_str()),
            Step::Item(_) => None,
        });
        names.unwrap_or_default()
    }
}
