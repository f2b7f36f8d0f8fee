//! Whether everything that is computed agrees with the bits that it is computed from.

use super::cells::{window, Cell, WORD};
use super::leaf::{self, set, Leaf};
use super::Vram;
use crate::addr::VramAddr;

/// An invariant that does not hold: a bug of the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} (near {at})")]
pub struct Broken {
    /// Which.
    pub what: &'static str,
    /// Where, to the nearest 2 MiB.
    pub at: VramAddr,
}

impl Vram {
    /// Checks every invariant, in one pass over the records.
    ///
    /// # Errors
    /// The first one that does not hold.
    pub fn check(&self) -> Result<(), Broken> {
        let broken = |index: u32, what| Broken { what, at: self.address(index * leaf::CHUNKS) };
        let (mut free, mut clear) = (0, 0);
        for index in 0..self.end / leaf::CHUNKS {
            let leaf = self.leaves.get(index as usize).copied().unwrap_or(Leaf::FULL);
            self.check_leaf(index, leaf).map_err(|what| broken(index, what))?;
            free += u32::from(leaf.free);
            clear += u32::from(leaf.clear);
        }
        if (free, clear) != (self.free, self.clear) {
            return Err(broken(0, "the totals of free or cleared chunks are wrong"));
        }
        let managed: u32 = self.regions.iter().map(|&(lo, hi)| hi - lo).sum();
        let out = self.retired.iter().filter(|&entry| entry % 2 == 0).count() as u64;
        if u64::from(self.total) + out != u64::from(managed) || self.free > self.total {
            return Err(broken(0, "managed, retired and free chunks do not add up"));
        }
        self.check_retired()?;
        for level in 0..self.tree.levels() {
            for index in 0..self.tree.width(level) {
                let want = if level == 0 { self.join_leaves(index) } else { self.tree.recompute(level, index) };
                // A leaf that was looked at again updates what is above it in the same step.
                if self.tree.get(level, index) != Some(want) {
                    return Err(broken(index, "a tree node disagrees with its children"));
                }
            }
        }
        Ok(())
    }

    fn check_leaf(&self, index: u32, leaf: Leaf) -> Result<(), &'static str> {
        let (mut free, mut clear, mut words) = (0, 0, 0);
        for bit in 0..leaf::WORDS {
            let word = index * leaf::WORDS + bit;
            let cell = self.cells.get(word as usize).copied().unwrap_or(Cell::FOREIGN);
            free += cell.free.count_ones();
            clear += cell.usable(true).count_ones();
            words |= u8::from(cell.free != 0) << bit;
            if cell.free & !self.managed_bits(word) != 0 {
                return Err("a chunk outside the regions is free");
            }
            if cell.mark & !cell.free & !self.managed_bits(word) != !self.managed_bits(word) {
                return Err("a chunk outside the regions is not marked");
            }
        }
        if (free, clear, words) != (u32::from(leaf.free), u32::from(leaf.clear), leaf.words) {
            return Err("the counts of a leaf are wrong");
        }
        if free == leaf::CHUNKS && leaf.is_special() {
            return Err("a leaf with holes is entirely free");
        }
        let exact = self.leaf_runs(index);
        if !leaf.is_stale() && leaf.runs() != exact {
            return Err("the runs of a leaf are wrong");
        }
        let class = Leaf::class_for(leaf.free, leaf.clear, exact.max);
        let may_lag = leaf.is_stale() && class < set::WHOLE && leaf.class() < set::WHOLE;
        if leaf.class() != class && !may_lag {
            return Err("the class of a leaf is wrong");
        }
        self.check_sets(index, leaf)
    }

    fn check_sets(&self, index: u32, leaf: Leaf) -> Result<(), &'static str> {
        if (0..=set::WHOLE_CLEAR).any(|class| self.sets.has(class, index) != (class == leaf.class())) {
            return Err("a leaf is in the wrong class set");
        }
        let partly = leaf.free != 0 && u32::from(leaf.free) < leaf::CHUNKS;
        let flags = [(set::PARTLY, partly), (set::CLEAR, leaf.clear != 0), (set::STALE, leaf.is_stale())];
        if flags.iter().any(|&(set, is)| self.sets.has(set, index) != is) {
            return Err("a leaf is missing from a set, or wrongly in it");
        }
        Ok(())
    }

    fn check_retired(&self) -> Result<(), Broken> {
        let mut last = None;
        for entry in self.retired.iter() {
            let chunk = entry / 2;
            let cell = self.cells.get((chunk / WORD) as usize).copied().unwrap_or(Cell::FOREIGN);
            let what = match (cell.free >> (chunk % WORD) & 1, cell.mark >> (chunk % WORD) & 1, entry % 2) {
                _ if last >= Some(chunk) => "the retired pages are out of order",
                (1, _, _) => "a retired page is free",
                (_, 0, 0) => "a retired page belongs to an allocation",
                _ => {
                    last = Some(chunk);
                    continue;
                }
            };
            return Err(Broken { what, at: self.address(chunk) });
        }
        Ok(())
    }

    /// The chunks of a word that are in a region.
    fn managed_bits(&self, word: u32) -> u64 {
        let base = word * WORD;
        self.regions.iter().fold(0, |bits, &(lo, hi)| bits | window(base, lo, hi))
    }
}
