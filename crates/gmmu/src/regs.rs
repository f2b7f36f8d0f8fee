//! The registers that the library uses, by NVIDIA's names: byte offsets in BAR0 and their fields.
//!
//! Sources: `dev_boot.h`, `dev_bus.h` (gm107 on), `dev_ram.h` (gv100 for instance blocks), `dev_xal_ep.h`, `dev_vm.h` (tu102, ga100, gb100),
//! `dev_fb.h` (gp102, tu102, ga100), `pri_mmu_both` (tu104), `dev_disp.h` (tu102), `dev_gc6_island.h` (ga102), `hwproject.h` (gb100). The virtual-function registers lie at 0xB80000 in the BAR0 of a
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

/// The same before Turing, behind a FIFO.
pub const NV_PFB_PRI_MMU_INVALIDATE_PDB: u32 = 0x10_0cb8;
pub const NV_PFB_PRI_MMU_INVALIDATE: u32 = 0x10_0cbc;
pub const NV_PFB_PRI_MMU_INVALIDATE_UPPER_PDB: u32 = 0x10_0cec;
pub const NV_PFB_PRI_MMU_CTRL: u32 = 0x10_0c80;
pub const MMU_CTRL_PRI_FIFO_EMPTY: Field = Field::bit("PRI_FIFO_EMPTY", 15);

pub const NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE: u32 = 0xb8_30b0;
pub const MMU_INVALIDATE_ALL_VA: Field = Field::bit("ALL_VA", 0);
pub const MMU_INVALIDATE_HUBTLB_ONLY: Field = Field::bit("HUBTLB_ONLY", 2);
pub const MMU_INVALIDATE_SYS_MEMBAR: Field = Field::bit("SYS_MEMBAR", 6);
pub const MMU_INVALIDATE_ACK: Field = Field::new("ACK", 8, 7);
/// `NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE_ACK_GLOBALLY`.
pub const MMU_INVALIDATE_ACK_GLOBALLY: u64 = 1;
pub const MMU_INVALIDATE_CACHE_LEVEL: Field = Field::new("CACHE_LEVEL", 26, 24);
pub const MMU_INVALIDATE_TRIGGER: Field = Field::bit("TRIGGER", 31);

/// Size of video memory up to Turing, and on GA100: magnitude, and its unit as a power of two above 1 MiB.
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

/// The second write-protected region, which holds the GSP's firmware: its first 4 KiB page.
pub const NV_PFB_PRI_MMU_WPR2_ADDR_LO: u32 = 0x1f_a824;
/// The first page behind it; 0 while there is no region.
pub const NV_PFB_PRI_MMU_WPR2_ADDR_HI: u32 = 0x1f_a828;
/// The same two from the hub MMU's base (`NV_HUBMMU0_PRI_BASE` 0x880000), where the big Blackwells have them.
pub const NV_HUBMMU_PRI_MMU_WPR2_ADDR_LO: u32 = 0x88_a824;
pub const NV_HUBMMU_PRI_MMU_WPR2_ADDR_HI: u32 = 0x88_a828;
/// `…_VAL` of the ends of WPR2 and of the locked region, in units of 4 KiB.
pub const MMU_REGION_ADDR_VAL: Field = Field::new("VAL", 31, 4);
pub const MMU_REGION_ADDR_ALIGNMENT: u32 = 12;

/// Bit 0: the two registers of the locked region may be read.
pub const NV_PFB_PRI_MMU_LOCK_CFG_PRIV_LEVEL_MASK: u32 = 0x1f_a7c8;
/// First 4 KiB page of the region that the MMU locks.
pub const NV_PFB_PRI_MMU_LOCK_ADDR_LO: u32 = 0x1f_a82c;
/// Its last page; one below the first where there is no region.
pub const NV_PFB_PRI_MMU_LOCK_ADDR_HI: u32 = 0x1f_a830;

/// Where the display's VGA emulation keeps its memory.
pub const NV_PDISP_VGA_WORKSPACE_BASE: u32 = 0x62_5f04;
/// The same register before Volta.
pub const NV_PDISP_VGA_WORKSPACE_BASE_PASCAL: u32 = 0x61_9f04;
pub const VGA_WORKSPACE_BASE_STATUS_VALID: Field = Field::bit("STATUS_VALID", 3);
pub const VGA_WORKSPACE_BASE_ADDR: Field = Field::new("ADDR", 31, 8);
/// The address is in units of 64 KiB.
pub const VGA_WORKSPACE_BASE_ADDR_SHIFT: u32 = 16;

/// Byte offsets in an instance block, and what stands there (`NV_RAMIN`).
pub const NV_RAMIN_PAGE_DIR_BASE_LO: u64 = 0x200;
/// 0 video memory, 1 invalid, 2 coherent and 3 non-coherent system memory; the BARs' block registers say it likewise.
pub const RAMIN_PAGE_DIR_BASE_TARGET: Field = Field::new("TARGET", 1, 0);
pub const RAMIN_PAGE_DIR_BASE_TARGET_INVALID: u64 = 1;
pub const RAMIN_PAGE_DIR_BASE_VOL: Field = Field::bit("VOL", 2);
pub const RAMIN_PAGE_DIR_BASE_FAULT_REPLAY_TEX: Field = Field::bit("FAULT_REPLAY_TEX", 4);
pub const RAMIN_PAGE_DIR_BASE_FAULT_REPLAY_GCC: Field = Field::bit("FAULT_REPLAY_GCC", 5);
pub const RAMIN_USE_VER2_PT_FORMAT: Field = Field::bit("USE_VER2_PT_FORMAT", 10);
/// 1 is 64 KiB.
pub const RAMIN_BIG_PAGE_SIZE: Field = Field::bit("BIG_PAGE_SIZE", 11);
/// `PAGE_DIR_BASE_LO` and `_HI` as one: the address from bit 12 on stands at its own place.
pub const RAMIN_PAGE_DIR_BASE: Field = Field::new("PAGE_DIR_BASE", 63, 12);
pub const RAMIN_PAGE_DIR_BASE_SHIFT: u32 = 12;
/// The last address of the space.
pub const NV_RAMIN_ADR_LIMIT_LO: u64 = 0x208;
/// Which subcontexts have a space, a bit each.
pub const NV_RAMIN_SC_PDB_VALID: u64 = 0x298;
/// 64 times 16 bytes: the space of a subcontext as at `PAGE_DIR_BASE_LO`, and its PASID.
pub const NV_RAMIN_SC_PAGE_DIR_BASE_LO: u64 = 0x2a0;

/// Which instance block BAR1 goes through: Pascal, and an alias of the next up to Ada.
pub const NV_PBUS_BAR1_BLOCK: u32 = 0x1704;
pub const NV_PBUS_BIND_STATUS: u32 = 0x1710;
pub const NV_PBUS_BAR2_BLOCK: u32 = 0x1714;
/// Which instance block BAR1 goes through, Turing to Ada.
pub const NV_VIRTUAL_FUNCTION_PRIV_BAR1_BLOCK: u32 = 0xb8_0f40;
pub const NV_VIRTUAL_FUNCTION_PRIV_BAR2_BLOCK: u32 = 0xb8_0f48;
/// Address of the block in units of 4 KiB.
pub const BAR_BLOCK_PTR: Field = Field::new("PTR", 27, 0);
/// As `NV_RAMIN_PAGE_DIR_BASE_TARGET`.
pub const BAR_BLOCK_TARGET: Field = Field::new("TARGET", 29, 28);
/// BAR2 alone; 1 is off.
pub const BAR2_BLOCK_DEBUG_CYA: Field = Field::bit("DEBUG_CYA", 30);
/// 0: offsets are addresses of video memory.
pub const BAR_BLOCK_MODE: Field = Field::bit("MODE", 31);
pub const NV_VIRTUAL_FUNCTION_PRIV_BIND_STATUS: u32 = 0xb8_0f50;
/// `BAR1_PENDING` and `BAR1_OUTSTANDING`.
pub const BIND_STATUS_BAR1: Field = Field::new("BAR1", 1, 0);
/// `BAR2_PENDING` and `BAR2_OUTSTANDING`.
pub const BIND_STATUS_BAR2: Field = Field::new("BAR2", 3, 2);

/// The same from Hopper on: the status is in the low half, and writing the high half binds.
pub const NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR1_BLOCK_LOW_ADDR: u32 = 0xb8_0f60;
pub const NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR1_BLOCK_HIGH_ADDR: u32 = 0xb8_0f64;
pub const NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR2_BLOCK_LOW_ADDR: u32 = 0xb8_0f70;
pub const NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR2_BLOCK_HIGH_ADDR: u32 = 0xb8_0f74;
/// `PENDING` and `OUTSTANDING`.
pub const FUNC_BAR_BLOCK_STATUS: Field = Field::new("STATUS", 1, 0);
pub const FUNC_BAR_BLOCK_MODE: Field = Field::bit("MODE", 9);
pub const FUNC_BAR_BLOCK_TARGET: Field = Field::new("TARGET", 11, 10);
pub const FUNC_BAR_BLOCK_LOW_PTR: Field = Field::new("PTR", 31, 12);
pub const FUNC_BAR1_BLOCK_HIGH_PTR: Field = Field::new("PTR", 31, 0);
pub const FUNC_BAR2_BLOCK_HIGH_PTR: Field = Field::new("PTR", 19, 0);

/// Stores through the card's BARs arrive in memory, up to Ada: write 1; done when PENDING and OUTSTANDING are 0.
pub const NV_UFLUSH_FB_FLUSH: u32 = 0x7_0000;
/// PENDING and OUTSTANDING: either says that a flush is under way.
pub const UFLUSH_FB_FLUSH_UNDER_WAY: Field = Field::new("PENDING_OUTSTANDING", 1, 0);
/// The same from Hopper on: a read starts a flush and returns its token.
pub const NV_XAL_EP_UFLUSH_FB_FLUSH: u32 = 0x10_f800;
/// How far flushes have come.
pub const NV_XAL_EP_UFLUSH_FB_FLUSH_STATUS: u32 = 0x10_f804;
pub const XAL_FB_FLUSH_TOKEN: Field = Field::new("TOKEN", 30, 0);
pub const XAL_FB_FLUSH_BUSY: Field = Field::bit("STATUS", 31);
