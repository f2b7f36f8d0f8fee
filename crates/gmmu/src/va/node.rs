//! The nodes of the tree: leaves with ranges, inner nodes with what they know of their children.

use super::gap::{align_up, Edge, Gap, Largest, Size, Sizes, KINDS};
use super::request::Wish;
use crate::addr::PAGE_BYTES;

/// Most entries of a node.
pub(super) const FAN: usize = 16;
/// Fewest entries of a node that is not the root.
pub(super) const MIN: usize = 6;
/// No node.
pub(super) const NONE: u32 = u32::MAX;
/// In place of a guard gap: the end of the address space, which nothing has to stay away from.
pub(super) const NO_GUARD: u32 = u32::MAX;

/// A live range: its addresses, its guard gap in pages, and where its value is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) guard: u32,
    pub(super) value: u32,
}

/// What a node knows of a child: where its last range ends, and the largest sizes of the gaps before its ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) child: u32,
    pub(super) last: u64,
    pub(super) sizes: Sizes,
}

/// What leaves and inner nodes have in common: up to [`FAN`] items in order.
pub(super) trait Node: Copy {
    type Item: Copy;
    fn len(&self) -> usize;
    fn is_full(&self) -> bool {
        self.len() >= FAN
    }
    /// Sets the number of items; those behind are as good as never written.
    fn cut(&mut self, len: usize);
    fn item(&self, slot: usize) -> Option<Self::Item>;
    fn put(&mut self, slot: usize, item: Self::Item);
}

/// Moves items between two neighbours until `left` has `keep` of them. Both must have room for what they get.
pub(super) fn spread<N: Node>(left: &mut N, right: &mut N, keep: usize) {
    let (had, other) = (left.len(), right.len());
    if let Some(count) = keep.checked_sub(had) {
        for slot in 0..count {
            right.item(slot).into_iter().for_each(|item| left.put(had + slot, item));
        }
        for slot in count..other {
            right.item(slot).into_iter().for_each(|item| right.put(slot - count, item));
        }
    } else {
        let count = had - keep;
        for slot in (0..other).rev() {
            right.item(slot).into_iter().for_each(|item| right.put(slot + count, item));
        }
        for slot in 0..count {
            left.item(keep + slot).into_iter().for_each(|item| right.put(slot, item));
        }
    }
    left.cut(keep);
    right.cut((had + other).saturating_sub(keep));
}

/// The larger size of each kind.
#[inline]
pub(super) fn larger(mut one: Sizes, other: Sizes) -> Sizes {
    one.iter_mut().zip(other).for_each(|(one, other)| *one = (*one).max(other));
    one
}

/// Makes a hole at `slot` of the first `len` values; there must be room for one more.
fn open<X: Copy>(values: &mut [X; FAN], len: usize, slot: usize) {
    if let Some(part) = values.get_mut(slot..=len) {
        let moved = part.len().saturating_sub(1);
        part.copy_within(..moved, 1);
    }
}

/// Closes the hole at `slot` of the first `len` values.
fn close<X: Copy>(values: &mut [X; FAN], len: usize, slot: usize) {
    if let Some(part) = values.get_mut(slot..len).filter(|part| !part.is_empty()) {
        part.copy_within(1.., 0);
    }
}

fn set<X>(values: &mut [X; FAN], slot: usize, value: X) {
    if let Some(place) = values.get_mut(slot) {
        *place = value;
    }
}

/// Ranges in order, each field in an array of its own: a search touches the ends alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    /// Where the range before the first one ends, or the address space starts.
    pub(super) before: u64,
    /// That range's guard gap in pages, or [`NO_GUARD`].
    pub(super) before_guard: u32,
    pub(super) prev: u32,
    pub(super) next: u32,
    len: u32,
    /// `u64::MAX` where there is no range, so that a search need not know how many there are.
    end: [u64; FAN],
    start: [u64; FAN],
    /// Guard gap in pages, and where the value is.
    rest: [(u32, u32); FAN],
}

fn edge(at: u64, guard: u32) -> Edge {
    Edge { at, guard: if guard == NO_GUARD { None } else { Some(u64::from(guard) * PAGE_BYTES) } }
}

impl Leaf {
    pub(super) const fn new(before: u64, before_guard: u32) -> Self {
        Self {
            before,
            before_guard,
            prev: NONE,
            next: NONE,
            len: 0,
            end: [u64::MAX; FAN],
            start: [0; FAN],
            rest: [(0, 0); FAN],
        }
    }

    /// The first range that ends behind `va`; the number of ranges where there is none.
    #[inline]
    pub(super) fn seek(&self, va: u64) -> usize {
        count_up_to(&self.end, va)
    }

    pub(super) fn end(&self, slot: usize) -> Option<u64> {
        self.end.get(..self.len())?.get(slot).copied()
    }

    pub(super) fn start(&self, slot: usize) -> Option<u64> {
        self.start.get(..self.len())?.get(slot).copied()
    }

    pub(super) fn value(&self, slot: usize) -> Option<u32> {
        self.rest.get(..self.len())?.get(slot).map(|rest| rest.1)
    }

    pub(super) fn set_end(&mut self, slot: usize, end: u64) {
        set(&mut self.end, slot, end);
    }

    /// Where the last range ends.
    pub(super) fn last(&self) -> u64 {
        self.len().checked_sub(1).and_then(|slot| self.end(slot)).unwrap_or(self.before)
    }

    /// The edge that the last range gives to the gap behind it.
    pub(super) fn last_edge(&self) -> Edge {
        self.edge_before(self.len())
    }

    pub(super) fn last_guard(&self) -> u32 {
        let last = self.len().checked_sub(1).and_then(|slot| self.rest.get(slot));
        last.map_or(self.before_guard, |rest| rest.0)
    }

    #[inline]
    fn edge_before(&self, slot: usize) -> Edge {
        match slot.checked_sub(1).and_then(|slot| Some((self.end.get(slot)?, self.rest.get(slot)?))) {
            Some((end, rest)) => edge(*end, rest.0),
            None => edge(self.before, self.before_guard),
        }
    }

    /// The gap before a range.
    #[inline]
    pub(super) fn gap(&self, slot: usize) -> Option<Gap> {
        let start = self.start(slot)?;
        Some(Gap { before: self.edge_before(slot), after: edge(start, self.rest.get(slot)?.0) })
    }

    /// Where a gap may be used if nobody asks for guard gaps, for all gaps from the first on.
    #[inline]
    fn usable(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let guard = if self.before_guard == NO_GUARD { 0 } else { self.before_guard };
        let mut from = self.before.saturating_add(u64::from(guard) * PAGE_BYTES);
        let ranges = self.start.iter().zip(&self.end).zip(&self.rest).take(self.len());
        ranges.map(move |((start, end), (guard, _))| {
            let guard = u64::from(*guard) * PAGE_BYTES;
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
        self.usable().enumerate().skip(slot).find(|(_, gap)| fits(*gap)).map(|(slot, _)| slot)
    }

    /// The sizes of the gap before a range; nothing where there is no range.
    #[inline]
    pub(super) fn sizes(&self, slot: usize) -> Sizes {
        self.gap(slot).map_or([0; KINDS], |gap| gap.sizes())
    }

    /// The largest sizes of all gaps.
    pub(super) fn largest(&self) -> Sizes {
        let mut largest = Largest::new();
        // Most ranges touch, where the lowest place is always taken; then there is nothing to compute.
        self.usable().filter(|(from, to)| from < to).for_each(|(from, to)| largest.add(from, to));
        largest.sizes()
    }

    pub(super) fn insert(&mut self, slot: usize, item: Item) {
        let len = self.len();
        open(&mut self.end, len, slot);
        open(&mut self.start, len, slot);
        open(&mut self.rest, len, slot);
        self.put(slot, item);
        self.len = self.len.saturating_add(1);
    }

    pub(super) fn remove(&mut self, slot: usize) {
        let len = self.len();
        close(&mut self.end, len, slot);
        close(&mut self.start, len, slot);
        close(&mut self.rest, len, slot);
        self.cut(len.saturating_sub(1));
    }

    pub(super) fn row(&self, child: u32) -> Row {
        Row { child, last: self.last(), sizes: self.largest() }
    }
}

impl Node for Leaf {
    type Item = Item;
    #[inline]
    fn len(&self) -> usize {
        self.len as usize
    }
    fn cut(&mut self, len: usize) {
        self.len = u32::try_from(len).unwrap_or(0);
        self.end.iter_mut().skip(len).for_each(|end| *end = u64::MAX);
    }
    fn item(&self, slot: usize) -> Option<Item> {
        let (guard, value) = *self.rest.get(slot)?;
        Some(Item { start: *self.start.get(slot)?, end: *self.end.get(slot)?, guard, value })
    }
    fn put(&mut self, slot: usize, item: Item) {
        set(&mut self.start, slot, item.start);
        set(&mut self.end, slot, item.end);
        set(&mut self.rest, slot, (item.guard, item.value));
    }
}

/// Rows in order, each field in an array of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inner {
    len: u32,
    child: [u32; FAN],
    /// `u64::MAX` where there is no child.
    last: [u64; FAN],
    /// 0 where there is no child.
    sizes: [Sizes; FAN],
}

impl Inner {
    pub(super) const fn new() -> Self {
        Self { len: 0, child: [NONE; FAN], last: [u64::MAX; FAN], sizes: [[0; KINDS]; FAN] }
    }

    /// The child with the first range that ends behind `va`; the last child where there is none.
    #[inline]
    pub(super) fn seek(&self, va: u64) -> usize {
        count_up_to(&self.last, va).min(self.len().saturating_sub(1))
    }

    #[inline]
    pub(super) fn child(&self, slot: usize) -> Option<u32> {
        self.child.get(slot).copied()
    }

    /// The children that have a gap of at least `size` pages, which is not 0, as bits.
    #[inline]
    pub(super) fn with(&self, kind: usize, size: Size) -> u32 {
        // Masked, so that no check of bounds is left in the loop.
        let kind = kind % KINDS;
        self.sizes.iter().enumerate().fold(0, |bits, (slot, sizes)| bits | u32::from(sizes[kind] >= size) << slot)
    }

    #[inline]
    pub(super) fn sizes(&self, slot: usize) -> Sizes {
        self.sizes.get(slot).copied().unwrap_or_default()
    }

    /// Where the last range of all children ends.
    pub(super) fn last(&self) -> u64 {
        self.len().checked_sub(1).and_then(|slot| self.last.get(slot).copied()).unwrap_or(0)
    }

    pub(super) fn last_of(&self, slot: usize) -> u64 {
        self.last.get(slot).copied().unwrap_or(0)
    }

    pub(super) fn update(&mut self, slot: usize, last: u64, sizes: Sizes) {
        set(&mut self.last, slot, last);
        set(&mut self.sizes, slot, sizes);
    }

    #[inline]
    pub(super) fn largest(&self) -> Sizes {
        self.sizes.iter().fold([0; KINDS], |best, sizes| larger(best, *sizes))
    }

    pub(super) fn insert(&mut self, slot: usize, row: Row) {
        let len = self.len();
        open(&mut self.child, len, slot);
        open(&mut self.last, len, slot);
        open(&mut self.sizes, len, slot);
        self.put(slot, row);
        self.len = self.len.saturating_add(1);
    }

    pub(super) fn remove(&mut self, slot: usize) {
        let len = self.len();
        close(&mut self.child, len, slot);
        close(&mut self.last, len, slot);
        close(&mut self.sizes, len, slot);
        self.cut(len.saturating_sub(1));
    }

    pub(super) fn row(&self, child: u32) -> Row {
        Row { child, last: self.last(), sizes: self.largest() }
    }
}

impl Node for Inner {
    type Item = Row;
    #[inline]
    fn len(&self) -> usize {
        self.len as usize
    }
    fn cut(&mut self, len: usize) {
        self.len = u32::try_from(len).unwrap_or(0);
        self.last.iter_mut().skip(len).for_each(|last| *last = u64::MAX);
        self.sizes.iter_mut().skip(len).for_each(|sizes| *sizes = [0; KINDS]);
    }
    fn item(&self, slot: usize) -> Option<Row> {
        Some(Row { child: self.child(slot)?, last: self.last_of(slot), sizes: self.sizes(slot) })
    }
    fn put(&mut self, slot: usize, row: Row) {
        set(&mut self.child, slot, row.child);
        self.update(slot, row.last, row.sizes);
    }
}

/// How many values, in order, are at most `limit`. Never ends early: such a loop is mispredicted.
#[inline]
fn count_up_to(values: &[u64; FAN], limit: u64) -> usize {
    // `u64::MAX` is no value but the lack of one.
    let limit = limit.min(u64::MAX - 1);
    let upto = |values: &[u64]| values.iter().map(|value| usize::from(*value <= limit)).sum::<usize>();
    let part = upto(&[values[3], values[7], values[11]]);
    part * 4 + values.chunks_exact(4).nth(part).map_or(0, upto)
}
