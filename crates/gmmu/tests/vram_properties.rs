//! The allocator against the naive model, over many random histories.

mod vram_model;

use vram_model::{run, Seed};

/// How many operations: a million, or what `GMMU_SOAK` says, in millions.
fn operations() -> usize {
    let millions = std::env::var("GMMU_SOAK").ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(1);
    millions * 1_000_000
}

fn first_seed() -> u64 {
    std::env::var("GMMU_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// P1 (no overlap, in bounds, aligned, exact), P2 (complete), P8 (a failed call changes nothing), P9 (cleared memory),
/// P13 (rebuild), P17 (wrong frees): see `vram_model`.
#[test]
fn random_histories_agree_with_the_model() {
    let (mut done, mut seed) = (0, first_seed());
    let wanted = operations();
    while done < wanted {
        // Printed only where the test fails.
        println!("GMMU_SEED={seed}");
        done += run(&mut Seed::new(seed), 4000);
        seed += 1;
    }
    println!("{done} operations");
}
