//! Bytes as batches.
#![no_main]

#[allow(dead_code)]
#[path = "../../protocol/tests/hostile/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::batch(data));
