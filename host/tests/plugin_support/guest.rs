//! Plugins for tests, written as WebAssembly text against the contract's canonical ABI. Knows the
//! contract and no engine: the end-to-end tests upload the same plugins to a real broker.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::path::PathBuf;

use bytes::Bytes;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A plugin in text: the bodies of its functions, and whatever else its module has.
///
/// The memory has zeros at 0 (an `init` that went well) and at 64 (the verdict `all`); the allocator
/// gives out what lies above 64 KiB.
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    /// Twelve parameters, returns where the result lies.
    pub init: &'a str,
    /// The parameters `$port` and `$batch`, returns where the result lies.
    pub process: &'a str,
    /// Other fields of the module.
    pub fields: &'a str,
}

impl Default for Guest<'_> {
    fn default() -> Self {
        Self {
            init: "i32.const 0",
            process: "i32.const 64",
            fields: "",
        }
    }
}

impl Guest<'_> {
    pub fn component(&self) -> Bytes {
        let text = format!(
            r#"(module
                (import "eddy:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
                (memory (export "memory") 2)
                (global $heap (mut i32) (i32.const 65536))
                (func $realloc (export "cabi_realloc") (param i32 i32 i32) (param $bytes i32) (result i32)
                    (local $at i32) (local $end i32)
                    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                    (local.set $end (i32.add (local.get $at) (local.get $bytes)))
                    (block $fits
                        (loop $more
                            (br_if $fits (i32.le_u (local.get $end) (i32.mul (memory.size) (i32.const 65536))))
                            (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
                            unreachable))
                    (global.set $heap (local.get $end))
                    (local.get $at))
                (func (export "eddy:plugin/processor@0.1.0#init")
                    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
                    {init})
                (func (export "eddy:plugin/processor@0.1.0#process") (param $batch i32) (result i32)
                    {process})
                (func (export "cabi_post_eddy:plugin/processor@0.1.0#process") (param i32)
                    (global.set $heap (i32.const 65536)))
                {fields})"#,
            init = self.init,
            process = self.process,
            fields = self.fields,
        );
        component(&text, &contract(), "plugin")
    }
}

/// The contract's own files.
pub fn contract() -> Resolve {
    let mut resolve = Resolve::default();
    resolve
        .push_dir(root().join("guest-sdk/wit"))
        .expect("the contract is valid WIT");
    resolve
}

/// A component of this world, out of a core module in text.
pub fn component(text: &str, resolve: &Resolve, world: &str) -> Bytes {
    let mut module = wat::parse_str(text).expect("the test's module is valid text");
    let world = (resolve.worlds.iter())
        .find(|(_, found)| found.name == world)
        .expect("the world is there")
        .0;
    embed_component_metadata(&mut module, resolve, world, StringEncoding::UTF8)
        .expect("the world is embedded");
    let encoder = ComponentEncoder::default()
        .module(&module)
        .expect("the module fits the world");
    encoder
        .validate(true)
        .encode()
        .expect("the component is valid")
        .into()
}

/// The folder of the repository, from any crate in it.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}
