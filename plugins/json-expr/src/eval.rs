//! What an expression gives for a value. Nothing here is an error: what has no meaning is null.

use crate::parse::{Arithmetic, Comparison, Expr, Meta, Node};
use crate::token::Number;
use crate::{Found, Value};

/// What an expression is evaluated on.
#[derive(Debug, Clone, Copy)]
pub struct Env<'a> {
    json: &'a [u8],
    found: &'a Found,
    key: Option<&'a [u8]>,
    offset: u64,
    timestamp: i64,
}

impl<'a> Env<'a> {
    /// A value, and the fields found in it.
    pub fn new(json: &'a [u8], found: &'a Found) -> Self {
        Self {
            json,
            found,
            key: None,
            offset: 0,
            timestamp: 0,
        }
    }

    /// With what `$key`, `$offset` and `$timestamp` stand for.
    pub fn record(self, key: Option<&'a [u8]>, offset: u64, timestamp: i64) -> Self {
        Self {
            key,
            offset,
            timestamp,
            ..self
        }
    }
}

impl Expr {
    /// Whether it gives true: not false, and nothing else either.
    pub fn is_true(&self, env: &Env<'_>) -> bool {
        self.node.is_true(env)
    }

    /// What it gives.
    pub fn value<'a>(&'a self, env: &Env<'a>) -> Value<'a> {
        self.node.value(env)
    }

    /// Appends what it gives as JSON. A field alone is copied as it is written, to the last digit.
    pub fn write_json(&self, env: &Env<'_>, out: &mut Vec<u8>) {
        match self.field_text(env) {
            Some(text) => out.extend_from_slice(text),
            None => self.value(env).write_json(out),
        }
    }

    /// Appends what it gives as text; false if it is null. A number that is a field alone stays as written.
    pub fn write_plain(&self, env: &Env<'_>, out: &mut Vec<u8>) -> bool {
        let value = self.value(env);
        match (self.field_text(env), &value) {
            (Some(text), Value::Int(_) | Value::Float(_)) => out.extend_from_slice(text),
            _ => value.write_plain(out),
        }
        value != Value::Null
    }

    /// The text of the field that the expression is, if it is one and is there.
    pub fn field_text<'a>(&self, env: &Env<'a>) -> Option<&'a [u8]> {
        match self.node {
            Node::Field(slot) => env.found.text(slot, env.json),
            _ => None,
        }
    }
}

impl Node {
    fn is_true(&self, env: &Env<'_>) -> bool {
        match self {
            Node::All(nodes) => nodes.iter().all(|node| node.is_true(env)),
            Node::Any(nodes) => nodes.iter().any(|node| node.is_true(env)),
            Node::Not(node) => !node.is_true(env),
            Node::Compare(left, comparison, right) => {
                comparison.holds(&left.value(env), &right.value(env))
            }
            Node::In(node, list) => {
                let value = node.value(env);
                list.iter().any(|item| value.is(&item.value(env)))
            }
            _ => self.value(env) == Value::Bool(true),
        }
    }

    fn value<'a>(&'a self, env: &Env<'a>) -> Value<'a> {
        match self {
            Node::Null => Value::Null,
            Node::Bool(bool) => Value::Bool(*bool),
            Node::Number(Number::Int(int)) => Value::Int(*int),
            Node::Number(Number::Float(float)) => Value::Float(*float),
            Node::Text(text) => Value::Text(text.as_bytes().into()),
            Node::Field(slot) => env
                .found
                .text(*slot, env.json)
                .map_or(Value::Null, Value::from_json),
            Node::Meta(Meta::Key) => env.key.map_or(Value::Null, |key| Value::Text(key.into())),
            Node::Meta(Meta::Offset) => Value::Int(env.offset.into()),
            Node::Meta(Meta::Timestamp) => Value::Int(env.timestamp.into()),
            Node::All(_) | Node::Any(_) | Node::Not(_) | Node::Compare(..) | Node::In(..) => {
                Value::Bool(self.is_true(env))
            }
            Node::Negative(node) => Arithmetic::Minus.of(&Value::Int(0), &node.value(env)),
            Node::Arithmetic(first, rest) => {
                let operate = |left: Value<'a>, (operator, right): &'a (Arithmetic, Node)| {
                    operator.of(&left, &right.value(env))
                };
                rest.iter().fold(first.value(env), operate)
            }
            Node::If(branches) => {
                let [condition, then, otherwise] = &**branches;
                if condition.is_true(env) {
                    then.value(env)
                } else {
                    otherwise.value(env)
                }
            }
            Node::Call(function, arguments) => {
                let arguments: Vec<_> = arguments
                    .iter()
                    .map(|argument| argument.value(env))
                    .collect();
                function.call(&arguments)
            }
        }
    }
}

impl Comparison {
    fn holds(self, left: &Value<'_>, right: &Value<'_>) -> bool {
        let order = || left.order(right);
        match self {
            Self::Is => left.is(right),
            Self::IsNot => !left.is(right),
            Self::Less => order().is_some_and(|order| order.is_lt()),
            Self::LessOrIs => order().is_some_and(|order| order.is_le()),
            Self::More => order().is_some_and(|order| order.is_gt()),
            Self::MoreOrIs => order().is_some_and(|order| order.is_ge()),
        }
    }
}

impl Arithmetic {
    /// Whole numbers stay whole as long as they fit; `+` joins two texts.
    fn of(self, left: &Value<'_>, right: &Value<'_>) -> Value<'static> {
        if let (Value::Int(a), Value::Int(b)) = (left, right)
            && let Some(int) = self.of_ints(*a, *b)
        {
            return int;
        }
        if let (Self::Plus, Value::Text(a), Value::Text(b)) = (self, left, right) {
            return Value::Text([a.as_ref(), b.as_ref()].concat().into());
        }
        let (Some(a), Some(b)) = (left.as_float(), right.as_float()) else {
            return Value::Null;
        };
        Value::float(match self {
            Self::Plus => a + b,
            Self::Minus => a - b,
            Self::Times => a * b,
            Self::Over => a / b,
            Self::Modulo => a % b,
        })
    }

    /// Nothing where the result is no whole number of 64 bits.
    fn of_ints(self, a: i128, b: i128) -> Option<Value<'static>> {
        let result = match self {
            Self::Plus => a.checked_add(b),
            Self::Minus => a.checked_sub(b),
            Self::Times => a.checked_mul(b),
            Self::Over if a.checked_rem(b) == Some(0) => a.checked_div(b),
            Self::Over => None,
            Self::Modulo => a.checked_rem(b),
        };
        result.and_then(Value::int)
    }
}
