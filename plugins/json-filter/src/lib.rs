//! Keeps the records whose JSON value meets a condition. README.md has the parameters and the language.

use eddy_guest::ParamError;
use eddy_guest::prelude::*;
use json_expr::{Env, Expr, Fields, Found, Kind, excerpt};

/// The condition, and where to send what doesn't meet it.
pub struct JsonFilter {
    fields: Fields,
    condition: Expr,
    rest: Port,
    found: Found,
    has_warned: bool,
}

impl Map for JsonFilter {
    fn new(context: &Context) -> Result<Self, String> {
        let mut fields = Fields::default();
        let condition = condition(context.param("where")?, &mut fields)?;
        let rest = context.output("rest");
        Ok(Self {
            fields,
            condition,
            rest,
            found: Found::default(),
            has_warned: false,
        })
    }

    fn process(&mut self, record: &Record<'_>, out: &mut Outputs<'_>) -> Result<(), Failure> {
        let port = if self.is_met_by(record) {
            Port::OUT
        } else {
            self.rest
        };
        out.forward(port, record);
        Ok(())
    }
}

fn condition(text: &str, fields: &mut Fields) -> Result<Expr, ParamError> {
    let invalid = |excerpt: &str, problem: &str| {
        ParamError::invalid("where", format_args!("`{excerpt}`: {problem}"))
    };
    let condition =
        Expr::parse(text, fields).map_err(|error| invalid(error.excerpt(), &error.to_string()))?;
    let gives = |what| {
        let problem = format!("it gives {what}, never true or false");
        Err(invalid(&excerpt(text, 0), &problem))
    };
    match condition.kind() {
        Kind::Null => gives("null"),
        Kind::Number => gives("a number"),
        Kind::Text => gives("a text"),
        Kind::NumberOrText => gives("a number or a text"),
        Kind::Bool | Kind::Any => Ok(condition),
    }
}

impl JsonFilter {
    fn is_met_by(&mut self, record: &Record<'_>) -> bool {
        let json = record.value.unwrap_or_default();
        if record.value.is_none() || self.fields.is_empty() {
            self.fields.miss(&mut self.found);
        } else if self.fields.find(json, &mut self.found).is_err() {
            self.warn_once(record);
            return false;
        }
        let env = Env::new(json, &self.found).record(record.key, record.offset, record.timestamp);
        self.condition.is_true(&env)
    }

    fn warn_once(&mut self, record: &Record<'_>) {
        if !self.has_warned {
            let offset = record.offset;
            log::warn(&format!(
                "the value at offset {offset} is not JSON; it, and others like it, meet no condition"
            ));
            self.has_warned = true;
        }
    }
}

register_plugin!(JsonFilter);
