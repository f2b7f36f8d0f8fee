//! Which pages are tables: the graph of what can be reached from the known roots, kept up to date with every store.
//!
//! A live table is known by its page, its first word and its level. At any time the links counted are those that the
//! words in memory make, so a changed word is all that is needed to follow. Links go one level down, so garbage
//! cannot make cycles; how many tables are followed is bounded.

use crate::format::{Directory, Dual, BIG, PD0, SMALL};
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
    /// An engine has used it.
    pub(crate) engine: bool,
    /// How many BARs are bound to it.
    pub(crate) bars: u8,
    /// A BAR has been bound to it.
    pub(crate) bar: bool,
    /// The instance block that names it, as far as the driver told.
    pub(crate) instance: Option<TableAddr>,
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

impl Model {
    /// Makes a root known.
    pub(crate) fn add_root(&mut self, pdb: TableAddr) {
        let at = pdb.with_raw(pdb.raw() & !0xfff);
        let flat = Space::of(at).flat(at.raw());
        let freed = self.memory.find(flat).is_some_and(|cell| self.memory.cell(cell).freed);
        if self.roots.contains_key(&flat) || freed || !self.memory.holds(Space::of(at), at.raw()) {
            return;
        }
        self.roots.insert(flat, Root::default());
        self.link(at, self.decoder.top(), None, flat);
    }

    /// Forgets a root: what only it reached can no longer be reached.
    pub(crate) fn drop_root(&mut self, flat: u64) {
        if self.roots.remove(&flat).is_some() {
            self.unlink(Space::unflat(flat), self.decoder.top(), None);
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
        self.memory.cell_mut(place.cell).tables.push(live);
        self.judge_initialised(place);
        if level >= PD0 && self.memory.cell(place.cell).words.is_some() {
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
    fn target(&self, place: Place, slot: u16) -> Option<(TableAddr, u8)> {
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

    /// Rule: a table that becomes reachable has been written, all of it that its level uses.
    fn judge_initialised(&mut self, place: Place) {
        let cell = self.memory.cell(place.cell);
        let words = self.decoder.table_words(place.level);
        let missing = cell.missing(2 * u32::from(place.first), 2 * u32::from(words));
        if missing == 0 {
            return;
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
