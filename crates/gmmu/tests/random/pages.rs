//! A naive page map: what every address leads to, and with which size of page.

use gmmu::addr::{Aperture, PageSize, PhysAddr, PAGE_BYTES};
use gmmu::format::{Flags, Kind};
use std::collections::BTreeMap;
use std::ops::Range;

/// Neighbouring pages of one size that lead to neighbouring memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub end: u64,
    pub to: PhysAddr,
    pub page: PageSize,
    pub kind: Kind,
    pub flags: Flags,
    /// Where the memory came as frames, the size of those.
    pub late: Option<PageSize>,
}

impl Run {
    /// Where byte `bytes` of the run is.
    pub fn memory_at(self, bytes: u64) -> PhysAddr {
        PhysAddr::new(self.to.aperture, self.to.raw + bytes)
    }
}

/// Runs by their first address.
#[derive(Clone, Debug, Default)]
pub struct Pages(BTreeMap<u64, Run>);

pub type Part = (Range<u64>, Run);

impl Pages {
    /// The run that `va` lies in.
    pub fn get(&self, va: u64) -> Option<Part> {
        self.0.range(..=va).next_back().filter(|(_, run)| va < run.end).map(|(&start, &run)| (start..run.end, run))
    }

    /// The page that `va` lies in.
    pub fn page(&self, va: u64) -> Option<(Range<u64>, Run)> {
        let (_, run) = self.get(va)?;
        let start = va & !(run.page.bytes() - 1);
        Some((start..start + run.page.bytes(), run))
    }

    /// What lies in `range`, clipped to it.
    pub fn within(&self, range: &Range<u64>) -> Vec<Part> {
        let first = self.get(range.start).map_or(range.start, |(run, _)| run.start);
        let runs = self.0.range(first..range.end.max(first));
        runs.map(|(&start, run)| {
            let part = start.max(range.start)..run.end.min(range.end);
            let to = run.memory_at(part.start - start);
            (part.clone(), Run { end: part.end, to, ..*run })
        })
        .collect()
    }

    pub fn is_free(&self, range: &Range<u64>) -> bool {
        self.within(range).is_empty()
    }

    /// Puts `parts` in the place of whatever is in `range`.
    pub fn set(&mut self, range: &Range<u64>, parts: &[Part]) {
        for border in [range.start, range.end] {
            if let Some((whole, run)) = self.get(border).filter(|(whole, _)| whole.start < border) {
                self.0.insert(whole.start, Run { end: border, ..run });
                self.0.insert(border, Run { to: run.memory_at(border - whole.start), ..run });
            }
        }
        let gone: Vec<u64> = self.0.range(range.clone()).map(|(start, _)| *start).collect();
        for start in gone {
            self.0.remove(&start);
        }
        for (part, run) in parts {
            assert!(range.start <= part.start && part.end <= range.end && run.end == part.end);
            self.0.insert(part.start, *run);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Part> + '_ {
        self.0.iter().map(|(&start, &run)| (start..run.end, run))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The `n`-th run.
    pub fn nth(&self, n: usize) -> Part {
        self.iter().nth(n).unwrap()
    }
}

/// Page by page, the largest of `sizes` (ascending) for which address, memory and length fit; the smallest where none does.
pub fn lay(parts: &mut Vec<Part>, range: Range<u64>, run: Run, sizes: &[PageSize]) {
    let mut va = range.start;
    while va < range.end {
        let to = run.memory_at(va - range.start);
        let fits = |page: &&PageSize| (va | to.raw) & (page.bytes() - 1) == 0 && page.bytes() <= range.end - va;
        let page = *sizes.iter().rev().find(fits).unwrap_or(&sizes[0]);
        let end = va + page.bytes();
        match parts.last_mut() {
            Some((last, before))
                if last.end == va
                    && last.start >= range.start
                    && before.page == page
                    && before.memory_at(va - last.start) == to =>
            {
                *last = last.start..end;
                before.end = end;
            }
            _ => parts.push((va..end, Run { end, to, page, ..run })),
        }
        va = end;
    }
}

/// What an unmap, or a change of attributes, of `range` makes of the pages that it meets.
#[derive(Debug)]
pub struct Recast {
    /// The addresses whose entries change: cut pages whole.
    pub range: Range<u64>,
    /// The first page that is cut, from the left.
    pub cut: Option<Range<u64>>,
    pub after: Vec<Part>,
}

/// `range` lies on pages at both of its ends, or touches some.
pub fn recast(books: &Pages, range: &Range<u64>, sizes: &[PageSize], new: impl Fn(Run) -> Option<Run>) -> Recast {
    let over = |va: u64| books.page(va).map(|(page, _)| page).filter(|page| page.start < va);
    let (left, right) = (over(range.start), over(range.end));
    let start = left.as_ref().map_or(range.start, |page| page.start);
    let end = right.as_ref().map_or(range.end, |page| page.end);
    let mut after = Vec::new();
    for (whole, run) in books.within(&(start..end)) {
        let mut from = whole.start;
        while from < whole.end {
            let cuts = [&left, &right].into_iter().flatten().flat_map(|page| [page.start, page.end]);
            let to = cuts.chain([range.start, range.end]).filter(|&cut| cut > from).min().unwrap_or(whole.end);
            let part = from..to.min(whole.end);
            from = part.end;
            let here = Run { end: part.end, to: run.memory_at(part.start - whole.start), ..run };
            let here = if range.contains(&part.start) { new(here) } else { Some(here) };
            let Some(here) = here else { continue };
            if [&left, &right].into_iter().flatten().any(|page| page.contains(&part.start)) {
                let smaller: Vec<PageSize> = sizes.iter().copied().filter(|size| *size < here.page).collect();
                lay(&mut after, part, here, &smaller);
            } else {
                after.push((part, here));
            }
        }
    }
    Recast { range: start..end, cut: left.or(right), after }
}

/// Disjoint ranges in order, those that touch apart or merged: it does not matter.
#[derive(Clone, Debug, Default)]
pub struct Spans(BTreeMap<u64, u64>);

impl Spans {
    pub fn has(&self, va: u64) -> bool {
        self.0.range(..=va).next_back().is_some_and(|(_, &end)| va < end)
    }

    /// The parts in `range`, clipped.
    pub fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let parts = self.0.iter().filter(|(&start, &end)| start < range.end && range.start < end);
        parts.map(|(&start, &end)| start.max(range.start)..end.min(range.end)).collect()
    }

    /// Puts `parts` in the place of what is in `range`.
    pub fn set(&mut self, range: &Range<u64>, parts: &[Range<u64>]) {
        let old: Vec<(u64, u64)> = self.0.iter().map(|(a, b)| (*a, *b)).collect();
        self.0.clear();
        for (start, end) in old {
            for part in [start..end.min(range.start), start.max(range.end)..end] {
                if part.start < part.end {
                    self.0.insert(part.start, part.end);
                }
            }
        }
        self.0.extend(parts.iter().map(|part| (part.start, part.end)));
    }

    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.0.iter().map(|(&start, &end)| start..end)
    }
}

/// What is written for non-coherent memory, whatever was asked for.
pub fn effective(flags: Flags, aperture: Aperture) -> Flags {
    Flags { volatile: flags.volatile || aperture == Aperture::SysNonCoherent, ..flags }
}

/// Whether every kind has pages that are large enough for it.
pub fn kinds_fit(parts: &[Part]) -> bool {
    parts.iter().all(|(_, run)| run.page > PageSize::Size4K || !run.kind.is_compressible())
}

pub fn floor(va: u64) -> u64 {
    va & !(PAGE_BYTES - 1)
}
