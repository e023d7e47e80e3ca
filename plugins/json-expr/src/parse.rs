//! From text to an expression. Depth and length are limited, so that no text can exhaust the stack here
//! or where the expression is evaluated.

use std::fmt;

use crate::function::Function;
use crate::path::{Path, STEPS_MAX, Step};
use crate::token::{Number, Token, tokens};
use crate::{Fields, Slot};

/// How deep brackets, signs and functions may be nested.
const DEPTH_MAX: usize = 64;
/// How long the text may be.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// A parsed expression.
#[derive(Debug)]
pub struct Expr {
    pub(crate) node: Node,
}

/// What an expression gives, as far as that can be told from the outside. Null is of every kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing but null.
    Null,
    /// True or false.
    Bool,
    /// A number.
    Number,
    /// A text.
    Text,
    /// A number or a text.
    NumberOrText,
    /// That depends on the values.
    Any,
}

impl Kind {
    /// What gives the one or the other.
    fn or(self, other: Kind) -> Kind {
        let is_plain = |kind| matches!(kind, Kind::Number | Kind::Text | Kind::NumberOrText);
        match (self, other) {
            (one, other) if one == other => one,
            (Kind::Null, kind) | (kind, Kind::Null) => kind,
            (one, other) if is_plain(one) && is_plain(other) => Kind::NumberOrText,
            _ => Kind::Any,
        }
    }
}

/// What is wrong with an expression, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// The character at which it is wrong, counted from 1.
    pub column: usize,
    message: String,
    excerpt: String,
}

/// A piece of a text around this byte: short enough for a message, with dots where it goes on.
pub fn excerpt(text: &str, at: usize) -> String {
    const BEFORE_BYTES: usize = 60;
    const AFTER_BYTES: usize = 30;
    let begin = text.ceil_char_boundary(at.min(text.len()).saturating_sub(BEFORE_BYTES));
    let end = text.floor_char_boundary(at.saturating_add(AFTER_BYTES));
    let dots = |cut| if cut { "…" } else { "" };
    format!(
        "{}{}{}",
        dots(begin > 0),
        &text[begin..end],
        dots(end < text.len())
    )
}

#[derive(Debug)]
pub(crate) enum Node {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Field(Slot),
    Meta(Meta),
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Negative(Box<Node>),
    Compare(Box<Node>, Comparison, Box<Node>),
    In(Box<Node>, Vec<Node>),
    /// From left to right.
    Arithmetic(Box<Node>, Vec<(Arithmetic, Node)>),
    If(Box<[Node; 3]>),
    Call(Function, Vec<Node>),
}

/// Something of the record beside its value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    Key,
    Offset,
    Timestamp,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Comparison {
    Is,
    IsNot,
    Less,
    LessOrIs,
    More,
    MoreOrIs,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Arithmetic {
    Plus,
    Minus,
    Times,
    Over,
    Modulo,
}

impl Expr {
    /// Parses an expression, and wants the fields that it names.
    pub fn parse(text: &str, fields: &mut Fields) -> Result<Self, ParseError> {
        let mut parser = Parser::new(text)?;
        let node = parser.any(fields)?;
        parser.end()?;
        Ok(Self { node })
    }

    /// The expression that is nothing but this field.
    pub fn field(path: &Path, fields: &mut Fields) -> Self {
        Self {
            node: Node::Field(fields.want(path)),
        }
    }

    /// What it gives.
    pub fn kind(&self) -> Kind {
        self.node.kind()
    }
}

impl Node {
    fn kind(&self) -> Kind {
        match self {
            Node::Null => Kind::Null,
            Node::Bool(_)
            | Node::All(_)
            | Node::Any(_)
            | Node::Not(_)
            | Node::Compare(..)
            | Node::In(..) => Kind::Bool,
            Node::Number(_) | Node::Negative(_) | Node::Meta(Meta::Offset | Meta::Timestamp) => {
                Kind::Number
            }
            Node::Text(_) | Node::Meta(Meta::Key) => Kind::Text,
            Node::Field(_) => Kind::Any,
            // Only two texts are joined, and only by `+`.
            Node::Arithmetic(first, rest) => match rest.first() {
                Some((Arithmetic::Plus, _)) if first.kind() != Kind::Number => Kind::NumberOrText,
                _ => Kind::Number,
            },
            Node::If(branches) => branches[1].kind().or(branches[2].kind()),
            Node::Call(Function::Coalesce, arguments) => {
                let kinds = arguments.iter().map(Node::kind);
                kinds.reduce(Kind::or).unwrap_or(Kind::Null)
            }
            Node::Call(function, _) => function.kind(),
        }
    }
}

impl ParseError {
    pub(crate) fn new(text: &str, at: usize, message: impl Into<String>) -> Self {
        let column = 1 + text.get(..at).unwrap_or(text).chars().count();
        Self {
            column,
            message: message.into(),
            excerpt: excerpt(text, at),
        }
    }

    /// The text around the place where it is wrong.
    pub fn excerpt(&self) -> &str {
        &self.excerpt
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: {}", self.column, self.message)
    }
}

impl std::error::Error for ParseError {}

pub(crate) struct Parser<'t> {
    text: &'t str,
    tokens: Vec<(usize, Token)>,
    at: usize,
    depth: usize,
}

type Parsed = Result<Node, ParseError>;

impl<'t> Parser<'t> {
    pub(crate) fn new(text: &'t str) -> Result<Self, ParseError> {
        if text.len() > TEXT_BYTES_MAX {
            let message = format!(
                "{} bytes are too many, the limit is {TEXT_BYTES_MAX}",
                text.len()
            );
            return Err(ParseError::new(
                text,
                TEXT_BYTES_MAX.min(text.len()),
                message,
            ));
        }
        Ok(Self {
            text,
            tokens: tokens(text)?,
            at: 0,
            depth: 0,
        })
    }

    fn peek(&self) -> &Token {
        // The last token is the end, and nothing goes past it.
        &self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn error(&self, message: impl Into<String>) -> ParseError {
        let at = self.tokens[self.at.min(self.tokens.len() - 1)].0;
        ParseError::new(self.text, at, message)
    }

    pub(crate) fn take(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(found) if *found == symbol);
        self.at += usize::from(found);
        found
    }

    /// The first of these symbols that is next, with what it stands for.
    fn take_one<T: Copy>(&mut self, symbols: &[(&str, T)]) -> Option<T> {
        symbols
            .iter()
            .find_map(|(symbol, meaning)| self.take(symbol).then_some(*meaning))
    }

    fn expect(&mut self, symbol: &str) -> Result<(), ParseError> {
        if self.take(symbol) {
            Ok(())
        } else {
            Err(self.error(format!("`{symbol}` is missing")))
        }
    }

    pub(crate) fn end(&self) -> Result<(), ParseError> {
        match self.peek() {
            Token::End => Ok(()),
            Token::Symbol("<" | "<=" | ">" | ">=" | "==" | "!=") => {
                Err(self.error("comparisons can't be chained; join two of them with `&&`"))
            }
            _ => Err(self.error("nothing was expected after this; is an operator missing?")),
        }
    }

    /// Guards everything that recurses.
    fn deeper(&mut self, parse: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        if self.depth == DEPTH_MAX {
            return Err(self.error(format!("nested more than {DEPTH_MAX} deep")));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    pub(crate) fn any(&mut self, fields: &mut Fields) -> Parsed {
        let first = self.all(fields)?;
        let mut nodes = vec![first];
        while self.take("||") {
            nodes.push(self.all(fields)?);
        }
        Ok(single(nodes, Node::Any))
    }

    fn all(&mut self, fields: &mut Fields) -> Parsed {
        let first = self.comparison(fields)?;
        let mut nodes = vec![first];
        while self.take("&&") {
            nodes.push(self.comparison(fields)?);
        }
        Ok(single(nodes, Node::All))
    }

    fn comparison(&mut self, fields: &mut Fields) -> Parsed {
        const COMPARISONS: &[(&str, Comparison)] = &[
            ("==", Comparison::Is),
            ("!=", Comparison::IsNot),
            ("<", Comparison::Less),
            ("<=", Comparison::LessOrIs),
            (">", Comparison::More),
            (">=", Comparison::MoreOrIs),
        ];
        let left = self.sum(fields)?;
        if let Some(comparison) = self.take_one(COMPARISONS) {
            let right = self.sum(fields)?;
            return Ok(Node::Compare(Box::new(left), comparison, Box::new(right)));
        }
        if matches!(self.peek(), Token::Name(name) if name == "in") {
            self.at += 1;
            self.expect("[")?;
            return Ok(Node::In(Box::new(left), self.list("]", fields)?));
        }
        Ok(left)
    }

    fn sum(&mut self, fields: &mut Fields) -> Parsed {
        const OPERATORS: &[(&str, Arithmetic)] =
            &[("+", Arithmetic::Plus), ("-", Arithmetic::Minus)];
        let first = self.product(fields)?;
        self.arithmetic(first, OPERATORS, |parser| parser.product(fields))
    }

    fn product(&mut self, fields: &mut Fields) -> Parsed {
        const OPERATORS: &[(&str, Arithmetic)] = &[
            ("*", Arithmetic::Times),
            ("/", Arithmetic::Over),
            ("%", Arithmetic::Modulo),
        ];
        let first = self.unary(fields)?;
        self.arithmetic(first, OPERATORS, |parser| parser.unary(fields))
    }

    fn arithmetic(
        &mut self,
        first: Node,
        operators: &[(&str, Arithmetic)],
        mut operand: impl FnMut(&mut Self) -> Parsed,
    ) -> Parsed {
        let mut rest = Vec::new();
        while let Some(operator) = self.take_one(operators) {
            rest.push((operator, operand(self)?));
        }
        Ok(if rest.is_empty() {
            first
        } else {
            Node::Arithmetic(Box::new(first), rest)
        })
    }

    fn unary(&mut self, fields: &mut Fields) -> Parsed {
        if self.take("!") {
            return Ok(Node::Not(Box::new(
                self.deeper(|parser| parser.unary(fields))?,
            )));
        }
        if self.take("-") {
            return Ok(Node::Negative(Box::new(
                self.deeper(|parser| parser.unary(fields))?,
            )));
        }
        self.deeper(|parser| parser.primary(fields))
    }

    fn primary(&mut self, fields: &mut Fields) -> Parsed {
        if self.take("(") {
            let inner = self.any(fields)?;
            self.expect(")")?;
            return Ok(inner);
        }
        let node = match self.peek() {
            Token::Number(number) => Node::Number(*number),
            Token::Text(text) => Node::Text(text.clone()),
            Token::Meta(name) => match name.as_str() {
                "key" => Node::Meta(Meta::Key),
                "offset" => Node::Meta(Meta::Offset),
                "timestamp" => Node::Meta(Meta::Timestamp),
                other => {
                    let message = format!(
                        "there is no `${other}`; there are `$key`, `$offset` and `$timestamp`"
                    );
                    return Err(self.error(message));
                }
            },
            Token::Name(name) => match name.as_str() {
                "true" => Node::Bool(true),
                "false" => Node::Bool(false),
                "null" => Node::Null,
                "in" => return Err(self.error("`in` has nothing before it")),
                _ => return self.field_or_call(fields),
            },
            Token::Quoted(_) => return Ok(Node::Field(fields.want(&self.path()?))),
            Token::Symbol(symbol) => {
                return Err(self.error(format!("a value was expected, not `{symbol}`")));
            }
            Token::End => return Err(self.error("a value is missing at the end")),
        };
        self.at += 1;
        Ok(node)
    }

    fn field_or_call(&mut self, fields: &mut Fields) -> Parsed {
        let is_call = matches!(self.tokens.get(self.at + 1), Some((_, Token::Symbol("("))));
        let Token::Name(name) = self.peek().clone() else {
            unreachable!("only called for a name")
        };
        if !is_call {
            return Ok(Node::Field(fields.want(&self.path()?)));
        }
        let begin = self.at;
        let function = Function::named(&name);
        if function.is_none() && name != "if" {
            let message = format!(
                "there is no function `{name}`; there are if, {}",
                Function::names()
            );
            return Err(self.error(message));
        }
        self.at += 2;
        let arguments = self.list(")", fields)?;
        let misused = |parser: &mut Self, message| {
            parser.at = begin;
            Err(parser.error(message))
        };
        match function {
            Some(function) => match function.refuse_count(arguments.len()) {
                Some(message) => misused(self, message),
                None => Ok(Node::Call(function, arguments)),
            },
            None => match <[Node; 3]>::try_from(arguments) {
                Ok(branches) => Ok(Node::If(Box::new(branches))),
                Err(other) => misused(self, format!("`if` takes 3, and here are {}", other.len())),
            },
        }
    }

    /// Expressions with commas between them, up to the closing bracket.
    fn list(&mut self, close: &str, fields: &mut Fields) -> Result<Vec<Node>, ParseError> {
        let mut nodes = Vec::new();
        if self.take(close) {
            return Ok(nodes);
        }
        loop {
            nodes.push(self.deeper(|parser| parser.any(fields))?);
            if self.take(close) {
                return Ok(nodes);
            }
            if !self.take(",") {
                return Err(self.error(format!("`,` or `{close}` is missing")));
            }
        }
    }

    pub(crate) fn path(&mut self) -> Result<Path, ParseError> {
        let mut steps = vec![Step::Member(self.member()?)];
        loop {
            if self.take(".") {
                steps.push(Step::Member(self.member()?));
            } else if self.take("[") {
                steps.push(self.bracketed()?);
                self.expect("]")?;
            } else {
                return Ok(Path { steps });
            }
            if steps.len() > STEPS_MAX {
                return Err(self.error(format!("a path has {STEPS_MAX} steps at most")));
            }
        }
    }

    fn member(&mut self) -> Result<String, ParseError> {
        match self.peek() {
            Token::Name(name) | Token::Quoted(name) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => Err(self.error("the name of a field is missing")),
        }
    }

    pub(crate) fn name_after_as(&mut self) -> Result<Option<String>, ParseError> {
        if !matches!(self.peek(), Token::Name(name) if name == "as") {
            return Ok(None);
        }
        self.at += 1;
        self.member().map(Some)
    }

    fn bracketed(&mut self) -> Result<Step, ParseError> {
        let step = match self.peek() {
            Token::Text(name) => Step::Member(name.clone()),
            Token::Number(Number::Int(number)) if u32::try_from(*number).is_ok() => {
                Step::Item(*number as u32)
            }
            _ => {
                return Err(
                    self.error("the number of an item or the name of a field in quotes is missing")
                );
            }
        };
        self.at += 1;
        Ok(step)
    }
}

fn single(mut nodes: Vec<Node>, join: impl FnOnce(Vec<Node>) -> Node) -> Node {
    match nodes.len() {
        1 => nodes.remove(0),
        _ => join(nodes),
    }
}
