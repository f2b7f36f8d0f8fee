//! Scripts, read and run. `cargo fuzz run script`; the corpus is also a plain test, `corpora::script`.
#![no_main]

#[path = "../../crates/gmmu-cli/tests/fuzzed/mod.rs"]
mod fuzzed;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzed::script(data));
