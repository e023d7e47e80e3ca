//! Looks an artefact through before the compiler sees it, and refuses what need not be compiled to be
//! refused: what is no component, and what is made to keep a compiler busy. A compiler can't be
//! interrupted, so its time has to be bounded by what it is given.

use wasmparser::{
    BinaryReaderError, BlockType, Encoding, FunctionBody, Operator, Parser, Payload, TypeRef,
};

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

/// A call, a block and a branch take and give operands, of which the compiler keeps track one by one; two
/// bytes are enough for a call of a thousand. Beyond these few, which nearly all keep to, they are counted.
const OPERANDS_UNCOUNTED: u64 = 8;
/// So many may a function have. Measured on a busy machine: 49,000 (out of 3 KB) took 2 s, 290,000 took
/// 12 s; real programs have hundreds.
const OPERANDS_PER_FUNCTION_MAX: u64 = 50_000;
/// And so many all functions together. Measured on a busy machine: 980,000 (out of 24 KB) took 30 s.
const OPERANDS_MAX: u64 = 1_000_000;

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
    operands: u64,
    module: Module,
}

/// What the module that is being read says of its functions.
#[derive(Default)]
struct Module {
    types: Vec<Arity>,
    /// The type of each function, the imported ones first.
    functions: Vec<u32>,
    /// How many of those have been looked at, the imported ones among them.
    read: usize,
}

/// How many operands something takes and gives. What the artefact does not define has none: the compiler
/// will refuse it.
#[derive(Debug, Clone, Copy, Default)]
struct Arity {
    params: u32,
    results: u32,
}

impl Arity {
    fn both(self) -> u64 {
        u64::from(self.params) + u64::from(self.results)
    }
}

impl Module {
    fn of_type(&self, index: u32) -> Arity {
        self.types.get(index as usize).copied().unwrap_or_default()
    }

    fn of_function(&self, index: u32) -> Arity {
        let index = self.functions.get(index as usize);
        index.map_or_else(Arity::default, |index| self.of_type(*index))
    }

    fn of_block(&self, block: BlockType) -> Arity {
        match block {
            BlockType::Empty => Arity::default(),
            BlockType::Type(_) => Arity {
                params: 0,
                results: 1,
            },
            BlockType::FuncType(index) => self.of_type(index),
        }
    }
}

impl Seen {
    fn payload(&mut self, payload: &Payload<'_>, config: &Config) -> Result<(), PluginError> {
        match payload {
            Payload::Version {
                encoding: Encoding::Module,
                range,
                ..
            } if range.start == 0 => Err(refused(CORE_MODULE)),
            Payload::Version { .. } => {
                self.module = Module::default();
                Ok(())
            }
            Payload::TypeSection(types) => {
                for kind in types.clone().into_iter_err_on_gc_types() {
                    let kind = kind.map_err(|error| malformed(&error))?;
                    let count = |types: &[_]| u32::try_from(types.len()).unwrap_or(u32::MAX);
                    self.module.types.push(Arity {
                        params: count(kind.params()),
                        results: count(kind.results()),
                    });
                }
                Ok(())
            }
            Payload::ImportSection(imports) => {
                for import in imports.clone().into_imports() {
                    let import = import.map_err(|error| malformed(&error))?;
                    if let TypeRef::Func(index) | TypeRef::FuncExact(index) = import.ty {
                        self.module.functions.push(index);
                    }
                }
                self.module.read = self.module.functions.len();
                Ok(())
            }
            Payload::FunctionSection(functions) => {
                for index in functions.clone() {
                    let index = index.map_err(|error| malformed(&error))?;
                    self.module.functions.push(index);
                }
                Ok(())
            }
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
        let own = self.module.of_function(self.module.read as u32);
        self.module.read += 1;
        let work = work(body, own, &self.module).map_err(|error| malformed(&error))?;
        at_most(
            "joins (locals times nested loops) in a function",
            work.joins,
            JOINS_PER_FUNCTION_MAX,
        )?;
        at_most(
            "operands of calls, blocks and branches in a function",
            work.operands,
            OPERANDS_PER_FUNCTION_MAX,
        )?;
        self.joins = self.joins.saturating_add(work.joins);
        at_most("joins (locals times nested loops)", self.joins, JOINS_MAX)?;
        self.operands = self.operands.saturating_add(work.operands);
        at_most(
            "operands of calls, blocks and branches",
            self.operands,
            OPERANDS_MAX,
        )
    }
}

/// What a function makes the compiler do beside what its bytes do.
struct Work {
    /// The locals times the depth to which loops are nested.
    joins: u64,
    /// What all calls, blocks and branches take and give.
    operands: u64,
}

/// A block that is open.
struct Block {
    is_loop: bool,
    /// What a branch to it takes along.
    branch: u64,
}

fn work(body: &FunctionBody<'_>, own: Arity, module: &Module) -> wasmparser::Result<Work> {
    let mut locals = u64::from(own.params);
    for group in body.get_locals_reader()? {
        locals = locals.saturating_add(group?.0.into());
    }
    let mut open = vec![Block {
        is_loop: false,
        branch: own.results.into(),
    }];
    let (mut depth, mut deepest, mut operands) = (0_u64, 0, 0_u64);
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        let operator = operators.read()?;
        let branch = |depth: u32| {
            let at = open.len().checked_sub(1 + depth as usize);
            at.map_or(0, |at| open[at].branch)
        };
        let taken = match &operator {
            Operator::Loop { blockty } | Operator::Block { blockty } | Operator::If { blockty } => {
                module.of_block(*blockty).both()
            }
            Operator::TryTable { try_table } => module.of_block(try_table.ty).both(),
            Operator::Call { function_index } | Operator::ReturnCall { function_index } => {
                module.of_function(*function_index).both()
            }
            Operator::CallIndirect { type_index, .. }
            | Operator::ReturnCallIndirect { type_index, .. }
            | Operator::CallRef { type_index }
            | Operator::ReturnCallRef { type_index } => module.of_type(*type_index).both(),
            Operator::Br { relative_depth } | Operator::BrIf { relative_depth } => {
                branch(*relative_depth)
            }
            Operator::BrTable { targets } => {
                let mut taken = branch(targets.default());
                for target in targets.targets() {
                    let counted = branch(target?).saturating_sub(OPERANDS_UNCOUNTED);
                    taken = taken.saturating_add(counted);
                }
                taken
            }
            Operator::Return => own.results.into(),
            _ => 0,
        };
        operands = operands.saturating_add(taken.saturating_sub(OPERANDS_UNCOUNTED));
        match &operator {
            Operator::Loop { blockty } => {
                open.push(Block {
                    is_loop: true,
                    branch: module.of_block(*blockty).params.into(),
                });
                depth += 1;
                deepest = deepest.max(depth);
            }
            Operator::Block { blockty } | Operator::If { blockty } => open.push(Block {
                is_loop: false,
                branch: module.of_block(*blockty).results.into(),
            }),
            Operator::TryTable { try_table } => open.push(Block {
                is_loop: false,
                branch: module.of_block(try_table.ty).results.into(),
            }),
            Operator::End => depth -= u64::from(open.pop().is_some_and(|block| block.is_loop)),
            _ => {}
        }
    }
    Ok(Work {
        joins: locals.saturating_mul(deepest),
        operands,
    })
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

    /// A function that does this many times over, in a module with a type of a thousand operands.
    fn with_wide(times: usize, body: &str) -> Vec<u8> {
        let many = |count: usize| "i32 ".repeat(count);
        let consts = "(i32.const 0)".repeat(500);
        let drops = "drop ".repeat(500);
        let body = body.repeat(times);
        component(&format!(
            "(type $wide (func (param {}) (result {})))
            (func $wide (type $wide) unreachable)
            (func {consts} {body} {drops})",
            many(500),
            many(500),
        ))
    }

    #[test]
    fn calls_blocks_and_branches_of_many_operands_are_refused() {
        for body in [
            "call $wide ",
            "(block (type $wide)) ",
            "(loop (type $wide)) ",
            "(block (type $wide) i32.const 0 br_if 0) ",
        ] {
            let wide = with_wide(OPERANDS_PER_FUNCTION_MAX as usize / 500 + 1, body);
            is_refused(
                &wide,
                "operands of calls, blocks and branches in a function",
            );
            let modest = with_wide(20, body);
            assert_eq!(inspect(&modest, &Config::default()), Ok(()), "{body}");
        }
        let targets = "0 ".repeat(1000);
        let table = format!("(block (type $wide) i32.const 0 br_table {targets}) ");
        is_refused(&with_wide(1, &table), "operands");
    }

    #[test]
    fn a_memory_larger_than_the_limit_is_refused_before_anything_runs() {
        let error = inspect(&component("(memory 2000)"), &Config::default()).unwrap_err();
        assert_eq!(error, PluginError::OutOfMemory(64 << 20));
    }
}
