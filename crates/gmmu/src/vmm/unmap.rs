//! Planning an unmap: what to clear, and which tables to drop instead.

use super::execute::{Source, Write};
use super::job::{push_write, OwnedRound};
use super::plan::{
    domain_of, entry_at, has_small_pages, leaf_level, next_table, small, Dropped, Holdings, DOMAIN_BYTES,
};
use super::request::{Piece, PrepareError};
use crate::addr::{PageSize, TableAddr};
use crate::device::{Depth, Run};
use crate::format::{Format, Pte, BIG_TABLE};
use crate::storage::List;
use crate::tree::{dual_level, entry_slot, half_slot, level, Child, Half, Place, Tree};
use crate::va::VaSpace;
use core::ops::Range;

/// What is to be cleared in one leaf table of the domain at hand.
#[derive(Debug, Default)]
struct Clearing {
    ranges: List<Range<u64>>,
    /// Entries in `ranges`.
    entries: u64,
}

/// The plan of an unmap in the making. The pieces that go are out of `va` already.
pub(super) struct Unplanner<'a, F: Format> {
    pub(super) tree: &'a mut Tree<F>,
    pub(super) va: &'a VaSpace<Piece>,
    pub(super) main: OwnedRound,
    pub(super) held: Holdings,
    /// Addresses below are no longer counted in the mirror.
    pub(super) done: u64,
    domain: Option<u64>,
    clearing: [Clearing; 2],
}

impl<'a, F: Format> Unplanner<'a, F> {
    pub(super) fn new(tree: &'a mut Tree<F>, va: &'a VaSpace<Piece>, main: OwnedRound) -> Self {
        let clearing = [Clearing::default(), Clearing::default()];
        Self { tree, va, main, held: Holdings::default(), done: 0, domain: None, clearing }
    }

    /// Plans to unmap `pieces`, in order.
    pub(super) fn unmap(&mut self, pieces: &[(Range<u64>, Piece)]) -> Result<(), PrepareError> {
        for (range, piece) in pieces {
            match piece.page {
                PageSize::Size4K => self.leaves(Half::Small, range.clone())?,
                PageSize::Size64K => self.leaves(Half::Big, range.clone())?,
                page => self.large(page, range.clone())?,
            }
        }
        self.close_domain()
    }

    fn leaves(&mut self, half: Half, range: Range<u64>) -> Result<(), PrepareError> {
        let mut va = range.start;
        while va < range.end {
            let domain = domain_of(va);
            if self.domain != Some(domain) {
                self.close_domain()?;
                self.domain = Some(domain);
            }
            let end = range.end.min(domain + DOMAIN_BYTES);
            let clearing = &mut self.clearing[half as usize];
            clearing.ranges.push(va..end)?;
            clearing.entries += (end - va) >> half.level().shift;
            va = end;
        }
        Ok(())
    }

    fn close_domain(&mut self) -> Result<(), PrepareError> {
        let Some(domain) = self.domain.take() else { return Ok(()) };
        // The big table first: whether it stays decides what the small one leaves behind.
        let [big, small] = core::mem::take(&mut self.clearing);
        let counted = self.table(domain, Half::Big).map(|(_, number)| number);
        self.clear(domain, Half::Big, &big)?;
        if let Err(why) = self.clear(domain, Half::Small, &small) {
            // Half a domain is none: what the big table lost is counted back, and a dropped table is hung back later.
            if let Some(table) = counted.and_then(|number| self.tree.table_mut(number)) {
                table.used += u16::try_from(big.entries).unwrap_or(0);
            }
            return Err(why);
        }
        self.done = domain + DOMAIN_BYTES;
        Ok(())
    }

    /// Drops the table where that leaves nothing and is less to write, or clears its entries.
    fn clear(&mut self, domain: u64, half: Half, cleared: &Clearing) -> Result<(), PrepareError> {
        if cleared.entries == 0 {
            return Ok(());
        }
        let Some((place, number)) = self.table(domain, half) else { return Ok(()) };
        let Some((at, used)) = self.tree.table(number).map(|table| (table.at, u64::from(table.used))) else {
            return Ok(());
        };
        // All that can fail comes before the mirror changes.
        self.held.dropped.reserve(1)?;
        if used == cleared.entries && cleared.entries > 1 {
            let word_at = self.tree.word_at(place).ok_or(PrepareError::Overflow)?;
            self.held.own(domain..domain + DOMAIN_BYTES)?;
            if half == Half::Small {
                self.close_small(domain, cleared)?;
            }
            push_write(&mut self.main.links, one_word(word_at, 0))?;
            self.main.deepen(Depth::UpToPde0);
            let child = self.tree.set(place, Child::Empty);
            let _ = self.held.dropped.push_within(Dropped { place, half, child });
        } else {
            let empty = match half {
                Half::Small => 0,
                // The table stays linked, and no small page lives where a big one did.
                Half::Big => F::encode_pte(&Pte::NoValid4K)?,
            };
            let level = half.level();
            if half == Half::Small {
                self.close_small(domain, cleared)?;
            }
            for range in cleared.ranges.iter() {
                let run = Run { first: empty, step: 0, count: small((range.end - range.start) >> level.shift) };
                let at = entry_at(at, level.index(range.start));
                push_write(&mut self.main.leaves, Write { at, run, stride: 8, source: Source::Words })?;
            }
        }
        if let Some(table) = self.tree.table_mut(number) {
            table.used = table.used.saturating_sub(u16::try_from(cleared.entries).unwrap_or(u16::MAX));
        }
        Ok(())
    }

    /// Says "no small pages" in the 64K table beside, where the last of a 64 KiB chunk goes.
    fn close_small(&mut self, domain: u64, cleared: &Clearing) -> Result<(), PrepareError> {
        let Some((_, big)) = self.table(domain, Half::Big) else { return Ok(()) };
        let Some(at) = self.tree.table(big).map(|table| table.at) else { return Ok(()) };
        let closed = F::encode_pte(&Pte::NoValid4K)?;
        let mut start = domain;
        for range in cleared.ranges.iter() {
            start = start.max(range.start & !(BIG_TABLE.span() - 1));
            while start < range.end {
                let chunk = start..start + BIG_TABLE.span();
                if !has_small_pages(self.va, chunk.clone(), None) {
                    self.held.own(chunk.clone())?;
                    push_write(&mut self.main.leaves, one_word(entry_at(at, BIG_TABLE.index(start)), closed))?;
                }
                start = chunk.end;
            }
        }
        Ok(())
    }

    /// A leaf table of a domain.
    fn table(&self, domain: u64, half: Half) -> Option<(Place, u32)> {
        let directory = self.tree.find(dual_level::<F>(), domain)?;
        let place = Place { directory, slot: half_slot::<F>(half, domain) };
        match self.tree.child(place) {
            Child::Table(number) => Some((place, number)),
            Child::Empty | Child::Leaf | Child::Directory(_) => None,
        }
    }

    /// Clears leaves of a directory, both words of dual entries.
    fn large(&mut self, page: PageSize, range: Range<u64>) -> Result<(), PrepareError> {
        self.close_domain()?;
        self.held.own(range.clone())?;
        let n = leaf_level::<F>(page);
        let level = level::<F>(n);
        let mut va = range.start;
        while va < range.end {
            let end = range.end.min(next_table::<F>(n, va));
            let directory = self.tree.find(n, va).ok_or(PrepareError::Overflow)?;
            let entries = (end - va) >> level.shift;
            let first = Place { directory, slot: entry_slot::<F>(n, va) };
            let at = self.tree.word_at(first).ok_or(PrepareError::Overflow)?;
            let run = Run { first: 0, step: 0, count: small(entries * level.entry_bytes / 8) };
            push_write(&mut self.main.leaves, Write { at, run, stride: 8, source: Source::Words })?;
            self.main.deepen(level.depth);
            for entry in 0..entries {
                let slot = entry_slot::<F>(n, va + (entry << level.shift));
                self.tree.set(Place { directory, slot }, Child::Empty);
            }
            self.done = end;
            va = end;
        }
        Ok(())
    }
}

fn one_word(at: TableAddr, word: u64) -> Write {
    Write { at, run: Run { first: word, step: 0, count: 1 }, stride: 8, source: Source::Words }
}
