//! Virtual ranges and what is mapped in them: which addresses of one address space are taken, by what, and where the
//! next range can go.
//!
//! A [`VaSpace`] holds live ranges in order, each with a value of the caller's (the record of a mapping). Time and
//! memory depend on how many ranges there are, never on how large they are. [`find`](VaSpace::find) answers where a new
//! range can go and succeeds whenever there is a place; it changes nothing. [`insert`](VaSpace::insert) takes an exact
//! range. Memory is taken in [`reserve`](VaSpace::reserve) alone, so that whoever must not allocate reserves first.
//!
//! Time is logarithmic for the alignments of page sizes up to 512 MiB. With other alignments, or guard gaps wider than
//! those of the ranges there, gaps that are long enough but do not fit are looked at one by one: still every place is
//! found, in a time that grows with the number of such gaps.
//!
//! Address 0 and the rest of the first 2 MiB are not handed out by `find` unless asked for: a null pointer plus a small
//! offset is to fault.

mod check;
mod gap;
mod leaf;
mod node;
mod places;
mod request;
mod search;
mod shape;
mod tree;
pub(crate) mod windows;

use core::ops::Range;

use crate::addr::{GpuVa, PageSize, PAGE_BYTES};
use crate::storage::NoMemory;
use request::Wish;
pub use request::{InsertError, InvalidVa, Placement, SplitError, VaError, VaRequest};
use tree::{Pos, Tree};
use windows::Windows;

/// Below this, `find` hands out nothing unless asked to.
pub const NULL_GUARD_BYTES: u64 = PageSize::Size2M.bytes();

/// Live ranges of one address space in order, each with a value; and where new ranges can go.
#[derive(Debug)]
pub struct VaSpace<T> {
    limits: Range<u64>,
    tree: Tree<T>,
    excluded: Windows,
}

impl<T> VaSpace<T> {
    /// An empty space of the addresses in `limits`, multiples of 4 KiB; allocates nothing.
    ///
    /// # Errors
    /// [`InvalidVa::Limits`].
    pub const fn new(limits: Range<u64>) -> Result<Self, VaError> {
        if limits.start >= limits.end || limits.start % PAGE_BYTES != 0 || limits.end % PAGE_BYTES != 0 {
            return Err(VaError::InvalidRequest(InvalidVa::Limits));
        }
        let base = if limits.start > NULL_GUARD_BYTES { limits.start } else { NULL_GUARD_BYTES };
        let tree = Tree::new(limits.start..limits.end, base);
        Ok(Self { limits, tree, excluded: Windows::new() })
    }

    /// The addresses of this space.
    #[must_use]
    pub const fn limits(&self) -> Range<u64> {
        self.limits.start..self.limits.end
    }

    /// Makes room for `extra` insertions from now on, a [`split`](Self::split) counting as one. Nothing else but
    /// [`exclude`](Self::exclude) and [`include`](Self::include) allocates. Two calls do not add up: whoever has
    /// promised room to several jobs reserves the sum.
    ///
    /// # Errors
    /// [`NoMemory`]; the ranges are as they were, some room may have been made.
    pub fn reserve(&mut self, extra: usize) -> Result<(), NoMemory> {
        self.tree.reserve(extra)
    }

    /// Where a range could go. Changes nothing, so that the place is taken only by an [`insert`](Self::insert).
    ///
    /// # Errors
    /// [`VaError::InvalidRequest`], or [`VaError::NoSpace`] where nothing fits.
    pub fn find(&self, request: &VaRequest) -> Result<GpuVa, VaError> {
        let mut wish = request.check()?;
        loop {
            if let Some(va) = self.place(request, &wish) {
                return Ok(GpuVa::new(va));
            }
            // A page size that was only a preference gives way to the next smaller one.
            match (request.align, smaller_page(wish.align)) {
                (None, Some(align)) if request.at.is_none() => wish.align = align,
                _ => return Err(VaError::NoSpace { largest: self.largest(request, &wish) }),
            }
        }
    }

    /// The addresses in which `request` may lie, before looking at what is free.
    fn bounds(&self, request: &VaRequest) -> Range<u64> {
        let null = if request.null || request.at.is_some() { 0 } else { NULL_GUARD_BYTES };
        let lo = page_up(self.limits.start.max(request.within.start).max(null));
        let hi = page_down(self.limits.end.min(request.within.end));
        match request.at {
            Some(at) if at >= lo => at..hi,
            Some(_) => 0..0,
            None => lo..hi,
        }
    }

    fn place(&self, request: &VaRequest, wish: &Wish) -> Option<u64> {
        let bounds = self.bounds(request);
        if let Some(at) = request.at {
            return (self.tree.room_from(wish.guard, bounds.start, bounds.end) >= wish.bytes).then_some(at);
        }
        match request.placement {
            // What hardly anybody has, windows, is not even looked for.
            Placement::Low if self.excluded.is_empty() => self.tree.lowest(wish, bounds.start, bounds.end),
            Placement::Low => {
                self.excluded.allowed(bounds).find_map(|part| self.tree.lowest(wish, part.start, part.end))
            }
            Placement::High => {
                self.excluded.allowed(bounds).rev().find_map(|part| self.tree.highest(wish, part.start, part.end))
            }
        }
    }

    /// The longest range that `request` would get if only its alignment were 4 KiB.
    fn largest(&self, request: &VaRequest, wish: &Wish) -> u64 {
        let bounds = self.bounds(request);
        if request.at.is_some() {
            return self.tree.room_from(wish.guard, bounds.start, bounds.end);
        }
        self.excluded.allowed(bounds).fold(0, |best, part| {
            // Windows may have any borders, ranges only whole pages.
            let pages = page_up(part.start)..page_down(part.end);
            best.max(self.tree.largest(wish.guard, pages.start, pages.end))
        })
    }

    /// Inserts exactly `range`, wherever that is in the limits: also in the first 2 MiB, in excluded windows and next to
    /// guarded ranges.
    ///
    /// # Errors
    /// [`InsertError`], with the value. Nothing was changed.
    pub fn insert(&mut self, range: Range<u64>, value: T) -> Result<(), (InsertError, T)> {
        self.insert_guarded(range, 0, value)
    }

    /// [`insert`](Self::insert) of a range that `find` is to stay `guard` bytes away from (rounded up to 4 KiB) as long
    /// as it lives, on both sides; but not farther than to its neighbours, which may be nearer by exact insertion.
    ///
    /// # Errors
    /// [`InsertError`], with the value. Nothing was changed.
    pub fn insert_guarded(&mut self, range: Range<u64>, guard: u64, value: T) -> Result<(), (InsertError, T)> {
        match self.judge(&range, guard) {
            Ok(guard) => self.tree.insert(range, guard, value),
            Err(why) => Err((why, value)),
        }
    }

    /// Checks all of an insertion that can be judged without looking at the ranges; returns the guard gap in pages.
    fn judge(&self, range: &Range<u64>, guard: u64) -> Result<u32, InsertError> {
        if range.start >= range.end {
            return Err(InsertError::Invalid(InvalidVa::Empty));
        }
        if range.start % PAGE_BYTES != 0 {
            return Err(InsertError::Invalid(InvalidVa::Address));
        }
        if range.end % PAGE_BYTES != 0 {
            return Err(InsertError::Invalid(InvalidVa::Length));
        }
        if range.start < self.limits.start || range.end > self.limits.end {
            return Err(InsertError::OutOfLimits);
        }
        let guard = u32::try_from(guard.div_ceil(PAGE_BYTES)).ok().filter(|pages| *pages != leaf::NO_GUARD);
        guard.ok_or(InsertError::Invalid(InvalidVa::Guard))
    }

    /// Removes the live range that starts exactly at `start`; `None` where there is none.
    pub fn remove(&mut self, start: u64) -> Option<(Range<u64>, T)> {
        self.tree.remove(start)
    }

    /// The live range that contains `va`.
    #[must_use]
    pub fn get(&self, va: u64) -> Option<(Range<u64>, &T)> {
        self.item(self.tree.seek(va)?).filter(|(range, _)| range.start <= va)
    }

    /// The live range that contains `va`, its value to change.
    pub fn get_mut(&mut self, va: u64) -> Option<(Range<u64>, &mut T)> {
        let pos = self.tree.seek(va)?;
        let range = self.tree.range(pos).filter(|range| range.start <= va)?;
        Some((range, self.tree.value_mut(pos)?))
    }

    /// Puts `value` in the place of the one of the range that starts exactly at `start`, and returns that.
    ///
    /// # Errors
    /// Hands `value` back where no range starts there.
    pub fn replace(&mut self, start: u64, value: T) -> Result<T, T> {
        match self.get_mut(start) {
            Some((range, old)) if range.start == start => Ok(core::mem::replace(old, value)),
            _ => Err(value),
        }
    }

    /// The live ranges that share a byte with `range`, in order; each whole, not clipped.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, &T)> {
        let from = if range.start < range.end { self.tree.seek(range.start) } else { None };
        Iter { tree: &self.tree, next: from }.take_while(move |(live, _)| live.start < range.end)
    }

    /// The first live range that starts at or after `va`.
    #[must_use]
    pub fn next(&self, va: u64) -> Option<(Range<u64>, &T)> {
        let pos = self.tree.seek(va)?;
        match self.tree.range(pos) {
            Some(range) if range.start >= va => self.item(pos),
            _ => self.item(self.tree.after(pos)?),
        }
    }

    /// The last live range that starts before `va`; where `va` lies inside a range behind its start, that one.
    #[must_use]
    pub fn prev(&self, va: u64) -> Option<(Range<u64>, &T)> {
        let Some(pos) = self.tree.seek(va) else { return self.item(self.tree.last()?) };
        match self.tree.range(pos) {
            Some(range) if range.start < va => self.item(pos),
            _ => self.item(self.tree.before(pos)?),
        }
    }

    /// All live ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, &T)> {
        Iter { tree: &self.tree, next: self.tree.seek(0) }
    }

    /// Cuts the range that contains `at` in two. `f` gets the value of the whole, which stays with the lower part, and
    /// the offset of the cut in bytes; it returns the value of the upper part. Both parts keep the guard gap.
    ///
    /// # Errors
    /// [`SplitError`]; nothing was changed and `f` was not called.
    pub fn split(&mut self, at: u64, f: impl FnOnce(&mut T, u64) -> T) -> Result<(), SplitError> {
        if at % PAGE_BYTES != 0 {
            return Err(SplitError::Unaligned);
        }
        let inside = self.tree.seek(at).and_then(|pos| self.tree.range(pos)).is_some_and(|range| range.start < at);
        if !inside {
            return Err(SplitError::NotInside);
        }
        if !self.tree.has_room() {
            return Err(SplitError::NoRoom);
        }
        self.tree.split(at, f).map_err(|NoMemory| SplitError::NoRoom)
    }

    /// Whether a live range that begins where `range` does touches the one before, and whether one that ends where `range`
    /// does, and contains its first byte, touches the next.
    pub(crate) fn touching(&self, range: &Range<u64>) -> (bool, bool) {
        self.tree.touching(range)
    }

    /// Makes one of the two ranges that touch at `at`. `f` gets the value of the lower one, which stays, and that of the
    /// upper one. The lower one's guard gap stays. Returns whether two ranges touch there.
    pub fn join(&mut self, at: u64, f: impl FnOnce(&mut T, T)) -> bool {
        let Some(upper) = self.tree.seek(at) else { return false };
        let Some(lower) = self.tree.before(upper) else { return false };
        let (Some(low), Some(high)) = (self.tree.range(lower), self.tree.range(upper)) else { return false };
        if low.end != at || high.start != at {
            return false;
        }
        let Some((_, value)) = self.tree.remove(at) else { return false };
        self.tree.set_end(low.start, high.end);
        if let Some((_, stays)) = self.get_mut(low.start) {
            f(stays, value);
        }
        true
    }

    /// From now on `find` places nothing that shares a byte with `window`, unless it is asked for an exact address.
    /// What lives there stays. An empty window excludes nothing.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing was changed.
    pub fn exclude(&mut self, window: Range<u64>) -> Result<(), NoMemory> {
        self.excluded.add(window)
    }

    /// Takes `window` out of what is excluded. It may be a part, or more than what was excluded.
    ///
    /// # Errors
    /// [`NoMemory`]; nothing was changed.
    pub fn include(&mut self, window: Range<u64>) -> Result<(), NoMemory> {
        self.excluded.subtract(window)
    }

    /// The excluded windows in order, those that touch merged.
    pub fn excluded(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.excluded.iter()
    }

    /// The parts of `range` that are excluded, in order.
    pub(crate) fn excluded_in(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        self.excluded.overlapping(range)
    }

    /// How many live ranges there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tree.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of heap that the space holds, used or not; values that own heap themselves are not looked into.
    #[must_use]
    pub fn footprint(&self) -> usize {
        self.tree.footprint() + self.excluded.footprint()
    }

    /// Checks what must always hold. For tests: it looks at everything.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        self.tree.check()?;
        self.excluded.check()
    }

    fn item(&self, pos: Pos) -> Option<(Range<u64>, &T)> {
        Some((self.tree.range(pos)?, self.tree.value(pos)?))
    }
}

/// Live ranges from one on.
struct Iter<'a, T> {
    tree: &'a Tree<T>,
    next: Option<Pos>,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = (Range<u64>, &'a T);
    fn next(&mut self) -> Option<Self::Item> {
        let pos = self.next?;
        self.next = self.tree.after(pos);
        Some((self.tree.range(pos)?, self.tree.value(pos)?))
    }
}

/// The next smaller page size that is worth an alignment of its own.
fn smaller_page(align: u64) -> Option<u64> {
    PageSize::ALL.into_iter().rev().map(PageSize::bytes).find(|bytes| *bytes < align)
}

fn page_up(at: u64) -> u64 {
    gap::align_up(at, PAGE_BYTES).unwrap_or(u64::MAX - (PAGE_BYTES - 1))
}

const fn page_down(at: u64) -> u64 {
    at & !(PAGE_BYTES - 1)
}
