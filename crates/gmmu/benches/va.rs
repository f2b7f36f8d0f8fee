//! `cargo bench -p gmmu --bench va`: nanoseconds to find a place, insert and remove a range. Numbers as arguments are the
//! live ranges to measure with.

use gmmu_bench::rows;

fn main() {
    println!("machine: {}", rows::machine());
    let asked: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    for live in if asked.is_empty() { vec![1_000, 1_000_000] } else { asked } {
        rows::print(&rows::va_rows(live));
    }
}
