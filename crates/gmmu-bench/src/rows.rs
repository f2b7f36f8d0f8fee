//! The table: one row for each thing that is measured.

use crate::va;
use crate::vram::{self, Buddy, Chunks, Offset, Ours};
use gmmu::vram::Place;

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Nanoseconds, words, bits, or thousandths.
    pub unit: &'static str,
    /// The median of the rounds.
    pub value: f64,
    /// The least of the rounds: nearer to an idle machine.
    pub least: Option<f64>,
    /// What it is to be: at most this, or, for what is used at the first failure, at least.
    pub target: Option<f64>,
    /// The fastest peer of the same run, and its median.
    pub peer: Option<(&'static str, f64)>,
    /// What nobody can be faster than, in the same run.
    pub limit: Option<Limit>,
}

/// The plain loop that a job comes down to, and how near to it the job is to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// The loop.
    pub what: &'static str,
    /// The least of its rounds, in the unit of the row.
    pub least: f64,
    /// The ratio that is to be reached, at most.
    pub target: Option<f64>,
}

impl Row {
    /// How the median stands to the peer's, or the least to the limit's.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let to_limit = self.limit.map(|limit| self.least.unwrap_or(self.value) / limit.least);
        to_limit.or_else(|| self.peer.map(|(_, peer)| self.value / peer))
    }

    /// Whether the target is met, in this run on this machine.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        if let Some(target) = self.limit.and_then(|limit| limit.target) {
            return self.ratio().map(|ratio| ratio <= target);
        }
        let at_least = self.unit == "thousandths";
        self.target
            .map(|target| if at_least { self.value >= target } else { self.least.unwrap_or(self.value) <= target })
    }

    /// The target as a number, or as a ratio to the limit.
    #[must_use]
    pub fn target_text(&self) -> Option<String> {
        let ratio = self.limit.and_then(|limit| limit.target).map(|ratio| format!("{ratio}x"));
        ratio.or_else(|| self.target.map(|target| format!("{target:.1}")))
    }
}

/// The processor and the load, as Linux tells them.
#[must_use]
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("\t: unknown");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!("{}, load {load}", model.trim_start_matches(['\t', ' ', ':']))
}

/// The measurements of one thing, round by round.
#[derive(Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn push(&mut self, value: Option<f64>) {
        self.0.extend(value);
    }

    pub(crate) fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    pub(crate) fn least(&self) -> Option<f64> {
        self.0.iter().copied().reduce(f64::min)
    }

    /// A row in nanoseconds, beside the faster of the peers.
    fn row(&self, name: &str, target: f64, peers: &[(&'static str, &Self)]) -> Option<Row> {
        let peers = peers.iter().filter_map(|(who, times)| times.median().map(|median| (*who, median)));
        let peer = peers.min_by(|a, b| a.1.total_cmp(&b.1));
        let value = self.median()?;
        Some(Row {
            name: name.to_owned(),
            unit: "ns",
            value,
            least: self.least(),
            target: Some(target),
            peer,
            limit: None,
        })
    }
}

/// What every physical allocator can do.
#[derive(Default)]
struct Common {
    fill: Times,
    free: Times,
    steady: Times,
    churn: Times,
}

impl Common {
    fn round<A: Chunks>(&mut self) {
        let both = vram::fill_and_free::<A>();
        self.fill.push(both.map(|both| both.0));
        self.free.push(both.map(|both| both.1));
        self.steady.push(vram::steady_pair::<A>());
        self.churn.push(vram::churn::<A>().map(|churn| churn.0));
    }
}

/// The rows of the VRAM allocator, from `rounds` interleaved rounds.
#[must_use]
pub fn vram_rows(rounds: usize) -> Vec<Row> {
    let (mut ours, mut buddy, mut offset) = (Common::default(), Common::default(), Common::default());
    let [mut free_low, mut take_low, mut take_best] = <[Times; 3]>::default();
    for _ in 0..rounds {
        ours.round::<Ours>();
        buddy.round::<Buddy>();
        offset.round::<Offset>();
        let low = vram::ranged_pair(Place::Low);
        free_low.push(low.map(|both| both.0));
        take_low.push(low.map(|both| both.1));
        take_best.push(vram::ranged_pair(Place::Best).map(|both| both.1));
    }
    let beside =
        |of: fn(&Common) -> &Times| [("buddy_system_allocator", of(&buddy)), ("offset-allocator", of(&offset))];
    let mut rows: Vec<Row> = [
        ours.fill.row("fill 8 GiB with 4K", 45.0, &beside(|c| &c.fill)),
        ours.free.row("free 4K in random order", 45.0, &beside(|c| &c.free)),
        ours.steady.row("steady 4K pair, half of 8 GiB free", 130.0, &beside(|c| &c.steady)),
        ours.churn.row("churn 1..512 contiguous, 60 % full, pair", 400.0, &beside(|c| &c.churn)),
        take_low.row("4K in a range, 8192 live, lowest", 300.0, &[]),
        take_best.row("4K in a range, 8192 live, best", 300.0, &[]),
        free_low.row("4K in a range, 8192 live, free", 300.0, &[]),
    ]
    .into_iter()
    .flatten()
    .collect();
    rows.extend(vram_counts());
    rows
}

/// The rows of the VRAM allocator that are measured once, and those that are counts.
fn vram_counts() -> Vec<Row> {
    let row = |name: String, unit, value, target: Option<f64>| Row {
        name,
        unit,
        value,
        least: None,
        target,
        peer: None,
        limit: None,
    };
    let mut rows = Vec::new();
    if let Some(times) = vram::impossible() {
        let holes = "80 GiB of isolated 8K holes";
        rows.push(row(format!("{holes}: 12K, settled"), "ns", times.settled, Some(10_000.0)));
        rows.push(row(format!("{holes}: 12K, one 4K pair in between"), "ns", times.busy, Some(10_000.0)));
        rows.push(row(format!("{holes}: 12K, first question after all changes"), "ns", times.first, None));
        rows.push(row(format!("{holes}: 8K at 16K, one pass over the bitmap"), "ns", times.aligned, None));
    }
    let used = |of: fn(u64) -> u32| f64::from((1..=20).map(of).min().unwrap_or(0));
    let mut failure = row(
        "1 GiB used at the first contiguous failure, least of 20 seeds".to_owned(),
        "thousandths",
        used(vram::used_at_first_failure::<Ours>),
        Some(970.0),
    );
    failure.peer = Some(("offset-allocator", used(vram::used_at_first_failure::<Offset>)));
    rows.push(failure);
    for gib in [1, 8, 80, 288] {
        let bits = vram::metadata(gib) as f64 / 100.0;
        rows.push(row(format!("metadata of {gib} GiB, a chunk"), "bits", bits, Some(2.7)));
    }
    if let Some(words) = vram::words(8) {
        for (name, words) in ["fill", "random free", "steady"].iter().zip(words) {
            rows.push(row(format!("words touched, {name}, mean"), "words", words.mean(), Some(12.0)));
            rows.push(row(format!("words touched, {name}, worst"), "words", words.worst as f64, Some(12.0)));
        }
    }
    rows
}

/// The rows of virtual ranges with so many live.
#[must_use]
pub fn va_rows(live: usize) -> Vec<Row> {
    let target = if live <= 1000 { 100.0 } else { 400.0 };
    let measures = va::run(live);
    let (ours, peers): (Vec<_>, Vec<_>) = measures.into_iter().partition(|m| m.who == "gmmu");
    let mut rows = Vec::new();
    for m in ours {
        let peer = peers.iter().find(|peer| peer.scenario == m.scenario).map(|peer| (peer.who, peer.ns));
        let name = format!("va, {live} live: {}", m.scenario);
        rows.push(Row { name, unit: "ns", value: m.ns, least: Some(m.best), target: Some(target), peer, limit: None });
        if let Some(bytes) = m.bytes {
            let name = format!("va, {live} live: {}, memory a range", m.scenario);
            rows.push(Row { name, unit: "bytes", value: bytes, least: None, target: None, peer: None, limit: None });
        }
    }
    rows
}

/// A number with as many places as say something.
#[must_use]
pub fn number(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 {
        format!("{value:.3}")
    } else {
        format!("{value:.1}")
    }
}

/// Prints rows as a table.
pub fn print(rows: &[Row]) {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    println!("{:<64} {:>10} {:>10} {:>8} {:>10} {:>6}", "", "median", "least", "target", "peer/limit", "ratio");
    for row in rows {
        println!(
            "{:<64} {:>10} {:>10} {:>8} {:>10} {:>6} {}",
            row.name,
            number(Some(row.value)),
            number(row.least),
            row.target_text().unwrap_or_else(|| "-".to_owned()),
            number(row.peer.map(|peer| peer.1).or(row.limit.map(|limit| limit.least))),
            row.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}")),
            row.unit
        );
    }
}
