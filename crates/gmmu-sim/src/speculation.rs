//! What the caches do by themselves: fetch what nobody asked for, and forget what nobody told them to.

use crate::config::Speculation;
use crate::format::PD0;
use crate::graph::{Place, Root};
use crate::memory::{slot_of, Space};
use crate::mmu::walk;
use crate::model::Model;
use crate::rng::mix;
use crate::tlb::Class;
use gmmu::addr::TableAddr;

impl Model {
    /// Clients of `class` use the space below the root `flat` from now on: their caches may fill.
    pub(crate) fn use_space(&mut self, class: Class, pdb: TableAddr, flat: u64) {
        let context = self.tlb.context(class, flat);
        let Some(root) = self.roots.get_mut(&flat) else { return };
        let known = &mut root.contexts[class as usize];
        if known.replace(context).is_none() && self.speculation == Speculation::Worst {
            let Some(cell) = self.memory.find(flat) else { return };
            self.watch_below(Place { cell, first: slot_of(pdb.raw()), level: self.decoder.top() }, context);
        }
    }

    /// A table became reachable from a root.
    pub(crate) fn watch_new(&mut self, place: Place, root: u64) {
        if self.speculation != Speculation::Worst {
            return;
        }
        let contexts = self.roots.get(&root).map_or([None; 2], |root| root.contexts);
        for context in contexts.into_iter().flatten() {
            self.watch(place, context);
        }
    }

    /// Whether that is new.
    fn watch(&mut self, place: Place, context: u32) -> bool {
        let words = place.first..place.first + self.decoder.table_words(place.level);
        let Self { memory, tlb, decoder, op, .. } = self;
        tlb.watch(memory, decoder, context, (place.cell, place.level, words), *op)
    }

    fn watch_below(&mut self, place: Place, context: u32) {
        if self.live(place).is_none() || !self.watch(place, context) || place.level < PD0 {
            return;
        }
        for slot in place.first..place.first + self.decoder.table_words(place.level) {
            let Some((table, level)) = self.target(place, slot) else { continue };
            let flat = Space::of(table).flat(table.raw());
            if let Some(cell) = self.memory.find(flat) {
                self.watch_below(Place { cell, first: slot_of(table.raw()), level }, context);
            }
        }
    }

    /// A root goes out of use. Whoever walked it stopped before the latest invalidate, so of its empty entries the caches
    /// hold none that was not changed since.
    pub(crate) fn let_go(&mut self, flat: u64, root: &Root) {
        let (Speculation::Worst, Some(number)) = (self.speculation, self.memory.find(flat)) else { return };
        let (level, first) = (self.decoder.top(), slot_of(flat));
        let Self { memory, tlb, decoder, .. } = self;
        for context in root.contexts.into_iter().flatten() {
            for slot in first..first + decoder.table_words(level) {
                let cell = memory.cell(number);
                let at = cell.at(slot);
                let mut records = cell.cached.iter().filter(|record| record.is_of(context, level));
                let held = records.find_map(|record| {
                    record
                        .held(slot, cell.word(slot))
                        .into_iter()
                        .flatten()
                        .find(|&word| decoder.is_used(level, slot, word))
                });
                if held.is_none() {
                    tlb.evict(memory, decoder, context, level, at);
                }
            }
        }
    }

    /// A number that the seed and the course of things decide; `None` where nothing is left to chance.
    pub(crate) fn roll(&mut self) -> Option<u64> {
        let Speculation::Random(seed) = self.speculation else { return None };
        self.rolls += 1;
        Some(mix(seed, self.rolls))
    }

    /// After an access: the caches fetch what lies near it, and drop a page when they are full.
    pub(crate) fn fill_by_chance(&mut self, class: Class, pdb: TableAddr, va: u64) {
        /// Pages of tables that a cache of one level has room for.
        const ROOM: usize = 32;
        let Some(roll) = self.roll() else { return };
        // What is dropped changes unnoticed.
        self.shortcut = None;
        let context = self.tlb.context(class, Space::of(pdb).flat(pdb.raw()));
        if roll % 4 == 0 {
            // Within the same table of a level that chance picks.
            let reach = [16, 21, 29, 38][(roll >> 8 & 3) as usize];
            let near = va ^ (roll >> 12 & ((1 << reach) - 1) & !0xfff);
            let Self { memory, tlb, decoder, op, .. } = self;
            let _ = walk(decoder, pdb, near, |level, at| {
                tlb.fetch(memory, decoder, context, level, at, *op).map(|fetched| fetched.word)
            });
        }
        let Self { memory, tlb, decoder, .. } = self;
        tlb.shrink(memory, decoder, context, ROOM >> (roll >> 60 & 3), roll >> 16);
    }

    /// Before a store: the caches of the spaces that a table belongs to may fetch the word that goes.
    pub(crate) fn fetch_by_chance(&mut self, number: u32, slot: u16) {
        if self.roll().is_none_or(|roll| roll % 8 != 0) {
            return;
        }
        let cell = self.memory.cell(number);
        let at = cell.at(slot);
        let holder = cell.tables.iter().find(|table| table.holds(&self.decoder, slot));
        let Some((level, root)) = holder.map(|table| (table.level, table.root)) else { return };
        let contexts = self.roots.get(&root).map_or([None; 2], |root| root.contexts);
        let Self { memory, tlb, decoder, op, .. } = self;
        for context in contexts.into_iter().flatten() {
            let _ = tlb.fetch(memory, decoder, context, level, at, *op);
        }
    }
}
