//! The contract as Rust, generated from the very files that the SDK reads. Nothing is written by hand here.
#![allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic
)]

wasmtime::component::bindgen!({
    path: "../guest-sdk/wit",
    world: "plugin",
    exports: { default: async },
    ownership: Borrowing { duplicate_if_necessary: true },
});
