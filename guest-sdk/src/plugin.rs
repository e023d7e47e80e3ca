//! The three levels on which a plugin can be written, and what makes each of them the same to the broker.

use crate::{Batch, Context, Failure, Outputs, Record, Verdict};

/// A plugin that says of each record whether it stays.
pub trait Filter: Sized + 'static {
    /// Called once. An error refuses the deployment, in these words.
    fn new(context: &Context) -> Result<Self, String>;

    /// Whether the record goes to the output.
    fn keep(&mut self, record: &Record<'_>) -> Result<bool, Failure>;
}

/// A plugin that makes of each record any number of others, for any of its outputs.
pub trait Map: Sized + 'static {
    /// Called once. An error refuses the deployment, in these words.
    fn new(context: &Context) -> Result<Self, String>;

    /// Sends on the record, or others, or none.
    fn process(&mut self, record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure>;
}

/// A plugin that sees the batches themselves, column by column.
pub trait Columns: Sized + 'static {
    /// Called once. An error refuses the deployment, in these words.
    fn new(context: &Context) -> Result<Self, String>;

    /// What becomes of a batch, which came by the input of this number.
    fn process(&mut self, input: u32, batch: &Batch<'_>) -> Result<Verdict, Failure>;
}

/// Whatever the level, a type that can be made from a context. `Level` only tells the levels apart.
pub trait Plugin<Level> {
    /// Makes it.
    fn start(context: &Context) -> Result<Box<dyn Processor>, String>;
}

/// A plugin at work.
pub trait Processor {
    /// What becomes of a batch.
    fn process(&mut self, input: u32, batch: &Batch<'_>) -> Result<Verdict, Failure>;
}

/// The level of [`Filter`].
pub struct OfFilter<P>(P);
/// The level of [`Map`].
pub struct OfMap<P> {
    plugin: P,
    main_output: Option<u32>,
}
/// The level of [`Columns`].
pub struct OfColumns<P>(P);

impl<P: Filter> Plugin<OfFilter<P>> for P {
    fn start(context: &Context) -> Result<Box<dyn Processor>, String> {
        Ok(Box::new(OfFilter(P::new(context)?)))
    }
}

impl<P: Filter> Processor for OfFilter<P> {
    fn process(&mut self, _input: u32, batch: &Batch<'_>) -> Result<Verdict, Failure> {
        let mut rows = Vec::with_capacity(batch.len());
        for record in batch.records() {
            if self
                .0
                .keep(&record)
                .map_err(|failure| failure.at(record.row))?
            {
                rows.push(record.row);
            }
        }
        Ok(if rows.len() == batch.len() {
            Verdict::All
        } else {
            Verdict::Keep(rows)
        })
    }
}

impl<P: Map> Plugin<OfMap<P>> for P {
    fn start(context: &Context) -> Result<Box<dyn Processor>, String> {
        Ok(Box::new(OfMap {
            plugin: P::new(context)?,
            main_output: context.main_output(),
        }))
    }
}

impl<P: Map> Processor for OfMap<P> {
    fn process(&mut self, _input: u32, batch: &Batch<'_>) -> Result<Verdict, Failure> {
        let mut outputs = Outputs::new(*batch, self.main_output);
        for record in batch.records() {
            self.plugin
                .process(&record, &mut outputs)
                .map_err(|failure| failure.at(record.row))?;
        }
        Ok(outputs.into_verdict())
    }
}

impl<P: Columns> Plugin<OfColumns<P>> for P {
    fn start(context: &Context) -> Result<Box<dyn Processor>, String> {
        Ok(Box::new(OfColumns(P::new(context)?)))
    }
}

impl<P: Columns> Processor for OfColumns<P> {
    fn process(&mut self, input: u32, batch: &Batch<'_>) -> Result<Verdict, Failure> {
        self.0.process(input, batch)
    }
}
