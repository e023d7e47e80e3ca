//! Everything for a plugin of Eddy in Rust.
//!
//! A filter is a type that says of each record whether it stays:
//!
//! ```
//! use eddy_guest::prelude::*;
//! struct NotEmpty;
//! impl Filter for NotEmpty {
//!     fn new(_: &Context) -> Result<Self, String> { Ok(NotEmpty) }
//!     fn keep(&mut self, record: &Record) -> Result<bool, Failure> { Ok(record.value.is_some()) }
//! }
//! register_plugin!(NotEmpty);
//! ```
//!
//! Build it as a `cdylib` with `cargo build --target wasm32-wasip2 --release`, give it to the broker with
//! `eddy plugin push`, and put it to work with `eddy deploy` or `eddy sub --filter`.
//!
//! # Three levels
//!
//! | trait | a call per | returns |
//! |---|---|---|
//! | [`Filter`] | record | whether it stays |
//! | [`Map`] | record | any number of records, for any of the [outputs](Outputs) |
//! | [`Columns`] | batch | a [`Verdict`], from the columns themselves |
//!
//! None of them copies a record or allocates for one: a [`Record`] is a view of the batch's columns.
//!
//! # Parameters and outputs
//!
//! `new` is called once, with the [`Context`] of the instance. What it asks for there is what the plugin
//! has: a deployment that gives a parameter or connects an output that `new` never asked for is refused,
//! with the names of those that there are.
//!
//! ```
//! # use eddy_guest::prelude::*;
//! /// Splits the records by their size.
//! struct BySize { limit: usize, large: Port }
//! impl Map for BySize {
//!     fn new(context: &Context) -> Result<Self, String> {
//!         Ok(BySize { limit: context.parse("limit")?, large: context.output("large") })
//!     }
//!     fn process(&mut self, record: &Record, out: &mut Outputs) -> Result<(), Failure> {
//!         let is_large = record.value.is_some_and(|value| value.len() > self.limit);
//!         let port = if is_large { self.large } else { Port::OUT };
//!         out.forward(port, record);
//!         Ok(())
//!     }
//! }
//! register_plugin!(BySize);
//! # use eddy_guest::testing::TestHost;
//! # let mut host = TestHost::new().param("limit", "3").output("large").start::<BySize, _>().unwrap();
//! # let sent = host.values(["four", "one"]).unwrap();
//! # assert_eq!((sent.values("large"), sent.values("out")), (vec!["four"], vec!["one"]));
//! ```
//!
//! # What a plugin can't do
//!
//! There are no files, no network, no clock and no chance: the same input gives the same output. What an
//! instance remembers from one batch to the next is lost when the broker starts again, so it is good for
//! scratch space, and not for results.
//!
//! # Tests
//!
//! [`testing::TestHost`] runs a plugin in `cargo test`, through the same columns as the broker.

#[doc(hidden)]
pub mod bindings;
mod columns;
mod context;
mod failure;
#[doc(hidden)]
pub mod glue;
pub mod log;
mod outputs;
mod plugin;
mod record;
pub mod testing;

pub use columns::{Batch, Column};
pub use context::{Context, ParamError, Port};
pub use failure::Failure;
pub use outputs::Outputs;
pub use plugin::{Columns, Filter, Map};
pub use record::{Headers, HeadersBuf, NewRecord, Record};

#[doc(inline)]
pub use bindings::eddy::plugin::types::{Emitted, Output, Verdict};

/// What most plugins use.
pub mod prelude {
    pub use crate::{
        Context, Failure, Filter, HeadersBuf, Map, NewRecord, Outputs, Port, Record, log,
        register_plugin,
    };
}

/// Makes a type the plugin of this crate: one that is a [`Filter`], a [`Map`] or [`Columns`].
#[macro_export]
macro_rules! register_plugin {
    ($plugin:ty) => {
        const _: () = {
            // Everywhere, so that a type that is no plugin is found out by `cargo check` already.
            const START: $crate::glue::Start = $crate::glue::start::<$plugin, _>;

            #[cfg(target_arch = "wasm32")]
            struct Exported;

            #[cfg(target_arch = "wasm32")]
            impl $crate::glue::Guest for Exported {
                fn init(context: $crate::glue::RawContext) -> Result<(), String> {
                    $crate::glue::init(START, context)
                }

                fn process(
                    port: u32,
                    batch: $crate::glue::RawBatch,
                ) -> Result<$crate::Verdict, $crate::glue::RawFailure> {
                    $crate::glue::process(port, &batch)
                }
            }

            #[cfg(target_arch = "wasm32")]
    $crate::bindings::export_plugin!(Exported with_types_in $crate::bindings);
        };
    };
}
