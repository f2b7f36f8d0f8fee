//! One chunk: the request that is made most often, in a few words.

use super::cells::{window, WORD};
use super::leaf::{self, set};
use super::request::Place;
use super::search::Bounds;
use super::Vram;

/// Which free chunks of a leaf are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Dirty,
    Clear,
}

impl Vram {
    /// A free chunk, if there is one.
    pub(super) fn find_one(&mut self, bounds: Bounds, place: Place) -> Option<u32> {
        match place {
            Place::Best if bounds.only_clear => self.lowest(bounds),
            Place::Best => self.best(bounds),
            Place::Low => self.lowest(bounds),
            Place::High => self.highest(bounds),
            Place::Near(at) => {
                let (above, below) = self.around(at, 1, bounds);
                self.lowest(above).or_else(|| self.highest(below))
            }
        }
    }

    /// The most broken up leaves first, whole ones last, and of those the cleared last.
    fn best(&mut self, bounds: Bounds) -> Option<u32> {
        let mut classes = self.sets.live() & set::CLASSES;
        let (first, to) = (bounds.lo / leaf::CHUNKS, bounds.hi.div_ceil(leaf::CHUNKS));
        let everywhere = bounds.lo == 0 && bounds.hi == self.end;
        while classes != 0 {
            let class = classes.trailing_zeros();
            classes &= classes - 1;
            let mut found = if everywhere { self.sets.first(class) } else { self.sets.first_in(class, first, to) };
            while let Some(index) = found {
                // Only a leaf that is partly out of range can have nothing.
                if let Some(chunk) = self.pick_best(index, bounds.lo, bounds.hi) {
                    return Some(chunk);
                }
                found = self.sets.first_in(class, index + 1, to);
            }
        }
        None
    }

    fn pick_best(&mut self, index: u32, lo: u32, hi: u32) -> Option<u32> {
        let leaf = self.leaf(index);
        let dirty = if leaf.clear != 0 && leaf.clear != leaf.free {
            self.pick_lowest(index, leaf.words, lo, hi, Kind::Dirty)
        } else {
            None
        };
        dirty.or_else(|| self.pick_lowest(index, leaf.words, lo, hi, Kind::Any))
    }

    fn lowest(&mut self, bounds: Bounds) -> Option<u32> {
        let (set, kind) = Self::where_to_look(bounds);
        let (mut from, to) = (bounds.lo / leaf::CHUNKS, bounds.hi.div_ceil(leaf::CHUNKS));
        while let Some(index) = self.sets.first_in(set, from, to) {
            let words = self.leaf(index).words;
            if let Some(chunk) = self.pick_lowest(index, words, bounds.lo, bounds.hi, kind) {
                return Some(chunk);
            }
            from = index + 1;
        }
        None
    }

    fn highest(&mut self, bounds: Bounds) -> Option<u32> {
        let (set, kind) = Self::where_to_look(bounds);
        let (from, mut to) = (bounds.lo / leaf::CHUNKS, bounds.hi.div_ceil(leaf::CHUNKS));
        while let Some(index) = self.sets.last_in(set, from, to) {
            let words = self.leaf(index).words;
            if let Some(chunk) = self.pick_highest(index, words, bounds.lo, bounds.hi, kind) {
                return Some(chunk);
            }
            to = index;
        }
        None
    }

    fn where_to_look(bounds: Bounds) -> (u32, Kind) {
        if bounds.only_clear {
            (set::CLEAR, Kind::Clear)
        } else {
            (set::SOME, Kind::Any)
        }
    }

    fn usable(&mut self, word: u32, lo: u32, hi: u32, kind: Kind) -> u64 {
        let cell = self.cell(word);
        let usable = match kind {
            Kind::Any => cell.free,
            Kind::Dirty => cell.free & !cell.mark,
            Kind::Clear => cell.free & cell.mark,
        };
        usable & window(word * WORD, lo, hi)
    }

    fn pick_lowest(&mut self, index: u32, words: u8, lo: u32, hi: u32, kind: Kind) -> Option<u32> {
        let mut words = words;
        while words != 0 {
            let word = index * leaf::WORDS + words.trailing_zeros();
            words &= words - 1;
            let usable = self.usable(word, lo, hi, kind);
            if usable != 0 {
                return Some(word * WORD + usable.trailing_zeros());
            }
        }
        None
    }

    fn pick_highest(&mut self, index: u32, words: u8, lo: u32, hi: u32, kind: Kind) -> Option<u32> {
        let mut words = words;
        while words != 0 {
            let bit = 7 - words.leading_zeros();
            let word = index * leaf::WORDS + bit;
            words &= !(1 << bit);
            let usable = self.usable(word, lo, hi, kind);
            if usable != 0 {
                return Some(word * WORD + WORD - 1 - usable.leading_zeros());
            }
        }
        None
    }
}
