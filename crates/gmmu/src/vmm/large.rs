//! Entries of directories: large leaves, sparse entries, and what has to be done where one of them is cut.

use super::change::Target;
use super::domain::Table;
use super::execute::{Source, Write};
use super::journal::Step;
use super::plan::{one_word, small, Planner, DOMAIN_BYTES};
use super::request::PrepareError;
use super::rounds::push_write;
use crate::addr::{PageSize, TableAddr};
use crate::device::{Acknowledge, Depth, Run, TablePool};
use crate::format::{Format, Link, Slot, SMALL_TABLE};
use crate::tree::{dual_level, entry_slot, level, Child, Half, Place, DIRECTORY_BYTES};
use crate::va::windows::Cover;
use core::ops::Range;

impl<F: Format, P: TablePool> Planner<'_, F, P> {
    /// Plans pages that are leaves of directory `number`, neighbours in it.
    pub(super) fn leaves(
        &mut self,
        n: u8,
        number: u32,
        pages: Range<u64>,
        target: &Target,
    ) -> Result<(), PrepareError> {
        self.held.own(pages.clone())?;
        let level = level::<F>(n);
        let dual = level.entry_bytes == 16;
        let count = (pages.end - pages.start) >> level.shift;
        let first = Place { directory: number, slot: entry_slot::<F>(n, pages.start) };
        let rewritten = self.replace_run(n, first, count, Child::Leaf, Child::Leaf)?;
        let tables_first = self.set.tables_first && target.piece.page == PageSize::Size512M;
        if !rewritten && (tables_first || !self.replace_run(n, first, count, Child::Empty, Child::Leaf)?) {
            let before = if tables_first { Some(self.invalid_tables()?) } else { None };
            for entry in 0..count {
                let slot = entry_slot::<F>(n, pages.start + (entry << level.shift));
                self.occupy(n, Place { slot, ..first }, Child::Leaf, before)?;
            }
        }
        let at = self.tree.word_at(first).ok_or(PrepareError::Overflow)?;
        if dual && !rewritten {
            // The image is written whole, and the half that makes it a leaf last.
            let high = Run { first: 0, step: 0, count: small(count) };
            let at = at.with_raw(at.raw() + 8);
            push_write(&mut self.main.leaves, Write { at, run: high, stride: 16, source: Source::Words })?;
        }
        self.leaf_write(at, if dual { 16 } else { 8 }, &pages, target)?;
        self.main.deepen(level.depth);
        Ok(())
    }

    /// Puts `new` in the place of `old` in neighbouring entries, if all of them hold it. Both are plain.
    fn replace_run(&mut self, n: u8, first: Place, count: u64, old: Child, new: Child) -> Result<bool, PrepareError> {
        self.held.journal.reserve(1)?;
        let words = level::<F>(n).entry_bytes.to_le_bytes()[0] / 8;
        let entries = usize::try_from(count).unwrap_or(usize::MAX);
        let replaced = self.tree.replace_run(first, usize::from(words), entries, old, new);
        if replaced {
            let entries = u16::try_from(count).unwrap_or(u16::MAX);
            self.held.journal.note_run(first, u16::from(words), entries, old, new);
        }
        Ok(replaced)
    }

    /// Takes out at once what begins at `range`: neighbouring leaves of a directory, or neighbouring leaf tables that hold
    /// nothing else. Returns up to where; nothing sparse and nothing new is about.
    pub(super) fn take_out(&mut self, n: u8, number: u32, range: Range<u64>) -> Result<u64, PrepareError> {
        let old = self.set.change.old.get(self.old_at).filter(|(old, _)| old.start <= range.start);
        let Some((old, piece)) = old else { return Ok(range.start) };
        let stretch = range.start..old.end.min(range.end);
        if n == dual_level::<F>() && piece.page <= PageSize::Size64K {
            return self.drop_tables(number, stretch, piece.page);
        }
        let level = level::<F>(n);
        if level.leaf != Some(piece.page) {
            return Ok(range.start);
        }
        let first = Place { directory: number, slot: entry_slot::<F>(n, stretch.start) };
        let count = (stretch.end - stretch.start) >> level.shift;
        if !self.replace_run(n, first, count, Child::Leaf, Child::Empty)? {
            return Ok(range.start);
        }
        self.held.own(stretch.clone())?;
        let at = self.tree.word_at(first).ok_or(PrepareError::Overflow)?;
        let run = Run { first: 0, step: 0, count: small(count * level.entry_bytes / 8) };
        push_write(&mut self.main.leaves, Write { at, run, stride: 8, source: Source::Words })?;
        self.main.deepen(level.depth);
        Ok(stretch.end)
    }

    /// Drops the leaf tables over the domains that `pages` fill, up to the first that is not alone in its domain.
    fn drop_tables(&mut self, number: u32, pages: Range<u64>, page: PageSize) -> Result<u64, PrepareError> {
        if pages.start % DOMAIN_BYTES != 0 {
            return Ok(pages.start);
        }
        let full = u16::try_from(DOMAIN_BYTES >> page.shift()).unwrap_or(u16::MAX);
        let half = if page == PageSize::Size4K { Half::Small } else { Half::Big };
        let most = usize::try_from((pages.end - pages.start) / DOMAIN_BYTES).unwrap_or(usize::MAX);
        let first = Place { directory: number, slot: entry_slot::<F>(dual_level::<F>(), pages.start) };
        let journal = &mut self.held.journal;
        journal.reserve(most)?;
        let count = self.tree.drop_tables(first, half, most, full, |place, table| {
            journal.note_run(place, 1, 1, Child::Table(table), Child::Empty);
        });
        let end = pages.start + count as u64 * DOMAIN_BYTES;
        if count > 0 {
            self.held.own(pages.start..end)?;
            let place = Place { slot: first.slot + u16::from(half == Half::Small), ..first };
            let at = self.tree.word_at(place).ok_or(PrepareError::Overflow)?;
            let run = Run { first: 0, step: 0, count: small(count as u64) };
            push_write(&mut self.main.links, Write { at, run, stride: 16, source: Source::Words })?;
            self.main.deepen(Depth::UpToPde0);
        }
        Ok(end)
    }

    /// Fills whole leaf tables at once: those over the domains from the start of `pages` on that `target` covers and where
    /// nothing else is, nor was. Returns up to where.
    pub(super) fn fill_tables(&mut self, number: u32, pages: Range<u64>, target: &Target) -> Result<u64, PrepareError> {
        if pages.start % DOMAIN_BYTES != 0 || target.kept {
            return Ok(pages.start);
        }
        let page = target.piece.page;
        let half = if page == PageSize::Size4K { Half::Small } else { Half::Big };
        let full = u16::try_from(DOMAIN_BYTES >> page.shift()).unwrap_or(u16::MAX);
        let open = if half == Half::Small { u32::MAX } else { 0 };
        let mut dual = Place { directory: number, slot: entry_slot::<F>(dual_level::<F>(), pages.start) };
        let (mut va, mut added) = (pages.start, None);
        while va + DOMAIN_BYTES <= pages.end {
            self.held.journal.reserve(1)?;
            let at = match self.tree.lone_table(dual, half) {
                Ok(Some((number, table))) if table.used == 0 && table.open == 0 => {
                    let used = i16::try_from(full).unwrap_or(0);
                    let step =
                        Step::Counted { table: number, domain: va, used, chunks: open, shared: half == Half::Small };
                    (table.used, table.open) = (full, open);
                    let at = table.at;
                    self.held.journal.note(step);
                    at
                }
                Ok(None) => {
                    let place = Place { slot: dual.slot + u16::from(half == Half::Small), ..dual };
                    let used = i16::try_from(full).unwrap_or(0);
                    let Some(Table { at, .. }) = self.add_table(half, place, open, used)? else { break };
                    added = Some(added.map_or(va, |first: u64| first));
                    at
                }
                _ => break,
            };
            let end = va + DOMAIN_BYTES;
            self.leaf_write(at, 8, &(va..end), target)?;
            va = end;
            dual.slot += 2;
        }
        if let Some(first) = added {
            self.held.own(first..va)?;
        }
        Ok(va)
    }

    /// Lets `new`, a leaf or sparse, take one directory entry. Tables that hang there are dropped in a round before; on
    /// chips that need it, tables of invalid entries are linked there instead.
    fn occupy(&mut self, n: u8, place: Place, new: Child, before: Option<TableAddr>) -> Result<(), PrepareError> {
        let level = level::<F>(n);
        self.held.journal.reserve(2)?;
        let mut dropped = false;
        let stride = small(level.entry_bytes / 8);
        for half in 1..stride {
            let high = Place { slot: place.slot + u16::try_from(half).unwrap_or(0), ..place };
            if self.tree.child(high) != Child::Empty {
                self.held.journal.hang(self.tree, high, 1, Child::Empty);
                dropped = true;
            }
        }
        dropped |= matches!(self.tree.child(place), Child::Directory(_) | Child::Table(_));
        self.held.journal.hang(self.tree, place, u16::try_from(stride).unwrap_or(1), new);
        let word = match before {
            Some(table) => F::encode_link(Slot::Pde, &Link::table(table))?,
            None if dropped => 0,
            None => return Ok(()),
        };
        self.clear_entry(n, place, word)
    }

    /// Puts `word` into every word of an entry, in the round before the main one.
    fn clear_entry(&mut self, n: u8, place: Place, word: u64) -> Result<(), PrepareError> {
        let level = level::<F>(n);
        let at = self.tree.word_at(place).ok_or(PrepareError::Overflow)?;
        let run = Run { first: word, step: 0, count: small(level.entry_bytes / 8) };
        push_write(&mut self.clear.links, Write { at, run, stride: 8, source: Source::Words })?;
        self.clear.deepen(level.depth);
        Ok(())
    }

    /// A directory whose every entry leads to one table of invalid entries (section 3 rule 9; NVIDIA bug 2720120).
    fn invalid_tables(&mut self) -> Result<TableAddr, PrepareError> {
        // The leaf takes those tables out again, and they are freed.
        self.main.flush.what.ack = Acknowledge::Globally;
        self.held.spare.reserve(2)?;
        let table = self.take(DIRECTORY_BYTES)?;
        let _ = self.held.spare.push_within(table);
        let directory = self.take(DIRECTORY_BYTES)?;
        let _ = self.held.spare.push_within(directory);
        self.initialise(table, 0, SMALL_TABLE.entries(), 0)?;
        let small_half = F::encode_link(Slot::Small, &Link::table(table))?;
        for (offset, first) in [(0, 0), (8, small_half)] {
            let at = directory.with_raw(directory.raw() + offset);
            let write = Write { at, run: Run { first, step: 0, count: 256 }, stride: 16, source: Source::Words };
            push_write(self.init, write)?;
        }
        Ok(directory)
    }

    /// Makes one entry above the dual ones what its whole span comes to, if that is one thing and no tables stand there.
    pub(super) fn settle(&mut self, n: u8, place: Place, start: u64) -> Result<bool, PrepareError> {
        let level = level::<F>(n);
        let span = start..start.saturating_add(level.span());
        let child = self.tree.child(place);
        match child {
            Child::Directory(_) | Child::Table(_) => return Ok(false),
            _ if self.new_in(span.clone()).next().is_some() => return Ok(false),
            Child::Empty | Child::Leaf | Child::Sparse => {}
        }
        let want = match self.background(span.clone()) {
            Cover::Full => Child::Sparse,
            Cover::None => Child::Empty,
            Cover::Part => return Ok(false),
        };
        if child != want {
            self.held.own(span)?;
            self.occupy(n, place, want, None)?;
            self.write_settled(n, place, want)?;
        }
        Ok(true)
    }

    /// The same for a dual entry, where empty tables give way to a sparse entry.
    pub(super) fn settle_dual(&mut self, n: u8, place: Place, start: u64) -> Result<bool, PrepareError> {
        let (big, little) = self.tree.halves(place);
        if !matches!(big, Child::Table(_)) && !matches!(little, Child::Table(_)) {
            return self.settle(n, place, start);
        }
        if self.set.change.background.is_empty() || self.new_in(start..start + level::<F>(n).span()).next().is_some() {
            return Ok(false);
        }
        let span = start..start + level::<F>(n).span();
        let gives_way = self.background(span.clone()) == Cover::Full
            && self.set.sparse_before.cover(span.clone()) == Cover::None
            && self.tree.is_empty_below(big)
            && self.tree.is_empty_below(little);
        if gives_way {
            self.held.own(span)?;
            self.occupy(n, place, Child::Sparse, None)?;
            self.write_settled(n, place, Child::Sparse)?;
        }
        Ok(gives_way)
    }

    fn write_settled(&mut self, n: u8, place: Place, want: Child) -> Result<(), PrepareError> {
        let level = level::<F>(n);
        let word = if want == Child::Sparse { self.set.nothing.sparse_entry } else { 0 };
        let at = self.tree.word_at(place).ok_or(PrepareError::Overflow)?;
        push_write(&mut self.main.leaves, one_word(at, word))?;
        if level.entry_bytes == 16 {
            push_write(&mut self.main.leaves, one_word(at.with_raw(at.raw() + 8), 0))?;
        }
        self.main.deepen(level.depth);
        Ok(())
    }

    /// Cuts a large leaf or sparse entry: a directory takes its place, and what it said is said below.
    pub(super) fn cut(&mut self, n: u8, place: Place, start: u64) -> Result<u32, PrepareError> {
        let span = start..start.saturating_add(level::<F>(n).span());
        self.may_fault(span.clone())?;
        self.held.own(span)?;
        if !self.is_fresh(place.directory) {
            self.clear_entry(n, place, 0)?;
        }
        // Whatever of a leaf is to stay is among the new pages.
        let filling = if self.tree.child(place) == Child::Sparse { Child::Sparse } else { Child::Empty };
        self.add_directory(n + 1, place, filling)
    }

    /// Whether this job made a directory, so that nobody has seen its entries.
    pub(super) fn is_fresh(&self, directory: u32) -> bool {
        self.tree.directory(directory).is_some_and(|directory| directory.made_by == self.set.job)
    }
}
