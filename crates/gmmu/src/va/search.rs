//! Where something fits: the gaps in order, skipping whole subtrees in which no gap is large enough.

use super::gap::{grains, kind_for, Size, GRAIN};
use super::node::{Inner, Seat, FAN, NONE};
use super::request::Wish;
use super::tree::{Pos, Tree};
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
        Self { kind: kind_for(wish.align), size: grains(wish.bytes), high: false }
    }

    /// The first child with a gap of the size sought.
    #[inline]
    fn pick(&self, inner: &Inner) -> Option<usize> {
        self.first(inner.with(self.kind, self.size))
    }

    /// The first such child at `slot` or behind it.
    #[inline]
    fn pick_from(&self, inner: &Inner, slot: usize) -> Option<usize> {
        let part = if self.high { !(u32::MAX << 1 << slot) } else { u32::MAX << slot };
        self.first(inner.with(self.kind, self.size) & part)
    }

    /// The first such child behind `slot`.
    #[inline]
    fn pick_behind(&self, inner: &Inner, slot: usize) -> Option<usize> {
        let part = if self.high { !(u32::MAX << slot) } else { u32::MAX << 1 << slot };
        self.first(inner.with(self.kind, self.size) & part)
    }

    #[inline]
    fn first(&self, bits: u32) -> Option<usize> {
        let slot = if self.high { bits.checked_ilog2() } else { Some(bits.trailing_zeros()) };
        slot.map(|slot| slot as usize).filter(|slot| *slot < FAN)
    }

    /// The first slot of a leaf.
    fn start(&self) -> usize {
        if self.high {
            FAN
        } else {
            0
        }
    }
}

impl<T> Tree<T> {
    /// The lowest address for `wish` in `lo..hi`.
    pub(super) fn lowest(&self, wish: &Wish, lo: u64, hi: u64) -> Option<u64> {
        if lo < self.base {
            if let Some(va) = self.head_gap().lowest(wish, lo, hi) {
                return Some(va);
            }
        }
        let sought = Sought::new(wish);
        let mut next = if lo > self.base {
            self.first_leaf(&sought, Some(lo))
        } else {
            self.lowest_leaf(&sought).map(|leaf| Pos { leaf, slot: 0 })
        };
        while let Some(pos) = next {
            let spans = self.spans(pos.leaf)?;
            if let Some((va, slot)) = spans.lowest(wish, lo, hi, pos.slot) {
                self.guess(Pos { slot, ..pos });
                return Some(va);
            }
            if spans.last() >= hi {
                return None;
            }
            next = self.next_leaf(&sought, spans.seat, 0);
        }
        self.guess_tail();
        self.tail_gap().lowest(wish, lo, hi)
    }

    /// The highest address for `wish` in `lo..hi`.
    pub(super) fn highest(&self, wish: &Wish, lo: u64, hi: u64) -> Option<u64> {
        if let Some(va) = self.tail_gap().highest(wish, lo, hi) {
            self.guess_tail();
            return Some(va);
        }
        let sought = Sought { high: true, ..Sought::new(wish) };
        let mut next = self.first_leaf(&sought, Some(hi.checked_sub(1)?));
        while let Some(pos) = next {
            let spans = self.spans(pos.leaf)?;
            // The gap before the first range behind `hi` is the highest one that matters.
            let mut slots = (0..spans.len()).rev().skip_while(|slot| *slot > pos.slot);
            let found = slots.find_map(|slot| Some((spans.gap(slot)?.highest(wish, lo, hi)?, slot)));
            if let Some((va, slot)) = found {
                self.guess(Pos { slot, ..pos });
                return Some(va);
            }
            if spans.before <= lo {
                return None;
            }
            next = self.next_leaf(&sought, spans.seat, 0);
        }
        if lo < self.base {
            self.head_gap().highest(wish, lo, hi)
        } else {
            None
        }
    }

    /// The first leaf with a gap of the size sought, and where to start in it: at the address `from` if there is one,
    /// else at the end of the address space.
    #[inline]
    fn first_leaf(&self, sought: &Sought, mut from: Option<u64>) -> Option<Pos> {
        let mut node = self.root;
        for level in (1..=self.depth).rev() {
            let inner = self.inners.get(node)?;
            let slot = match from.map(|va| inner.seek(va)) {
                None => sought.pick(inner)?,
                Some(start) => {
                    let Some(slot) = sought.pick_from(inner, start) else {
                        return self.next_leaf(sought, inner.seat, level);
                    };
                    from = from.filter(|_| slot == start);
                    slot
                }
            };
            node = inner.child(slot)?;
        }
        let spans = self.spans(node)?;
        Some(Pos { leaf: node, slot: from.map_or(sought.start(), |va| spans.seek(va)) })
    }

    /// The first leaf of all with a gap of the size sought.
    #[inline]
    fn lowest_leaf(&self, sought: &Sought) -> Option<u32> {
        let mut node = self.root;
        for _ in 0..self.depth {
            let inner = self.inners.get(node)?;
            node = inner.child(inner.with(sought.kind, sought.size).trailing_zeros() as usize)?;
        }
        (node != NONE).then_some(node)
    }

    /// The next leaf with a gap of the size sought, behind all below the node with `seat`, which is of `level`.
    fn next_leaf(&self, sought: &Sought, mut seat: Seat, level: usize) -> Option<Pos> {
        for below in level.. {
            let inner = self.inners.get(seat.parent)?;
            if let Some(slot) = sought.pick_behind(inner, seat.slot()) {
                let mut leaf = inner.child(slot)?;
                for _ in 0..below {
                    let inner = self.inners.get(leaf)?;
                    leaf = inner.child(sought.pick(inner)?)?;
                }
                return Some(Pos { leaf, slot: sought.start() });
            }
            seat = inner.seat;
        }
        None
    }

    /// How many bytes the largest range in `lo..hi` may have, whatever its alignment.
    pub(super) fn largest(&self, guard: u64, lo: u64, hi: u64) -> u64 {
        let (mut best, mut top) = (0, hi.saturating_sub(lo) / PAGE_BYTES);
        // The first question is the likely answer: the largest gap of all.
        let mut ask = self.largest_gap().clamp(1, top.max(1));
        while best < top {
            let wish = Wish { bytes: ask.saturating_mul(PAGE_BYTES), align: PAGE_BYTES, guard };
            match self.lowest(&wish, lo, hi) {
                Some(va) => best = (self.room_from(guard, va, hi) / PAGE_BYTES).max(ask),
                None => top = ask.saturating_sub(1),
            }
            ask = best + (top.saturating_sub(best)).div_ceil(2);
        }
        best.saturating_mul(PAGE_BYTES)
    }

    /// The pages of the largest gap anywhere, as far as the tree says.
    fn largest_gap(&self) -> u64 {
        let below = match self.inners.get(self.root).filter(|_| self.depth > 0) {
            Some(inner) => inner.top[0],
            None => self.spans(self.root).map_or(0, |spans| spans.top[0]),
        };
        let tail = self.tail_gap();
        (tail.room(0, 0, u64::MAX) / PAGE_BYTES).max(u64::try_from(below).unwrap_or(0) * GRAIN / PAGE_BYTES)
    }

    /// How many bytes from `at` on, below `hi`, a range with guard gaps may have.
    pub(super) fn room_from(&self, guard: u64, at: u64, hi: u64) -> u64 {
        let found = self.seek(at);
        let gap = match found.and_then(|pos| self.spans(pos.leaf)?.gap(pos.slot)) {
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
