//! How much video memory there is, and which parts of it a driver may use.
//!
//! Registers tell the size ([`vram_bytes`]) and what is taken from it before any driver comes ([`carveouts`]). What the
//! GSP's firmware reports of the rest, and what follows from all of it, is a `FbLayout`.

#[cfg(feature = "alloc")]
mod layout;
#[cfg(feature = "alloc")]
mod table;

#[cfg(feature = "alloc")]
pub use layout::{FbLayout, FbRegion, FbUse, GspRegion, Keep, LayoutError, LayoutInput};

use crate::addr::VramAddr;
use crate::chip::{Chip, FbSizeRegister, VgaWorkspace, Wpr2Registers};
use crate::device::{Bar0, DeviceError};
use crate::regs;
use crate::tlb::read_register;
use core::ops::Range;

/// The size of video memory, or what is taken from it, cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FbError {
    /// The card's boot firmware, which writes the size, has not finished.
    #[error(
        "the card's boot firmware has not finished (GFW_BOOT progress {progress:#x}, done is 0xff): try again later"
    )]
    FirmwareNotReady {
        /// `NV_PGC6_AON_SECURE_SCRATCH_GROUP_05_0_GFW_BOOT_PROGRESS`; 0 where it may not be read yet.
        progress: u64,
    },
    /// The register says 0.
    #[error("the card says that it has no video memory: register {offset:#x} reads {value:#010x}")]
    Empty {
        /// Byte offset of the register in BAR0.
        offset: u32,
        /// What it reads.
        value: u32,
    },
    /// Two registers name a region that ends before it begins.
    #[error("{what} begins at {lo} and ends at {hi}")]
    Backwards {
        /// Whose region it is.
        what: &'static str,
        /// Its first byte.
        lo: VramAddr,
        /// The first byte behind it.
        hi: VramAddr,
    },
    /// Registers name a region outside of video memory.
    #[error("{what} reaches to {end}, but video memory ends at {total:#x}")]
    BeyondMemory {
        /// Whose region it is.
        what: &'static str,
        /// Its end, or where it begins if only that is known.
        end: VramAddr,
        /// Bytes of video memory.
        total: u64,
    },
    /// The register did not answer.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Bytes of video memory, from the register that the chip has for it. Only reads.
///
/// # Errors
/// [`FbError`].
pub fn vram_bytes<B: Bar0>(bar0: &mut B, chip: &Chip) -> Result<u64, FbError> {
    let (offset, value, bytes) = match chip.fb_size {
        FbSizeRegister::LocalMemoryRange => {
            let offset = regs::NV_PFB_PRI_MMU_LOCAL_MEMORY_RANGE;
            let value = read_register(bar0, offset)?;
            (offset, value, local_memory_range(value))
        }
        FbSizeRegister::UsableFbSize => {
            wait_for_firmware(bar0)?;
            let offset = regs::NV_USABLE_FB_SIZE_IN_MB;
            let value = read_register(bar0, offset)?;
            (offset, value, u64::from(value) << 20)
        }
    };
    if bytes == 0 {
        return Err(FbError::Empty { offset, value });
    }
    Ok(bytes)
}

/// `NV_PFB_PRI_MMU_LOCAL_MEMORY_RANGE` as bytes. At most 63 << 35, so nothing overflows.
const fn local_memory_range(value: u32) -> u64 {
    let word = value as u64;
    let bytes = regs::LOCAL_MEMORY_RANGE_LOWER_MAG.get(word) << (regs::LOCAL_MEMORY_RANGE_LOWER_SCALE.get(word) + 20);
    if regs::LOCAL_MEMORY_RANGE_ECC_MODE.is_set(word) {
        bytes / 16 * 15
    } else {
        bytes
    }
}

fn wait_for_firmware<B: Bar0>(bar0: &mut B) -> Result<(), FbError> {
    let mask = read_register(bar0, regs::NV_PGC6_AON_SECURE_SCRATCH_GROUP_05_PRIV_LEVEL_MASK)?;
    if !regs::PRIV_LEVEL_MASK_READ_PROTECTION_LEVEL0.is_set(u64::from(mask)) {
        return Err(FbError::FirmwareNotReady { progress: 0 });
    }
    let word = read_register(bar0, regs::NV_PGC6_AON_SECURE_SCRATCH_GROUP_05_0_GFW_BOOT)?;
    let progress = regs::GFW_BOOT_PROGRESS.get(u64::from(word));
    if progress != regs::GFW_BOOT_PROGRESS_COMPLETED {
        return Err(FbError::FirmwareNotReady { progress });
    }
    Ok(())
}

/// What registers say of memory that is not the driver's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carveouts {
    /// WPR2, the write-protected region that holds the GSP's firmware; none before its boot.
    pub wpr2: Option<Range<VramAddr>>,
    /// What the display's VGA emulation keeps, at the end of memory.
    pub vga: Option<Range<VramAddr>>,
    /// What the MMU has locked.
    pub mmu_lock: Option<Range<VramAddr>>,
}

impl Carveouts {
    /// Those that there are, with their names, lowest rank last: where two overlap, the first one says what it is.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Range<VramAddr>)> {
        let all = [(MMU_LOCK, &self.mmu_lock), (WPR2, &self.wpr2), (VGA, &self.vga)];
        all.into_iter().filter_map(|(what, range)| range.as_ref().map(|range| (what, range)))
    }
}

const MMU_LOCK: &str = "the region that the MMU locks";
const WPR2: &str = "WPR2";
const VGA: &str = "the VGA workspace";

/// What the chip's registers say of memory that is not the driver's, in a video memory of `total` bytes. Only reads.
///
/// # Errors
/// [`FbError::Backwards`], [`BeyondMemory`](FbError::BeyondMemory), [`Device`](FbError::Device).
pub fn carveouts<B: Bar0>(bar0: &mut B, chip: &Chip, total: u64) -> Result<Carveouts, FbError> {
    if chip.is_integrated() {
        return Ok(Carveouts::default());
    }
    let mmu_lock = if chip.has_mmu_lock { mmu_lock(bar0)? } else { None };
    let found = Carveouts { wpr2: wpr2(bar0, chip)?, vga: Some(vga(bar0, chip, total)?), mmu_lock };
    for (what, range) in found.iter() {
        if range.start >= range.end {
            return Err(FbError::Backwards { what, lo: range.start, hi: range.end });
        }
        if range.end.raw() > total {
            return Err(FbError::BeyondMemory { what, end: range.end, total });
        }
    }
    Ok(found)
}

/// `NV_PFB_PRI_MMU_WPR2_ADDR_LO..HI`; a high end of 0 is no region.
fn wpr2<B: Bar0>(bar0: &mut B, chip: &Chip) -> Result<Option<Range<VramAddr>>, FbError> {
    let (lo, hi) = match chip.wpr2 {
        Wpr2Registers::Absent => return Ok(None),
        Wpr2Registers::Pfb => (regs::NV_PFB_PRI_MMU_WPR2_ADDR_LO, regs::NV_PFB_PRI_MMU_WPR2_ADDR_HI),
        Wpr2Registers::HubMmu => (regs::NV_HUBMMU_PRI_MMU_WPR2_ADDR_LO, regs::NV_HUBMMU_PRI_MMU_WPR2_ADDR_HI),
    };
    let hi = region_address(read_register(bar0, hi)?);
    if hi == 0 {
        return Ok(None);
    }
    let lo = region_address(read_register(bar0, lo)?);
    Ok(Some(VramAddr::new(lo)..VramAddr::new(hi)))
}

/// `NV_PFB_PRI_MMU_LOCK_ADDR_LO..=HI`, where they may be read: whoever may not read them is not told of a region, as in
/// NVIDIA's driver.
fn mmu_lock<B: Bar0>(bar0: &mut B) -> Result<Option<Range<VramAddr>>, FbError> {
    let readable = match read_register(bar0, regs::NV_PFB_PRI_MMU_LOCK_CFG_PRIV_LEVEL_MASK) {
        Ok(mask) => regs::PRIV_LEVEL_MASK_READ_PROTECTION_LEVEL0.is_set(u64::from(mask)),
        // A mask that answers with an error word guards registers that the chip does not have.
        Err(DeviceError::Poison { .. }) => false,
        Err(why) => return Err(why.into()),
    };
    if !readable {
        return Ok(None);
    }
    // After reset the low end has all its bits set, so that only its lowest four tell it from a card that is gone.
    let lo = region_address(read_register(bar0, regs::NV_PFB_PRI_MMU_LOCK_ADDR_LO)?);
    let hi = region_address(read_register(bar0, regs::NV_PFB_PRI_MMU_LOCK_ADDR_HI)?);
    let last_page = 1 << regs::MMU_REGION_ADDR_ALIGNMENT;
    // At most 28 bits of pages, so the sum fits.
    Ok((hi >= lo).then(|| VramAddr::new(lo)..VramAddr::new(hi + last_page)))
}

/// The end of memory that the VGA emulation keeps, as NVIDIA's driver reckons it (`kgspCalculateFbLayout_TU102`): the
/// last mebibyte without a display, and 128 KiB where the register names something below that mebibyte.
fn vga<B: Bar0>(bar0: &mut B, chip: &Chip, total: u64) -> Result<Range<VramAddr>, FbError> {
    let last = |bytes: u64| VramAddr::new(total.saturating_sub(bytes))..VramAddr::new(total);
    let VgaWorkspace::Register(register) = chip.vga else {
        return Ok(last(128 << 10));
    };
    let word = match read_register(bar0, register) {
        Ok(word) => u64::from(word),
        Err(DeviceError::Poison { .. }) => 0,
        Err(why) => return Err(why.into()),
    };
    if !regs::VGA_WORKSPACE_BASE_STATUS_VALID.is_set(word) {
        return Ok(last(1 << 20));
    }
    let base = VramAddr::new(regs::VGA_WORKSPACE_BASE_ADDR.get(word) << regs::VGA_WORKSPACE_BASE_ADDR_SHIFT);
    if base.raw() >= total {
        return Err(FbError::BeyondMemory { what: VGA, end: base, total });
    }
    Ok(if base < last(1 << 20).start { last(128 << 10) } else { base..VramAddr::new(total) })
}

/// An end of WPR2 or of the locked region, in bytes.
const fn region_address(word: u32) -> u64 {
    regs::MMU_REGION_ADDR_VAL.get(word as u64) << regs::MMU_REGION_ADDR_ALIGNMENT
}

#[cfg(test)]
mod tests {
    use super::local_memory_range;

    #[test]
    fn the_local_memory_range_is_magnitude_times_scale() {
        // 40 GiB: 40 << (10 + 20); with ECC a sixteenth is gone.
        assert_eq!(local_memory_range(40 << 4 | 10), 40 << 30);
        assert_eq!(local_memory_range(1 << 30 | 32 << 4 | 10), (32 << 30) / 16 * 15);
        assert_eq!(local_memory_range(0xf), 0);
    }
}
