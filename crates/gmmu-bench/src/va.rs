//! What is measured of virtual ranges: the same streams of requests for `VaSpace` and for a peer, which is the obvious
//! thing to write without it, a `BTreeMap` searched for the first gap that fits.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Instant;

use gmmu::va::{VaRequest, VaSpace};

/// One result of a scenario.
#[derive(Clone, Debug)]
pub struct Measure {
    /// What was measured.
    pub scenario: &'static str,
    /// Who was measured.
    pub who: &'static str,
    /// Live ranges.
    pub live: usize,
    /// Nanoseconds per find + insert + remove, the median of the rounds.
    pub ns: f64,
    /// The same, the best of the rounds: nearer to an idle machine.
    pub best: f64,
    /// Bytes of memory per live range besides its value, where that is known.
    pub bytes: Option<f64>,
}

/// What the scenarios need of an address space.
trait Ranges: Sized {
    const NAME: &'static str;
    fn empty() -> Self;
    /// Takes `bytes` where they fit, aligned for their page size.
    fn take(&mut self, bytes: u64) -> u64;
    fn give(&mut self, start: u64);
    fn footprint(&self) -> Option<usize> {
        None
    }
}

const END: u64 = 1 << 57;

impl Ranges for VaSpace<u64> {
    const NAME: &'static str = "gmmu";

    fn empty() -> Self {
        Self::new(0..END).expect("the limits are pages")
    }

    fn take(&mut self, bytes: u64) -> u64 {
        let va = self.find(&VaRequest::new(bytes)).expect("nearly everything is free").raw();
        self.reserve(1).expect("memory");
        self.insert(va..va + bytes, bytes).expect("it was free");
        va
    }

    fn give(&mut self, start: u64) {
        black_box(self.remove(start).expect("it lives"));
    }

    fn footprint(&self) -> Option<usize> {
        Some(VaSpace::footprint(self))
    }
}

/// Live ranges by start.
struct FirstFit(BTreeMap<u64, (u64, u64)>);

impl Ranges for FirstFit {
    const NAME: &'static str = "BTreeMap first fit";

    fn empty() -> Self {
        Self(BTreeMap::new())
    }

    fn take(&mut self, bytes: u64) -> u64 {
        let page = [512u64 << 20, 2 << 20, 64 << 10].into_iter().find(|page| *page <= bytes).unwrap_or(4096);
        let mut at = 2u64 << 20;
        for (start, (end, _)) in &self.0 {
            if at + bytes <= *start {
                break;
            }
            at = end.next_multiple_of(page);
        }
        self.0.insert(at, (at + bytes, bytes));
        at
    }

    fn give(&mut self, start: u64) {
        black_box(self.0.remove(&start).expect("it lives"));
    }
}

/// A small generator, the same numbers everywhere.
struct Rng(u64);

impl Rng {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(u64::try_from(len).unwrap_or(1))).unwrap_or(0)
    }
}

/// Lengths as a driver sees them: mostly small buffers, some of megabytes.
fn mixed(rng: &mut Rng) -> u64 {
    match rng.below(8) {
        0..=3 => 4096 * (1 + rng.below(16)),
        4..=6 => (64 << 10) * (1 + rng.below(31)),
        _ => (2 << 20) * (1 + rng.below(8)),
    }
}

fn one_page(_: &mut Rng) -> u64 {
    4096
}

/// Takes and gives back with `live` ranges there: a random one goes, one of another length comes.
fn churn<R: Ranges>(scenario: &'static str, live: usize, pairs: usize, length: fn(&mut Rng) -> u64) -> Measure {
    let mut rng = Rng(0x5eed_cafe_f00d_d00d);
    let mut ranges = R::empty();
    let mut starts: Vec<u64> = (0..live).map(|_| ranges.take(length(&mut rng))).collect();
    let mut rounds = Vec::new();
    // The first round brings the gaps into the state in which they stay.
    for round in 0..6 {
        // Shuffled and then used in order: what is measured is not how the caller remembers its ranges.
        (1..live).rev().for_each(|at| starts.swap(at, rng.index(at + 1)));
        let lengths: Vec<u64> = (0..pairs).map(|_| length(&mut rng)).collect();
        let began = Instant::now();
        for (at, bytes) in lengths.into_iter().enumerate() {
            let victim = at % live;
            ranges.give(starts[victim]);
            starts[victim] = ranges.take(bytes);
        }
        if round > 0 {
            rounds.push(began.elapsed().as_nanos() as f64 / pairs as f64);
        }
    }
    rounds.sort_by(f64::total_cmp);
    let bytes = ranges.footprint().map(|bytes| bytes as f64 / live as f64 - size_of::<u64>() as f64);
    Measure { scenario, who: R::NAME, live, ns: rounds[rounds.len() / 2], best: rounds[0], bytes }
}

/// Takes and gives back the same: what `live` ranges without gaps cost.
fn ping_pong<R: Ranges>(scenario: &'static str, live: usize, pairs: usize, length: fn(&mut Rng) -> u64) -> Measure {
    let mut rng = Rng(0x5eed_cafe_f00d_d00d);
    let mut ranges = R::empty();
    for _ in 0..live {
        black_box(ranges.take(length(&mut rng)));
    }
    let mut rounds = Vec::new();
    for _ in 0..5 {
        let work: Vec<u64> = (0..pairs).map(|_| length(&mut rng)).collect();
        let began = Instant::now();
        for bytes in work {
            let start = ranges.take(bytes);
            ranges.give(start);
        }
        rounds.push(began.elapsed().as_nanos() as f64 / pairs as f64);
    }
    rounds.sort_by(f64::total_cmp);
    let bytes = ranges.footprint().map(|bytes| bytes as f64 / live as f64 - size_of::<u64>() as f64);
    Measure { scenario, who: R::NAME, live, ns: rounds[rounds.len() / 2], best: rounds[0], bytes }
}

/// All scenarios. `live` ranges each; the peer does far fewer pairs, for it looks at every range.
pub fn run(live: usize) -> Vec<Measure> {
    let pairs = if live > 100_000 { 500_000 } else { 200_000 };
    let few = (20_000_000 / live).min(pairs);
    let mut all = Vec::new();
    for (name, length) in [("churn, mixed lengths", mixed as fn(&mut Rng) -> u64), ("churn, 4K", one_page)] {
        all.push(churn::<VaSpace<u64>>(name, live, pairs, length));
        if live <= 100_000 {
            all.push(churn::<FirstFit>(name, live, few, length));
        }
    }
    all.push(ping_pong::<VaSpace<u64>>("take and give the same, mixed", live, pairs, mixed));
    if live <= 100_000 {
        all.push(ping_pong::<FirstFit>("take and give the same, mixed", live, few, mixed));
    }
    all
}
