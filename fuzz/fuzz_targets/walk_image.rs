//! Page tables that are anything. `cargo fuzz run walk_image`; the corpus is also a plain test, `corpora::walk_image`.
#![no_main]

#[path = "../../crates/gmmu/tests/fuzzed/mod.rs"]
mod fuzzed;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzed::walk_image(data));
