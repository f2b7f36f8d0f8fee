//! The leaves of the tree: ranges with their values, and the gaps before them.

use super::gap::{align_up, Edge, Gap, Largest, Sizes, KINDS};
use super::node::{close, count_up_to, larger, open, set, Node, Row, FAN, NONE};
use super::request::Wish;
use crate::addr::PAGE_BYTES;

/// In place of a guard gap: the end of the address space, which nothing has to stay away from.
pub(super) const NO_GUARD: u32 = u32::MAX;

/// Where a range lies, and its guard gap in pages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) guard: u32,
}

/// Ranges in order, and the value of each. The values lie beside the addresses, so that whoever has found a range has
/// its value in the cache or nearly so.
#[derive(Debug)]
pub(super) struct Leaf<T> {
    pub(super) spans: Spans,
    values: [Option<T>; FAN],
}

impl<T> Leaf<T> {
    pub(super) const fn new(before: u64, before_guard: u32) -> Self {
        Self { spans: Spans::new(before, before_guard), values: [const { None }; FAN] }
    }

    #[inline]
    pub(super) fn value(&self, slot: usize) -> Option<&T> {
        self.values.get(slot)?.as_ref()
    }

    pub(super) fn value_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.values.get_mut(slot)?.as_mut()
    }

    /// Inserts a range; there must be room for it.
    pub(super) fn insert(&mut self, slot: usize, span: Span, value: T) {
        let len = self.spans.len();
        let mut carried = Some(value);
        for place in self.values.get_mut(slot..=len).unwrap_or_default() {
            core::mem::swap(place, &mut carried);
        }
        self.spans.insert(slot, span);
    }

    pub(super) fn remove(&mut self, slot: usize) -> Option<T> {
        let len = self.spans.len();
        let mut carried = None;
        for place in self.values.get_mut(slot..len).unwrap_or_default().iter_mut().rev() {
            core::mem::swap(place, &mut carried);
        }
        self.spans.remove(slot);
        carried
    }
}

impl<T> Node for Leaf<T> {
    type Item = (Span, Option<T>);

    fn len(&self) -> usize {
        self.spans.len()
    }

    fn cut(&mut self, len: usize) {
        self.spans.cut(len);
    }

    fn take(&mut self, slot: usize) -> Option<Self::Item> {
        Some((self.spans.span(slot)?, self.values.get_mut(slot)?.take()))
    }

    fn put(&mut self, slot: usize, (span, value): Self::Item) {
        self.spans.put(slot, span);
        set(&mut self.values, slot, value);
    }
}

/// The addresses in a leaf, each field in an array of its own: a search touches the ends alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spans {
    /// Where the range before the first one ends, or the address space starts.
    pub(super) before: u64,
    /// That range's guard gap in pages, or [`NO_GUARD`].
    pub(super) before_guard: u32,
    pub(super) parent: u32,
    pub(super) prev: u32,
    pub(super) next: u32,
    len: u32,
    /// `u64::MAX` where there is no range, so that a search need not know how many there are.
    end: [u64; FAN],
    start: [u64; FAN],
    /// Guard gap in pages.
    guard: [u32; FAN],
}

fn edge(at: u64, guard: u32) -> Edge {
    Edge { at, guard: if guard == NO_GUARD { None } else { Some(bytes(guard)) } }
}

/// Bytes of a guard gap.
#[inline]
fn bytes(guard: u32) -> u64 {
    if guard == NO_GUARD {
        0
    } else {
        u64::from(guard) * PAGE_BYTES
    }
}

impl Spans {
    const fn new(before: u64, before_guard: u32) -> Self {
        Self {
            before,
            before_guard,
            parent: NONE,
            prev: NONE,
            next: NONE,
            len: 0,
            end: [u64::MAX; FAN],
            start: [0; FAN],
            guard: [0; FAN],
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.len() >= FAN
    }

    fn cut(&mut self, len: usize) {
        self.len = u32::try_from(len).unwrap_or(0);
        self.end.iter_mut().skip(len).for_each(|end| *end = u64::MAX);
    }

    /// The first range that ends behind `va`; the number of ranges where there is none.
    #[inline]
    pub(super) fn seek(&self, va: u64) -> usize {
        count_up_to(&self.end, va)
    }

    /// Whether a range that starts at `va` is in this leaf or belongs into it.
    #[inline]
    pub(super) fn covers(&self, va: u64) -> bool {
        (self.before <= va || self.prev == NONE) && va < self.bound()
    }

    #[inline]
    pub(super) fn span(&self, slot: usize) -> Option<Span> {
        let (start, end, guard) = (self.start.get(slot)?, self.end.get(slot)?, self.guard.get(slot)?);
        (slot < self.len()).then_some(Span { start: *start, end: *end, guard: *guard })
    }

    pub(super) fn put(&mut self, slot: usize, span: Span) {
        set(&mut self.start, slot, span.start);
        set(&mut self.end, slot, span.end);
        set(&mut self.guard, slot, span.guard);
    }

    fn insert(&mut self, slot: usize, span: Span) {
        let len = self.len();
        open(&mut self.end, len, slot);
        open(&mut self.start, len, slot);
        open(&mut self.guard, len, slot);
        self.put(slot, span);
        self.len = self.len.saturating_add(1);
    }

    fn remove(&mut self, slot: usize) {
        let len = self.len();
        close(&mut self.end, len, slot);
        close(&mut self.start, len, slot);
        close(&mut self.guard, len, slot);
        let left = len.saturating_sub(1);
        self.len = self.len.saturating_sub(1);
        set(&mut self.end, left, u64::MAX);
    }

    /// Where the last range ends.
    #[inline]
    pub(super) fn last(&self) -> u64 {
        self.end_before(self.len())
    }

    pub(super) fn last_guard(&self) -> u32 {
        self.guard_before(self.len())
    }

    /// The first address that does not belong into this leaf.
    #[inline]
    pub(super) fn bound(&self) -> u64 {
        if self.next == NONE {
            u64::MAX
        } else {
            self.last()
        }
    }

    #[inline]
    fn end_before(&self, slot: usize) -> u64 {
        slot.checked_sub(1).and_then(|slot| self.end.get(slot)).copied().unwrap_or(self.before)
    }

    #[inline]
    fn guard_before(&self, slot: usize) -> u32 {
        slot.checked_sub(1).and_then(|slot| self.guard.get(slot)).copied().unwrap_or(self.before_guard)
    }

    /// The edge that the range before `slot` gives to the gap behind it.
    pub(super) fn edge_before(&self, slot: usize) -> Edge {
        edge(self.end_before(slot), self.guard_before(slot))
    }

    /// The gap before a range.
    pub(super) fn gap(&self, slot: usize) -> Option<Gap> {
        let span = self.span(slot)?;
        Some(Gap { before: self.edge_before(slot), after: edge(span.start, span.guard) })
    }

    /// Where gaps may be used if nobody asks for guard gaps, from that before `slot` on.
    #[inline]
    fn usable(&self, slot: usize) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut from = self.end_before(slot).saturating_add(bytes(self.guard_before(slot)));
        let ranges = self.start.iter().zip(&self.end).zip(&self.guard).take(self.len()).skip(slot);
        ranges.map(move |((start, end), guard)| {
            let guard = bytes(*guard);
            let gap = (from, start.saturating_sub(guard));
            from = end.saturating_add(guard);
            gap
        })
    }

    /// The first range from `slot` on that has room for `wish` before it, in `lo..hi`.
    #[inline]
    pub(super) fn first_fit(&self, wish: &Wish, lo: u64, hi: u64, slot: usize) -> Option<usize> {
        if wish.guard > 0 {
            let fits = |slot: &usize| self.gap(*slot).is_some_and(|gap| gap.lowest(wish, lo, hi).is_some());
            return (slot..self.len()).find(fits);
        }
        let fits = |(from, to): (u64, u64)| {
            // Most gaps are too small before any alignment.
            to.wrapping_sub(from) >= wish.bytes
                && align_up(from.max(lo), wish.align)
                    .is_some_and(|at| at.saturating_add(wish.bytes) <= to.min(hi) && at <= to)
        };
        self.usable(slot).position(fits).map(|at| slot + at)
    }

    /// The sizes of the gap before a range; nothing where there is no range.
    #[inline]
    pub(super) fn sizes(&self, slot: usize) -> Sizes {
        let Some(span) = self.span(slot) else { return [0; KINDS] };
        let from = self.end_before(slot).saturating_add(bytes(self.guard_before(slot)));
        let mut sizes = Largest::new();
        sizes.add(from, span.start.saturating_sub(bytes(span.guard)));
        sizes.sizes()
    }

    /// The larger sizes of the gaps before and behind a range, as far as these are of this leaf.
    pub(super) fn sizes_around(&self, slot: usize) -> Sizes {
        larger(self.sizes(slot), self.sizes(slot + 1))
    }

    /// The largest sizes of all gaps.
    pub(super) fn largest(&self) -> Sizes {
        let mut largest = Largest::new();
        // Most ranges touch, where the lowest place is always taken; then there is nothing to compute.
        self.usable(0).filter(|(from, to)| from < to).for_each(|(from, to)| largest.add(from, to));
        largest.sizes()
    }

    pub(super) fn row(&self, child: u32) -> Row {
        Row { child, bound: self.bound(), sizes: self.largest() }
    }
}
