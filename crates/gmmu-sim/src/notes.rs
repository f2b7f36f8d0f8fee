//! What a driver under test tells the model besides its accesses: which memory it takes for tables and gives back, and
//! where its roots are.

use crate::memory::{slot_of, Space, PAGE};
use crate::model::Model;
use crate::rng::mix;
use crate::sanitizer::{Finding, Rule};
use gmmu::addr::TableAddr;

/// Top 16 bits of what fresh table memory holds. Odd words, so that they look valid.
const GARBAGE: u64 = 0x7ab1 << 48;

impl Model {
    /// Memory is taken for a table: its contents are garbage from now on.
    pub(crate) fn taken(&mut self, at: TableAddr, bytes: u64, seed: u64) {
        self.judge_alignment(at, bytes);
        let in_use = self.judge_table(at, bytes, "memory was taken for a table while an older table in it is in use");
        self.each_page(at, bytes, |model, cell, first, count| {
            let page = model.memory.cell_mut(cell);
            page.freed = None;
            if in_use {
                return;
            }
            page.taken(2 * u32::from(first), 2 * u32::from(count));
            let flat = page.frame << 12;
            for slot in first..first + count {
                let word = mix(seed, flat + 8 * u64::from(slot)) >> 16 | GARBAGE | 1;
                if let Some(place) = page.words_mut().get_mut(usize::from(slot)) {
                    *place = word;
                }
            }
        });
    }

    /// A table's memory is given back.
    pub(crate) fn freed(&mut self, at: TableAddr, bytes: u64) {
        let op = self.op;
        let space = Space::of(at);
        let flat = space.flat(at.raw());
        // A root that no BAR is bound to goes with its memory.
        let roots: Vec<u64> = self.roots.range(flat..flat.saturating_add(bytes)).map(|(&root, _)| root).collect();
        for root in roots {
            if self.roots.get(&root).is_some_and(|root| root.bars == 0) {
                self.drop_root(root);
            } else {
                let what = "a top table was given back while a BAR is bound to it";
                let finding = Finding { entry: Some(at), ..self.finding(Rule::RootFreedBound, what) };
                self.report.add(finding);
            }
        }
        self.judge_table(at, bytes, "a table was given back while it is in use");
        self.each_page(at, bytes, |model, cell, first, count| {
            let page = model.memory.cell_mut(cell);
            page.freed = Some(op);
            page.written(2 * u32::from(first), 2 * u32::from(count));
        });
    }

    /// Whether anything can still reach the memory; that is a finding.
    fn judge_table(&mut self, at: TableAddr, bytes: u64, what: &'static str) -> bool {
        let space = Space::of(at);
        let flat = space.flat(at.raw());
        let mut culprit = None;
        self.each_page(at, bytes, |model, cell, first, count| {
            let page = model.memory.cell(cell);
            let end = first + count;
            let live = page
                .tables
                .iter()
                .find(|table| table.first < end && first < table.first + model.decoder.table_words(table.level));
            let held = page.cached.iter().any(|record| record.holds_any(first, count));
            if culprit.is_none() && (live.is_some() || held) {
                let va = live.and_then(|table| model.va_of(cell, table.first, table.level, table.first));
                culprit = Some((page.at(first), va));
            }
        });
        if culprit.is_none() && self.tlb.points_into(flat, bytes) {
            culprit = Some((at, None));
        }
        let Some((entry, va)) = culprit else { return false };
        let finding = Finding { entry: Some(entry), va, ..self.finding(Rule::TableFreedReachable, what) };
        self.report.add(finding);
        true
    }

    /// Calls `each` with (page, first word, number of words) for the pages of a range of whole words.
    fn each_page(&mut self, at: TableAddr, bytes: u64, mut each: impl FnMut(&mut Self, u32, u16, u16)) {
        let space = Space::of(at);
        // Nobody takes a mebibyte for a table; a hostile length must not take for ever.
        let end = at.raw().saturating_add(bytes.min(1 << 20)).min(self.memory.end(space));
        let mut from = at.raw();
        while from < end {
            let to = (from | (PAGE - 1)).saturating_add(1).min(end);
            let cell = self.memory.make(space.flat(from));
            let count = ((to - from).div_ceil(8) & 0x3ff) as u16;
            let first = slot_of(from);
            each(self, cell, first, count.min(512 - first));
            from = to;
        }
    }
}
