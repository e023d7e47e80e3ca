//! Bytes as a record batch of Kafka's.
#![no_main]

#[allow(dead_code)]
#[path = "../../protocol/tests/hostile/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|data: &[u8]| exercise::kafka_batch(data));
