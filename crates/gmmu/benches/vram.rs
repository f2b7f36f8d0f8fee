//! `cargo bench -p gmmu --bench vram`: the physical allocator beside two crates that do a part of its work, on the same
//! request streams, in the same run. Prints the median and the least of several interleaved rounds, and the ratio to the
//! faster peer; the targets are for an idle core.

mod vram_scenarios;

use gmmu::vram::Place;
use vram_scenarios as scenario;
use vram_scenarios::{Buddy, Chunks, Offset, Ours};

/// The measurements of one row for one allocator.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn push(&mut self, value: Option<f64>) {
        self.0.extend(value);
    }
    fn median(&mut self) -> Option<f64> {
        self.0.sort_by(f64::total_cmp);
        self.0.get(self.0.len() / 2).copied()
    }
    fn least(&self) -> Option<f64> {
        self.0.iter().copied().reduce(f64::min)
    }
}

/// The rows that every allocator can do.
#[derive(Default)]
struct Rows {
    fill: Times,
    free: Times,
    steady: Times,
    churn: Times,
    churn_failed: u32,
}

impl Rows {
    fn round<A: Chunks>(&mut self) {
        let both = scenario::fill_and_free::<A>();
        self.fill.push(both.map(|both| both.0));
        self.free.push(both.map(|both| both.1));
        self.steady.push(scenario::steady_pair::<A>());
        let churn = scenario::churn::<A>();
        self.churn.push(churn.map(|churn| churn.0));
        self.churn_failed = churn.map_or(0, |churn| churn.1);
    }
}

fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("\t: unknown");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!("{}, load {load}", model.trim_start_matches(['\t', ' ', ':']))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn row(name: &str, target: &str, ours: &mut Times, peers: [&mut Times; 2]) {
    let [buddy, offset] = peers.map(Times::median);
    let best = [buddy, offset].into_iter().flatten().reduce(f64::min);
    let ratio = ours.median().zip(best).map(|(ours, best)| ours / best);
    let (median, least) = (number(ours.median()), number(ours.least()));
    let ratio = ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
    println!("{name:<44} {median:>9} {least:>9} {target:>9} {:>9} {:>9} {ratio:>7}", number(buddy), number(offset));
}

fn main() {
    // `cargo test --benches` runs this too, and only wants to know that it works.
    let quick = !std::env::args().any(|argument| argument == "--bench");
    let rounds = if quick { 1 } else { 5 };
    println!("machine: {}; {rounds} rounds; nanoseconds that the thread ran", machine());
    let head = ["ours", "least", "target", "buddy", "offset", "ratio"].map(|name| format!("{name:>9}")).join(" ");
    println!("{:<44} {head}", "row");
    let (mut ours, mut buddy, mut offset) = (Rows::default(), Rows::default(), Rows::default());
    let [mut free_low, mut take_low, mut free_best, mut take_best] = <[Times; 4]>::default();
    for _ in 0..rounds {
        ours.round::<Ours>();
        buddy.round::<Buddy>();
        offset.round::<Offset>();
        for (place, free, take) in
            [(Place::Low, &mut free_low, &mut take_low), (Place::Best, &mut free_best, &mut take_best)]
        {
            let both = scenario::ranged_pair(place);
            free.push(both.map(|both| both.0));
            take.push(both.map(|both| both.1));
        }
    }
    let none = || <[Times; 2]>::default();
    row("fill 8 GiB with 4K, one", "45", &mut ours.fill, [&mut buddy.fill, &mut offset.fill]);
    row("free 4K in random order, one", "45", &mut ours.free, [&mut buddy.free, &mut offset.free]);
    row("steady 4K pair, half of 8 GiB free", "130", &mut ours.steady, [&mut buddy.steady, &mut offset.steady]);
    row("churn 1..512 contiguous, 60 % full, pair", "400", &mut ours.churn, [&mut buddy.churn, &mut offset.churn]);
    for (name, times) in [("take lowest", &mut take_low), ("take best", &mut take_best), ("free", &mut free_low)] {
        let [mut a, mut b] = none();
        row(&format!("4K in a range, 8192 live: {name}"), "300", times, [&mut a, &mut b]);
    }
    println!(
        "churn, requests of 200000 that did not fit: {} {} {}",
        ours.churn_failed, buddy.churn_failed, offset.churn_failed
    );
    rest();
}

/// The rows without a peer, and those that are counts.
fn rest() {
    if let Some(times) = scenario::impossible() {
        println!("80 GiB of isolated 8K holes (5,242,881 changes before), no place for:");
        println!("  12K, settled                             {:>12.1} ns, target 10000", times.settled);
        println!("  12K, one 4K pair in between              {:>12.1} ns, target 10000", times.busy);
        println!("  12K, the first question after all changes  {:>12.1} ns", times.first);
        println!("  8K at 16K, which no hole has             {:>12.1} ns, one pass over 2.6 MB of bits", times.aligned);
    }
    let used = |of: &dyn Fn(u64) -> u32| (1..=20).map(of).min().unwrap_or(0);
    let permille = [
        used(&scenario::used_at_first_failure::<Ours>),
        used(&scenario::used_at_first_failure::<Buddy>),
        used(&scenario::used_at_first_failure::<Offset>),
    ];
    println!("1 GiB used at the first failure, least of 20 seeds: {permille:?} thousandths, target 970");
    for gib in [1, 8, 80, 288] {
        let hundredths = scenario::metadata(gib);
        println!("metadata of {gib:>3} GiB: {}.{:02} bits per chunk, target 2.7", hundredths / 100, hundredths % 100);
    }
    if let Some(words) = scenario::words(8) {
        for (name, words) in ["fill", "random free", "steady"].iter().zip(words) {
            println!("words touched, {name}: {:.2} on average, {} at most, target 12", words.mean(), words.worst);
        }
    }
}
