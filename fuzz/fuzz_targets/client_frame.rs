//! Bytes as a client's frame, in both forms.
#![no_main]

#[allow(dead_code)]
#[path = "../../protocol/tests/hostile/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::client_frame(data));
