//! What is around the MMU, as far as a whole driver wants to see it: registers without rules, the time, and who is there.

use crate::bars::{Bound, Which};
use crate::gpu::Gpu;
use crate::memory::Space;
use gmmu::addr::TableAddr;

impl Gpu {
    /// Gives registers their values, each at its 4-byte aligned offset in BAR0. From then on all registers that the
    /// model has no rules for are plain memory: they read what was given or written last, and 0 before. Without this
    /// they read 0, and writes to them are lost. What the model has rules for keeps them.
    pub fn furnish(&mut self, registers: impl IntoIterator<Item = (u32, u32)>) {
        self.plain.get_or_insert_default().extend(registers);
    }

    /// Lets the card's time pass until it is `ns` nanoseconds, unless it is later than that already: for whoever lets a
    /// driver wait in real time. `NV_PTIMER_TIME` shows it.
    pub fn pass_until(&mut self, ns: u64) {
        self.time_ns = self.time_ns.max(ns);
    }

    /// The top tables that are known to be in use, video memory first, by address.
    pub fn roots(&self) -> impl Iterator<Item = TableAddr> + '_ {
        self.model.roots.keys().map(|&flat| Space::unflat(flat))
    }

    /// The instance blocks that are known to name them: those of the BARs, and what [`note_instance`](Self::note_instance) was
    /// told last of each root.
    pub fn instances(&self) -> impl Iterator<Item = TableAddr> + '_ {
        self.model.roots.values().filter_map(|root| root.instance)
    }

    /// The top tables that BAR1 and BAR2 go through, where they are bound to any.
    #[must_use]
    pub fn bar_roots(&self) -> [Option<TableAddr>; 2] {
        [Which::Bar1, Which::Bar2].map(|which| match self.bars.bound(which) {
            Bound::Virtual { pdb, .. } => Some(pdb),
            Bound::Physical | Bound::Nothing => None,
        })
    }

    /// How many accesses have faulted so far.
    #[must_use]
    pub const fn faults(&self) -> u64 {
        self.faults
    }

    pub(crate) fn plain_word(&self, offset: u32) -> u32 {
        self.plain.as_ref().and_then(|plain| plain.get(&offset).copied()).unwrap_or(0)
    }

    pub(crate) fn set_plain_word(&mut self, offset: u32, value: u32) {
        if let Some(plain) = &mut self.plain {
            plain.insert(offset, value);
        }
    }
}
