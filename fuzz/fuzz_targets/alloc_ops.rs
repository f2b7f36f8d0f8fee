//! The VRAM allocator against its naive model, with the operations that the bytes spell. `cargo fuzz run alloc_ops`; the
//! corpus is also a plain test, `the_fuzz_corpus_agrees_with_the_model`.
#![no_main]

#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../crates/gmmu/tests/vram_model/mod.rs"]
mod vram_model;

use libfuzzer_sys::fuzz_target;
use vram_model::{run, Bytes};

fuzz_target!(|data: &[u8]| {
    run(&mut Bytes(data), 4096);
});
