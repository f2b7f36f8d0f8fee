//! Jobs of an address space in any order, against the naive model. `cargo fuzz run jobs`; the corpus is also a plain test,
//! `corpora::jobs`.
#![no_main]

#[path = "../../crates/gmmu/tests/common/mod.rs"]
mod common;
#[path = "../../crates/gmmu/tests/random/mod.rs"]
mod random;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| random::spelled(data));
