//! The leaves of the tree: ranges with their values, and the gaps before them.

use super::gap::{align_up, Edge, Gap, Largest, Sizes, KINDS};
use super::node::{close, count_up_to, differ, larger, loses, open, set, Node, Row, FAN, NONE};
use super::request::Wish;
use crate::addr::PAGE_BYTES;

/// In place of a guard gap: the end of the address space, which nothing has to stay away from.
pub(super) const NO_GUARD: u32 = u32::MAX;

/// Behind all ranges.
const NO_RANGE: (u64, u64) = (u64::MAX, u64::MAX);

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
    /// The largest sizes of all gaps: what the parent knows of this leaf.
    pub(super) top: Sizes,
    /// First address and end; `u64::MAX` where there is no range, so that a search need not know how many there are.
    range: [(u64, u64); FAN],
    /// Whether there was ever a guard gap here; `guard` is all 0 else, and hardly anybody looks at it.
    guarded: bool,
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
            top: [0; KINDS],
            range: [NO_RANGE; FAN],
            guarded: false,
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
        self.range.iter_mut().skip(len).for_each(|range| *range = NO_RANGE);
    }

    /// The first range that ends behind `va`; the number of ranges where there is none.
    #[inline]
    pub(super) fn seek(&self, va: u64) -> usize {
        count_up_to(&self.range, |range| range.1, va)
    }

    /// Whether a range that starts at `va` is in this leaf or belongs into it.
    #[inline]
    pub(super) fn covers(&self, va: u64) -> bool {
        (self.before <= va || self.prev == NONE) && va < self.bound()
    }

    #[inline]
    pub(super) fn span(&self, slot: usize) -> Option<Span> {
        let (start, end) = *self.range.get(slot)?;
        let guard = self.guard_of(slot);
        (end != u64::MAX).then_some(Span { start, end, guard })
    }

    #[inline]
    pub(super) fn put(&mut self, slot: usize, span: Span) {
        set(&mut self.range, slot, (span.start, span.end));
        self.guarded |= span.guard > 0;
        if self.guarded {
            set(&mut self.guard, slot, span.guard);
        }
    }

    #[inline]
    fn insert(&mut self, slot: usize, span: Span) {
        let len = self.len();
        open(&mut self.range, len, slot);
        if self.guarded {
            open(&mut self.guard, len, slot);
        }
        self.put(slot, span);
        self.len = self.len.saturating_add(1);
    }

    #[inline]
    fn remove(&mut self, slot: usize) {
        let (len, left) = (self.len(), self.len.saturating_sub(1));
        close(&mut self.range, len, slot);
        if self.guarded {
            close(&mut self.guard, len, slot);
        }
        set(&mut self.range, left as usize, NO_RANGE);
        self.len = left;
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
        self.range.get(slot.wrapping_sub(1)).map_or(self.before, |range| range.1)
    }

    #[inline]
    fn guard_of(&self, slot: usize) -> u32 {
        if self.guarded {
            self.guard.get(slot).copied().unwrap_or(0)
        } else {
            0
        }
    }

    #[inline]
    fn guard_before(&self, slot: usize) -> u32 {
        slot.checked_sub(1).map_or(self.before_guard, |slot| self.guard_of(slot))
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
        let ranges = self.range.get(slot..self.len()).unwrap_or_default().iter();
        ranges.zip(slot..).map(move |((start, end), slot)| {
            let guard = u64::from(self.guard_of(slot)) * PAGE_BYTES;
            let gap = (from, start.saturating_sub(guard));
            from = end.saturating_add(guard);
            gap
        })
    }

    /// The lowest address for `wish` in `lo..hi`, in the gaps from that before `slot` on.
    #[inline]
    pub(super) fn lowest(&self, wish: &Wish, lo: u64, hi: u64, slot: usize) -> Option<u64> {
        if wish.guard > 0 {
            return (slot..self.len()).find_map(|slot| self.gap(slot)?.lowest(wish, lo, hi));
        }
        // Most gaps are too small before any alignment.
        let mut gaps = self.usable(slot).filter(|(from, to)| to.wrapping_sub(*from) >= wish.bytes);
        gaps.find_map(|(from, to)| {
            let at = align_up(from.max(lo), wish.align)?;
            (at <= to && at.saturating_add(wish.bytes) <= to.min(hi)).then_some(at)
        })
    }

    /// The sizes of the gap before a range; nothing where there is no range.
    #[inline]
    pub(super) fn sizes(&self, slot: usize) -> Sizes {
        let mut sizes = Largest::new();
        if let Some(span) = self.span(slot) {
            let from = self.end_before(slot).saturating_add(bytes(self.guard_before(slot)));
            sizes.add(from, span.start.saturating_sub(bytes(span.guard)));
        }
        sizes.sizes()
    }

    /// Whether the gaps before and behind a range are parts of what is free without it, and so smaller than that in every
    /// way. Guard gaps break this: without the range between, they reach farther. And nothing is known below `base`.
    #[inline]
    pub(super) fn is_plain(&self, slot: usize) -> bool {
        slot > 0 && !self.guarded
    }

    /// The larger sizes of the gaps before and behind a range, as far as these are of this leaf.
    pub(super) fn sizes_around(&self, slot: usize) -> Sizes {
        larger(self.sizes(slot), self.sizes(slot + 1))
    }

    /// The largest sizes of all gaps.
    pub(super) fn largest(&self) -> Sizes {
        let mut largest = Largest::new();
        self.usable(0).for_each(|(from, to)| largest.add(from, to));
        largest.sizes()
    }

    /// Takes note that gaps of at most the sizes `gone` gave way to others, the largest of them of the sizes `come`, which
    /// need not be told where it is smaller than `gone`. Returns the largest of all gaps where that changes.
    #[inline]
    pub(super) fn note_sizes(&mut self, gone: Sizes, come: Sizes) -> Option<Sizes> {
        let old = self.top;
        let new = if loses(old, gone, come) { self.largest() } else { larger(old, come) };
        self.top = new;
        differ(old, new).then_some(new)
    }

    pub(super) fn row(&self, child: u32) -> Row {
        Row { child, bound: self.bound(), sizes: self.top }
    }
}
