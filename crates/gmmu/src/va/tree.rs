//! The ranges in order: a B+tree whose inner nodes know the largest gap below each child.
//!
//! The gap *before* a range belongs to it, so a new range goes into the leaf of its successor, and splitting that gap
//! changes one leaf. The gap behind the last range is in no node. Nodes are numbers in slabs, values lie in a slab of
//! their own and never move. Nothing recurses.

use core::ops::Range;

use super::gap::{Edge, Gap, Sizes};
use super::node::{larger, Inner, Item, Leaf, Node, MIN, NONE, NO_GUARD};
use super::request::InsertError;
use crate::storage::{NoMemory, Slab};

/// Most levels of inner nodes; with at least [`MIN`] children each, as many as 2^31 leaves need.
pub(super) const DEPTH: usize = 12;

/// Where an entry is; good until the next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pos {
    pub(super) leaf: u32,
    pub(super) slot: usize,
}

/// The way from the root to an entry: inner nodes with the child taken, then the place in a leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) steps: [(u32, u32); DEPTH],
    pub(super) depth: usize,
    /// How many of the steps a search has gone.
    pub(super) depth_reached: usize,
    pub(super) pos: Pos,
}

impl Path {
    /// The start of a way: `pos.leaf` is the node reached, at first the root.
    pub(super) fn new(root: u32, depth: usize) -> Self {
        Self { steps: [(NONE, 0); DEPTH], depth, depth_reached: 0, pos: Pos { leaf: root, slot: 0 } }
    }

    pub(super) fn step(&self, depth: usize) -> Option<(u32, usize)> {
        self.steps.get(depth).map(|(node, slot)| (*node, *slot as usize))
    }

    pub(super) fn set(&mut self, depth: usize, node: u32, slot: usize) {
        if let (Some(step), Ok(slot)) = (self.steps.get_mut(depth), u32::try_from(slot)) {
            *step = (node, slot);
        }
    }
}

/// The ranges of an address space, with the gaps between them.
#[derive(Debug)]
pub(super) struct Tree<T> {
    pub(super) limits: Range<u64>,
    /// From where on the nodes know the gap before the first range. What is below is hardly ever asked for, and every
    /// search would stop there.
    pub(super) base: u64,
    pub(super) leaves: Slab<Leaf, 32>,
    pub(super) inners: Slab<Inner, 16>,
    values: Slab<T, 128>,
    /// A leaf where `depth` is 0; no node where there are no ranges.
    pub(super) root: u32,
    pub(super) depth: usize,
    /// The leaf with the last range.
    pub(super) tail: u32,
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
            values: Slab::new(),
            root: NONE,
            depth: 0,
            tail: NONE,
            room: 0,
        }
    }

    /// Makes room for `extra` insertions, whatever is removed in between.
    pub(super) fn reserve(&mut self, extra: usize) -> Result<(), NoMemory> {
        if self.room >= extra {
            return Ok(());
        }
        let total = self.len().checked_add(extra).ok_or(NoMemory)?;
        self.values.reserve(extra)?;
        // An insertion splits at most one node per level. And however ranges come and go, `total` of them never need
        // more nodes than there are with the fewest entries in each.
        let leaves = (total / MIN).saturating_add(1);
        self.leaves.reserve(extra.min(leaves.saturating_sub(self.leaves.len())))?;
        let per_level = extra.saturating_mul(self.depth.saturating_add(1)).saturating_add(1);
        let inners = (leaves / (MIN - 1)).saturating_add(DEPTH);
        self.inners.reserve(per_level.min(inners.saturating_sub(self.inners.len())))?;
        self.room = extra;
        Ok(())
    }

    pub(super) fn has_room(&self) -> bool {
        self.room > 0
    }

    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    pub(super) fn footprint(&self) -> usize {
        self.leaves.footprint() + self.inners.footprint() + self.values.footprint()
    }

    /// The first entry that ends behind `va`.
    pub(super) fn seek(&self, va: u64) -> Option<Pos> {
        let mut node = self.root;
        for _ in 0..self.depth {
            let inner = self.inners.get(node)?;
            node = inner.child(inner.seek(va))?;
        }
        let leaf = self.leaves.get(node)?;
        let slot = leaf.seek(va);
        (slot < leaf.len()).then_some(Pos { leaf: node, slot })
    }

    /// The way to the first entry that ends behind `va`, or to the place behind the last entry of all. `None` where
    /// there are no entries.
    pub(super) fn descend(&self, va: u64) -> Option<Path> {
        let mut path = Path::new(self.root, self.depth);
        for depth in 0..self.depth {
            let inner = self.inners.get(path.pos.leaf)?;
            let slot = inner.seek(va);
            path.set(depth, path.pos.leaf, slot);
            path.pos.leaf = inner.child(slot)?;
        }
        path.pos.slot = self.leaves.get(path.pos.leaf)?.seek(va);
        Some(path)
    }

    pub(super) fn last(&self) -> Option<Pos> {
        let slot = self.leaves.get(self.tail)?.len().checked_sub(1)?;
        Some(Pos { leaf: self.tail, slot })
    }

    pub(super) fn after(&self, pos: Pos) -> Option<Pos> {
        let leaf = self.leaves.get(pos.leaf)?;
        if pos.slot + 1 < leaf.len() {
            return Some(Pos { leaf: pos.leaf, slot: pos.slot + 1 });
        }
        (leaf.next != NONE).then_some(Pos { leaf: leaf.next, slot: 0 })
    }

    pub(super) fn before(&self, pos: Pos) -> Option<Pos> {
        if let Some(slot) = pos.slot.checked_sub(1) {
            return Some(Pos { leaf: pos.leaf, slot });
        }
        let prev = self.leaves.get(pos.leaf)?.prev;
        let slot = self.leaves.get(prev)?.len().checked_sub(1)?;
        Some(Pos { leaf: prev, slot })
    }

    pub(super) fn range(&self, pos: Pos) -> Option<Range<u64>> {
        let leaf = self.leaves.get(pos.leaf)?;
        Some(leaf.start(pos.slot)?..leaf.end(pos.slot)?)
    }

    pub(super) fn value(&self, pos: Pos) -> Option<&T> {
        self.values.get(self.leaves.get(pos.leaf)?.value(pos.slot)?)
    }

    pub(super) fn value_mut(&mut self, pos: Pos) -> Option<&mut T> {
        let index = self.leaves.get(pos.leaf)?.value(pos.slot)?;
        self.values.get_mut(index)
    }

    /// The gap behind the last range.
    pub(super) fn tail_gap(&self) -> Gap {
        let start = Edge { at: self.limits.start, guard: None };
        let before = self.leaves.get(self.tail).map_or(start, Leaf::last_edge);
        Gap { before, after: Edge { at: self.limits.end, guard: None } }
    }

    /// The gap before the first range, all of it.
    pub(super) fn head_gap(&self) -> Gap {
        let first = self.seek(0).and_then(|pos| self.leaves.get(pos.leaf)?.gap(pos.slot));
        let after = first.map_or(Edge { at: self.limits.end, guard: None }, |gap| gap.after);
        Gap { before: Edge { at: self.limits.start, guard: None }, after }
    }

    /// Inserts a range within the limits.
    pub(super) fn insert(&mut self, range: Range<u64>, guard: u32, value: T) -> Result<(), (InsertError, T)> {
        let path = match self.place(&range) {
            Ok(path) => path,
            Err(why) => return Err((why, value)),
        };
        let index = match self.values.insert_within(value) {
            Ok(index) => index,
            Err(value) => return Err((InsertError::NoRoom, value)),
        };
        self.put(&path, Item { start: range.start, end: range.end, guard, value: index });
        self.room = self.room.saturating_sub(1);
        Ok(())
    }

    /// The way to where `range` belongs, in a leaf that has room for it.
    fn place(&mut self, range: &Range<u64>) -> Result<Path, InsertError> {
        loop {
            let Some(path) = self.descend(range.start) else {
                if !self.has_room() {
                    return Err(InsertError::NoRoom);
                }
                let leaf = Leaf::new(self.base, NO_GUARD);
                self.root = self.leaves.insert_within(leaf).map_err(|_| InsertError::NoRoom)?;
                self.tail = self.root;
                continue;
            };
            if let Some(with) = self.range(path.pos).filter(|with| with.start < range.end) {
                return Err(InsertError::Overlap { with });
            }
            if !self.has_room() {
                return Err(InsertError::NoRoom);
            }
            if self.leaves.get(path.pos.leaf).is_some_and(|leaf| !leaf.is_full()) {
                return Ok(path);
            }
            // Each round changes the shape at one level, so this ends after a few.
            self.make_room(&path).map_err(|NoMemory| InsertError::NoRoom)?;
        }
    }

    fn put(&mut self, path: &Path, item: Item) {
        let Some(leaf) = self.leaves.get_mut(path.pos.leaf) else { return };
        let slot = path.pos.slot;
        let gone = leaf.sizes(slot);
        leaf.insert(slot, item);
        let added = larger(leaf.sizes(slot), leaf.sizes(slot + 1));
        self.settle(path, gone, added);
    }

    /// Brings the rows above a leaf up to date, in which gaps of at most the sizes `gone` gave way to others, the largest
    /// of them of the sizes `added`.
    fn settle(&mut self, path: &Path, gone: Sizes, added: Sizes) {
        let Some((parent, slot)) = path.depth.checked_sub(1).and_then(|depth| path.step(depth)) else { return };
        let (Some(inner), Some(leaf)) = (self.inners.get(parent), self.leaves.get(path.pos.leaf)) else { return };
        let mut sizes = inner.sizes(slot);
        // Where the largest gap went and none as large came, and only there, the others have to be looked at.
        let lost = sizes.iter().zip(gone.iter().zip(&added)).any(|(size, (gone, added))| gone >= size && added < size);
        sizes = if lost { leaf.largest() } else { larger(sizes, added) };
        let last = leaf.last();
        self.set_row(path, last, sizes);
    }

    /// Sets what the node above a leaf knows of it, and what the nodes above that know, as far as it changes.
    pub(super) fn set_row(&mut self, path: &Path, mut last: u64, mut sizes: Sizes) {
        for depth in (0..path.depth).rev() {
            let Some((node, slot)) = path.step(depth) else { return };
            let above = depth.checked_sub(1).and_then(|depth| path.step(depth));
            let above = above.and_then(|(node, slot)| Some(self.inners.get(node)?.sizes(slot)));
            let Some(inner) = self.inners.get_mut(node) else { return };
            let old = inner.sizes(slot);
            if old == sizes && inner.last_of(slot) == last {
                return;
            }
            inner.update(slot, last, sizes);
            let Some(above) = above else { return };
            let lost = above.iter().zip(old.iter().zip(&sizes)).any(|(top, (old, size))| old >= top && size < top);
            sizes = if lost { inner.largest() } else { larger(above, sizes) };
            last = inner.last();
        }
    }

    /// Recomputes what is known of the leaf of the range that starts at `start`.
    fn refresh(&mut self, start: u64) {
        let Some(path) = self.descend(start) else { return };
        let Some(row) = self.leaves.get(path.pos.leaf).map(|leaf| leaf.row(path.pos.leaf)) else { return };
        self.set_row(&path, row.last, row.sizes);
    }

    /// Tells the leaf behind `leaf` that the last range of `leaf` changed.
    fn tell_next(&mut self, leaf: u32) {
        let Some((last, guard, next)) = self.leaves.get(leaf).map(|l| (l.last(), l.last_guard(), l.next)) else {
            return;
        };
        let Some(behind) = self.leaves.get_mut(next) else { return };
        (behind.before, behind.before_guard) = (last, guard);
        if let Some(start) = behind.start(0) {
            self.refresh(start);
        }
    }

    /// Removes the range that starts at `start`.
    pub(super) fn remove(&mut self, start: u64) -> Option<(Range<u64>, T)> {
        let path = self.descend(start)?;
        let slot = path.pos.slot;
        let leaf = self.leaves.get_mut(path.pos.leaf)?;
        let range = leaf.start(slot).filter(|at| *at == start)?..leaf.end(slot)?;
        let index = leaf.value(slot)?;
        let gone = larger(leaf.sizes(slot), leaf.sizes(slot + 1));
        leaf.remove(slot);
        let (left, merged) = (leaf.len(), leaf.sizes(slot));
        if left == 0 {
            self.leaves.remove(self.root);
            (self.root, self.tail) = (NONE, NONE);
        } else {
            self.settle(&path, gone, merged);
            if slot == left {
                self.tell_next(path.pos.leaf);
            }
        }
        if left < MIN {
            self.fill_up(&path);
        }
        Some((range, self.values.remove(index)?))
    }

    /// Cuts the range at `pos`'s address `at`, which lies inside it. `f` makes the value of the upper part.
    pub(super) fn split(&mut self, at: u64, f: impl FnOnce(&mut T, u64) -> T) -> Result<(), NoMemory> {
        let path = loop {
            let path = self.descend(at).ok_or(NoMemory)?;
            if self.leaves.get(path.pos.leaf).is_some_and(|leaf| !leaf.is_full()) {
                break path;
            }
            self.make_room(&path)?;
        };
        let slot = path.pos.slot;
        let item = self.leaves.get(path.pos.leaf).and_then(|leaf| leaf.item(slot)).ok_or(NoMemory)?;
        let upper = f(self.values.get_mut(item.value).ok_or(NoMemory)?, at.saturating_sub(item.start));
        let value = self.values.insert_within(upper).map_err(|_| NoMemory)?;
        if let Some(leaf) = self.leaves.get_mut(path.pos.leaf) {
            // Both parts touch and stay in one leaf, so that no gap changes.
            leaf.set_end(slot, at);
            leaf.insert(slot + 1, Item { start: at, value, ..item });
        }
        self.room = self.room.saturating_sub(1);
        Ok(())
    }

    /// Moves the end of the range that starts at `start` into the gap behind it.
    pub(super) fn set_end(&mut self, start: u64, end: u64) {
        let Some(Pos { leaf: node, slot }) = self.seek(start) else { return };
        let Some(leaf) = self.leaves.get_mut(node) else { return };
        leaf.set_end(slot, end);
        if slot + 1 == leaf.len() {
            self.tell_next(node);
        }
        self.refresh(start);
    }
}
