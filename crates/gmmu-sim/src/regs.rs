//! Where the registers are, by NVIDIA's names, and which bits of them count.

use gmmu::device::DeviceError;

/// Bytes of BAR0.
pub(crate) const BAR0_BYTES: u32 = 16 << 20;

/// `NV_PMC_BOOT_0`.
pub(crate) const BOOT_0: u32 = 0;
/// `NV_PMC_BOOT_42`.
pub(crate) const BOOT_42: u32 = 0xa00;

/// `NV_PBUS_BAR0_WINDOW`, up to Ada: BASE 23:0 in 64 KiB, TARGET 25:24.
pub(crate) const PBUS_BAR0_WINDOW: u32 = 0x1700;
/// `NV_XAL_EP_ZB_BAR0_WINDOW`, from Hopper on: BASE in 64 KiB.
pub(crate) const XAL_BAR0_WINDOW: u32 = 0x10_fd40;
/// `NV_PBUS_BAR1_BLOCK`, an alias up to Ada.
pub(crate) const PBUS_BAR1_BLOCK: u32 = 0x1704;
/// `NV_PBUS_BIND_STATUS`, an alias up to Ada.
pub(crate) const PBUS_BIND_STATUS: u32 = 0x1710;
/// `NV_PBUS_BAR2_BLOCK`, an alias up to Ada.
pub(crate) const PBUS_BAR2_BLOCK: u32 = 0x1714;

/// `NV_PTIMER_TIME_0`: nanoseconds, bits 31:5.
pub(crate) const PTIMER_TIME_0: u32 = 0x9400;
/// `NV_PTIMER_TIME_1`: bits 60:32.
pub(crate) const PTIMER_TIME_1: u32 = 0x9410;

/// `NV_PRAMIN`: the window on memory.
pub(crate) const PRAMIN: u32 = 0x70_0000;
/// Its size.
pub(crate) const PRAMIN_BYTES: u32 = 0x10_0000;

/// `NV_UFLUSH_FB_FLUSH`, up to Ada: write 1, done when bits 1:0 are 0.
pub(crate) const UFLUSH_FB_FLUSH: u32 = 0x7_0000;
/// `NV_XAL_EP_UFLUSH_FB_FLUSH`, from Hopper on: a read starts a flush and returns its token.
pub(crate) const XAL_FB_FLUSH: u32 = 0x10_f800;
/// Its status: the token that is done in 30:0, bit 31 set while one runs.
pub(crate) const XAL_FB_FLUSH_STATUS: u32 = 0x10_f804;

/// `NV_PFB_PRI_MMU_LOCAL_MEMORY_RANGE`.
pub(crate) const LOCAL_MEMORY_RANGE: u32 = 0x10_0ce0;
/// `NV_USABLE_FB_SIZE_IN_MB`.
pub(crate) const USABLE_FB_SIZE_IN_MB: u32 = 0x11_83a4;
/// Who may read the progress of the boot firmware; bit 0: the CPU.
pub(crate) const GFW_BOOT_PLM: u32 = 0x11_8128;
/// Progress of the boot firmware, 0xff when it is done.
pub(crate) const GFW_BOOT: u32 = 0x11_8234;
/// `NV_PFB_PRI_MMU_WPR2_ADDR_LO`, in bits 31:4 the first protected byte in 4 KiB.
pub(crate) const WPR2_LO: u32 = 0x1f_a824;
/// The first byte behind, likewise; 0 while there is no region.
pub(crate) const WPR2_HI: u32 = 0x1f_a828;
/// Where the big Blackwells have the two.
pub(crate) const HUB_WPR2_LO: u32 = 0x88_a824;
/// See above.
pub(crate) const HUB_WPR2_HI: u32 = 0x88_a828;
/// Who may read the MMU's locked region; bit 0: the CPU.
pub(crate) const MMU_LOCK_PLM: u32 = 0x1f_a7c8;
/// The MMU's locked region, in bits 31:4 its first 4 KiB page; after reset above the last one.
pub(crate) const MMU_LOCK_LO: u32 = 0x1f_a82c;
/// Its last page, likewise.
pub(crate) const MMU_LOCK_HI: u32 = 0x1f_a830;
/// `NV_PDISP_VGA_WORKSPACE_BASE`, up to Ada: STATUS_VALID 3, ADDR 31:8 in 64 KiB.
pub(crate) const VGA_WORKSPACE_BASE: u32 = 0x62_5f04;

/// `NV_VIRTUAL_FUNCTION_PRIV_BAR1_BLOCK`, Turing to Ada.
pub(crate) const BAR1_BLOCK: u32 = 0xb8_0f40;
/// `NV_VIRTUAL_FUNCTION_PRIV_BAR2_BLOCK`.
pub(crate) const BAR2_BLOCK: u32 = 0xb8_0f48;
/// `NV_VIRTUAL_FUNCTION_PRIV_BIND_STATUS`: two bits for BAR1, two for BAR2.
pub(crate) const BIND_STATUS: u32 = 0xb8_0f50;
/// `NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR1_BLOCK_LOW_ADDR`, from Hopper on.
pub(crate) const BAR1_BLOCK_LOW: u32 = 0xb8_0f60;
/// The high half; writing it binds.
pub(crate) const BAR1_BLOCK_HIGH: u32 = 0xb8_0f64;
/// `NV_VIRTUAL_FUNCTION_PRIV_FUNC_BAR2_BLOCK_LOW_ADDR`.
pub(crate) const BAR2_BLOCK_LOW: u32 = 0xb8_0f70;
/// The high half; writing it binds.
pub(crate) const BAR2_BLOCK_HIGH: u32 = 0xb8_0f74;

/// `NV_VIRTUAL_FUNCTION_PRIV_MMU_FAULT_BUFFER_LO(0)`.
pub(crate) const FAULT_BUFFERS: u32 = 0xb8_3000;
/// Distance to the registers of the second buffer.
pub(crate) const FAULT_BUFFER_STRIDE: u32 = 32;
/// ADDR_MODE 0 (1: physical), PHYS_APERTURE 2:1, ADDR 31:12.
pub(crate) const FAULT_BUFFER_LO: u32 = 0;
/// Upper address bits.
pub(crate) const FAULT_BUFFER_HI: u32 = 4;
/// PTR 19:0, GETPTR_CORRUPTED 30, OVERFLOW 31.
pub(crate) const FAULT_BUFFER_GET: u32 = 8;
/// PTR 19:0.
pub(crate) const FAULT_BUFFER_PUT: u32 = 0xc;
/// VAL 19:0, ENABLE 31.
pub(crate) const FAULT_BUFFER_SIZE: u32 = 0x10;
pub(crate) const FAULT_POINTER: u32 = 0xf_ffff;
pub(crate) const FAULT_GET_FLAGS: u32 = 3 << 30;
pub(crate) const FAULT_GET_OVERFLOW: u32 = 1 << 31;
/// Writing it sets VAL to what the card is best served with.
pub(crate) const FAULT_SIZE_SET_DEFAULT: u32 = 1 << 30;
pub(crate) const FAULT_SIZE_ENABLE: u32 = 1 << 31;
/// `…_MMU_FAULT_ADDR_LO`, HI, `INST_LO`, `INST_HI`, `INFO`: the latest fault.
pub(crate) const FAULT_ADDR_LO: u32 = 0xb8_3080;
/// The last of them.
pub(crate) const FAULT_INFO: u32 = 0xb8_3090;

/// `NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE_PDB`: APERTURE 1, ADDR 31:4.
pub(crate) const INVALIDATE_PDB: u32 = 0xb8_30a0;
/// `…_MMU_INVALIDATE_UPPER_PDB`: ADDR 19:0.
pub(crate) const INVALIDATE_UPPER_PDB: u32 = 0xb8_30a4;
/// `…_MMU_INVALIDATE`.
pub(crate) const INVALIDATE: u32 = 0xb8_30b0;

/// `NV_PFB_PRI_MMU_CTRL` before Turing: PRI_FIFO_EMPTY 15, PRI_FIFO_SPACE 23:16.
pub(crate) const MMU_CTRL: u32 = 0x10_0c80;
pub(crate) const PRI_FIFO_EMPTY: u32 = 1 << 15;
pub(crate) const PRI_FIFO_SPACE_SHIFT: u32 = 16;
/// The invalidate registers before Turing, behind that FIFO.
pub(crate) const PFB_INVALIDATE_PDB: u32 = 0x10_0cb8;
/// See above.
pub(crate) const PFB_INVALIDATE: u32 = 0x10_0cbc;
/// See above.
pub(crate) const PFB_INVALIDATE_UPPER_PDB: u32 = 0x10_0cec;
/// `NV_PDISP_VGA_WORKSPACE_BASE` before Volta.
pub(crate) const VGA_WORKSPACE_BASE_PASCAL: u32 = 0x61_9f04;
/// `NV_VIRTUAL_FUNCTION_FULL_PHYS_OFFSET`: the first register of virtual functions.
pub(crate) const VIRTUAL_FUNCTIONS: u32 = 0xb8_0000;
/// The last byte of the last.
pub(crate) const VIRTUAL_FUNCTIONS_LAST: u32 = 0xbb_ffff;

/// Refuses an offset that is outside BAR0 or not a multiple of the width.
pub(crate) const fn check(offset: u32, bytes: u32) -> Result<(), DeviceError> {
    if offset % bytes != 0 || offset >= BAR0_BYTES || BAR0_BYTES - offset < bytes {
        return Err(DeviceError::BadOffset { offset, bytes });
    }
    Ok(())
}
