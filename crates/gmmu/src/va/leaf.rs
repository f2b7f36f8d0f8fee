//! The leaves of the tree: ranges with their values, and the gaps before them.

use core::ops::Range;

use super::gap::{align_up, cap, sizes, widen, Edge, Gap, Size, Sizes, KINDS, NO_GAP};
use super::node::{close, count_up_to, differ, larger, loses, open, reach, set, Node, Row, Seat, FAN, NONE};
use super::places::Places;
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
/// its value in the cache or nearly so; and they never move, for they may be large: what moves is who owns which place.
#[derive(Debug)]
pub(super) struct Leaf<T> {
    pub(super) spans: Spans,
    places: Places,
    values: [Option<T>; FAN],
}

impl<T> Leaf<T> {
    pub(super) const fn new(before: u64, before_guard: u32) -> Self {
        Self { spans: Spans::new(before, before_guard), places: Places::IN_ORDER, values: [const { None }; FAN] }
    }

    #[inline]
    fn place(&mut self, slot: usize) -> &mut Option<T> {
        &mut self.values[self.places.of(slot)]
    }

    /// [`Spans::seek`] for one who wants the value. Which one it is turns out late: so that the processor does not wait
    /// for memory twice, it is made to look at some all over the leaf meanwhile.
    #[inline]
    pub(super) fn seek_value(&self, va: u64) -> usize {
        let some = self.values.iter().step_by(4);
        core::hint::black_box(some.map(|value| usize::from(value.is_some())).sum::<usize>());
        self.spans.seek(va)
    }

    #[inline]
    pub(super) fn value(&self, slot: usize) -> Option<&T> {
        self.values[self.places.of(slot)].as_ref()
    }

    pub(super) fn value_mut(&mut self, slot: usize) -> Option<&mut T> {
        self.place(slot).as_mut()
    }

    /// Inserts a range; there must be room for it.
    #[inline]
    pub(super) fn insert(&mut self, slot: usize, span: Span, value: T) {
        self.places = self.places.lower(self.spans.len(), slot);
        *self.place(slot) = Some(value);
        self.spans.insert(slot, span);
    }

    /// [`insert`](Self::insert), and says what the nodes above have to know.
    #[inline]
    pub(super) fn admit(&mut self, slot: usize, span: Span, value: T) -> Option<(Seat, Sizes)> {
        if !self.spans.is_plain(slot) || span.guard > 0 {
            return self.admit_any(slot, span, value);
        }
        self.places = self.places.lower(self.spans.len(), slot);
        *self.place(slot) = Some(value);
        self.spans.admit(slot, span.start, span.end)
    }

    #[inline(never)]
    fn admit_any(&mut self, slot: usize, span: Span, value: T) -> Option<(Seat, Sizes)> {
        let gone = self.spans.sizes(slot);
        self.insert(slot, span, value);
        self.spans.note_sizes(gone, self.spans.sizes_around(slot))
    }

    /// Removes a range, and says what the nodes above have to know.
    #[inline]
    pub(super) fn remove(&mut self, slot: usize) -> (Option<T>, Option<(Seat, Sizes)>) {
        let value = self.place(slot).take();
        self.places = self.places.raise(slot, self.spans.len().saturating_sub(1));
        let above = if self.spans.is_plain(slot) && slot + 1 < self.spans.len() {
            self.spans.dismiss(slot)
        } else {
            self.spans.dismiss_any(slot)
        };
        (value, above)
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
        Some((self.spans.span(slot)?, self.place(slot).take()))
    }

    fn put(&mut self, slot: usize, (span, value): Self::Item) {
        self.spans.put(slot, span);
        *self.place(slot) = value;
    }
}

/// The addresses in a leaf, each field in an array of its own: a search touches the ends alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spans {
    /// Where the range before the first one ends, or the address space starts.
    pub(super) before: u64,
    /// That range's guard gap in pages, or [`NO_GUARD`].
    pub(super) before_guard: u32,
    pub(super) seat: Seat,
    pub(super) prev: u32,
    pub(super) next: u32,
    len: u32,
    /// The largest sizes of all gaps: what the parent knows of this leaf.
    pub(super) top: Sizes,
    /// First address and end; `u64::MAX` where there is no range, so that a search need not know how many there are.
    range: [(u64, u64); FAN],
    /// The ranges with room before them, as bits: most touch, for the lowest place is always taken.
    holes: u32,
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
            seat: Seat::NONE,
            prev: NONE,
            next: NONE,
            len: 0,
            top: [0; KINDS],
            range: [NO_RANGE; FAN],
            holes: 0,
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
        let above = u32::MAX << slot;
        self.holes = (self.holes & !above) | (self.holes & above) << 1;
        self.mark(slot);
        self.mark(slot + 1);
    }

    /// [`insert`](Self::insert) between ranges without guard gaps, whose gaps are nobody else's.
    #[inline]
    fn admit(&mut self, slot: usize, start: u64, end: u64) -> Option<(Seat, Sizes)> {
        let (len, (from, to)) = (self.len(), self.between(slot));
        let (above, below) = (u32::MAX << slot, !(u32::MAX << slot));
        let was = self.holes & 1 << slot != 0;
        let parts = u32::from(from < start) | u32::from(was && end < to) << 1;
        self.holes = (self.holes & below) | (self.holes & above << 1) << 1 | parts << slot;
        open(&mut self.range, len, slot);
        set(&mut self.range, slot, (start, end));
        self.len = self.len.saturating_add(1);
        let old = self.top;
        if !was {
            // The gap behind all ranges is in no leaf; a part of it is now.
            self.top = if from < start { larger(old, sizes(from, start)) } else { old };
        } else if reach(sizes(from, to), old) {
            self.top = self.largest(old);
        }
        differ(old, self.top).then_some((self.seat, self.top))
    }

    /// [`remove`](Self::remove) between ranges without guard gaps: what is free then is larger in every way than the
    /// gaps before and behind were.
    #[inline]
    fn dismiss(&mut self, slot: usize) -> Option<(Seat, Sizes)> {
        let (len, from, to) = (self.len(), self.between(slot).0, self.between(slot + 1).1);
        let (above, below) = (u32::MAX << slot, !(u32::MAX << slot));
        self.holes = (self.holes & below) | (self.holes >> 1 & above << 1) | 1 << slot;
        close(&mut self.range, len, slot);
        set(&mut self.range, len.saturating_sub(1), NO_RANGE);
        self.len = self.len.saturating_sub(1);
        let old = self.top;
        self.top = larger(old, sizes(from, to));
        differ(old, self.top).then_some((self.seat, self.top))
    }

    #[inline(never)]
    fn dismiss_any(&mut self, slot: usize) -> Option<(Seat, Sizes)> {
        let gone = self.sizes_around(slot);
        self.remove(slot);
        self.note_sizes(gone, self.sizes(slot))
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
        let above = u32::MAX << slot;
        self.holes = (self.holes & !above) | (self.holes >> 1 & above);
        self.mark(slot);
    }

    /// Takes note of whether there is room before a range.
    #[inline]
    pub(super) fn mark(&mut self, slot: usize) {
        let (from, to) = self.usable(slot);
        let hole = slot < self.len() && from < to;
        self.holes = (self.holes & !(1 << slot)) | u32::from(hole) << slot;
    }

    /// Takes note of another end of the range before the first one.
    pub(super) fn set_before(&mut self, before: u64, guard: u32) {
        (self.before, self.before_guard) = (before, guard);
        self.mark(0);
    }

    /// Looks at all gaps anew.
    pub(super) fn survey(&mut self) {
        self.holes = 0;
        (0..self.len()).for_each(|slot| self.mark(slot));
        self.top = self.largest([Size::MAX; KINDS]);
    }

    /// Whether what is known of the gaps is right.
    pub(super) fn is_sound(&self) -> bool {
        let mut other = *self;
        other.survey();
        (other.holes, other.top) == (self.holes, self.top)
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

    /// Whether the range in `slot` starts at `va`.
    #[inline]
    pub(super) fn starts_at(&self, slot: usize, va: u64) -> bool {
        slot < self.len() && self.range.get(slot).is_some_and(|range| range.0 == va)
    }

    #[inline]
    pub(super) fn end_before(&self, slot: usize) -> u64 {
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

    /// Where the range before `slot` ends, and where that in `slot` starts.
    #[inline]
    fn between(&self, slot: usize) -> (u64, u64) {
        (self.end_before(slot), self.range.get(slot).map_or(u64::MAX, |range| range.0))
    }

    /// Where the gap before a range may be used if nobody asks for guard gaps.
    #[inline]
    fn usable(&self, slot: usize) -> (u64, u64) {
        let (from, to) = self.between(slot);
        if self.guarded || slot == 0 {
            let away = (bytes(self.guard_before(slot)), bytes(self.guard_of(slot)));
            return (from.saturating_add(away.0), to.saturating_sub(away.1));
        }
        (from, to)
    }

    /// The lowest address for `wish` in `lo..hi`, in the gaps from that before `slot` on, and the slot of that gap.
    #[inline]
    pub(super) fn lowest(&self, wish: &Wish, lo: u64, hi: u64, slot: usize) -> Option<(u64, usize)> {
        let mut holes = self.holes & u32::MAX << slot;
        while holes != 0 {
            let slot = holes.trailing_zeros() as usize;
            if wish.guard > 0 {
                if let Some(va) = self.gap(slot).and_then(|gap| gap.lowest(wish, lo, hi)) {
                    return Some((va, slot));
                }
            } else {
                let (from, to) = self.usable(slot);
                let fit = align_up(from.max(lo), wish.align);
                if let Some(va) = fit.filter(|va| *va <= to && va.saturating_add(wish.bytes) <= to.min(hi)) {
                    return Some((va, slot));
                }
            }
            holes &= holes - 1;
        }
        None
    }

    /// Whether `range` lies in the gap before `slot`, so that it may be inserted there.
    #[inline]
    pub(super) fn admits(&self, slot: usize, range: &Range<u64>) -> bool {
        let behind = match self.range.get(slot) {
            Some(next) if slot < self.len() => next.0,
            Some(_) if self.next == NONE && slot == self.len() => u64::MAX,
            _ => return false,
        };
        self.len() < FAN && self.end_before(slot) <= range.start && range.end <= behind
    }

    /// The sizes of the gap before a range; nothing where there is no range.
    #[inline]
    pub(super) fn sizes(&self, slot: usize) -> Sizes {
        if self.holes >> slot & 1 == 0 {
            return NO_GAP;
        }
        let (from, to) = self.usable(slot);
        sizes(from, to)
    }

    /// Whether the gaps before and behind a range are parts of what is free without it, and so smaller than that in every
    /// way. Guard gaps break this: without the range between, they reach farther. And nothing is known below `base`.
    #[inline]
    fn is_plain(&self, slot: usize) -> bool {
        slot > 0 && !self.guarded
    }

    /// The larger sizes of the gaps before and behind a range, as far as these are of this leaf.
    pub(super) fn sizes_around(&self, slot: usize) -> Sizes {
        larger(self.sizes(slot), self.sizes(slot + 1))
    }

    /// The largest sizes of all gaps, none of which is larger than `most` in any way: where one is as large, as the gaps
    /// between mappings in a row are, the others need not be looked at.
    fn largest(&self, most: Sizes) -> Sizes {
        if self.guarded {
            return (0..self.len()).fold(NO_GAP, |largest, slot| larger(largest, self.sizes(slot)));
        }
        let (mut largest, mut holes) = (self.sizes(0), self.holes & !1);
        while holes != 0 {
            let (from, to) = self.between(holes.trailing_zeros() as usize % FAN);
            largest = widen(largest, from, to);
            if !differ(cap(largest), most) {
                break;
            }
            holes &= holes - 1;
        }
        cap(largest)
    }

    /// Takes note that gaps of at most the sizes `gone` gave way to others, the largest of them of the sizes `come`, which
    /// need not be told where it is smaller than `gone`. Returns the largest of all gaps where that changes, and where
    /// this is to be told.
    #[inline]
    pub(super) fn note_sizes(&mut self, gone: Sizes, come: Sizes) -> Option<(Seat, Sizes)> {
        let old = self.top;
        let new = if loses(old, gone, come) { self.largest(larger(old, come)) } else { larger(old, come) };
        self.top = new;
        differ(old, new).then_some((self.seat, new))
    }

    pub(super) fn row(&self, child: u32) -> Row {
        Row { child, bound: self.bound(), sizes: self.top }
    }
}
