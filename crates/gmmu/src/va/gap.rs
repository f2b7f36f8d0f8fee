//! One gap between two ranges, and what fits into it.

use super::request::Wish;
use crate::addr::{PageSize, PAGE_BYTES};

/// How many sizes of a gap the tree keeps.
pub(super) const KINDS: usize = 4;

/// Sizes of a gap in grains, each from the first multiple of a page size of [`UNITS`] on: a wish with that alignment
/// fits if and only if it is not longer. What is at least [`HUGE`] just says so: 32 bits keep sizes small, and the few
/// gaps that large are looked at.
pub(super) type Sizes = [Size; KINDS];

/// Half a page. In whole pages the mask of the smallest unit would be 0, and compilers that see through one of four
/// lanes compute all of them one by one.
pub(super) const GRAIN: u64 = PAGE_BYTES / 2;

/// The sizes of no gap at all.
pub(super) const NO_GAP: Sizes = [0; KINDS];

/// A number of grains; signed, for that is what common processors compare many of at a time.
pub(super) type Size = i32;

/// From here on, 2 TiB, sizes are not told apart.
const HUGE: Size = 1 << 30;

/// The longest way to the next multiple of a unit, in grains, rounded up to a power of two.
const FARTHEST: Size = 1 << 18;

/// `bytes` of a wish in grains, as far as a [`Size`] can say.
#[inline]
pub(super) fn grains(bytes: u64) -> Size {
    size((bytes / GRAIN).min(HUGE as u64))
}

/// A number that is known to be small enough.
#[expect(clippy::cast_possible_truncation, reason = "callers have cut it off")]
const fn size(grains: u64) -> Size {
    grains as Size
}

/// The alignments for which the tree keeps sizes: those that page sizes ask for.
const UNITS: [u64; KINDS] =
    [PageSize::Size4K.bytes(), PageSize::Size64K.bytes(), PageSize::Size2M.bytes(), PageSize::Size512M.bytes()];

/// One less than the grains of each unit.
const MASKS: Sizes = {
    let (mut masks, mut kind) = ([0; KINDS], 0);
    while kind < KINDS {
        masks[kind] = size(UNITS[kind] / GRAIN) - 1;
        kind += 1;
    }
    masks
};

const _: () = assert!(UNITS[KINDS - 1] / GRAIN == FARTHEST as u64);

/// The kind of size by which gaps for `align` are sought: exact for the alignments in [`UNITS`], else that of the next
/// smaller one, which all gaps that fit have too.
pub(super) fn kind_for(align: u64) -> usize {
    // Counted, for which it is is a matter of chance and branches would be mispredicted.
    UNITS.iter().skip(1).map(|unit| usize::from(*unit <= align)).sum()
}

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

/// The sizes of a gap from `from` to `to`, which is not below that.
#[inline]
pub(super) fn sizes(from: u64, to: u64) -> Sizes {
    cap(widen(NO_GAP, from, to))
}

/// The larger of `best` and of the sizes of a gap from `from` to `to`, which is not below that; not cut off yet.
#[inline]
pub(super) fn widen(mut best: Sizes, from: u64, to: u64) -> Sizes {
    // Cut off so far above `HUGE` that it stays at least that without the way to the first multiple; and cut off there
    // afterwards, so that a part of a gap is not larger in any way.
    const CUT: u64 = (HUGE + FARTHEST) as u64;
    let length = size((to.wrapping_sub(from) / GRAIN).min(CUT));
    let way = size((from.wrapping_neg() / GRAIN) % FARTHEST as u64);
    for (best, mask) in best.iter_mut().zip(MASKS) {
        let size = length - (way & mask);
        if size > *best {
            *best = size;
        }
    }
    best
}

/// Sizes as they are kept.
#[inline]
pub(super) fn cap(sizes: Sizes) -> Sizes {
    sizes.map(|size| size.min(HUGE))
}

/// `at` rounded up to a multiple of `align`, a power of two.
pub(super) fn align_up(at: u64, align: u64) -> Option<u64> {
    let mask = align.wrapping_sub(1);
    Some(at.checked_add(mask)? & !mask)
}
