//! Which pages are tables: the graph of what can be reached from the known roots, kept up to date with every store.
//!
//! A live table is known by its page, its first word and its level. At any time the links counted are those that the
//! words in memory make, so a changed word is all that is needed to follow. Links go one level down, so garbage
//! cannot make cycles; how many tables are followed is bounded.

use crate::config::Speculation;
use crate::format::{Decoder, Directory, Dual, BIG, PD0, SMALL};
use crate::memory::{slot_of, Space};
use crate::model::Model;
use crate::sanitizer::{Finding, Rule};
use crate::sizes::Recent;
use gmmu::addr::TableAddr;

/// More reachable tables than this are not followed: only garbage has so many.
const LIVE_MAX: u32 = 1 << 20;

/// An address space that the model knows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Root {
    /// The driver told of it.
    pub(crate) noted: bool,
    /// An engine has used it.
    pub(crate) engine: bool,
    /// How many BARs are bound to it.
    pub(crate) bars: u8,
    /// The instance block that names it, as far as the driver told.
    pub(crate) instance: Option<TableAddr>,
    /// The caches, by class, of the clients that have used it.
    pub(crate) contexts: [Option<u32>; 2],
    /// A BAR was found to use it with tables in system memory.
    pub(crate) bar_told: bool,
}

/// A table: page, first word in it, level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) cell: u32,
    pub(crate) first: u16,
    pub(crate) level: u8,
}

/// A word of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) cell: u32,
    pub(crate) slot: u16,
}

/// A table that can be reached.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) first: u16,
    pub(crate) level: u8,
    /// How many directory words point here.
    parents: u32,
    /// One of them; none for a root, or where that one is gone.
    pub(crate) via: Option<Link>,
    /// Flat address of the root that it was first reached from.
    pub(crate) root: u64,
    /// By entry: sizes with which its addresses translated lately.
    pub(crate) recent: Option<Box<[Recent]>>,
}

impl Live {
    /// Whether a word of its page belongs to the table.
    pub(crate) fn holds(&self, decoder: &Decoder, slot: u16) -> bool {
        (self.first..self.first + decoder.table_words(self.level)).contains(&slot)
    }
}

impl Model {
    /// Makes a root known that an access or an invalidate names. One that was given back stays forgotten: a last
    /// invalidate may well come after that.
    pub(crate) fn see_root(&mut self, pdb: TableAddr) {
        let cell = self.memory.find(Space::of(pdb).flat(pdb.raw()));
        if cell.is_none_or(|cell| self.memory.cell(cell).freed.is_none()) {
            self.add_root(pdb);
        }
    }

    /// Makes a root known.
    pub(crate) fn add_root(&mut self, pdb: TableAddr) {
        let at = pdb.with_raw(pdb.raw() & !0xfff);
        let flat = Space::of(at).flat(at.raw());
        if self.roots.contains_key(&flat) || !self.memory.holds(Space::of(at), at.raw()) {
            return;
        }
        self.roots.insert(flat, Root::default());
        self.link(at, self.decoder.top(), None, flat);
    }

    /// Forgets a root: what only it reached can no longer be reached.
    pub(crate) fn drop_root(&mut self, flat: u64) {
        if let Some(root) = self.roots.remove(&flat) {
            self.let_go(flat, &root);
            self.unlink(Space::unflat(flat), self.decoder.top(), None);
        }
    }

    /// The caches of a space were invalidated. A root that nobody spoke of but invalidates, and whose top table is empty
    /// by now, is out of use: drivers clear it before its memory becomes something else, and nobody tells.
    pub(crate) fn forget_emptied(&mut self, flat: u64) {
        let spoken_of = |root: &Root| root.noted || root.engine || root.bars > 0;
        if self.roots.get(&flat).is_none_or(spoken_of) {
            return;
        }
        let at = Space::unflat(flat);
        let mut words =
            (0..u64::from(self.decoder.table_words(self.decoder.top()))).map(|n| at.with_raw(at.raw() + 8 * n));
        if words.all(|at| self.memory.word(at) == Some(0)) {
            self.drop_root(flat);
        }
    }

    pub(crate) fn live(&self, place: Place) -> Option<&Live> {
        let tables = &self.memory.cell(place.cell).tables;
        tables.iter().find(|table| table.first == place.first && table.level == place.level)
    }

    pub(crate) fn live_mut(&mut self, place: Place) -> Option<&mut Live> {
        let tables = &mut self.memory.cell_mut(place.cell).tables;
        tables.iter_mut().find(|table| table.first == place.first && table.level == place.level)
    }

    /// Counts one more pointer to the table `at`, and follows it if it was not reachable before.
    fn link(&mut self, at: TableAddr, level: u8, via: Option<Link>, root: u64) {
        let space = Space::of(at);
        if !self.memory.holds(space, at.raw()) {
            return;
        }
        let place = Place { cell: self.memory.make(space.flat(at.raw())), first: slot_of(at.raw()), level };
        if let Some(live) = self.live_mut(place) {
            live.parents = live.parents.saturating_add(1);
            live.via = live.via.or(via);
            return;
        }
        if self.live >= LIVE_MAX {
            return;
        }
        self.live += 1;
        let live = Live { first: place.first, level, parents: 1, via, root, recent: None };
        let cell = self.memory.cell_mut(place.cell);
        cell.tables.push(live);
        cell.named(at);
        self.watch_new(place, root);
        let initialised = self.judge_initialised(place);
        self.judge_ordered(place);
        if self.memory.cell(place.cell).words.is_none() {
            return;
        }
        // Of garbage it was said that it is garbage.
        if initialised {
            self.judge_entries(place, place.first..place.first + self.decoder.table_words(level));
        }
        if level >= PD0 {
            for slot in place.first..place.first + self.decoder.table_words(level) {
                if let Some((target, below)) = self.target(place, slot) {
                    self.link(target, below, Some(Link { cell: place.cell, slot }), root);
                }
            }
        }
    }

    /// Counts one pointer less, and forgets the table with the last.
    fn unlink(&mut self, at: TableAddr, level: u8, via: Option<Link>) {
        let space = Space::of(at);
        let Some(cell) = self.memory.find(space.flat(at.raw())) else { return };
        let place = Place { cell, first: slot_of(at.raw()), level };
        let Some(live) = self.live_mut(place) else { return };
        live.parents = live.parents.saturating_sub(1);
        if live.parents > 0 {
            if live.via == via {
                live.via = None;
            }
            return;
        }
        self.live = self.live.saturating_sub(1);
        if self.speculation == Speculation::Worst {
            let words = place.first..place.first + self.decoder.table_words(level);
            self.tlb.unwatch(self.memory.cell_mut(cell), cell, &self.decoder, level, &words);
        }
        self.memory.cell_mut(cell).tables.retain(|table| (table.first, table.level) != (place.first, level));
        if level >= PD0 && self.memory.cell(cell).words.is_some() {
            for slot in place.first..place.first + self.decoder.table_words(level) {
                if let Some((target, below)) = self.target(place, slot) {
                    self.unlink(target, below, Some(Link { cell, slot }));
                }
            }
        }
    }

    /// The table, and its level, that a word of a live directory points to now.
    pub(crate) fn target(&self, place: Place, slot: u16) -> Option<(TableAddr, u8)> {
        let cell = self.memory.cell(place.cell);
        let word = cell.word(slot);
        if place.level > PD0 {
            return self.decoder.target(place.level, slot, word).map(|at| (at, place.level - 1));
        }
        let (lo, hi) = (cell.word(slot & !1), cell.word(slot | 1));
        match (self.decoder.dual(lo, hi), slot % 2) {
            (Dual::Tables { big, .. }, 0) => big.map(|at| (at, BIG)),
            (Dual::Tables { small, .. }, _) => small.map(|at| (at, SMALL)),
            (Dual::Leaf | Dual::Sparse, _) => None,
        }
    }

    /// Follows words of a page that have changed: (slot, word before), in ascending order. Where a directory is among
    /// the page's tables, one at a time.
    pub(crate) fn words_changed(&mut self, number: u32, changes: &[(u16, u64)]) {
        let (Some(&(from, _)), Some(&(to, _))) = (changes.first(), changes.last()) else { return };
        // Following a word may add and drop tables of this very page; a new one was read with the new word.
        let tables = self.memory.cell(number).tables.iter();
        let places: Vec<_> =
            tables.map(|table| Place { cell: number, first: table.first, level: table.level }).collect();
        for place in places {
            if to < place.first || from >= place.first + self.decoder.table_words(place.level) {
                continue;
            }
            let end = place.first + self.decoder.table_words(place.level);
            let slots = changes.iter().map(|&(slot, _)| slot).filter(|slot| (place.first..end).contains(slot));
            self.judge_entries(place, slots);
            match (place.level, changes) {
                (SMALL | BIG, _) => self.leaves_changed(place, changes),
                (PD0, &[(slot, old)]) => self.dual_changed(place, slot, old),
                (_, &[(slot, old)]) => self.directory_changed(place, slot, old),
                _ => {}
            }
        }
    }

    fn dual_changed(&mut self, place: Place, slot: u16, old: u64) {
        let cell = self.memory.cell(place.cell);
        let (lo, hi) = (cell.word(slot & !1), cell.word(slot | 1));
        let (old_lo, old_hi) = if slot % 2 == 0 { (old, hi) } else { (lo, old) };
        let (before, after) = (self.decoder.dual(old_lo, old_hi), self.decoder.dual(lo, hi));
        if before == after {
            return;
        }
        self.dual_sizes(place, slot, before, after, old);
        self.dual_halves(place, slot, before, after);
        if before.is_leaf() {
            // The leaf hid what the other half says.
            self.judge_entries(place, std::iter::once(slot | 1));
        }
        let halves = |dual| match dual {
            Dual::Tables { big, small } => [(big, BIG, slot & !1), (small, SMALL, slot | 1)],
            Dual::Leaf | Dual::Sparse => [(None, BIG, slot & !1), (None, SMALL, slot | 1)],
        };
        for ((old, level, slot), (new, ..)) in halves(before).into_iter().zip(halves(after)) {
            self.relink(place, slot, level, old, new);
        }
    }

    fn directory_changed(&mut self, place: Place, slot: u16, old: u64) {
        let now = self.memory.cell(place.cell).word(slot);
        let (before, after) = (self.decoder.directory(place.level, old), self.decoder.directory(place.level, now));
        if before == after {
            return;
        }
        self.directory_sizes(place, slot, before, after, old);
        let table = |entry| match entry {
            Directory::Table(at) => Some(at),
            _ => None,
        };
        self.relink(place, slot, place.level - 1, table(before), table(after));
    }

    fn relink(&mut self, place: Place, slot: u16, level: u8, old: Option<TableAddr>, new: Option<TableAddr>) {
        if old == new {
            return;
        }
        let via = Some(Link { cell: place.cell, slot });
        let root = self.live(place).map_or(0, |live| live.root);
        if let Some(old) = old {
            self.unlink(old, level, via);
        }
        if let Some(new) = new {
            self.link(new, level, via, root);
        }
    }

    /// Rule: a table that becomes reachable has been written, all of it that its level uses. Whether it was.
    fn judge_initialised(&mut self, place: Place) -> bool {
        let cell = self.memory.cell(place.cell);
        let words = self.decoder.table_words(place.level);
        let missing = cell.missing(2 * u32::from(place.first), 2 * u32::from(words));
        if missing == 0 {
            return true;
        }
        let unwritten = |&slot: &u16| cell.missing(2 * u32::from(slot), 2) > 0;
        let first = (place.first..place.first + words).find(unwritten).unwrap_or(place.first);
        let finding = Finding {
            va: self.va_of(place.cell, place.first, place.level, first),
            entry: Some(cell.at(first)),
            raw: Some(cell.word(first)),
            ..self.finding(
                Rule::PublishedUninitialised,
                "a table became reachable before all its entries were written; this is the first that was not",
            )
        };
        self.report.add(finding);
        // Said once.
        self.memory.cell_mut(place.cell).written(2 * u32::from(place.first), 2 * u32::from(words));
        false
    }

    /// The live directory that holds `link`'s word and is the parent of a table of `level`.
    pub(crate) fn parent(&self, link: Link, level: u8) -> Option<Place> {
        let above = if level <= BIG { PD0 } else { level + 1 };
        let holds = |first: u16| first <= link.slot && link.slot < first + self.decoder.table_words(above);
        let tables = &self.memory.cell(link.cell).tables;
        let table = tables.iter().find(|table| table.level == above && holds(table.first))?;
        Some(Place { cell: link.cell, first: table.first, level: above })
    }

    /// The lowest virtual address that word `slot` of a live table serves, on the path that is known.
    pub(crate) fn va_of(&self, cell: u32, first: u16, level: u8, slot: u16) -> Option<u64> {
        let (mut place, mut slot, mut va) = (Place { cell, first, level }, slot, 0);
        loop {
            let geometry = self.decoder.level(place.level);
            let index = u64::from(slot.saturating_sub(place.first)) / u64::from(geometry.words);
            va |= index << geometry.lo;
            if place.level >= self.decoder.top() {
                return Some(va);
            }
            let via = self.live(place)?.via?;
            place = self.parent(via, place.level)?;
            slot = via.slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chip::{find, GIB};
    use crate::memory::Ends;
    use crate::order::Path;
    use crate::rng::mix;
    use crate::store::{Origin, Source};
    use std::collections::BTreeMap;

    /// Address of table `number` (0 to 3) of a level: each level has a mebibyte of its own.
    fn table(level: u8, number: u64) -> u64 {
        let bytes = if level == BIG { 256 } else { 4096 };
        (u64::from(level) + 1) << 20 | (number * bytes)
    }

    /// A word for a directory of `level` at word `slot`, of version 3.
    fn word(level: u8, slot: u16, random: u64) -> u64 {
        let below = match (level, slot % 2) {
            (PD0, 0) => BIG,
            (PD0, _) => SMALL,
            _ => level - 1,
        };
        match random % 8 {
            0 => 0,
            1 => 8,
            2 => random << 21 & 0xff_ffff_f000 | 0x601,
            _ => table(below, random >> 8 & 3) | 0x12,
        }
    }

    /// Counts the links below a table by looking.
    fn count(model: &Model, at: TableAddr, level: u8, seen: &mut BTreeMap<(u64, u8), u32>) {
        let links = seen.entry((at.raw(), level)).or_insert(0);
        *links += 1;
        if *links > 1 || level < PD0 {
            return;
        }
        let Some(cell) = model.memory.find(at.raw()) else { return };
        let place = Place { cell, first: slot_of(at.raw()), level };
        for slot in place.first..place.first + model.decoder.table_words(level) {
            if let Some((target, below)) = model.target(place, slot) {
                count(model, target, below, seen);
            }
        }
    }

    fn followed(model: &Model) -> BTreeMap<(u64, u8), u32> {
        let tables = |cell: &crate::memory::Cell| {
            let at = |table: &Live| ((cell.at(table.first).raw(), table.level), table.parents);
            cell.tables.iter().map(at).collect::<Vec<_>>()
        };
        model.memory.cells.iter().flat_map(tables).collect()
    }

    #[test]
    fn the_graph_is_what_a_fresh_look_finds() {
        for seed in 0..20 {
            let chip = find("gb100", GIB).expect("a chip");
            let mut model = Model::new(Decoder::new(chip), Ends { vram: GIB, sys: 0, peers: [0; 8] }, Speculation::Off);
            let roots = [0, 1].map(|number| TableAddr::vram(table(model.decoder.top(), number)));
            for step in 0..3000u64 {
                let random = mix(seed, step);
                let level = PD0 + (random >> 16 & 0xff) as u8 % 5;
                let slot = (random >> 24 & 3) as u16;
                let at = table(level, random >> 40 & 3) + 8 * u64::from(slot);
                match random % 64 {
                    0 => model.add_root(roots[0]),
                    1 => model.add_root(roots[1]),
                    2 => model.drop_root(roots[(random >> 8 & 1) as usize].raw()),
                    _ => {
                        let word = word(level, slot, mix(seed, step << 32));
                        model.store_words(Origin::Tables(Path::Settled), Space::Vram, at, Source::Words(&[word]));
                    }
                }
                if step % 16 == 0 {
                    let mut fresh = BTreeMap::new();
                    for &root in model.roots.keys() {
                        count(&model, TableAddr::vram(root), model.decoder.top(), &mut fresh);
                    }
                    assert_eq!(followed(&model), fresh, "seed {seed} step {step}");
                    assert_eq!(model.live as usize, fresh.len());
                }
            }
        }
    }
}
