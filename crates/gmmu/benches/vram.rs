//! `cargo bench -p gmmu --bench vram`: the physical allocator beside its peers, on the same request streams in one run.

use gmmu_bench::rows;

fn main() {
    // `cargo test --benches` runs this too, and only wants to know that it works.
    let rounds = if std::env::args().any(|argument| argument == "--bench") { 5 } else { 1 };
    println!("machine: {}; {rounds} rounds", rows::machine());
    rows::print(&rows::vram_rows(rounds));
}
