//! Values as JSON, and as the plain text that keys are made of.

use std::io::Write as _;

use crate::Value;

impl Value<'_> {
    /// Appends the value as JSON.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => out.extend_from_slice(b"null"),
            Self::Text(text) => write_string(text, out),
            _ => self.write_plain(out),
        }
    }

    /// Appends the value as text: as in JSON, but a text without quotes, and null as nothing.
    pub fn write_plain(&self, out: &mut Vec<u8>) {
        match self {
            Self::Null => {}
            Self::Bool(bool) => out.extend_from_slice(if *bool { b"true" } else { b"false" }),
            Self::Int(int) => match i64::try_from(*int) {
                // Much the faster of the two.
                Ok(int) => write_to(out, format_args!("{int}")),
                Err(_) => write_to(out, format_args!("{int}")),
            },
            Self::Float(float) => write_float(*float, out),
            Self::Text(text) => out.extend_from_slice(text),
            Self::Json(json) => out.extend_from_slice(json),
        }
    }
}

/// The shortest digits that read back as the same number; with an exponent where it would be long.
fn write_float(float: f64, out: &mut Vec<u8>) {
    match float == 0.0 || (1e-6..1e16).contains(&float.abs()) {
        true => write_to(out, format_args!("{float}")),
        false => write_to(out, format_args!("{float:e}")),
    }
}

fn write_to(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a Vec takes everything");
}

/// Appends a text as a JSON string. What is not UTF-8 in it becomes U+FFFD.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        chunk.valid().bytes().for_each(|byte| write_byte(byte, out));
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

fn write_byte(byte: u8, out: &mut Vec<u8>) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0..0x20 => write_to(out, format_args!("\\u{byte:04x}")),
        _ => out.push(byte),
    }
}
