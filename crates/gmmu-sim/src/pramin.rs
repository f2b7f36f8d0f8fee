//! The PRAMIN window: one mebibyte of BAR0 that shows a movable piece of memory.

use crate::chip::{ChipModel, Layout};
use crate::memory::Space;
use crate::regs;

/// The window register.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    word: u32,
}

impl Window {
    /// The register that moves the window on a chip.
    pub(crate) const fn register(chip: &ChipModel) -> u32 {
        match chip.layout {
            Layout::Bus => regs::PBUS_BAR0_WINDOW,
            Layout::Xal => regs::XAL_BAR0_WINDOW,
        }
    }

    pub(crate) const fn read(self) -> u32 {
        self.word
    }

    /// Writes the register; bits that the chip lacks read back as 0. Whether the window moved.
    pub(crate) fn write(&mut self, chip: &ChipModel, value: u32) -> bool {
        let target = match chip.layout {
            Layout::Bus => 3 << 24,
            Layout::Xal => 0,
        };
        let word = value & (((1 << chip.window_bits) - 1) | target);
        let moved = word != self.word;
        self.word = word;
        moved
    }

    /// What the window shows at its byte `offset`; `None` where the target is none.
    pub(crate) fn place(self, chip: &ChipModel, offset: u32) -> Option<(Space, u64)> {
        let base = u64::from(self.word & ((1 << chip.window_bits) - 1)) << 16;
        let space = match (chip.layout, self.word >> 24 & 3) {
            (Layout::Xal, _) | (Layout::Bus, 0) => Space::Vram,
            (Layout::Bus, 1) => return None,
            (Layout::Bus, _) => Space::Sys,
        };
        Some((space, base + u64::from(offset)))
    }
}
