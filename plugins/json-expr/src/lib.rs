//! Expressions over the fields of a JSON value. README.md has the language.
//!
//! Fast where it counts: the fields that an expression names are looked up in the text itself, in the one
//! pass that checks that it is JSON; nothing is built, and nothing is allocated per value. Safe
//! where it counts: neither an expression nor a value can make it recurse deeper than a small limit.
//!
//! ```
//! use json_expr::{Env, Expr, Fields, Found};
//!
//! let mut fields = Fields::default();
//! let strong = Expr::parse("mag >= 4.5 && place.country != 'Chile'", &mut fields)?;
//! let json = br#"{"mag": 5.1, "place": {"country": "Peru"}}"#;
//! let mut found = Found::default();
//! assert!(fields.find(json, &mut found).is_ok());
//! assert!(strong.is_true(&Env::new(json, &found)));
//! # Ok::<(), json_expr::ParseError>(())
//! ```

mod eval;
mod fields;
mod function;
mod parse;
mod path;
mod scan;
mod token;
mod value;
mod write;

pub use eval::Env;
pub use fields::{Fields, Found, Slot};
pub use parse::{Expr, Kind, ParseError, excerpt};
pub use path::Path;
pub use scan::{Member, Members, NotJson};
pub use value::Value;
pub use write::write_string;
