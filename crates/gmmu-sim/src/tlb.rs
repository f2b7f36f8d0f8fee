//! Translation caches: TLBs and page-walk caches, with an endless memory.
//!
//! Hardware may keep an entry, an invalid one too, from the moment it was fetched until an invalidate covers it. This
//! model always does, which is the worst that hardware is allowed to do with what it was asked for. What is kept is one
//! bit per word of a table page, for each (client class, address space, level) that looked at it; only where a word
//! changes *after* it was cached is the old one saved, by [`Tlb::changed`]. So a cache costs a few bytes per table and
//! not a record per page.
//!
//! Worse yet, hardware may fetch what nobody asked for. A record can be told that a table is *watched*
//! ([`Tlb::watch`]): all its words are cached then, and are again at once after whatever happens to them. Such a record
//! is touched by an invalidate only if something in it is outdated.
//!
//! Entries are known by the table that they were read from. A table that is linked at two places of one space shares
//! its bits, which makes the model a little more forgetful about who looked, never about what was seen.

use crate::format::{Decoder, LEVELS, PD0, PD4};
use crate::memory::{slot_of, Cell, FrameMap, Memory, Space};
use crate::order::{Drained, When};
use crate::record::{Held, Record};
use gmmu::addr::TableAddr;
use std::collections::HashMap;
use std::ops::Range;

/// Whose caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Class {
    /// The hub's: BAR1 and BAR2.
    Hub,
    /// The graphics clusters': engines.
    Gpc,
}

/// A word as the MMU sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetched {
    /// What the MMU uses.
    pub(crate) word: u64,
    /// Where that is no longer what memory holds.
    pub(crate) stale: Option<Stale>,
}

/// A cached word that memory no longer holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stale {
    pub(crate) level: u8,
    pub(crate) at: TableAddr,
    pub(crate) cached: u64,
    pub(crate) now: u64,
    pub(crate) since: u64,
    pub(crate) changed: When,
}

/// What an invalidate reaches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    /// Flat address of the root; `None` for all spaces.
    pub(crate) pdb: Option<u64>,
    pub(crate) hub_only: bool,
    pub(crate) deepest: u8,
    /// It waits for all units.
    pub(crate) acknowledged: bool,
    /// The stores that had been waited for when it was triggered.
    pub(crate) drained: Drained,
}

#[derive(Debug)]
struct Context {
    class: Class,
    /// Flat address of the root.
    pdb: u64,
    /// By level: pages with a record that an invalidate has to look at, and the operation of the latest.
    pages: [Vec<u32>; LEVELS],
    settled: [u64; LEVELS],
}

/// All caches of the GPU.
#[derive(Debug, Default)]
pub(crate) struct Tlb {
    contexts: Vec<Context>,
    /// Only looked up, never iterated.
    known: HashMap<(Class, u64), u32>,
    /// For each 256 bytes: how many cached directory words point there. A big table is no larger.
    targets: Targets,
}

#[derive(Debug, Default)]
struct Targets(FrameMap<u32>);

impl Targets {
    fn hold(&mut self, decoder: &Decoder, level: u8, slot: u16, held: Held) {
        for target in held.into_iter().flatten().filter_map(|word| decoder.target(level, slot, word)) {
            *self.0.entry(part_of(target)).or_insert(0) += 1;
        }
    }

    fn release(&mut self, decoder: &Decoder, level: u8, slot: u16, held: Held) {
        for target in held.into_iter().flatten().filter_map(|word| decoder.target(level, slot, word)) {
            let key = part_of(target);
            if let Some(count) = self.0.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(&key);
                }
            }
        }
    }
}

fn part_of(table: TableAddr) -> u64 {
    Space::of(table).flat(table.raw()) >> 8
}

impl Tlb {
    /// The caches of `class` for the address space below `pdb`.
    pub(crate) fn context(&mut self, class: Class, pdb: u64) -> u32 {
        if let Some(&context) = self.known.get(&(class, pdb)) {
            return context;
        }
        let context = u32::try_from(self.contexts.len()).unwrap_or(u32::MAX);
        self.contexts.push(Context { class, pdb, pages: Default::default(), settled: [0; LEVELS] });
        self.known.insert((class, pdb), context);
        context
    }

    /// Whose caches a context is, and of which space.
    pub(crate) fn owner(&self, context: u32) -> Option<(Class, u64)> {
        self.contexts.get(context as usize).map(|context| (context.class, context.pdb))
    }

    /// Fetches the word at `at` for `context`: from the cache if it is there, else from memory into the cache. `None`
    /// outside the memory.
    pub(crate) fn fetch(
        &mut self,
        memory: &mut Memory,
        decoder: &Decoder,
        context: u32,
        level: u8,
        at: TableAddr,
        op: u64,
    ) -> Option<Fetched> {
        let space = Space::of(at);
        if !memory.holds(space, at.raw()) {
            return None;
        }
        let slot = slot_of(at.raw());
        let number = memory.make(space.flat(at.raw()));
        let now = memory.cell(number).word(slot);
        let settled = self.settled(context, level);
        let cell = memory.cell_mut(number);
        let record = record_of(&mut cell.cached, context, level, op);
        let record = &mut cell.cached[record];
        if record.is_cached(slot) {
            let stale = record.stale(slot, now).map(|(cached, changed)| Stale {
                level,
                at,
                cached,
                now,
                since: if settled < changed.op() { record.since.max(settled) } else { record.since },
                changed,
            });
            return Some(Fetched { word: stale.map_or(now, |stale| stale.cached), stale });
        }
        record.cache(slot);
        if level >= PD0 {
            self.targets.hold(decoder, level, slot, record.held(slot, now));
        }
        if record.list() {
            self.enlist(context, level, number);
        }
        Some(Fetched { word: now, stale: None })
    }

    fn settled(&self, context: u32, level: u8) -> u64 {
        let context = self.contexts.get(context as usize);
        context.and_then(|context| context.settled.get(usize::from(level))).copied().unwrap_or(0)
    }

    /// Puts a page on the list of those that an invalidate has to look at.
    fn enlist(&mut self, context: u32, level: u8, number: u32) {
        if let Some(context) = self.contexts.get_mut(context as usize) {
            context.pages[usize::from(level).min(LEVELS - 1)].push(number);
        }
    }

    /// Caches all words of a table from now on. Whether that is new.
    pub(crate) fn watch(
        &mut self,
        memory: &mut Memory,
        decoder: &Decoder,
        context: u32,
        (number, level, words): (u32, u8, Range<u16>),
        op: u64,
    ) -> bool {
        let cell = memory.cell_mut(number);
        let at = record_of(&mut cell.cached, context, level, op);
        let mut new = false;
        for slot in words {
            let word = cell.word(slot);
            let record = &mut cell.cached[at];
            let before = record.held(slot, word);
            new |= record.watch(slot);
            if level >= PD0 {
                self.targets.hold(decoder, level, slot, record.held(slot, word));
                self.targets.release(decoder, level, slot, before);
            }
        }
        new
    }

    /// Leaves the words of a table that caches hold to the next invalidate.
    pub(crate) fn unwatch(&mut self, cell: &mut Cell, number: u32, decoder: &Decoder, level: u8, words: &Range<u16>) {
        let Cell { cached, words: contents, .. } = cell;
        let word = |slot: u16| contents.as_ref().and_then(|words| words.get(usize::from(slot))).copied().unwrap_or(0);
        for record in cached.iter_mut().filter(|record| record.level() == level) {
            let mut any = false;
            for slot in words.clone() {
                let before = record.held(slot, word(slot));
                any |= record.unwatch(slot);
                if level >= PD0 {
                    self.targets.hold(decoder, level, slot, record.held(slot, word(slot)));
                    self.targets.release(decoder, level, slot, before);
                }
            }
            if any && record.list() {
                self.enlist(record.context(), level, number);
            }
        }
    }

    /// Drops one page of a level, each, where a cache holds more than `room`.
    pub(crate) fn shrink(&mut self, memory: &mut Memory, decoder: &Decoder, context: u32, room: usize, roll: u64) {
        let Self { contexts, targets, .. } = self;
        let Some(pages) = contexts.get_mut(context as usize).map(|context| &mut context.pages) else { return };
        for (level, pages) in (0..).zip(pages) {
            if pages.len() <= room {
                continue;
            }
            let page = pages.swap_remove(usize::try_from(roll).map_or(0, |roll| roll % pages.len()));
            let cell = memory.cell_mut(page);
            let Some(at) = cell.cached.iter().position(|record| record.is_of(context, level)) else { continue };
            let record = cell.cached.swap_remove(at);
            for slot in record.words() {
                targets.release(decoder, level, slot, record.held(slot, cell.word(slot)));
            }
        }
    }

    /// Word `slot` of a page is `new`, and was `old`: saves what caches hold of it.
    pub(crate) fn changed(
        &mut self,
        cell: &mut Cell,
        number: u32,
        decoder: &Decoder,
        (slot, old, new): (u16, u64, u64),
        when: When,
    ) {
        for record in cell.cached.iter_mut().filter(|record| record.is_cached(slot)) {
            let (context, level) = (record.context(), record.level());
            let before = record.held(slot, old);
            record.keep(slot, old, when);
            if level >= PD0 {
                self.targets.hold(decoder, level, slot, record.held(slot, new));
                self.targets.release(decoder, level, slot, before);
            }
            if record.list() {
                self.enlist(context, level, number);
            }
        }
    }

    /// Drops a word from a cache, as one does that needs room.
    pub(crate) fn evict(&mut self, memory: &mut Memory, decoder: &Decoder, context: u32, level: u8, at: TableAddr) {
        let slot = slot_of(at.raw());
        let Some(number) = memory.find(Space::of(at).flat(at.raw())) else { return };
        let cell = memory.cell_mut(number);
        let now = cell.word(slot);
        let Some(record) = cell.cached.iter_mut().find(|record| record.is_of(context, level)) else { return };
        if level >= PD0 {
            self.targets.release(decoder, level, slot, record.held(slot, now));
        }
        record.evict(slot);
    }

    /// Forgets what an invalidate covers. Whether anything that it reached was outdated.
    pub(crate) fn forget(&mut self, memory: &mut Memory, decoder: &Decoder, reach: &Reach, op: u64) -> bool {
        let Self { contexts, targets, .. } = self;
        let mut outdated = false;
        for (number, context) in (0u32..).zip(contexts) {
            if reach.pdb.is_some_and(|pdb| pdb != context.pdb) || reach.hub_only && context.class != Class::Hub {
                continue;
            }
            for level in 0..=reach.deepest.min(PD4) {
                context.settled[usize::from(level)] = op;
                let pages = &mut context.pages[usize::from(level)];
                pages.retain(|&page| {
                    let cell = memory.cell_mut(page);
                    let Some(at) = cell.cached.iter().position(|record| record.is_of(number, level)) else {
                        return false;
                    };
                    let mut record = cell.cached.swap_remove(at);
                    outdated |= clean(targets, decoder, cell, &mut record, reach);
                    let listed = record.is_listed();
                    if !record.is_empty() {
                        cell.cached.push(record);
                    } else if cell.cached.is_empty() {
                        cell.cached = Vec::new();
                    }
                    listed
                });
            }
        }
        outdated
    }

    /// Whether a cached directory word points to a table within `bytes` from the flat address `flat`.
    pub(crate) fn points_into(&self, flat: u64, bytes: u64) -> bool {
        let parts = flat >> 8..flat.saturating_add(bytes).saturating_add(255) >> 8;
        if parts.end.saturating_sub(parts.start) > self.targets.0.len() as u64 {
            return self.targets.0.keys().any(|part| parts.contains(part));
        }
        parts.into_iter().any(|part| self.targets.0.contains_key(&part))
    }
}

/// The place of a page's record for a context and level, made if need be.
fn record_of(cached: &mut Vec<Record>, context: u32, level: u8, op: u64) -> usize {
    let found = cached.iter().position(|record| record.is_of(context, level));
    found.unwrap_or_else(|| {
        cached.push(Record::new(context, level, op));
        cached.len() - 1
    })
}

/// Forgets what `reach` covers of one record. Whether anything was outdated.
fn clean(targets: &mut Targets, decoder: &Decoder, cell: &Cell, record: &mut Record, reach: &Reach) -> bool {
    let level = record.level();
    if level >= PD0 {
        for slot in record.words() {
            targets.release(decoder, level, slot, record.held(slot, cell.word(slot)));
        }
    }
    let outdated = record.forget(|slot, first, changed| {
        let allowed = reach.acknowledged || !decoder.tightens(level, slot, first, cell.word(slot));
        allowed && reach.drained.has(changed)
    });
    if level >= PD0 {
        for slot in record.words() {
            targets.hold(decoder, level, slot, record.held(slot, cell.word(slot)));
        }
    }
    outdated
}
