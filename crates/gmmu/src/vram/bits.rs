//! Taking and giving chunks: the bits, and with them every exact count. Nothing else changes the free bits.

use super::cells::{spans, Cell, Runs, WORD};
use super::leaf::{self, set, Leaf};
use super::Vram;
use core::ops::Range;

impl Vram {
    pub(super) fn cell(&mut self, word: u32) -> Cell {
        self.touched += 2;
        self.cells.get(word as usize).copied().unwrap_or(Cell::FOREIGN)
    }

    pub(super) fn leaf(&mut self, leaf: u32) -> Leaf {
        self.touched += 2;
        self.leaves.get(leaf as usize).copied().unwrap_or(Leaf::FULL)
    }

    /// Takes one free chunk as an allocation of its own. Says whether it was known to be zero.
    pub(super) fn take_one(&mut self, chunk: u32) -> bool {
        let bit = 1u64 << (chunk % WORD);
        let Some(cell) = self.cells.as_mut_slice().get_mut((chunk / WORD) as usize) else { return false };
        let cleared = cell.mark & bit != 0;
        cell.free &= !bit;
        cell.mark |= bit;
        let emptied = cell.free == 0;
        let index = chunk / leaf::CHUNKS;
        let Some(leaf) = self.leaves.as_mut_slice().get_mut(index as usize) else { return false };
        let old = *leaf;
        leaf.free -= 1;
        leaf.clear -= u16::from(cleared);
        leaf.words &= !(u8::from(emptied) << (chunk / WORD % leaf::WORDS));
        self.free -= 1;
        self.clear -= u32::from(cleared);
        // Most often the leaf stays where it is: partly free, of unknown class, cleared chunks or none as before.
        let stays = leaf.free != 0 && old.is_stale() && u32::from(old.free) < leaf::CHUNKS;
        if stays && (old.clear == 0) == (leaf.clear == 0) {
            return cleared;
        }
        let at = chunk % leaf::CHUNKS;
        self.refile(index, old, at.max(leaf::CHUNKS - 1 - at));
        cleared
    }

    /// Gives one taken chunk back.
    pub(super) fn give_one(&mut self, chunk: u32, cleared: bool) {
        let bit = 1u64 << (chunk % WORD);
        let Some(cell) = self.cells.as_mut_slice().get_mut((chunk / WORD) as usize) else { return };
        cell.free |= bit;
        cell.mark = if cleared { cell.mark | bit } else { cell.mark & !bit };
        let index = chunk / leaf::CHUNKS;
        self.touched += 2;
        let Some(leaf) = self.leaves.as_mut_slice().get_mut(index as usize) else { return };
        let old = *leaf;
        leaf.free += 1;
        leaf.clear += u16::from(cleared);
        leaf.words |= 1 << (chunk / WORD % leaf::WORDS);
        self.free += 1;
        self.clear += u32::from(cleared);
        let stays = old.free != 0 && old.is_stale() && u32::from(leaf.free) < leaf::CHUNKS;
        if stays && (old.clear == 0) == (leaf.clear == 0) {
            return;
        }
        self.refile(index, old, 1);
    }

    /// Takes the free chunks `start..start + len`. Their marks still say which were known to be zero, so that
    /// [`untake_bits`](Self::untake_bits) undoes it without a trace.
    pub(super) fn take_bits(&mut self, start: u32, len: u32) {
        self.change_bits(start, len, false, |cell, mask| {
            cell.free &= !mask;
            cell.mark & mask
        });
    }

    /// Takes the free chunks `start..start + len` and makes one allocation of them. Says whether all were known to be zero.
    pub(super) fn claim(&mut self, start: u32, len: u32) -> bool {
        let zeros = self.change_bits(start, len, false, |cell, mask| {
            let zero = cell.mark & mask;
            cell.free &= !mask;
            cell.mark &= !mask;
            zero
        });
        self.mark_start(start);
        zeros == len
    }

    /// Undoes [`take_bits`](Self::take_bits).
    pub(super) fn untake_bits(&mut self, start: u32, len: u32) {
        self.change_bits(start, len, true, |cell, mask| {
            cell.free |= mask;
            cell.mark & mask
        });
    }

    /// Gives the taken chunks `start..start + len` back, known to be zero or not.
    pub(super) fn give_bits(&mut self, start: u32, len: u32, cleared: bool) {
        self.change_bits(start, len, true, |cell, mask| {
            cell.free |= mask;
            cell.mark = if cleared { cell.mark | mask } else { cell.mark & !mask };
            cell.mark & mask
        });
    }

    /// Makes chunks free that are all taken, or the other way round. `change` does it in one word and returns which of them
    /// are known to be zero; the result is how many of all are.
    fn change_bits(&mut self, start: u32, len: u32, give: bool, change: impl Fn(&mut Cell, u64) -> u64) -> u32 {
        let end = start + len;
        let (first, last) = (start / leaf::CHUNKS, end.div_ceil(leaf::CHUNKS));
        let mut zeros = 0;
        for index in first..last {
            let base = index * leaf::CHUNKS;
            let part = start.max(base) - base..end.min(base + leaf::CHUNKS) - base;
            let count = part.end - part.start;
            let Some(&leaf) = self.leaves.get(index as usize) else { return zeros };
            let Some((clear, words)) = self.change_leaf(index, part.clone(), leaf.words, &change) else { return zeros };
            zeros += clear;
            let sum = |all: u32, part: u32| if give { all + part } else { all - part };
            self.free = sum(self.free, count);
            self.clear = sum(self.clear, clear);
            // At most 512 each.
            let mut new = leaf;
            new.free = u16::try_from(sum(u32::from(leaf.free), count)).unwrap_or(0);
            new.clear = u16::try_from(sum(u32::from(leaf.clear), clear)).unwrap_or(0);
            new.words = words;
            // Where many leaves change together, looking at all of them later is cheaper.
            if leaf.is_stale() || last - first > 2 {
                if let Some(leaf) = self.leaves.as_mut_slice().get_mut(index as usize) {
                    *leaf = new;
                }
                let run = if give { count } else { part.start.max(leaf::CHUNKS - part.end) };
                self.refile(index, leaf, run);
            } else {
                self.refile_exactly(index, leaf, new, part);
            }
        }
        zeros
    }

    /// The part of [`change_bits`](Self::change_bits) in one leaf: `part` counts from its start, `words` are its words with
    /// a free chunk. Returns how many chunks are known to be zero, and the words with a free chunk now.
    #[inline]
    fn change_leaf(
        &mut self,
        index: u32,
        part: Range<u32>,
        mut words: u8,
        change: impl Fn(&mut Cell, u64) -> u64,
    ) -> Option<(u32, u8)> {
        let (first, last) = (part.start / WORD, part.end.checked_sub(1)? / WORD);
        let at = (index * leaf::WORDS) as usize;
        let cells = self.cells.as_mut_slice().get_mut(at + first as usize..=at + last as usize)?;
        let (mut clear, mut bit) = (0, 1u8 << first);
        let mut step = |cell: &mut Cell, mask: u64| {
            let zero = change(cell, mask);
            // Counting bits is slow without an instruction for it, and most memory is not cleared.
            clear += if zero == 0 { 0 } else { zero.count_ones() };
            words = if cell.free == 0 { words & !bit } else { words | bit };
            bit <<= 1;
        };
        let mut mask = u64::MAX << (part.start % WORD);
        let (end, rest) = cells.split_last_mut()?;
        for cell in rest {
            step(cell, mask);
            mask = u64::MAX;
        }
        step(end, mask & u64::MAX >> (WORD - 1 - (part.end - 1) % WORD));
        self.touched += 2 + 2 * u64::from(last - first + 1);
        Some((clear, words))
    }

    /// As [`refile`](Self::refile), for a leaf whose runs were known and whose chunks `part` changed: they stay known.
    fn refile_exactly(&mut self, index: u32, old: Leaf, mut new: Leaf, part: Range<u32>) {
        let before = old.runs();
        let runs = if new.free > old.free {
            before.with(part.clone(), || self.beside(index, part, before, u32::from(old.free)))
        } else {
            before.without(part, u32::from(new.free)).unwrap_or_else(|| self.leaf_runs(index))
        };
        let (was, class) = (old.class(), Leaf::class_for(new.free, new.clear, runs.max));
        new.set_runs(runs);
        new.set_class(class);
        if let Some(leaf) = self.leaves.as_mut_slice().get_mut(index as usize) {
            *leaf = new;
        }
        if class != was {
            self.move_class(index, was, class);
        }
        self.update(set::SOME, index, old.free != 0, new.free != 0);
        self.update(set::CLEAR, index, old.clear != 0, new.clear != 0);
        if runs != before {
            self.lift(index, before, runs);
        }
    }

    /// The free chunks right below and right above `part` of a leaf, which had the runs `runs` and `free` free chunks.
    fn beside(&mut self, index: u32, part: Range<u32>, runs: Runs, free: u32) -> (u32, u32) {
        let mut below = if runs.head == part.start { runs.head } else { 0 };
        let mut above = if runs.tail == leaf::CHUNKS - part.end { runs.tail } else { 0 };
        // Other runs than those at the ends may be beside it.
        if free > runs.head + runs.tail {
            let base = index * leaf::CHUNKS;
            if below == 0 && part.start != 0 {
                let at = base + part.start;
                below = at - self.run_start(at, base, false);
            }
            if above == 0 && part.end != leaf::CHUNKS {
                let at = base + part.end;
                above = self.run_end(at, base + leaf::CHUNKS, false) - at;
            }
        }
        (below, above)
    }

    /// Puts a leaf whose counts changed into the right sets. `run` is a run of free chunks that it has if it was
    /// entirely free or entirely taken before, or got chunks back.
    fn refile(&mut self, index: u32, old: Leaf, run: u32) {
        let Some(leaf) = self.leaves.as_mut_slice().get_mut(index as usize) else { return };
        let guess = Leaf::class_for(leaf.free, leaf.clear, run);
        let was = old.class();
        let keeps = guess < set::WHOLE && was < set::WHOLE;
        let gained = leaf.free > old.free;
        let class = if keeps && (!gained || guess < was) { was } else { guess };
        let stale = old.is_stale();
        leaf.set_class(class);
        leaf.set_stale(true);
        let new = *leaf;
        if class != was {
            self.move_class(index, was, class);
        }
        self.update(set::SOME, index, old.free != 0, new.free != 0);
        self.update(set::CLEAR, index, old.clear != 0, new.clear != 0);
        self.update(set::STALE, index, stale, true);
    }

    pub(super) fn move_class(&mut self, index: u32, from: u32, to: u32) {
        if from != set::NONE {
            self.sets.remove(from, index);
        }
        if to != set::NONE {
            self.sets.insert(to, index);
        }
    }

    fn update(&mut self, set: u32, index: u32, was: bool, is: bool) {
        match (was, is) {
            (false, true) => self.sets.insert(set, index),
            (true, false) => self.sets.remove(set, index),
            _ => {}
        }
    }

    /// Marks taken chunks as one allocation. Says whether all of them were known to be zero.
    pub(super) fn mark_allocation(&mut self, start: u32, len: u32) -> bool {
        let mut cleared = true;
        for (word, mask) in spans(start, len) {
            let Some(cell) = self.cells.as_mut_slice().get_mut(word as usize) else { continue };
            cleared &= cell.mark & mask == mask;
            cell.mark &= !mask;
            self.touched += 2;
        }
        self.mark_start(start);
        cleared
    }

    /// Lets an allocation start at a taken chunk.
    pub(super) fn mark_start(&mut self, chunk: u32) {
        if let Some(cell) = self.cells.as_mut_slice().get_mut((chunk / WORD) as usize) {
            cell.mark |= 1 << (chunk % WORD);
        }
    }

    /// The end of the run of usable chunks that `chunk` is in, at most `hi`.
    pub(super) fn run_end(&mut self, chunk: u32, hi: u32, only_clear: bool) -> u32 {
        let mut at = chunk;
        while at < hi {
            if at % leaf::CHUNKS == 0 && self.is_whole(at / leaf::CHUNKS, only_clear) {
                at += leaf::CHUNKS;
                continue;
            }
            let taken = !self.cell(at / WORD).usable(only_clear) & u64::MAX << (at % WORD);
            if taken != 0 {
                return hi.min(at / WORD * WORD + taken.trailing_zeros());
            }
            at = at / WORD * WORD + WORD;
        }
        hi
    }

    /// The start of the run of usable chunks that ends with the one before `end`, at least `lo`.
    pub(super) fn run_start(&mut self, end: u32, lo: u32, only_clear: bool) -> u32 {
        let mut at = end;
        while at > lo {
            if at % leaf::CHUNKS == 0 && self.is_whole(at / leaf::CHUNKS - 1, only_clear) {
                at -= leaf::CHUNKS;
                continue;
            }
            let base = (at - 1) / WORD * WORD;
            let taken = !self.cell(base / WORD).usable(only_clear) & u64::MAX >> (WORD - (at - base));
            if taken != 0 {
                return lo.max(base + WORD - taken.leading_zeros());
            }
            at = base;
        }
        lo
    }

    fn is_whole(&mut self, leaf: u32, only_clear: bool) -> bool {
        let leaf = self.leaf(leaf);
        u32::from(if only_clear { leaf.clear } else { leaf.free }) == leaf::CHUNKS
    }
}
