//! What a caller asks for, and why it can be refused.

use core::ops::Range;

use crate::addr::{PageSize, PAGE_BYTES};

/// From which end of the address space a place is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Placement {
    /// The lowest address that fits.
    #[default]
    Low,
    /// The highest address that fits.
    High,
}

/// A wish for a free range. Nothing is checked before [`VaSpace::find`](super::VaSpace::find), so building one cannot
/// fail.
///
/// Unless an alignment is given, the largest page size is used that fits into the length (64K, 2M, 512M), and smaller
/// ones where no such place is free: a mapping with small pages is better than none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaRequest {
    pub(super) bytes: u64,
    pub(super) align: Option<u64>,
    pub(super) within: Range<u64>,
    pub(super) placement: Placement,
    pub(super) at: Option<u64>,
    pub(super) guard: u64,
    pub(super) null: bool,
}

impl VaRequest {
    /// Asks for `bytes`, a multiple of 4 KiB, as low as possible.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self { bytes, align: None, within: 0..u64::MAX, placement: Placement::Low, at: None, guard: 0, null: false }
    }

    /// The start is to be a multiple of `bytes`, a power of two; below 4 KiB it means 4 KiB.
    #[must_use]
    pub const fn align(mut self, bytes: u64) -> Self {
        self.align = Some(bytes);
        self
    }

    /// The whole range is to lie in `window`; guard gaps may reach out of it.
    #[must_use]
    pub const fn within(mut self, window: Range<u64>) -> Self {
        self.within = window;
        self
    }

    /// The lowest address that fits; this is the default.
    #[must_use]
    pub const fn low(mut self) -> Self {
        self.placement = Placement::Low;
        self
    }

    /// The highest address that fits.
    #[must_use]
    pub const fn high(mut self) -> Self {
        self.placement = Placement::High;
        self
    }

    /// Exactly this address or none. Allowed in the first 2 MiB and in excluded windows, for it is asked for by name.
    #[must_use]
    pub const fn at(mut self, va: u64) -> Self {
        self.at = Some(va);
        self
    }

    /// At least `bytes` (rounded up to 4 KiB) on both sides are to be free of other ranges. A gap is shared: between two
    /// ranges the larger wish counts. The ends of the address space need no gap. Whoever wants `find` to keep the gap
    /// free later on too says so to [`VaSpace::insert_guarded`](super::VaSpace::insert_guarded).
    #[must_use]
    pub const fn guard(mut self, bytes: u64) -> Self {
        self.guard = bytes;
        self
    }

    /// Allows address 0 and the rest of the first 2 MiB, which are not handed out otherwise.
    #[must_use]
    pub const fn allow_null(mut self) -> Self {
        self.null = true;
        self
    }

    /// Checks all that can be judged without looking at the ranges.
    pub(super) fn check(&self) -> Result<Wish, InvalidVa> {
        if self.bytes == 0 {
            return Err(InvalidVa::Empty);
        }
        if self.bytes % PAGE_BYTES != 0 {
            return Err(InvalidVa::Length);
        }
        let align = self.align.unwrap_or_else(|| self.widest_page());
        if !align.is_power_of_two() {
            return Err(InvalidVa::Alignment);
        }
        if self.within.start >= self.within.end {
            return Err(InvalidVa::Window);
        }
        let least = self.align.unwrap_or(PAGE_BYTES).max(PAGE_BYTES);
        if self.at.is_some_and(|at| at % least != 0) {
            return Err(InvalidVa::Address);
        }
        let guard = self.guard.checked_next_multiple_of(PAGE_BYTES).ok_or(InvalidVa::Guard)?;
        Ok(Wish { bytes: self.bytes, align: align.max(PAGE_BYTES), guard })
    }

    /// The largest page size that the length can use. 256G pages are only for those who ask: they need a chip and
    /// memory that hardly anybody has.
    fn widest_page(&self) -> u64 {
        let sizes = [PageSize::Size64K, PageSize::Size2M, PageSize::Size512M].map(PageSize::bytes);
        sizes.into_iter().fold(PAGE_BYTES, |widest, page| if page <= self.bytes { page } else { widest })
    }
}

/// A checked request, as the search needs it: multiples of 4 KiB, the alignment a power of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) bytes: u64,
    pub(super) align: u64,
    pub(super) guard: u64,
}

/// What is wrong with a request, whatever the state of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidVa {
    /// Zero bytes.
    #[error("the length is zero")]
    Empty,
    /// The length is no multiple of 4 KiB.
    #[error("the length is not a multiple of 4 KiB")]
    Length,
    /// The alignment is no power of two.
    #[error("the alignment is not a power of two")]
    Alignment,
    /// The address is no multiple of 4 KiB or of the alignment asked for.
    #[error("the address is not aligned")]
    Address,
    /// The window is empty or ends before it starts.
    #[error("the window is empty")]
    Window,
    /// The guard gap is larger than any address space.
    #[error("the guard gap is too large")]
    Guard,
    /// The limits of an address space are empty or not multiples of 4 KiB.
    #[error("the limits are empty or not multiples of 4 KiB")]
    Limits,
}

/// Why there is no place for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VaError {
    /// The request makes no sense, now or ever.
    #[error("invalid request: {0}")]
    InvalidRequest(#[from] InvalidVa),
    /// Nothing free is large enough.
    #[error("no room: at most {largest:#x} bytes")]
    NoSpace {
        /// The longest range that the same request would get with an alignment of 4 KiB.
        largest: u64,
    },
}

/// Why a range was not inserted. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InsertError {
    /// The range is empty or not of whole 4 KiB pages, or the guard gap is larger than 2^32 pages.
    #[error("invalid range: {0}")]
    Invalid(InvalidVa),
    /// Part of the range is outside the address space.
    #[error("outside the address space")]
    OutOfLimits,
    /// Part of the range is taken.
    #[error("overlaps {:#x}..{:#x}", with.start, with.end)]
    Overlap {
        /// The first live range in the way.
        with: Range<u64>,
    },
    /// No memory was reserved for one more range.
    #[error("no room was reserved for one more range")]
    NoRoom,
}

/// Why a range was not cut in two. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitError {
    /// The address is not a multiple of 4 KiB.
    #[error("the address is not aligned")]
    Unaligned,
    /// The address lies in no range, or at the start of one, where nothing is to be cut.
    #[error("the address is not inside a range")]
    NotInside,
    /// No memory was reserved for one more range.
    #[error("no room was reserved for one more range")]
    NoRoom,
}
