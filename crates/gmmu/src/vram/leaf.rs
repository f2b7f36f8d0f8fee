//! What is remembered of one leaf, 512 chunks or 2 MiB: exact counts, and its runs as of the last look.

use super::cells::Runs;

/// Chunks of a leaf.
pub(super) const CHUNKS: u32 = 512;
/// Words of a leaf.
pub(super) const WORDS: u32 = 8;

/// The sets that leaves are in. A leaf with free chunks is in exactly one of the classes `0..=WHOLE_CLEAR`.
pub(super) mod set {
    /// Class `k` below this one: a partly free leaf whose longest run had, when last looked at, `2^k` chunks or more
    /// but less than twice that.
    pub(in super::super) const WHOLE: u32 = 9;
    /// Entirely free, entirely known to be zero.
    pub(in super::super) const WHOLE_CLEAR: u32 = 10;
    /// Some chunks free, but not all.
    pub(in super::super) const PARTLY: u32 = 11;
    /// Some free chunks are known to be zero.
    pub(in super::super) const CLEAR: u32 = 12;
    /// The bits changed since the runs were computed.
    pub(in super::super) const STALE: u32 = 13;
    /// How many sets there are.
    pub(in super::super) const COUNT: usize = 14;
    /// No class: nothing free.
    pub(in super::super) const NONE: u32 = 15;
    /// The classes, as bits of [`Sets::live`](super::super::sets::Sets::live).
    pub(in super::super) const CLASSES: u32 = (1 << (WHOLE_CLEAR + 1)) - 1;
}

/// The summary of one leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// Free chunks. Exact.
    pub(super) free: u16,
    /// Free chunks known to be zero. Exact.
    pub(super) clear: u16,
    /// The runs when last looked at, see [`Runs`].
    head: u16,
    tail: u16,
    max: u16,
    /// Which of the 8 words have a free chunk. Exact.
    pub(super) words: u8,
    /// Bits 0 to 3: the class, [`set::NONE`] where nothing is free; bit 6: stale; bit 7: special.
    tag: u8,
}

const STALE: u8 = 1 << 6;
const SPECIAL: u8 = 1 << 7;

impl Leaf {
    /// A leaf with nothing free.
    pub(super) const FULL: Self = Self { free: 0, clear: 0, head: 0, tail: 0, max: 0, words: 0, tag: 15 };

    pub(super) const fn class(self) -> u32 {
        (self.tag & 15) as u32
    }

    pub(super) fn set_class(&mut self, class: u32) {
        self.tag = self.tag & !15 | u8::try_from(class & 15).unwrap_or(15);
    }

    /// Whether the bits changed since the runs were computed.
    pub(super) const fn is_stale(self) -> bool {
        self.tag & STALE != 0
    }

    pub(super) fn set_stale(&mut self, stale: bool) {
        self.tag = if stale { self.tag | STALE } else { self.tag & !STALE };
    }

    /// Whether some of its chunks are not managed: holes or retired pages.
    pub(super) const fn is_special(self) -> bool {
        self.tag & SPECIAL != 0
    }

    pub(super) fn set_special(&mut self) {
        self.tag |= SPECIAL;
    }

    /// The runs when last looked at.
    pub(super) const fn runs(self) -> Runs {
        Runs { head: self.head as u32, tail: self.tail as u32, max: self.max as u32 }
    }

    /// Remembers the runs; each is at most 512.
    pub(super) fn set_runs(&mut self, runs: Runs) {
        let narrow = |value: u32| u16::try_from(value).unwrap_or(0);
        (self.head, self.tail, self.max) = (narrow(runs.head), narrow(runs.tail), narrow(runs.max));
    }

    /// The class that a leaf with these exact counts and a longest run of `max` belongs to.
    pub(super) fn class_for(free: u16, clear: u16, max: u32) -> u32 {
        match (u32::from(free), u32::from(clear)) {
            (0, _) => set::NONE,
            (CHUNKS, CHUNKS) => set::WHOLE_CLEAR,
            (CHUNKS, _) => set::WHOLE,
            _ => max.max(1).ilog2().min(set::WHOLE - 1),
        }
    }
}
