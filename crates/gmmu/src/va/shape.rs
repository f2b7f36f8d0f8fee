//! How the tree keeps its shape: nodes that are full give to a neighbour or are cut, nodes that are nearly empty take
//! from a neighbour or become one with it. No range and no gap changes, so nothing above the parent does either.

use super::gap::Sizes;
use super::node::{spread, Inner, Leaf, Node, Row, FAN, MIN};
use super::tree::{Path, Tree, DEPTH};
use crate::storage::NoMemory;

/// A neighbour takes entries of a full node if it has room for so many; with fewer it would be full again too soon.
const WORTH: usize = 2;

impl<T> Tree<T> {
    /// Changes the shape at one level, towards room in the leaf at the end of `path`, which is full.
    pub(super) fn make_room(&mut self, path: &Path) -> Result<(), NoMemory> {
        for depth in (0..path.depth).rev() {
            let (parent, slot) = path.step(depth).ok_or(NoMemory)?;
            let leaves = depth + 1 == path.depth;
            let inner = self.inners.get(parent).ok_or(NoMemory)?;
            // Sharing first keeps nodes four fifths full, whatever the order of insertions.
            for (left, other) in [(slot.wrapping_sub(1), slot.wrapping_sub(1)), (slot, slot.wrapping_add(1))] {
                if other < inner.len() && self.size_of(inner.child(other), leaves) + WORTH <= FAN {
                    self.even_out(parent, left, leaves, 0);
                    return Ok(());
                }
            }
            if !inner.is_full() {
                return self.cut(parent, slot, leaves);
            }
        }
        self.grow()
    }

    /// Entries of a node.
    fn size_of(&self, node: Option<u32>, leaf: bool) -> usize {
        let Some(node) = node else { return FAN };
        let size = if leaf { self.leaves.get(node).map(Node::len) } else { self.inners.get(node).map(Node::len) };
        size.unwrap_or(FAN)
    }

    /// Puts a root above the root and cuts that in two.
    fn grow(&mut self) -> Result<(), NoMemory> {
        if self.depth >= DEPTH {
            return Err(NoMemory);
        }
        let leaves = self.depth == 0;
        let row = if leaves {
            self.leaves.get(self.root).map(|leaf| leaf.row(self.root))
        } else {
            self.inners.get(self.root).map(|inner| inner.row(self.root))
        };
        let mut top = Inner::new();
        top.insert(0, row.ok_or(NoMemory)?);
        let node = self.inners.insert_within(top).map_err(|_| NoMemory)?;
        if let Err(error) = self.cut(node, 0, leaves) {
            self.inners.remove(node);
            return Err(error);
        }
        self.root = node;
        self.depth += 1;
        Ok(())
    }

    /// Cuts a full node in two; its parent has room for one more.
    fn cut(&mut self, parent: u32, slot: usize, leaves: bool) -> Result<(), NoMemory> {
        let child = self.inners.get(parent).and_then(|inner| inner.child(slot)).ok_or(NoMemory)?;
        let added = if leaves { self.add_leaf(child) } else { self.inners.insert_within(Inner::new()).ok() };
        let row = Row { child: added.ok_or(NoMemory)?, last: 0, sizes: Sizes::default() };
        if let Some(inner) = self.inners.get_mut(parent) {
            inner.insert(slot + 1, row);
        }
        self.even_out(parent, slot, leaves, 0);
        Ok(())
    }

    /// Puts an empty leaf behind one.
    fn add_leaf(&mut self, leaf: u32) -> Option<u32> {
        let mut added = Leaf::new(0, 0);
        (added.prev, added.next) = (leaf, self.leaves.get(leaf)?.next);
        let node = self.leaves.insert_within(added).ok()?;
        self.link(leaf, node);
        self.link(node, added.next);
        Some(node)
    }

    /// Makes `next` the leaf behind `leaf`.
    fn link(&mut self, leaf: u32, next: u32) {
        if let Some(leaf) = self.leaves.get_mut(leaf) {
            leaf.next = next;
        }
        match self.leaves.get_mut(next) {
            Some(behind) => behind.prev = leaf,
            None => self.tail = leaf,
        }
    }

    /// Evens out a node that is not full enough any more with a neighbour, and the nodes above it.
    pub(super) fn fill_up(&mut self, path: &Path) {
        for depth in (0..path.depth).rev() {
            let Some((parent, slot)) = path.step(depth) else { return };
            let leaves = depth + 1 == path.depth;
            let Some(inner) = self.inners.get(parent) else { return };
            if self.size_of(inner.child(slot), leaves) >= MIN {
                break;
            }
            let left = if slot + 1 < inner.len() { slot } else { slot.saturating_sub(1) };
            self.even_out(parent, left, leaves, FAN);
        }
        while self.depth > 0 {
            let Some(inner) = self.inners.get(self.root).filter(|inner| inner.len() == 1) else { return };
            let Some(child) = inner.child(0) else { return };
            self.inners.remove(self.root);
            self.root = child;
            self.depth -= 1;
        }
    }

    /// Makes one of the children `left` and `left + 1` where they have at most `fit` entries, else shares these evenly.
    fn even_out(&mut self, parent: u32, left: usize, leaves: bool, fit: usize) {
        let Some(inner) = self.inners.get(parent) else { return };
        let (Some(a), Some(b)) = (inner.child(left), inner.child(left + 1)) else { return };
        let rows = if leaves { self.even_leaves(a, b, fit) } else { self.even_inners(a, b, fit) };
        let (Some((first, second)), Some(inner)) = (rows, self.inners.get_mut(parent)) else { return };
        inner.put(left, first);
        match second {
            Some(row) => inner.put(left + 1, row),
            None => inner.remove(left + 1),
        }
    }

    fn even_leaves(&mut self, a: u32, b: u32, fit: usize) -> Option<(Row, Option<Row>)> {
        // Copies, for two values of one slab cannot be borrowed at a time; this is rare.
        let (mut left, mut right) = (*self.leaves.get(a)?, *self.leaves.get(b)?);
        let total = left.len() + right.len();
        let one = total <= fit;
        spread(&mut left, &mut right, if one { total } else { total / 2 });
        (right.before, right.before_guard) = (left.last(), left.last_guard());
        *self.leaves.get_mut(a)? = left;
        if one {
            self.leaves.remove(b);
            self.link(a, right.next);
            return Some((left.row(a), None));
        }
        *self.leaves.get_mut(b)? = right;
        Some((left.row(a), Some(right.row(b))))
    }

    fn even_inners(&mut self, a: u32, b: u32, fit: usize) -> Option<(Row, Option<Row>)> {
        let (mut left, mut right) = (*self.inners.get(a)?, *self.inners.get(b)?);
        let total = left.len() + right.len();
        let one = total <= fit;
        spread(&mut left, &mut right, if one { total } else { total / 2 });
        *self.inners.get_mut(a)? = left;
        if one {
            self.inners.remove(b);
            return Some((left.row(a), None));
        }
        *self.inners.get_mut(b)? = right;
        Some((left.row(a), Some(right.row(b))))
    }
}
