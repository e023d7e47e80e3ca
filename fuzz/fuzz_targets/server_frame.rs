//! Bytes as a broker's frame, in both forms, and as a message to a session.
#![no_main]

#[allow(dead_code)]
#[path = "../../protocol/tests/hostile/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::server_frame(data));
