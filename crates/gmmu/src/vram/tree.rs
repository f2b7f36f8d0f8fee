//! The run tree: for groups of 8, 64, 512 … leaves, the free chunks at the start, at the end, and in the longest run.
//!
//! It lets a search for a long run pass over whole groups that cannot hold one, and answers "the longest run" at the
//! root. Operations on runs keep it up to date as they go. Those on single chunks never pay for it: they leave a note, and
//! who asks next brings it up to date (see `Vram::refresh`).

use super::cells::Runs;
use super::leaf::CHUNKS;
use crate::storage::{List, NoMemory};

/// Children of a node.
pub(super) const FAN: u32 = 8;
/// log2 of [`FAN`].
const FAN_SHIFT: u32 = 3;
/// Levels above the leaves that the largest allocator needs.
const LEVELS: usize = 8;

/// Puts the runs of neighbours, each `len` chunks long, together.
pub(super) fn join(children: impl Iterator<Item = Runs>, len: u32) -> Runs {
    let mut all = Runs::default();
    // Length of the run that reaches the current child, and whether it began with the first one.
    let (mut open, mut from_start) = (0, true);
    for child in children {
        if child.head == len {
            open += len;
            continue;
        }
        let joined = open + child.head;
        if from_start {
            all.head = joined;
            from_start = false;
        }
        all.max = all.max.max(joined).max(child.max);
        open = child.tail;
    }
    if from_start {
        all.head = open;
    }
    all.tail = open;
    all.max = all.max.max(open);
    all
}

/// The first of the neighbours, each `len` chunks long, that has a run of `want` chunks inside or together with the `open`
/// chunks that reach it from below; leaves in `open` how many those are.
pub(super) fn first_fit(
    children: impl Iterator<Item = Runs>,
    len: u32,
    open: &mut u32,
    want: u32,
) -> Option<(u32, Runs)> {
    for (index, child) in (0..FAN).zip(children) {
        if (*open + child.head).max(child.max) >= want {
            return Some((index, child));
        }
        *open = if child.head == len { *open + len } else { child.tail };
    }
    None
}

/// What becomes of `node` when its child between `below` and `above` (`None` at the ends) changes from `old` to `new`. Each
/// child is `len` chunks long. `None` where only a look at all children tells.
pub(super) fn replaced(node: Runs, [old, new]: [Runs; 2], [below, above]: [Option<Runs>; 2], len: u32) -> Option<Runs> {
    let (lead, trail) = (below.map_or(0, |runs| runs.tail), above.map_or(0, |runs| runs.head));
    // Runs that reach across a whole child are left to `join`.
    if old.head >= len || new.head >= len || lead == len || trail == len {
        return None;
    }
    let longest = |child: Runs| child.max.max(lead + child.head).max(child.tail + trail);
    let (was, is) = (longest(old), longest(new));
    // Where the longest run of the node got shorter, another is the longest now.
    if is < node.max && was == node.max {
        return None;
    }
    Some(Runs {
        head: if below.is_none() { new.head } else { node.head },
        tail: if above.is_none() { new.tail } else { node.tail },
        max: node.max.max(is),
    })
}

/// The nodes above the leaves, level by level; the last is the root.
#[derive(Debug)]
pub(super) struct Tree {
    nodes: List<Runs>,
    /// Where each level starts, and how many nodes it has, but for empty ones that fill up its last group of children.
    level: [(usize, u32); LEVELS],
    levels: u32,
}

impl Tree {
    /// The tree over `leaves` leaves, all of them without a free chunk.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub(super) fn new(leaves: u32) -> Result<Self, NoMemory> {
        let mut level = [(0, 0); LEVELS];
        let (mut total, mut levels, mut width) = (0usize, 0, leaves);
        for entry in &mut level {
            width = width.div_ceil(FAN);
            *entry = (total, width);
            // Whole groups of children, so that none needs a check of its own; those beyond the end have nothing free.
            total += width.next_multiple_of(FAN) as usize;
            levels += 1;
            if width <= 1 {
                break;
            }
        }
        let mut nodes = List::new();
        nodes.extend_with(total, &Runs::default())?;
        Ok(Self { nodes, level, levels })
    }

    /// Bytes of heap held.
    pub(super) fn footprint(&self) -> usize {
        self.nodes.footprint()
    }

    /// Levels above the leaves.
    pub(super) const fn levels(&self) -> u32 {
        self.levels
    }

    fn place(&self, level: u32, index: u32) -> Option<usize> {
        let &(start, width) = self.level.get(level as usize)?;
        (index < width).then_some(start + index as usize)
    }

    /// Node `index` of `level`; level 0 is the one right above the leaves.
    pub(super) fn get(&self, level: u32, index: u32) -> Option<Runs> {
        self.nodes.get(self.place(level, index)?).copied()
    }

    /// How many nodes `level` has.
    pub(super) fn width(&self, level: u32) -> u32 {
        self.level.get(level as usize).map_or(0, |&(_, width)| width)
    }

    /// The whole memory.
    pub(super) fn root(&self) -> Runs {
        self.get(self.levels.saturating_sub(1), 0).unwrap_or_default()
    }

    /// Leaves below one node of `level`.
    pub(super) const fn leaves(level: u32) -> u32 {
        1 << (FAN_SHIFT * (level + 1))
    }

    /// Writes a node; says whether that changed it.
    pub(super) fn set(&mut self, level: u32, index: u32, runs: Runs) -> bool {
        let Some(node) = self.place(level, index).and_then(|at| self.nodes.as_mut_slice().get_mut(at)) else {
            return false;
        };
        let changed = *node != runs;
        *node = runs;
        changed
    }

    /// The children of node `index` of `level`, 1 or above.
    #[inline]
    pub(super) fn children(&self, level: u32, index: u32) -> Option<&[Runs; FAN as usize]> {
        let &(start, _) = self.level.get(level.checked_sub(1)? as usize)?;
        self.nodes.get(start + (index * FAN) as usize..)?.first_chunk()
    }

    /// What node `index` of `level`, 1 or above, has to be by its children.
    pub(super) fn recompute(&self, level: u32, index: u32) -> Runs {
        let children = self.children(level, index).into_iter().flatten();
        join(children.copied(), Self::leaves(level) / FAN * CHUNKS)
    }

    /// Writes a node and brings what is above it up to date, as far up as something changes.
    pub(super) fn replace(&mut self, mut level: u32, mut index: u32, mut new: Runs) {
        let mut len = Self::leaves(level) * CHUNKS;
        while let Some(node) = self.place(level, index).and_then(|at| self.nodes.as_mut_slice().get_mut(at)) {
            let old = *node;
            if old == new {
                return;
            }
            *node = new;
            let parent = index / FAN;
            let Some(node) = self.get(level + 1, parent) else { return };
            let Some(group) = self.children(level + 1, parent) else { return };
            let slot = (index % FAN) as usize;
            let beside = [group.get(slot.wrapping_sub(1)).copied(), group.get(slot + 1).copied()];
            new = replaced(node, [old, new], beside, len).unwrap_or_else(|| join(group.iter().copied(), len));
            (level, index, len) = (level + 1, parent, len.saturating_mul(FAN));
        }
    }

    /// Recomputes node `index` of `level` (1 or above) and what is above it, as far up as something changes.
    pub(super) fn climb(&mut self, mut level: u32, mut index: u32) {
        while level < self.levels {
            let runs = self.recompute(level, index);
            if !self.set(level, index, runs) {
                return;
            }
            level += 1;
            index /= FAN;
        }
    }
}
