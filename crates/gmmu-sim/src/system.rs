//! The rules about system memory: what BARs may find there, and when the CPU's stores have to have arrived.

use crate::graph::Place;
use crate::memory::Space;
use crate::model::Model;
use crate::sanitizer::{Finding, Rule};
use gmmu::addr::TableAddr;

impl Model {
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
