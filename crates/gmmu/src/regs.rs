//! The registers that the library uses, by NVIDIA's names: byte offsets in BAR0 and their fields.
//!
//! Sources: `dev_boot.h`, `dev_bus.h` (gm107 on), `dev_ram.h`, `dev_xal_ep.h`, `dev_vm.h` (tu102, ga100, gb100),
//! `dev_fb.h` (gp102), `dev_gc6_island.h` (ga102). The virtual-function registers lie at 0xB80000 in the BAR0 of a
//! physical function (`NV_VIRTUAL_FUNCTION_FULL_PHYS_OFFSET`).
#![expect(missing_docs, reason = "the names are NVIDIA's and stand in the headers named above")]

use crate::bits::Field;

pub const NV_PMC_BOOT_0: u32 = 0x0;
pub const NV_PMC_BOOT_42: u32 = 0xa00;

/// The PRAMIN window: 1 MiB of BAR0 that shows video memory.
pub const NV_PRAMIN: u32 = 0x70_0000;
/// Bytes that the window shows.
pub const NV_PRAMIN_BYTES: u64 = 1 << 20;

/// Position of the window up to Ada.
pub const NV_PBUS_BAR0_WINDOW: u32 = 0x1700;
pub const NV_PBUS_BAR0_WINDOW_BASE: Field = Field::new("BASE", 23, 0);
/// 0 is video memory.
pub const NV_PBUS_BAR0_WINDOW_TARGET: Field = Field::new("TARGET", 25, 24);
/// Position of the window from Hopper on: a base alone, whose width is the chip's.
pub const NV_XAL_EP_ZB_BAR0_WINDOW: u32 = 0x10_fd40;
/// `NV_PBUS_BAR0_WINDOW_BASE_SHIFT`: the window moves in steps of 64 KiB.
pub const BAR0_WINDOW_BASE_SHIFT: u32 = 16;

pub const NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE_PDB: u32 = 0xb8_30a0;
/// 0 is video memory, 1 system memory.
pub const MMU_INVALIDATE_PDB_APERTURE: Field = Field::bit("APERTURE", 1);
pub const MMU_INVALIDATE_PDB_ADDR: Field = Field::new("ADDR", 31, 4);
pub const NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE_UPPER_PDB: u32 = 0xb8_30a4;
pub const MMU_INVALIDATE_UPPER_PDB_ADDR: Field = Field::new("ADDR", 19, 0);
/// `NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE_PDB_ADDR_ALIGNMENT`: a page directory base is 4 KiB aligned.
pub const MMU_INVALIDATE_PDB_ADDR_SHIFT: u32 = 12;

pub const NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE: u32 = 0xb8_30b0;
pub const MMU_INVALIDATE_ALL_VA: Field = Field::bit("ALL_VA", 0);
pub const MMU_INVALIDATE_HUBTLB_ONLY: Field = Field::bit("HUBTLB_ONLY", 2);
pub const MMU_INVALIDATE_SYS_MEMBAR: Field = Field::bit("SYS_MEMBAR", 6);
pub const MMU_INVALIDATE_ACK: Field = Field::new("ACK", 8, 7);
/// `NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE_ACK_GLOBALLY`.
pub const MMU_INVALIDATE_ACK_GLOBALLY: u64 = 1;
pub const MMU_INVALIDATE_CACHE_LEVEL: Field = Field::new("CACHE_LEVEL", 26, 24);
pub const MMU_INVALIDATE_TRIGGER: Field = Field::bit("TRIGGER", 31);

/// Size of video memory on Turing and GA100: magnitude, and its unit as a power of two above 1 MiB.
pub const NV_PFB_PRI_MMU_LOCAL_MEMORY_RANGE: u32 = 0x10_0ce0;
pub const LOCAL_MEMORY_RANGE_LOWER_SCALE: Field = Field::new("LOWER_SCALE", 3, 0);
pub const LOCAL_MEMORY_RANGE_LOWER_MAG: Field = Field::new("LOWER_MAG", 9, 4);
/// A sixteenth of the memory holds the error-correcting code.
pub const LOCAL_MEMORY_RANGE_ECC_MODE: Field = Field::bit("ECC_MODE", 30);

/// `NV_PGC6_AON_SECURE_SCRATCH_GROUP_42`: size of video memory in MiB, on all later chips.
pub const NV_USABLE_FB_SIZE_IN_MB: u32 = 0x11_83a4;
/// Progress of the card's boot firmware, which writes the size.
pub const NV_PGC6_AON_SECURE_SCRATCH_GROUP_05_0_GFW_BOOT: u32 = 0x11_8234;
pub const GFW_BOOT_PROGRESS: Field = Field::new("PROGRESS", 7, 0);
pub const GFW_BOOT_PROGRESS_COMPLETED: u64 = 0xff;
/// Bit 0: the progress may be read.
pub const NV_PGC6_AON_SECURE_SCRATCH_GROUP_05_PRIV_LEVEL_MASK: u32 = 0x11_8128;
pub const PRIV_LEVEL_MASK_READ_PROTECTION_LEVEL0: Field = Field::bit("READ_PROTECTION_LEVEL0", 0);
