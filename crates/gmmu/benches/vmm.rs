//! `cargo bench -p gmmu --bench vmm`: jobs of an address space on plain memory, beside the stores that they come down to in
//! the same run, and what they cost on a model's registers.

use gmmu_bench::{counts, rows, vmm};

fn main() {
    // `cargo test --benches` runs this too, and only wants to know that it works.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { vmm::ROUNDS } else { 1 };
    println!("machine: {}; {rounds} rounds", rows::machine());
    rows::print(&vmm::rows(rounds));
    rows::print(&counts::rows());
}
