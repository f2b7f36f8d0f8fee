//! The inner nodes of the tree with what they know of their children, and what they have in common with leaves.

use super::gap::{Size, Sizes, KINDS};

/// Most entries of a node.
pub(super) const FAN: usize = 16;
/// Fewest entries of a node that is neither the root nor the last leaf.
pub(super) const MIN: usize = 6;
/// No node.
pub(super) const NONE: u32 = u32::MAX;

/// What a node knows of a child: the first address that does not belong into it (the end of its last range, and no
/// limit for the last child of all), and the largest sizes of the gaps before its ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) child: u32,
    pub(super) bound: u64,
    pub(super) sizes: Sizes,
}

/// Where a node is in the node above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    /// [`NONE`] for the root.
    pub(super) parent: u32,
    pub(super) slot: u32,
}

impl Seat {
    pub(super) const NONE: Self = Self { parent: NONE, slot: 0 };

    pub(super) const fn slot(self) -> usize {
        self.slot as usize
    }
}

/// What leaves and inner nodes have in common: up to [`FAN`] items in order.
pub(super) trait Node {
    type Item;
    fn len(&self) -> usize;
    /// Sets the number of items; those behind are as good as never written.
    fn cut(&mut self, len: usize);
    /// Moves an item out, which leaves a hole.
    fn take(&mut self, slot: usize) -> Option<Self::Item>;
    fn put(&mut self, slot: usize, item: Self::Item);
}

/// Moves items between two neighbours until `left` has `keep` of them. Both must have room for what they get.
pub(super) fn spread<N: Node>(left: &mut N, right: &mut N, keep: usize) {
    let (had, other) = (left.len(), right.len());
    if let Some(count) = keep.checked_sub(had) {
        for slot in 0..count {
            right.take(slot).into_iter().for_each(|item| left.put(had + slot, item));
        }
        for slot in count..other {
            right.take(slot).into_iter().for_each(|item| right.put(slot - count, item));
        }
    } else {
        let count = had - keep;
        for slot in (0..other).rev() {
            right.take(slot).into_iter().for_each(|item| right.put(slot + count, item));
        }
        for slot in 0..count {
            left.take(keep + slot).into_iter().for_each(|item| right.put(slot, item));
        }
    }
    left.cut(keep);
    right.cut((had + other).saturating_sub(keep));
}

/// Whether two sizes of some kind differ.
#[inline]
pub(super) fn differ(one: Sizes, other: Sizes) -> bool {
    one.iter().zip(&other).fold(false, |any, (one, other)| any | (one != other))
}

/// The larger size of each kind.
#[inline]
pub(super) fn larger(mut one: Sizes, other: Sizes) -> Sizes {
    one.iter_mut().zip(other).for_each(|(one, other)| *one = (*one).max(other));
    one
}

/// Whether one of `sizes` is the largest of its kind.
#[inline]
pub(super) fn reach(sizes: Sizes, best: Sizes) -> bool {
    sizes.iter().zip(&best).fold(false, |any, (size, best)| any | ((size >= best) & (*best > 0)))
}

/// Whether something of sizes `old` was the largest of some kind, `best`, and is not any more with sizes `new`: then,
/// and only then, the others have to be looked at.
#[inline]
pub(super) fn loses(best: Sizes, old: Sizes, new: Sizes) -> bool {
    best.iter().zip(old.iter().zip(&new)).fold(false, |any, (best, (old, new))| any | ((old >= best) & (new < best)))
}

/// Makes a hole at `slot` of the first `len` values; there must be room for one more.
#[inline]
pub(super) fn open<X: Copy>(values: &mut [X; FAN], len: usize, slot: usize) {
    if slot < len && len < FAN {
        values.copy_within(slot..len, slot + 1);
    }
}

/// Closes the hole at `slot` of the first `len` values.
#[inline]
pub(super) fn close<X: Copy>(values: &mut [X; FAN], len: usize, slot: usize) {
    if slot < len && len <= FAN {
        values.copy_within(slot + 1..len, slot);
    }
}

#[inline]
pub(super) fn set<X>(values: &mut [X; FAN], slot: usize, value: X) {
    if let Some(place) = values.get_mut(slot) {
        *place = value;
    }
}

/// How many of the numbers of `values`, in order, are at most `limit`. Never ends early: such a loop is mispredicted.
#[inline]
pub(super) fn count_up_to<X>(values: &[X; FAN], number: impl Fn(&X) -> u64, limit: u64) -> usize {
    // `u64::MAX` is no number but the lack of one.
    let limit = limit.min(u64::MAX - 1);
    let upto = |value: &X| usize::from(number(value) <= limit);
    let part = upto(&values[3]) + upto(&values[7]) + upto(&values[11]);
    part * 4 + values.chunks_exact(4).nth(part).map_or(0, |part| part.iter().map(upto).sum())
}

/// The slots whose size of a kind is at least `size`, as bits. Not inlined: it needs all registers.
#[inline(never)]
fn at_least(sizes: &[Sizes; FAN], kind: usize, size: Size) -> u32 {
    sizes.iter().rev().fold(0, |bits, sizes| bits * 2 + u32::from(sizes[kind % KINDS] >= size))
}

/// The largest of each kind.
#[inline]
fn greatest(sizes: &[Sizes; FAN]) -> Sizes {
    sizes.iter().fold([0; KINDS], |best, sizes| larger(best, *sizes))
}

/// Rows in order, each field in an array of its own. The sizes of a row lie together: they are compared and written all
/// at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inner {
    pub(super) seat: Seat,
    len: u32,
    /// The largest sizes of all children: what the parent knows of this node.
    pub(super) top: Sizes,
    child: [u32; FAN],
    /// `u64::MAX` where there is no child.
    bound: [u64; FAN],
    /// 0 where there is no child.
    sizes: [Sizes; FAN],
}

impl Inner {
    pub(super) const fn new(seat: Seat) -> Self {
        let (child, bound) = ([NONE; FAN], [u64::MAX; FAN]);
        Self { seat, len: 0, top: [0; KINDS], child, bound, sizes: [[0; KINDS]; FAN] }
    }

    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.len() >= FAN
    }

    /// The child that `va` belongs into.
    #[inline]
    pub(super) fn seek(&self, va: u64) -> usize {
        count_up_to(&self.bound, |bound| *bound, va)
    }

    #[inline]
    pub(super) fn child(&self, slot: usize) -> Option<u32> {
        self.child.get(slot).copied()
    }

    pub(super) fn children(&self) -> impl Iterator<Item = u32> {
        self.child.into_iter().take(self.len())
    }

    /// The children that have a gap of at least `size`, which is not 0, as bits.
    #[inline]
    pub(super) fn with(&self, kind: usize, size: Size) -> u32 {
        at_least(&self.sizes, kind, size)
    }

    /// Takes note of the sizes of a child. Returns the largest of all children where that changes.
    #[inline]
    pub(super) fn note_sizes(&mut self, slot: usize, sizes: Sizes) -> Option<Sizes> {
        // Masked, so that no check of bounds is left.
        let (old, before) = (self.top, core::mem::replace(&mut self.sizes[slot % FAN], sizes));
        // Only where the largest became smaller the others have to be looked at: of all kinds, for of which that is so
        // is a matter of chance.
        let top = if loses(old, before, sizes) { greatest(&self.sizes) } else { larger(old, sizes) };
        self.top = top;
        differ(old, top).then_some(top)
    }

    /// Takes note of where a child ends. Returns whether anything changed for the node above.
    pub(super) fn note_bound(&mut self, slot: usize, bound: u64) -> bool {
        set(&mut self.bound, slot, bound);
        slot + 1 == self.len()
    }

    /// Looks at the sizes of all children.
    #[inline]
    pub(super) fn largest(&self) -> Sizes {
        greatest(&self.sizes)
    }

    pub(super) fn insert(&mut self, slot: usize, row: Row) {
        let len = self.len();
        open(&mut self.child, len, slot);
        open(&mut self.bound, len, slot);
        open(&mut self.sizes, len, slot);
        self.put(slot, row);
        self.len = self.len.saturating_add(1);
    }

    pub(super) fn remove(&mut self, slot: usize) {
        let len = self.len();
        close(&mut self.child, len, slot);
        close(&mut self.bound, len, slot);
        close(&mut self.sizes, len, slot);
        self.cut(len.saturating_sub(1));
    }

    pub(super) fn row(&self, child: u32) -> Row {
        let bound = self.len().checked_sub(1).and_then(|slot| self.bound.get(slot)).copied();
        Row { child, bound: bound.unwrap_or(u64::MAX), sizes: self.top }
    }

    pub(super) fn row_of(&self, slot: usize) -> Option<Row> {
        Some(Row { child: self.child(slot)?, bound: *self.bound.get(slot)?, sizes: *self.sizes.get(slot)? })
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
        self.child.iter_mut().skip(len).for_each(|child| *child = NONE);
        self.bound.iter_mut().skip(len).for_each(|bound| *bound = u64::MAX);
        self.sizes.iter_mut().skip(len).for_each(|sizes| *sizes = [0; KINDS]);
    }

    fn take(&mut self, slot: usize) -> Option<Row> {
        self.row_of(slot)
    }

    fn put(&mut self, slot: usize, row: Row) {
        set(&mut self.child, slot, row.child);
        set(&mut self.bound, slot, row.bound);
        set(&mut self.sizes, slot, row.sizes);
    }
}
