//! Values, and what they mean to each other: the language's rules of comparison and arithmetic.

use std::borrow::Cow;
use std::cmp::Ordering;

/// A value in an expression. What is missing is null.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// Null, missing, or without a meaning.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number of 64 bits, with or without a sign: from -2^63 to 2^64 - 1.
    Int(i128),
    /// Any other number; always finite.
    Float(f64),
    /// A text, its escapes resolved.
    Text(Cow<'a, [u8]>),
    /// An object or an array, as it stands in the JSON.
    Json(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The value of this JSON text, which is one value without space around it.
    #[inline]
    pub fn from_json(json: &'a [u8]) -> Self {
        match json.first() {
            Some(b'"') => text(json),
            Some(b'{' | b'[') => Self::Json(json),
            Some(b't') if json == b"true" => Self::Bool(true),
            Some(b'f') if json == b"false" => Self::Bool(false),
            Some(b'-' | b'0'..=b'9') => number(json),
            _ => Self::Null,
        }
    }

    /// A whole number, or nothing if it has more than 64 bits.
    pub(crate) fn int(int: i128) -> Option<Self> {
        fits(int).then_some(Self::Int(int))
    }

    /// The whole number that it is, be it written with a point or without, if it has 63 bits and a sign.
    pub fn as_whole(&self) -> Option<i64> {
        match self {
            Self::Int(int) => i64::try_from(*int).ok(),
            // 2^63 itself is out of range.
            Self::Float(float) if float.fract() == 0.0 && (-TWO_63..TWO_63).contains(float) => {
                Some(*float as i64)
            }
            _ => None,
        }
    }

    pub(crate) fn float(float: f64) -> Self {
        if float.is_finite() {
            Self::Float(float)
        } else {
            Self::Null
        }
    }

    pub(crate) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Int(int) => Some(*int as f64),
            Self::Float(float) => Some(*float),
            _ => None,
        }
    }

    /// Whether both are the same: of one kind, and equal. Objects and arrays are compared as they are written.
    #[inline]
    pub(crate) fn is(&self, other: &Value<'_>) -> bool {
        match (self, other) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(a), Value::Bool(b)) => a == b,
            (Self::Json(a), Value::Json(b)) => a == b,
            _ => self.order(other) == Some(Ordering::Equal),
        }
    }

    /// How two numbers or two texts stand to each other. Of other kinds, there is no order.
    #[inline]
    pub(crate) fn order(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Value::Int(b)) => Some(a.cmp(b)),
            (Self::Text(a), Value::Text(b)) => Some(a.as_ref().cmp(b.as_ref())),
            (Self::Int(a), Value::Float(b)) => Some(order_exactly(*a, *b)),
            (Self::Float(a), Value::Int(b)) => Some(order_exactly(*b, *a).reverse()),
            (Self::Float(a), Value::Float(b)) => a.partial_cmp(b),
            _ => None,
        }
    }
}

const TWO_63: f64 = 9_223_372_036_854_775_808.0;

/// Whether a whole number is one of 64 bits, with or without a sign.
pub(crate) fn fits(int: i128) -> bool {
    (i128::from(i64::MIN)..=i128::from(u64::MAX)).contains(&int)
}

/// How a whole number stands to a finite one that may have more digits than a double can tell apart, or
/// a fraction.
fn order_exactly(int: i128, float: f64) -> Ordering {
    // Saturates far beyond 64 bits, where every `int` is on the same side.
    let whole = float.trunc() as i128;
    int.cmp(&whole)
        .then_with(|| 0.0.partial_cmp(&float.fract()).unwrap_or(Ordering::Equal))
}

fn text(json: &[u8]) -> Value<'_> {
    let Some(inside) = json.get(1..json.len() - 1) else {
        return Value::Null;
    };
    if !inside.contains(&b'\\') {
        return Value::Text(inside.into());
    }
    unescape(inside).map_or(Value::Null, |text| Value::Text(text.into()))
}

fn number(json: &[u8]) -> Value<'_> {
    if let Some(short) = short_decimal(json) {
        return short;
    }
    if !is_number(json) {
        return Value::Null;
    }
    let Ok(text) = str::from_utf8(json) else {
        return Value::Null;
    };
    match text.parse().ok().and_then(Value::int) {
        Some(int) => int,
        None => text.parse().map_or(Value::Null, Value::float),
    }
}

/// By JSON's own grammar, which is narrower than Rust's: `-? (0 | 1-9 digits) (. digits)? (e ±? digits)?`
#[inline]
fn is_number(json: &[u8]) -> bool {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let mut rest = json.strip_prefix(b"-").unwrap_or(json);
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest[0] == b'0') {
        return false;
    }
    rest = &rest[whole..];
    if let Some(fraction) = rest.strip_prefix(b".") {
        let count = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = &fraction[count..];
    }
    if let Some((b'e' | b'E', exponent)) = rest.split_first() {
        let signed = exponent
            .strip_prefix(b"+")
            .or(exponent.strip_prefix(b"-"))
            .unwrap_or(exponent);
        return digits(signed) > 0 && digits(signed) == signed.len();
    }
    rest.is_empty()
}

/// A number of few digits without an exponent: most that sensors send. Exact, because both the digits
/// and the power of ten are: the quotient is the nearest there is (Clinger 1990, the fast path).
#[inline]
fn short_decimal(json: &[u8]) -> Option<Value<'static>> {
    const POWERS: [f64; 16] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
    ];
    if json.len() > 16 {
        return None;
    }
    let (negative, digits) = json
        .strip_prefix(b"-")
        .map_or((false, json), |digits| (true, digits));
    let mut whole = 0_i64;
    let mut point = None;
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => whole = whole * 10 + i64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(at),
            _ => return None,
        }
    }
    let whole_digits = point.unwrap_or(digits.len());
    let is_json = match whole_digits {
        0 => false,
        1 => true,
        _ => digits[0] != b'0',
    };
    if !is_json || digits.last() == Some(&b'.') {
        return None;
    }
    let signed = if negative { -whole } else { whole };
    Some(match point {
        None => Value::Int(signed.into()),
        Some(at) => {
            let float = whole as f64 / POWERS[digits.len() - at - 1];
            Value::Float(if negative { -float } else { float })
        }
    })
}

/// A string's content with its escapes resolved; nothing if one of them is wrong.
pub(crate) fn unescape(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        text = rest;
        if first != b'\\' {
            plain.push(first);
            continue;
        }
        let (&escape, rest) = text.split_first()?;
        text = rest;
        plain.push(match escape {
            b'"' | b'\\' | b'/' => escape,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (letter, rest) = unicode(text)?;
                plain.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                text = rest;
                continue;
            }
            _ => return None,
        });
    }
    Some(plain)
}

/// Four hexadecimal digits, and four more after `\u` if the first are half of a pair.
fn unicode(text: &[u8]) -> Option<(char, &[u8])> {
    let hex = |text: &[u8]| u32::from_str_radix(str::from_utf8(text.get(..4)?).ok()?, 16).ok();
    let (first, rest) = (hex(text)?, text.get(4..)?);
    if !(0xd800..0xdc00).contains(&first) {
        return Some((char::from_u32(first)?, rest));
    }
    let rest = rest.strip_prefix(b"\\u")?;
    let second = hex(rest)?.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    Some((
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + second)?,
        &rest[4..],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_reference_reads_them() {
        for text in [
            "0",
            "-0",
            "1",
            "-1",
            "4.5",
            "-2.15",
            "0.1",
            "0.30000000000000004",
            "1e3",
            "1E-7",
            "-1.5e+300",
            "1e400",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "123456789012345.6",
            "0.000000000000001",
            "1517363399650",
            "12345678901234567890.5",
        ] {
            let ours = Value::from_json(text.as_bytes());
            let reference: Result<serde_json::Number, _> = serde_json::from_str(text);
            match (ours, reference) {
                (Value::Int(int), Ok(number)) => {
                    assert_eq!(int as f64, number.as_f64().unwrap(), "{text}");
                }
                (Value::Float(float), Ok(number)) => {
                    assert_eq!(Some(float), number.as_f64(), "{text}");
                }
                (Value::Null, Err(_)) => {}
                (ours, reference) => panic!("{text}: {ours:?}, {reference:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_number_is_null() {
        for text in [
            "-", "01", "-01", "1.", ".5", "+1", "1e", "0x10", "1.2.3", "-.5", "inf", "1_000", "--1",
        ] {
            assert_eq!(Value::from_json(text.as_bytes()), Value::Null, "{text}");
        }
    }

    #[test]
    fn escapes_are_resolved_and_wrong_ones_make_no_text() {
        let text = |json: &str| match Value::from_json(json.as_bytes()) {
            Value::Text(text) => String::from_utf8(text.into_owned()).ok(),
            _ => None,
        };
        assert_eq!(
            text(r#""a\"\\\/\n\u00e9\ud83c\udf0b""#).as_deref(),
            Some("a\"\\/\né🌋")
        );
        for wrong in [
            r#""\x""#,
            r#""\u12""#,
            r#""\ud800""#,
            r#""\ud800\u0041""#,
            r#""\udc00""#,
        ] {
            assert_eq!(text(wrong), None, "{wrong}");
        }
    }
}
