//! The rules about system memory: what the GPU's L2 may keep of it, what BARs may find there, and when the CPU's stores
//! have to have arrived.

use crate::format::{Directory, Pte, BIG, PD0, SMALL};
use crate::graph::Place;
use crate::memory::Space;
use crate::model::Model;
use crate::sanitizer::{Finding, Rule};
use gmmu::addr::{Aperture, TableAddr};

impl Model {
    /// Judges words of a live table that are new, or newly seen. The first that breaks a rule is reported for all.
    pub(crate) fn judge_caching(&mut self, place: Place, mut slots: impl Iterator<Item = u16>) {
        let found = slots.find_map(|slot| Some((slot, self.caching(place, slot)?)));
        let Some((slot, rule)) = found else { return };
        let cell = self.memory.cell(place.cell);
        let what = match rule {
            Rule::CachedSysTable => "an entry that is not volatile points to a table in system memory: L2 may keep it",
            _ => "an entry that is not volatile maps non-coherent system memory: L2 may keep it",
        };
        let finding = Finding {
            va: self.va_of(place.cell, place.first, place.level, slot),
            entry: Some(cell.at(slot)),
            raw: Some(cell.word(slot)),
            ..self.finding(rule, what)
        };
        self.report.add(finding);
    }

    /// The rule that one word of a live table breaks.
    fn caching(&self, place: Place, slot: u16) -> Option<Rule> {
        let word = self.memory.cell(place.cell).word(slot);
        if !self.decoder.keeps_sys(word) {
            return None;
        }
        if place.level >= PD0 {
            if let Some((table, _)) = self.target(place, slot) {
                return (!table.is_vram()).then_some(Rule::CachedSysTable);
            }
        }
        let is_leaf = match place.level {
            SMALL | BIG => self.decoder.pte(place.level, word) == Pte::Leaf,
            PD0 => slot % 2 == 0 && self.decoder.dual(word, 0).is_leaf(),
            level => self.decoder.directory(level, word) == Directory::Leaf,
        };
        let non_coherent = self.decoder.mapping(word).to.aperture == Aperture::SysNonCoherent;
        (is_leaf && non_coherent).then_some(Rule::CachedNonCoherentPage)
    }

    /// A table became reachable: what was first written to it lies behind an ordering point.
    pub(crate) fn judge_ordered(&mut self, place: Place) {
        let cell = self.memory.cell(place.cell);
        let words = self.decoder.table_words(place.level);
        let unordered = cell.first_unordered(self.fence, 2 * u32::from(place.first), 2 * u32::from(words));
        let Some(slot) = unordered.and_then(|unit| u16::try_from(unit / 2).ok()) else { return };
        let what = "a table became reachable with no ordering point since its entries were first written";
        let finding = Finding {
            va: self.va_of(place.cell, place.first, place.level, slot),
            entry: Some(cell.at(slot)),
            raw: Some(cell.word(slot)),
            ..self.finding(Rule::PublishedUnordered, what)
        };
        self.report.add(finding);
    }

    /// A BAR found its root, or an entry on the way to `va`, at `at` in system memory.
    pub(crate) fn judge_bar_table(&mut self, pdb: TableAddr, va: Option<u64>, at: TableAddr) {
        let Some(root) = self.roots.get_mut(&Space::of(pdb).flat(pdb.raw())) else { return };
        if std::mem::replace(&mut root.bar_told, true) {
            return;
        }
        let what = "a BAR's address space has a table in system memory";
        let finding =
            Finding { va, entry: Some(at), raw: self.memory.word(at), ..self.finding(Rule::BarTableInSysMem, what) };
        self.report.add(finding);
    }

    /// An invalidate was triggered: what the CPU stored to system memory has to be there.
    pub(crate) fn judge_drained(&mut self) {
        if std::mem::take(&mut self.undrained) {
            let what = "an invalidate was triggered before the CPU's stores to system memory were waited for";
            let finding = self.finding(Rule::UndrainedStores, what);
            self.report.add(finding);
        }
    }
}
