//! The rules about the two tables of one dual entry: what a 64K entry hides, and what comes to light when it goes.

use crate::format::{Dual, Pte, BIG, PD0, SMALL};
use crate::graph::Place;
use crate::memory::{slot_of, Space};
use crate::model::Model;
use crate::sanitizer::{Finding, Rule};
use gmmu::addr::TableAddr;

/// 4K entries in one chunk of 64 KiB.
const CHUNK: u16 = 16;

impl Model {
    /// A dual entry changed. Where the 64K table came or went, its entries hide, or no longer hide, those of the 4K table
    /// that stays.
    pub(crate) fn dual_halves(&mut self, place: Place, slot: u16, before: Dual, after: Dual) {
        match (before, after) {
            (Dual::Tables { big: was, small: Some(small) }, Dual::Tables { big: is, small: still })
                if still == Some(small) =>
            {
                let (was, is) = (self.closed(was), self.closed(is));
                self.hide(small, is & !was);
                self.uncover(place, slot | 1, small, was & !is);
            }
            (Dual::Leaf, Dual::Tables { small: Some(_), .. }) if slot % 2 == 0 => {
                let cell = self.memory.cell(place.cell);
                let finding = Finding {
                    va: self.va_of(place.cell, place.first, PD0, slot),
                    entry: Some(cell.at(slot | 1)),
                    raw: Some(cell.word(slot | 1)),
                    ..self.finding(
                        Rule::HalfCleared,
                        "the low word of a large leaf was cleared, and the high word leads to a table",
                    )
                };
                self.report.add(finding);
            }
            _ => {}
        }
    }

    /// 64K entry `index` of a live table changed from `was` to `is`; `small` is the 4K table beside it.
    pub(crate) fn slot_halves(&mut self, place: Place, index: u16, [was, is]: [Pte; 2], small: Option<TableAddr>) {
        let Some(small) = small else { return };
        let chunk = 1 << (index & 31);
        match (was, is) {
            (Pte::Absent, Pte::Absent) => {}
            (Pte::Absent, _) => self.hide(small, chunk),
            (_, Pte::Absent) => self.uncover(place, place.first + index, small, chunk),
            _ => {}
        }
    }

    /// Chunks for which a 64K table does not lead on to the 4K table.
    fn closed(&self, big: Option<TableAddr>) -> u32 {
        let entries = (0..32).map(|index| self.entry(big, BIG, index) != Pte::Absent);
        entries.zip(0..).fold(0, |closed, (is, chunk)| closed | u32::from(is) << chunk)
    }

    /// The valid 4K entries of chunks that are hidden from now on count as stale until they are written.
    fn hide(&mut self, small: TableAddr, chunks: u32) {
        self.each_small(small, chunks, |model, cell, slot| {
            if model.decoder.pte(SMALL, model.memory.cell(cell).word(slot)).maps() {
                model.memory.cell_mut(cell).hide(slot);
            }
        });
    }

    fn uncover(&mut self, place: Place, slot: u16, small: TableAddr, chunks: u32) {
        let mut found = None;
        self.each_small(small, chunks, |model, cell, slot| {
            if found.is_none() && model.memory.cell(cell).is_hidden(slot) {
                found = Some((cell, slot));
            }
        });
        let Some((cell, stale)) = found else { return };
        let cell = self.memory.cell(cell);
        let finding = Finding {
            va: self.va_of(place.cell, place.first, place.level, slot),
            entry: Some(cell.at(stale)),
            raw: Some(cell.word(stale)),
            ..self.finding(
                Rule::StaleSmallUncovered,
                "a 64K entry that became 0 uncovers this 4K entry, which was last written before it was hidden",
            )
        };
        self.report.add(finding);
    }

    fn each_small(&mut self, small: TableAddr, chunks: u32, mut each: impl FnMut(&mut Self, u32, u16)) {
        if chunks == 0 {
            return;
        }
        let Some(cell) = self.memory.find(Space::of(small).flat(small.raw())) else { return };
        let first = slot_of(small.raw());
        for index in (0..32 * CHUNK).filter(|index| chunks >> (index / CHUNK) & 1 != 0) {
            each(self, cell, first + index);
        }
    }

    /// An access was served by a 64K entry: there should be no valid 4K entry below.
    pub(crate) fn judge_both(&mut self, va: u64, big: TableAddr, small: TableAddr) {
        let index = |level| (self.decoder.index(level, va) & 0x1ff) as u16;
        let (chunk, at) = (index(BIG), index(SMALL));
        let from = at - at % CHUNK;
        let below = (from..from + CHUNK).find(|&at| self.entry(Some(small), SMALL, at).maps());
        let Some(below) = below.filter(|_| self.entry(Some(big), BIG, chunk) == Pte::Leaf) else { return };
        let entry = small.with_raw(small.raw() + 8 * u64::from(below));
        let finding = Finding {
            va: Some(va),
            entry: Some(entry),
            raw: self.memory.word(entry),
            ..self.finding(Rule::BothHalvesValid, "a 64K entry was used, and this 4K entry below it is valid too")
        };
        self.report.add(finding);
    }
}
