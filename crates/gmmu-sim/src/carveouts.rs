//! The registers that tell which memory is not the driver's.

use crate::chip::{ChipModel, Layout};
use crate::config::Carveouts;
use crate::regs;
use std::ops::Range;

/// `NV_PFB_PRI_MMU_WPR2_ADDR_LO` after reset.
const WPR2_LO_RESET: u32 = 0x0fff_ffff;
/// STATUS_VALID of the VGA workspace.
const VGA_VALID: u32 = 1 << 3;

/// A number of 4 KiB pages at bits 31:4, as the ends of protected regions stand in their registers.
const fn pages(at: u64) -> u32 {
    ((at >> 12 & 0xfff_ffff) as u32) << 4
}

impl Carveouts {
    /// Reads a register; `None` where it is none of these.
    pub(crate) fn read(&self, chip: &ChipModel, offset: u32) -> Option<u32> {
        let none = 0..0;
        let wpr2 = self.wpr2.as_ref().unwrap_or(&none);
        let (lo, hi) =
            if in_hub(chip) { (regs::HUB_WPR2_LO, regs::HUB_WPR2_HI) } else { (regs::WPR2_LO, regs::WPR2_HI) };
        match offset {
            _ if offset == lo && wpr2.is_empty() => Some(WPR2_LO_RESET),
            _ if offset == lo => Some(pages(wpr2.start)),
            _ if offset == hi => Some(pages(wpr2.end)),
            regs::MMU_LOCK_PLM => Some(0xff),
            regs::MMU_LOCK_LO => Some(self.lock().map_or(0xffff_fff0, |lock| pages(lock.start))),
            // The register names the last page and not the one behind it.
            regs::MMU_LOCK_HI => Some(self.lock().map_or(0, |lock| pages(lock.end - 1))),
            regs::VGA_WORKSPACE_BASE if chip.layout == Layout::Bus => {
                Some(self.vga.map_or(0, |at| ((at >> 16 & 0xff_ffff) as u32) << 8 | VGA_VALID))
            }
            _ => None,
        }
    }

    fn lock(&self) -> Option<&Range<u64>> {
        self.mmu_lock.as_ref().filter(|lock| !lock.is_empty())
    }
}

/// Whether the ends of WPR2 stand in the registers of the hub's MMU: GB10x.
const fn in_hub(chip: &ChipModel) -> bool {
    chip.architecture == 0x1a
}
