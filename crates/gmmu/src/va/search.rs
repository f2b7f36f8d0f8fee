//! Where something fits: the gaps in order, skipping whole subtrees in which no gap is large enough.

use super::gap::{kind_for, Gap};
use super::node::{Inner, Node};
use super::request::Wish;
use super::tree::{Path, Tree};
use crate::addr::PAGE_BYTES;

impl<T> Tree<T> {
    /// The lowest address for `wish` in `lo..hi`.
    pub(super) fn lowest(&self, wish: &Wish, lo: u64, hi: u64) -> Option<u64> {
        self.lowest_gap(wish, lo, hi)?.lowest(wish, lo, hi)
    }

    /// The lowest gap with room for `wish` in `lo..hi`.
    fn lowest_gap(&self, wish: &Wish, lo: u64, hi: u64) -> Option<Gap> {
        if let Some(mut path) = self.descend(lo) {
            loop {
                let leaf = self.leaves.get(path.pos.leaf)?;
                for slot in path.pos.slot..leaf.len() {
                    let gap = leaf.gap(slot)?;
                    if gap.lowest(wish, lo, hi).is_some() {
                        return Some(gap);
                    }
                    if gap.after.at >= hi {
                        return None;
                    }
                }
                if !self.go_up(wish, &mut path) {
                    break;
                }
            }
        }
        Some(self.tail_gap()).filter(|gap| gap.lowest(wish, lo, hi).is_some())
    }

    /// The highest address for `wish` in `lo..hi`.
    pub(super) fn highest(&self, wish: &Wish, lo: u64, hi: u64) -> Option<u64> {
        // The first range that ends at `hi` or behind it: the gap before it is the highest one that matters.
        let Some(mut path) = self.descend(hi.checked_sub(1)?) else { return self.tail_gap().highest(wish, lo, hi) };
        let mut leaf = self.leaves.get(path.pos.leaf)?;
        if path.pos.slot >= leaf.len() {
            if let Some(va) = self.tail_gap().highest(wish, lo, hi) {
                return Some(va);
            }
        }
        let mut upto = path.pos.slot.saturating_add(1).min(leaf.len());
        loop {
            for slot in (0..upto).rev() {
                let gap = leaf.gap(slot)?;
                if let Some(va) = gap.highest(wish, lo, hi) {
                    return Some(va);
                }
                if gap.before.at <= lo {
                    return None;
                }
            }
            if !self.go_down(wish, &mut path) {
                return None;
            }
            leaf = self.leaves.get(path.pos.leaf)?;
            upto = leaf.len();
        }
    }

    /// Goes on to the next leaf upwards that has a gap of the size sought.
    fn go_up(&self, wish: &Wish, path: &mut Path) -> bool {
        let kind = kind_for(wish.align);
        self.go(path, |inner, from| inner.first_with(kind, wish.bytes, from.map_or(0, |slot| slot.saturating_add(1))))
    }

    /// Goes on to the next leaf downwards that has a gap of the size sought.
    fn go_down(&self, wish: &Wish, path: &mut Path) -> bool {
        let kind = kind_for(wish.align);
        self.go(path, |inner, from| inner.last_with(kind, wish.bytes, from.unwrap_or(usize::MAX)))
    }

    /// Goes to the leaf that `pick` chooses: given an inner node, it returns the child to go to after the one given.
    fn go(&self, path: &mut Path, pick: impl Fn(&Inner, Option<usize>) -> Option<usize>) -> bool {
        for depth in (0..path.depth).rev() {
            let Some((mut node, slot)) = path.step(depth) else { return false };
            let mut from = Some(slot);
            for below in depth..path.depth {
                let Some(inner) = self.inners.get(node) else { return false };
                let Some(next) = pick(inner, from.take()) else { break };
                path.set(below, node, next);
                let Some(child) = inner.child(next) else { return false };
                node = child;
                if below + 1 == path.depth {
                    (path.pos.leaf, path.pos.slot) = (node, 0);
                    return true;
                }
            }
        }
        false
    }

    /// How many bytes the largest range in `lo..hi` may have, whatever its alignment.
    pub(super) fn largest(&self, guard: u64, lo: u64, hi: u64) -> u64 {
        let (mut best, mut top) = (0, hi.saturating_sub(lo) / PAGE_BYTES);
        // The first question is the likely answer: the largest gap of all.
        let mut ask = self.largest_gap().div_ceil(PAGE_BYTES).clamp(1, top.max(1));
        while best < top {
            let wish = Wish { bytes: ask.saturating_mul(PAGE_BYTES), align: PAGE_BYTES, guard };
            match self.lowest_gap(&wish, lo, hi) {
                Some(gap) => best = (gap.room(guard, lo, hi) / PAGE_BYTES).max(ask),
                None => top = ask - 1,
            }
            ask = best + (top.saturating_sub(best)).div_ceil(2);
        }
        best.saturating_mul(PAGE_BYTES)
    }

    /// The largest gap anywhere.
    fn largest_gap(&self) -> u64 {
        let below = match self.inners.get(self.root).filter(|_| self.depth > 0) {
            Some(inner) => inner.largest(0),
            None => self.leaves.get(self.root).map_or(0, |leaf| leaf.largest(0, u64::MAX)),
        };
        below.max(self.tail_gap().size(0))
    }

    /// How many bytes from `at` on, below `hi`, a range with guard gaps may have.
    pub(super) fn room_from(&self, guard: u64, at: u64, hi: u64) -> u64 {
        let found = self.seek(at).and_then(|pos| self.leaves.get(pos.leaf)?.gap(pos.slot));
        let gap = found.unwrap_or_else(|| self.tail_gap());
        if gap.usable(guard).0 <= at {
            gap.room(guard, at, hi)
        } else {
            0
        }
    }
}
