//! Sets of leaves as bitmaps with 64-ary summaries: the lowest or highest member, from anywhere, in a few words.

use crate::storage::{List, NoMemory};

/// Levels that the largest allocator needs: 64^4 leaves are 32 TiB.
const LEVELS: usize = 4;

/// `count` sets over the same leaves, in one list. Each has a bit per leaf, above that a bit per non-empty word of the
/// level below, up to a single word.
#[derive(Debug)]
pub(super) struct Sets {
    words: List<u64>,
    /// Words of one set, all levels.
    stride: usize,
    /// Where each level starts within a set.
    offset: [usize; LEVELS],
    /// Words of each level.
    width: [usize; LEVELS],
    levels: usize,
    /// One bit per set that is not empty.
    live: u32,
    /// Words read or written so far.
    pub(super) touched: u64,
}

impl Sets {
    /// `count` (at most 32) empty sets over `leaves` leaves.
    ///
    /// # Errors
    /// [`NoMemory`].
    pub(super) fn new(count: usize, leaves: u32) -> Result<Self, NoMemory> {
        let (mut offset, mut width) = ([0; LEVELS], [0; LEVELS]);
        let (mut stride, mut levels) = (0, 0);
        let mut entries = leaves as usize;
        for (start, words) in offset.iter_mut().zip(&mut width) {
            entries = entries.div_ceil(64);
            *start = stride;
            *words = entries;
            stride += entries;
            levels += 1;
            if entries <= 1 {
                break;
            }
        }
        let mut words = List::new();
        words.extend_with(stride.checked_mul(count).ok_or(NoMemory)?, &0)?;
        Ok(Self { words, stride, offset, width, levels, live: 0, touched: 0 })
    }

    /// Bytes of heap held.
    pub(super) fn footprint(&self) -> usize {
        self.words.footprint()
    }

    /// The sets that are not empty, one bit each.
    pub(super) const fn live(&self) -> u32 {
        self.live
    }

    /// Empties all sets.
    pub(super) fn clear(&mut self) {
        self.words.as_mut_slice().fill(0);
        self.live = 0;
    }

    fn start(&self, set: u32, level: usize) -> usize {
        set as usize * self.stride + self.offset.get(level).copied().unwrap_or(0)
    }

    fn word(&mut self, at: usize) -> u64 {
        self.touched += 1;
        self.words.get(at).copied().unwrap_or(0)
    }

    /// Whether `leaf` is in `set`.
    pub(super) fn has(&self, set: u32, leaf: u32) -> bool {
        let word = self.words.get(self.start(set, 0) + leaf as usize / 64);
        word.is_some_and(|word| word >> (leaf % 64) & 1 != 0)
    }

    /// Adds `leaf` to `set`.
    pub(super) fn insert(&mut self, set: u32, leaf: u32) {
        let mut index = leaf as usize;
        for level in 0..self.levels {
            let at = self.start(set, level) + index / 64;
            self.touched += 1;
            let Some(word) = self.words.as_mut_slice().get_mut(at) else { return };
            let before = *word;
            *word |= 1 << (index % 64);
            if before != 0 {
                return;
            }
            index /= 64;
        }
        self.live |= 1 << set;
    }

    /// Takes `leaf` out of `set`.
    pub(super) fn remove(&mut self, set: u32, leaf: u32) {
        let mut index = leaf as usize;
        for level in 0..self.levels {
            let at = self.start(set, level) + index / 64;
            self.touched += 1;
            let Some(word) = self.words.as_mut_slice().get_mut(at) else { return };
            *word &= !(1 << (index % 64));
            if *word != 0 {
                return;
            }
            index /= 64;
        }
        self.live &= !(1 << set);
    }

    /// Empties the 64 leaves from `leaf` (a multiple of 64) on and returns which of them were in `set`.
    pub(super) fn drain_word(&mut self, set: u32, leaf: u32) -> u64 {
        let at = self.start(set, 0) + leaf as usize / 64;
        let members = self.word(at);
        if members != 0 {
            let last = members & members.wrapping_neg();
            if let Some(word) = self.words.as_mut_slice().get_mut(at) {
                *word = last;
            }
            self.remove(set, leaf + last.trailing_zeros());
        }
        members
    }

    /// The lowest member of `set`.
    pub(super) fn first(&mut self, set: u32) -> Option<u32> {
        if self.live >> set & 1 == 0 {
            return None;
        }
        self.descend_first(set, self.levels, 0)
    }

    /// The lowest member in entry `index` of `level`, which is not empty.
    fn descend_first(&mut self, set: u32, level: usize, mut index: usize) -> Option<u32> {
        for below in (0..level).rev() {
            let word = self.word(self.start(set, below) + index);
            if word == 0 {
                return None;
            }
            index = index * 64 + word.trailing_zeros() as usize;
        }
        u32::try_from(index).ok()
    }

    /// The highest member in entry `index` of `level`, which is not empty.
    fn descend_last(&mut self, set: u32, level: usize, mut index: usize) -> Option<u32> {
        for below in (0..level).rev() {
            let word = self.word(self.start(set, below) + index);
            if word == 0 {
                return None;
            }
            index = index * 64 + 63 - word.leading_zeros() as usize;
        }
        u32::try_from(index).ok()
    }

    /// The lowest member of `set` in `from..to`.
    pub(super) fn first_in(&mut self, set: u32, from: u32, to: u32) -> Option<u32> {
        if self.live >> set & 1 == 0 || from >= to {
            return None;
        }
        let mut index = from as usize;
        for level in 0..self.levels {
            if index / 64 >= self.width.get(level).copied().unwrap_or(0) {
                return None;
            }
            let word = self.word(self.start(set, level) + index / 64) & u64::MAX << (index % 64);
            if word != 0 {
                let found = index / 64 * 64 + word.trailing_zeros() as usize;
                return self.descend_first(set, level, found).filter(|&leaf| leaf < to);
            }
            // Everything from the next word on, as the level above sees it.
            index = index / 64 + 1;
        }
        None
    }

    /// The highest member of `set` in `from..to`.
    pub(super) fn last_in(&mut self, set: u32, from: u32, to: u32) -> Option<u32> {
        if self.live >> set & 1 == 0 || from >= to {
            return None;
        }
        let mut index = to as usize - 1;
        for level in 0..self.levels {
            let word = self.word(self.start(set, level) + index / 64) & u64::MAX >> (63 - index % 64);
            if word != 0 {
                let found = index / 64 * 64 + 63 - word.leading_zeros() as usize;
                return self.descend_last(set, level, found).filter(|&leaf| leaf >= from);
            }
            index = (index / 64).checked_sub(1)?;
        }
        None
    }
}
