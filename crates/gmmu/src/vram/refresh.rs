//! Bringing what is computed from the bits up to date: after changes, or from nothing.

use super::cells::{runs, Runs};
use super::leaf::{self, set, Leaf};
use super::tree::{self, FAN};
use super::Vram;

/// Leaves that one word of a set describes; also what one node of the second tree level covers.
const GROUP: u32 = 64;

impl Vram {
    /// Looks again at the leaves that changed, at most about `leaves` of them (rounded up to groups of 64), so that later
    /// searches for long runs do not have to. Returns how many groups are left to look at; changes nothing that can be
    /// seen otherwise.
    pub fn settle(&mut self, leaves: u32) -> u32 {
        for _ in 0..leaves.div_ceil(GROUP) {
            if !self.refresh_group() {
                return 0;
            }
        }
        let (mut left, mut from) = (0, 0);
        while let Some(leaf) = self.sets.first_in(set::STALE, from, self.end / leaf::CHUNKS) {
            left += 1;
            from = leaf / GROUP * GROUP + GROUP;
        }
        left
    }

    /// Looks again at all leaves that changed: the tree and the classes are exact afterwards.
    pub(super) fn refresh(&mut self) {
        while self.refresh_group() {}
    }

    fn refresh_group(&mut self) -> bool {
        let Some(first) = self.sets.first(set::STALE) else { return false };
        let first = first / GROUP * GROUP;
        let mut stale = self.sets.drain_word(set::STALE, first);
        let mut changed = 0u8;
        while stale != 0 {
            let bit = stale.trailing_zeros();
            stale &= stale - 1;
            if self.look_again(first + bit) {
                changed |= 1 << (bit / FAN);
            }
        }
        let mut above = false;
        while changed != 0 {
            let index = first / FAN + changed.trailing_zeros();
            changed &= changed - 1;
            let runs = self.join_leaves(index);
            self.touched += 2;
            above |= self.tree.set(0, index, runs);
        }
        if above {
            self.tree.climb(1, first / GROUP);
        }
        true
    }

    /// Brings the tree up to date after the runs of one leaf, which are written already, changed from `old` to `new`.
    pub(super) fn lift(&mut self, index: u32, old: Runs, new: Runs) {
        let runs = |index: u32| self.leaves.get(index as usize).map(|leaf| leaf.runs());
        let below = if index % FAN == 0 { None } else { runs(index - 1) };
        let above = if index % FAN == FAN - 1 { None } else { runs(index + 1) };
        self.touched += 6;
        let Some(node) = self.tree.get(0, index / FAN) else { return };
        let node = tree::replaced(node, [old, new], [below, above], leaf::CHUNKS)
            .unwrap_or_else(|| self.join_leaves(index / FAN));
        self.tree.replace(0, index / FAN, node);
    }

    /// Recomputes a leaf's runs and class; says whether the runs changed.
    #[inline]
    fn look_again(&mut self, index: u32) -> bool {
        let runs = self.leaf_runs(index);
        self.touched += 2 + u64::from(leaf::WORDS);
        let Some(leaf) = self.leaves.as_mut_slice().get_mut(index as usize) else { return false };
        let changed = leaf.runs() != runs;
        let (was, class) = (leaf.class(), Leaf::class_for(leaf.free, leaf.clear, runs.max));
        leaf.set_runs(runs);
        leaf.set_class(class);
        leaf.set_stale(false);
        if was != class {
            self.move_class(index, was, class);
        }
        changed
    }

    /// Puts a leaf that changed into the class that it belongs to now; says whether that is another. Its runs and the tree
    /// still wait for [`refresh`](Self::refresh).
    pub(super) fn reclass(&mut self, index: u32) -> bool {
        if !self.leaf(index).is_stale() {
            return false;
        }
        let runs = self.leaf_runs(index);
        self.touched += 2 + u64::from(leaf::WORDS);
        let Some(leaf) = self.leaves.as_mut_slice().get_mut(index as usize) else { return false };
        let (was, class) = (leaf.class(), Leaf::class_for(leaf.free, leaf.clear, runs.max));
        leaf.set_class(class);
        if was != class {
            self.move_class(index, was, class);
        }
        was != class
    }

    /// The runs of a leaf, by its bits.
    pub(super) fn leaf_runs(&self, index: u32) -> Runs {
        let words = leaf::WORDS as usize;
        match self.leaves.get(index as usize).map(|leaf| u32::from(leaf.free)) {
            Some(0) | None => Runs::default(),
            Some(leaf::CHUNKS) => Runs { head: leaf::CHUNKS, tail: leaf::CHUNKS, max: leaf::CHUNKS },
            Some(_) => {
                let first = index as usize * words;
                runs(self.cells.get(first..first + words).unwrap_or_default().iter().map(|cell| cell.free))
            }
        }
    }

    /// What node `index` of the tree's lowest level has to be by its leaves.
    #[inline]
    pub(super) fn join_leaves(&self, index: u32) -> Runs {
        let first = (index * FAN) as usize;
        let last = (first + FAN as usize).min(self.leaves.len());
        let leaves = self.leaves.get(first..last).unwrap_or_default();
        tree::join(leaves.iter().map(|leaf| leaf.runs()), leaf::CHUNKS)
    }

    /// Computes everything from the bits alone. Needed after they were changed as a whole; otherwise it changes nothing but
    /// what later operations cost.
    pub fn rebuild(&mut self) {
        self.sets.clear();
        (self.free, self.clear) = (0, 0);
        for index in 0..self.end / leaf::CHUNKS {
            self.count_leaf(index);
            let runs = self.leaf_runs(index);
            let Some(leaf) = self.leaves.as_mut_slice().get_mut(index as usize) else { return };
            let class = Leaf::class_for(leaf.free, leaf.clear, runs.max);
            leaf.set_runs(runs);
            leaf.set_class(class);
            leaf.set_stale(false);
            let leaf = *leaf;
            self.free += u32::from(leaf.free);
            self.clear += u32::from(leaf.clear);
            self.move_class(index, set::NONE, class);
            if leaf.free != 0 {
                self.sets.insert(set::SOME, index);
            }
            if leaf.clear != 0 {
                self.sets.insert(set::CLEAR, index);
            }
        }
        for level in 0..self.tree.levels() {
            for index in 0..self.tree.width(level) {
                let runs = if level == 0 { self.join_leaves(index) } else { self.tree.recompute(level, index) };
                self.tree.set(level, index, runs);
            }
        }
    }

    /// Counts a leaf's free and cleared chunks.
    fn count_leaf(&mut self, index: u32) {
        let words = leaf::WORDS as usize;
        let (mut free, mut clear, mut some) = (0, 0, 0);
        let cells = self.cells.iter().skip(index as usize * words).take(words);
        for (bit, cell) in cells.enumerate() {
            free += cell.free.count_ones();
            clear += cell.usable(true).count_ones();
            some |= u8::from(cell.free != 0) << bit;
        }
        if let Some(leaf) = self.leaves.as_mut_slice().get_mut(index as usize) {
            // At most 512 each.
            leaf.free = u16::try_from(free).unwrap_or(0);
            leaf.clear = u16::try_from(clear).unwrap_or(0);
            leaf.words = some;
        }
    }
}
