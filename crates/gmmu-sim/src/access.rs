//! Accesses through the MMU: the walk through the caches, permissions, and the data behind it.

use crate::fault::FaultType;
use crate::format::PD0;
use crate::memory::{Space, PAGE};
use crate::mmu::{directories, leaves, walk, Miss, Reached, Translated};
use crate::model::Model;
use crate::store::Origin;
use crate::tlb::{Class, Stale};
use gmmu::addr::{PhysAddr, TableAddr};

/// The way through the directories that the latest translation took: another look at the same words, all of them
/// cached by now, would find the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortcut {
    context: u32,
    /// Virtual address in units of a PD0 entry.
    entry: u64,
    /// Count of events after which a cached word may be another, or no longer cached.
    epoch: u64,
    big: Option<TableAddr>,
    small: Option<TableAddr>,
}

impl Shortcut {
    const fn is_for(&self, here: &Self) -> bool {
        self.entry == here.entry && self.context == here.context && self.epoch == here.epoch
    }
}

impl Model {
    /// Translates as an engine or a BAR does: with what the caches hold, which then hold what was read.
    pub(crate) fn translate(&mut self, class: Class, pdb: TableAddr, va: u64) -> Result<Translated, Miss> {
        self.judge_alignment(pdb, PAGE);
        let pdb = pdb.with_raw(pdb.raw() & !0xfff);
        let flat = Space::of(pdb).flat(pdb.raw());
        let context = self.tlb.context(class, flat);
        if !self.roots.contains_key(&flat) {
            self.see_root(pdb);
        }
        if let Some(root) = self.roots.get_mut(&flat) {
            root.engine |= class == Class::Gpc;
        }
        self.use_space(class, pdb, flat);
        // Chance picks the level whose words the caches have lost.
        let lost = self.roll().filter(|roll| roll % 4 == 0).map(|roll| (roll >> 8 & 3) as u8);
        let Self { memory, tlb, decoder, op, shortcut, epoch, .. } = self;
        let mut stale: Option<Stale> = None;
        let mut in_sys = None;
        let mut fetch = |level, at: TableAddr| {
            if class == Class::Hub && !at.is_vram() {
                in_sys = in_sys.or(Some(at));
            }
            if lost == Some(level) {
                tlb.evict(memory, decoder, context, level, at);
            }
            let fetched = tlb.fetch(memory, decoder, context, level, at, *op)?;
            stale = stale.or(fetched.stale);
            Some(fetched.word)
        };
        let here = Shortcut { context, entry: va >> decoder.level(PD0).lo, epoch: *epoch, big: None, small: None };
        let reached = match shortcut {
            Some(known) if known.is_for(&here) && lost.is_none() => {
                Ok(Reached::Tables { big: known.big, small: known.small })
            }
            _ => directories(decoder, pdb, va, &mut fetch),
        };
        let result = match reached {
            Ok(Reached::Page(found)) => Ok(found),
            Ok(Reached::Tables { big, small }) => {
                *shortcut = Some(Shortcut { big, small, ..here });
                leaves(decoder, va, big, small, fetch)
            }
            Err(miss) => Err(miss),
        };
        if let Some(at) = in_sys {
            self.judge_bar_table(pdb, Some(va), at);
        }
        if let Some(first) = &stale {
            self.shortcut = None;
            self.judge_stale(context, (pdb, va), &result, first);
        }
        self.fill_by_chance(class, pdb, va);
        match (reached, &result) {
            (Ok(Reached::Tables { big: Some(big), small: Some(small) }), Ok(found)) if found.page_bytes == 0x1_0000 => {
                self.judge_both(va, big, small);
            }
            _ => {}
        }
        result
    }

    /// Translates by what memory holds now; changes nothing.
    pub(crate) fn peek(&self, pdb: TableAddr, va: u64) -> Result<Translated, Miss> {
        walk(&self.decoder, pdb, va, |_, at| self.memory.word(at))
    }

    /// Reads what `to` points at.
    pub(crate) fn load_data(&self, to: PhysAddr, bytes: &mut [u8]) -> Result<(), FaultType> {
        let space = self.data_space(to, bytes.len())?;
        self.memory.read(space, to.raw, bytes);
        Ok(())
    }

    /// Writes what `to` points at.
    pub(crate) fn store_data(&mut self, origin: Origin, to: PhysAddr, bytes: &[u8]) -> Result<(), FaultType> {
        let space = self.data_space(to, bytes.len())?;
        self.store_bytes(origin, space, to.raw, bytes);
        Ok(())
    }

    fn data_space(&self, to: PhysAddr, bytes: usize) -> Result<Space, FaultType> {
        let space = Space::of_page(to);
        // A peer without memory is one without a link.
        if matches!(space, Space::Peer(_)) && self.memory.end(space) == 0 {
            return Err(FaultType::UnsupportedAperture);
        }
        let end = to.raw.checked_add(bytes as u64).ok_or(FaultType::Region)?;
        if end > self.memory.end(space) {
            return Err(FaultType::Region);
        }
        Ok(space)
    }
}
