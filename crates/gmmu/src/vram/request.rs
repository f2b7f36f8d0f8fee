//! What is asked of the allocator, and its refusals.

use crate::addr::{VramAddr, PAGE_BYTES};
use core::ops::Range;

/// Where to look first. Every choice finds a place whenever there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Place {
    /// Where it spoils least: memory that is already broken up before whole 2 MiB units, unknown contents before cleared.
    #[default]
    Best,
    /// The lowest address.
    Low,
    /// The highest address.
    High,
    /// The lowest address from this one on; where there is none, the highest below it.
    Near(VramAddr),
}

/// Whether the memory has to be zero already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Cleared {
    /// It does not matter.
    #[default]
    Any,
    /// Exactly as [`Require`](Self::Require) where that succeeds, as [`Any`](Self::Any) otherwise.
    Prefer,
    /// All of it must be known to be zero.
    Require,
}

/// Why a request makes no sense, whatever memory there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRequest {
    /// No bytes were asked for.
    #[error("a request for 0 bytes")]
    Empty,
    /// The size is not a multiple of 4 KiB.
    #[error("{bytes:#x} bytes are not a multiple of 4 KiB")]
    Size {
        /// The size that was asked for.
        bytes: u64,
    },
    /// The alignment is not a power of two.
    #[error("an alignment of {align:#x} is not a power of two")]
    Align {
        /// The alignment that was asked for.
        align: u64,
    },
    /// The granule is not a power of two of at least 4 KiB, or the size is not a multiple of it.
    #[error("a granule of {granule:#x} is not a power of two from 4 KiB on that divides the size")]
    Granule {
        /// The granule that was asked for.
        granule: u64,
    },
    /// The range has fewer bytes, in whole chunks, than are asked for.
    #[error("the range {lo:#x}..{hi:#x} is smaller than the {bytes:#x} bytes that have to lie in it")]
    Range {
        /// First address of the range.
        lo: u64,
        /// First address behind it.
        hi: u64,
        /// The size that was asked for.
        bytes: u64,
    },
    /// No piece is allowed, or the buffer for the pieces is empty.
    #[error("no room for a single piece")]
    NoPieces,
}

/// Why memory was not handed out. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// No placement exists now.
    #[error("no space: the same request would get at most {largest:#x} bytes")]
    NoSpace {
        /// The most bytes that a request with the same alignment, granule, range, number of pieces and need for cleared
        /// memory could get now; less than was asked for.
        largest: u64,
    },
    /// No memory could ever satisfy it.
    #[error("invalid request: {0}")]
    InvalidRequest(#[from] InvalidRequest),
}

/// Why memory was not taken back. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FreeError {
    /// Start or size is not a multiple of 4 KiB, or the size is 0.
    #[error("not whole 4 KiB chunks")]
    Misaligned,
    /// Some of it is outside the regions, or retired: it was never handed out.
    #[error("some of it is not managed here")]
    Foreign,
    /// Its first chunk is free: freed before, or never allocated.
    #[error("it is free already")]
    NotAllocated,
    /// An allocation starts before it.
    #[error("it starts inside an allocation")]
    NotAStart,
    /// An allocation starts there, but has another size.
    #[error("the allocation that starts there has {allocated:#x} bytes")]
    WrongSize {
        /// The size of that allocation.
        allocated: u64,
    },
    /// The part that was named does not lie in the extent.
    #[error("the part is not inside the extent")]
    NotAPart,
}

/// A request that has been checked for sense: made with [`Request::new`].
///
/// ```
/// use gmmu::addr::VramAddr;
/// use gmmu::vram::{Cleared, InvalidRequest, Place, Request};
///
/// # fn main() -> Result<(), InvalidRequest> {
/// let request = Request::new(2 << 20)
///     .align(64 << 10)
///     .within(VramAddr::new(0)..VramAddr::new(1 << 30))
///     .place(Place::High)
///     .at_most(4)
///     .cleared(Cleared::Prefer)
///     .build()?;
/// assert_eq!(request.bytes(), 2 << 20);
/// assert_eq!(Request::new(5000).build(), Err(InvalidRequest::Size { bytes: 5000 }));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Size in chunks, at least 1.
    pub(super) chunks: u64,
    /// Alignment in chunks, less one.
    pub(super) align_mask: u64,
    /// What every piece's length is a multiple of, in chunks.
    pub(super) granule: u64,
    /// First absolute chunk that may be used.
    pub(super) lo: u64,
    /// First absolute chunk that may not.
    pub(super) hi: u64,
    pub(super) place: Place,
    pub(super) pieces: usize,
    pub(super) cleared: Cleared,
}

impl Request {
    /// Starts a request for `bytes`, a multiple of 4 KiB: anywhere, aligned to 4 KiB, in any number of pieces, with any
    /// contents.
    #[expect(clippy::new_ret_no_self, reason = "a request exists only once it has been checked")]
    pub const fn new(bytes: u64) -> RequestBuilder {
        RequestBuilder {
            bytes,
            align: PAGE_BYTES,
            granule: PAGE_BYTES,
            lo: 0,
            hi: u64::MAX,
            place: Place::Best,
            pieces: usize::MAX,
            cleared: Cleared::Any,
        }
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.chunks * PAGE_BYTES
    }
}

/// Collects the parts of a [`Request`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a request is made by `build`"]
pub struct RequestBuilder {
    bytes: u64,
    align: u64,
    granule: u64,
    lo: u64,
    hi: u64,
    place: Place,
    pieces: usize,
    cleared: Cleared,
}

impl RequestBuilder {
    /// Every piece starts at a multiple of `bytes`, a power of two. Absolute addresses count, whatever the base of the
    /// memory; less than 4 KiB is as good as 4 KiB.
    pub const fn align(self, bytes: u64) -> Self {
        Self { align: bytes, ..self }
    }

    /// Every piece is a multiple of `bytes` long and starts at a multiple of it: what large pages need. A power of two of
    /// at least 4 KiB that divides the size.
    pub const fn granule(self, bytes: u64) -> Self {
        Self { granule: bytes, ..self }
    }

    /// Every piece lies in `range`. Chunks that are only partly inside do not count.
    pub const fn within(self, range: Range<VramAddr>) -> Self {
        Self { lo: range.start.raw(), hi: range.end.raw(), ..self }
    }

    /// Where to look first.
    pub const fn place(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// One piece only.
    pub const fn contiguous(self) -> Self {
        self.at_most(1)
    }

    /// At most `pieces` pieces. The buffer given to [`Vram::alloc`](super::Vram::alloc) is a limit too.
    pub const fn at_most(self, pieces: usize) -> Self {
        Self { pieces, ..self }
    }

    /// Whether the memory has to be zero.
    pub const fn cleared(self, cleared: Cleared) -> Self {
        Self { cleared, ..self }
    }

    /// Checks that the parts make sense together.
    ///
    /// # Errors
    /// [`InvalidRequest`] says which does not.
    pub const fn build(self) -> Result<Request, InvalidRequest> {
        if self.bytes == 0 {
            return Err(InvalidRequest::Empty);
        }
        if self.bytes % PAGE_BYTES != 0 {
            return Err(InvalidRequest::Size { bytes: self.bytes });
        }
        if !self.align.is_power_of_two() {
            return Err(InvalidRequest::Align { align: self.align });
        }
        let granule = self.granule;
        if !granule.is_power_of_two() || granule < PAGE_BYTES || self.bytes % granule != 0 {
            return Err(InvalidRequest::Granule { granule });
        }
        if self.pieces == 0 {
            return Err(InvalidRequest::NoPieces);
        }
        // The last, partial chunk below 2^64 - 1 cannot be named by an exclusive end and is left out.
        let (lo, hi) = (self.lo.div_ceil(PAGE_BYTES), self.hi / PAGE_BYTES);
        let chunks = self.bytes / PAGE_BYTES;
        if hi < lo || hi - lo < chunks {
            return Err(InvalidRequest::Range { lo: self.lo, hi: self.hi, bytes: self.bytes });
        }
        let wanted = if self.align > granule { self.align } else { granule };
        let align_chunks = if wanted < PAGE_BYTES { 1 } else { wanted / PAGE_BYTES };
        Ok(Request {
            chunks,
            align_mask: align_chunks - 1,
            granule: granule / PAGE_BYTES,
            lo,
            hi,
            place: self.place,
            pieces: self.pieces,
            cleared: self.cleared,
        })
    }
}
