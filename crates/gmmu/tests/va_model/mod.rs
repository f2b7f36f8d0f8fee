//! A naive model of `VaSpace`: a list of ranges and, for every search, a map of all pages. Slow and obviously right.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::cast_possible_truncation, reason = "small spaces; tests run on 64 bits")]

use std::ops::Range;

use gmmu::va::{VaError, VaRequest};

pub(crate) const PAGE: u64 = 4096;

/// A small generator of random numbers; the seed is all there is to know.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The seeds of a test: the one in `GMMU_SEED`, or `count` fixed ones; with `GMMU_SOAK=n` n times as many.
pub(crate) fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let (first, count) = match number("GMMU_SEED") {
        Some(seed) => (seed, 1),
        None => (1, count * number("GMMU_SOAK").unwrap_or(1)),
    };
    (first..first + count).inspect(|seed| println!("GMMU_SEED={seed}"))
}

/// A request that the model can read.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Bytes that the model counts as a page; all borders are multiples of it.
    pub(crate) unit: u64,
    pub(crate) pages: u64,
    pub(crate) align: Option<u64>,
    pub(crate) within: Option<Range<u64>>,
    pub(crate) high: bool,
    pub(crate) at: Option<u64>,
    pub(crate) guard: u64,
    pub(crate) null: bool,
}

impl Ask {
    pub(crate) fn new(pages: u64, unit: u64) -> Self {
        Self { unit, pages, align: None, within: None, high: false, at: None, guard: 0, null: false }
    }

    pub(crate) fn request(&self) -> VaRequest {
        let mut request = VaRequest::new(self.pages * self.unit).guard(self.guard * self.unit);
        if let Some(align) = self.align {
            request = request.align(align);
        }
        if let Some(within) = &self.within {
            request = request.within(within.clone());
        }
        if let Some(at) = self.at {
            request = request.at(at);
        }
        if self.null {
            request = request.allow_null();
        }
        if self.high {
            request.high()
        } else {
            request.low()
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Live {
    pub(crate) range: Range<u64>,
    pub(crate) guard: u64,
    pub(crate) value: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) unit: u64,
    pub(crate) limits: Range<u64>,
    pub(crate) live: Vec<Live>,
    /// Per page, whether it is excluded.
    pub(crate) excluded: Vec<bool>,
}

impl Model {
    pub(crate) fn new(limits: Range<u64>, unit: u64) -> Self {
        let pages = ((limits.end - limits.start) / unit) as usize;
        Self { unit, limits, live: Vec::new(), excluded: vec![false; pages] }
    }

    fn pages(&self) -> usize {
        self.excluded.len()
    }

    /// The pages that `range` touches, clipped to the limits.
    fn touched(&self, range: &Range<u64>) -> Range<usize> {
        let (lo, hi) = (range.start.max(self.limits.start), range.end.min(self.limits.end));
        if lo >= hi {
            return 0..0;
        }
        let base = self.limits.start;
        ((lo - base) / self.unit) as usize..((hi - base).div_ceil(self.unit)) as usize
    }

    pub(crate) fn set_excluded(&mut self, window: &Range<u64>, to: bool) {
        let pages = self.touched(window);
        self.excluded[pages].fill(to);
    }

    /// For every page, how many pages from there on are free for `ask`.
    fn runs(&self, ask: &Ask) -> Vec<u32> {
        let mut free = vec![true; self.pages()];
        for (at, live) in self.live.iter().enumerate() {
            // A range's own gap reaches to its neighbours at most; the gap asked for spares every range.
            let (own, asked) = (live.guard * self.unit, ask.guard * self.unit);
            let below =
                at.checked_sub(1).map_or(0, |at| self.live[at].range.end).max(live.range.start.saturating_sub(own));
            let above =
                self.live.get(at + 1).map_or(u64::MAX, |next| next.range.start).min(live.range.end.saturating_add(own));
            free[self.touched(&(below..above))].fill(false);
            let away = live.range.start.saturating_sub(asked)..live.range.end.saturating_add(asked);
            free[self.touched(&away)].fill(false);
        }
        let mut allowed = vec![true; self.pages()];
        if ask.at.is_none() {
            allowed = self.excluded.iter().map(|excluded| !excluded).collect();
            if !ask.null {
                allowed[self.touched(&(0..2 << 20))].fill(false);
            }
        }
        let window = ask.within.clone().unwrap_or(0..u64::MAX);
        let mut runs = vec![0; self.pages() + 1];
        for page in (0..self.pages()).rev() {
            let va = self.limits.start + page as u64 * self.unit;
            let inside = va >= window.start && va + (self.unit - 1) < window.end;
            if free[page] && allowed[page] && inside {
                runs[page] = runs[page + 1] + 1;
            }
        }
        runs.pop();
        runs
    }

    pub(crate) fn find(&self, ask: &Ask) -> Result<u64, VaError> {
        let runs = self.runs(ask);
        let va = |page: usize| self.limits.start + page as u64 * self.unit;
        if let Some(at) = ask.at {
            let page = (0..self.pages()).find(|page| va(*page) == at);
            let run = page.map_or(0, |page| u64::from(runs[page]));
            return if run >= ask.pages { Ok(at) } else { Err(VaError::NoSpace { largest: run * self.unit }) };
        }
        let aligns = match ask.align {
            Some(align) => vec![align.max(4096)],
            None => {
                [512 << 20, 2 << 20, 64 << 10, 4096].into_iter().filter(|size| *size <= ask.pages * ask.unit).collect()
            }
        };
        for align in aligns {
            let fits = |page: &usize| va(*page) % align == 0 && u64::from(runs[*page]) >= ask.pages;
            let found = if ask.high { (0..self.pages()).rev().find(fits) } else { (0..self.pages()).find(fits) };
            if let Some(page) = found {
                return Ok(va(page));
            }
        }
        let largest = runs.iter().copied().max().unwrap_or(0);
        Err(VaError::NoSpace { largest: u64::from(largest) * self.unit })
    }

    /// The place of the first range that ends behind `va`.
    pub(crate) fn seek(&self, va: u64) -> usize {
        self.live.partition_point(|live| live.range.end <= va)
    }

    pub(crate) fn overlapping(&self, range: &Range<u64>) -> Vec<(Range<u64>, u64)> {
        let hit =
            |live: &&Live| live.range.start < range.end && range.start < live.range.end && range.start < range.end;
        self.live.iter().filter(hit).map(|live| (live.range.clone(), live.value)).collect()
    }

    pub(crate) fn insert(&mut self, live: Live) {
        let at = self.seek(live.range.start);
        self.live.insert(at, live);
    }
}
