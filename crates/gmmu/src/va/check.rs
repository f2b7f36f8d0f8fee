//! What must always hold in a tree.

use super::node::{Leaf, Node, MIN, NONE, NO_GUARD};
use super::tree::{Path, Pos, Tree};

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
            self.check_leaf(self.root, 1, &mut seen)?;
        }
        if seen.node != self.tail || (seen.node != NONE && seen.end > self.limits.end) {
            return Err("the last leaf is not the last, or ends outside the limits");
        }
        if (seen.leaves, seen.inners, seen.ranges) != (self.leaves.len(), self.inners.len(), self.len()) {
            return Err("nodes or values that nothing points to");
        }
        Ok(())
    }

    /// Goes through all inner nodes: `path` holds, per depth, a node and the child to visit next.
    fn check_inners(&self, seen: &mut Seen) -> Result<(), &'static str> {
        let mut path = Path::new(self.root, self.depth);
        path.set(0, self.root, 0);
        let mut depth = 0;
        loop {
            let (node, slot) = path.step(depth).ok_or("too deep")?;
            let inner = self.inners.get(node).ok_or("a child that is no node")?;
            if slot == 0 {
                seen.inners += 1;
                if inner.len() < if depth == 0 { 2 } else { MIN } {
                    return Err("an inner node with too few children");
                }
            }
            if slot == inner.len() {
                if depth == 0 {
                    return Ok(());
                }
                depth -= 1;
                continue;
            }
            path.set(depth, node, slot + 1);
            let row = inner.item(slot).ok_or("a row is missing")?;
            if depth + 1 < self.depth {
                if self.inners.get(row.child).map(|below| below.row(row.child)) != Some(row) {
                    return Err("a node knows wrong things of an inner node");
                }
                depth += 1;
                path.set(depth, row.child, 0);
            } else {
                self.check_leaf(row.child, MIN, seen)?;
                if self.leaves.get(row.child).map(|leaf| leaf.row(row.child)) != Some(row) {
                    return Err("a node knows wrong things of a leaf");
                }
            }
        }
    }

    fn check_leaf(&self, node: u32, fewest: usize, seen: &mut Seen) -> Result<(), &'static str> {
        let leaf = self.leaves.get(node).ok_or("a child that is no leaf")?;
        if leaf.len() < fewest {
            return Err("a leaf with too few ranges");
        }
        if (leaf.prev, leaf.before, leaf.before_guard) != (seen.node, seen.end, seen.guard) {
            return Err("a leaf knows wrong things of the one before it");
        }
        if leaf.next != NONE && self.leaves.get(leaf.next).map(|next: &Leaf| next.prev) != Some(node) {
            return Err("leaves are not linked both ways");
        }
        let mut at = if leaf.prev == NONE { self.limits.start } else { leaf.before };
        for slot in 0..leaf.len() {
            let item = leaf.item(slot).ok_or("a range is missing")?;
            if item.start < at || item.end <= item.start {
                return Err("ranges are not in order");
            }
            if self.value(Pos { leaf: node, slot }).is_none() {
                return Err("a range without a value");
            }
            at = item.end;
        }
        seen.leaves += 1;
        seen.ranges += leaf.len();
        (seen.node, seen.end, seen.guard) = (node, leaf.last(), leaf.last_guard());
        Ok(())
    }
}
