//! Accesses through the MMU: the walk through the caches, permissions, and the data behind it.

use crate::fault::FaultType;
use crate::format::{Directory, Dual, BIG, PD0};
use crate::memory::Space;
use crate::mmu::{walk, Miss, Translated};
use crate::model::Model;
use crate::sanitizer::{Finding, Rule};
use crate::store::Origin;
use crate::tlb::{Class, Stale};
use gmmu::addr::{PhysAddr, TableAddr};

/// Words that one walk looks at, at most.
const STEPS: usize = 10;

impl Model {
    /// Translates as an engine or a BAR does: with what the caches hold, which then hold what was read.
    pub(crate) fn translate(&mut self, class: Class, pdb: TableAddr, va: u64) -> Result<Translated, Miss> {
        let pdb = pdb.with_raw(pdb.raw() & !0xfff);
        let flat = Space::of(pdb).flat(pdb.raw());
        let (context, fresh) = self.tlb.context(class, flat);
        if fresh || !self.roots.contains_key(&flat) {
            self.add_root(pdb);
            if let Some(root) = self.roots.get_mut(&flat) {
                root.engine |= class == Class::Gpc;
            }
        }
        let Self { memory, tlb, decoder, op, .. } = self;
        let mut stale: [Option<Stale>; STEPS] = [None; STEPS];
        let mut places = stale.iter_mut();
        let result = walk(decoder, pdb, va, |level, at| {
            let fetched = tlb.fetch(memory, decoder, context, level, at, *op)?;
            if fetched.stale.is_some() {
                if let Some(place) = places.next() {
                    *place = fetched.stale;
                }
            }
            Some(fetched.word)
        });
        if stale[0].is_some() {
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
        let space = Space::of_page(to).ok_or(FaultType::UnsupportedAperture)?;
        let end = to.raw.checked_add(bytes as u64).ok_or(FaultType::Region)?;
        if end > self.memory.end(space) {
            return Err(FaultType::Region);
        }
        Ok(space)
    }
}
