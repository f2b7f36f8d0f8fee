//! Entries of directories: large leaves, sparse entries, and what has to be done where one of them is cut.

use super::change::Target;
use super::execute::{Source, Write};
use super::job::push_write;
use super::plan::{one_word, small, Planner};
use super::request::PrepareError;
use crate::addr::{PageSize, TableAddr};
use crate::device::{Acknowledge, Run, TablePool};
use crate::format::{Format, Link, Slot, SMALL_TABLE};
use crate::tree::{entry_slot, level, Child, Place, DIRECTORY_BYTES};
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
        let mut before = None;
        let mut rewritten = true;
        for entry in 0..count {
            let va = pages.start + (entry << level.shift);
            let place = Place { directory: number, slot: entry_slot::<F>(n, va) };
            if self.tree.child(place) != Child::Leaf {
                rewritten = false;
                if self.set.tables_first && target.piece.page == PageSize::Size512M && before.is_none() {
                    before = Some(self.invalid_tables()?);
                }
            }
            self.occupy(n, place, Child::Leaf, before)?;
        }
        let first = Place { directory: number, slot: entry_slot::<F>(n, pages.start) };
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
            push_write(&mut self.init, write)?;
        }
        Ok(directory)
    }

    /// Makes one entry above the dual ones what its whole span comes to, if that is one thing and no tables stand there.
    pub(super) fn settle(&mut self, n: u8, place: Place, start: u64) -> Result<bool, PrepareError> {
        let level = level::<F>(n);
        let span = start..start.saturating_add(level.span());
        let child = self.tree.child(place);
        let want = match (child, self.background(span.clone())) {
            // Pages stay as they are where only what lies between them changes.
            (Child::Leaf, _) if self.set.change.sparse.is_some() => return Ok(true),
            (Child::Directory(_) | Child::Table(_), _) | (_, Cover::Part) => return Ok(false),
            _ if self.new_in(span.clone()).next().is_some() => return Ok(false),
            (_, Cover::Full) => Child::Sparse,
            (_, Cover::None) => Child::Empty,
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
        let halves = [place, Place { slot: place.slot + 1, ..place }].map(|place| self.tree.child(place));
        if !halves.iter().any(|child| matches!(child, Child::Table(_))) {
            return self.settle(n, place, start);
        }
        let span = start..start + level::<F>(n).span();
        let becomes_sparse = self.set.change.sparse == Some(true) && self.background(span.clone()) == Cover::Full;
        let nothing_there = halves.iter().all(|&child| self.tree.is_empty_below(child))
            && self.set.sparse_before.cover(span.clone()) == Cover::None;
        if becomes_sparse && nothing_there {
            self.held.own(span)?;
            self.occupy(n, place, Child::Sparse, None)?;
            self.write_settled(n, place, Child::Sparse)?;
        }
        Ok(becomes_sparse && nothing_there)
    }

    fn write_settled(&mut self, n: u8, place: Place, want: Child) -> Result<(), PrepareError> {
        let level = level::<F>(n);
        let word = if want == Child::Sparse { self.sparse_entry } else { 0 };
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
