//! Instance blocks: the 4 KiB that tell a channel or a BAR which address space is its own, and the registers that name
//! the blocks of BAR1 and BAR2.
//!
//! Nothing here remembers anything: who may write which block, and which roots are in use, is `GpuMm`'s to know. It builds
//! without `alloc`.
//!
//! ```
//! use gmmu::addr::TableAddr;
//! use gmmu::instance::{self, Bar, Instance};
//! use gmmu::mmio::Mmio;
//! use gmmu::tlb::Limits;
//! use gmmu_sim::{Config, Gpu};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut card = Mmio::probe(Gpu::new(&Config::chip("ad102"))?)?;
//! let (chip, block) = (card.chip(), TableAddr::vram(0x20_0000));
//! instance::erase(&mut card, block)?;
//! Instance::new(TableAddr::vram(0x10_0000)).write(&mut card, chip, block)?;
//! instance::bind(card.bar0(), chip, Bar::Bar2, Some(block), Limits::default())?;
//! # Ok(())
//! # }
//! ```
//!
//! Sources: `NV_RAMIN_*` (`dev_ram.h`), `NV_VIRTUAL_FUNCTION_PRIV_*_BLOCK*` (`dev_vm.h`), NVIDIA's `kern_bus_gm107.c` and
//! `kern_bus_gh100.c`.

use crate::addr::{PhysAddr, SysAddr, TableAddr, PAGE_BYTES};
use crate::bits::Field;
use crate::chip::{is_not_there, BlockRegisters, Chip};
use crate::device::{Bar0, Clock, DeviceError, Run, TableMemory};
use crate::regs;
use crate::tlb::{low_half, read_register, wait, Limits};
use core::fmt;

/// Size and alignment of an instance block.
pub const INSTANCE_BYTES: u64 = PAGE_BYTES;

/// Subcontexts of a channel.
const SUBCONTEXTS: u64 = 64;
/// A subcontext without a space, as nouveau writes it: invalid targets in both halves.
const NO_SPACE: u64 = 1 << 32 | regs::RAMIN_PAGE_DIR_BASE_TARGET_INVALID;

/// What an instance block says of address spaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The top table.
    pub pdb: TableAddr,
    /// Whether faults of the shader units wait to be replayed.
    pub replayable: bool,
    /// Which of a channel's 64 subcontexts use the same space, a bit each; 0 leaves their words alone.
    pub subcontexts: u64,
}

impl Instance {
    /// The space below `pdb`; faults are not replayed, subcontexts left alone.
    #[must_use]
    pub const fn new(pdb: TableAddr) -> Self {
        Self { pdb, replayable: false, subcontexts: 0 }
    }

    /// The word at `NV_RAMIN_PAGE_DIR_BASE_LO`.
    ///
    /// # Errors
    /// [`DeviceError::Unaligned`] (4 KiB), [`OutOfRange`](DeviceError::OutOfRange) for a root that the chip cannot reach.
    pub fn word(&self, chip: &Chip) -> Result<u64, DeviceError> {
        let at = self.pdb;
        let end = chip.reach(PhysAddr::from(at).aperture);
        aligned(at)?;
        let beyond = DeviceError::OutOfRange { at, bytes: PAGE_BYTES, end };
        if at.raw() >= end {
            return Err(beyond);
        }
        let frame = at.raw() >> regs::RAMIN_PAGE_DIR_BASE_SHIFT;
        let address = regs::RAMIN_PAGE_DIR_BASE.put(frame).map_err(|_| beyond)?;
        // The target codes fit their two bits. Chips of version 3 know one format alone and do not look at USE_VER2.
        let target = regs::RAMIN_PAGE_DIR_BASE_TARGET.put(target(at)).unwrap_or(0);
        Ok(address
            | target
            | regs::RAMIN_PAGE_DIR_BASE_VOL.flag(matches!(at, TableAddr::SysCoherent(_)))
            | regs::RAMIN_PAGE_DIR_BASE_FAULT_REPLAY_TEX.flag(self.replayable)
            | regs::RAMIN_PAGE_DIR_BASE_FAULT_REPLAY_GCC.flag(self.replayable)
            | regs::RAMIN_USE_VER2_PT_FORMAT.flag(true)
            | regs::RAMIN_BIG_PAGE_SIZE.flag(true))
    }

    /// Writes the block's words for address spaces, and waits until they have arrived; all else in the block stays.
    ///
    /// # Errors
    /// As [`word`](Self::word), with nothing written; or the memory's, and the block may name the root or not.
    pub fn write<M: TableMemory>(&self, memory: &mut M, chip: &Chip, block: TableAddr) -> Result<(), DeviceError> {
        let word = self.word(chip)?;
        aligned(block)?;
        memory.write_word(part(block, regs::NV_RAMIN_PAGE_DIR_BASE_LO)?, word)?;
        if chip.instance_has_limit {
            let last = (1 << chip.mmu.va_bits()) - 1;
            memory.write_word(part(block, regs::NV_RAMIN_ADR_LIMIT_LO)?, last)?;
        }
        if self.subcontexts != 0 {
            write_subcontexts(memory, block, self.subcontexts, word)?;
        }
        memory.drain()
    }
}

/// Makes a block name no address space any more: nobody translates through it from the next time it is loaded on.
/// `subcontexts` says whether their words are taken back too.
///
/// # Errors
/// The memory's; the block may still name what it named.
pub fn clear<M: TableMemory>(memory: &mut M, block: TableAddr, subcontexts: bool) -> Result<(), DeviceError> {
    aligned(block)?;
    let invalid = regs::RAMIN_PAGE_DIR_BASE_TARGET_INVALID;
    memory.write_word(part(block, regs::NV_RAMIN_PAGE_DIR_BASE_LO)?, invalid)?;
    if subcontexts {
        write_subcontexts(memory, block, 0, NO_SPACE)?;
    }
    memory.drain()
}

/// Clears all 4 KiB of a new block.
///
/// # Errors
/// The memory's.
pub fn erase<M: TableMemory>(memory: &mut M, block: TableAddr) -> Result<(), DeviceError> {
    aligned(block)?;
    memory.write_run(block, Run { first: 0, step: 0, count: 512 })?;
    memory.drain()
}

fn write_subcontexts<M: TableMemory>(
    memory: &mut M,
    block: TableAddr,
    valid: u64,
    word: u64,
) -> Result<(), DeviceError> {
    for n in 0..SUBCONTEXTS {
        let word = if valid >> n & 1 == 1 { word } else { NO_SPACE };
        memory.write_words(part(block, regs::NV_RAMIN_SC_PAGE_DIR_BASE_LO + 16 * n)?, &[word, 0])?;
    }
    memory.write_word(part(block, regs::NV_RAMIN_SC_PDB_VALID)?, valid)
}

/// One of the two BARs that the GPU translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bar {
    /// The CPU's window on mappings.
    Bar1,
    /// The driver's own.
    Bar2,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bar1 => "BAR1",
            Self::Bar2 => "BAR2",
        })
    }
}

/// A BAR was not bound, or not certainly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BarError {
    /// The registers hold something else than what was written: another user, or a lost write.
    #[error("{bar} was bound with {wanted:#x}, but its registers read back {found:#x}: another user, or a lost write")]
    Lost {
        /// Which.
        bar: Bar,
        /// The words that were written, the high one above the low one.
        wanted: u64,
        /// The words that were read back.
        found: u64,
    },
    /// The device failed; [`DeviceError::Timeout`] where a bind did not get done in time.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Words and places of one BAR's block registers, of either layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Words {
    low: u32,
    low_at: u32,
    /// Written last, and so what binds.
    high: Option<(u32, u32)>,
    /// Bits that say nothing of what is bound.
    ignore: u32,
    status_at: u32,
    status: Field,
}

impl Words {
    /// Those that name `block`, or physical mode.
    fn new(chip: &Chip, bar: Bar, block: Option<TableAddr>) -> Result<Self, DeviceError> {
        let at = block.unwrap_or(TableAddr::vram(0));
        aligned(at)?;
        let frame = at.raw() / INSTANCE_BYTES;
        match chip.bar_blocks {
            registers @ (BlockRegisters::Pbus | BlockRegisters::Word) => {
                let beyond = out_of_range(at, regs::BAR_BLOCK_PTR.width());
                let (bar1_at, bar2_at, status_at) = word_registers(registers);
                let (low_at, status, cya) = match bar {
                    Bar::Bar1 => (bar1_at, regs::BIND_STATUS_BAR1, 0),
                    Bar::Bar2 => (bar2_at, regs::BIND_STATUS_BAR2, regs::BAR2_BLOCK_DEBUG_CYA.flag(block.is_some())),
                };
                let low = regs::BAR_BLOCK_PTR.put(frame).map_err(|_| beyond)?
                    | regs::BAR_BLOCK_TARGET.put(target(at)).unwrap_or(0)
                    | regs::BAR_BLOCK_MODE.flag(block.is_some())
                    | cya;
                let ignore = low_half(regs::BAR2_BLOCK_DEBUG_CYA.mask());
                Ok(Self { low: low_half(low), low_at, high: None, ignore, status_at, status })
            }
            BlockRegisters::LowHigh => {
                let (low_at, high_at, high_ptr) = match bar {
                    Bar::Bar1 => (
                        regs::NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR1_BLOCK_LOW_ADDR,
                        regs::NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR1_BLOCK_HIGH_ADDR,
                        regs::FUNC_BAR1_BLOCK_HIGH_PTR,
                    ),
                    Bar::Bar2 => (
                        regs::NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR2_BLOCK_LOW_ADDR,
                        regs::NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR2_BLOCK_HIGH_ADDR,
                        regs::FUNC_BAR2_BLOCK_HIGH_PTR,
                    ),
                };
                let low_ptr = regs::FUNC_BAR_BLOCK_LOW_PTR;
                let beyond = out_of_range(at, low_ptr.width() + high_ptr.width());
                let low = low_ptr.put(frame & low_ptr.max()).map_err(|_| beyond)?
                    | regs::FUNC_BAR_BLOCK_TARGET.put(target(at)).unwrap_or(0)
                    | regs::FUNC_BAR_BLOCK_MODE.flag(block.is_some());
                let high = high_ptr.put(frame >> low_ptr.width()).map_err(|_| beyond)?;
                let status = regs::FUNC_BAR_BLOCK_STATUS;
                let ignore = low_half(status.mask());
                let high = Some((high_at, low_half(high)));
                Ok(Self { low: low_half(low), low_at, high, ignore, status_at: low_at, status })
            }
        }
    }

    /// Both words as one number.
    const fn value(self) -> u64 {
        match self.high {
            Some((_, high)) => (high as u64) << 32 | self.low as u64,
            None => self.low as u64,
        }
    }

    /// Reads the register at `at`, which rightly reads `wanted` but for the bits to ignore: no error word then, whatever
    /// it looks like. A block may lie where its address makes one.
    fn read<B: Bar0>(self, bar0: &mut B, at: u32, wanted: u32) -> Result<u32, DeviceError> {
        let value = bar0.read32(at)?;
        if value == u32::MAX {
            return Err(DeviceError::Gone { offset: at, value });
        }
        if is_not_there(value) && (value ^ wanted) & !self.ignore != 0 {
            return Err(DeviceError::Poison { offset: at, value });
        }
        Ok(value)
    }

    /// Whether a bind of these words is under way.
    fn pending<B: Bar0>(self, bar0: &mut B) -> Result<bool, DeviceError> {
        let value = match self.high {
            Some(_) => self.read(bar0, self.low_at, self.low)?,
            None => read_register(bar0, self.status_at)?,
        };
        Ok(self.status.is_set(u64::from(value)))
    }

    /// Whether any bind is under way. What is bound is not known, so that an address can look like an error word: where
    /// the status stands beside it, only all-ones is judged.
    fn busy<B: Bar0>(self, bar0: &mut B) -> Result<bool, DeviceError> {
        if self.high.is_none() {
            return self.pending(bar0);
        }
        let (offset, value) = (self.status_at, bar0.read32(self.status_at)?);
        match value {
            u32::MAX => Err(DeviceError::Gone { offset, value }),
            _ => Ok(!is_not_there(value) && self.status.is_set(u64::from(value))),
        }
    }

    fn write<B: Bar0>(self, bar0: &mut B) -> Result<(), DeviceError> {
        bar0.write32(self.low_at, self.low)?;
        match self.high {
            Some((at, high)) => bar0.write32(at, high),
            None => Ok(()),
        }
    }

    /// Reads back what is bound.
    fn verify<B: Bar0>(self, bar0: &mut B, bar: Bar) -> Result<(), BarError> {
        let low = self.read(bar0, self.low_at, self.low)?;
        let high = match self.high {
            Some((at, high)) => self.read(bar0, at, high)?,
            None => 0,
        };
        let found = u64::from(high) << 32 | u64::from(low);
        if (found ^ self.value()) & !u64::from(self.ignore) != 0 {
            return Err(BarError::Lost { bar, wanted: self.value(), found });
        }
        Ok(())
    }
}

/// Binds a BAR to an instance block, or with `None` to video memory itself (physical mode, as it is after reset), waits
/// until that is done, and reads back whether it is. The block is to have been written before: it is read now. Nobody may
/// access the BAR meanwhile.
///
/// Waits first for a bind that is under way, and so may be called again after it failed.
///
/// # Errors
/// [`DeviceError::Unaligned`], [`OutOfRange`](DeviceError::OutOfRange), with nothing written;
/// [`Timeout`](DeviceError::Timeout) or another, and the BAR may be bound to what it was, or to the new block.
pub fn bind<D: Bar0 + Clock>(
    bar0: &mut D,
    chip: &Chip,
    bar: Bar,
    block: Option<TableAddr>,
    limits: Limits,
) -> Result<(), BarError> {
    let words = Words::new(chip, bar, block)?;
    wait(bar0, limits, words.status_at, |bar0| Ok(!words.busy(bar0)?))?;
    words.write(bar0)?;
    wait(bar0, limits, words.status_at, |bar0| Ok(!words.pending(bar0)?))?;
    words.verify(bar0, bar)
}

/// The instance block that a BAR is bound to; none in physical mode, as after reset. Only reads. While a bind is under way
/// this is what it is about.
///
/// # Errors
/// [`DeviceError::Gone`] or [`Poison`](DeviceError::Poison): what is bound is not known, so that an address that makes an
/// error word is taken for one. Or the back end's.
pub fn bound<B: Bar0>(bar0: &mut B, chip: &Chip, bar: Bar) -> Result<Option<TableAddr>, DeviceError> {
    let Words { low_at, high, .. } = Words::new(chip, bar, None)?;
    let low = read_register(bar0, low_at)?;
    let word = u64::from(low);
    let (ptr, code, mode) = match high {
        None => (regs::BAR_BLOCK_PTR, regs::BAR_BLOCK_TARGET, regs::BAR_BLOCK_MODE),
        Some(_) => (regs::FUNC_BAR_BLOCK_LOW_PTR, regs::FUNC_BAR_BLOCK_TARGET, regs::FUNC_BAR_BLOCK_MODE),
    };
    if !mode.is_set(word) {
        return Ok(None);
    }
    let above = match (high, bar) {
        (None, _) => 0,
        (Some((at, _)), Bar::Bar1) => regs::FUNC_BAR1_BLOCK_HIGH_PTR.get(read_register(bar0, at)?.into()),
        (Some((at, _)), Bar::Bar2) => regs::FUNC_BAR2_BLOCK_HIGH_PTR.get(read_register(bar0, at)?.into()),
    };
    let at = (above << ptr.width() | ptr.get(word)).wrapping_mul(INSTANCE_BYTES);
    match code.get(word) {
        0 => Ok(Some(TableAddr::vram(at))),
        2 => Ok(Some(TableAddr::SysCoherent(SysAddr::new(at)))),
        3 => Ok(Some(TableAddr::SysNonCoherent(SysAddr::new(at)))),
        // Code 1 is none of a block.
        _ => Err(DeviceError::Poison { offset: low_at, value: low }),
    }
}

/// The block registers of BAR1 and BAR2, and their status, where a word names a block.
const fn word_registers(registers: BlockRegisters) -> (u32, u32, u32) {
    match registers {
        BlockRegisters::Pbus => (regs::NV_PBUS_BAR1_BLOCK, regs::NV_PBUS_BAR2_BLOCK, regs::NV_PBUS_BIND_STATUS),
        BlockRegisters::Word | BlockRegisters::LowHigh => (
            regs::NV_VIRTUAL_FUNCTION_PRIV_BAR1_BLOCK,
            regs::NV_VIRTUAL_FUNCTION_PRIV_BAR2_BLOCK,
            regs::NV_VIRTUAL_FUNCTION_PRIV_BIND_STATUS,
        ),
    }
}

/// The TARGET code of instance blocks and block registers.
const fn target(at: TableAddr) -> u64 {
    match at {
        TableAddr::Vram(_) => 0,
        TableAddr::SysCoherent(_) => 2,
        TableAddr::SysNonCoherent(_) => 3,
    }
}

/// A place within an instance block.
fn part(block: TableAddr, offset: u64) -> Result<TableAddr, DeviceError> {
    block.checked_add(offset).ok_or(DeviceError::OutOfRange { at: block, bytes: INSTANCE_BYTES, end: u64::MAX })
}

const fn out_of_range(at: TableAddr, frame_bits: u32) -> DeviceError {
    let end = if frame_bits >= 52 { u64::MAX } else { 1 << (frame_bits + 12) };
    DeviceError::OutOfRange { at, bytes: INSTANCE_BYTES, end }
}

/// Refuses what is no address of a block or a root.
pub(crate) fn aligned(at: TableAddr) -> Result<(), DeviceError> {
    if at.is_aligned(INSTANCE_BYTES) {
        return Ok(());
    }
    Err(DeviceError::Unaligned { at, alignment: INSTANCE_BYTES })
}
