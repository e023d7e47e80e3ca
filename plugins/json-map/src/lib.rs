//! Selects, renames and computes fields of JSON values. README.md has the parameters.

mod shape;

use eddy_guest::ParamError;
use eddy_guest::prelude::*;
use json_expr::{Env, Expr, Fields, Found, NotJson, ParseError};

use shape::Shape;

/// The shape of the new values, and the new keys and timestamps.
pub struct JsonMap {
    fields: Fields,
    shape: Shape,
    key: Option<Expr>,
    timestamp: Option<Expr>,
    rest: Port,
    /// Scratch space, kept from record to record.
    found: Found,
    value: Vec<u8>,
    key_text: Vec<u8>,
    has_warned: bool,
}

impl Map for JsonMap {
    fn new(context: &Context) -> Result<Self, String> {
        let mut fields = Fields::default();
        let shape = Shape::new(context, &mut fields)?;
        let mut optional = |name| {
            context
                .optional(name)
                .map(|text| expression(name, text, &mut fields))
                .transpose()
        };
        let (key, timestamp) = (optional("key")?, optional("timestamp")?);
        Ok(Self {
            shape,
            key,
            timestamp,
            fields,
            rest: context.output("rest"),
            found: Found::default(),
            value: Vec::new(),
            key_text: Vec::new(),
            has_warned: false,
        })
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
        let Some(json) = record.value else {
            // A key that is gone stays gone under the key that it had.
            out.forward(Port::OUT, record);
            return Ok(());
        };
        match self.map(json, record) {
            Ok(new) => out.emit(Port::OUT, &new),
            Err(NotJson) => {
                out.forward(self.rest, record);
                self.warn_once(record);
            }
        }
        Ok(())
    }
}

/// A parameter that is an expression.
fn expression(name: &str, text: &str, fields: &mut Fields) -> Result<Expr, ParamError> {
    Expr::parse(text, fields).map_err(|error| misread(name, &error))
}

/// A parameter that could not be parsed.
fn misread(name: &str, error: &ParseError) -> ParamError {
    ParamError::invalid(name, format_args!("`{}`: {error}", error.excerpt()))
}

impl JsonMap {
    fn map<'s>(
        &'s mut self,
        json: &'s [u8],
        record: &Record<'s>,
    ) -> Result<NewRecord<'s>, NotJson> {
        self.fields.find(json, &mut self.found)?;
        let env = Env::new(json, &self.found).record(record.key, record.offset, record.timestamp);
        self.value.clear();
        self.shape.write(json, &env, &mut self.value)?;
        let mut new = record.with_value(&self.value);
        if let Some(key) = &self.key {
            self.key_text.clear();
            new = match key.write_plain(&env, &mut self.key_text) {
                true => new.key(&self.key_text),
                false => new.without_key(),
            };
        }
        let timestamp = self.timestamp.as_ref().map(|expr| expr.value(&env));
        if let Some(milliseconds) = timestamp.and_then(|value| value.as_whole()) {
            new = new.timestamp(milliseconds);
        }
        Ok(new)
    }

    fn warn_once(&mut self, record: &Record<'_>) {
        if !self.has_warned {
            let offset = record.offset;
            log::warn(&format!(
                "the value at offset {offset} is no JSON object; it, and others like it, go to `rest`"
            ));
            self.has_warned = true;
        }
    }
}

register_plugin!(JsonMap);
