//! What people type after a flag, parsed once into a type: sizes, spans of
//! time, starting points, `name=value` pairs, limits. Every message names what
//! was typed and what would have been taken.

mod duration;
mod limit;
mod pair;
mod size;
mod start;

pub(crate) use duration::{describe_duration, parse_duration};
pub(crate) use limit::{DurationLimit, SizeLimit};
pub(crate) use pair::{Pair, Target};
pub(crate) use size::{describe_size, parse_size};
pub(crate) use start::{StartPoint, describe_timestamp};
