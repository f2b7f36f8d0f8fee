//! Random jobs of every kind against a naive page map: a hundred thousand of them, on chips of both formats with all page
//! sizes. `GMMU_SEED` is the first seed, `GMMU_SEEDS` the number of seeds, `GMMU_STEPS` the steps of each run; all of them
//! are printed, and where a test fails the latest jobs too.
#![expect(clippy::unwrap_used, clippy::panic, clippy::cast_possible_truncation, reason = "tests")]

mod common;
mod random;

use gmmu::format::{Format, V2, V3};
use random::{run, setting};

fn runs<F: Format>(chips: &[&str]) {
    let (first, seeds, steps) = (setting("GMMU_SEED", 1), setting("GMMU_SEEDS", 20), setting("GMMU_STEPS", 3000));
    let mut jobs = 0;
    for seed in first..first + seeds {
        for chip in chips {
            jobs += run::<F>(chip, seed, steps, false);
        }
    }
    println!("{jobs} jobs");
}

#[test]
fn random_jobs_on_v2_do_what_a_page_map_does() {
    runs::<V2>(&["tu102", "ga100", "ad102"]);
}

#[test]
fn random_jobs_on_v3_do_what_a_page_map_does() {
    runs::<V3>(&["gh100", "gb100"]);
}
