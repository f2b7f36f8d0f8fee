//! What the allocator hands out.

use crate::addr::{VramAddr, PAGE_BYTES};
use core::fmt;

/// What memory that is given back contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing but zeros.
    Cleared,
    /// Anything.
    Dirty,
}

/// A contiguous piece of video memory: an address, a length in bytes, and whether it was zero when it was handed out.
///
/// It is a plain value that says which memory an allocation got; holding it proves nothing. The allocator knows by
/// itself where allocations start and end, and refuses to free anything else.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Extent {
    start: VramAddr,
    bytes: u64,
    cleared: bool,
}

impl Extent {
    /// The extent of `bytes` from `start` on, not known to be cleared: for callers that kept the two numbers, and as
    /// the initial value of the buffers that [`Vram::alloc`](super::Vram::alloc) fills.
    #[must_use]
    pub const fn new(start: VramAddr, bytes: u64) -> Self {
        Self { start, bytes, cleared: false }
    }

    pub(super) const fn with_cleared(self, cleared: bool) -> Self {
        Self { cleared, ..self }
    }

    /// First byte.
    #[must_use]
    pub const fn start(&self) -> VramAddr {
        self.start
    }

    /// Length in bytes; a multiple of 4096 for everything that the allocator hands out.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The address behind the last byte, or `None` where it does not fit 64 bits.
    #[must_use]
    pub const fn end(&self) -> Option<VramAddr> {
        self.start.checked_add(self.bytes)
    }

    /// Whether all of it was known to be zero when it was handed out.
    #[must_use]
    pub const fn is_cleared(&self) -> bool {
        self.cleared
    }

    /// First chunk and length in chunks, absolute; `None` where either is not a multiple of 4096, the length is 0, or
    /// the end does not fit 64 bits.
    pub(super) const fn chunks(&self) -> Option<(u64, u64)> {
        if self.start.raw() % PAGE_BYTES != 0 || self.bytes % PAGE_BYTES != 0 || self.bytes == 0 || self.end().is_none()
        {
            return None;
        }
        Some((self.start.raw() / PAGE_BYTES, self.bytes / PAGE_BYTES))
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cleared = if self.cleared { " cleared" } else { "" };
        write!(f, "{}+{:#x}{cleared}", self.start, self.bytes)
    }
}

impl fmt::Debug for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One piece that holds a whole request: its start is the start of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Contiguous(pub(super) Extent);

impl Contiguous {
    /// First byte.
    #[must_use]
    pub const fn start(&self) -> VramAddr {
        self.0.start()
    }

    /// Length in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// Whether all of it was known to be zero when it was handed out.
    #[must_use]
    pub const fn is_cleared(&self) -> bool {
        self.0.is_cleared()
    }

    /// The extent, to free it.
    #[must_use]
    pub const fn extent(&self) -> Extent {
        self.0
    }
}

impl From<Contiguous> for Extent {
    fn from(whole: Contiguous) -> Self {
        whole.0
    }
}

/// An allocation that must not be used again yet, because the GPU may still reach it. Counted apart, and freed only by
/// [`Vram::release`](super::Vram::release); dropping it leaves the memory in quarantine for good.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "memory in quarantine stays there until it is released"]
pub struct Quarantined(pub(super) Extent);

impl Quarantined {
    /// Which memory it is.
    #[must_use]
    pub const fn extent(&self) -> Extent {
        self.0
    }
}
