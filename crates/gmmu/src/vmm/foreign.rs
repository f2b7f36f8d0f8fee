//! What firmware made of an [adopted](Vmm::adopt) space, and how the space lives with it.
//!
//! Foreign addresses are excluded from the records, and every job that touches one is [`Busy`](PrepareError::Busy). Foreign
//! tables count in the mirror as in use for ever, and what they have room for is used as if they were ours. So the planner
//! knows of them only that a chunk with small pages of firmware's stays open.

use super::change::Change;
use super::piece::Pieces;
use super::plan::{entry_at, small};
use super::record::parts;
use super::request::{MapRequest, PrepareError};
use super::space::Vmm;
use crate::addr::{PageSize, TableAddr};
use crate::device::{DeviceError, Run, TableMemory};
use crate::format::Format;
use crate::storage::{List, NoMemory};
use crate::tree::{entry_slot, level, Child, Half, Place, Tree};
use core::ops::Range;

impl<F: Format> Vmm<F> {
    /// The addresses of an [adopted](Self::adopt) space that are firmware's, in order; none of any other space.
    pub fn foreign(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.va.excluded()
    }

    /// The tables that firmware made, with their sizes, the root among them; none but in an [adopted](Self::adopt) space.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub fn foreign_tables(&self) -> Result<List<(TableAddr, u64)>, NoMemory> {
        self.tree.addresses(true)
    }

    /// Refuses addresses that are firmware's.
    pub(super) fn refuse_foreign(&self, range: &Range<u64>) -> Result<(), PrepareError> {
        let mut foreign = self.va.excluded_in(range.clone());
        foreign.next().map_or(Ok(()), |with| Err(PrepareError::Busy { with }))
    }

    /// Refuses a change of what is firmware's.
    pub(super) fn refuse_foreign_change(&self, change: &Change) -> Result<(), PrepareError> {
        // Empty tables that go touch no address, even where they share a dual entry.
        if self.tree.foreign() == 0 || change.reclaims {
            return Ok(());
        }
        parts(&change.range, &change.parts).iter().try_for_each(|part| self.refuse_foreign(part))?;
        for target in change.new.iter().filter(|target| !target.kept) {
            if let Some(with) = self.tree.in_the_way(&target.range, target.piece.page) {
                return Err(PrepareError::Busy { with });
            }
        }
        Ok(())
    }

    /// The end of the last entry in `range` where a table of firmware's stands in the way of a page of this size.
    pub(super) fn foreign_until(&self, range: &Range<u64>, page: Option<PageSize>) -> Option<u64> {
        Some(self.tree.in_the_way(range, page?)?.end)
    }

    /// The pieces of a request placed at `range`, as parts of mapping `zap`: of pages that take the place of no table of
    /// firmware's, where it leaves the choice.
    pub(super) fn pieces_at<'r>(&self, request: &MapRequest<'r>, range: &Range<u64>, zap: u32) -> Pieces<'r> {
        let largest = self.largest_in(range, request.largest.unwrap_or(PageSize::Size256G));
        let request = MapRequest { largest: Some(largest), ..request.clone() };
        Pieces::new(&request, range.start, self.config.page_sizes(), zap)
    }

    /// The largest page, up to `largest`, that takes the place of no table of firmware's in `range`.
    pub(super) fn largest_in(&self, range: &Range<u64>, largest: PageSize) -> PageSize {
        let mut fits = largest;
        self.tree.visit_foreign(range, &mut |_, page| {
            let smaller = PageSize::ALL.into_iter().rfind(|smaller| *smaller < page);
            fits = fits.min(smaller.unwrap_or(fits));
        });
        fits
    }

    /// Empties everything in firmware's tables that is not firmware's: each slot says again what it did when it was found.
    pub(super) fn empty_foreign_tables<M: TableMemory>(&self, memory: &mut M) -> Result<(), DeviceError> {
        self.empty_directory(memory, 0, self.tree.root(), 0)
    }

    fn empty_directory<M: TableMemory>(
        &self,
        memory: &mut M,
        n: u8,
        directory: u32,
        start: u64,
    ) -> Result<(), DeviceError> {
        let Some(at) = self.tree.directory(directory).map(|directory| directory.at) else { return Ok(()) };
        let level = level::<F>(n);
        let words = level.entry_bytes / 8;
        let child = |word: u64| self.tree.child(Place { directory, slot: u16::try_from(word).unwrap_or(0) });
        let span = |word: u64| {
            let va = start + ((word / words) << level.shift);
            va..va + level.span()
        };
        write_slots(memory, at, level.table_bytes() / 8, |word| {
            let foreign = |word| self.tree.is_foreign(child(word));
            // An entry of firmware's that is no table is firmware's in both halves.
            let ours = (words == 2 && foreign(word ^ 1)) || self.refuse_foreign(&span(word)).is_ok();
            (ours && !foreign(word)).then_some(0)
        })?;
        for word in 0..level.table_bytes() / 8 {
            let half = if words == 2 && word % 2 == 1 { Half::Small } else { Half::Big };
            let start = span(word).start;
            match child(word) {
                child if !self.tree.is_foreign(child) => {}
                Child::Directory(below) => self.empty_directory(memory, n + 1, below, start)?,
                Child::Table(number) => self.empty_leaf_table(memory, half, number, start)?,
                Child::Empty | Child::Leaf | Child::Sparse => {}
            }
        }
        Ok(())
    }

    fn empty_leaf_table<M: TableMemory>(
        &self,
        memory: &mut M,
        half: Half,
        number: u32,
        start: u64,
    ) -> Result<(), DeviceError> {
        let Some(table) = self.tree.table(number) else { return Ok(()) };
        let level = half.level();
        write_slots(memory, table.at, level.entries(), |entry| {
            let va = start + (entry << level.shift);
            let closed = half == Half::Big && table.found & (1 << entry) != 0;
            let word = if closed { self.nothing.closed } else { 0 };
            self.refuse_foreign(&(va..va + level.span())).is_ok().then_some(word)
        })
    }
}

/// Writes the words of a table that `word` gives, neighbours that are alike at once.
fn write_slots<M: TableMemory>(
    memory: &mut M,
    table: TableAddr,
    slots: u64,
    word: impl Fn(u64) -> Option<u64>,
) -> Result<(), DeviceError> {
    let mut slot = 0;
    while slot < slots {
        let first = word(slot);
        let alike = (slot..slots).take_while(|&slot| word(slot) == first).count() as u64;
        if let Some(first) = first {
            memory.write_run(entry_at(table, slot), Run { first, step: 0, count: small(alike) })?;
        }
        slot += alike;
    }
    Ok(())
}

impl<F: Format> Tree<F> {
    /// The last entry in `range` where a foreign table stands, and a page of this size or a smaller one would.
    fn in_the_way(&self, range: &Range<u64>, page: PageSize) -> Option<Range<u64>> {
        let mut last = None;
        self.visit_foreign(range, &mut |entry, instead| {
            if instead <= page {
                last = Some(entry);
            }
        });
        last
    }

    /// Tells of each entry in `range` that leads to a foreign table: what it spans, and which page it would be otherwise.
    fn visit_foreign(&self, range: &Range<u64>, visit: &mut dyn FnMut(Range<u64>, PageSize)) {
        if self.foreign() != 0 {
            self.visit_foreign_below(0, self.root(), range, visit);
        }
    }

    fn visit_foreign_below(
        &self,
        n: u8,
        directory: u32,
        range: &Range<u64>,
        visit: &mut dyn FnMut(Range<u64>, PageSize),
    ) {
        let level = level::<F>(n);
        let mut va = range.start & !(level.span() - 1);
        while va < range.end {
            let entry = va..va.saturating_add(level.span());
            let place = Place { directory, slot: entry_slot::<F>(n, va) };
            let child = self.child(place);
            let beside = level.entry_bytes == 16 && self.is_foreign(self.halves(place).1);
            let foreign = self.is_foreign(child) || beside;
            if let (true, Some(page)) = (foreign, level.leaf) {
                visit(entry.clone(), page);
            }
            if let (true, Child::Directory(below)) = (foreign, child) {
                let part = range.start.max(entry.start)..range.end.min(entry.end);
                self.visit_foreign_below(n + 1, below, &part, visit);
            }
            va = entry.end;
        }
    }
}
