//! Memory that is taken out by address: reserved ranges, retired pages; and what is known to be zero as a whole.

use super::cells::{spans, WORD};
use super::extent::Extent;
use super::leaf;
use super::Vram;
use crate::addr::{VramAddr, PAGE_BYTES};
use core::ops::Range;

/// Why a range was not reserved. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// The range is empty or reversed.
    #[error("the range is empty")]
    Empty,
    /// Some of it is in use, retired, or outside the regions.
    #[error("the chunk at {at} is not free")]
    Taken {
        /// The first chunk that is not free.
        at: VramAddr,
    },
}

/// What became of a page that was retired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    /// It was free and is gone.
    Now,
    /// It is in use and goes when its allocation is freed.
    WhenFreed,
}

/// Why a page was not retired. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetireError {
    /// It is not in any region.
    #[error("the page is not managed here")]
    Foreign,
    /// It is retired already.
    #[error("the page is retired already")]
    Already,
    /// There is no room to remember another, see [`Vram::with_retirable`].
    #[error("too many pages are retired")]
    Full,
}

impl Vram {
    /// Takes exactly the chunks that `range` touches, as one allocation: for memory that firmware uses, or that is in use
    /// already. It can be freed like any other.
    ///
    /// # Errors
    /// See [`ReserveError`].
    pub fn reserve(&mut self, range: Range<VramAddr>) -> Result<Extent, ReserveError> {
        let (lo, hi) = (range.start.raw() / PAGE_BYTES, range.end.raw().div_ceil(PAGE_BYTES));
        if range.start >= range.end {
            return Err(ReserveError::Empty);
        }
        let taken = |chunk: u64| ReserveError::Taken { at: VramAddr::new(chunk.saturating_mul(PAGE_BYTES)) };
        let local = |chunk: u64| {
            let chunk = u32::try_from(chunk.checked_sub(self.origin)?).ok()?;
            (chunk < self.end).then_some(chunk)
        };
        let start = local(lo).ok_or(taken(lo))?;
        // Where the range leaves the span, the first chunk behind the span is taken unless an earlier one is.
        let end = local(hi - 1).map_or(self.end, |last| last + 1);
        let free_end = self.run_end(start, end, false);
        if u64::from(free_end) + self.origin < hi {
            return Err(taken(u64::from(free_end) + self.origin));
        }
        self.take_bits(start, end - start);
        let cleared = self.mark_allocation(start, end - start);
        Ok(self.extent(start, end - start).with_cleared(cleared))
    }

    /// Never hands out the page around `at` again: at once where it is free, otherwise when its allocation is freed.
    ///
    /// # Errors
    /// See [`RetireError`].
    pub fn retire(&mut self, at: VramAddr) -> Result<Retired, RetireError> {
        let chunk = (at.raw() / PAGE_BYTES).checked_sub(self.origin).and_then(|chunk| u32::try_from(chunk).ok());
        let chunk = chunk.filter(|&chunk| self.in_region(chunk)).ok_or(RetireError::Foreign)?;
        let Err(index) = self.retired.binary_search_by_key(&chunk, |entry| entry / 2) else {
            return Err(RetireError::Already);
        };
        let free = self.cell(chunk / WORD).free >> (chunk % WORD) & 1 != 0;
        self.retired.insert_within(index, chunk * 2 + u32::from(!free)).map_err(|_| RetireError::Full)?;
        if let Some(leaf) = self.leaves.as_mut_slice().get_mut((chunk / leaf::CHUNKS) as usize) {
            leaf.set_special();
        }
        if !free {
            return Ok(Retired::WhenFreed);
        }
        self.take_one(chunk);
        self.total -= 1;
        Ok(Retired::Now)
    }

    /// The retired pages that are out of use, in order.
    pub fn retired_pages(&self) -> impl Iterator<Item = VramAddr> + '_ {
        self.retired.iter().filter(|&entry| entry % 2 == 0).map(|entry| self.address(entry / 2))
    }

    /// Takes those of the freed chunks `start..end` out that were retired while in use.
    pub(super) fn withdraw_pending(&mut self, start: u32, end: u32) {
        let mut index = self.retired.partition_point(|entry| entry / 2 < start);
        while let Some(entry) = self.retired.as_mut_slice().get_mut(index) {
            let (chunk, pending) = (*entry / 2, *entry % 2 != 0);
            if chunk >= end {
                return;
            }
            *entry &= !1;
            if pending {
                self.take_one(chunk);
                self.total -= 1;
            }
            index += 1;
        }
    }

    pub(super) fn in_region(&self, chunk: u32) -> bool {
        self.regions.iter().any(|&(lo, hi)| lo <= chunk && chunk < hi)
    }

    /// Whether a chunk is in a region and not retired for good.
    pub(super) fn is_managed(&self, chunk: u32) -> bool {
        self.in_region(chunk) && self.retired.binary_search(&(chunk * 2)).is_err()
    }

    /// Says of all free memory whether it is zero: after a suspend that lost the contents, or after a wipe.
    pub fn reset_clear(&mut self, cleared: bool) {
        for cell in self.cells.as_mut_slice() {
            cell.mark = if cleared { cell.mark | cell.free } else { cell.mark & !cell.free };
        }
        self.rebuild();
    }

    /// Says of the free chunks that lie entirely in `range` that they are zero now: what a background scrubber calls.
    /// Returns how many bytes that concerns.
    pub fn note_cleared(&mut self, range: Range<VramAddr>) -> u64 {
        let local = |chunk: u64| u32::try_from(chunk.saturating_sub(self.origin)).unwrap_or(self.end).min(self.end);
        let (lo, hi) = (local(range.start.raw().div_ceil(PAGE_BYTES)), local(range.end.raw() / PAGE_BYTES));
        let (mut bytes, mut at) = (0, lo);
        while at < hi {
            let end = self.run_end(at, hi, false);
            if end > at {
                self.take_bits(at, end - at);
                self.give_bits(at, end - at, true);
                bytes += u64::from(end - at) * PAGE_BYTES;
            }
            at = self.next_free(end, hi);
        }
        bytes
    }

    /// The first free chunk from `from` on, at most `hi`.
    fn next_free(&mut self, from: u32, hi: u32) -> u32 {
        for (word, mask) in spans(from, hi.saturating_sub(from)) {
            let free = self.cell(word).free & mask;
            if free != 0 {
                return word * WORD + free.trailing_zeros();
            }
        }
        hi
    }
}
