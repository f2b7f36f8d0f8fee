//! The ranges in order: a B+tree whose inner nodes know the largest gap below each child.
//!
//! The gap *before* a range belongs to it, so a new range goes into the leaf of its successor, and splitting that gap
//! changes one leaf. The gap behind the last range is in no node. Nodes are numbers in slabs and know their parent, so
//! that no way has to be remembered on the way down. Nothing recurses.

use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

use super::gap::{Edge, Gap, Sizes};
use super::leaf::{Leaf, Span, Spans, NO_GUARD};
use super::node::{Inner, Seat, FAN, MIN, NONE};
use super::request::InsertError;
use crate::storage::{NoMemory, Slab};

/// More levels of inner nodes than there can be: with at least [`MIN`] children each, as many as 2^31 leaves need.
const LEVELS: usize = 12;

/// Where an entry is; good until the next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pos {
    pub(super) leaf: u32,
    pub(super) slot: usize,
}

/// The ranges of an address space, with the gaps between them.
#[derive(Debug)]
pub(super) struct Tree<T> {
    pub(super) limits: Range<u64>,
    /// From where on the nodes know the gap before the first range. What is below is hardly ever asked for, and every
    /// search would stop there.
    pub(super) base: u64,
    pub(super) leaves: Slab<Leaf<T>, 32>,
    pub(super) inners: Slab<Inner, 16>,
    /// A leaf where `depth` is 0; no node where there are no ranges.
    pub(super) root: u32,
    pub(super) depth: usize,
    /// The leaf with the last range.
    pub(super) tail: u32,
    /// The leaf where something was last found, and the slot. A guess where the next call goes on, mostly an insertion
    /// at the place found: whoever uses it looks first whether it is right. Atomic, for searches only borrow the tree.
    near: AtomicU32,
    near_slot: AtomicU32,
    len: usize,
    /// Insertions that memory was reserved for.
    room: usize,
}

impl<T> Tree<T> {
    /// An empty tree; searches that do not start below `base` are fast.
    pub(super) const fn new(limits: Range<u64>, base: u64) -> Self {
        Self {
            limits,
            base,
            leaves: Slab::new(),
            inners: Slab::new(),
            root: NONE,
            depth: 0,
            tail: NONE,
            near: AtomicU32::new(NONE),
            near_slot: AtomicU32::new(0),
            len: 0,
            room: 0,
        }
    }

    /// Makes room for `extra` insertions, whatever is removed in between.
    pub(super) fn reserve(&mut self, extra: usize) -> Result<(), NoMemory> {
        if self.room >= extra {
            return Ok(());
        }
        let per_level = extra.saturating_mul(self.depth.saturating_add(1)).saturating_add(1);
        if self.leaves.spare() >= extra && self.inners.spare() >= per_level {
            self.room = extra;
            return Ok(());
        }
        let total = self.len.checked_add(extra).ok_or(NoMemory)?;
        // An insertion splits at most one node per level. And however ranges come and go, `total` of them never need
        // more nodes than there are with the fewest entries in each.
        let leaves = (total / MIN).saturating_add(1);
        self.leaves.reserve(extra.min(leaves.saturating_sub(self.leaves.len())))?;
        let inners = (leaves / (MIN - 1)).saturating_add(LEVELS);
        self.inners.reserve(per_level.min(inners.saturating_sub(self.inners.len())))?;
        self.room = extra;
        Ok(())
    }

    pub(super) fn has_room(&self) -> bool {
        self.room > 0
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn footprint(&self) -> usize {
        self.leaves.footprint() + self.inners.footprint()
    }

    #[inline]
    pub(super) fn spans(&self, leaf: u32) -> Option<&Spans> {
        self.leaves.get(leaf).map(|leaf| &leaf.spans)
    }

    /// Takes note of where something was found.
    #[inline]
    pub(super) fn guess(&self, pos: Pos) {
        self.near.store(pos.leaf, Ordering::Relaxed);
        self.near_slot.store(u32::try_from(pos.slot).unwrap_or(0), Ordering::Relaxed);
    }

    #[inline]
    fn guessed(&self) -> (u32, usize) {
        (self.near.load(Ordering::Relaxed), self.near_slot.load(Ordering::Relaxed) as usize)
    }

    pub(super) fn guess_tail(&self) {
        let slot = self.spans(self.tail).map_or(0, Spans::len);
        self.guess(Pos { leaf: self.tail, slot });
    }

    /// The leaf that `va` belongs into; `None` where there are no entries.
    #[inline]
    fn leaf_of(&self, va: u64) -> Option<u32> {
        let near = self.near.load(Ordering::Relaxed);
        if self.spans(near).is_some_and(|spans| spans.covers(va)) {
            return Some(near);
        }
        self.descend(va)
    }

    /// The same, without a guess.
    #[inline]
    fn descend(&self, va: u64) -> Option<u32> {
        let mut node = self.root;
        for _ in 0..self.depth {
            let inner = self.inners.get(node)?;
            node = inner.child(inner.seek(va))?;
        }
        (node != NONE).then_some(node)
    }

    /// The first entry that ends behind `va`.
    #[inline]
    pub(super) fn seek(&self, va: u64) -> Option<Pos> {
        let leaf = self.leaf_of(va)?;
        let spans = self.spans(leaf)?;
        let slot = spans.seek(va);
        // Whoever has looked there mostly changes something there next.
        self.guess(Pos { leaf, slot });
        (slot < spans.len()).then_some(Pos { leaf, slot })
    }

    /// Whether an entry begins at the start of `range` and another ends there; and whether one ends at its end and another
    /// begins there, where there is only one between.
    pub(super) fn touching(&self, range: &Range<u64>) -> (bool, bool) {
        let Some(pos) = self.seek(range.start) else { return (false, false) };
        let Some(spans) = self.spans(pos.leaf) else { return (false, false) };
        let below = spans.starts_at(pos.slot, range.start) && spans.end_before(pos.slot) == range.start;
        if spans.end_before(pos.slot + 1) != range.end {
            return (below, false);
        }
        let behind = self
            .after(pos)
            .is_some_and(|next| self.spans(next.leaf).is_some_and(|spans| spans.starts_at(next.slot, range.end)));
        (below, behind)
    }

    pub(super) fn last(&self) -> Option<Pos> {
        let slot = self.spans(self.tail)?.len().checked_sub(1)?;
        Some(Pos { leaf: self.tail, slot })
    }

    pub(super) fn after(&self, pos: Pos) -> Option<Pos> {
        let spans = self.spans(pos.leaf)?;
        if pos.slot + 1 < spans.len() {
            return Some(Pos { leaf: pos.leaf, slot: pos.slot + 1 });
        }
        (spans.next != NONE).then_some(Pos { leaf: spans.next, slot: 0 })
    }

    pub(super) fn before(&self, pos: Pos) -> Option<Pos> {
        if let Some(slot) = pos.slot.checked_sub(1) {
            return Some(Pos { leaf: pos.leaf, slot });
        }
        let prev = self.spans(pos.leaf)?.prev;
        let slot = self.spans(prev)?.len().checked_sub(1)?;
        Some(Pos { leaf: prev, slot })
    }

    pub(super) fn range(&self, pos: Pos) -> Option<Range<u64>> {
        self.spans(pos.leaf)?.span(pos.slot).map(|span| span.start..span.end)
    }

    pub(super) fn value(&self, pos: Pos) -> Option<&T> {
        self.leaves.get(pos.leaf)?.value(pos.slot)
    }

    pub(super) fn value_mut(&mut self, pos: Pos) -> Option<&mut T> {
        self.leaves.get_mut(pos.leaf)?.value_mut(pos.slot)
    }

    /// The gap behind the last range.
    pub(super) fn tail_gap(&self) -> Gap {
        let start = Edge { at: self.limits.start, guard: None };
        let before = self.spans(self.tail).map_or(start, |spans| spans.edge_before(spans.len()));
        Gap { before, after: Edge { at: self.limits.end, guard: None } }
    }

    /// The gap before the first range, all of it.
    pub(super) fn head_gap(&self) -> Gap {
        let first = self.seek(0).and_then(|pos| self.spans(pos.leaf)?.gap(pos.slot));
        let after = first.map_or(Edge { at: self.limits.end, guard: None }, |gap| gap.after);
        Gap { before: Edge { at: self.limits.start, guard: None }, after }
    }

    /// Inserts a range within the limits.
    pub(super) fn insert(&mut self, range: Range<u64>, guard: u32, value: T) -> Result<(), (InsertError, T)> {
        // No two ranges lie in one gap, so a guess that admits this one is right.
        let (near, slot) = self.guessed();
        if let Some(leaf) = self.leaves.get_mut(near).filter(|leaf| leaf.spans.admits(slot, &range)) {
            if self.room > 0 {
                let above = leaf.admit(slot, Span { start: range.start, end: range.end, guard }, value);
                self.added(above);
                return Ok(());
            }
        }
        match self.place(&range) {
            Ok(pos) => self.put(pos, Span { start: range.start, end: range.end, guard }, value),
            Err(why) => return Err((why, value)),
        }
        Ok(())
    }

    /// Where `range` belongs, in a leaf that has room for it.
    #[inline]
    fn place(&mut self, range: &Range<u64>) -> Result<Pos, InsertError> {
        loop {
            let Some(leaf) = self.leaf_of(range.start) else {
                self.plant()?;
                continue;
            };
            let spans = self.spans(leaf).ok_or(InsertError::NoRoom)?;
            let slot = spans.seek(range.start);
            if let Some(with) = spans.span(slot).filter(|with| with.start < range.end) {
                return Err(InsertError::Overlap { with: with.start..with.end });
            }
            if !self.has_room() {
                return Err(InsertError::NoRoom);
            }
            if !spans.is_full() {
                return Ok(Pos { leaf, slot });
            }
            // Each round changes the shape at one level, so this ends after a few.
            self.make_room(leaf, slot == FAN).map_err(|NoMemory| InsertError::NoRoom)?;
        }
    }

    /// Makes the first leaf.
    #[cold]
    fn plant(&mut self) -> Result<(), InsertError> {
        if !self.has_room() {
            return Err(InsertError::NoRoom);
        }
        self.root = self.leaves.insert_within(Leaf::new(self.base, NO_GUARD)).map_err(|_| InsertError::NoRoom)?;
        self.tail = self.root;
        Ok(())
    }

    /// Puts a range where there is room for it.
    fn put(&mut self, Pos { leaf, slot }: Pos, span: Span, value: T) {
        self.guess(Pos { leaf, slot });
        let Some(leaf) = self.leaves.get_mut(leaf) else { return };
        let above = leaf.admit(slot, span, value);
        self.added(above);
    }

    #[inline]
    fn added(&mut self, above: Option<(Seat, Sizes)>) {
        self.len += 1;
        self.room = self.room.saturating_sub(1);
        self.settle(above);
    }

    /// Brings the nodes above one up to date: that at `seat`, whose largest sizes are new.
    #[inline]
    fn settle(&mut self, above: Option<(Seat, Sizes)>) {
        let Some((mut seat, mut top)) = above else { return };
        while let Some(inner) = self.inners.get_mut(seat.parent) {
            let Some(above) = inner.note_sizes(seat.slot(), top) else { return };
            (seat, top) = (inner.seat, above);
        }
    }

    /// Tells all who know where `leaf` ends that its last range changed.
    fn settle_end(&mut self, leaf: u32) {
        let Some(spans) = self.spans(leaf) else { return };
        let (bound, last, guard, next) = (spans.bound(), spans.last(), spans.last_guard(), spans.next);
        let mut seat = spans.seat;
        while let Some(inner) = self.inners.get_mut(seat.parent) {
            if !inner.note_bound(seat.slot(), bound) {
                break;
            }
            seat = inner.seat;
        }
        let Some(behind) = self.leaves.get_mut(next) else { return };
        let gone = behind.spans.sizes(0);
        behind.spans.set_before(last, guard);
        let above = behind.spans.note_sizes(gone, behind.spans.sizes(0));
        self.settle(above);
    }

    /// Removes the range that starts at `start`.
    pub(super) fn remove(&mut self, start: u64) -> Option<(Range<u64>, T)> {
        let (near, slot) = self.guessed();
        let (node, slot) = match self.spans(near) {
            Some(spans) if spans.starts_at(slot, start) => (near, slot),
            _ => {
                let node = self.descend(start)?;
                (node, self.leaves.get(node)?.seek_value(start))
            }
        };
        let leaf = self.leaves.get_mut(node)?;
        if !leaf.spans.starts_at(slot, start) {
            return None;
        }
        let end = leaf.spans.end_before(slot + 1);
        let last = slot + 1 == leaf.spans.len();
        let (value, above) = leaf.remove(slot);
        let (value, left) = (value?, leaf.spans.len());
        self.len = self.len.saturating_sub(1);
        self.settle(above);
        if last {
            self.settle_end(node);
        }
        if left < MIN && (left == 0 || node != self.tail) {
            self.shrink(node, left);
        }
        Some((start..end, value))
    }

    /// Takes care of a leaf with as few ranges as `left`.
    #[cold]
    fn shrink(&mut self, node: u32, left: usize) {
        if left > 0 || self.depth > 0 {
            return self.fill_up(node);
        }
        self.leaves.remove(node);
        (self.root, self.tail) = (NONE, NONE);
    }

    /// Cuts the range that contains `at` behind its start in two. `f` makes the value of the upper part.
    pub(super) fn split(&mut self, at: u64, f: impl FnOnce(&mut T, u64) -> T) -> Result<(), NoMemory> {
        let node = loop {
            let node = self.leaf_of(at).ok_or(NoMemory)?;
            if self.spans(node).is_some_and(|spans| !spans.is_full()) {
                break node;
            }
            self.make_room(node, false)?;
        };
        let leaf = self.leaves.get_mut(node).ok_or(NoMemory)?;
        let slot = leaf.spans.seek(at);
        let span = leaf.spans.span(slot).ok_or(NoMemory)?;
        let upper = f(leaf.value_mut(slot).ok_or(NoMemory)?, at.saturating_sub(span.start));
        // Both parts touch and stay in one leaf, so that no gap changes.
        leaf.spans.put(slot, Span { end: at, ..span });
        leaf.insert(slot + 1, Span { start: at, ..span }, upper);
        self.len += 1;
        self.room = self.room.saturating_sub(1);
        Ok(())
    }

    /// Moves the end of the range that starts at `start` into the gap behind it.
    pub(super) fn set_end(&mut self, start: u64, end: u64) {
        let Some(Pos { leaf: node, slot }) = self.seek(start) else { return };
        let Some(leaf) = self.leaves.get_mut(node) else { return };
        let Some(span) = leaf.spans.span(slot) else { return };
        let gone = leaf.spans.sizes(slot + 1);
        leaf.spans.put(slot, Span { end, ..span });
        leaf.spans.mark(slot + 1);
        if slot + 1 == leaf.spans.len() {
            self.settle_end(node);
        } else {
            let above = leaf.spans.note_sizes(gone, leaf.spans.sizes(slot + 1));
            self.settle(above);
        }
    }
}
