//! Taking and giving chunks: the bits, and with them every exact count. Nothing else changes the free bits.

use super::cells::{spans, window, Cell, WORD};
use super::leaf::{self, set, Leaf};
use super::Vram;

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
        self.change_bits(start, len, |cell, mask| cell.free &= !mask);
    }

    /// Undoes [`take_bits`](Self::take_bits).
    pub(super) fn untake_bits(&mut self, start: u32, len: u32) {
        self.change_bits(start, len, |cell, mask| cell.free |= mask);
    }

    /// Gives the taken chunks `start..start + len` back, known to be zero or not.
    pub(super) fn give_bits(&mut self, start: u32, len: u32, cleared: bool) {
        self.change_bits(start, len, |cell, mask| {
            cell.free |= mask;
            cell.mark = if cleared { cell.mark | mask } else { cell.mark & !mask };
        });
    }

    fn change_bits(&mut self, start: u32, len: u32, change: impl Fn(&mut Cell, u64)) {
        let end = start + len;
        for index in start / leaf::CHUNKS..end.div_ceil(leaf::CHUNKS) {
            let base = index * leaf::CHUNKS;
            let (from, to) = (start.max(base), end.min(base + leaf::CHUNKS));
            let Some(leaf) = self.leaves.as_mut_slice().get_mut(index as usize) else { return };
            let old = *leaf;
            let (mut free, mut clear) = (u32::from(old.free), u32::from(old.clear));
            for (word, mask) in spans(from, to - from) {
                let Some(cell) = self.cells.as_mut_slice().get_mut(word as usize) else { return };
                let before = *cell;
                change(cell, mask);
                free = free + cell.free.count_ones() - before.free.count_ones();
                clear = clear + cell.usable(true).count_ones() - before.usable(true).count_ones();
                let bit = 1 << (word % leaf::WORDS);
                leaf.words = if cell.free == 0 { leaf.words & !bit } else { leaf.words | bit };
                self.touched += 2;
            }
            self.touched += 2;
            self.free = self.free + free - u32::from(old.free);
            self.clear = self.clear + clear - u32::from(old.clear);
            // At most 512 each.
            leaf.free = u16::try_from(free).unwrap_or(0);
            leaf.clear = u16::try_from(clear).unwrap_or(0);
            let run = if free > u32::from(old.free) { to - from } else { (from - base).max(base + leaf::CHUNKS - to) };
            self.refile(index, old, run);
        }
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
        let partly = |leaf: Leaf| leaf.free != 0 && u32::from(leaf.free) < leaf::CHUNKS;
        self.update(set::PARTLY, index, partly(old), partly(new));
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
            let taken = !self.cell(at / WORD).usable(only_clear) & window(at / WORD * WORD, at, u32::MAX);
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
            let taken = !self.cell(base / WORD).usable(only_clear) & window(base, 0, at);
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
