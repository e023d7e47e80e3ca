//! Finds fields in the text of a JSON value. Goes over what is not wanted without looking into it: only
//! the brackets and strings of a skipped part are followed, so a skipped part may be wrong in itself.
//! Never recurses deeper than the wanted paths.

use std::borrow::Cow;

use crate::fields::{Found, Wanted};
use crate::value::unescape;

/// The text is not JSON, as far as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotJson;

impl std::fmt::Display for NotJson {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not JSON")
    }
}

impl std::error::Error for NotJson {}

pub(crate) fn find(json: &[u8], wanted: &Wanted, found: &mut Found) -> Result<(), NotJson> {
    let mut scan = Scan { json, at: 0 };
    scan.space();
    scan.value(wanted, found)?;
    scan.space();
    match scan.at == json.len() || found.is_complete() {
        true => Ok(()),
        false => Err(NotJson),
    }
}

/// A member's name, its escapes resolved, and its value as it stands in the text.
type Member<'a> = (Cow<'a, [u8]>, &'a [u8]);

/// The members of an object, in order.
pub struct Members<'a> {
    scan: Scan<'a>,
    state: State,
}

#[derive(PartialEq)]
enum State {
    First,
    Next,
    End,
}

impl<'a> Members<'a> {
    /// Of the object that is the whole of this text.
    pub fn of(json: &'a [u8]) -> Result<Self, NotJson> {
        let mut scan = Scan { json, at: 0 };
        scan.space();
        scan.expect(b'{')?;
        Ok(Self {
            scan,
            state: State::First,
        })
    }

    fn step(&mut self) -> Result<Option<Member<'a>>, NotJson> {
        let scan = &mut self.scan;
        scan.space();
        if scan.peek() == Some(b'}') {
            scan.at += 1;
            scan.space();
            self.state = State::End;
            return if scan.at == scan.json.len() {
                Ok(None)
            } else {
                Err(NotJson)
            };
        }
        if self.state == State::Next {
            scan.expect(b',')?;
            scan.space();
        }
        self.state = State::Next;
        let name = scan.name()?;
        let begin = scan.at;
        scan.skip()?;
        let value = &scan.json[begin..scan.at];
        match name.contains(&b'\\') {
            true => Ok(Some((unescape(name).ok_or(NotJson)?.into(), value))),
            false => Ok(Some((name.into(), value))),
        }
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

struct Scan<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.peek() != Some(byte) {
            return Err(NotJson);
        }
        self.at += 1;
        Ok(())
    }

    /// Goes over a value, and notes what is wanted of it.
    fn value(&mut self, wanted: &Wanted, found: &mut Found) -> Result<(), NotJson> {
        let begin = self.at;
        if wanted.has_parts() {
            match self.peek() {
                Some(b'{') if !wanted.members.is_empty() => self.object(wanted, found)?,
                Some(b'[') if !wanted.items.is_empty() => self.array(wanted, found)?,
                _ => self.skip()?,
            }
            if found.is_complete() {
                return Ok(());
            }
        }
        match wanted.slot {
            // The parts may have been found before the end of the whole.
            Some(slot) => {
                self.at = begin;
                self.skip()?;
                found.put(slot, begin, self.at);
            }
            None if !wanted.has_parts() => self.skip()?,
            None => {}
        }
        Ok(())
    }

    fn object(&mut self, wanted: &Wanted, found: &mut Found) -> Result<(), NotJson> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let name = self.name()?;
            match member(wanted, name) {
                Some(wanted) => {
                    self.value(wanted, found)?;
                    found.close(wanted);
                }
                None => self.skip()?,
            }
            if found.is_complete() || self.is_last(b'}')? {
                return Ok(());
            }
        }
    }

    fn array(&mut self, wanted: &Wanted, found: &mut Found) -> Result<(), NotJson> {
        self.at += 1;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        for number in 0.. {
            match wanted.items.iter().find(|(item, _)| *item == number) {
                Some((_, wanted)) => self.value(wanted, found)?,
                None => self.skip()?,
            }
            if found.is_complete() || self.is_last(b']')? {
                break;
            }
        }
        Ok(())
    }

    /// After a member or an item: whether the closing bracket follows it, or another one.
    #[inline]
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
    #[inline]
    fn name(&mut self) -> Result<&'a [u8], NotJson> {
        let begin = self.at + 1;
        if self.peek() != Some(b'"') {
            return Err(NotJson);
        }
        self.string()?;
        let name = &self.json[begin..self.at - 1];
        self.space();
        self.expect(b':')?;
        self.space();
        Ok(name)
    }

    /// Goes over a value without looking at what it is.
    fn skip(&mut self) -> Result<(), NotJson> {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'{' | b'[') => self.brackets(),
            Some(b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                let rest = &self.json[self.at..];
                let is_part = |byte: &&u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'E' | b'.' | b'-' | b'+');
                self.at += rest.iter().take_while(is_part).count();
                Ok(())
            }
            _ => Err(NotJson),
        }
    }

    /// Goes over an object or array. A count, not a stack: it can't be made to overflow.
    fn brackets(&mut self) -> Result<(), NotJson> {
        let mut depth = 0_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
        Err(NotJson)
    }

    /// Goes over a string, eight bytes at a time.
    #[inline]
    fn string(&mut self) -> Result<(), NotJson> {
        self.at += 1;
        loop {
            let rest = &self.json[self.at..];
            if let Some(word) = rest.first_chunk() {
                let plain = plain_bytes(u64::from_le_bytes(*word));
                if plain == 8 {
                    self.at += 8;
                    continue;
                }
                self.at += plain;
            }
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => self.at += 2,
                Some(_) => self.at += 1,
                None => return Err(NotJson),
            }
            if self.at > self.json.len() {
                return Err(NotJson);
            }
        }
    }
}

/// How many bytes come before the first quote or backslash, 8 if there is neither.
#[inline]
fn plain_bytes(word: u64) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    // The lowest byte that is zero gets its high bit set; higher ones may be wrong.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & (ONES << 7);
    let quotes = zeros(word ^ (ONES * b'"' as u64));
    let backslashes = zeros(word ^ (ONES * b'\\' as u64));
    ((quotes | backslashes).trailing_zeros() / 8) as usize
}

#[inline]
fn member<'w>(wanted: &'w Wanted, name: &[u8]) -> Option<&'w Wanted> {
    let same = |known: &str| known.as_bytes() == name;
    if let Some((_, wanted)) = wanted.members.iter().find(|(known, _)| same(known)) {
        return Some(wanted);
    }
    if !name.contains(&b'\\') {
        return None;
    }
    let name = unescape(name)?;
    wanted
        .members
        .iter()
        .find(|(known, _)| known.as_bytes() == name)
        .map(|(_, wanted)| wanted)
}
