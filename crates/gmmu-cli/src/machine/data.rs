//! Memory for the pages that a command maps: of the GPU's own, or of the system where it has none.

use std::ops::Range;

use gmmu::addr::{Aperture, PhysAddr, SysAddr, TableAddr};
use gmmu::vram::Contiguous;
use gmmu_sim::Gpu;

/// System memory for pages begins here, where the GPU reaches so far: not at 0, where mistakes point.
const FIRST: u64 = 1 << 32;
/// Where it ends: that for tables lies beyond.
pub(super) const END: u64 = 1 << 40;

/// Contiguous memory for pages.
#[derive(Debug)]
pub enum Data {
    /// Video memory.
    Vram(Contiguous),
    /// Coherent system memory, by bus address.
    Sys(Range<u64>),
}

impl Data {
    /// The first byte.
    #[must_use]
    pub fn start(&self) -> PhysAddr {
        match self {
            Self::Vram(taken) => PhysAddr::vram(taken.start().raw()),
            Self::Sys(range) => PhysAddr::new(Aperture::SysCoherent, range.start),
        }
    }

    /// The first byte, as a table's or an instance block's.
    pub(super) fn table(&self) -> TableAddr {
        match self {
            Self::Vram(taken) => TableAddr::from(taken.start()),
            Self::Sys(range) => TableAddr::SysCoherent(SysAddr::new(range.start)),
        }
    }
}

/// System memory that nobody has yet: from `next` on, but for what is foreign.
#[derive(Clone, Debug)]
pub(super) struct SysData {
    next: u64,
    end: u64,
    foreign: Vec<Range<u64>>,
}

impl SysData {
    /// All of it, clear of `foreign` addresses (sorted by their start), whatever memory they are of.
    pub(super) fn new(gpu: &Gpu, foreign: Vec<Range<u64>>) -> Self {
        Self { next: FIRST, end: END.min(gpu.sys_end() / 2), foreign }
    }

    /// Takes `bytes` at a multiple of `align`, a power of two.
    pub(super) fn take(&mut self, bytes: u64, align: u64) -> Option<Range<u64>> {
        let mut start = self.next.checked_next_multiple_of(align)?;
        for range in &self.foreign {
            if range.start < start.checked_add(bytes)? && range.end > start {
                start = range.end.checked_next_multiple_of(align)?;
            }
        }
        let end = start.checked_add(bytes).filter(|&end| end <= self.end)?;
        self.next = end;
        Some(start..end)
    }

    /// Gives back what was taken last; what was taken before stays taken, and there is enough.
    pub(super) fn give(&mut self, range: Range<u64>) {
        if self.next == range.end {
            self.next = range.start;
        }
    }
}
