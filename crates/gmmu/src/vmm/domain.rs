//! One dual entry and the leaf tables under it: 2 MiB in 32 chunks of 64 KiB.
//!
//! A chunk is *open* where 4K pages, or sparse entries of that size, live in it: its slot in the 64K table is 0 then, so
//! that the hardware looks at the 4K table. Otherwise the slot is a page, sparse, or says "no 4K pages", and all small
//! entries below are invalid. The state of a domain before and after a change is therefore a handful of masks, and what
//! is to be written follows from their differences.

use super::execute::{Source, Write};
use super::journal::{as_mapped, bits, has_small_pages, Step};
use super::plan::{entry_at, one_word, small, Planner, DOMAIN_BYTES};
use super::request::PrepareError;
use super::rounds::push_write;
use crate::addr::{PageSize, TableAddr};
use crate::device::{Depth, Run, TablePool};
use crate::format::{Format, Link, Slot, BIG_TABLE, SMALL_TABLE};
use crate::tree::{half_slot, Child, Half, Place};
use crate::va::windows::{overlapping, Windows};
use core::ops::Range;

/// Pages of leaf tables in a domain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Chunks with 4K pages, and how many of these.
    pub(super) small: u32,
    pub(super) smalls: i16,
    /// Chunks that are 64K pages.
    pub(super) big: u32,
    pub(super) bigs: i16,
}

impl Tally {
    fn add(&mut self, domain: u64, range: &Range<u64>, page: PageSize) {
        let chunks = chunks_of(domain, range);
        let count = |shift| i16::try_from((range.end - range.start) >> shift).unwrap_or(0);
        match page {
            PageSize::Size4K => {
                self.small |= chunks;
                self.smalls += count(12);
            }
            PageSize::Size64K => {
                self.big |= chunks;
                self.bigs += count(16);
            }
            PageSize::Size2M | PageSize::Size512M | PageSize::Size256G => {}
        }
    }
}

/// A leaf table of the domain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) number: u32,
    pub(super) at: TableAddr,
    pub(super) used: i16,
    pub(super) open: u32,
    pub(super) found: u32,
    /// Made by this job.
    pub(super) added: bool,
}

/// What the change comes to in one domain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) domain: u64,
    pub(super) before: Tally,
    pub(super) after: Tally,
    /// Chunks whose state may change.
    pub(super) affected: u32,
    /// Open chunks, before and after.
    pub(super) open0: u32,
    pub(super) open1: u32,
    /// Chunks whose slot is a sparse entry of a 64K table that is there, before and after.
    pub(super) sparse0: u32,
    pub(super) sparse1: u32,
    /// Whether anything here reads as 0, before or after.
    pub(super) any_sparse: bool,
}

/// Entries of a 4K table.
const WHOLE: i16 = 512;

impl Turn {
    pub(super) fn span(&self) -> Range<u64> {
        self.domain..self.domain + DOMAIN_BYTES
    }

    pub(super) fn chunk(&self, chunk: u32) -> Range<u64> {
        let start = self.domain + (u64::from(chunk) << BIG_TABLE.shift);
        start..start + BIG_TABLE.span()
    }

    /// Chunks with valid entries of one size that get entries of the other: those need a round in between.
    pub(super) const fn cut(&self) -> u32 {
        (self.before.big | self.sparse0) & self.open1
    }
    pub(super) const fn joined(&self) -> u32 {
        self.open0 & (self.after.big | self.sparse1)
    }
}

impl<F: Format, P: TablePool> Planner<'_, F, P> {
    /// Plans what the change comes to under the dual entry at `domain`, where tables are, or are needed.
    pub(super) fn domain(&mut self, directory: u32, domain: u64) -> Result<(), PrepareError> {
        self.held.journal.reserve(6)?;
        let slot = half_slot::<F>(Half::Big, domain);
        let [big_at, small_at] = [Place { directory, slot }, Place { directory, slot: slot + 1 }];
        let (entry, other) = self.tree.halves(big_at);
        let (big, little) = (self.leaf_table(entry), self.leaf_table(other));
        let turn = self.turn(domain, [&big, &little]);

        let was_one = matches!(entry, Child::Leaf | Child::Sparse);
        if was_one {
            self.may_fault(turn.span())?;
            if !self.is_fresh(directory) {
                let at = self.tree.word_at(big_at).ok_or(PrepareError::Overflow)?;
                let run = Run { first: 0, step: 0, count: 2 };
                push_write(&mut self.clear.links, Write { at, run, stride: 8, source: Source::Words })?;
                self.clear.deepen(Depth::UpToPde0);
            }
        }
        for chunk in bits(turn.sparse0 & turn.open1) {
            self.may_fault(turn.chunk(chunk))?;
        }
        let drop = self.drops(&turn, [&big, &little]);
        let needs = [turn.after.big | turn.sparse1 != 0, turn.affected & turn.open1 != 0];
        let adds = [needs[0] && big.is_none(), needs[1] && little.is_none()];
        let slots_matter = big.is_some() || adds[0];
        let turned = (turn.open0 ^ turn.open1) != 0 && slots_matter;
        let owns = was_one || turn.any_sparse || adds != [false; 2] || drop != [false; 2] || turned;
        if owns {
            self.held.own(turn.span())?;
        }
        if was_one && !adds[0] {
            // The low word was the leaf, or said that all is sparse.
            self.held.journal.hang(self.tree, big_at, 1, Child::Empty);
            if self.is_fresh(directory) {
                self.link(big_at, 0, Depth::UpToPde0)?;
            }
        }
        let little =
            if adds[1] { self.add_table(Half::Small, small_at, turn.open1, turn.after.smalls)? } else { little };
        if drop[1] {
            self.drop_table(small_at, turn.joined() != 0)?;
        } else if let Some(table) = little {
            self.write_small(&turn, &table)?;
            let chunks = if owns { turn.open0 ^ turn.open1 } else { turn.affected };
            let used = turn.after.smalls - turn.before.smalls;
            self.count(&table, turn.open1, Step::Counted { table: table.number, domain, used, chunks, shared: !owns });
        }
        let big = if adds[0] { self.add_table(Half::Big, big_at, 0, turn.after.bigs)? } else { big };
        if drop[0] {
            self.drop_table(big_at, turn.cut() != 0)?;
        } else if let Some(table) = big {
            self.write_big(&turn, &table)?;
            let used = turn.after.bigs - turn.before.bigs;
            self.count(&table, 0, Step::Counted { table: table.number, domain, used, chunks: 0, shared: false });
        }
        Ok(())
    }

    /// A short cut for the most frequent change: 4K pages come or go in a 4K table that is there, stays, and has no 64K
    /// table beside it. The structure is as it was, so that the job is a guest, and all there is to it are entries and the
    /// table's account. Says whether this was such a change.
    pub(super) fn small_pages(&mut self, directory: u32, domain: u64) -> Result<bool, PrepareError> {
        let big_at = Place { directory, slot: half_slot::<F>(Half::Big, domain) };
        let (Child::Empty, little) = self.tree.halves(big_at) else { return Ok(false) };
        let Some(table) = self.leaf_table(little) else { return Ok(false) };
        let span = domain..domain + DOMAIN_BYTES;
        let mut some = Tally::default();
        // Chunks that are touched in part: other pages may live there.
        let mut shared = 0;
        if self.only_takes {
            for (range, piece) in self.old_in(span.clone()) {
                some.add(domain, &range, piece.page);
                shared |= chunks_of(domain, &range) & !whole_chunks_of(domain, &range);
            }
        } else {
            for (range, target) in self.new_in(span.clone()) {
                some.add(domain, &range, target.piece.page);
            }
        }
        let (chunks, pages) = (some.small, some.smalls);
        // Whole tables go, or are filled, several at once.
        if some.big != 0 || chunks == 0 || pages >= WHOLE {
            return Ok(false);
        }
        self.held.journal.reserve(1)?;
        let at = |va| entry_at(table.at, SMALL_TABLE.index(va));
        let (used, open);
        if self.only_takes {
            if table.used == pages && pages > 1 {
                return Ok(false);
            }
            let mapped = as_mapped(table.open & !chunks, shared, domain, self.set.va);
            (used, open) = (pages.wrapping_neg(), mapped | (chunks & table.found));
            for (range, _) in self.old_in(span) {
                let run = Run { first: 0, step: 0, count: small((range.end - range.start) >> SMALL_TABLE.shift) };
                push_write(
                    &mut self.main.leaves,
                    Write { at: at(range.start), run, stride: 8, source: Source::Words },
                )?;
            }
        } else {
            (used, open) = (pages, table.open | chunks);
            for (range, target) in self.new_in(span) {
                self.leaf_write(at(range.start), 8, &range, target)?;
            }
        }
        debug_assert!(self.is_small(domain, table, used, open), "the long way comes to something else");
        let step = Step::Counted { table: table.number, domain, used, chunks, shared: true };
        self.held.journal.count(self.tree, table.number, open, step);
        Ok(true)
    }

    /// Whether the long way would neither own the domain nor drop its table, and come to the same account.
    fn is_small(&self, domain: u64, table: Table, used: i16, open: u32) -> bool {
        let tables = [&None, &Some(table)];
        let turn = self.turn(domain, tables);
        let plain = turn.after.big | turn.sparse1 == 0 && !turn.any_sparse && self.drops(&turn, tables) == [false; 2];
        plain && turn.open1 == open && turn.after.smalls - turn.before.smalls == used
    }

    /// The masks of a domain.
    fn turn(&self, domain: u64, tables: [&Option<Table>; 2]) -> Turn {
        let span = domain..domain + DOMAIN_BYTES;
        let change = self.set.change;
        let (mut before, mut after) = (Tally::default(), Tally::default());
        for (range, piece) in self.old_in(span.clone()) {
            before.add(domain, &range, piece.page);
        }
        for (range, target) in self.new_in(span.clone()) {
            after.add(domain, &range, target.piece.page);
        }
        let mut affected = before.small | before.big | after.small | after.big;
        for part in overlapping(&change.background, span.clone()) {
            affected |= chunks_of(domain, &part);
        }
        let (any0, full0) = sparse_chunks(self.set.sparse_before, domain);
        let (any1, full1) = sparse_chunks(self.set.sparse, domain);
        let any_sparse = any0 | any1 != 0;
        let fresh = tables[0].is_none() && tables[1].is_none();
        if fresh && any_sparse {
            affected = u32::MAX;
        }
        let open0 = tables[1].map_or(0, |table| table.open);
        // Where the change covers a chunk, its lists say all; elsewhere other pages may live in it.
        let covered = change.parts_in(span).fold(0, |chunks, part| chunks | whole_chunks_of(domain, &part));
        let whole = if fresh { u32::MAX } else { covered };
        let mut small = after.small | tables[1].map_or(0, |table| table.found);
        for chunk in bits(affected & !whole & !after.small) {
            let start = domain + (u64::from(chunk) << BIG_TABLE.shift);
            if has_small_pages(self.set.va, start..start + BIG_TABLE.span()) {
                small |= 1 << chunk;
            }
        }
        let stays_small = small | (any1 & !full1) | (full1 & open0);
        let open1 = (open0 & !affected) | (affected & stays_small & !after.big);
        let sparse0 = if tables[0].is_some() { full0 & !open0 & !before.big & affected } else { 0 };
        let sparse1 = full1 & !open1 & !after.big & affected;
        Turn { domain, before, after, affected, open0, open1, sparse0, sparse1, any_sparse }
    }

    /// Which of the two tables go: those that map nothing any more, where that is less to write than to clear them.
    fn drops(&self, turn: &Turn, [big, little]: [&Option<Table>; 2]) -> [bool; 2] {
        let Turn { before, after, .. } = turn;
        let many = |entries: i16| entries > 1 || turn.any_sparse;
        let small_goes = little.is_some_and(|table| {
            table.used - before.smalls + after.smalls == 0 && turn.open1 == 0 && turn.affected & turn.open0 != 0
        });
        let big_goes = big.is_some_and(|table| {
            let leaves = table.used - before.bigs + after.bigs;
            leaves == 0 && (turn.before.big | turn.sparse0) != 0 && !self.keeps_sparse(turn)
        });
        [big_goes && many(before.bigs), small_goes && many(before.smalls)]
    }

    /// Whether some chunk is a sparse entry of the 64K table afterwards.
    fn keeps_sparse(&self, turn: &Turn) -> bool {
        turn.any_sparse && sparse_chunks(self.set.sparse, turn.domain).1 & !turn.open1 != 0
    }

    /// Keeps the account of a table that was there; a new one begins with it.
    fn count(&mut self, table: &Table, open: u32, step: Step) {
        if !table.added {
            self.held.journal.count(self.tree, table.number, open, step);
        }
    }

    fn leaf_table(&self, child: Child) -> Option<Table> {
        let Child::Table(number) = child else { return None };
        let table = self.tree.table(number)?;
        Some(Table {
            number,
            at: table.at,
            used: i16::try_from(table.used).unwrap_or(0),
            open: table.open,
            found: table.found,
            added: false,
        })
    }

    /// Hangs a new table on `place` and links it.
    pub(super) fn add_table(
        &mut self,
        half: Half,
        place: Place,
        open: u32,
        used: i16,
    ) -> Result<Option<Table>, PrepareError> {
        let bytes = half.level().table_bytes();
        let at = self.take(bytes)?;
        let old = self.tree.child(place);
        let added = self.tree.add_table(at, place, open, used.unsigned_abs());
        let number = self.keep(at, bytes, added)?;
        self.held.journal.note_hung(place, 1, old, Child::Table(number));
        let slot = if half == Half::Big { Slot::Big } else { Slot::Small };
        self.link(place, F::encode_link(slot, &Link::table(at))?, Depth::UpToPde0)?;
        Ok(Some(Table { number, at, used, open, found: 0, added: true }))
    }

    /// Takes a table off its half of the dual entry. It is freed when the job is committed. Where entries of the other
    /// size take the place of valid ones in it, it goes a round `before` them.
    fn drop_table(&mut self, place: Place, before: bool) -> Result<(), PrepareError> {
        self.held.journal.hang(self.tree, place, 1, Child::Empty);
        if !before {
            return self.link(place, 0, Depth::UpToPde0);
        }
        let at = self.tree.word_at(place).ok_or(PrepareError::Overflow)?;
        push_write(&mut self.clear.links, one_word(at, 0))?;
        self.clear.deepen(Depth::UpToPde0);
        Ok(())
    }
}

/// The chunks of a domain that `range`, a part of it, touches.
fn chunks_of(domain: u64, range: &Range<u64>) -> u32 {
    if range.start >= range.end {
        return 0;
    }
    let first = (range.start - domain) >> BIG_TABLE.shift;
    let last = (range.end - 1 - domain) >> BIG_TABLE.shift;
    // Both are below 32.
    (u32::MAX << first) & (u32::MAX >> (31 - last))
}

/// The chunks of a domain that lie in `range` whole.
fn whole_chunks_of(domain: u64, range: &Range<u64>) -> u32 {
    let mask = BIG_TABLE.span() - 1;
    let (start, end) = ((range.start + mask) & !mask, range.end & !mask);
    chunks_of(domain, &(start..end.max(start)))
}

/// The chunks of a domain that read as 0 in part or whole, and those that do whole.
fn sparse_chunks(windows: &Windows, domain: u64) -> (u32, u32) {
    let (mut any, mut full) = (0, 0);
    if windows.is_empty() {
        return (any, full);
    }
    for window in windows.overlapping(domain..domain + DOMAIN_BYTES) {
        any |= chunks_of(domain, &window);
        full |= whole_chunks_of(domain, &window);
    }
    (any, full)
}
