//! The words of leaf tables: what a change writes into the 4K and 64K tables of one domain.

use super::domain::{Table, Turn};
use super::execute::{Source, Write};
use super::journal::bits;
use super::piece::Piece;
use super::plan::{entry_at, small, Planner};
use super::request::PrepareError;
use super::rounds::push_write;
use crate::addr::{PageSize, PAGE_BYTES};
use crate::device::{Run, TablePool};
use crate::format::{Format, BIG_TABLE, SMALL_TABLE};
use crate::va::windows::Cover;
use core::ops::Range;

/// A page, as a step through addresses.
const PAGE: usize = 4096;

impl<F: Format, P: TablePool> Planner<'_, F, P> {
    /// Plans the entries of the domain's 4K table.
    pub(super) fn write_small(&mut self, turn: &Turn, table: &Table) -> Result<(), PrepareError> {
        // What was filled so far of a new table.
        let mut filled = turn.span().start;
        for (pages, target) in self.new_in(turn.span()) {
            if target.piece.page == PageSize::Size4K {
                if table.added {
                    self.fill_small(turn, table, filled..pages.start)?;
                    filled = pages.end;
                }
                self.leaf_write(entry_at(table.at, SMALL_TABLE.index(pages.start)), 8, &pages, target)?;
            }
        }
        if table.added {
            return self.fill_small(turn, table, filled..turn.span().end);
        }
        for (pages, piece) in self.old_in(turn.span()) {
            if piece.page == PageSize::Size4K {
                self.clear_replaced(turn, table, pages)?;
            }
        }
        if turn.any_sparse {
            for chunk in bits(turn.affected & (turn.open0 | turn.open1)) {
                self.write_background(turn, table, chunk)?;
            }
        }
        Ok(())
    }

    /// Initialises entries of a new 4K table that get no page, to what they meant before.
    fn fill_small(&mut self, turn: &Turn, table: &Table, range: Range<u64>) -> Result<(), PrepareError> {
        let first = (range.start - turn.domain) >> SMALL_TABLE.shift;
        let count = (range.end - range.start) >> SMALL_TABLE.shift;
        if !turn.any_sparse {
            return Ok(self.initialise(table.at, first, count, 0)?);
        }
        for entry in first..first + count {
            let page = turn.domain + (entry << SMALL_TABLE.shift);
            let open = turn.open1 & (1 << (entry / 16)) != 0;
            let word = if open { self.background_word(page) } else { 0 };
            self.initialise(table.at, entry, 1, word)?;
        }
        Ok(())
    }

    /// What a 4K entry without a page says after the change.
    fn background_word(&self, page: u64) -> u64 {
        match self.background(page..page + PAGE_BYTES) {
            Cover::Full => self.set.nothing.sparse,
            Cover::None | Cover::Part => 0,
        }
    }

    /// Clears the pages of `range` that no new ones replace.
    fn clear_replaced(&mut self, turn: &Turn, table: &Table, range: Range<u64>) -> Result<(), PrepareError> {
        let mut from = range.start;
        for (pages, target) in self.new_in(range.clone()) {
            if target.piece.page == PageSize::Size4K {
                self.clear_small(turn, table, from..pages.start)?;
                from = pages.end;
            }
        }
        self.clear_small(turn, table, from..range.end)
    }

    fn clear_small(&mut self, turn: &Turn, table: &Table, range: Range<u64>) -> Result<(), PrepareError> {
        #[cfg(feature = "sabotage")]
        if self.set.mistakes.leaves_small_entries {
            return Ok(());
        }
        let at = |va| entry_at(table.at, SMALL_TABLE.index(va));
        if !turn.any_sparse && turn.joined() == 0 {
            let run = Run { first: 0, step: 0, count: small((range.end - range.start) >> SMALL_TABLE.shift) };
            push_write(&mut self.main.leaves, Write { at: at(range.start), run, stride: 8, source: Source::Words })?;
            return Ok(());
        }
        for page in range.step_by(PAGE) {
            let chunk = 1 << BIG_TABLE.index(page);
            let first = if turn.open1 & chunk != 0 { self.background_word(page) } else { 0 };
            let write = Write { at: at(page), run: Run { first, step: 0, count: 1 }, stride: 8, source: Source::Words };
            // A 64K entry takes the chunk's place, and no two valid entries may follow one another.
            let round = if turn.joined() & chunk != 0 { &mut *self.clear } else { &mut *self.main };
            push_write(&mut round.leaves, write)?;
        }
        Ok(())
    }

    /// Writes what the entries between the pages of a chunk say, where that changes.
    fn write_background(&mut self, turn: &Turn, table: &Table, chunk: u32) -> Result<(), PrepareError> {
        let span = turn.chunk(chunk);
        let bit = 1 << chunk;
        let page_of = |va: u64| 1u32 << ((va - span.start) >> SMALL_TABLE.shift);
        let mut pages = 0;
        let small = |(_, piece): &(Range<u64>, &Piece)| piece.page == PageSize::Size4K;
        for (live, _) in self.set.va.overlapping(span.clone()).filter(small) {
            for va in (live.start.max(span.start)..live.end.min(span.end)).step_by(PAGE) {
                pages |= page_of(va);
            }
        }
        // Those that went were written with what is there now.
        for (gone, piece) in self.old_in(span.clone()) {
            if piece.page == PageSize::Size4K {
                for va in gone.step_by(PAGE) {
                    pages |= page_of(va);
                }
            }
        }
        for va in span.clone().step_by(PAGE).filter(|&va| pages & page_of(va) == 0) {
            let page = va..va + PAGE_BYTES;
            let was = turn.open0 & bit != 0 && self.set.sparse_before.cover(page.clone()) == Cover::Full;
            let is = turn.open1 & bit != 0 && self.background(page) == Cover::Full;
            if was != is {
                let run = Run { first: if is { self.set.nothing.sparse } else { 0 }, step: 0, count: 1 };
                let at = entry_at(table.at, SMALL_TABLE.index(va));
                let round = if turn.joined() & bit != 0 { &mut *self.clear } else { &mut *self.main };
                push_write(&mut round.leaves, Write { at, run, stride: 8, source: Source::Words })?;
            }
        }
        Ok(())
    }

    /// Plans the entries of the domain's 64K table.
    pub(super) fn write_big(&mut self, turn: &Turn, table: &Table) -> Result<(), PrepareError> {
        for (pages, target) in self.new_in(turn.span()) {
            if target.piece.page == PageSize::Size64K {
                self.leaf_write(entry_at(table.at, BIG_TABLE.index(pages.start)), 8, &pages, target)?;
            }
        }
        let (open, sparse) = (turn.open1, turn.sparse1);
        if table.added {
            for (mask, word) in [
                (open, 0),
                (sparse, self.set.nothing.sparse),
                (!(open | sparse | turn.after.big), self.set.nothing.closed),
            ] {
                for run in runs(mask) {
                    self.initialise(table.at, u64::from(run.start), u64::from(run.end - run.start), word)?;
                }
            }
            return Ok(());
        }
        let changed = (turn.open0 ^ open) | turn.before.big | (turn.sparse0 ^ sparse);
        let changed = changed & turn.affected & !turn.after.big;
        let closed = changed & !(open | sparse);
        let write = |run: Range<u32>, first| {
            let at = entry_at(table.at, u64::from(run.start));
            let run = Run { first, step: 0, count: run.end - run.start };
            Write { at, run, stride: 8, source: Source::Words }
        };
        for run in runs(turn.cut() | turn.joined()) {
            push_write(&mut self.clear.leaves, write(run, self.set.nothing.closed))?;
        }
        for run in runs(closed) {
            push_write(&mut self.main.leaves, write(run, self.set.nothing.closed))?;
        }
        for run in runs(changed & sparse) {
            push_write(&mut self.main.leaves, write(run, self.set.nothing.sparse))?;
        }
        // The small entries are written and ordered before the hardware is let look at them.
        for run in runs(changed & open) {
            push_write(&mut self.main.links, write(run, 0))?;
        }
        Ok(())
    }
}

/// The runs of set bits, lowest first.
fn runs(mask: u32) -> impl Iterator<Item = Range<u32>> {
    let mut left = u64::from(mask);
    let mut at = 0;
    core::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let skip = left.trailing_zeros();
        left >>= skip;
        let count = left.trailing_ones();
        left >>= count;
        let start = at + skip;
        at = start + count;
        Some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn runs_are_the_set_bits() {
        for mask in [0, 1, 0b1011_0110, u32::MAX, 1 << 31, 0xffff_0001] {
            let together = runs(mask).flatten().fold(0, |sum, bit| sum | 1u32 << bit);
            assert_eq!(together, mask);
        }
    }
}
