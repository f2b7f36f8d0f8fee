//! The one way in which memory changes: saves what caches hold, remembers what was initialised, and tells the graph of
//! tables. A page that nobody looks at is stored to as fast as memory goes.

use crate::format::PD0;
use crate::memory::{slot_of, Space};
use crate::model::Model;
use crate::order::{Path, When};
use crate::sanitizer::{Finding, Rule};
use gmmu::device::Run;

/// A word of a live table of which a part was stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Torn {
    cell: u32,
    slot: u16,
    /// In which half that part lies.
    low: bool,
    before: u64,
    /// With that part.
    between: u64,
}

impl Torn {
    /// So many are remembered.
    const MAX: usize = 16;
}

/// Who stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Somebody who may write tables, on one of the ways there. The CPU's stores to tables in system memory may arrive
    /// in any order between its ordering points.
    Tables(Path),
    /// Somebody who writes data through the MMU: an engine, or the CPU through BAR1.
    Data,
}

impl Origin {
    /// The way that the stores take.
    const fn path(self) -> Path {
        match self {
            Self::Tables(path) => path,
            Self::Data => Path::Settled,
        }
    }
}

/// Words to store.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    Run(Run),
    Words(&'a [u64]),
}

impl Source<'_> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Run(run) => run.count as usize,
            Self::Words(words) => words.len(),
        }
    }

    pub(crate) fn get(&self, at: usize) -> u64 {
        match self {
            Self::Run(run) => run.first.wrapping_add(run.step.wrapping_mul(at as u64)),
            Self::Words(words) => words.get(at).copied().unwrap_or(0),
        }
    }
}

impl Model {
    /// Stores words from the 8-byte aligned address `raw` upwards. What lies outside the memory is dropped.
    pub(crate) fn store_words(&mut self, origin: Origin, space: Space, raw: u64, source: Source<'_>) {
        let (mut at, mut done) = (raw, 0);
        while done < source.len() && self.memory.holds(space, at) {
            let slot = slot_of(at);
            let count = u16::try_from(source.len() - done).unwrap_or(u16::MAX).min(512 - slot);
            let number = self.memory.make(space.flat(at));
            self.store_in_page(origin, number, slot, count, |word| source.get(done + usize::from(word)));
            done += usize::from(count);
            at = at.saturating_add(8 * u64::from(count));
        }
    }

    fn store_in_page(&mut self, origin: Origin, number: u32, first: u16, count: u16, word_at: impl Fn(u16) -> u64) {
        let cell = self.memory.cell_mut(number);
        if origin == Origin::Tables(Path::Cpu) {
            cell.unordered(self.fence, 2 * u32::from(first), 2 * u32::from(count));
        }
        cell.written(2 * u32::from(first), 2 * u32::from(count));
        if cell.cached.is_empty() && cell.tables.is_empty() {
            let words = cell.words_mut().iter_mut().skip(usize::from(first));
            for (word, at) in words.zip(0..count) {
                *word = word_at(at);
            }
            return;
        }
        self.judge_data(origin, number, first, count);
        let has_directory = self.memory.cell(number).tables.iter().any(|table| table.level >= PD0);
        let mut changes = std::mem::take(&mut self.changes);
        for at in 0..count {
            let Some(old) = self.exchange(origin, number, first + at, word_at(at)) else { continue };
            changes.push((first + at, old));
            // Words of a directory take effect one by one, those of leaf tables are judged together.
            if has_directory {
                self.words_changed(number, &changes);
                changes.clear();
            }
        }
        self.words_changed(number, &changes);
        changes.clear();
        self.changes = changes;
    }

    /// Puts `word` in its place; the old one where it was another.
    fn exchange(&mut self, origin: Origin, number: u32, slot: u16, word: u64) -> Option<u64> {
        self.fetch_by_chance(number, slot);
        let cell = self.memory.cell_mut(number);
        let old = cell.word(slot);
        if old == word {
            return None;
        }
        if !cell.cached.is_empty() {
            self.epoch += 1;
            let when = When::new(self.op, origin.path());
            self.tlb.changed(cell, number, &self.decoder, (slot, old, word), when);
        }
        if let Some(place) = cell.words_mut().get_mut(usize::from(slot)) {
            *place = word;
        }
        Some(old)
    }

    /// Stores bytes at any address. What lies outside the memory is dropped.
    pub(crate) fn store_bytes(&mut self, origin: Origin, space: Space, raw: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (raw, bytes);
        while !rest.is_empty() && self.memory.holds(space, at) {
            let in_word = usize::try_from(8 - at % 8).map_or(8, |room| room.min(rest.len()));
            let (here, after) = rest.split_at(in_word);
            self.store_part(origin, space, at, here);
            rest = after;
            at = at.saturating_add(in_word as u64);
        }
    }

    /// Stores up to eight bytes within one word.
    fn store_part(&mut self, origin: Origin, space: Space, at: u64, bytes: &[u8]) {
        let number = self.memory.make(space.flat(at));
        let slot = slot_of(at);
        let shift = 8 * (at % 8);
        let (mut word, mut mask) = (0, 0);
        for (byte, at) in bytes.iter().zip((shift..64).step_by(8)) {
            word |= u64::from(*byte) << at;
            mask |= 0xff << at;
        }
        let cell = self.memory.cell_mut(number);
        let before = cell.word(slot);
        let merged = before & !mask | word;
        let (low, high) = (mask & 0xffff_ffff != 0, mask >> 32 != 0);
        cell.written(2 * u32::from(slot) + u32::from(!low), u32::from(low) + u32::from(high));
        self.judge_data(origin, number, slot, 1);
        if mask != u64::MAX && !self.memory.cell(number).tables.is_empty() {
            self.judge_torn(number, slot, low, [before, merged]);
        }
        if let Some(old) = self.exchange(origin, number, slot, merged) {
            if !self.memory.cell(number).tables.is_empty() {
                self.words_changed(number, &[(slot, old)]);
            }
        }
    }

    /// A part of a word of a live table is stored. What the word is between the stores of its two halves is nobody's
    /// entry: no cache may have seen it where it was used.
    fn judge_torn(&mut self, number: u32, slot: u16, low: bool, [before, after]: [u64; 2]) {
        let known = self.torn.iter().position(|torn| (torn.cell, torn.slot) == (number, slot));
        let first = known.map(|at| self.torn.remove(at)).filter(|torn| torn.low != low && torn.between == before);
        let Some(torn) = first else {
            self.torn.truncate(Torn::MAX - 1);
            self.torn.insert(0, Torn { cell: number, slot, low, before, between: after });
            return;
        };
        let cell = self.memory.cell(number);
        let seen = |level| {
            let mut records = cell.cached.iter().filter(|record| record.level() == level);
            records.any(|record| record.held(slot, before).contains(&Some(before)))
        };
        let table = cell.tables.iter().find(|table| {
            table.holds(&self.decoder, slot) && self.decoder.is_used(table.level, slot, before) && seen(table.level)
        });
        let Some(table) = table.filter(|_| before != after && after != torn.before && before != torn.before) else {
            return;
        };
        let finding = Finding {
            va: self.va_of(number, table.first, table.level, slot),
            entry: Some(cell.at(slot)),
            raw: Some(after),
            cached: Some(before),
            ..self.finding(Rule::TornEntry, "the MMU read an entry between the stores of its two halves")
        };
        self.report.add(finding);
    }

    fn judge_data(&mut self, origin: Origin, number: u32, first: u16, count: u16) {
        if origin != Origin::Data {
            return;
        }
        let cell = self.memory.cell(number);
        let range = first..first.saturating_add(count);
        let hit = cell
            .tables
            .iter()
            .find(|table| table.first < range.end && range.start < table.first + self.decoder.table_words(table.level));
        let Some(hit) = hit else { return };
        let (table, level) = (hit.first, hit.level);
        let finding = Finding {
            va: self.va_of(number, table, level, table),
            entry: Some(self.memory.cell(number).at(first)),
            ..self.finding(Rule::TableWrittenAsData, "a table that can be reached was written as data, through the MMU")
        };
        self.report.add(finding);
    }
}
