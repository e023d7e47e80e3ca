//! The functions of the language.

use std::borrow::Cow;

use crate::{Kind, Value};

/// A function that is called with all of its arguments evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Abs,
    Ceil,
    Coalesce,
    Contains,
    EndsWith,
    Floor,
    Length,
    Lower,
    Number,
    Round,
    StartsWith,
    Text,
    Upper,
}

/// Name, least and most arguments, and what it gives.
const TABLE: &[(&str, Function, usize, usize, Kind)] = &[
    ("abs", Function::Abs, 1, 1, Kind::Number),
    ("ceil", Function::Ceil, 1, 1, Kind::Number),
    ("coalesce", Function::Coalesce, 1, usize::MAX, Kind::Any),
    ("contains", Function::Contains, 2, 2, Kind::Bool),
    ("ends_with", Function::EndsWith, 2, 2, Kind::Bool),
    ("floor", Function::Floor, 1, 1, Kind::Number),
    ("length", Function::Length, 1, 1, Kind::Number),
    ("lower", Function::Lower, 1, 1, Kind::Text),
    ("number", Function::Number, 1, 1, Kind::Number),
    ("round", Function::Round, 1, 2, Kind::Number),
    ("starts_with", Function::StartsWith, 2, 2, Kind::Bool),
    ("text", Function::Text, 1, 1, Kind::Text),
    ("upper", Function::Upper, 1, 1, Kind::Text),
];

impl Function {
    pub(crate) fn named(name: &str) -> Option<Self> {
        TABLE
            .iter()
            .find_map(|row| (row.0 == name).then_some(row.1))
    }

    pub(crate) fn names() -> String {
        let names: Vec<_> = TABLE.iter().map(|row| row.0).collect();
        names.join(", ")
    }

    pub(crate) fn kind(self) -> Kind {
        TABLE
            .iter()
            .find_map(|row| (row.1 == self).then_some(row.4))
            .unwrap_or(Kind::Any)
    }

    /// What is wrong with so many arguments, if anything.
    pub(crate) fn refuse_count(self, count: usize) -> Option<String> {
        let (name, _, least, most, _) = TABLE.iter().find(|row| row.1 == self)?;
        let takes = match (least, most) {
            _ if (least..=most).contains(&&count) => return None,
            (least, most) if least == most => format!("{least}"),
            (least, &usize::MAX) => format!("at least {least}"),
            (least, most) => format!("{least} to {most}"),
        };
        Some(format!("`{name}` takes {takes}, and here are {count}"))
    }

    pub(crate) fn call<'a>(self, arguments: &[Value<'a>]) -> Value<'a> {
        let first = arguments.first().unwrap_or(&Value::Null);
        let second = arguments.get(1).unwrap_or(&Value::Null);
        match self {
            Self::Abs => match first {
                Value::Int(int) => Value::Int(int.abs()),
                _ => rounded(first, f64::abs),
            },
            Self::Ceil => rounded(first, f64::ceil),
            Self::Coalesce => arguments
                .iter()
                .find(|value| **value != Value::Null)
                .cloned()
                .unwrap_or(Value::Null),
            Self::Contains => both(first, second, contains),
            Self::EndsWith => both(first, second, <[u8]>::ends_with),
            Self::Floor => rounded(first, f64::floor),
            Self::Length => match first {
                Value::Text(text) => {
                    Value::Int(String::from_utf8_lossy(text).chars().count() as i128)
                }
                _ => Value::Null,
            },
            Self::Lower => cased(first, str::to_lowercase),
            Self::Number => match first {
                Value::Text(text) => Some(Value::from_json(text.trim_ascii()))
                    .filter(|value| value.as_float().is_some())
                    .map_or(Value::Null, |value| match value {
                        Value::Int(int) => Value::Int(int),
                        value => Value::float(value.as_float().unwrap_or(f64::NAN)),
                    }),
                Value::Int(_) | Value::Float(_) => first.clone(),
                _ => Value::Null,
            },
            Self::Round => round(first, second),
            Self::StartsWith => both(first, second, <[u8]>::starts_with),
            Self::Text => match first {
                Value::Null => Value::Null,
                _ => {
                    let mut text = Vec::new();
                    first.write_plain(&mut text);
                    Value::Text(text.into())
                }
            },
            Self::Upper => cased(first, str::to_uppercase),
        }
    }
}

/// Of two texts; of anything else it is false.
fn both(
    first: &Value<'_>,
    second: &Value<'_>,
    holds: impl Fn(&[u8], &[u8]) -> bool,
) -> Value<'static> {
    Value::Bool(matches!((first, second), (Value::Text(a), Value::Text(b)) if holds(a, b)))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    let Some((first, rest)) = part.split_first() else {
        return true;
    };
    let mut text = text;
    while let Some(at) = text.iter().position(|byte| byte == first) {
        text = &text[at + 1..];
        if text.starts_with(rest) {
            return true;
        }
    }
    false
}

fn cased(value: &Value<'_>, change: impl Fn(&str) -> String) -> Value<'static> {
    match value {
        Value::Text(text) => Value::Text(Cow::Owned(
            change(&String::from_utf8_lossy(text)).into_bytes(),
        )),
        _ => Value::Null,
    }
}

fn rounded(value: &Value<'_>, change: impl Fn(f64) -> f64) -> Value<'static> {
    match value {
        Value::Int(int) => Value::Int(*int),
        Value::Float(float) => Value::float(change(*float)),
        _ => Value::Null,
    }
}

/// To so many digits after the point, or before it where they are negative; halves away from zero.
fn round(value: &Value<'_>, digits: &Value<'_>) -> Value<'static> {
    // Beyond these, there is nothing left to round, or nothing left.
    const DIGITS_MAX: i32 = 308;
    let digits = match digits {
        Value::Int(digits) => (*digits).clamp((-DIGITS_MAX).into(), DIGITS_MAX.into()) as i32,
        _ => 0,
    };
    match value {
        Value::Int(int) => round_int(*int, digits),
        _ => rounded(value, |float| round_float(float, digits)),
    }
}

fn round_int(int: i128, digits: i32) -> Value<'static> {
    let power = 10_i128.checked_pow(digits.min(0).unsigned_abs());
    let Some(power) = power else {
        return Value::Int(0);
    };
    let half = (power / 2) * int.signum();
    let rounded = (int + half) / power * power;
    // Up to more than 64 bits it may go; as a double, then.
    Value::int(rounded).unwrap_or_else(|| Value::float(rounded as f64))
}

fn round_float(float: f64, digits: i32) -> f64 {
    /// From here on a double has no fraction.
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    if digits < 0 {
        let power = 10_f64.powi(-digits);
        return (float / power).round() * power;
    }
    let power = 10_f64.powi(digits);
    let scaled = float * power;
    match scaled.abs() < WHOLE {
        true => scaled.round() / power,
        false => float,
    }
}
