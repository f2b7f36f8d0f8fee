//! Where something fits: the gaps in order, skipping whole subtrees in which no gap is large enough.

use super::gap::{kind_for, pages, Gap, Size};
use super::node::{Inner, Node, FAN};
use super::request::Wish;
use super::tree::{Path, Tree};
use crate::addr::PAGE_BYTES;

/// What a search looks for in inner nodes.
#[derive(Clone, Copy, Debug)]
struct Sought {
    kind: usize,
    size: Size,
    /// From the top down.
    high: bool,
}

impl Sought {
    fn new(wish: &Wish) -> Self {
        Self { kind: kind_for(wish.align), size: pages(wish.bytes), high: false }
    }

    /// The first child with a gap of the size sought, starting at `from` or behind it.
    #[inline]
    fn pick(&self, inner: &Inner, from: Option<usize>, inclusive: bool) -> Option<usize> {
        let bits = inner.with(self.kind, self.size);
        if self.high {
            let part = from.map_or(u32::MAX, |slot| !(u32::MAX << slot << u32::from(inclusive)));
            (bits & part).checked_ilog2().map(|slot| slot as usize)
        } else {
            let part = from.map_or(u32::MAX, |slot| u32::MAX << slot << u32::from(!inclusive));
            Some((bits & part).trailing_zeros() as usize).filter(|slot| *slot < FAN)
        }
    }
}

impl<T> Tree<T> {
    /// The lowest address for `wish` in `lo..hi`.
    pub(super) fn lowest(&self, wish: &Wish, lo: u64, hi: u64) -> Option<u64> {
        self.lowest_gap(wish, lo, hi)?.lowest(wish, lo, hi)
    }

    /// The lowest gap with room for `wish` in `lo..hi`.
    fn lowest_gap(&self, wish: &Wish, lo: u64, hi: u64) -> Option<Gap> {
        if lo < self.base {
            let head = self.head_gap();
            if head.lowest(wish, lo, hi).is_some() {
                return Some(head);
            }
        }
        let sought = Sought::new(wish);
        let mut path = Path::new(self.root, self.depth);
        let mut there = self.down(&sought, &mut path, 0, Some(lo));
        while there || self.up(&sought, &mut path) {
            let leaf = self.leaves.get(path.pos.leaf)?;
            if let Some(slot) = leaf.first_fit(wish, lo, hi, path.pos.slot) {
                return leaf.gap(slot);
            }
            if leaf.last() >= hi {
                return None;
            }
            there = false;
        }
        Some(self.tail_gap()).filter(|gap| gap.lowest(wish, lo, hi).is_some())
    }

    /// The highest address for `wish` in `lo..hi`.
    pub(super) fn highest(&self, wish: &Wish, lo: u64, hi: u64) -> Option<u64> {
        if let Some(va) = self.tail_gap().highest(wish, lo, hi) {
            return Some(va);
        }
        let sought = Sought { high: true, ..Sought::new(wish) };
        let mut path = Path::new(self.root, self.depth);
        let mut there = self.down(&sought, &mut path, 0, Some(hi.checked_sub(1)?));
        while there || self.up(&sought, &mut path) {
            let leaf = self.leaves.get(path.pos.leaf)?;
            // The gap before the first range behind `hi` is the highest one that matters.
            let slots = (0..leaf.len()).rev().skip_while(|slot| *slot > path.pos.slot);
            if let Some(va) = slots.filter_map(|slot| leaf.gap(slot)?.highest(wish, lo, hi)).next() {
                return Some(va);
            }
            if leaf.before <= lo {
                return None;
            }
            there = false;
        }
        if lo < self.base {
            self.head_gap().highest(wish, lo, hi)
        } else {
            None
        }
    }

    /// Goes from the node that the path has reached at `depth` to the first leaf with a gap of the size sought, starting
    /// at the address `from` if there is one, else at the end of the subtree. Returns whether there is such a leaf.
    fn down(&self, sought: &Sought, path: &mut Path, depth: usize, mut from: Option<u64>) -> bool {
        for at in depth..path.depth {
            let Some(inner) = self.inners.get(path.pos.leaf) else { return false };
            let start = from.map(|va| inner.seek(va));
            let Some(slot) = sought.pick(inner, start, true) else {
                // The way up goes on from here.
                path.set(at, path.pos.leaf, start.unwrap_or(0));
                path.depth_reached = at + 1;
                return false;
            };
            if start != Some(slot) {
                from = None;
            }
            path.set(at, path.pos.leaf, slot);
            let Some(child) = inner.child(slot) else { return false };
            path.pos.leaf = child;
        }
        path.depth_reached = path.depth;
        let Some(leaf) = self.leaves.get(path.pos.leaf) else { return false };
        path.pos.slot = from.map_or(if sought.high { FAN } else { 0 }, |va| leaf.seek(va));
        true
    }

    /// Goes on to the next leaf with a gap of the size sought.
    fn up(&self, sought: &Sought, path: &mut Path) -> bool {
        for depth in (0..path.depth_reached).rev() {
            let Some((node, slot)) = path.step(depth) else { return false };
            let Some(inner) = self.inners.get(node) else { return false };
            let Some(next) = sought.pick(inner, Some(slot), false) else { continue };
            let Some(child) = inner.child(next) else { return false };
            path.set(depth, node, next);
            path.pos.leaf = child;
            return self.down(sought, path, depth + 1, None);
        }
        false
    }

    /// How many bytes the largest range in `lo..hi` may have, whatever its alignment.
    pub(super) fn largest(&self, guard: u64, lo: u64, hi: u64) -> u64 {
        let (mut best, mut top) = (0, hi.saturating_sub(lo) / PAGE_BYTES);
        // The first question is the likely answer: the largest gap of all.
        let mut ask = self.largest_gap().clamp(1, top.max(1));
        while best < top {
            let wish = Wish { bytes: ask.saturating_mul(PAGE_BYTES), align: PAGE_BYTES, guard };
            match self.lowest_gap(&wish, lo, hi) {
                Some(gap) => best = (gap.room(guard, lo, hi) / PAGE_BYTES).max(ask),
                None => top = ask.saturating_sub(1),
            }
            ask = best + (top.saturating_sub(best)).div_ceil(2);
        }
        best.saturating_mul(PAGE_BYTES)
    }

    /// The pages of the largest gap anywhere, as far as the tree says.
    fn largest_gap(&self) -> u64 {
        let below = match self.inners.get(self.root).filter(|_| self.depth > 0) {
            Some(inner) => inner.largest()[0],
            None => self.leaves.get(self.root).map_or(0, |leaf| leaf.largest()[0]),
        };
        let tail = self.tail_gap();
        (tail.room(0, 0, u64::MAX) / PAGE_BYTES).max(u64::try_from(below).unwrap_or(0))
    }

    /// How many bytes from `at` on, below `hi`, a range with guard gaps may have.
    pub(super) fn room_from(&self, guard: u64, at: u64, hi: u64) -> u64 {
        let found = self.seek(at);
        let gap = match found.and_then(|pos| self.leaves.get(pos.leaf)?.gap(pos.slot)) {
            Some(_) if found.is_some_and(|pos| self.before(pos).is_none()) => self.head_gap(),
            Some(gap) => gap,
            None => self.tail_gap(),
        };
        if gap.usable(guard).0 <= at {
            gap.room(guard, at, hi)
        } else {
            0
        }
    }
}
