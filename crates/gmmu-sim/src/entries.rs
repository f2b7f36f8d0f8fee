//! The rules that one entry can break by itself, and what an entry is.

use crate::format::{Decoder, Directory, Field, Pte, BIG, PD0, SMALL};
use crate::graph::Place;
use crate::memory::Space;
use crate::model::Model;
use crate::sanitizer::{Finding, Rule};
use gmmu::addr::{Aperture, TableAddr};

/// `NV_MMU_PTE_KIND_*` that are compressible, Turing and later.
const COMPRESSIBLE: std::ops::RangeInclusive<u8> = 8..=0xe;

impl Decoder {
    /// Whether a word is a leaf at its level, as far as the word alone says.
    fn is_leaf(&self, level: u8, slot: u16, word: u64) -> bool {
        match level {
            SMALL | BIG => self.pte(level, word) == Pte::Leaf,
            PD0 => slot % 2 == 0 && self.dual(word, 0).is_leaf(),
            level => self.directory(level, word) == Directory::Leaf,
        }
    }

    /// Whether the hardware follows or uses a word.
    pub(crate) fn is_used(&self, level: u8, slot: u16, word: u64) -> bool {
        self.is_leaf(level, slot, word) || self.target(level, slot, word).is_some()
    }

    /// Whether something that `old` allowed is gone with `now`: a table, a page, or a right to it.
    pub(crate) fn tightens(&self, level: u8, slot: u16, old: u64, now: u64) -> bool {
        if let Some(table) = self.target(level, slot, old) {
            return self.target(level, slot, now) != Some(table);
        }
        if !self.is_leaf(level, slot, old) {
            return false;
        }
        let (was, is) = (self.mapping(old), self.mapping(now));
        let lost = |had: bool, has: bool| !had && has;
        !self.is_leaf(level, slot, now)
            || was.to != is.to
            || lost(was.flags.read_only, is.flags.read_only)
            || lost(was.flags.privileged, is.flags.privileged)
            || lost(was.flags.no_atomic, is.flags.no_atomic)
    }

    /// The bits of a used word that its format defines.
    fn defined(&self, level: u8, slot: u16, word: u64) -> u64 {
        let mask = |field: &Option<Field>| field.as_ref().map_or(0, Field::mask);
        let address = |vram: &Field, sys: &Field, in_sys: bool| if in_sys { sys.mask() } else { vram.mask() };
        let tables = self.tables;
        if !self.is_leaf(level, slot, word) {
            let pointer = match (level, slot % 2) {
                (PD0, 0) => &tables.big_half,
                (PD0, _) => &tables.small_half,
                _ => &tables.directory,
            };
            let in_sys = pointer.aperture.get(word) >= 2;
            let address = address(&pointer.address.vram, &pointer.address.sys, in_sys);
            return pointer.aperture.mask() | pointer.vol.mask() | mask(&pointer.more) | address;
        }
        let leaf = &tables.leaf;
        let aperture = leaf.aperture.get(word);
        let peer = if aperture == 1 { leaf.peer.mask() } else { 0 };
        let comptag = if aperture < 2 { leaf.peer_high.as_ref().map_or(0, |(field, _)| field.mask()) } else { 0 };
        let flags = [leaf.vol, leaf.privilege, leaf.read_only, leaf.no_atomic, leaf.kind, leaf.aperture, tables.valid];
        let flags = flags.iter().fold(mask(&leaf.encrypted) | mask(&leaf.acd), |all, field| all | field.mask());
        flags | peer | comptag | address(&leaf.address.vram, &leaf.address.sys, aperture >= 2)
    }
}

impl Model {
    /// Judges words of a live table that are new, or newly seen. The first that breaks a rule is reported for all.
    pub(crate) fn judge_entries(&mut self, place: Place, mut slots: impl Iterator<Item = u16>) {
        let found = slots.find_map(|slot| Some((slot, self.wrong_entry(place, slot)?)));
        let Some((slot, (rule, what))) = found else { return };
        let cell = self.memory.cell(place.cell);
        let finding = Finding {
            va: self.va_of(place.cell, place.first, place.level, slot),
            entry: Some(cell.at(slot)),
            raw: Some(cell.word(slot)),
            ..self.finding(rule, what)
        };
        self.report.add(finding);
    }

    /// The rule that one word of a live table breaks.
    fn wrong_entry(&self, place: Place, slot: u16) -> Option<(Rule, &'static str)> {
        let cell = self.memory.cell(place.cell);
        let (level, word) = (place.level, cell.word(slot));
        if word == 0 {
            return None;
        }
        let decoder = &self.decoder;
        let reserved = |used| word & !decoder.defined(level, slot, used) != 0;
        let pointed = if level >= PD0 { self.target(place, slot) } else { None };
        if let Some((table, below)) = pointed {
            return match table {
                _ if reserved(word) => Some((Rule::ReservedBits, "a pointer to a table has undefined bits set")),
                table if self.is_beyond(table, 8 * u64::from(decoder.table_words(below))) => {
                    Some((Rule::BeyondMemory, "an entry points to a table beyond the memory"))
                }
                table if !table.is_vram() && decoder.keeps_sys(word) => Some((
                    Rule::CachedSysTable,
                    "an entry that is not volatile points to a table in system memory: L2 may keep it",
                )),
                _ => None,
            };
        }
        let hidden = level == PD0 && slot % 2 == 1;
        if !decoder.is_leaf(level, slot, word) || hidden {
            let bad = level > PD0 && decoder.directory(level, word) == Directory::Bad;
            return bad.then_some((Rule::ReservedBits, "an entry is a leaf at a level where the chip has none"));
        }
        let (mapping, bytes) = (decoder.mapping(word), 1u64 << decoder.level(level).lo);
        let end = mapping.to.raw.checked_add(bytes);
        let is_peer = matches!(mapping.to.aperture, Aperture::Peer(_));
        match mapping.to.aperture {
            _ if reserved(word) => Some((Rule::ReservedBits, "a leaf has undefined bits set")),
            _ if !is_peer && end.is_none_or(|end| end > self.memory.end(Space::of_page(mapping.to))) => {
                Some((Rule::BeyondMemory, "a leaf maps what lies beyond the memory"))
            }
            _ if mapping.to.raw % bytes != 0 => {
                Some((Rule::MisalignedPage, "a leaf names an address that is not a multiple of its page size"))
            }
            _ if level == SMALL && COMPRESSIBLE.contains(&mapping.kind) => {
                Some((Rule::CompressibleSmall, "a 4K entry has a compressible kind"))
            }
            Aperture::SysNonCoherent if decoder.keeps_sys(word) => Some((
                Rule::CachedNonCoherentPage,
                "an entry that is not volatile maps non-coherent system memory: L2 may keep it",
            )),
            _ => None,
        }
    }

    fn is_beyond(&self, table: TableAddr, bytes: u64) -> bool {
        table.raw().checked_add(bytes).is_none_or(|end| end > self.memory.end(Space::of(table)))
    }

    /// A table, or memory for one, of `bytes` at `at` was named.
    pub(crate) fn judge_alignment(&mut self, at: TableAddr, bytes: u64) {
        let unit = match bytes {
            4096.. => 4096,
            256.. => 256,
            _ => 32,
        };
        if !at.is_aligned(unit) {
            let finding = Finding {
                entry: Some(at),
                ..self.finding(Rule::MisalignedTable, "a table is not aligned to its size")
            };
            self.report.add(finding);
        }
    }
}
