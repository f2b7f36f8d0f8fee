//! What a job did to the mirror, step by step, so that it can be taken back: after a failed prepare, and when a job is
//! cancelled. The same thing both times, since nothing that such a job brought was ever linked.
//!
//! Jobs that are only guests in a domain may be taken back in any order, so what they share is taken back as a difference
//! and never as the value from before.

use super::piece::Piece;
use crate::addr::PageSize;
use crate::device::TablePool;
use crate::format::{Format, BIG_TABLE};
use crate::storage::{List, NoMemory};
use crate::tree::{Child, Half, Place, Returns, Tree};
use crate::va::VaSpace;
use core::ops::Range;

/// One thing that was done to the mirror.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// `entries` slots from `place` on, `stride` slots apart, hold `new` where `old` was.
    Hung { place: Place, entries: u16, stride: u16, old: Child, new: Child },
    /// A leaf table over `domain` lost or won pages, and opened or closed chunks: those of `chunks`, or, where other
    /// jobs may do so at the same time, some of these.
    Counted { table: u32, domain: u64, used: i16, chunks: u32, shared: bool },
}

/// The steps of one job.
#[derive(Debug, Default)]
pub(super) struct Journal {
    steps: List<Step>,
}

impl Journal {
    /// Forgets all steps; the room stays.
    pub(super) fn clear(&mut self) {
        self.steps.clear();
    }

    pub(super) fn footprint(&self) -> usize {
        self.steps.footprint()
    }

    /// Makes room for `more` steps.
    pub(super) fn reserve(&mut self, more: usize) -> Result<(), NoMemory> {
        self.steps.reserve(more)
    }

    /// Hangs `new` on a slot, and notes what hung there. Room was reserved.
    pub(super) fn hang<F: Format>(&mut self, tree: &mut Tree<F>, place: Place, stride: u16, new: Child) {
        let old = tree.set(place, new);
        self.note_hung(place, stride, old, new);
    }

    /// Notes a step. Room was reserved.
    pub(super) fn note(&mut self, step: Step) {
        let _ = self.steps.push_within(step);
    }

    /// Notes that `new` hangs on `entries` slots where `old` did; both are plain.
    pub(super) fn note_run(&mut self, place: Place, stride: u16, entries: u16, old: Child, new: Child) {
        let _ = self.steps.push_within(Step::Hung { place, entries, stride, old, new });
    }

    /// Notes that `new` hangs where `old` did.
    pub(super) fn note_hung(&mut self, place: Place, stride: u16, old: Child, new: Child) {
        // Only runs of what has no number can be joined.
        let plain = |child| matches!(child, Child::Empty | Child::Leaf | Child::Sparse);
        if let Some(Step::Hung { place: first, entries, stride: s, old: o, new: n }) = self.steps.last_mut() {
            let next = first.slot + *entries * *s;
            let same = (first.directory, next, *s, *o, *n) == (place.directory, place.slot, stride, old, new);
            if same && plain(old) && plain(new) {
                *entries += 1;
                return;
            }
        }
        let _ = self.steps.push_within(Step::Hung { place, entries: 1, stride, old, new });
    }

    /// Changes the account of a leaf table, and notes how to take that back.
    #[inline]
    pub(super) fn count<F: Format>(&mut self, tree: &mut Tree<F>, table: u32, open: u32, step: Step) {
        let (Some(account), Step::Counted { used, .. }) = (tree.table_mut(table), &step) else { return };
        account.used = account.used.wrapping_add_signed(*used);
        account.open = open;
        let _ = self.steps.push_within(step);
    }

    /// Takes all steps back, last first. Tables that were hung are given to the pool. `va` already says what is mapped
    /// without the job.
    pub(super) fn take_back<F: Format, P: TablePool>(&self, tree: &mut Tree<F>, va: &VaSpace<Piece>, pool: &mut P) {
        for step in self.steps.iter().rev() {
            match *step {
                // Directories over nothing are shared from the moment they are there: `prune` sees to them.
                Step::Hung { old: Child::Empty, new: Child::Directory(_), .. } => {}
                Step::Hung { place, entries, stride, old, new } => {
                    for entry in 0..entries {
                        tree.set(Place { slot: place.slot + entry * stride, ..place }, old);
                    }
                    tree.free(new, half_of(place), pool);
                }
                Step::Counted { table, domain, used, chunks, shared } => {
                    let Some(account) = tree.table_mut(table) else { continue };
                    account.used = account.used.wrapping_add_signed(used.wrapping_neg());
                    account.open = if shared {
                        as_mapped(account.open, chunks, domain, va) | account.found
                    } else {
                        account.open ^ chunks
                    };
                }
            }
        }
    }

    /// Gives what was replaced to the pool: nothing can reach it any more.
    pub(super) fn free_replaced<F: Format, P: TablePool>(&self, tree: &mut Tree<F>, pool: &mut P) {
        let mut gone = Returns::new(pool);
        for step in self.steps.iter() {
            if let Step::Hung { place, old, .. } = *step {
                tree.free_to(old, half_of(place), &mut gone);
            }
        }
        gone.finish();
    }
}

/// Leaf tables hang on dual entries alone, whose even slots are the big halves.
const fn half_of(place: Place) -> Half {
    if place.slot % 2 == 0 {
        Half::Big
    } else {
        Half::Small
    }
}

/// `open` with `chunks` as the records have them.
pub(super) fn as_mapped(open: u32, chunks: u32, domain: u64, va: &VaSpace<Piece>) -> u32 {
    let mut open = open & !chunks;
    for chunk in bits(chunks) {
        let start = domain + (u64::from(chunk) << BIG_TABLE.shift);
        if has_small_pages(va, start..start + BIG_TABLE.span()) {
            open |= 1 << chunk;
        }
    }
    open
}

/// Whether 4K pages live in `range`.
pub(super) fn has_small_pages(va: &VaSpace<Piece>, range: Range<u64>) -> bool {
    va.overlapping(range).any(|(_, piece)| piece.page == PageSize::Size4K)
}

/// The numbers of the bits that are set, lowest first.
pub(super) fn bits(mask: u32) -> impl Iterator<Item = u32> {
    let mut left = mask;
    core::iter::from_fn(move || {
        let bit = (left != 0).then(|| left.trailing_zeros())?;
        left &= left - 1;
        Some(bit)
    })
}
