//! Where a machine's page tables lie, and the memory for them.

use std::ops::Range;

use gmmu::addr::{SysAddr, TableAddr};
use gmmu::chip::Chip;
use gmmu::device::{NoTableMemory, TablePool};
use gmmu::vram::VramTables;
use gmmu_sim::{Gpu, SysPool};

use super::data::END;

/// How much of it there is: more than the tables of all memory take.
const BYTES: u64 = 1 << 38;

/// Which memory the page tables of an address space lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// Video memory, written through the PRAMIN window.
    Vram,
    /// Coherent system memory, written by the CPU.
    Sys,
}

impl Tables {
    /// Where a chip's tables lie unless somebody says otherwise.
    #[must_use]
    pub const fn of(chip: &Chip) -> Self {
        if chip.is_integrated() { Self::Sys } else { Self::Vram }
    }

    /// The memory that a table lies in.
    #[must_use]
    pub const fn holding(at: TableAddr) -> Self {
        if at.is_vram() { Self::Vram } else { Self::Sys }
    }

    /// The table at a byte address of this memory.
    #[must_use]
    pub const fn at(self, raw: u64) -> TableAddr {
        match self {
            Self::Vram => TableAddr::vram(raw),
            Self::Sys => TableAddr::SysCoherent(SysAddr::new(raw)),
        }
    }
}

/// The pool of one of the memories.
pub(super) enum Pool<'a> {
    Vram(VramTables<'a>),
    Sys(&'a mut SysPool),
    /// Video memory of a chip without.
    None,
}

impl TablePool for Pool<'_> {
    fn take(&mut self, bytes: u64, near: Option<TableAddr>) -> Result<TableAddr, NoTableMemory> {
        match self {
            Self::Vram(pool) => pool.take(bytes, near),
            Self::Sys(pool) => pool.take(bytes, near),
            Self::None => Err(NoTableMemory { bytes }),
        }
    }

    fn give(&mut self, at: TableAddr, bytes: u64) {
        match self {
            Self::Vram(pool) => pool.give(at, bytes),
            Self::Sys(pool) => pool.give(at, bytes),
            Self::None => {}
        }
    }
}

/// System memory for tables, clear of `foreign` addresses (sorted by their start), whatever memory they are of.
pub(super) fn sys_pool(gpu: &Gpu, foreign: &[Range<u64>]) -> SysPool {
    let end = gpu.sys_end();
    // The upper half is as good as any where there is less.
    let mut start = END.min(end / 2);
    for range in foreign {
        if range.start < start.saturating_add(BYTES) && range.end > start {
            start = range.end;
        }
    }
    SysPool::coherent(start..start.saturating_add(BYTES).min(end))
}
