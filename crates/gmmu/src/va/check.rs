//! What must always hold in a tree.

use super::leaf::NO_GUARD;
use super::node::{Node, Seat, MIN, NONE};
use super::tree::Tree;

/// What was counted so far, and the last leaf with where it ends and how far one has to stay away from that.
struct Seen {
    leaves: usize,
    inners: usize,
    ranges: usize,
    node: u32,
    end: u64,
    guard: u32,
}

impl<T> Tree<T> {
    /// Checks order, links, fill, and what each node knows of those below it.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        let mut seen = Seen { leaves: 0, inners: 0, ranges: 0, node: NONE, end: self.base, guard: NO_GUARD };
        if self.depth > 0 {
            self.check_inners(&mut seen)?;
        } else if self.root != NONE {
            self.check_leaf(self.root, Seat::NONE, &mut seen)?;
        }
        if seen.node != self.tail || (seen.node != NONE && seen.end > self.limits.end) {
            return Err("the last leaf is not the last, or ends outside the limits");
        }
        if (seen.leaves, seen.inners, seen.ranges) != (self.leaves.len(), self.inners.len(), self.len()) {
            return Err("nodes or ranges that nothing points to");
        }
        Ok(())
    }

    /// Goes through all inner nodes: down to the first child, then from each to the next one.
    fn check_inners(&self, seen: &mut Seen) -> Result<(), &'static str> {
        let (mut node, mut slot, mut level) = (self.root, 0, self.depth);
        loop {
            let inner = self.inners.get(node).ok_or("a child that is no node")?;
            if slot == 0 {
                seen.inners += 1;
                if inner.len() < if level == self.depth { 2 } else { MIN } {
                    return Err("an inner node with too few children");
                }
                if inner.top != inner.largest() {
                    return Err("an inner node does not know its largest gap");
                }
            }
            if slot == inner.len() {
                if inner.seat.parent == NONE {
                    return (node == self.root).then_some(()).ok_or("a node without a parent");
                }
                (node, slot, level) = (inner.seat.parent, inner.seat.slot() + 1, level + 1);
                continue;
            }
            let row = inner.row_of(slot).ok_or("a row is missing")?;
            let seat = Seat { parent: node, slot: u32::try_from(slot).unwrap_or(NONE) };
            if level > 1 {
                let below = self.inners.get(row.child).ok_or("a child that is no node")?;
                if below.row(row.child) != row || below.seat != seat {
                    return Err("a node and an inner node below it know wrong things of each other");
                }
                (node, slot, level) = (row.child, 0, level - 1);
            } else {
                self.check_leaf(row.child, seat, seen)?;
                if self.spans(row.child).map(|spans| spans.row(row.child)) != Some(row) {
                    return Err("a node knows wrong things of a leaf");
                }
                slot += 1;
            }
        }
    }

    fn check_leaf(&self, node: u32, seat: Seat, seen: &mut Seen) -> Result<(), &'static str> {
        let leaf = self.leaves.get(node).ok_or("a child that is no leaf")?;
        let spans = &leaf.spans;
        if leaf.len() < if node == self.tail { 1 } else { MIN } {
            return Err("a leaf with too few ranges");
        }
        let before = (spans.seat, spans.prev, spans.before, spans.before_guard);
        if before != (seat, seen.node, seen.end, seen.guard) {
            return Err("a leaf knows wrong things of its parent or the leaf before it");
        }
        if !spans.is_sound() {
            return Err("a leaf does not know its gaps");
        }
        if spans.next != NONE && self.spans(spans.next).map(|next| next.prev) != Some(node) {
            return Err("leaves are not linked both ways");
        }
        let mut at = if spans.prev == NONE { self.limits.start } else { spans.before };
        for slot in 0..leaf.len() {
            let span = spans.span(slot).ok_or("a range is missing")?;
            if span.start < at || span.end <= span.start {
                return Err("ranges are not in order");
            }
            if leaf.value(slot).is_none() {
                return Err("a range without a value");
            }
            at = span.end;
        }
        seen.leaves += 1;
        seen.ranges += leaf.len();
        (seen.node, seen.end, seen.guard) = (node, spans.last(), spans.last_guard());
        Ok(())
    }
}
