//! Traces of drivers and logs of mmiotrace, done again. `cargo fuzz run trace`; the corpus is also a plain test, `corpora::trace`.
#![no_main]

#[path = "../../crates/gmmu/tests/fuzzed/mod.rs"]
mod fuzzed;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzed::trace(data));
