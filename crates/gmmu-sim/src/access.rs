//! Accesses through the MMU: the walk through the caches, permissions, and the data behind it.

use crate::fault::FaultType;
use crate::format::{Directory, Dual, BIG, PD0};
use crate::memory::Space;
use crate::mmu::{directories, leaves, walk, Miss, Reached, Translated};
use crate::model::Model;
use crate::sanitizer::{Finding, Rule};
use crate::store::Origin;
use crate::tlb::{Class, Stale};
use gmmu::addr::{PhysAddr, TableAddr};

/// Words that one walk looks at, at most.
const STEPS: usize = 10;

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
        let pdb = pdb.with_raw(pdb.raw() & !0xfff);
        let flat = Space::of(pdb).flat(pdb.raw());
        let context = self.tlb.context(class, flat);
        if !self.roots.contains_key(&flat) {
            self.see_root(pdb);
        }
        if let Some(root) = self.roots.get_mut(&flat) {
            root.engine |= class == Class::Gpc;
        }
        let Self { memory, tlb, decoder, op, shortcut, epoch, .. } = self;
        let mut stale: [Option<Stale>; STEPS] = [None; STEPS];
        let mut steps = 0;
        let mut in_sys = None;
        let mut fetch = |level, at: TableAddr| {
            if class == Class::Hub && !at.is_vram() {
                in_sys = in_sys.or(Some(at));
            }
            let fetched = tlb.fetch(memory, decoder, context, level, at, *op)?;
            if fetched.stale.is_some() {
                stale[steps % STEPS] = fetched.stale;
                steps += 1;
            }
            Some(fetched.word)
        };
        let here = Shortcut { context, entry: va >> decoder.level(PD0).lo, epoch: *epoch, big: None, small: None };
        let reached = match shortcut {
            Some(known) if known.is_for(&here) => Ok(Reached::Tables { big: known.big, small: known.small }),
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
        if stale[0].is_some() {
            self.shortcut = None;
            self.judge_stale(pdb, va, &result, &stale);
        }
        result
    }

    /// Translates by what memory holds now; changes nothing.
    pub(crate) fn peek(&self, pdb: TableAddr, va: u64) -> Result<Translated, Miss> {
        walk(&self.decoder, pdb, va, |_, at| self.memory.word(at))
    }

    fn judge_stale(
        &mut self,
        pdb: TableAddr,
        va: u64,
        used: &Result<Translated, Miss>,
        stale: &[Option<Stale>; STEPS],
    ) {
        let same = match (used, &self.peek(pdb, va)) {
            (Ok(used), Ok(now)) => used == now,
            (Err(_), Err(_)) => true,
            _ => false,
        };
        let Some(Some(first)) = stale.iter().find(|stale| stale.is_some()) else { return };
        if same {
            return;
        }
        let (rule, what) = if self.was_leaf(first) {
            (Rule::StaleLeaf, "an access used a cached leaf entry that memory no longer holds")
        } else {
            (Rule::StaleDirectory, "an access went through a cached directory entry that memory no longer holds")
        };
        let finding = Finding {
            va: Some(va),
            entry: Some(first.at),
            raw: Some(first.now),
            cached: Some(first.cached),
            cached_op: Some(first.since),
            changed_op: Some(first.changed),
            ..self.finding(rule, what)
        };
        self.report.add(finding);
    }

    fn was_leaf(&self, stale: &Stale) -> bool {
        match stale.level {
            0..=BIG => true,
            PD0 if stale.at.is_aligned(16) => self.decoder.dual(stale.cached, 0).maps(),
            PD0 => matches!(self.decoder.dual(0, stale.cached), Dual::Leaf),
            level => matches!(self.decoder.directory(level, stale.cached), Directory::Leaf | Directory::Sparse),
        }
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
