//! Lines of kernel logs. `cargo fuzz run fault_line`; the corpus is also a plain test, `corpora::fault_line`.
#![no_main]

#[path = "../../crates/gmmu-cli/tests/fuzzed/mod.rs"]
mod fuzzed;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzed::fault_line(data));
