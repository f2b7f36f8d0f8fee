//! How much video memory there is.
//!
//! Which parts of it a driver may use (firmware, display and protected regions lie in it too) is still to come.

use crate::chip::{Chip, FbSizeRegister};
use crate::device::{Bar0, DeviceError};
use crate::regs;
use crate::tlb::read_register;

/// The size of video memory cannot be told.
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
