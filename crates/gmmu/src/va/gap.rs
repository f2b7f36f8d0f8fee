//! One gap between two ranges, and what fits into it.

use super::request::Wish;

/// A neighbour as a gap sees it: the address where it ends or starts, and how far `find` has to stay away from it.
/// Where the address space itself ends, that is the address, and nothing has to stay away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) at: u64,
    /// `None` at the ends of the address space, which no wish has to stay away from either.
    pub(super) guard: Option<u64>,
}

/// The bytes between two neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) before: Edge,
    pub(super) after: Edge,
}

impl Gap {
    /// The part in which a range with guard gaps of `guard` bytes may lie. The end may be below the start.
    pub(super) fn usable(&self, guard: u64) -> (u64, u64) {
        let away = |edge: &Edge| edge.guard.map_or(0, |own| own.max(guard));
        (self.before.at.saturating_add(away(&self.before)), self.after.at.saturating_sub(away(&self.after)))
    }

    /// The lowest address for `wish` within `lo..hi`.
    pub(super) fn lowest(&self, wish: &Wish, lo: u64, hi: u64) -> Option<u64> {
        let (from, to) = self.usable(wish.guard);
        let start = align_up(from.max(lo), wish.align)?;
        (start.checked_add(wish.bytes)? <= to.min(hi)).then_some(start)
    }

    /// The highest address for `wish` within `lo..hi`.
    pub(super) fn highest(&self, wish: &Wish, lo: u64, hi: u64) -> Option<u64> {
        let (from, to) = self.usable(wish.guard);
        let start = to.min(hi).checked_sub(wish.bytes)? & !wish.align.wrapping_sub(1);
        (start >= from.max(lo)).then_some(start)
    }

    /// How many bytes fit within `lo..hi`, whatever the alignment.
    pub(super) fn room(&self, guard: u64, lo: u64, hi: u64) -> u64 {
        let (from, to) = self.usable(guard);
        to.min(hi).saturating_sub(from.max(lo))
    }
}

/// `at` rounded up to a multiple of `align`, a power of two.
pub(super) fn align_up(at: u64, align: u64) -> Option<u64> {
    let mask = align.wrapping_sub(1);
    Some(at.checked_add(mask)? & !mask)
}
