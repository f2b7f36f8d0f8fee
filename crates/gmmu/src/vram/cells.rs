//! The truth: two bits for every 4 KiB chunk, and how runs of free chunks are found in them.
//!
//! | free | mark | meaning |
//! |---|---|---|
//! | 1 | 0 | free, contents unknown |
//! | 1 | 1 | free and known to be zero |
//! | 0 | 1 | taken, and the first chunk of its allocation |
//! | 0 | 0 | taken, and a later chunk of its allocation |
//!
//! The zero state of a chunk that is in use says nothing, so the same bit marks where allocations start: that is what
//! detects a double free or a wrong size without any memory of its own. Chunks that are not managed (holes between the
//! regions, retired pages) look like allocations of one chunk each.

use super::leaf::CHUNKS;
use core::ops::Range;

/// Chunks that one word describes.
pub(super) const WORD: u32 = 64;

/// The two bits of 64 chunks, side by side: an operation on one chunk touches one cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// The chunk can be handed out.
    pub(super) free: u64,
    /// See the module's table.
    pub(super) mark: u64,
}

impl Cell {
    /// 64 chunks that are nobody's to hand out.
    pub(super) const FOREIGN: Self = Self { free: 0, mark: u64::MAX };

    /// The free chunks that may be used: all, or only those known to be zero.
    pub(super) const fn usable(self, only_clear: bool) -> u64 {
        if only_clear {
            self.free & self.mark
        } else {
            self.free
        }
    }
}

/// A mask of the bits `from..to` of one word; `from <= to <= 64`.
pub(super) const fn bits(from: u32, to: u32) -> u64 {
    if from >= to {
        return 0;
    }
    let low = if from < 64 { u64::MAX << from } else { 0 };
    let high = if to < 64 { !(u64::MAX << to) } else { u64::MAX };
    low & high
}

/// The part of word `base..base + 64` that lies in `lo..hi`.
pub(super) const fn window(base: u32, lo: u32, hi: u32) -> u64 {
    let from = lo.saturating_sub(base);
    let to = hi.saturating_sub(base);
    bits(if from < WORD { from } else { WORD }, if to < WORD { to } else { WORD })
}

/// Calls `each(word index, mask)` for the words that cover `start..start + len`.
pub(super) fn spans(start: u32, len: u32) -> impl Iterator<Item = (u32, u64)> {
    let end = start.saturating_add(len);
    let last = if len == 0 { start / WORD } else { end.div_ceil(WORD) };
    (start / WORD..last).map(move |word| {
        // Each word overlaps, so that neither shift reaches 64.
        let (from, past) = (start.saturating_sub(word * WORD), (word * WORD + WORD).saturating_sub(end));
        (word, u64::MAX << from & u64::MAX >> past)
    })
}

/// The positions at which `len` (1 to 64) set bits start.
pub(super) const fn starts(bits: u64, len: u32) -> u64 {
    let mut left = bits;
    let mut have = 1;
    // On to the end even where nothing is left: nobody could predict when.
    while have < len {
        let step = if have < len - have { have } else { len - have };
        left &= left >> step;
        have += step;
    }
    left
}

/// An alignment of absolute addresses, applied to chunk numbers that count from `origin`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Align {
    /// Alignment in chunks, less one.
    mask: u64,
    /// Absolute number of chunk 0, a multiple of 512.
    origin: u64,
}

impl Align {
    /// `mask` is a power of two less one, at most 2^51; `origin` is below 2^52: no sum here can overflow.
    pub(super) const fn new(mask: u64, origin: u64) -> Self {
        Self { mask, origin }
    }

    /// Whether every chunk is aligned.
    pub(super) const fn is_any(self) -> bool {
        self.mask == 0
    }

    /// The alignment in chunks, capped to what fits.
    pub(super) fn chunks(self) -> u32 {
        u32::try_from(self.mask).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The first aligned chunk from `chunk` on.
    pub(super) const fn up(self, chunk: u32) -> u64 {
        ((self.origin + chunk as u64 + self.mask) & !self.mask) - self.origin
    }

    /// The last aligned chunk up to `chunk`, or `None` where it lies before chunk 0.
    pub(super) const fn down(self, chunk: u32) -> Option<u64> {
        ((self.origin + chunk as u64) & !self.mask).checked_sub(self.origin)
    }

    /// The aligned positions within a word: the origin is a multiple of 512, so it does not matter here. Alignments
    /// above 64 chunks have none but the word's first, which the callers judge as the start of a run.
    const fn in_word(self) -> u64 {
        match self.mask {
            0 => u64::MAX,
            1 => 0x5555_5555_5555_5555,
            3 => 0x1111_1111_1111_1111,
            7 => 0x0101_0101_0101_0101,
            15 => 0x0001_0001_0001_0001,
            31 => 0x0000_0001_0000_0001,
            63 => 1,
            _ => 0,
        }
    }

    /// The lowest aligned place for `len` chunks in `start..end`.
    pub(super) fn lowest(self, start: u32, end: u32, len: u32) -> Option<u32> {
        if end.saturating_sub(start) < len {
            return None;
        }
        let at = self.up(start);
        if at + u64::from(len) <= u64::from(end) {
            u32::try_from(at).ok()
        } else {
            None
        }
    }

    /// The highest aligned place for `len` chunks in `start..end`.
    pub(super) fn highest(self, start: u32, end: u32, len: u32) -> Option<u32> {
        if end.saturating_sub(start) < len {
            return None;
        }
        let at = u32::try_from(self.down(end - len)?).ok()?;
        (at >= start).then_some(at)
    }
}

/// Finds the lowest place for `len` chunks in words that are fed from low to high.
#[derive(Clone, Copy, Debug)]
pub(super) struct Upward {
    pub(super) len: u32,
    pub(super) align: Align,
    /// Start of the run of usable chunks that reaches `next`; `next` itself where there is none.
    pub(super) start: u32,
    /// The chunk behind the last word that was fed.
    pub(super) next: u32,
}

impl Upward {
    /// Looks at the 64 chunks from `base` on. Where words were left out, their chunks count as taken.
    pub(super) fn feed(&mut self, base: u32, word: u64) -> Option<u32> {
        if base != self.next {
            self.start = base;
        }
        self.next = base + WORD;
        if word == u64::MAX {
            return self.align.lowest(self.start, base + WORD, self.len);
        }
        if let Some(at) = self.align.lowest(self.start, base + word.trailing_ones(), self.len) {
            return Some(at);
        }
        self.start = base + WORD - word.leading_ones();
        if self.len > WORD {
            return None;
        }
        let fits = starts(word, self.len) & self.align.in_word();
        (fits != 0).then(|| base + fits.trailing_zeros())
    }
}

/// Finds the highest place for `len` chunks in words that are fed from high to low.
#[derive(Clone, Copy, Debug)]
pub(super) struct Downward {
    pub(super) len: u32,
    pub(super) align: Align,
    /// End of the run of usable chunks that reaches down to `next`; `next` itself where there is none.
    pub(super) end: u32,
    /// First chunk of the last word that was fed.
    pub(super) next: u32,
}

impl Downward {
    /// Looks at the 64 chunks from `base` on. Where words were left out, their chunks count as taken.
    pub(super) fn feed(&mut self, base: u32, word: u64) -> Option<u32> {
        if base + WORD != self.next {
            self.end = base + WORD;
        }
        self.next = base;
        if word == u64::MAX {
            return self.align.highest(base, self.end, self.len);
        }
        if let Some(at) = self.align.highest(base + WORD - word.leading_ones(), self.end, self.len) {
            return Some(at);
        }
        self.end = base + word.trailing_ones();
        if self.len > WORD {
            return None;
        }
        let fits = starts(word, self.len) & self.align.in_word();
        if fits != 0 {
            return Some(base + WORD - 1 - fits.leading_zeros());
        }
        // An alignment above 64 chunks: the word's first chunk is the only candidate.
        self.align.highest(base, base + word.trailing_ones(), self.len)
    }
}

/// What one leaf's words say about its runs of free chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// Free chunks at the start.
    pub(super) head: u32,
    /// Free chunks at the end.
    pub(super) tail: u32,
    /// The longest run.
    pub(super) max: u32,
}

impl Runs {
    /// The runs of a leaf that had these, after its taken chunks `part` became free; `beside` says how many free chunks
    /// there are right below and right above them. Exact: nothing but the run that they are in now can have grown.
    pub(super) fn with(self, part: Range<u32>, beside: impl FnOnce() -> (u32, u32)) -> Self {
        let (below, above) = beside();
        let joined = below + (part.end - part.start) + above;
        Self {
            head: if below == part.start { joined } else { self.head },
            tail: if above == CHUNKS - part.end { joined } else { self.tail },
            max: self.max.max(joined),
        }
    }

    /// The runs of a leaf that had these, after its free chunks `part` were taken and `free` are left; `None` where only the
    /// bits tell.
    pub(super) fn without(self, part: Range<u32>, free: u32) -> Option<Self> {
        let (head, tail) = (self.head.min(part.start), self.tail.min(CHUNKS - part.end));
        let ends = head.max(tail);
        // What is free in between is one run at most as long as that.
        let between = free.saturating_sub(head + tail);
        (between <= ends).then_some(Self { head, tail, max: ends })
    }
}

/// The runs in consecutive words, `words.len() <= 2^26`.
pub(super) fn runs(words: impl Iterator<Item = u64> + Clone) -> Runs {
    let mut all = Runs::default();
    // Length of the run that reaches the current word, and whether it began with the first one. Selections, no branches:
    // nobody could predict the bits.
    let (mut open, mut from_start) = (0, true);
    for word in words.clone() {
        let ones = word.trailing_ones();
        let whole = ones == WORD;
        let joined = open + ones;
        all.head = if from_start { joined } else { all.head };
        all.max = all.max.max(joined);
        from_start &= whole;
        open = if whole { joined } else { word.leading_ones() };
    }
    all.tail = open;
    all.max = all.max.max(open);
    // Only a run inside one word can be longer still.
    if all.max < WORD - 2 {
        all.max = words.fold(all.max, |max, word| longest(word, max));
    }
    all
}

/// The length of the longest run in `word`, if that is above `least`, else `least`.
const fn longest(word: u64, least: u32) -> u32 {
    let mut left = starts(word, least + 1);
    let mut len = least;
    // In steps of eight while a run is that much longer, then one by one.
    while left != 0 {
        len += 1;
        let jump = starts(left, 9);
        if jump != 0 {
            left = jump;
            len += 7;
        } else {
            left &= left >> 1;
        }
    }
    len
}
