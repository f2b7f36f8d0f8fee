//! Buses that write a word in two halves (section 3 rule 6a): a live entry that changes in both of them would for a moment
//! be neither the old nor the new one. Such entries are cleared in a round before.

use super::piece::{Backed, Piece};
use super::plan::Planner;
use super::request::{Live, PrepareError};
use super::rounds::push_write;
use super::slots::clear_pages;
use crate::addr::{PageSize, PhysAddr};
use crate::device::TablePool;
use crate::format::{Format, Leaf, Pte};
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

    /// Clears `pages` in the round before the main one.
    fn clear_entries(&mut self, pages: Range<u64>, page: PageSize) -> Result<(), PrepareError> {
        let clear = &mut *self.clear;
        clear_pages(self.tree, self.set.nothing.closed, pages, page, |write, depth| {
            clear.deepen(depth);
            push_write(&mut clear.leaves, write).map_err(PrepareError::from)
        })
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
