//! The invalidate registers: one invalidate at a time, which takes effect when it is done and not before.

use crate::fault::low;
use crate::format::PD4;
use crate::memory::Space;
use crate::model::Model;
use crate::order::Drained;
use crate::regs;
use crate::sanitizer::Rule;
use crate::tlb::Reach;
use gmmu::addr::{SysAddr, TableAddr};

/// ALL_VA, ALL_PDB, HUBTLB_ONLY and TRIGGER of `NV_VIRTUAL_FUNCTION_PRIV_MMU_INVALIDATE`.
const ALL_VA: u32 = 1;
const ALL_PDB: u32 = 1 << 1;
const HUBTLB_ONLY: u32 = 1 << 2;
/// SYS_MEMBAR, and ACK 8:7 that is GLOBALLY: all units have answered, and what they did has landed.
const MEMBAR_AND_ACK: u32 = 1 << 6 | 1 << 7;
const ACK: u32 = 1 << 6 | 3 << 7;
const TRIGGER: u32 = 1 << 31;
/// INVAL_SCOPE 16:15 (from GA100 on): 1 reaches only the TLBs of the link.
const SCOPE_SHIFT: u32 = 15;
const SCOPE_LINK: u32 = 1;
/// CACHE_LEVEL 26:24.
const LEVEL_SHIFT: u32 = 24;

/// The registers and what runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Invalidate {
    pdb: u32,
    upper: u32,
    command: u32,
    running: Option<Running>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    command: u32,
    pdb: TableAddr,
    polls: u32,
    triggered: u64,
    drained: Drained,
}

impl Invalidate {
    /// Reads a register. Reading the command is a poll, and enough of them finish what runs.
    pub(crate) fn read(&mut self, model: &mut Model, offset: u32, has_scope: bool) -> u32 {
        match offset {
            regs::INVALIDATE_PDB => self.pdb,
            regs::INVALIDATE_UPPER_PDB => self.upper,
            _ => {
                match &mut self.running {
                    Some(running) if running.polls > 0 => running.polls -= 1,
                    Some(running) => {
                        running.finish(model, has_scope);
                        self.running = None;
                    }
                    None => {}
                }
                self.command & !TRIGGER | u32::from(self.running.is_some()) << 31
            }
        }
    }

    /// Writes a register. Whether an invalidate was started.
    pub(crate) fn write(&mut self, model: &mut Model, offset: u32, value: u32, polls: u32) -> bool {
        match offset {
            regs::INVALIDATE_PDB => self.pdb = value & 0xffff_fff2,
            regs::INVALIDATE_UPPER_PDB => self.upper = value & 0xf_ffff,
            _ if self.running.is_some() => {
                if value & TRIGGER != 0 {
                    let what = "an invalidate was triggered while another one ran";
                    let finding = model.finding(Rule::InvalidateWhileRunning, what);
                    model.report.add(finding);
                }
            }
            _ => {
                self.command = value;
                if value & TRIGGER != 0 {
                    let pdb = self.named();
                    // Chance makes it shorter or longer.
                    let polls =
                        model.roll().map_or(polls, |roll| low(roll) % polls.saturating_mul(2).saturating_add(1));
                    if value & ALL_PDB == 0 {
                        model.see_root(pdb);
                    }
                    self.running =
                        Some(Running { command: value, pdb, polls, triggered: model.op, drained: model.drained });
                    return true;
                }
            }
        }
        false
    }

    /// What runs reaches the next possible root instead of the one that was named, and no other.
    pub(crate) const fn misdirect(&mut self) {
        if let Some(running) = &mut self.running {
            running.command &= !ALL_PDB;
            running.pdb = running.pdb.with_raw(running.pdb.raw() ^ 0x1000);
        }
    }

    /// ADDR 31:4 are bits 39:12 of the address, the upper register has the rest.
    fn named(&self) -> TableAddr {
        let raw = u64::from(self.upper) << 40 | u64::from(self.pdb >> 4) << 12;
        if self.pdb >> 1 & 1 == 0 {
            TableAddr::vram(raw)
        } else {
            TableAddr::SysCoherent(SysAddr::new(raw))
        }
    }
}

impl Running {
    fn finish(&self, model: &mut Model, has_scope: bool) {
        // No register of this space names an address, so without ALL_VA nothing is named.
        if self.command & ALL_VA == 0 || has_scope && self.command >> SCOPE_SHIFT & 3 == SCOPE_LINK {
            return;
        }
        let pdb = (self.command & ALL_PDB == 0).then(|| Space::of(self.pdb).flat(self.pdb.raw()));
        let hub_only = self.command & HUBTLB_ONLY != 0;
        let deepest = match (self.command >> LEVEL_SHIFT & 7) as u8 {
            0 => PD4,
            code => code.min(PD4),
        };
        let acknowledged = self.command & ACK == MEMBAR_AND_ACK;
        let reach = Reach { pdb, hub_only, deepest, acknowledged, drained: self.drained };
        model.invalidated(reach, self.triggered);
        if let Some(root) = pdb {
            model.forget_emptied(root);
        }
    }
}
