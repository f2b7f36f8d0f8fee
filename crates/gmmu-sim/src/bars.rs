//! BAR1 and BAR2: bound to an instance block, which names the address space that the CPU's accesses go through.

use crate::chip::{Layout, MmuVersion};
use crate::memory::Space;
use crate::model::Model;
use crate::regs;
use crate::tlb::Class;
use gmmu::addr::{SysAddr, TableAddr};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Bar1,
    Bar2,
}

/// What a BAR's accesses go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// No instance block, or none that the chip accepts.
    Nothing,
    /// Offsets are addresses of video memory.
    Physical,
    /// The space below a root.
    Virtual { pdb: TableAddr, instance: TableAddr },
}

/// One BAR's registers and binding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bar {
    low: u32,
    high: u32,
    polls: u32,
    bound: Bound,
}

impl Default for Bar {
    fn default() -> Self {
        Self { low: 0, high: 0, polls: 0, bound: Bound::Nothing }
    }
}

/// Both.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bars {
    bar1: Bar,
    bar2: Bar,
}

/// Bits of the register of Turing to Ada: PTR 27:0, TARGET 29:28, MODE 31.
const BUS_MODE_VIRTUAL: u32 = 1 << 31;
/// From Hopper on, in LOW: PENDING 0, OUTSTANDING 1, MODE 9, TARGET 11:10, PTR 31:12.
const XAL_MODE_VIRTUAL: u32 = 1 << 9;
const XAL_STATUS: u32 = 3;

/// Words of the instance block (`NV_RAMIN_PAGE_DIR_BASE_LO`): TARGET 1:0, USE_VER2_PT_FORMAT 10, BIG_PAGE_SIZE 11.
const PAGE_DIR_BASE: u64 = 0x200;
const USE_VER2: u64 = 1 << 10;
const BIG_PAGE_64K: u64 = 1 << 11;

impl Bars {
    /// What a BAR is bound to; nothing while a bind is under way.
    pub(crate) const fn bound(&self, which: Which) -> Bound {
        let bar = match which {
            Which::Bar1 => &self.bar1,
            Which::Bar2 => &self.bar2,
        };
        if bar.polls > 0 {
            return Bound::Nothing;
        }
        bar.bound
    }

    /// Which BAR, and which of its words, a register of `layout` belongs to; 2 is the common status.
    fn register(layout: Layout, offset: u32) -> Option<(Which, u8)> {
        match (layout, offset) {
            (Layout::Bus, regs::BAR1_BLOCK | regs::PBUS_BAR1_BLOCK) | (Layout::Xal, regs::BAR1_BLOCK_LOW) => {
                Some((Which::Bar1, 0))
            }
            (Layout::Bus, regs::BAR2_BLOCK | regs::PBUS_BAR2_BLOCK) | (Layout::Xal, regs::BAR2_BLOCK_LOW) => {
                Some((Which::Bar2, 0))
            }
            (Layout::Xal, regs::BAR1_BLOCK_HIGH) => Some((Which::Bar1, 1)),
            (Layout::Xal, regs::BAR2_BLOCK_HIGH) => Some((Which::Bar2, 1)),
            (Layout::Bus, regs::BIND_STATUS | regs::PBUS_BIND_STATUS) => Some((Which::Bar1, 2)),
            _ => None,
        }
    }

    /// Reads a register; `None` where it is none of these.
    pub(crate) fn read(&mut self, layout: Layout, offset: u32) -> Option<u32> {
        let (which, word) = Self::register(layout, offset)?;
        if word == 2 {
            return Some(self.bar1.poll() | self.bar2.poll() << 2);
        }
        let bar = self.bar_mut(which);
        Some(match (layout, word) {
            (Layout::Bus, _) => bar.low,
            (Layout::Xal, 0) => bar.low & !XAL_STATUS | bar.poll(),
            (Layout::Xal, _) => bar.high,
        })
    }

    /// Writes a register; whether it is one of these. A bind takes `polls` looks at the status.
    pub(crate) fn write(
        &mut self,
        model: &mut Model,
        (layout, version): (Layout, MmuVersion),
        (offset, value): (u32, u32),
        polls: u32,
    ) -> bool {
        let Some((which, word)) = Self::register(layout, offset) else { return false };
        let bar = self.bar_mut(which);
        match (layout, word) {
            (_, 2) => return true,
            (Layout::Bus, _) => {
                bar.low = value;
                let at = u64::from(value & 0xfff_ffff) << 12;
                bar.bind(model, version, value & BUS_MODE_VIRTUAL != 0, instance(value >> 28 & 3, at));
            }
            (Layout::Xal, 0) => {
                bar.low = value & !XAL_STATUS;
                return true;
            }
            (Layout::Xal, _) => {
                bar.high = value;
                let at = u64::from(value) << 32 | u64::from(bar.low & !0xfff);
                bar.bind(model, version, bar.low & XAL_MODE_VIRTUAL != 0, instance(bar.low >> 10 & 3, at));
            }
        }
        bar.polls = polls;
        true
    }

    fn bar_mut(&mut self, which: Which) -> &mut Bar {
        match which {
            Which::Bar1 => &mut self.bar1,
            Which::Bar2 => &mut self.bar2,
        }
    }
}

/// An address with a TARGET code of the block registers and instance blocks; 1 means none.
fn instance(target: u32, raw: u64) -> Option<TableAddr> {
    match target {
        0 => Some(TableAddr::vram(raw)),
        2 => Some(TableAddr::SysCoherent(SysAddr::new(raw))),
        3 => Some(TableAddr::SysNonCoherent(SysAddr::new(raw))),
        _ => None,
    }
}

impl Bar {
    /// PENDING and OUTSTANDING; looking lets a bind get on.
    fn poll(&mut self) -> u32 {
        if self.polls == 0 {
            return 0;
        }
        self.polls -= 1;
        3
    }

    fn bind(&mut self, model: &mut Model, version: MmuVersion, is_virtual: bool, at: Option<TableAddr>) {
        if let Bound::Virtual { pdb, .. } = self.bound {
            let root = model.roots.get_mut(&Space::of(pdb).flat(pdb.raw()));
            if let Some(root) = root {
                root.bars = root.bars.saturating_sub(1);
            }
        }
        self.bound = match at {
            _ if !is_virtual => Bound::Physical,
            Some(at) => read_instance(model, version, at),
            None => Bound::Nothing,
        };
        if let Bound::Virtual { pdb, instance } = self.bound {
            model.add_root(pdb);
            let flat = Space::of(pdb).flat(pdb.raw());
            model.use_space(Class::Hub, pdb, flat);
            if let Some(root) = model.roots.get_mut(&Space::of(pdb).flat(pdb.raw())) {
                root.bars = root.bars.saturating_add(1);
                root.instance = Some(instance);
            }
            if !pdb.is_vram() {
                model.judge_bar_table(pdb, None, pdb);
            }
        }
    }
}

/// The block is read when it is bound; what is written to it later means nothing before the next bind.
fn read_instance(model: &Model, version: MmuVersion, at: TableAddr) -> Bound {
    let word = model.memory.word(at.with_raw(at.raw().saturating_add(PAGE_DIR_BASE)));
    let Some(word) = word else { return Bound::Nothing };
    // Version 3 chips know no other format, so the bit that chooses one means nothing to them.
    let accepted = word & BIG_PAGE_64K != 0 && (version == MmuVersion::V3 || word & USE_VER2 != 0);
    let pdb = instance((word & 3) as u32, word & !0xfff);
    match pdb {
        Some(pdb) if accepted => Bound::Virtual { pdb, instance: at },
        _ => Bound::Nothing,
    }
}
