//! Looks an artefact through before the compiler sees it, and refuses what need not be compiled to be
//! refused: what is no component, and what is made to keep a compiler busy. A compiler can't be
//! interrupted, so its time has to be bounded by what it is given.

use wasmparser::{BinaryReaderError, Encoding, FunctionBody, Operator, Parser, Payload};

use super::{Config, PluginError};

/// The most bytes that one function may have. Compilers write functions of a few hundred kilobytes at
/// the very worst (the main loop of an interpreter).
const FUNCTION_BYTES_MAX: usize = 512 << 10;

/// The most functions that an artefact may have. Measured: 90,000 of a few bytes each took 29 s and 0.8 GB.
const FUNCTIONS_MAX: u32 = 30_000;

/// Where a loop begins, the compiler joins what each local was before it with what it is at its end. So
/// many of these joins, locals times nested loops, may a function have. Measured: 64,000 took 0.2 s,
/// 640,000 (out of 93 KB) took 9 s; a function of real programs has hundreds.
const JOINS_PER_FUNCTION_MAX: u64 = 100_000;
/// And so many all functions together.
const JOINS_MAX: u64 = 5_000_000;

/// Refuses what need not be compiled to be refused.
pub(super) fn inspect(wasm: &[u8], config: &Config) -> Result<(), PluginError> {
    let limit = config.plugin_bytes_max;
    if wasm.len() > limit {
        return Err(PluginError::TooLarge {
            bytes: wasm.len(),
            limit,
        });
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(refused(not_wasm(wasm)));
    }
    let mut seen = Seen::default();
    for payload in Parser::new(0).parse_all(wasm) {
        seen.payload(&payload.map_err(|error| malformed(&error))?, config)?;
    }
    Ok(())
}

/// What has been counted of an artefact.
#[derive(Default)]
struct Seen {
    functions: u32,
    joins: u64,
}

impl Seen {
    fn payload(&mut self, payload: &Payload<'_>, config: &Config) -> Result<(), PluginError> {
        match payload {
            Payload::Version {
                encoding: Encoding::Module,
                range,
                ..
            } if range.start == 0 => Err(refused(CORE_MODULE)),
            Payload::CodeSectionStart { count, .. } => {
                self.functions = self.functions.saturating_add(*count);
                at_most("functions", self.functions.into(), FUNCTIONS_MAX.into())
            }
            Payload::CodeSectionEntry(body) => self.function(body),
            Payload::MemorySection(memories) => {
                for memory in memories.clone() {
                    let memory = memory.map_err(|error| malformed(&error))?;
                    let page_bytes = 1 << memory.page_size_log2.unwrap_or(16).min(16);
                    if memory.initial.saturating_mul(page_bytes) > config.memory_bytes_max as u64 {
                        return Err(PluginError::OutOfMemory(config.memory_bytes_max));
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn function(&mut self, body: &FunctionBody<'_>) -> Result<(), PluginError> {
        at_most(
            "bytes in a function",
            body.range().len() as u64,
            FUNCTION_BYTES_MAX as u64,
        )?;
        let joins = joins(body).map_err(|error| malformed(&error))?;
        at_most(
            "joins (locals times nested loops) in a function",
            joins,
            JOINS_PER_FUNCTION_MAX,
        )?;
        self.joins = self.joins.saturating_add(joins);
        at_most("joins (locals times nested loops)", self.joins, JOINS_MAX)
    }
}

/// The locals of a function times the depth to which its loops are nested.
fn joins(body: &FunctionBody<'_>) -> wasmparser::Result<u64> {
    let mut locals = 0_u64;
    for group in body.get_locals_reader()? {
        locals = locals.saturating_add(group?.0.into());
    }
    // For each open block, whether it is a loop.
    let mut open = Vec::new();
    let (mut depth, mut deepest) = (0_u64, 0);
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        match operators.read()? {
            Operator::Loop { .. } => {
                open.push(true);
                depth += 1;
                deepest = deepest.max(depth);
            }
            Operator::Block { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                open.push(false);
            }
            Operator::End => depth -= u64::from(open.pop().unwrap_or(false)),
            _ => {}
        }
    }
    Ok(locals.saturating_mul(deepest))
}

fn at_most(what: &str, count: u64, limit: u64) -> Result<(), PluginError> {
    match count > limit {
        true => Err(refused(format!(
            "it has {count} {what}, the limit is {limit}"
        ))),
        false => Ok(()),
    }
}

fn malformed(error: &BinaryReaderError) -> PluginError {
    PluginError::NotAComponent(error.to_string())
}

fn refused(words: impl Into<String>) -> PluginError {
    PluginError::NotAComponent(words.into())
}

const CORE_MODULE: &str = "a core WebAssembly module, not a component; build it with \
    `--target wasm32-wasip2`, or turn it into a component with `wasm-tools component new`";

fn not_wasm(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "it is empty".into();
    }
    if bytes.starts_with(b"(module") || bytes.starts_with(b"(component") {
        return "WebAssembly as text; turn it into a binary first".into();
    }
    let begin = bytes[..bytes.len().min(8)].escape_ascii();
    format!("not WebAssembly: it begins with `{begin}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is_refused(bytes: &[u8], expected: &str) {
        let error = inspect(bytes, &Config::default())
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "{error}");
    }

    fn component(module: &str) -> Vec<u8> {
        wat::parse_str(format!("(component (core module {module}))")).unwrap()
    }

    #[test]
    fn what_is_no_component_is_refused_with_a_hint() {
        is_refused(b"", "it is empty");
        is_refused(b"PK\x03\x04rest", "it begins with `PK\\x03\\x04rest`");
        is_refused(b"(module)", "turn it into a binary first");
        is_refused(
            &wat::parse_str("(module)").unwrap(),
            "--target wasm32-wasip2",
        );
        is_refused(b"\0asm\x0d\0\x01\0\x07junk", "not a plugin");
    }

    #[test]
    fn functions_that_would_keep_the_compiler_busy_are_refused() {
        let nops = "nop ".repeat(FUNCTION_BYTES_MAX);
        is_refused(&component(&format!("(func {nops})")), "bytes in a function");
        let functions = "(func)".repeat(30_001);
        is_refused(
            &component(&functions),
            "it has 30001 functions, the limit is 30000",
        );
    }

    #[test]
    fn loops_in_loops_around_many_locals_are_refused() {
        let function = |loops: usize, locals: usize| {
            let (open, close) = ("(loop ".repeat(loops), ")".repeat(loops));
            format!("(func (local {}) {open}{close})", "i32 ".repeat(locals))
        };
        is_refused(&component(&function(101, 1000)), "it has 101000 joins");
        let modest = function(100, 1000);
        assert_eq!(inspect(&component(&modest), &Config::default()), Ok(()));
        is_refused(&component(&modest.repeat(51)), "it has 5100000 joins");
        // One after the other they are not nested.
        let row = "(loop)".repeat(1000);
        let flat = format!("(func (local {}) {row})", "i32 ".repeat(1000));
        assert_eq!(inspect(&component(&flat), &Config::default()), Ok(()));
    }

    #[test]
    fn a_memory_larger_than_the_limit_is_refused_before_anything_runs() {
        let error = inspect(&component("(memory 2000)"), &Config::default()).unwrap_err();
        assert_eq!(error, PluginError::OutOfMemory(64 << 20));
    }
}
