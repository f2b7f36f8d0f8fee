//! Translation caches: TLBs and page-walk caches, with an endless memory.
//!
//! Hardware may keep an entry, an invalid one too, from the moment it was fetched until an invalidate covers it. This
//! model always does, which is the worst that hardware is allowed to do. What is kept is one bit per word of a table
//! page, for each (client class, address space, level) that looked at it; only where a word changes *after* it was
//! cached is the old one saved, by [`Record::keep`]. So a cache costs a few bytes per table and not a record per page.
//!
//! Entries are known by the table that they were read from. A table that is linked at two places of one space shares
//! its bits, which makes the model a little more forgetful about who looked, never about what was seen.

use crate::format::{Decoder, LEVELS, PD0};
use crate::memory::{slot_of, FrameMap, Memory, Space, WORDS};
use gmmu::addr::TableAddr;
use std::collections::HashMap;

/// Whose caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Class {
    /// The hub's: BAR1 and BAR2.
    Hub,
    /// The graphics clusters': engines.
    Gpc,
}

/// What one cache holds of one table page.
#[derive(Debug)]
pub(crate) struct Record {
    context: u32,
    level: u8,
    cached: [u64; 8],
    /// Operation in which the first word was cached.
    since: u64,
    old: Option<Box<Old>>,
}

/// Words that changed after they were cached.
#[derive(Debug)]
struct Old {
    stale: [u64; 8],
    words: [u64; WORDS],
    /// Operation of the latest change.
    changed: u64,
}

const fn bit(slot: u16) -> (usize, u64) {
    ((slot >> 6) as usize & 7, 1 << (slot & 63))
}

impl Record {
    fn is_cached(&self, slot: u16) -> bool {
        let (part, mask) = bit(slot);
        self.cached[part] & mask != 0
    }

    fn old(&self, slot: u16) -> Option<(u64, u64)> {
        let (part, mask) = bit(slot);
        let old = self.old.as_deref().filter(|old| old.stale[part] & mask != 0)?;
        Some((old.words[usize::from(slot) & 511], old.changed))
    }

    /// Notes that word `slot`, so far `word`, is about to change in operation `op`.
    pub(crate) fn keep(&mut self, slot: u16, word: u64, op: u64) {
        if !self.is_cached(slot) {
            return;
        }
        let (part, mask) = bit(slot);
        let old = self.old.get_or_insert_with(|| Box::new(Old { stale: [0; 8], words: [0; WORDS], changed: op }));
        old.changed = op;
        if old.stale[part] & mask == 0 {
            old.stale[part] |= mask;
            old.words[usize::from(slot) & 511] = word;
        }
    }

    /// Whether any of the words `from .. from + count` is cached.
    pub(crate) fn holds_any(&self, from: u16, count: u16) -> bool {
        (from..from.saturating_add(count).min(512)).any(|slot| self.is_cached(slot))
    }
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
    pub(crate) changed: u64,
}

#[derive(Debug)]
struct Context {
    class: Class,
    /// Flat address of the root.
    pdb: u64,
    /// Pages with a record of this context, by level.
    pages: [Vec<u32>; LEVELS],
}

/// All caches of the GPU.
#[derive(Debug, Default)]
pub(crate) struct Tlb {
    contexts: Vec<Context>,
    /// Only looked up, never iterated.
    known: HashMap<(Class, u64), u32>,
    /// For each 256 bytes: how many cached directory words point there. A big table is no larger.
    targets: FrameMap<u32>,
}

impl Tlb {
    /// The caches of `class` for the address space below `pdb`.
    pub(crate) fn context(&mut self, class: Class, pdb: u64) -> u32 {
        if let Some(&context) = self.known.get(&(class, pdb)) {
            return context;
        }
        let context = u32::try_from(self.contexts.len()).unwrap_or(u32::MAX);
        self.contexts.push(Context { class, pdb, pages: Default::default() });
        self.known.insert((class, pdb), context);
        context
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
        let cell = memory.cell_mut(number);
        let now = cell.word(slot);
        let found = cell.cached.iter_mut().find(|record| record.context == context && record.level == level);
        if let Some(record) = found {
            if record.is_cached(slot) {
                let stale = record.old(slot).filter(|&(old, _)| old != now).map(|(cached, changed)| Stale {
                    level,
                    at,
                    cached,
                    now,
                    since: record.since,
                    changed,
                });
                return Some(Fetched { word: stale.map_or(now, |stale| stale.cached), stale });
            }
            let (part, mask) = bit(slot);
            record.cached[part] |= mask;
        } else {
            let mut record = Record { context, level, cached: [0; 8], since: op, old: None };
            let (part, mask) = bit(slot);
            record.cached[part] |= mask;
            cell.cached.push(record);
            if let Some(context) = self.contexts.get_mut(context as usize) {
                context.pages[usize::from(level).min(LEVELS - 1)].push(number);
            }
        }
        if let Some(target) = decoder.target(level, slot, now) {
            *self.targets.entry(part_of(target)).or_insert(0) += 1;
        }
        Some(Fetched { word: now, stale: None })
    }

    /// Forgets what an invalidate covers: the levels up to `deepest`, of the space below `pdb` or of all, in the
    /// hub's caches or in all.
    pub(crate) fn forget(
        &mut self,
        memory: &mut Memory,
        decoder: &Decoder,
        pdb: Option<u64>,
        hub_only: bool,
        deepest: u8,
    ) {
        for (number, context) in self.contexts.iter_mut().enumerate() {
            if pdb.is_some_and(|pdb| pdb != context.pdb) || hub_only && context.class != Class::Hub {
                continue;
            }
            for (level, pages) in (0..=deepest).zip(&mut context.pages) {
                for cell in pages.drain(..) {
                    let cell = memory.cell_mut(cell);
                    let is_this = |record: &Record| record.context as usize == number && record.level == level;
                    let Some(at) = cell.cached.iter().position(is_this) else { continue };
                    let record = cell.cached.swap_remove(at);
                    if level >= PD0 {
                        release(&mut self.targets, decoder, &record, |slot| cell.word(slot));
                    }
                    if cell.cached.is_empty() {
                        cell.cached = Vec::new();
                    }
                }
            }
        }
    }

    /// Whether a cached directory word points to a table within `bytes` from the flat address `flat`.
    pub(crate) fn points_into(&self, flat: u64, bytes: u64) -> bool {
        let parts = flat >> 8..flat.saturating_add(bytes).saturating_add(255) >> 8;
        if parts.end.saturating_sub(parts.start) > self.targets.len() as u64 {
            return self.targets.keys().any(|part| parts.contains(part));
        }
        parts.into_iter().any(|part| self.targets.contains_key(&part))
    }
}

fn part_of(table: TableAddr) -> u64 {
    Space::of(table).flat(table.raw()) >> 8
}

fn release(targets: &mut FrameMap<u32>, decoder: &Decoder, record: &Record, now: impl Fn(u16) -> u64) {
    for (part, first) in record.cached.iter().zip((0u16..).step_by(64)) {
        let mut bits = *part;
        while bits != 0 {
            let slot = first + (bits.trailing_zeros() & 63) as u16;
            bits &= bits - 1;
            let word = record.old(slot).map_or_else(|| now(slot), |(old, _)| old);
            let Some(target) = decoder.target(record.level, slot, word) else { continue };
            let key = part_of(target);
            if let Some(count) = targets.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    targets.remove(&key);
                }
            }
        }
    }
}
