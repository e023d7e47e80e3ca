//! The words of an expression.

use crate::ParseError;
use crate::value::fits;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Number(Number),
    Text(String),
    /// A name as it stands, which may be a keyword, a function or a field.
    Name(String),
    /// A name in backquotes: always a field.
    Quoted(String),
    /// A name after `$`: something of the record beside its value.
    Meta(String),
    Symbol(&'static str),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Number {
    /// Of 64 bits.
    Int(i128),
    Float(f64),
}

/// Longer ones first, so that `<=` is not `<`.
const SYMBOLS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "(", ")", "[", "]",
    ",", ".",
];

/// The words, each with the byte at which it begins.
pub(crate) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ParseError> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_space();
        let begin = lexer.at;
        let token = lexer.next()?;
        let is_end = token == Token::End;
        tokens.push((begin, token));
        if is_end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        ParseError::new(self.text, self.at, message)
    }

    fn next(&mut self) -> Result<Token, ParseError> {
        let Some(first) = self.rest().chars().next() else {
            return Ok(Token::End);
        };
        match first {
            '0'..='9' => self.number(),
            '"' | '\'' => Ok(Token::Text(self.quoted(first)?)),
            '`' => Ok(Token::Quoted(self.quoted(first)?)),
            '$' => {
                self.at += 1;
                Ok(Token::Meta(self.name()))
            }
            first if first.is_alphabetic() || first == '_' => Ok(Token::Name(self.name())),
            _ => self.symbol(),
        }
    }

    fn symbol(&mut self) -> Result<Token, ParseError> {
        if let Some(symbol) = SYMBOLS
            .iter()
            .find(|symbol| self.rest().starts_with(**symbol))
        {
            self.at += symbol.len();
            return Ok(Token::Symbol(symbol));
        }
        let hint = match self.rest().as_bytes().first() {
            Some(b'=') => "`=` is no operator, `==` compares",
            Some(b'&') => "`&` is no operator, `&&` is",
            Some(b'|') => "`|` is no operator, `||` is",
            _ => {
                return Err(self.error(format!(
                    "`{}` means nothing here",
                    self.rest().chars().next().unwrap_or(' ')
                )));
            }
        };
        Err(self.error(hint))
    }

    fn name(&mut self) -> String {
        let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
        let end = self
            .rest()
            .find(|letter| !is_part(letter))
            .unwrap_or(self.rest().len());
        let name = self.rest()[..end].to_owned();
        self.at += end;
        name
    }

    fn number(&mut self) -> Result<Token, ParseError> {
        let bytes = self.rest().as_bytes();
        let digits = |from: usize| {
            bytes[from..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count()
        };
        let mut end = digits(0);
        let mut is_int = true;
        if bytes.get(end) == Some(&b'.') && digits(end + 1) > 0 {
            end += 1 + digits(end + 1);
            is_int = false;
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent = digits((end + 1 + sign).min(bytes.len()));
            if exponent > 0 {
                end += 1 + sign + exponent;
                is_int = false;
            }
        }
        let text = &self.rest()[..end];
        let int = text.parse().ok().filter(|int| is_int && fits(*int));
        let int = int.map(Number::Int);
        let float = || {
            text.parse()
                .ok()
                .filter(|float: &f64| float.is_finite())
                .map(Number::Float)
        };
        let number = int
            .or_else(float)
            .ok_or_else(|| self.error("a number that large can't be told from others"))?;
        self.at += end;
        Ok(Token::Number(number))
    }

    fn quoted(&mut self, quote: char) -> Result<String, ParseError> {
        let mut text = String::new();
        let mut letters = self.rest().char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            if letter == quote {
                self.at += at + quote.len_utf8();
                return Ok(text);
            }
            if letter != '\\' {
                text.push(letter);
                continue;
            }
            text.push(match letters.next() {
                Some((_, 'n')) => '\n',
                Some((_, 't')) => '\t',
                Some((_, 'r')) => '\r',
                Some((_, letter @ ('\\' | '"' | '\'' | '`'))) => letter,
                Some((_, letter)) => {
                    return Err(self.error(format!("`\\{letter}` stands for nothing")));
                }
                None => break,
            });
        }
        Err(self.error(format!("this {quote} is never closed")))
    }
}
