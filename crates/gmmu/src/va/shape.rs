//! How the tree keeps its shape: nodes that are full give to a neighbour or are cut, nodes that are nearly empty take
//! from a neighbour or become one with it. No range and no gap changes, so nothing above the parent does either.
//!
//! Nodes of level 0 are leaves, those of other levels are inner nodes.

use super::gap::Sizes;
use super::leaf::Leaf;
use super::node::{spread, Inner, Node, Row, Seat, FAN, MIN};
use super::tree::Tree;
use crate::storage::NoMemory;

/// A neighbour takes entries of a full node if it has room for so many; with fewer it would be full again too soon.
const WORTH: usize = 2;

/// How two neighbours share their entries: they become one where they have at most `fit`; else the first gets half, or
/// more, up to `most`, as long as the second has `least`.
#[derive(Clone, Copy, Debug)]
struct Share {
    fit: usize,
    most: usize,
    least: usize,
}

impl Share {
    /// How many of `total` entries the first one gets, and whether that is all.
    fn of(self, total: usize) -> (usize, bool) {
        if total <= self.fit {
            return (total, true);
        }
        (total.saturating_sub(self.least).min(self.most).max(total / 2), false)
    }
}

impl<T> Tree<T> {
    /// Changes the shape at one level, towards room in `leaf`, which is full. Where the room is wanted at its end, more is
    /// likely to come there: what lies before is packed closer, and less often.
    pub(super) fn make_room(&mut self, leaf: u32, at_end: bool) -> Result<(), NoMemory> {
        let (most, worth) = if at_end { (FAN - WORTH, MIN) } else { (0, WORTH) };
        let share = Share { fit: 0, most, least: MIN };
        // Behind all ranges a new leaf begins, and nothing moves: a list in order fills leaf after leaf.
        let append = at_end && leaf == self.tail;
        let leaves = if append { Share { fit: 0, most: FAN, least: 0 } } else { share };
        let mut node = leaf;
        for level in 0..self.depth {
            let share = if level == 0 { leaves } else { share };
            let Seat { parent, slot } = self.seat(node, level);
            let inner = self.inners.get(parent).ok_or(NoMemory)?;
            let slot = slot as usize;
            // Sharing first keeps nodes four fifths full, whatever the order of insertions.
            for (left, other) in [(slot.wrapping_sub(1), slot.wrapping_sub(1)), (slot, slot.wrapping_add(1))] {
                let shares = other < inner.len() && self.size_of(inner.child(other), level) + worth <= FAN;
                if shares && !(append && level == 0) {
                    self.even_out(parent, left, level, share);
                    return Ok(());
                }
            }
            if !inner.is_full() {
                return self.cut(parent, slot, level, share);
            }
            node = parent;
        }
        self.grow(if self.depth == 0 { leaves } else { share })
    }

    fn seat(&self, node: u32, level: usize) -> Seat {
        let seat = if level == 0 { self.spans(node).map(|s| s.seat) } else { self.inners.get(node).map(|i| i.seat) };
        seat.unwrap_or(Seat::NONE)
    }

    /// Tells the children of a node, which is of the level above `level`, from `slot` on where they are.
    fn seat_children(&mut self, parent: u32, slot: usize, level: usize) {
        let Some(inner) = self.inners.get(parent) else { return };
        let (children, slots) = (inner.children(), 0u32..);
        for (child, slot) in children.zip(slots).skip(slot) {
            self.set_seat(child, level, Seat { parent, slot });
        }
    }

    fn set_seat(&mut self, node: u32, level: usize, seat: Seat) {
        if level > 0 {
            self.inners.get_mut(node).into_iter().for_each(|inner| inner.seat = seat);
        } else {
            self.leaves.get_mut(node).into_iter().for_each(|leaf| leaf.spans.seat = seat);
        }
    }

    /// Entries of a node.
    fn size_of(&self, node: Option<u32>, level: usize) -> usize {
        let Some(node) = node else { return FAN };
        let size = if level == 0 { self.leaves.get(node).map(Node::len) } else { self.inners.get(node).map(Node::len) };
        size.unwrap_or(FAN)
    }

    /// Puts a root above the root and cuts that in two.
    fn grow(&mut self, share: Share) -> Result<(), NoMemory> {
        let (old, level) = (self.root, self.depth);
        let row = if level == 0 {
            self.spans(old).map(|leaf| leaf.row(old))
        } else {
            self.inners.get(old).map(|inner| inner.row(old))
        };
        let row = row.ok_or(NoMemory)?;
        let mut top = Inner::new(Seat::NONE);
        top.insert(0, row);
        top.top = row.sizes;
        let node = self.inners.insert_within(top).map_err(|_| NoMemory)?;
        if let Err(error) = self.cut(node, 0, level, share) {
            self.inners.remove(node);
            return Err(error);
        }
        self.seat_children(node, 0, level);
        self.root = node;
        self.depth += 1;
        Ok(())
    }

    /// Cuts a full node in two; its parent has room for one more.
    fn cut(&mut self, parent: u32, slot: usize, level: usize, share: Share) -> Result<(), NoMemory> {
        let child = self.inners.get(parent).and_then(|inner| inner.child(slot)).ok_or(NoMemory)?;
        let added =
            if level == 0 { self.add_leaf(child) } else { self.inners.insert_within(Inner::new(Seat::NONE)).ok() };
        let row = Row { child: added.ok_or(NoMemory)?, bound: 0, sizes: Sizes::default() };
        if let Some(inner) = self.inners.get_mut(parent) {
            inner.insert(slot + 1, row);
        }
        self.seat_children(parent, slot + 1, level);
        self.even_out(parent, slot, level, share);
        Ok(())
    }

    /// Puts an empty leaf behind one.
    fn add_leaf(&mut self, leaf: u32) -> Option<u32> {
        let mut added = Leaf::new(0, 0);
        let next = self.spans(leaf)?.next;
        (added.spans.prev, added.spans.next) = (leaf, next);
        let node = self.leaves.insert_within(added).ok()?;
        self.link(leaf, node);
        self.link(node, next);
        Some(node)
    }

    /// Makes `next` the leaf behind `leaf`.
    fn link(&mut self, leaf: u32, next: u32) {
        if let Some(leaf) = self.leaves.get_mut(leaf) {
            leaf.spans.next = next;
        }
        match self.leaves.get_mut(next) {
            Some(behind) => behind.spans.prev = leaf,
            None => self.tail = leaf,
        }
    }

    /// Evens out a leaf that is not full enough any more with a neighbour, and the nodes above it.
    pub(super) fn fill_up(&mut self, leaf: u32) {
        let mut node = leaf;
        for level in 0..self.depth {
            let Seat { parent, slot } = self.seat(node, level);
            let Some(inner) = self.inners.get(parent) else { return };
            if self.size_of(Some(node), level) >= MIN {
                break;
            }
            let slot = slot as usize;
            let left = if slot + 1 < inner.len() { slot } else { slot.saturating_sub(1) };
            self.even_out(parent, left, level, Share { fit: FAN, most: 0, least: MIN });
            node = parent;
        }
        while self.depth > 0 {
            let Some(inner) = self.inners.get(self.root).filter(|inner| inner.len() == 1) else { return };
            let Some(child) = inner.child(0) else { return };
            self.inners.remove(self.root);
            self.root = child;
            self.depth -= 1;
            self.set_seat(child, self.depth, Seat::NONE);
        }
    }

    /// Makes one of the children `left` and `left + 1`, or shares their entries anew.
    fn even_out(&mut self, parent: u32, left: usize, level: usize, share: Share) {
        let Some(inner) = self.inners.get(parent) else { return };
        let (Some(a), Some(b)) = (inner.child(left), inner.child(left + 1)) else { return };
        let rows = if level == 0 { self.even_leaves(a, b, share) } else { self.even_inners(a, b, level, share) };
        let (Some((first, second)), Some(inner)) = (rows, self.inners.get_mut(parent)) else { return };
        inner.put(left, first);
        match second {
            Some(row) => inner.put(left + 1, row),
            None => {
                inner.remove(left + 1);
                self.seat_children(parent, left + 1, level);
            }
        }
    }

    fn even_leaves(&mut self, a: u32, b: u32, share: Share) -> Option<(Row, Option<Row>)> {
        let (left, right) = self.leaves.pair_mut(a, b)?;
        let (keep, one) = share.of(left.len() + right.len());
        spread(left, right, keep);
        right.spans.set_before(left.spans.last(), left.spans.last_guard());
        let next = right.spans.next;
        left.spans.survey();
        right.spans.survey();
        if one {
            self.leaves.remove(b);
            self.link(a, next);
            return Some((self.spans(a)?.row(a), None));
        }
        Some((self.spans(a)?.row(a), Some(self.spans(b)?.row(b))))
    }

    fn even_inners(&mut self, a: u32, b: u32, level: usize, share: Share) -> Option<(Row, Option<Row>)> {
        let (mut left, mut right) = (*self.inners.get(a)?, *self.inners.get(b)?);
        let (keep, one) = share.of(left.len() + right.len());
        spread(&mut left, &mut right, keep);
        for (node, mut inner) in [(a, left), (b, right)] {
            inner.top = inner.largest();
            *self.inners.get_mut(node)? = inner;
            self.seat_children(node, 0, level - 1);
        }
        let row = |node| Some(self.inners.get(node)?.row(node));
        let (first, second) = (row(a)?, row(b)?);
        if one {
            self.inners.remove(b);
        }
        Some((first, (!one).then_some(second)))
    }
}
