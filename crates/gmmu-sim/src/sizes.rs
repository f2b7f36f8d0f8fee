//! The rule that no address goes from one page size to another without an invalidate in between.
//!
//! For each entry of a live directory the model remembers with which sizes its addresses translated since the last
//! covering invalidate and do no longer. 4K and 64K pages are remembered in the PD0 entry, by 64 KiB chunk; larger
//! leaves and sparse entries in their own; what was below a directory table that went away in the entry that pointed
//! to it.

use crate::format::{Directory, Dual, Pte, BIG, PD0, SMALL};
use crate::graph::Place;
use crate::memory::{slot_of, Space};
use crate::model::Model;
use crate::sanitizer::{Finding, Rule};
use gmmu::addr::TableAddr;

/// 4K entries in one chunk of 64 KiB.
const CHUNK: u16 = 16;
/// Tables that one look below an entry visits at most. Enough for everything below a PD1 entry without garbage.
const BUDGET: u32 = 1 << 16;

/// Sizes with which the addresses of one directory entry translated, and do no longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Recent {
    /// In a PD0 entry: chunks with 4K pages.
    small: u32,
    /// In a PD0 entry: chunks with a 64K page.
    big: u32,
    /// One bit for the size of each level's leaves.
    sizes: u8,
}

impl Recent {
    const fn is_empty(self) -> bool {
        self.small | self.big == 0 && self.sizes == 0
    }

    /// What it adds to the sizes of the entry above.
    const fn folded(self) -> u8 {
        self.sizes | (bit(SMALL) * (self.small != 0) as u8) | (bit(BIG) * (self.big != 0) as u8)
    }
}

const fn bit(level: u8) -> u8 {
    1 << level
}

/// With which sizes a PD0 entry's addresses translate.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    whole: bool,
    small: u32,
    big: u32,
}

/// What a change of a leaf entry did.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    /// Some address translates that did not, or with another size.
    gained: bool,
    /// It did, or lately did, with another size.
    conflict: bool,
}

impl Model {
    /// Judges a PD0 entry that changes from `before` to `after`, and remembers what it meant.
    pub(crate) fn dual_sizes(&mut self, place: Place, slot: u16, before: Dual, after: Dual, old: u64) {
        let (was, is) = (self.span(before), self.span(after));
        let recent = self.recent_of(place, slot);
        let new = Span { whole: is.whole && !was.whole, small: is.small & !was.small, big: is.big & !was.big };
        let small_or_big = |span: Span| span.small | span.big != 0;
        let whole_lately = was.whole || recent.sizes & bit(PD0) != 0;
        let conflict = new.whole && (small_or_big(was) || recent.folded() & !bit(PD0) != 0)
            || small_or_big(new) && whole_lately
            || new.small & (was.big | recent.big) != 0
            || new.big & (was.small | recent.small) != 0
            || (new.whole || small_or_big(new)) && self.ancestors_recent(place);
        if conflict {
            self.report_sizes(place, slot, old);
        }
        let lost = Recent {
            small: was.small & !is.small,
            big: was.big & !is.big,
            sizes: bit(PD0) * u8::from(was.whole && !is.whole),
        };
        self.remember(place, slot, lost);
    }

    /// Judges an entry above PD0.
    pub(crate) fn directory_sizes(&mut self, place: Place, slot: u16, before: Directory, after: Directory, old: u64) {
        let own = bit(place.level);
        let below = |entry, model: &Self| match entry {
            Directory::Table(at) => {
                let mut budget = BUDGET;
                model.sizes_below(at, place.level - 1, &mut budget)
            }
            _ => (0, 0),
        };
        let (was_below, was_recent) = below(before, self);
        let (is_below, _) = if before.maps() || self.recent_of(place, slot).sizes != 0 || self.ancestors_recent(place) {
            below(after, self)
        } else {
            (0, 0)
        };
        let recent = self.recent_of(place, slot).sizes;
        let maps_new = after.maps() && !before.maps();
        let conflict = maps_new && (was_below | was_recent | recent & !own) != 0
            || is_below != 0 && (before.maps() || recent & own != 0)
            || (maps_new || is_below != 0) && self.ancestors_recent(place);
        if conflict {
            self.report_sizes(place, slot, old);
        }
        let mut sizes = was_below | was_recent;
        if before.maps() && !after.maps() {
            sizes |= own;
        }
        self.remember(place, slot, Recent { sizes, ..Recent::default() });
    }

    /// Judges entries of a live leaf table that have changed: (slot, word before), in ascending order.
    pub(crate) fn leaves_changed(&mut self, place: Place, changes: &[(u16, u64)]) {
        let Some(via) = self.live(place).and_then(|live| live.via) else { return };
        let Some(parent) = self.parent(via, place.level) else { return };
        let cell = self.memory.cell(parent.cell);
        let entry = self.decoder.dual(cell.word(via.slot & !1), cell.word(via.slot | 1));
        let Dual::Tables { big, small } = entry else { return };
        let sibling = if place.level == SMALL { big } else { small };
        let recent = self.recent_of(parent, via.slot);
        let larger = recent.sizes & bit(PD0) != 0 || self.ancestors_recent(parent);
        let end = place.first + self.decoder.table_words(place.level);
        let mut lost = Recent::default();
        for &(slot, old) in changes.iter().filter(|(slot, _)| (place.first..end).contains(slot)) {
            let now = self.memory.cell(place.cell).word(slot);
            let (was, is) = (self.decoder.pte(place.level, old), self.decoder.pte(place.level, now));
            if was == is || place.level == SMALL && was.maps() == is.maps() {
                continue;
            }
            let index = slot - place.first;
            let change = if place.level == SMALL {
                self.small_changed(sibling, index, is, recent, &mut lost)
            } else {
                self.slot_halves(place, index, [was, is], sibling);
                self.big_changed(sibling, index, [was, is], recent, &mut lost)
            };
            if change.conflict || change.gained && larger {
                self.report_sizes(place, slot, old);
            }
        }
        self.remember(parent, via.slot, lost);
    }

    /// A 4K entry began or ceased to map, which matters where no 64K entry hides it.
    fn small_changed(&self, big: Option<TableAddr>, index: u16, is: Pte, recent: Recent, lost: &mut Recent) -> Change {
        let chunk = 1u32 << (index / CHUNK);
        if self.entry(big, BIG, index / CHUNK) != Pte::Absent {
            return Change::default();
        }
        if !is.maps() {
            lost.small |= chunk;
            return Change::default();
        }
        Change { gained: true, conflict: recent.big & chunk != 0 }
    }

    /// A 64K entry changed, and with it perhaps what the 4K entries below it mean.
    fn big_changed(
        &self,
        small: Option<TableAddr>,
        index: u16,
        [was, is]: [Pte; 2],
        recent: Recent,
        lost: &mut Recent,
    ) -> Change {
        let chunk = 1u32 << (index & 31);
        let below = (0..CHUNK).any(|at| self.entry(small, SMALL, index * CHUNK + at).maps());
        let (small_was, small_is) = (was == Pte::Absent && below, is == Pte::Absent && below);
        let mut change = Change::default();
        if is.maps() && !was.maps() {
            change = Change { gained: true, conflict: small_was || recent.small & chunk != 0 };
        } else if small_is && !small_was {
            change = Change { gained: true, conflict: was.maps() || recent.big & chunk != 0 };
        }
        lost.big |= chunk * u32::from(was.maps() && !is.maps());
        lost.small |= chunk * u32::from(small_was && !small_is);
        change
    }

    /// Entry `index` of a leaf table; absent where there is no table, or no memory.
    pub(crate) fn entry(&self, table: Option<TableAddr>, level: u8, index: u16) -> Pte {
        let word = table.and_then(|at| self.memory.word(at.with_raw(at.raw() + 8 * u64::from(index))));
        word.map_or(Pte::Absent, |word| self.decoder.pte(level, word))
    }

    fn span(&self, entry: Dual) -> Span {
        let Dual::Tables { big, small } = entry else { return Span { whole: true, ..Span::default() } };
        let mut span = Span::default();
        let mut open = u32::MAX;
        if let Some((words, first)) = self.table(big) {
            for chunk in 0..32u16 {
                let word = words.get(usize::from(first + chunk)).copied().unwrap_or(0);
                let entry = self.decoder.pte(BIG, word);
                open &= !(u32::from(entry != Pte::Absent) << chunk);
                span.big |= u32::from(entry.maps()) << chunk;
            }
        }
        if let Some((words, _)) = self.table(small) {
            for (chunk, words) in words.chunks_exact(usize::from(CHUNK)).enumerate() {
                // Zeros are the most frequent words, and map nothing in any format.
                let maps = |&word: &u64| word != 0 && self.decoder.pte(SMALL, word).maps();
                if open >> chunk & 1 != 0 && words.iter().any(maps) {
                    span.small |= 1 << chunk;
                }
            }
        }
        span
    }

    /// The page of a table and the table's first word in it, where anything was written.
    fn table(&self, table: Option<TableAddr>) -> Option<(&[u64; 512], u16)> {
        let at = table?;
        let cell = self.memory.find(Space::of(at).flat(at.raw()))?;
        Some((self.memory.cell(cell).words.as_deref()?, slot_of(at.raw())))
    }

    /// With which sizes addresses below a directory table translate, and with which they did lately.
    fn sizes_below(&self, table: TableAddr, level: u8, budget: &mut u32) -> (u8, u8) {
        let (mut now, mut lately) = (0, 0);
        *budget = budget.saturating_sub(1);
        let Some((words, first)) = self.table(Some(table)) else { return (0, 0) };
        if *budget == 0 {
            return (0, 0);
        }
        if let Some(cell) = self.memory.find(Space::of(table).flat(table.raw())) {
            if let Some(recent) = self.live(Place { cell, first, level }).and_then(|live| live.recent.as_deref()) {
                lately = recent.iter().fold(0, |sizes, recent| sizes | recent.folded());
            }
        }
        let (from, count) = (usize::from(first), usize::from(self.decoder.table_words(level)));
        let used = words.get(from..from + count).unwrap_or_default();
        if level == PD0 {
            for entry in used.chunks_exact(2).filter(|entry| entry.iter().any(|&word| word != 0)) {
                let [lo, hi] = *entry else { continue };
                *budget = budget.saturating_sub(1);
                let span = self.span(self.decoder.dual(lo, hi));
                now |= Recent { small: span.small, big: span.big, sizes: bit(PD0) * u8::from(span.whole) }.folded();
                if *budget == 0 || now == bit(PD0 + 1) - 1 {
                    break;
                }
            }
            return (now, lately);
        }
        for &word in used.iter().filter(|&&word| word != 0) {
            // Nothing below can add to this.
            if now == bit(level + 1) - 1 {
                break;
            }
            match self.decoder.directory(level, word) {
                Directory::Table(next) if level > PD0 => {
                    let (below, recent) = self.sizes_below(next, level - 1, budget);
                    now |= below;
                    lately |= recent;
                }
                entry if entry.maps() => now |= bit(level),
                _ => {}
            }
        }
        (now, lately)
    }

    fn recent_of(&self, place: Place, slot: u16) -> Recent {
        let recent = self.live(place).and_then(|live| live.recent.as_deref());
        recent.and_then(|recent| recent.get(self.entry_of(place, slot))).copied().unwrap_or_default()
    }

    fn entry_of(&self, place: Place, slot: u16) -> usize {
        usize::from(slot.saturating_sub(place.first)) / self.decoder.level(place.level).words as usize
    }

    /// Whether a leaf above a table's entries was there since the last covering invalidate.
    fn ancestors_recent(&self, place: Place) -> bool {
        let mut place = place;
        while let Some(via) = self.live(place).and_then(|live| live.via) {
            let Some(parent) = self.parent(via, place.level) else { return false };
            if self.recent_of(parent, via.slot).sizes & bit(parent.level) != 0 {
                return true;
            }
            place = parent;
        }
        false
    }

    fn remember(&mut self, place: Place, slot: u16, lost: Recent) {
        if lost.is_empty() {
            return;
        }
        let entries = 1 << self.decoder.level(place.level).bits;
        let entry = self.entry_of(place, slot);
        let Some(live) = self.live_mut(place) else { return };
        let fresh = live.recent.is_none();
        let recent = live.recent.get_or_insert_with(|| vec![Recent::default(); entries].into_boxed_slice());
        if let Some(recent) = recent.get_mut(entry) {
            recent.small |= lost.small;
            recent.big |= lost.big;
            recent.sizes |= lost.sizes;
        }
        if fresh {
            self.recent.push(place);
        }
    }

    /// An invalidate was completed: caches of the spaces that it names hold no size of the levels up to `deepest`.
    pub(crate) fn forget_sizes(&mut self, pdb: Option<u64>, hub_only: bool, deepest: u8) {
        let mut places = std::mem::take(&mut self.recent);
        places.retain(|&place| {
            let Some(root) = self.live(place).filter(|live| live.recent.is_some()).map(|live| live.root) else {
                return false;
            };
            // What no engine has used, only the hub can know.
            let engine = self.roots.get(&root).is_none_or(|root| root.engine);
            if pdb.is_some_and(|pdb| pdb != root) || hub_only && engine {
                return true;
            }
            let kept = u8::MAX.checked_shl(u32::from(deepest) + 1).unwrap_or(0);
            let Some(live) = self.live_mut(place) else { return false };
            let recent = live.recent.as_deref_mut().unwrap_or_default();
            for recent in &mut *recent {
                // Every code covers both kinds of leaf tables.
                *recent = Recent { small: 0, big: 0, sizes: recent.sizes & kept };
            }
            if recent.iter().all(|recent| recent.is_empty()) {
                live.recent = None;
                return false;
            }
            true
        });
        places.append(&mut self.recent);
        self.recent = places;
    }

    fn report_sizes(&mut self, place: Place, slot: u16, old: u64) {
        let cell = self.memory.cell(place.cell);
        let finding = Finding {
            va: self.va_of(place.cell, place.first, place.level, slot),
            entry: Some(cell.at(slot)),
            raw: Some(cell.word(slot)),
            cached: Some(old),
            ..self.finding(
                Rule::ValidToValid,
                "an address changed its page size without a covering invalidate between the two",
            )
        };
        self.report.add(finding);
    }
}
