//! `cargo bench -p gmmu --bench va`: nanoseconds to find a place, insert and remove a range.

#[path = "va/scenarios.rs"]
mod scenarios;

fn main() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(" unknown");
    println!("machine: {}", model.trim_start_matches([' ', '\t', ':']));
    println!(
        "{:<32} {:<20} {:>9} {:>10} {:>10} {:>14}",
        "scenario", "who", "live", "ns a pair", "best", "bytes a range"
    );
    // `cargo bench --bench va -- 5000` measures that many live ranges alone.
    let asked: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    for live in if asked.is_empty() { vec![1_000, 1_000_000] } else { asked } {
        for m in scenarios::run(live) {
            let bytes = m.bytes.map_or(String::from("-"), |bytes| format!("{bytes:.1}"));
            println!("{:<32} {:<20} {:>9} {:>10.1} {:>10.1} {:>14}", m.scenario, m.who, m.live, m.ns, m.best, bytes);
        }
    }
}
