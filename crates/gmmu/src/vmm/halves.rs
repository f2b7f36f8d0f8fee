//! Buses that write a word in two halves (section 3 rule 6a): a live entry that changes in both of them would for a moment
//! be neither the old nor the new one. Such entries are cleared in a round before.

use super::execute::{Source, Write};
use super::piece::{Backed, Piece};
use super::plan::{leaf_level, next_table, small, Planner, DOMAIN_BYTES};
use super::request::{Live, PrepareError};
use super::rounds::push_write;
use crate::addr::{PageSize, PhysAddr, TableAddr};
use crate::device::{Run, TablePool};
use crate::format::{Format, Leaf, Pte, BIG_TABLE, SMALL_TABLE};
use crate::tree::{entry_slot, level, Child, Place};
use core::ops::Range;

impl<F: Format, P: TablePool> Planner<'_, F, P> {
    /// Clears the live entries that are rewritten in place and differ in both halves.
    pub(super) fn clear_torn(&mut self) -> Result<(), PrepareError> {
        let change = self.set.change;
        for target in change.new.iter().filter(|target| !target.kept) {
            let first = change.old.partition_point(|(range, _)| range.end <= target.range.start);
            let old = change.old.get(first..).unwrap_or_default().iter();
            for (range, piece) in old.take_while(|(range, _)| range.start < target.range.end) {
                let both = range.start.max(target.range.start)..range.end.min(target.range.end);
                if piece.page != target.piece.page {
                    continue;
                }
                let old = piece.skip(both.start - range.start);
                let new = target.piece.skip(both.start - target.range.start);
                let torn = word::<F>(&old)? ^ word::<F>(&new)?;
                let elsewhere = old.to != new.to || change.other_frames(&old, &new);
                if elsewhere || (torn >> 32 != 0 && torn & u64::from(u32::MAX) != 0) {
                    if change.live == Live::MustNotFault {
                        return Err(PrepareError::WouldFault { entry: both });
                    }
                    self.clear_entries(both, piece.page)?;
                }
            }
        }
        Ok(())
    }

    /// Clears `pages` in the round before the main one, table by table.
    fn clear_entries(&mut self, pages: Range<u64>, page: PageSize) -> Result<(), PrepareError> {
        let n = leaf_level::<F>(page);
        let table = match page {
            PageSize::Size4K => &SMALL_TABLE,
            PageSize::Size64K => &BIG_TABLE,
            PageSize::Size2M | PageSize::Size512M | PageSize::Size256G => level::<F>(n),
        };
        let mut va = pages.start;
        while va < pages.end {
            let border = if page <= PageSize::Size64K { (va | (DOMAIN_BYTES - 1)) + 1 } else { next_table::<F>(n, va) };
            let end = pages.end.min(border);
            let words = table.entry_bytes / 8;
            let at = self.entry_of(va, page).ok_or(PrepareError::Overflow)?;
            let first = if page == PageSize::Size64K { self.set.nothing.closed } else { 0 };
            let run = Run { first, step: 0, count: small(((end - va) >> table.shift) * words) };
            push_write(&mut self.clear.leaves, Write { at, run, stride: 8, source: Source::Words })?;
            self.clear.deepen(table.depth);
            va = end;
        }
        Ok(())
    }

    /// Where the entry of a page is.
    fn entry_of(&self, va: u64, page: PageSize) -> Option<TableAddr> {
        let n = leaf_level::<F>(page);
        let mut directory = self.tree.root();
        for at in 0..n {
            match self.tree.child(Place { directory, slot: entry_slot::<F>(at, va) }) {
                Child::Directory(below) => directory = below,
                Child::Empty | Child::Leaf | Child::Sparse | Child::Table(_) => return None,
            }
        }
        let place = Place { directory, slot: entry_slot::<F>(n, va) };
        if page > PageSize::Size64K {
            return self.tree.word_at(place);
        }
        let (big, little) = self.tree.halves(place);
        let (child, level) = if page == PageSize::Size4K { (little, &SMALL_TABLE) } else { (big, &BIG_TABLE) };
        let Child::Table(number) = child else { return None };
        self.tree.table(number)?.at.checked_add(level.index(va) * 8)
    }
}

/// The entry of a piece's first page; where frames come late, of frame 0.
fn word<F: Format>(piece: &Piece) -> Result<u64, PrepareError> {
    let to = match piece.to {
        Backed::Memory(to) => to,
        Backed::Frames { aperture, .. } => PhysAddr::new(aperture, 0),
    };
    let Piece { kind, flags, .. } = *piece;
    Ok(F::encode_pte(&Pte::Leaf(Leaf { to, kind, flags, comptag: 0 }))?)
}
