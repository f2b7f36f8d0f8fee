//! Where a run of free chunks lies: lowest, highest, best, longest. Each is exact.

use super::cells::{window, Align, Downward, Runs, Upward, WORD};
use super::leaf::{self, set};
use super::request::Place;
use super::tree::{self, Tree, FAN};
use super::Vram;

/// What a placement has to satisfy, but for its length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) align: Align,
    /// First chunk that may be used.
    pub(super) lo: u32,
    /// First chunk that may not.
    pub(super) hi: u32,
    /// Only chunks known to be zero.
    pub(super) only_clear: bool,
}

/// Longest run for which partly free leaves are tried by class; longer ones are found by the tree.
const SHORT: u32 = 256;

impl Vram {
    /// A place for `len` chunks, if there is one.
    pub(super) fn find(&mut self, len: u32, bounds: Bounds, place: Place) -> Option<u32> {
        if len == 1 && bounds.align.is_any() {
            return self.find_one(bounds, place);
        }
        match place {
            Place::Best if bounds.only_clear => self.find_up(len, bounds),
            Place::Best => self.find_best(len, bounds),
            Place::Low => self.find_up(len, bounds),
            Place::High => self.find_down(len, bounds),
            Place::Near(at) => {
                let (above, below) = self.around(at, len, bounds);
                self.find_up(len, above).or_else(|| self.find_down(len, below))
            }
        }
    }

    /// The bounds for placements of `len` chunks that start at `at` or above, and for those that start below.
    pub(super) fn around(&self, at: crate::addr::VramAddr, len: u32, bounds: Bounds) -> (Bounds, Bounds) {
        let chunk = at.raw().div_ceil(crate::addr::PAGE_BYTES).saturating_sub(self.origin);
        let chunk = u32::try_from(chunk).unwrap_or(u32::MAX).clamp(bounds.lo, bounds.hi);
        let above = Bounds { lo: chunk, ..bounds };
        let below = Bounds { hi: chunk.saturating_add(len - 1).min(bounds.hi), ..bounds };
        (above, below)
    }

    /// The lowest place for `len` chunks.
    pub(super) fn find_up(&mut self, len: u32, bounds: Bounds) -> Option<u32> {
        if bounds.only_clear {
            return self.find_clear_up(len, bounds);
        }
        self.refresh();
        let Bounds { align, lo, hi, .. } = bounds;
        if len > self.tree.root().max || hi.saturating_sub(lo) < len {
            return None;
        }
        if align.is_any() && lo == 0 && hi == self.end {
            return self.find_lowest(len);
        }
        let mut look = Upward { len, align, start: lo, next: lo / WORD * WORD };
        let mut index = lo / leaf::CHUNKS;
        while index * leaf::CHUNKS < hi {
            let base = index * leaf::CHUNKS;
            if base >= lo {
                if let Some((leaves, runs)) = self.skip_up(index, hi / leaf::CHUNKS, len) {
                    if let Some(at) = align.lowest(look.start, base + runs.head, len) {
                        return Some(at);
                    }
                    let chunks = leaves * leaf::CHUNKS;
                    if runs.head < chunks {
                        look.start = base + chunks - runs.tail;
                    }
                    look.next = base + chunks;
                    index += leaves;
                    continue;
                }
            }
            for word in index * leaf::WORDS..(index + 1) * leaf::WORDS {
                let usable = self.cell(word).free & window(word * WORD, lo, hi);
                if word * WORD >= look.next {
                    if let Some(at) = look.feed(word * WORD, usable) {
                        return Some(at);
                    }
                }
            }
            index += 1;
        }
        None
    }

    /// The lowest place for `len` chunks anywhere, where the tree is up to date and says that there is one: what
    /// [`find_up`](Self::find_up) finds, on the shortest way down the tree.
    fn find_lowest(&mut self, len: u32) -> Option<u32> {
        // Where the first child begins, and the free chunks that reach it from below.
        let (mut index, mut open) = (0, 0);
        for level in (0..self.tree.levels()).rev() {
            let chunks = Tree::leaves(level) / FAN * leaf::CHUNKS;
            let (child, runs) = if level == 0 {
                let first = (index * FAN) as usize;
                let leaves = self.leaves.get(first..).unwrap_or_default();
                tree::first_fit(leaves.iter().map(|leaf| leaf.runs()), chunks, &mut open, len)?
            } else {
                tree::first_fit(self.tree.children(level, index)?.iter().copied(), chunks, &mut open, len)?
            };
            self.touched += 2 * u64::from(child + 1);
            index = index * FAN + child;
            if open + runs.head >= len {
                return Some(index * chunks - open);
            }
        }
        self.find_in_leaf(index, len, self.align(0))
    }

    /// The lowest place for `len` chunks inside a leaf.
    fn find_in_leaf(&mut self, index: u32, len: u32, align: Align) -> Option<u32> {
        let base = index * leaf::CHUNKS;
        let leaf = self.leaf(index);
        if !leaf.is_stale() {
            let runs = leaf.runs();
            if runs.max < len {
                return None;
            }
        }
        if !leaf.is_stale() && align.is_any() {
            let runs = leaf.runs();
            if runs.head >= len {
                return Some(base);
            }
            // What is free between the first run and the last is too little.
            if u32::from(leaf.free) < runs.head + runs.tail + len {
                return Some(base + leaf::CHUNKS - runs.tail);
            }
        }
        let mut look = Upward { len, align, start: base, next: base };
        for word in index * leaf::WORDS..(index + 1) * leaf::WORDS {
            let usable = self.cell(word).free;
            if let Some(at) = look.feed(word * WORD, usable) {
                return Some(at);
            }
        }
        None
    }

    /// The largest node, or else leaf, that starts at leaf `index`, ends at leaf `end` or before, and has no run of `len`
    /// chunks inside: how many leaves it covers, and its runs.
    fn skip_up(&mut self, index: u32, end: u32, len: u32) -> Option<(u32, Runs)> {
        let runs = self.leaf(index).runs();
        if runs.max >= len || index >= end {
            return None;
        }
        let mut found = (1, runs);
        for level in 0..self.tree.levels() {
            let leaves = Tree::leaves(level);
            if index % leaves != 0 || end - index < leaves {
                break;
            }
            self.touched += 2;
            match self.tree.get(level, index / leaves) {
                Some(runs) if runs.max < len => found = (leaves, runs),
                _ => break,
            }
        }
        Some(found)
    }

    /// The highest place for `len` chunks.
    pub(super) fn find_down(&mut self, len: u32, bounds: Bounds) -> Option<u32> {
        if bounds.only_clear {
            return self.find_clear_down(len, bounds);
        }
        self.refresh();
        let Bounds { align, lo, hi, .. } = bounds;
        if len > self.tree.root().max || hi.saturating_sub(lo) < len {
            return None;
        }
        let top = hi.div_ceil(leaf::CHUNKS);
        let mut look = Downward { len, align, end: hi, next: hi.div_ceil(WORD) * WORD };
        let mut index = top;
        while index * leaf::CHUNKS > lo {
            let end = index * leaf::CHUNKS;
            if end <= hi {
                if let Some((leaves, runs)) = self.skip_down(index, lo.div_ceil(leaf::CHUNKS), len) {
                    if let Some(at) = align.highest(end - runs.tail, look.end, len) {
                        return Some(at);
                    }
                    let chunks = leaves * leaf::CHUNKS;
                    if runs.tail < chunks {
                        look.end = end - chunks + runs.head;
                    }
                    look.next = end - chunks;
                    index -= leaves;
                    continue;
                }
            }
            for word in ((index - 1) * leaf::WORDS..index * leaf::WORDS).rev() {
                let usable = self.cell(word).free & window(word * WORD, lo, hi);
                if word * WORD < look.next {
                    if let Some(at) = look.feed(word * WORD, usable) {
                        return Some(at);
                    }
                }
            }
            index -= 1;
        }
        None
    }

    /// As [`skip_up`](Self::skip_up), for what ends before leaf `index` and starts at leaf `start` or after.
    fn skip_down(&mut self, index: u32, start: u32, len: u32) -> Option<(u32, Runs)> {
        let runs = self.leaf(index.checked_sub(1)?).runs();
        if runs.max >= len || index <= start {
            return None;
        }
        let mut found = (1, runs);
        for level in 0..self.tree.levels() {
            let leaves = Tree::leaves(level);
            if index % leaves != 0 || index - start < leaves {
                break;
            }
            self.touched += 2;
            match self.tree.get(level, index / leaves - 1) {
                Some(runs) if runs.max < len => found = (leaves, runs),
                _ => break,
            }
        }
        Some(found)
    }

    /// The lowest place for `len` chunks known to be zero: a pass over the leaves that have any.
    fn find_clear_up(&mut self, len: u32, bounds: Bounds) -> Option<u32> {
        let Bounds { align, lo, hi, .. } = bounds;
        let mut look = Upward { len, align, start: lo, next: lo / WORD * WORD };
        let (mut from, to) = (lo / leaf::CHUNKS, hi.div_ceil(leaf::CHUNKS));
        while let Some(index) = self.sets.first_in(set::CLEAR, from, to) {
            for word in index * leaf::WORDS..(index + 1) * leaf::WORDS {
                let usable = self.cell(word).usable(true) & window(word * WORD, lo, hi);
                if let Some(at) = look.feed(word * WORD, usable) {
                    return Some(at);
                }
            }
            from = index + 1;
        }
        None
    }

    /// The highest place for `len` chunks known to be zero.
    fn find_clear_down(&mut self, len: u32, bounds: Bounds) -> Option<u32> {
        let Bounds { align, lo, hi, .. } = bounds;
        let mut look = Downward { len, align, end: hi, next: hi.div_ceil(WORD) * WORD };
        let (from, mut to) = (lo / leaf::CHUNKS, hi.div_ceil(leaf::CHUNKS));
        while let Some(index) = self.sets.last_in(set::CLEAR, from, to) {
            for word in (index * leaf::WORDS..(index + 1) * leaf::WORDS).rev() {
                let usable = self.cell(word).usable(true) & window(word * WORD, lo, hi);
                if let Some(at) = look.feed(word * WORD, usable) {
                    return Some(at);
                }
            }
            to = index;
        }
        None
    }

    /// A place that breaks up little: a leaf that is already partly used, else the lowest.
    fn find_best(&mut self, len: u32, bounds: Bounds) -> Option<u32> {
        let Bounds { align, lo, hi, .. } = bounds;
        let (from, to) = (lo.div_ceil(leaf::CHUNKS), hi / leaf::CHUNKS);
        if len == leaf::CHUNKS && align.chunks() <= leaf::CHUNKS {
            let whole = self.sets.first_in(set::WHOLE, from, to);
            if let Some(index) = whole.or_else(|| self.sets.first_in(set::WHOLE_CLEAR, from, to)) {
                return Some(index * leaf::CHUNKS);
            }
        }
        if len <= SHORT && align.chunks() <= WORD {
            // Once with the classes as they are, once more after they were made exact.
            for _ in 0..2 {
                if let Some(at) = self.find_by_class(len, align, from, to) {
                    return Some(at);
                }
                if self.sets.live() >> set::STALE & 1 == 0 {
                    break;
                }
                self.refresh();
            }
        }
        self.find_up(len, bounds)
    }

    /// A place for a short run in the lowest partly free leaf of the smallest class that can have one. Only a guess: it
    /// looks at one leaf of each class, or at another where the first turned out to be in the wrong class.
    fn find_by_class(&mut self, len: u32, align: Align, from: u32, to: u32) -> Option<u32> {
        for class in len.ilog2()..set::WHOLE {
            if self.sets.live() >> class & 1 == 0 {
                continue;
            }
            for _ in 0..2 {
                let Some(index) = self.sets.first_in(class, from, to) else { break };
                let found = self.find_in_leaf(index, len, align);
                if found.is_some() {
                    return found;
                }
                if !self.reclass(index) {
                    break;
                }
            }
        }
        None
    }

    /// The longest usable part of any run, in whole granules: start and length. Among equals the lowest, or the highest.
    pub(super) fn find_longest(&mut self, granule: u64, bounds: Bounds, high: bool) -> Option<(u32, u32)> {
        let granule = u32::try_from(granule).ok()?;
        let Bounds { align, lo, hi, only_clear } = bounds;
        if align.is_any() && granule == 1 && !only_clear && lo == 0 && hi == self.end {
            self.refresh();
            let len = self.tree.root().max;
            let at = if len == 0 { None } else { self.find(len, bounds, if high { Place::High } else { Place::Low }) };
            return at.map(|at| (at, len));
        }
        let mut best = None;
        let (mut longest, mut rest) = (0u32, bounds);
        // Each round finds a longer one behind the last, so that all of them together pass over the memory once.
        while let Some(at) = {
            let len = longest.checked_add(granule)?;
            if high {
                self.find_down(len, rest)
            } else {
                self.find_up(len, rest)
            }
        } {
            let start = self.run_start(at + 1, rest.lo, only_clear);
            let end = self.run_end(at, rest.hi, only_clear);
            let usable = u32::try_from(align.up(start)).ok()?;
            longest = end.saturating_sub(usable) / granule * granule;
            best = Some((usable, longest));
            if high {
                rest.hi = start;
            } else {
                rest.lo = end;
            }
        }
        best
    }
}

const _: () = assert!(FAN * FAN == 64, "a word of a set is one node of the second tree level");
