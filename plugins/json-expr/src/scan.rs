//! Reads the text of a JSON value: checks that it is JSON from its first byte to its last, and notes
//! where the wanted fields are. Builds nothing. Never recurses deeper than the wanted paths.
//!
//! JSON is what RFC 8259 says, in UTF-8, and so what `JSON.parse` takes: numbers may be of any size, and
//! the `\u` escapes of a text need not make pairs.

use std::borrow::Cow;

use crate::fields::{Found, Wanted};
use crate::value::unescape;

/// The text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson;

impl std::fmt::Display for NotJson {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not JSON")
    }
}

impl std::error::Error for NotJson {}

pub(crate) fn find(json: &[u8], wanted: &Wanted, found: &mut Found) -> Result<(), NotJson> {
    Scan::new(json).value(wanted, found)?.end()
}

/// A member of an object.
#[derive(Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its name, the escapes resolved; nothing if they make no text (see the README).
    pub name: Option<Cow<'a, [u8]>>,
    /// Its name as it stands in the text, with the quotes.
    pub written: &'a [u8],
    /// Its value as it stands in the text.
    pub value: &'a [u8],
}

/// The members of an object, in order; the last of several that have one name is the one that counts.
#[derive(Debug)]
pub struct Members<'a> {
    scan: Scan<'a>,
    state: State,
}

#[derive(Debug, PartialEq)]
enum State {
    First,
    Next,
    End,
}

impl<'a> Members<'a> {
    /// Of the object that is the whole of this text.
    pub fn of(json: &'a [u8]) -> Result<Self, NotJson> {
        let mut scan = Scan::new(json);
        scan.expect(b'{')?;
        Ok(Self {
            scan,
            state: State::First,
        })
    }

    fn step(&mut self) -> Result<Option<Member<'a>>, NotJson> {
        let scan = &mut self.scan;
        let is_end = match self.state {
            State::First => scan.is_empty(b'}'),
            _ => scan.is_last(b'}')?,
        };
        if is_end {
            self.state = State::End;
            return scan.end().map(|()| None);
        }
        self.state = State::Next;
        let quote = scan.at;
        let name = scan.name()?;
        let begin = scan.at;
        scan.skip()?;
        Ok(Some(Member {
            name: name.plain(),
            written: &scan.json[quote..quote + name.written.len() + 2],
            value: &scan.json[begin..scan.at],
        }))
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = Result<Member<'a>, NotJson>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.state == State::End {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.state = State::End;
        }
        step.transpose()
    }
}

/// A member's name as it stands in the text, without the quotes.
struct Name<'a> {
    written: &'a [u8],
    has_escapes: bool,
}

impl<'a> Name<'a> {
    /// Without its escapes, if it makes a text.
    fn plain(&self) -> Option<Cow<'a, [u8]>> {
        match self.has_escapes {
            true => unescape(self.written).map(Cow::Owned),
            false => Some(Cow::Borrowed(self.written)),
        }
    }
}

/// Where the reading is. It stays in registers, which is worth a third of the time: what is called for every
/// member is inlined, and everything else takes and gives it by value.
#[derive(Debug, Clone, Copy)]
struct Scan<'a> {
    json: &'a [u8],
    at: usize,
    /// All bytes of strings seen so far, one over the other: the high bits tell whether any of them was
    /// not ASCII.
    seen: u64,
}

const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGH_BITS: u64 = ONES << 7;

impl<'a> Scan<'a> {
    /// At the beginning of the value.
    fn new(json: &'a [u8]) -> Self {
        let mut scan = Self {
            json,
            at: 0,
            seen: 0,
        };
        scan.space();
        scan
    }

    /// Behind the value: whether nothing else follows, and all texts were UTF-8.
    fn end(mut self) -> Result<(), NotJson> {
        self.space();
        let is_text = || self.seen & HIGH_BITS == 0 || str::from_utf8(self.json).is_ok();
        match self.at == self.json.len() && is_text() {
            true => Ok(()),
            false => Err(NotJson),
        }
    }

    #[inline(always)]
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    #[inline(always)]
    fn space(&mut self) {
        while let Some(byte) = self.peek()
            // Nearly always there is none: one comparison tells.
            && byte <= b' '
            && matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
        {
            self.at += 1;
        }
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.peek() != Some(byte) {
            return Err(NotJson);
        }
        self.at += 1;
        Ok(())
    }

    /// Goes over a value, and notes what is wanted of it.
    fn value(mut self, wanted: &Wanted, found: &mut Found) -> Result<Self, NotJson> {
        let begin = self.at;
        match self.peek() {
            Some(b'{') if !wanted.members.is_empty() => self = self.object(wanted, found)?,
            Some(b'[') if !wanted.items.is_empty() => self = self.array(wanted, found)?,
            _ => self.skip()?,
        }
        if let Some(slot) = wanted.slot {
            found.put(slot, begin, self.at);
        }
        Ok(self)
    }

    fn object(mut self, wanted: &Wanted, found: &mut Found) -> Result<Self, NotJson> {
        self.at += 1;
        if self.is_empty(b'}') {
            return Ok(self);
        }
        loop {
            let name = self.name()?;
            let begin = self.at;
            match member(wanted, &name) {
                Some(wanted) if wanted.has_parts() => {
                    found.forget_parts(wanted);
                    self = self.value(wanted, found)?;
                }
                member => {
                    self.skip()?;
                    if let Some(slot) = member.and_then(|wanted| wanted.slot) {
                        found.put(slot, begin, self.at);
                    }
                }
            }
            if self.is_last(b'}')? {
                return Ok(self);
            }
        }
    }

    fn array(mut self, wanted: &Wanted, found: &mut Found) -> Result<Self, NotJson> {
        self.at += 1;
        if self.is_empty(b']') {
            return Ok(self);
        }
        let mut number = 0;
        loop {
            match wanted.items.iter().find(|(item, _)| *item == number) {
                Some((_, wanted)) => self = self.value(wanted, found)?,
                None => self.skip()?,
            }
            if self.is_last(b']')? {
                return Ok(self);
            }
            number = number.saturating_add(1);
        }
    }

    /// After an opening bracket: whether the closing one follows. If not, at the first member or item.
    #[inline(always)]
    fn is_empty(&mut self, close: u8) -> bool {
        self.space();
        let is_empty = self.peek() == Some(close);
        self.at += usize::from(is_empty);
        is_empty
    }

    /// After a member or an item: whether the closing bracket follows it. If not, at the next one.
    #[inline(always)]
    fn is_last(&mut self, close: u8) -> Result<bool, NotJson> {
        self.space();
        let next = self.peek().ok_or(NotJson)?;
        self.at += 1;
        if next == close {
            return Ok(true);
        }
        self.space();
        if next == b',' {
            Ok(false)
        } else {
            Err(NotJson)
        }
    }

    /// A member's name, up to the beginning of its value.
    #[inline(always)]
    fn name(&mut self) -> Result<Name<'a>, NotJson> {
        let begin = self.at + 1;
        if self.peek() != Some(b'"') {
            return Err(NotJson);
        }
        let has_escapes = self.string()?;
        let written = &self.json[begin..self.at - 1];
        self.space();
        self.expect(b':')?;
        self.space();
        Ok(Name {
            written,
            has_escapes,
        })
    }

    /// Goes over a value of which nothing is wanted.
    #[inline(always)]
    fn skip(&mut self) -> Result<(), NotJson> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b'{' | b'[') => {
                *self = self.nested()?;
                Ok(())
            }
            _ => self.scalar(),
        }
    }

    /// Goes over an object or array.
    fn nested(mut self) -> Result<Self, NotJson> {
        let mut open = Open::default();
        loop {
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    if !self.is_empty(b'}') {
                        open.push(Bracket::Object);
                        self.name()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    if !self.is_empty(b']') {
                        open.push(Bracket::Array);
                        continue;
                    }
                }
                Some(b'"') => drop(self.string()?),
                _ => self.scalar()?,
            }
            loop {
                let is_last = match open.innermost() {
                    None => return Ok(self),
                    Some(Bracket::Object) => self.is_last(b'}')?,
                    Some(Bracket::Array) => self.is_last(b']')?,
                };
                if !is_last {
                    break;
                }
                open.pop();
            }
            if let Some(Bracket::Object) = open.innermost() {
                self.name()?;
            }
        }
    }

    /// Goes over a number, or one of the three words.
    #[inline(always)]
    fn scalar(&mut self) -> Result<(), NotJson> {
        let word: &[u8] = match self.peek() {
            Some(b'-' | b'0'..=b'9') => return self.number(),
            Some(b't') => b"true",
            Some(b'f') => b"false",
            _ => b"null",
        };
        if !self.json[self.at..].starts_with(word) {
            return Err(NotJson);
        }
        self.at += word.len();
        Ok(())
    }

    /// `-? (0 | 1-9 digits) (. digits)? (e ±? digits)?`
    #[inline(always)]
    fn number(&mut self) -> Result<(), NotJson> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            // A digit behind it is no part of the number, and nothing that may follow one.
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn digits(&mut self) -> Result<(), NotJson> {
        let begin = self.at;
        while let Some(word) = self.word() {
            let count = digit_bytes(word);
            self.at += count;
            if count < 8 {
                break;
            }
        }
        // Near the end.
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        match self.at > begin {
            true => Ok(()),
            false => Err(NotJson),
        }
    }

    /// The next eight bytes, unless the end is nearer.
    #[inline(always)]
    fn word(&self) -> Option<u64> {
        let bytes = self.json.get(self.at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    }

    /// Goes over a string, eight bytes at a time; whether it has escapes.
    #[inline(always)]
    fn string(&mut self) -> Result<bool, NotJson> {
        self.at += 1;
        let mut has_escapes = false;
        loop {
            if let Some(word) = self.word() {
                self.seen |= word;
                let plain = plain_bytes(word);
                self.at += plain;
                if plain == 8 {
                    continue;
                }
            }
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(has_escapes);
                }
                Some(b'\\') => {
                    has_escapes = true;
                    self.at = self.escape()?;
                }
                Some(byte) if byte >= b' ' => {
                    self.seen |= u64::from(byte);
                    self.at += 1;
                }
                _ => return Err(NotJson),
            }
        }
    }

    /// Where an escape ends.
    fn escape(self) -> Result<usize, NotJson> {
        let escape = self.json.get(self.at + 1).ok_or(NotJson)?;
        let length = match escape {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => 2,
            b'u' => {
                let digits = self.json.get(self.at + 2..self.at + 6).ok_or(NotJson)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(NotJson);
                }
                6
            }
            _ => return Err(NotJson),
        };
        Ok(self.at + length)
    }
}

/// How many bytes come before the first that can't just be passed over: a quote, a backslash, or a control
/// character. 8 if there is none.
#[inline]
fn plain_bytes(word: u64) -> usize {
    // The lowest byte below `limit` gets its high bit set; higher ones may be wrong.
    let below =
        |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH_BITS;
    let quotes = below(word ^ (ONES * u64::from(b'"')), 1);
    let backslashes = below(word ^ (ONES * u64::from(b'\\')), 1);
    let controls = below(word, b' ');
    ((quotes | backslashes | controls).trailing_zeros() / 8) as usize
}

/// How many digits come before the first other byte.
#[inline]
fn digit_bytes(word: u64) -> usize {
    // A digit becomes 0 to 9 and stays below 0x80 with 0x76 added; a carry changes higher bytes only.
    let values = word ^ (ONES * u64::from(b'0'));
    let others = (values.wrapping_add(ONES * 0x76) | values) & HIGH_BITS;
    (others.trailing_zeros() / 8) as usize
}

#[inline]
fn member<'w>(wanted: &'w Wanted, name: &Name<'_>) -> Option<&'w Wanted> {
    let called = |name: &[u8]| {
        // Most differ in their length or in the first byte, which is no reason to call `memcmp`.
        let same = |known: &[u8]| {
            known.len() == name.len() && known.iter().zip(name).all(|(known, byte)| known == byte)
        };
        let mut members = wanted.members.iter();
        let member = members.find(|(known, _)| same(known.as_bytes()))?;
        Some(&member.1)
    };
    match name.has_escapes {
        true => called(&name.plain()?),
        false => called(name.written),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bracket {
    Array,
    Object,
}

/// The brackets that are open, a bit for each: a value can be nested so deep that a stack of calls would
/// overflow. Up to 64 of them take no memory beside it.
#[derive(Debug, Default)]
struct Open {
    depth: usize,
    /// The innermost is the lowest bit.
    inner: u64,
    outer: Vec<u64>,
}

impl Open {
    fn push(&mut self, bracket: Bracket) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.inner);
        }
        self.inner = self.inner << 1 | u64::from(bracket == Bracket::Object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.inner >>= 1;
        if self.depth.is_multiple_of(64) {
            self.inner = self.outer.pop().unwrap_or_default();
        }
    }

    fn innermost(&self) -> Option<Bracket> {
        match (self.depth, self.inner & 1) {
            (0, _) => None,
            (_, 0) => Some(Bracket::Array),
            _ => Some(Bracket::Object),
        }
    }
}
