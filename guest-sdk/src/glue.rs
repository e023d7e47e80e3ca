//! Between the generated bindings and the traits: what `register_plugin!` expands to. Not for use by hand.

use std::cell::RefCell;

use crate::plugin::{Plugin, Processor};
use crate::{Batch, Context, Verdict};

pub use crate::bindings::eddy::plugin::types::{
    Batch as RawBatch, Context as RawContext, Failure as RawFailure,
};
pub use crate::bindings::exports::eddy::plugin::processor::Guest;

/// Makes the plugin.
pub type Start = fn(&Context) -> Result<Box<dyn Processor>, String>;

thread_local! {
    /// A component is one plugin, and the broker makes an instance of it per partition.
    static PLUGIN: RefCell<Option<Box<dyn Processor>>> = const { RefCell::new(None) };
}

/// Makes the plugin, and refuses what it never asked for.
pub fn start<P: Plugin<Level>, Level: 'static>(
    context: &Context,
) -> Result<Box<dyn Processor>, String> {
    let plugin = P::start(context)?;
    context.refuse_unknown()?;
    Ok(plugin)
}

/// The export `init`.
pub fn init(start: Start, context: RawContext) -> Result<(), String> {
    let plugin = start(&Context::from(context))?;
    PLUGIN.replace(Some(plugin));
    Ok(())
}

/// The export `process`.
pub fn process(port: u32, batch: &RawBatch) -> Result<Verdict, RawFailure> {
    let outcome = PLUGIN.with_borrow_mut(|plugin| match plugin {
        Some(plugin) => plugin.process(port, &Batch::from(batch)),
        None => Err("process was called before init".into()),
    });
    outcome.map_err(|failure| RawFailure {
        row: failure.row,
        message: failure.message,
    })
}
