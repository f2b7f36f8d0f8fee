//! The random jobs of [`model`](../model.rs) once more, with memory that runs out: table memory, and with the feature
//! `inject` memory for records too. The countdown of that belongs to the process: hence a single test, and a binary of its
//! own. Settings, all printed: `GMMU_SEED` is the first seed, `GMMU_SEEDS` the number of them, `GMMU_STEPS` the steps of
//! each run.
#![expect(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;
mod random;

use gmmu::format::{V2, V3};
use random::{run, setting};

#[test]
fn whatever_runs_out_the_gpu_finds_what_was_executed() {
    let (first, seeds, steps) = (setting("GMMU_SEED", 1000), setting("GMMU_SEEDS", 10), setting("GMMU_STEPS", 2000));
    for seed in first..first + seeds {
        for chip in ["tu102", "ga100"] {
            run::<V2>(chip, seed, steps, true);
        }
        for chip in ["gh100", "gb100"] {
            run::<V3>(chip, seed, steps, true);
        }
    }
}
